//! Telling a server that hangs from one that is busy.
//!
//! A request may take long for good reasons: a disk flushes, another server is waited for. So a silence by itself says
//! little. After a few seconds of it the server is asked for its `/status`, which costs it nothing and which anybody may
//! ask; one that does not answer that either, and again not, hangs. Then the request is given up, long before its own
//! timeout, with an unknown outcome as after any other one.

use std::time::Duration;

use super::http::{Envelope, HttpClient, send};
use super::waits::Waiting;
use crate::types::{Error, Result};

/// Silence before a server is asked whether it is there.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// How long it may take to answer that.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions in a row that must stay without an answer.
pub(super) const PROBES: usize = 2;
/// The same for a request that may take hours: to give it up too early costs more.
pub(super) const PROBES_LONG: usize = 4;
/// Ends when the server at a base URL certainly hangs, after so many questions; asks it only while it is silent.
pub(super) async fn hangs(http: &HttpClient, base: &str, waiting: &Waiting, probes: usize) -> Error {
    let mut silent = 0;
    loop {
        waiting.silence(SILENCE).await;
        match serves(http, base).await {
            Ok(_) => {
                silent = 0;
                tokio::time::sleep(SILENCE).await;
            }
            Err(error) => {
                silent += 1;
                if silent >= probes {
                    http.hung().note(base);
                    return Error::unavailable(format!("{base} hangs: it does not even answer how it is"))
                        .with_source(error);
                }
            }
        }
    }
}

/// Whether a server says that it can do its work. Any answer shows that it is there.
pub(super) async fn serves(http: &HttpClient, base: &str) -> Result<bool> {
    let request = http.raw().get(format!("{base}/status")).timeout(PROBE_TIMEOUT);
    match send(request, Envelope::NOBODY).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.answered => Ok(false),
        Err(failure) => Err(failure.error),
    }
}
