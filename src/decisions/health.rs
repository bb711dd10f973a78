//! A server's health after a check.
//!
//! One miss makes a server *suspect*; misses for `down_after` make it *down*; one answer makes it *live*. A
//! round of checks that itself ran late counts for no misses: then the name server was in trouble, not they.

use chrono::TimeDelta;

use crate::types::Time;
use crate::types::api::Health;

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
