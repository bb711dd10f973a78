//! Copies on their way from one storage server to another: who carries them, and what came of them.
//!
//! A transfer outlives the pass that started it. Its outcome waits here until the next pass has written it down;
//! should this process die, the rows of its copies are found by whoever acts next.
//!
//! What is kept here outlives the actor, too, which may be replaced at any moment, with its thread and all tasks on it. So
//! nothing here relies on a task's end: whoever carries a transfer, and whoever writes outcomes down, holds a guard, and
//! dropping it gives back what it held.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::context::Context;
use super::pass::{Nudge, PassActor};
use super::supervisor::Handle;
use crate::db::queue::Place;
use crate::db::repair::{Ended, Room, Transfer, lost_transfer};
use crate::security::ReplicateTicket;
use crate::types::storage_api::{ReplicaKey, ReplicateRequest};
use crate::types::{CauseWord, Error, Generation, ObjectId, Result};
use parking_lot::Mutex;

/// A transfer may take as long as its bytes at this rate need, and [`TRANSFER_TIME_MIN`].
const SLOWEST_BYTES_PER_SECOND: u64 = 256 << 10;
/// See [`SLOWEST_BYTES_PER_SECOND`].
const TRANSFER_TIME_MIN: Duration = Duration::from_secs(60);

/// Shared by the passes of the `ReplicationManager` and the tasks that they start.
#[derive(Clone, Default)]
pub struct Transfers {
    inner: Arc<Mutex<Inner>>,
    actor: Arc<OnceLock<Handle<PassActor>>>,
}

#[derive(Default)]
struct Inner {
    running: HashMap<Generation, Transfer>,
    ended: Vec<Ended>,
    /// See [`Room::behind`].
    behind: Option<Place>,
    /// Bytes that may still be started, and when that was counted.
    allowance: Option<(f64, Instant)>,
}

impl Transfers {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock())
    }

    /// Tells whom to wake when a transfer has ended.
    pub fn wakes(&self, actor: Handle<PassActor>) {
        // Only the first one counts; there is only one.
        let _ = self.actor.set(actor);
    }

    /// What has ended and was not written down yet.
    pub fn take_ended(&self) -> Outcomes {
        Outcomes { transfers: self.clone(), ended: self.with(|inner| std::mem::take(&mut inner.ended)) }
    }

    /// Forgets what has ended: another name server acts, and finds the rows.
    pub fn forget_ended(&self) {
        self.with(|inner| inner.ended.clear());
    }

    /// Notes behind which rows of the queue others may find room.
    pub fn go_on_behind(&self, place: Option<Place>) {
        self.with(|inner| inner.behind = place);
    }

    /// Transfers under way.
    pub fn carried(&self) -> Vec<(ObjectId, Generation)> {
        self.with(|inner| inner.running.values().map(|transfer| (transfer.object, transfer.generation)).collect())
    }

    /// How much more may be started. `rate` is in bytes a second, 0 for no limit.
    pub fn room(&self, (transfers, per_server): (usize, usize), rate: u64) -> Room {
        self.with(|inner| {
            let mut busy: HashMap<i64, usize> = HashMap::new();
            for transfer in inner.running.values() {
                *busy.entry(transfer.source.server.0).or_default() += 1;
                *busy.entry(transfer.target.server.0).or_default() += 1;
            }
            let bytes = if rate == 0 { u64::MAX } else { inner.allow(rate) };
            let transfers = transfers.saturating_sub(inner.running.len());
            Room { transfers, per_server, busy, bytes, behind: inner.behind }
        })
    }

    /// How much more may be started to fill servers evenly: half of what repair may at most, so that repair finds room.
    pub fn room_for_moves(&self, (transfers, per_server): (usize, usize), rate: u64) -> Room {
        let is_move = |transfer: &&Transfer| transfer.cause.word == CauseWord::Rebalanced;
        let moves = self.with(|inner| inner.running.values().filter(is_move).count());
        let room = self.room((transfers, per_server.div_ceil(2)), rate);
        Room { transfers: transfers.div_ceil(2).saturating_sub(moves).min(room.transfers), ..room }
    }

    /// Starts a transfer, which `work` carries. However that ends, also with the thread that it runs on, the transfer has
    /// ended then.
    pub fn start(&self, transfer: Transfer, work: impl Future<Output = Result<()>> + Send + 'static) {
        self.with(|inner| {
            if let Some((bytes, _)) = &mut inner.allowance {
                *bytes -= transfer.size as f64;
            }
            inner.running.insert(transfer.generation, transfer.clone())
        });
        let claim = Claim { transfers: self.clone(), transfer, outcome: None };
        tokio::spawn(async move { claim.end(work.await) });
    }
}

/// A transfer under way. It ends with its claim.
struct Claim {
    transfers: Transfers,
    transfer: Transfer,
    outcome: Option<Result<()>>,
}

impl Claim {
    fn end(mut self, outcome: Result<()>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| Err(lost_transfer()));
        let ended = Ended { transfer: self.transfer.clone(), outcome };
        self.transfers.with(|inner| {
            inner.running.remove(&ended.transfer.generation);
            inner.ended.push(ended);
        });
        if let Some(actor) = self.transfers.actor.get() {
            actor.nudge(Nudge);
        }
    }
}

/// Outcomes that somebody writes down: the next one does, if this one is dropped before that.
pub struct Outcomes {
    transfers: Transfers,
    ended: Vec<Ended>,
}

impl Outcomes {
    /// All of them.
    pub fn all(&self) -> &[Ended] {
        &self.ended
    }

    /// They are written down.
    pub fn noted(mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        self.transfers.with(|inner| inner.ended.extend(ended));
    }
}

impl Inner {
    /// A large object may overdraw the allowance; then nothing starts until it is paid back.
    fn allow(&mut self, rate: u64) -> u64 {
        let now = Instant::now();
        let (bytes, at) = self.allowance.unwrap_or((rate as f64, now));
        let bytes = (bytes + rate as f64 * now.duration_since(at).as_secs_f64()).min(rate as f64);
        self.allowance = Some((bytes, now));
        bytes.max(0.0) as u64
    }
}

/// Has a copy made by the servers that it goes from and to.
pub async fn carry(context: Context, transfer: Transfer) -> Result<()> {
    let (cluster, epoch) = context.membership();
    let time = TRANSFER_TIME_MIN + Duration::from_secs(transfer.size / SLOWEST_BYTES_PER_SECOND);
    let now = context.db.read(crate::db::cluster::state).await?.now;
    let ticket = ReplicateTicket {
        replica: ReplicaKey { object: transfer.object, generation: transfer.generation },
        target: transfer.target.server,
        size: transfer.size,
        sha256: transfer.sha256,
        label: transfer.label.clone(),
        expires: now + chrono::TimeDelta::from_std(time).unwrap_or(chrono::TimeDelta::MAX),
    };
    let request = ReplicateRequest {
        replica: ReplicaKey { object: transfer.object, generation: transfer.source_generation },
        target: transfer.target.clone(),
        ticket: context.signer.sign(Some(cluster), epoch, &ticket)?,
    };
    let servers = context.servers().await?;
    let source = servers.iter().find(|view| view.row.id == transfer.source.server.0).map(|view| view.row.peer());
    let source =
        source.ok_or_else(|| Error::not_found("the transfer's source does not belong to the cluster any more"))?;
    let stored = tokio::time::timeout(time, context.storage.replicate(&source, &request))
        .await
        .map_err(|_| Error::unavailable(format!("the transfer took longer than {} s", time.as_secs())))??;
    if stored.sha256 != transfer.sha256 || stored.size != transfer.size {
        return Err(Error::unavailable("the target stored other bytes than it was asked to"));
    }
    crate::types::failpoint::REPAIR_STORED.passed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::api::Target;
    use crate::types::{Cause, CauseWord, ServerId, Sha256};

    const LIMITS: (usize, usize) = (8, 8);

    fn transfer() -> Transfer {
        let target = |id| Target { server: ServerId(id), url: String::new() };
        Transfer {
            object: ObjectId::generate(),
            size: 1,
            sha256: Sha256::of(b"x"),
            label: "/f".into(),
            source: target(1),
            source_generation: Generation::generate(),
            target: target(2),
            generation: Generation::generate(),
            cause: Cause::from(CauseWord::Short),
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn transfers_end_with_the_thread_that_carries_them() {
        let transfers = Transfers::default();
        for _ in 0..20 {
            let runtime = runtime();
            runtime.block_on(async {
                for _ in 0..8 {
                    transfers.start(transfer(), std::future::pending());
                }
                // They are polled before the end.
                tokio::task::yield_now().await;
            });
            assert_eq!(transfers.room(LIMITS, 0).transfers, 0);
            drop(runtime);
            let room = transfers.room(LIMITS, 0);
            assert_eq!((room.transfers, room.busy.len(), transfers.carried().len()), (8, 0, 0));
            let ended = transfers.take_ended().noted();
            assert!(ended.len() == 8 && ended.iter().all(|ended| ended.outcome.is_err()));
        }
    }

    #[test]
    fn a_transfer_ends_once_also_when_it_panics() {
        let transfers = Transfers::default();
        let runtime = runtime();
        runtime.block_on(async {
            transfers.start(transfer(), async { Ok(()) });
            transfers.start(transfer(), async { panic!("as the test asked") });
            while !transfers.carried().is_empty() {
                tokio::task::yield_now().await;
            }
        });
        drop(runtime);
        let outcomes: Vec<bool> = transfers.take_ended().noted().iter().map(|ended| ended.outcome.is_ok()).collect();
        assert_eq!(outcomes, [true, false]);
    }

    #[test]
    fn outcomes_that_nobody_has_written_down_are_there_for_the_next() {
        let transfers = Transfers::default();
        let runtime = runtime();
        runtime.block_on(async {
            transfers.start(transfer(), async { Ok(()) });
            while !transfers.carried().is_empty() {
                tokio::task::yield_now().await;
            }
        });
        drop(transfers.take_ended());
        assert_eq!(transfers.take_ended().noted().len(), 1);
        assert!(transfers.take_ended().noted().is_empty());
    }
}
