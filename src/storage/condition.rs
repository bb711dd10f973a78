//! Whether this server can keep what it is given, and if not, why.
//!
//! What the [`prober`](super::prober) found last is in memory, so that asking never waits for a disk. Whether the data
//! directory is the one of the start is looked at afresh where it matters ([`Layout::require_same`]).
//!
//! [`Layout::require_same`]: super::store::Layout::require_same

use std::time::{Duration, Instant};

use crate::types::storage_api::{Trouble, TroubleCode};
use crate::types::{Error, ErrorCode, Result};
use parking_lot::{Mutex, MutexGuard};

/// From the end of a probe to the beginning of the next one.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
/// A disk that has not answered a probe for as long hangs. A disk that spins up, or has a long queue, answers earlier.
const PROBE_TIME_MAX: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Condition(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    trouble: Option<Trouble>,
    /// When the probe under way began. There is never more than one.
    begun: Option<Instant>,
    ended: Option<Instant>,
}

/// The probe under way; its end is noted, however it comes.
#[derive(Debug)]
pub struct Probe<'a> {
    condition: &'a Condition,
    outcome: Result<(), Trouble>,
}

impl Condition {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// The trouble that is known of. Never waits for a disk.
    pub fn known(&self) -> Option<Trouble> {
        self.state().trouble.clone()
    }

    /// Refuses what could not be kept anyway.
    pub fn require(&self) -> Result<()> {
        let Some(Trouble { code, message }) = self.known() else { return Ok(()) };
        let code = match code {
            TroubleCode::OutOfInodes | TroubleCode::Quota => ErrorCode::OutOfSpace,
            _ => ErrorCode::Unavailable,
        };
        Err(Error::new(code, format!("this storage server cannot keep files now: {message}")))
    }

    /// Whether it is time for a probe. A probe that does not come back is the trouble itself: no other one is begun.
    pub fn is_probe_due(&self) -> bool {
        let mut state = self.state();
        match state.begun {
            None => state.ended.is_none_or(|ended| ended.elapsed() >= PROBE_INTERVAL),
            Some(begun) => {
                if begun.elapsed() >= PROBE_TIME_MAX {
                    let seconds = PROBE_TIME_MAX.as_secs();
                    let message = format!("the disk did not write a small file within {seconds} s: it hangs");
                    state.note(Some(Trouble { code: TroubleCode::Hung, message }));
                }
                false
            }
        }
    }

    /// Something could not be written: the next probe comes soon.
    pub fn doubt(&self) {
        self.state().ended = None;
    }

    /// Begins a probe, unless one is under way.
    pub fn begin_probe(&self) -> Option<Probe<'_>> {
        let mut state = self.state();
        if state.begun.is_some() {
            return None;
        }
        state.begun = Some(Instant::now());
        let message = "looking whether the disk can be written to panicked".into();
        Some(Probe { condition: self, outcome: Err(Trouble { code: TroubleCode::Other, message }) })
    }
}

impl State {
    fn note(&mut self, trouble: Option<Trouble>) {
        if self.trouble == trouble {
            return;
        }
        match &trouble {
            Some(trouble) => log::error!("this server cannot keep files: {}", trouble.message),
            None => log::warn!("this server can keep files again"),
        }
        self.trouble = trouble;
    }
}

impl Probe<'_> {
    /// Ends it.
    pub fn end(mut self, outcome: Result<(), Trouble>) {
        self.outcome = outcome;
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let mut state = self.condition.state();
        (state.begun, state.ended) = (None, Some(Instant::now()));
        state.note(std::mem::replace(&mut self.outcome, Ok(())).err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(code: TroubleCode) -> Trouble {
        Trouble { code, message: "a test".into() }
    }

    #[test]
    fn one_probe_at_a_time_and_its_outcome_is_known() {
        let condition = Condition::default();
        assert!(condition.is_probe_due() && condition.require().is_ok());
        let probe = condition.begin_probe().unwrap();
        assert!(!condition.is_probe_due() && condition.begin_probe().is_none());
        probe.end(Err(trouble(TroubleCode::ReadOnly)));
        assert_eq!(condition.known(), Some(trouble(TroubleCode::ReadOnly)));
        assert_eq!(condition.require().unwrap_err().code(), ErrorCode::Unavailable);
        assert!(!condition.is_probe_due(), "not so soon");
        condition.doubt();
        assert!(condition.is_probe_due());
        condition.begin_probe().unwrap().end(Err(trouble(TroubleCode::OutOfInodes)));
        assert_eq!(condition.require().unwrap_err().code(), ErrorCode::OutOfSpace);
        condition.begin_probe().unwrap().end(Ok(()));
        assert_eq!(condition.known(), None);
        drop(condition.begin_probe().unwrap());
        assert_eq!(condition.known().unwrap().code, TroubleCode::Other, "it has ended without a word");
    }

    #[test]
    fn a_probe_that_does_not_come_back_is_trouble_until_it_does() {
        let condition = Condition::default();
        let probe = condition.begin_probe().unwrap();
        condition.state().begun = Instant::now().checked_sub(PROBE_TIME_MAX);
        assert!(!condition.is_probe_due());
        assert_eq!(condition.known().unwrap().code, TroubleCode::Hung);
        assert!(condition.begin_probe().is_none(), "no second thread hangs there");
        probe.end(Ok(()));
        assert_eq!(condition.known(), None);
    }
}
