//! Reading copies: in the order of the round, and again those that looked wrong.

use std::time::SystemTime;

use super::round::{Round, Stage};
use super::state::{Check, OPEN_MAX, Pass, UNKNOWN_AGE_MIN};
use crate::decisions::scrub::{self, Progress};
use crate::storage::store::verify::{self, Page, Reading, Step};
use crate::storage::store::{ReplicaRow, index, sweep};
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, Result};

/// Bytes that one step reads.
const STEP_BYTES_MAX: u64 = 4 << 20;
/// Small copies that one step looks at.
const STEP_COPIES_MAX: usize = 64;
/// The same in alarm, when nothing is moved and so none of them comes to an end.
const OPEN_IN_ALARM_MAX: usize = 10_000;
/// How often a copy is tried that cannot be opened for a passing reason. Then the round goes on without it.
const TRIES_MAX: u32 = 10;

impl Pass<'_> {
    /// Looks at one copy that looked wrong. Answers whether there was one.
    pub(super) async fn check(&mut self) -> Result<bool> {
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
    pub(super) async fn go_on(&mut self, total: u64) -> Result<bool> {
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
}
