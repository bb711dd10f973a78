//! What becomes of copies that are corrupt: the name server says it.

use std::time::{Duration, Instant};

use super::state::{Open, Pass};
use crate::decisions::scrub::{self, CORRUPT_WINDOW, SCRUB_CORRUPT_MAX};
use crate::storage::store::{State as CopyState, index};
use crate::storage::writer::{INDEX_DEADLINE, IndexChange};
use crate::types::api::{CorruptFate, CorruptReplica, CorruptRequest};
use crate::types::limits::PENDING_BATCH_ITEMS_MAX;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, Result};

/// How long to wait before the name server is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// In alarm, copies that were noted are told again after this time: a comparison of the inventory may have listed
/// them since.
const TELL_AGAIN: Duration = Duration::from_secs(60);

impl Pass<'_> {
    /// A copy was read twice and is corrupt.
    pub(super) async fn found(&mut self, key: ReplicaKey, reason: &str) -> Result<()> {
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
    pub(super) fn count_bad(&mut self) {
        self.shared.count_corrupt();
        if let Some(round) = &mut self.state.round {
            (round.corrupt, self.state.moved) = (round.corrupt + 1, true);
        }
    }

    /// Asks the name server about open copies, and does what it says. After an error all that is left is asked again.
    pub(super) async fn settle(&mut self) -> Result<()> {
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
