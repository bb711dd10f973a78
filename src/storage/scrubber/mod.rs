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
//! at the start: directory by directory, the names against the rows ([`sweep`]).
//!
//! Many at once mean that the disk or the memory is bad, and then every verdict of this server is doubtful: an
//! alarm is raised, nothing is moved any more, and the name server is told so with each report. What was found stays
//! open then, and is told again and again.

mod journal;
mod look;
mod round;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use self::journal::JournalRound;
use self::look::Look;
pub use self::look::look_first;
pub use self::round::WANTED;
use self::round::{LAST, Round, SETTINGS, Stage};
use super::server::Shared;
use super::store::verify::{self, Page, Reading, Step};
use super::store::{ReplicaRow, State as CopyState, index, sweep};
use super::writer::{INDEX_DEADLINE, IndexChange};
use crate::actors::pass::{PassReport, Timing, Work};
use crate::decisions::scrub::{self, CORRUPT_WINDOW, Progress, SCRUB_CORRUPT_MAX};
use crate::types::api::{CorruptFate, CorruptReplica, CorruptRequest};
use crate::types::limits::PENDING_BATCH_ITEMS_MAX;
use crate::types::storage_api::{ReplicaKey, ScrubResult, ScrubStatus};
use crate::types::{Error, Result};

/// Bytes that one step reads.
const STEP_BYTES_MAX: u64 = 4 << 20;
/// Small copies that one step looks at.
const STEP_COPIES_MAX: usize = 64;
/// Copies that one pass finds good; they are marked in one transaction.
const PASS_COPIES_MAX: usize = 4_096;
/// How long one pass reads; a slow disk then gets a pause.
const PASS_TIME_MAX: Duration = Duration::from_secs(5);
/// Copies that are being looked at again or wait for their fate. With more the round stands still.
const OPEN_MAX: usize = 1_000;
/// The same in alarm, when nothing is moved and so none of them comes to an end.
const OPEN_IN_ALARM_MAX: usize = 10_000;
/// How often a copy is tried that cannot be opened for a passing reason. Then the round goes on without it.
const TRIES_MAX: u32 = 10;
/// How long to wait before the name server is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// In alarm, copies that were noted are told again after this time: a comparison of the inventory may have listed
/// them since.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Younger files may still get their row: an upload's outcome may be unknown for a while.
const UNKNOWN_AGE_MIN: Duration = Duration::from_secs(3_600);
/// What looking through one part of `objects/` costs.
const PART_COST_BYTES: i64 = 64 << 10;

/// The work of the actor.
pub struct Scrub {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
}

/// What is remembered between passes.
struct State {
    /// `None` before the settings were read.
    round: Option<Round>,
    /// The round has moved since it was written down.
    moved: bool,
    /// What came of a round that has ended, until it is written down.
    result: Vec<(&'static str, i64)>,
    /// A larger copy that the round is in the middle of.
    reading: Option<Box<Reading>>,
    /// How often the copy after the cursor could not be opened.
    tries: u32,
    checks: VecDeque<Check>,
    /// Copies that wait for their fate, or for the end of their story.
    open: BTreeMap<ReplicaKey, Open>,
    ask_after: Instant,
    look: Look,
    journal: JournalRound,
    /// When corrupt copies were found, within the window, as many as are alarming.
    found: VecDeque<Instant>,
    credit: i64,
    last_pass: Instant,
}

/// A copy that is corrupt.
struct Open {
    reason: String,
    /// It was moved, or there is nothing to move.
    aside: bool,
    /// Its file is not there.
    gone: bool,
    /// When the name server is to be asked next.
    ask_at: Instant,
}

/// A copy that looked wrong.
struct Check {
    key: ReplicaKey,
    /// What was wrong when it was last read here.
    bad_before: Option<String>,
    tries: u32,
    reading: Option<Box<Reading>>,
}

impl Check {
    fn new(key: ReplicaKey, bad_before: Option<String>) -> Self {
        Self { key, bad_before, tries: 0, reading: None }
    }
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

/// One pass.
struct Pass<'a> {
    shared: &'a Arc<Shared>,
    state: &'a mut State,
    began: Instant,
    verified: Vec<ReplicaKey>,
    corrupt: usize,
    quarantined: usize,
    unknown: usize,
    gone: usize,
    journal_damaged: usize,
    /// A copy whose file is gone, for the log.
    first_gone: Option<ReplicaKey>,
}

impl<'a> Pass<'a> {
    fn new(shared: &'a Arc<Shared>, state: &'a mut State) -> Self {
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

    async fn run(mut self) -> Result<PassReport> {
        if self.shared.condition.known().is_some() {
            // What is read from a sick disk says little, and nothing could be written down.
            return Ok(PassReport { counts: vec![("waiting: the disk is in trouble", 1)], more: false });
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
        Ok(PassReport { counts, more })
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

    /// Looks at one copy that looked wrong. Answers whether there was one.
    async fn check(&mut self) -> Result<bool> {
        if self.state.checks.is_empty() {
            let Some(key) = self.shared.suspects.take() else { return Ok(false) };
            self.state.checks.push_back(Check::new(key, None));
        }
        let Some(mut check) = self.state.checks.pop_front() else { return Ok(false) };
        let key = check.key;
        let step = match check.reading.take() {
            Some(reading) => self.advance(reading, STEP_BYTES_MAX).await,
            // Already reported, or gone.
            None if self.state.open.contains_key(&key) => return Ok(true),
            None => match self.start(key).await {
                Ok(Some(step)) => step,
                Ok(None) => return Ok(true),
                Err(error) => return self.try_again(check, error),
            },
        };
        match (step, check.bad_before.take()) {
            (Ok(Step::More(reading)), bad_before) => {
                self.state.checks.push_front(Check { reading: Some(reading), bad_before, ..check });
            }
            (Ok(Step::Good), bad_before) => {
                if let Some(reason) = bad_before {
                    log::warn!("{key} looked corrupt ({reason}), and its bytes were right the second time");
                }
                self.verified.push(key);
            }
            (Ok(Step::Gone), _) => self.found_gone(key).await?,
            (Ok(Step::Bad(reason)), None) => self.state.checks.push_back(Check::new(key, Some(reason))),
            (Ok(Step::Bad(reason)), Some(_)) => {
                if let Err(error) = self.found(key, &reason).await {
                    return self.try_again(Check { bad_before: Some(reason), ..check }, error);
                }
            }
            (Err(error), bad_before) => {
                let error = Error::io(format!("reading {key}"), error);
                return self.try_again(Check { bad_before, ..check }, error);
            }
        }
        Ok(true)
    }

    /// After a failure that says nothing about the copy. In the end it is left to the next round.
    fn try_again(&mut self, check: Check, error: Error) -> Result<bool> {
        let tries = check.tries + 1;
        if tries < TRIES_MAX {
            self.state.checks.push_back(Check { tries, ..check });
            return Err(error);
        }
        log::error!("{} looked corrupt and cannot be looked at again: {}", check.key, error.chain());
        Ok(true)
    }

    /// Begins to read a copy; a small one is read at once. `None` when it is not there any more.
    async fn start(&mut self, key: ReplicaKey) -> Result<Option<std::io::Result<Step>>> {
        let found = self.shared.index.read(move |connection| {
            let Some(row) = index::find(connection, key)? else { return Ok(None) };
            let bytes = if row.in_index { index::bytes(connection, key)? } else { None };
            Ok(Some((row, bytes)))
        });
        let Some((row, bytes)) = found.await? else { return Ok(None) };
        if !row.in_index {
            return Ok(Some(self.open_file(row).await));
        }
        self.state.credit -= scrub::cost(1, row.size as u64) as i64;
        let step = match verify::check_small(&row, bytes.as_deref()) {
            Ok(()) => Step::Good,
            Err(reason) => Step::Bad(reason),
        };
        Ok(Some(Ok(step)))
    }

    async fn open_file(&mut self, row: ReplicaRow) -> std::io::Result<Step> {
        self.state.credit -= scrub::cost(1, 0) as i64;
        let layout = self.shared.layout.clone();
        tokio::task::spawn_blocking(move || Reading::start(&layout, row)).await.map_err(std::io::Error::other)?
    }

    async fn advance(&mut self, reading: Box<Reading>, bytes: u64) -> std::io::Result<Step> {
        let credit = u64::try_from(self.state.credit).unwrap_or(0);
        let bytes = bytes.min(credit).clamp(1, STEP_BYTES_MAX);
        self.state.credit -= bytes.min(reading.left()) as i64;
        tokio::task::spawn_blocking(move || reading.advance(bytes)).await.map_err(std::io::Error::other)?
    }

    /// The next step of the round. Answers whether there was one to make now.
    async fn go_on(&mut self, total: u64) -> Result<bool> {
        let (now_ms, period) = (self.now_ms(), self.shared.options.scrub.period);
        let journal_is_done = self.state.journal.is_done();
        let Some(round) = &mut self.state.round else { return Ok(false) };
        // One that was asked for is as if the period were over.
        let elapsed = if round.hurries { period } else { round.elapsed(now_ms) };
        match round.stage {
            Stage::Copies => {
                let read = self.state.reading.as_ref().map_or(0, |reading| reading.position());
                let progress = Progress { total, done: round.done + read, elapsed };
                let bytes = scrub::bytes_now(&self.shared.options.scrub, &progress, self.state.credit);
                let open_max = if self.shared.suspects.alarm() { OPEN_IN_ALARM_MAX } else { OPEN_MAX };
                if bytes == 0 || self.state.checks.len() + self.state.open.len() >= open_max {
                    return Ok(false);
                }
                self.read_copies(bytes.min(STEP_BYTES_MAX)).await?;
            }
            Stage::Files(sweep::PARTS) => {
                // It has ended when all that it has found is known.
                if !self.state.checks.is_empty() || round.hurries && !journal_is_done {
                    return Ok(false);
                }
                self.state.result = round.result(now_ms);
                (round.stage, round.hurries, self.state.moved) = (Stage::Done, false, true);
            }
            Stage::Files(part) => {
                round.stage = Stage::Files(part + 1);
                self.sweep(part, SystemTime::now().checked_sub(UNKNOWN_AGE_MIN)).await;
            }
            Stage::Done if elapsed >= period => {
                log::debug!("a round of scrubbing has ended after {} s; the next one begins", elapsed.as_secs());
                *round = Round::new(now_ms, round.asked_ms);
                self.state.moved = true;
            }
            Stage::Done => return Ok(false),
        }
        Ok(true)
    }

    async fn read_copies(&mut self, bytes: u64) -> Result<()> {
        let Some(after) = self.state.round.as_ref().map(|round| round.cursor) else { return Ok(()) };
        if let Some(reading) = self.state.reading.take() {
            let row = reading.row().clone();
            let step = self.advance(reading, bytes).await;
            return self.read_one(row, step).await;
        }
        let page =
            self.shared.index.read(move |connection| verify::check_page(connection, after, STEP_COPIES_MAX, bytes));
        let Page { good, bad, cursor, cost, next } = page.await?;
        let copies = (good.len() + bad.len()) as u64;
        self.verified.extend(good);
        let open = &self.state.open;
        let checks = bad.into_iter().filter(|(key, _)| !open.contains_key(key));
        self.state.checks.extend(checks.map(|(key, reason)| Check::new(key, Some(reason))));
        self.state.credit -= cost as i64;
        if let (Some(round), Some(cursor)) = (&mut self.state.round, cursor) {
            (round.cursor, self.state.moved) = (cursor, true);
            round.count(copies, cost - scrub::cost(copies, 0));
        }
        match (next, &mut self.state.round) {
            (verify::Next::Large(row), _) => {
                let step = self.open_file(row.clone()).await;
                self.read_one(row, step).await
            }
            (verify::Next::End, Some(round)) => {
                round.stage = Stage::Files(0);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What a step in the file of a larger copy came to.
    async fn read_one(&mut self, row: ReplicaRow, step: std::io::Result<Step>) -> Result<()> {
        let key = row.key();
        match step {
            Ok(Step::More(reading)) => {
                self.state.reading = Some(reading);
                return Ok(());
            }
            Ok(Step::Good) => self.verified.push(key),
            Ok(Step::Gone) => self.found_gone(key).await?,
            Ok(Step::Bad(_)) if self.state.open.contains_key(&key) => {}
            Ok(Step::Bad(reason)) => self.state.checks.push_back(Check::new(key, Some(reason))),
            Err(error) if self.state.tries + 1 < TRIES_MAX => {
                self.state.tries += 1;
                return Err(Error::io(format!("reading {key}"), error));
            }
            Err(error) => {
                log::error!("{key} could not be read {TRIES_MAX} times, and is left for the next round: {error}")
            }
        }
        self.state.tries = 0;
        if let Some(round) = &mut self.state.round {
            (round.cursor, self.state.moved) = (key, true);
            round.count(1, row.size as u64);
        }
        Ok(())
    }

    /// A copy was read twice and is corrupt.
    async fn found(&mut self, key: ReplicaKey, reason: &str) -> Result<()> {
        let Some(row) = self.shared.index.read(move |connection| index::find(connection, key)).await? else {
            return Ok(());
        };
        log::error!("{key} ({}) is corrupt on this server: {reason}", row.label);
        self.corrupt += 1;
        self.count_bad();
        self.state.open.insert(key, Open { reason: reason.into(), aside: false, gone: false, ask_at: self.began });
        self.state.found.push_back(self.began);
        let too_old = |at: &Instant| at.elapsed() > CORRUPT_WINDOW;
        while self.state.found.front().is_some_and(too_old) || self.state.found.len() > SCRUB_CORRUPT_MAX + 1 {
            self.state.found.pop_front();
        }
        if scrub::is_alarming(self.state.found.len()) && self.shared.suspects.raise_alarm() {
            log::error!(
                "more than {SCRUB_CORRUPT_MAX} copies were found corrupt within {} minutes: the disk or the memory of \
                 this server is bad. Nothing is put into quarantine any more until the next start; look at the \
                 hardware first",
                CORRUPT_WINDOW.as_secs() / 60
            );
        }
        Ok(())
    }

    /// Counts something corrupt, in the metrics and in the round.
    fn count_bad(&mut self) {
        self.shared.count_corrupt();
        if let Some(round) = &mut self.state.round {
            (round.corrupt, self.state.moved) = (round.corrupt + 1, true);
        }
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

    /// Asks the name server about open copies, and does what it says. After an error all that is left is asked again.
    async fn settle(&mut self) -> Result<()> {
        let now = Instant::now();
        if now < self.state.ask_after {
            return Ok(());
        }
        // What was moved in the first turn is told in the second.
        for _ in 0..2 {
            let replicas = self.questions(now).await?;
            if replicas.is_empty() {
                break;
            }
            // Taken back when all went well.
            self.state.ask_after = now + ASK_AGAIN;
            let (_, server, _) = self.shared.identity.require_member()?;
            let alarm = self.shared.suspects.alarm();
            let request = CorruptRequest { server, replicas, alarm, journal: Vec::new() };
            let fates = self.shared.name_server.clone().with_retries(0).corrupt(&request).await?.fates;
            if fates.len() != request.replicas.len() {
                return Err(Error::internal(
                    "the name server decided about another number of copies than it was asked",
                ));
            }
            for (copy, fate) in request.replicas.iter().zip(fates) {
                self.carry_out(copy, fate, now).await?;
            }
            self.state.ask_after = now;
        }
        Ok(())
    }

    /// What to ask the name server about now. Copies that have gone without being moved are forgotten; whether a
    /// pending one is wanted at all is the collector's question, so it waits.
    async fn questions(&mut self, now: Instant) -> Result<Vec<CorruptReplica>> {
        let due = self.state.open.iter().filter(|(_, open)| open.ask_at <= now).map(|(key, _)| *key);
        let due: Vec<ReplicaKey> = due.take(PENDING_BATCH_ITEMS_MAX).collect();
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let read = self.shared.index.read(move |connection| {
            let state = |key| Ok((key, index::find(connection, key)?.map(|row| row.state)));
            due.into_iter().map(state).collect::<Result<Vec<_>>>()
        });
        let mut questions = Vec::new();
        for (key, state) in read.await? {
            let Some(open) = self.state.open.get_mut(&key) else { continue };
            match state.as_deref() {
                None if !open.aside => drop(self.state.open.remove(&key)),
                Some(state) if state == CopyState::Pending.word() => open.ask_at = now + ASK_AGAIN,
                _ => questions.push(CorruptReplica {
                    object: key.object,
                    generation: key.generation,
                    reason: open.reason.clone(),
                    aside: open.aside,
                    gone: open.gone,
                }),
            }
        }
        Ok(questions)
    }

    async fn carry_out(&mut self, copy: &CorruptReplica, fate: CorruptFate, now: Instant) -> Result<()> {
        let key = ReplicaKey { object: copy.object, generation: copy.generation };
        let wait = match fate {
            CorruptFate::Wait => ASK_AGAIN,
            CorruptFate::Leave => TELL_AGAIN,
            CorruptFate::Quarantine | CorruptFate::QuarantineForGood if copy.aside => {
                self.state.open.remove(&key);
                return Ok(());
            }
            CorruptFate::Quarantine => return self.put_aside(key, false).await,
            CorruptFate::QuarantineForGood => return self.put_aside(key, true).await,
        };
        if let Some(open) = self.state.open.get_mut(&key) {
            open.ask_at = now + wait;
        }
        Ok(())
    }

    async fn put_aside(&mut self, key: ReplicaKey, for_good: bool) -> Result<()> {
        let Some(open) = self.state.open.get_mut(&key) else { return Ok(()) };
        let mut reason = open.reason.clone();
        if for_good {
            reason.push_str("; it is the last copy of a file that somebody wants");
        }
        let change = IndexChange::Quarantine { keys: vec![key], reason, for_good };
        self.quarantined += self.shared.writer.submit(change, INDEX_DEADLINE).await?;
        open.aside = true;
        Ok(())
    }
}
