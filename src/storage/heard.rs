//! The newest change of the metadata that this server has heard of, from the health checks. A restore that finds only
//! an older journal then knows that something is missing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::types::Version;

/// The name of the setting that remembers it.
pub const SETTING: &str = "heard_version";
/// It is written down at most once in this time.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// What was heard. Versions only rise, across restores too.
#[derive(Debug, Default)]
pub struct Heard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    version: Version,
    written: Version,
    at: Option<Instant>,
}

impl Heard {
    /// As it was when the daemon last ran.
    pub fn new(version: Version) -> Self {
        Self(Mutex::new(State { version, written: version, at: None }))
    }

    /// What is known now.
    pub fn version(&self) -> Version {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).version
    }

    /// Takes what a name server told. Answers what is to be written down now, if it is time.
    pub fn note(&self, version: Version) -> Option<Version> {
        self.note_at(version, Instant::now())
    }

    fn note_at(&self, version: Version, now: Instant) -> Option<Version> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.version = state.version.max(version);
        let due = state.at.is_none_or(|at| now.saturating_duration_since(at) >= WRITE_INTERVAL);
        if state.version <= state.written || !due {
            return None;
        }
        (state.written, state.at) = (state.version, Some(now));
        Some(state.version)
    }

    /// Writing it down failed: it is tried again.
    pub fn not_written(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_rises_and_is_written_now_and_then() {
        let (heard, start) = (Heard::new(5), Instant::now());
        assert_eq!(heard.note_at(5, start), None);
        assert_eq!(heard.note_at(6, start), Some(6));
        assert_eq!(heard.note_at(9, start + WRITE_INTERVAL / 2), None);
        assert_eq!((heard.version(), heard.note_at(7, start + WRITE_INTERVAL)), (9, Some(9)));
        assert_eq!(heard.note_at(8, start + WRITE_INTERVAL * 3), None);
        heard.not_written();
        assert_eq!(heard.note_at(8, start + WRITE_INTERVAL * 3), Some(9));
    }
}
