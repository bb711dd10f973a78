//! The `Collector`: learns the fate of pending replicas, only ever by asking the name server.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::BoxFuture;

use super::server::Shared;
use super::store::{ReplicaRow, index};
use super::writer::{INDEX_DEADLINE, IndexChange};
use crate::actors::pass::{PassReport, Timing, Work};
use crate::types::Result;
use crate::types::api::{PendingFate, PendingReplica, PendingRequest};
use crate::types::limits::PENDING_BATCH_ITEMS_MAX;

/// Younger replicas are left to their report, which is on its way.
const AGE_MIN: TimeDelta = TimeDelta::seconds(1);
/// Pages of one pass; behind replicas that have to wait there may be some that do not.
const PAGES_MAX: usize = 20;

/// The work of the actor.
pub struct Collect {
    /// The daemon.
    pub shared: Arc<Shared>,
}

impl Collect {
    /// How often it asks.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(2), deadline: Duration::from_secs(120) };
}

impl Work for Collect {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.shared.clone()))
    }
}

async fn pass(shared: Arc<Shared>) -> Result<PassReport> {
    let Ok((_, server, _)) = shared.identity.require_member() else { return Ok(PassReport::default()) };
    let before = (shared.identity.now() - AGE_MIN).naive_utc();
    let (mut waiting, mut kept, mut deleted) = (0, 0, 0);
    for _ in 0..PAGES_MAX {
        let rows = shared
            .index
            .read(move |connection| index::pending(connection, before, waiting, PENDING_BATCH_ITEMS_MAX))
            .await?;
        if rows.is_empty() {
            break;
        }
        let request = PendingRequest { server, replicas: rows.iter().map(question).collect() };
        let fates = shared.name_server.pending(&request).await?.fates;
        crate::types::failpoint::COLLECT_ANSWERED.passed();
        let mut answers = Vec::new();
        for (row, fate) in rows.iter().zip(fates) {
            let change = match fate {
                PendingFate::Wait => {
                    waiting += 1;
                    continue;
                }
                PendingFate::Keep { version, .. } => {
                    kept += 1;
                    IndexChange::Committed { key: row.key(), version }
                }
                PendingFate::Delete => {
                    deleted += 1;
                    log::info!("{} is deleted: its upload to {} was never committed", row.key(), row.label);
                    IndexChange::Delete(vec![row.key()])
                }
            };
            answers.push(shared.writer.hand_in(change, INDEX_DEADLINE).await?);
        }
        for answer in answers {
            // The writer's failure is in its own log; the replica is still pending and asked for again.
            drop(answer.await);
        }
    }
    Ok(PassReport { counts: vec![("kept", kept), ("deleted", deleted), ("waiting", waiting)], more: false })
}

fn question(row: &ReplicaRow) -> PendingReplica {
    let key = row.key();
    PendingReplica {
        object: key.object,
        generation: key.generation,
        ticket_expires: row.ticket_expires.and_utc(),
        epoch: row.epoch,
    }
}
