//! How far a round of scrubbing is: where it goes on after a restart.

use crate::types::storage_api::ReplicaKey;
use crate::types::{Generation, ObjectId};

/// The settings of the index that remember a round.
pub const SETTINGS: [&str; 4] =
    ["scrub_round_started_ms", "scrub_cursor_object", "scrub_cursor_generation", "scrub_done_bytes"];

/// Before every copy.
const START: ReplicaKey = ReplicaKey { object: ObjectId(0), generation: Generation(0) };

/// What a round does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It reads copies, in the order of their keys.
    Copies,
    /// It looks for files without a row, in one part of `objects/` after the other.
    Files(u16),
    /// It waits for the end of the period.
    Done,
}

/// A round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// In the cluster's time, in milliseconds since 1970: it goes on while the server is off.
    pub started_ms: i64,
    /// The last copy that was read.
    pub cursor: ReplicaKey,
    /// What was read, counted as [`crate::decisions::scrub::cost`] does.
    pub done: u64,
    /// What it does now; a restart begins with the copies behind the cursor.
    pub stage: Stage,
}

impl Round {
    /// A round from the beginning.
    pub fn new(now_ms: i64) -> Self {
        Self { started_ms: now_ms, cursor: START, done: 0, stage: Stage::Copies }
    }

    /// The round that was under way when the settings were written.
    pub fn resume(settings: [i64; SETTINGS.len()], now_ms: i64) -> Self {
        let [started_ms, object, generation, done] = settings;
        if started_ms == 0 {
            return Self::new(now_ms);
        }
        Self {
            // A clock that was set back must not make the round wait for it.
            started_ms: started_ms.min(now_ms),
            cursor: ReplicaKey { object: ObjectId(object), generation: Generation(generation) },
            done: done as u64,
            stage: Stage::Copies,
        }
    }

    /// What to write down. Copies whose fate is open are only in memory: a restart goes back to the first of them.
    pub fn settings(&self, first_open: Option<ReplicaKey>) -> Vec<(&'static str, i64)> {
        let before = |key: ReplicaKey| ReplicaKey { generation: Generation(key.generation.0 - 1), ..key };
        let cursor = first_open.map_or(self.cursor, |key| self.cursor.min(before(key)));
        let values = [self.started_ms, cursor.object.0, cursor.generation.0, self.done as i64];
        SETTINGS.into_iter().zip(values).collect()
    }

    /// Since its start.
    pub fn elapsed(&self, now_ms: i64) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(now_ms - self.started_ms).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(object: i64, generation: i64) -> ReplicaKey {
        ReplicaKey { object: ObjectId(object), generation: Generation(generation) }
    }

    fn values(round: &Round, first_open: Option<ReplicaKey>) -> [i64; SETTINGS.len()] {
        let settings = round.settings(first_open);
        SETTINGS.map(|name| settings.iter().find(|(other, _)| *other == name).unwrap().1)
    }

    #[test]
    fn a_round_goes_on_where_it_was_or_before_what_was_open() {
        let round = Round { started_ms: 1_000, cursor: key(7, 3), done: 99, stage: Stage::Files(4) };
        let resumed = Round::resume(values(&round, None), 5_000);
        assert_eq!(resumed, Round { stage: Stage::Copies, ..round.clone() });
        assert_eq!(resumed.elapsed(5_000).as_millis(), 4_000);
        for (open, cursor) in [(key(5, 9), key(5, 8)), (key(7, 3), key(7, 2)), (key(8, 1), key(7, 3))] {
            assert_eq!(Round::resume(values(&round, Some(open)), 5_000).cursor, cursor);
            assert!(cursor < open);
        }
    }

    #[test]
    fn the_first_round_and_one_from_the_future_begin_now() {
        assert_eq!(Round::resume([0; 4], 5_000), Round::new(5_000));
        let round = Round { started_ms: 9_000, cursor: key(7, 3), done: 99, stage: Stage::Copies };
        let resumed = Round::resume(values(&round, None), 5_000);
        assert_eq!((resumed.started_ms, resumed.cursor), (5_000, round.cursor));
        assert_eq!(round.elapsed(5_000).as_millis(), 0);
    }
}
