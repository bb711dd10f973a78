//! How a command says what went wrong.

use super::failure::Failure;
use super::progress;
use crate::types::Error;

/// Says what went wrong, and what can be done about it.
pub(super) fn complain(error: &Error) {
    log::debug!("{}", error.chain());
    progress::tell(&Failure::of(error));
}
