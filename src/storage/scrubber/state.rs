//! What is remembered between passes, and one pass over it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::round::Round;
use crate::decisions::scrub;
use crate::storage::state::Shared;
use crate::storage::store::verify::Reading;
use crate::types::api::CorruptJournalFile;
use crate::types::storage_api::ReplicaKey;

/// How long one pass reads; a slow disk then gets a pause.
pub(super) const PASS_TIME_MAX: Duration = Duration::from_secs(5);
/// Copies that are being looked at again or wait for their fate. With more the round stands still.
pub(super) const OPEN_MAX: usize = 1_000;
/// Younger files may still get their row: an upload's outcome may be unknown for a while.
pub(super) const UNKNOWN_AGE_MIN: Duration = Duration::from_secs(3_600);

/// What is remembered between passes.
pub(super) struct State {
    /// `None` before the settings were read.
    pub(super) round: Option<Round>,
    /// The round has moved since it was written down.
    pub(super) moved: bool,
    /// What came of a round that has ended, until it is written down.
    pub(super) result: Vec<(&'static str, i64)>,
    /// A larger copy that the round is in the middle of.
    pub(super) reading: Option<Box<Reading>>,
    /// How often the copy after the cursor could not be opened.
    pub(super) tries: u32,
    pub(super) checks: VecDeque<Check>,
    /// Copies that wait for their fate, or for the end of their story.
    pub(super) open: BTreeMap<ReplicaKey, Open>,
    pub(super) ask_after: Instant,
    pub(super) look: Look,
    pub(super) journal: JournalRound,
    /// When corrupt copies were found, within the window, as many as are alarming.
    pub(super) found: VecDeque<Instant>,
    pub(super) credit: i64,
    pub(super) last_pass: Instant,
}

/// A copy that is corrupt.
pub(super) struct Open {
    pub(super) reason: String,
    /// It was moved, or there is nothing to move.
    pub(super) aside: bool,
    /// Its file is not there.
    pub(super) gone: bool,
    /// When the name server is to be asked next.
    pub(super) ask_at: Instant,
}

/// A copy that looked wrong.
pub(super) struct Check {
    pub(super) key: ReplicaKey,
    /// What was wrong when it was last read here.
    pub(super) bad_before: Option<String>,
    pub(super) tries: u32,
    pub(super) reading: Option<Box<Reading>>,
}

impl Check {
    pub(super) fn new(key: ReplicaKey, bad_before: Option<String>) -> Self {
        Self { key, bad_before, tries: 0, reading: None }
    }
}

/// The look for all files.
pub(super) struct Look {
    /// The part of `objects/` that comes next, while it is under way.
    pub(super) part: Option<u16>,
    /// Unknown files that were written to since then are left alone; `None` in the looks after the first.
    pub(super) before: Option<SystemTime>,
    pub(super) began: Instant,
    /// When the next one may begin.
    pub(super) next: Instant,
}

impl Look {
    /// The one of the start.
    pub(super) fn at_start(started: SystemTime, now: Instant) -> Self {
        Self { part: Some(0), before: Some(started), began: now, next: now }
    }
}

/// How far the reading of the journal is.
pub(super) struct JournalRound {
    /// The file that was read last.
    pub(super) after: String,
    /// When the next file may be read.
    pub(super) next: Instant,
    /// What the name server has not heard yet.
    pub(super) untold: Vec<CorruptJournalFile>,
}

impl JournalRound {
    pub(super) fn new(now: Instant) -> Self {
        Self { after: String::new(), next: now, untold: Vec::new() }
    }

    /// Begins from the first file, now.
    pub(super) fn again(&mut self, now: Instant) {
        (self.after, self.next) = (String::new(), now);
    }

    /// All files were read and nothing is left to be told.
    pub(super) fn is_done(&self) -> bool {
        self.after.is_empty() && self.next > Instant::now() && self.untold.is_empty()
    }
}

/// One pass.
pub(super) struct Pass<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) state: &'a mut State,
    pub(super) began: Instant,
    pub(super) verified: Vec<ReplicaKey>,
    pub(super) corrupt: usize,
    pub(super) quarantined: usize,
    pub(super) unknown: usize,
    pub(super) gone: usize,
    pub(super) journal_damaged: usize,
    /// A copy whose file is gone, for the log.
    pub(super) first_gone: Option<ReplicaKey>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, state: &'a mut State) -> Self {
        let began = Instant::now();
        state.credit = scrub::credit_after(state.credit, shared.options.scrub.rate_bytes, began - state.last_pass);
        state.last_pass = began;
        let verified = Vec::new();
        Self {
            shared,
            state,
            began,
            verified,
            corrupt: 0,
            quarantined: 0,
            unknown: 0,
            gone: 0,
            journal_damaged: 0,
            first_gone: None,
        }
    }
}
