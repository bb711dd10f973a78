//! The `Reaper`: carries out deletions on storage servers, empties removed directories, forgets dead objects and old
//! events.

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};

use super::context::Context;
use super::pass::{Timing, Work};
use super::pass_report::PassReport;
use crate::db::reap::{empty_detached, forget_objects, has_work};
use crate::db::rows::OutboxRow;
use crate::db::server::ServerView;
use crate::db::{dialect, events, outbox, reap, timeline};
use crate::types::api::Health;
use crate::types::storage_api::{DeleteRequest, ReplicaKey};
use crate::types::{Error, Generation, ObjectId, Result};

/// Deletions sent to one server in one pass.
const DELETIONS_MAX: usize = 500;
/// Batches of entries that one pass removes: it lets other changes in between them.
const BATCHES_MAX: usize = 20;
/// Events that one pass removes.
const EVENTS_MAX: i64 = 2_000;

/// The work of the actor.
pub struct Reap {
    /// What it works with.
    pub context: Context,
}

impl Reap {
    /// A pass each second.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(1), deadline: Duration::from_secs(60) };
}

impl Work for Reap {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone()))
    }
}

async fn pass(context: Context) -> Result<PassReport> {
    if let Some(report) = context.hindrance().await? {
        return Ok(report);
    }
    let servers = context.servers().await?;
    // One whose disk takes no writes deletes nothing either, and the others would wait for it.
    let live = servers.iter().filter(|server| server.health == Health::Live && !server.is_failing());
    let sent = join_all(live.map(|server| delete_on(&context, server))).await;
    let mut report = PassReport::default();
    let mut deleted = 0;
    for outcome in sent {
        match outcome {
            Ok(count) => {
                deleted += count;
                report.more |= count == DELETIONS_MAX;
            }
            // The server gets them in a later pass.
            Err(error) => log::warn!("deletions have to wait: {}", error.chain()),
        }
    }
    report.counts.push(("copies deleted", deleted));
    let (keep, changes_keep) = (context.settings.events_keep, context.settings.journal_keep);
    if context.db.read(move |connection| has_work(connection, keep, changes_keep)).await? {
        clean(&context, &mut report).await?;
    }
    Ok(report)
}

async fn delete_on(context: &Context, server: &ServerView) -> Result<usize> {
    let id = server.row.id;
    let rows = context.db.read(move |connection| outbox::due(connection, id, DELETIONS_MAX)).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let request = DeleteRequest { replicas: rows.iter().map(key).collect(), quarantine: None };
    context.storage.delete(&server.row.peer(), &request).await.map_err(|error| error.context(&server.row.name))?;
    crate::types::failpoint::REAP_DELETED.passed();
    let count = rows.len();
    context.act(move |connection| outbox::complete(connection, &rows)).await?;
    Ok(count)
}

fn key(row: &OutboxRow) -> ReplicaKey {
    ReplicaKey { object: ObjectId(row.object), generation: Generation(row.generation) }
}

/// Removes entries and dead objects, one bounded transaction after the other.
async fn clean(context: &Context, report: &mut PassReport) -> Result<(), Error> {
    let times = context.settings.release_times();
    let (mut entries, mut objects) = (0, 0);
    for batch in 0..BATCHES_MAX {
        let count = context.act_change(move |changes| empty_detached(changes, &times)).await?;
        entries += count;
        report.more |= batch + 1 == BATCHES_MAX && count > 0;
        if count == 0 {
            break;
        }
    }
    let count = context.act_change(forget_objects).await?;
    objects += count;
    report.more |= count as i64 == reap::BATCH_ROWS;
    let (keep, changes_keep) = (context.settings.events_keep, context.settings.journal_keep);
    let (events, noted) = context
        .act(move |connection| {
            let now = dialect::clock(connection)?;
            let events = events::trim(connection, now - keep, EVENTS_MAX)?;
            Ok((events, timeline::trim_changes(connection, now - changes_keep, EVENTS_MAX)?))
        })
        .await?;
    report.more |= events.max(noted) as i64 == EVENTS_MAX;
    report.counts.extend([
        ("entries removed", entries),
        ("dead objects forgotten", objects),
        ("old events removed", events),
        ("old notes of changes removed", noted),
    ]);
    Ok(())
}
