//! A server's health after a check.
//!
//! One miss makes a server *suspect*; misses for `down_after` make it *down*; one answer makes it *live*. A
//! round of checks that itself ran late counts for no misses: then the name server was in trouble, not they.
//!
//! A server may also answer that it is in *trouble*: then it gets nothing new, neither files nor the journal. What
//! becomes of the copies that it has depends on the kind. Its directory is another one: it counts as one that does not
//! answer. Its disk is failing (read-only, errors, no answer): the copies can be read and do not last, as those of a
//! server that is down. It only has no room for more files: the copies last.

use chrono::TimeDelta;

use crate::types::Time;
use crate::types::api::Health;
use crate::types::storage_api::TroubleCode;

/// Clocks that differ by less are no trouble: the cluster has a time of its own.
const CLOCK_APART_MS: i64 = 30_000;
/// A check is answered within a few milliseconds.
const ANSWER_SLOW_MS: i64 = 1_000;

/// What is remembered of a server between checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// Its health.
    pub health: Health,
    /// The first miss since its last answer.
    pub missing_since: Option<Time>,
}

/// The health after a check at `now` that was answered or missed.
pub fn after_check(before: Watched, answered: bool, now: Time, down_after: TimeDelta) -> Watched {
    if answered {
        return Watched { health: Health::Live, missing_since: None };
    }
    let since = before.missing_since.unwrap_or(now);
    let health = match before.health {
        Health::Down => Health::Down,
        _ if now - since >= down_after => Health::Down,
        _ => Health::Suspect,
    };
    Watched { health, missing_since: Some(since) }
}

/// Whether a server with this trouble is as one that did not answer: what it has is not what it had.
pub fn is_away(code: TroubleCode) -> bool {
    code == TroubleCode::Replaced
}

/// Whether the copies that a server with this trouble has can be counted on for long.
pub fn copies_last(code: TroubleCode) -> bool {
    match code {
        TroubleCode::OutOfInodes | TroubleCode::Quota | TroubleCode::OutOfFiles => true,
        // What a newer server says is taken seriously, and moves no terabytes.
        TroubleCode::Other => true,
        TroubleCode::Replaced | TroubleCode::ReadOnly | TroubleCode::IoError | TroubleCode::Hung => false,
    }
}

/// Whether a server's wall clock is so far from the cluster's time that somebody should set it right.
pub fn is_apart(clock_ahead_ms: i64) -> bool {
    clock_ahead_ms.abs() > CLOCK_APART_MS
}

/// Whether a server took so long to answer a check that people notice.
pub fn is_slow(answer_ms: i64) -> bool {
    answer_ms > ANSWER_SLOW_MS
}

/// Whether a round that should have started `interval` after the end of the one before may count misses.
pub fn round_counts(since_last_round: TimeDelta, interval: TimeDelta) -> bool {
    since_last_round <= interval * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_make_suspect_then_down_and_an_answer_live() {
        let start = chrono::Utc::now();
        let at = |seconds| start + TimeDelta::seconds(seconds);
        let down_after = TimeDelta::seconds(6);
        let mut watched = Watched { health: Health::Live, missing_since: None };
        for (seconds, answered, want) in [
            (0, true, Health::Live),
            (2, false, Health::Suspect),
            (4, true, Health::Live),
            (6, false, Health::Suspect),
            (8, false, Health::Suspect),
            (10, false, Health::Suspect),
            (12, false, Health::Down),
            (14, false, Health::Down),
            (16, true, Health::Live),
        ] {
            watched = after_check(watched, answered, at(seconds), down_after);
            assert_eq!(watched.health, want, "at {seconds} s");
        }
    }

    #[test]
    fn a_late_round_does_not_count() {
        let interval = TimeDelta::seconds(2);
        assert!(round_counts(TimeDelta::seconds(2), interval));
        assert!(!round_counts(TimeDelta::seconds(5), interval));
    }
}
