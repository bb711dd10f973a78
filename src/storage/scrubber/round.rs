//! How far a round of scrubbing is: where it goes on after a restart.

use crate::types::storage_api::ReplicaKey;
use crate::types::{Generation, ObjectId};

/// The settings of the index that remember a round.
pub const SETTINGS: [&str; 8] = [
    "scrub_round_started_ms",
    "scrub_cursor_object",
    "scrub_cursor_generation",
    "scrub_done_bytes",
    "scrub_round_asked_ms",
    "scrub_round_copies",
    "scrub_round_bytes",
    "scrub_round_corrupt",
];
/// The setting that says when a round was last asked for. Whoever asks writes it, and the scrubber only reads it.
pub const WANTED: &str = "scrub_wanted_ms";
/// The settings that remember what came of the last round.
pub const LAST: [&str; 6] = [
    "scrub_last_asked_ms",
    "scrub_last_started_ms",
    "scrub_last_ended_ms",
    "scrub_last_copies",
    "scrub_last_bytes",
    "scrub_last_corrupt",
];

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
    /// When the last round that somebody asked for was asked for.
    pub asked_ms: i64,
    /// It is that round, which goes on at the rate, without a look at the period.
    pub hurries: bool,
    /// Copies read.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies and files of the journal that were corrupt.
    pub corrupt: u64,
}

impl Round {
    /// A round from the beginning. The last one that was asked for was asked for at `asked_ms`.
    pub fn new(now_ms: i64, asked_ms: i64) -> Self {
        Self {
            started_ms: now_ms,
            cursor: START,
            done: 0,
            stage: Stage::Copies,
            asked_ms,
            hurries: false,
            copies: 0,
            bytes: 0,
            corrupt: 0,
        }
    }

    /// A round that somebody asked for at `asked_ms`.
    pub fn asked(now_ms: i64, asked_ms: i64) -> Self {
        Self { hurries: true, ..Self::new(now_ms, asked_ms) }
    }

    /// The round that was under way when the settings were written.
    /// `answered_ms` is the round asked for last that has ended.
    pub fn resume(settings: [i64; SETTINGS.len()], answered_ms: i64, now_ms: i64) -> Self {
        let [started_ms, object, generation, done, asked_ms, copies, bytes, corrupt] = settings;
        if started_ms == 0 {
            return Self::new(now_ms, 0);
        }
        Self {
            // A clock that was set back must not make the round wait for it.
            started_ms: started_ms.min(now_ms),
            cursor: ReplicaKey { object: ObjectId(object), generation: Generation(generation) },
            done: done as u64,
            stage: Stage::Copies,
            asked_ms,
            hurries: asked_ms > answered_ms,
            copies: copies as u64,
            bytes: bytes as u64,
            corrupt: corrupt as u64,
        }
    }

    /// What to write down at its end.
    pub fn result(&self, now_ms: i64) -> Vec<(&'static str, i64)> {
        let counts = [self.copies as i64, self.bytes as i64, self.corrupt as i64];
        let values = [self.asked_ms, self.started_ms, now_ms].into_iter().chain(counts);
        LAST.into_iter().zip(values).collect()
    }

    /// Counts copies that were read.
    pub fn count(&mut self, copies: u64, bytes: u64) {
        self.copies += copies;
        self.bytes += bytes;
        self.done += crate::decisions::scrub::cost(copies, bytes);
    }

    /// What to write down. Copies whose fate is open are only in memory: a restart goes back to the first of them.
    pub fn settings(&self, first_open: Option<ReplicaKey>) -> Vec<(&'static str, i64)> {
        let before = |key: ReplicaKey| ReplicaKey { generation: Generation(key.generation.0 - 1), ..key };
        let cursor = first_open.map_or(self.cursor, |key| self.cursor.min(before(key)));
        let place = [self.started_ms, cursor.object.0, cursor.generation.0, self.done as i64, self.asked_ms];
        let values = place.into_iter().chain([self.copies as i64, self.bytes as i64, self.corrupt as i64]);
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
        let counts = Round { copies: 3, bytes: 80, corrupt: 1, ..Round::asked(1_000, 900) };
        let round = Round { cursor: key(7, 3), done: 99, stage: Stage::Files(4), ..counts };
        let resumed = Round::resume(values(&round, None), 0, 5_000);
        assert_eq!(resumed, Round { stage: Stage::Copies, ..round.clone() });
        assert!(!Round::resume(values(&round, None), 900, 5_000).hurries, "it was answered");
        assert_eq!(resumed.elapsed(5_000).as_millis(), 4_000);
        for (open, cursor) in [(key(5, 9), key(5, 8)), (key(7, 3), key(7, 2)), (key(8, 1), key(7, 3))] {
            assert_eq!(Round::resume(values(&round, Some(open)), 0, 5_000).cursor, cursor);
            assert!(cursor < open);
        }
    }

    #[test]
    fn the_first_round_and_one_from_the_future_begin_now() {
        assert_eq!(Round::resume([0; 8], 0, 5_000), Round::new(5_000, 0));
        let round = Round { cursor: key(7, 3), done: 99, ..Round::new(9_000, 0) };
        let resumed = Round::resume(values(&round, None), 0, 5_000);
        assert_eq!((resumed.started_ms, resumed.cursor), (5_000, round.cursor));
        assert_eq!(round.elapsed(5_000).as_millis(), 0);
    }
}
