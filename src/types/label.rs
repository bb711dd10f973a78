//! Names that people give to servers and the like: they are shown, logged and typed.

use super::limits::COMPONENT_BYTES_MAX;
use super::{Error, Result};

/// Checks a name; `what` says whose, for the message.
pub fn check(what: &str, name: &str) -> Result<()> {
    let wrong = if name.is_empty() {
        "is empty".to_string()
    } else if name.len() > COMPONENT_BYTES_MAX {
        format!("has {} bytes, {COMPONENT_BYTES_MAX} are the most", name.len())
    } else if name.chars().any(char::is_control) {
        "has control characters".into()
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("{what} {wrong}")))
}
