//! Copies on their way from one storage server to another: who carries them, and what came of them.
//!
//! A transfer outlives the pass that started it. Its outcome waits here until the next pass has written it down;
//! should this process die, the rows of its copies are found by whoever acts next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::context::Context;
use super::pass::{Nudge, PassActor};
use super::supervisor::Handle;
use crate::db::repair::{Ended, Room, Transfer, lost_transfer};
use crate::security::ReplicateTicket;
use crate::types::storage_api::{ReplicaKey, ReplicateRequest};
use crate::types::{CauseWord, Error, Generation, ObjectId, Result};

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
    /// Bytes that may still be started, and when that was counted.
    allowance: Option<(f64, Instant)>,
}

impl Transfers {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells whom to wake when a transfer has ended.
    pub fn wakes(&self, actor: Handle<PassActor>) {
        // Only the first one counts; there is only one.
        let _ = self.actor.set(actor);
    }

    /// What has ended since the last call.
    pub fn take_ended(&self) -> Vec<Ended> {
        self.with(|inner| std::mem::take(&mut inner.ended))
    }

    /// Gives outcomes back that could not be written down.
    pub fn put_back(&self, ended: Vec<Ended>) {
        self.with(|inner| inner.ended.extend(ended));
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
            Room { transfers: transfers.saturating_sub(inner.running.len()), per_server, busy, bytes }
        })
    }

    /// How much more may be started to fill servers evenly: half of what repair may at most, so that repair finds room.
    pub fn room_for_moves(&self, (transfers, per_server): (usize, usize), rate: u64) -> Room {
        let is_move = |transfer: &&Transfer| transfer.cause.word == CauseWord::Rebalanced;
        let moves = self.with(|inner| inner.running.values().filter(is_move).count());
        let room = self.room((transfers, per_server.div_ceil(2)), rate);
        Room { transfers: transfers.div_ceil(2).saturating_sub(moves).min(room.transfers), ..room }
    }

    /// Starts a transfer.
    pub fn start(&self, context: &Context, transfer: Transfer) {
        self.with(|inner| {
            if let Some((bytes, _)) = &mut inner.allowance {
                *bytes -= transfer.size as f64;
            }
            inner.running.insert(transfer.generation, transfer.clone())
        });
        let (this, context) = (self.clone(), context.clone());
        tokio::spawn(async move {
            let task = tokio::spawn(carry(context, transfer.clone()));
            let outcome = task.await.unwrap_or_else(|_| Err(lost_transfer()));
            this.with(|inner| {
                inner.running.remove(&transfer.generation);
                inner.ended.push(Ended { transfer, outcome });
            });
            if let Some(actor) = this.actor.get() {
                actor.nudge(Nudge);
            }
        });
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

async fn carry(context: Context, transfer: Transfer) -> Result<()> {
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
