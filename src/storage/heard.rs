//! What this server has heard of the cluster from the health checks: the newest change of the metadata that the
//! journal's copies have, and how many storage servers belong to the cluster. A restore that finds only an older journal, or
//! only some of the servers, then knows that something is missing.

use std::time::{Duration, Instant};

use crate::types::storage_api::Told;
use parking_lot::Mutex;

/// The names of the settings that remember it: version, servers.
pub const SETTINGS: [&str; 2] = ["heard_version", "heard_servers"];
/// It is written down at most once in this time.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// What was heard. Versions only rise, across restores too; how many servers there are, the newest version says.
#[derive(Debug, Default)]
pub struct Heard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: Told,
    written: Option<Told>,
    at: Option<Instant>,
}

impl Heard {
    /// As it was when the daemon last ran.
    pub fn new(told: Told) -> Self {
        Self(Mutex::new(State { told, written: Some(told), at: None }))
    }

    /// What is known now.
    pub fn told(&self) -> Told {
        self.0.lock().told
    }

    /// Takes what a name server told. Answers what is to be written down now, if it is time.
    pub fn note(&self, told: Told) -> Option<Told> {
        self.note_at(told, Instant::now())
    }

    fn note_at(&self, told: Told, now: Instant) -> Option<Told> {
        let mut state = self.0.lock();
        // Whoever is behind, as a database that was set back, does not know how many they are now.
        if told.version >= state.told.version {
            state.told = told;
        }
        let due = state.at.is_none_or(|at| now.saturating_duration_since(at) >= WRITE_INTERVAL);
        if state.written == Some(state.told) || !due {
            return None;
        }
        (state.written, state.at) = (Some(state.told), Some(now));
        Some(state.told)
    }

    /// Writing it down failed: it is tried again.
    pub fn not_written(&self) {
        self.0.lock().written = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_only_rise_and_it_is_written_now_and_then() {
        let told = |version, servers| Told { version, servers };
        let (heard, start) = (Heard::new(told(5, 3)), Instant::now());
        assert_eq!(heard.note_at(told(5, 3), start), None);
        assert_eq!(heard.note_at(told(6, 3), start), Some(told(6, 3)));
        assert_eq!(heard.note_at(told(9, 3), start + WRITE_INTERVAL / 2), None);
        assert_eq!((heard.told(), heard.note_at(told(7, 3), start + WRITE_INTERVAL)), (told(9, 3), Some(told(9, 3))));
        assert_eq!(heard.note_at(told(8, 3), start + WRITE_INTERVAL * 3), None);
        heard.not_written();
        assert_eq!(
            heard.note_at(told(8, 1), start + WRITE_INTERVAL * 3),
            Some(told(9, 3)),
            "an old word counts for nothing"
        );
        assert_eq!(heard.note_at(told(9, 2), start + WRITE_INTERVAL * 4), Some(told(9, 2)), "one was removed");
    }
}
