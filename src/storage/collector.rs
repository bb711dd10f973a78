//! The `Collector`: learns the fate of pending replicas, only ever by asking the name server.
//!
//! A pass asks about so many of them, and the next one goes on behind them: however many have to wait, each is asked about
//! in its turn.

use std::sync::Arc;
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::state::Shared;
use super::store::{ReplicaRow, index};
use super::writer::{INDEX_DEADLINE, IndexChange};
use crate::actors::pass::{Timing, Work};
use crate::actors::pass_report::PassReport;
use crate::types::Result;
use crate::types::api::{PendingFate, PendingReplica, PendingRequest};
use crate::types::limits::PENDING_BATCH_ITEMS_MAX;
use crate::types::storage_api::ReplicaKey;

/// Younger replicas are left to their report, which is on its way.
const AGE_MIN: TimeDelta = TimeDelta::seconds(1);
/// Pages of one pass.
const PAGES_MAX: usize = 20;

/// The work of the actor.
pub struct Collect {
    shared: Arc<Shared>,
    /// Behind which one to go on.
    behind: Arc<Mutex<Option<Place>>>,
}

/// The order in which they are asked about.
type Place = (NaiveDateTime, ReplicaKey);

impl Collect {
    /// Begins with the oldest.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, behind: Arc::default() }
    }

    /// How often it asks.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(2), deadline: Duration::from_secs(120) };
}

impl Work for Collect {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.shared.clone(), self.behind.clone()))
    }
}

async fn pass(shared: Arc<Shared>, behind: Arc<Mutex<Option<Place>>>) -> Result<PassReport> {
    let Ok((_, server, _)) = shared.identity.require_member() else { return Ok(PassReport::default()) };
    let before = (shared.identity.now() - AGE_MIN).naive_utc();
    let (mut waiting, mut kept, mut deleted) = (0, 0, 0);
    for _ in 0..PAGES_MAX {
        let place = *behind.lock();
        let rows = shared
            .index
            .read(move |connection| index::pending(connection, before, place, PENDING_BATCH_ITEMS_MAX))
            .await?;
        let next = rows.last().filter(|_| rows.len() == PENDING_BATCH_ITEMS_MAX).map(|row| (row.created, row.key()));
        *behind.lock() = next;
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
        if next.is_none() {
            break;
        }
    }
    Ok(PassReport::of(vec![("kept", kept), ("deleted", deleted), ("waiting", waiting)]))
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
