//! The `Scrubber`: reads everything again, once in each period, and puts aside what is corrupt.
//!
//! A round reads all copies in the order of their keys, small ones in the index too, then looks for files that no
//! row knows, then waits for the end of the period. How fast is decided in [`crate::decisions::scrub`]; the place
//! is remembered in the settings of the index. Copies that looked wrong to a reader ([`super::suspects`]) are
//! looked at first.
//!
//! A copy whose bytes are wrong is read a second time. Then it is *open*: the name server is told, counts the copy
//! out and says what becomes of the bytes. Until it answers, nothing is moved, and the name server is asked again and
//! again. When they are moved it is told once more, in case that somebody who had read the inventory before has listed
//! the copy again. A copy that is pending stays open until the collector knows whether anybody wants it. Open copies
//! are only in memory; a restart reads them again, or its inventory shows that they are gone.
//!
//! A copy whose file is gone needs no second reading: the `IndexWriter` looks once more and takes its row out of the
//! inventory, and then the name server is told. One that is gone is rarely alone, so all files are looked for then, as
//! at the start: directory by directory, the names against the rows ([`super::store::sweep`]).
//!
//! Many at once mean that the disk or the memory is bad, and then every verdict of this server is doubtful: an
//! alarm is raised, nothing is moved any more, and the name server is told so with each report. What was found stays
//! open then, and is told again and again.

mod journal;
mod look;
mod reading;
mod round;
mod state;
mod verdict;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

pub use self::look::look_first;
pub use self::round::WANTED;
use self::round::{LAST, Round, SETTINGS};
use self::state::{JournalRound, Look, PASS_TIME_MAX, Pass, State};
use super::state::Shared;
use super::store::index;
use super::writer::{INDEX_DEADLINE, IndexChange};
use crate::actors::pass::{Timing, Work};
use crate::actors::pass_report::PassReport;
use crate::decisions::scrub::{self};
use crate::types::storage_api::{ScrubResult, ScrubStatus};
use crate::types::{Error, Result};

/// Copies that one pass finds good; they are marked in one transaction.
const PASS_COPIES_MAX: usize = 4_096;

/// The work of the actor.
pub struct Scrub {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
}

impl Scrub {
    /// Over the daemon, which was started at `started`. Begins with a look for all files.
    pub fn new(shared: Arc<Shared>, started: SystemTime) -> Self {
        let now = Instant::now();
        let state = State {
            round: None,
            moved: false,
            result: Vec::new(),
            reading: None,
            tries: 0,
            checks: VecDeque::new(),
            open: BTreeMap::new(),
            ask_after: now,
            look: Look::at_start(started, now),
            journal: JournalRound::new(now),
            found: VecDeque::new(),
            credit: 0,
            last_pass: now,
        };
        Self { shared, state: Arc::new(Mutex::new(state)) }
    }

    /// A pass each second, or oftener when the period is short. The deadline leaves room for a disk that takes a
    /// minute to say that it cannot read something.
    pub fn timing(period: Duration) -> Timing {
        let interval = (period / 20).clamp(Duration::from_millis(50), Duration::from_secs(1));
        Timing { interval, deadline: Duration::from_secs(900) }
    }
}

impl Work for Scrub {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        let (shared, state) = (self.shared.clone(), self.state.clone());
        Box::pin(async move {
            let mut state = state.lock().await;
            Pass::new(&shared, &mut state).run().await
        })
    }
}

/// How far the round is and what came of the last one, as the settings of the index say; the copies there are so many
/// and have so many bytes.
pub fn status(connection: &mut index::IndexConnection, copies: u64, bytes: u64) -> Result<ScrubStatus> {
    let [_, _, _, done, _, _, _, corrupt] = settings(connection, SETTINGS)?;
    let [asked_ms, started, ended, read_copies, read_bytes, found] = settings(connection, LAST)?;
    let time = |ms| chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default();
    let last = ScrubResult {
        asked_ms,
        started: time(started),
        ended: time(ended),
        copies: read_copies as u64,
        bytes: read_bytes as u64,
        corrupt: found as u64,
    };
    Ok(ScrubStatus {
        wanted_ms: index::setting(connection, WANTED)?,
        total_bytes: scrub::cost(copies, bytes),
        done_bytes: done as u64,
        corrupt: corrupt as u64,
        last: (ended > 0).then_some(last),
    })
}

fn settings<const N: usize>(connection: &mut index::IndexConnection, names: [&str; N]) -> Result<[i64; N]> {
    let mut values = [0; N];
    for (value, name) in values.iter_mut().zip(names) {
        *value = index::setting(connection, name)?;
    }
    Ok(values)
}

/// A pass.
impl Pass<'_> {
    async fn run(mut self) -> Result<PassReport> {
        if self.shared.condition.known().is_some() {
            // What is read from a sick disk says little, and nothing could be written down.
            return Ok(PassReport::noting("waiting: the disk is in trouble"));
        }
        let more = self.look().await;
        let journal = self.check_journal().await;
        let read = self.read().await;
        self.log_gone();
        // What was found is kept and told, whatever ended the reading.
        let kept = self.write_down().await;
        let settled = self.settle().await;
        let more = more.and_then(|more| read.and(kept).and(settled).and(journal).and(Ok(more)))?;
        let counts = vec![
            ("copies verified", self.verified.len()),
            ("corrupt", self.corrupt),
            ("put into quarantine", self.quarantined),
            ("waiting for their fate", self.state.open.len()),
            ("unknown files", self.unknown),
            ("files missing", self.gone),
            ("damaged files of the journal", self.journal_damaged),
        ];
        Ok(PassReport { more, ..PassReport::of(counts) })
    }

    async fn read(&mut self) -> Result<()> {
        self.resume().await?;
        let (copies, bytes) = self.shared.index.read(index::sums).await?;
        let total = scrub::cost(copies, bytes);
        while self.state.credit > 0
            && self.began.elapsed() < PASS_TIME_MAX
            && self.verified.len() < PASS_COPIES_MAX
            && (self.check().await? || self.go_on(total).await?)
        {}
        Ok(())
    }

    /// In the cluster's time.
    fn now_ms(&self) -> i64 {
        self.shared.identity.now().timestamp_millis()
    }

    async fn resume(&mut self) -> Result<()> {
        // Before the settings are read: who asks after that is seen in the next pass.
        let is_asked = self.shared.suspects.take_scrub();
        if self.state.round.is_some() && !is_asked {
            return Ok(());
        }
        let read = self.shared.index.read(|connection| {
            let (wanted, answered) = (index::setting(connection, WANTED)?, index::setting(connection, LAST[0])?);
            Ok((settings(connection, SETTINGS)?, wanted, answered))
        });
        let (remembered, wanted, answered) = read.await.inspect_err(|_| {
            if is_asked {
                self.shared.suspects.want_scrub();
            }
        })?;
        let now_ms = self.now_ms();
        let round = match self.state.round.take() {
            Some(round) => round,
            None => Round::resume(remembered, answered, now_ms),
        };
        let round = if wanted > round.asked_ms {
            self.state.reading = None;
            self.state.journal.again(self.began);
            Round::asked(now_ms, wanted)
        } else {
            round
        };
        (self.state.round, self.state.moved) = (Some(round), true);
        Ok(())
    }

    /// Marks what is right, and the place of the round.
    async fn write_down(&mut self) -> Result<()> {
        let mut answers = Vec::new();
        if !self.verified.is_empty() {
            let change =
                IndexChange::Verified { keys: self.verified.clone(), at: self.shared.identity.now().naive_utc() };
            answers.push(self.shared.writer.hand_in(change, INDEX_DEADLINE).await?);
        }
        if let (Some(round), true) = (&self.state.round, self.state.moved) {
            let checked = self.state.checks.iter().map(|check| check.key).min();
            // What is gone is not looked for again: a restart compares the inventory, which lacks it.
            let mut open = self.state.open.iter().filter(|(_, open)| !open.gone).map(|(key, _)| *key);
            let first_open = open.next().into_iter().chain(checked).min();
            let mut settings = round.settings(first_open);
            settings.extend(self.state.result.iter().copied());
            let change = IndexChange::Settings(settings);
            answers.push(self.shared.writer.hand_in(change, INDEX_DEADLINE).await?);
        }
        for answer in answers {
            answer
                .await
                .map_err(|error| Error::unavailable("the index's writer was restarted").with_source(error))??;
        }
        self.state.moved = false;
        self.state.result.clear();
        Ok(())
    }
}
