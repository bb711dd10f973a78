//! The `SyncActor`: compares the inventory of a server that has returned with the metadata.
//!
//! Servers take turns, so that some whose comparison fails, or takes long, do not keep the others from theirs.
//!
//! A server is *syncing* from its start, or from the moment it was down, until that is done. The inventory is
//! read in short pages; what a page lacks is asked for again before it counts as missing, because the copy may
//! have come after the page. Pages are compared without locks, and each difference is decided again when it is
//! applied.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;

use super::context::Context;
use super::pass::{Timing, Work};
use super::pass_report::PassReport;
use crate::db::server::ServerView;
use crate::db::sync::{self, Applied, Differences, Page};
use crate::db::{cluster, journal};
use crate::decisions::sync::Verdict;
use crate::types::api::Health;
use crate::types::limits::INVENTORY_PAGE_ROWS_MAX;
use crate::types::storage_api::{DeleteRequest, ReplicaKey};
use crate::types::{Error, ErrorCode, ObjectId, Result, Version};

/// Servers that are compared at the same time.
const SERVERS_MAX: usize = 4;
/// Pages of one server in one pass.
const PAGES_MAX: usize = 50;
/// A server that takes longer goes on at its next turn.
const TURN_TIME: Duration = Duration::from_secs(10);

/// The work of the actor.
pub struct Sync {
    context: Context,
    progress: Arc<Mutex<Progress>>,
}

/// What is remembered between passes. Lost with the process: then comparisons begin anew.
#[derive(Default)]
struct Progress {
    cursors: HashMap<i64, Cursor>,
    /// The server whose turn was the last.
    turn: i64,
}

impl Progress {
    /// Whose turn it is among `syncing`.
    fn next_turn(&mut self, syncing: impl Iterator<Item = i64>) -> Vec<i64> {
        let mut ids: Vec<i64> = syncing.collect();
        ids.sort_unstable();
        let first = ids.partition_point(|id| *id <= self.turn);
        ids.rotate_left(first);
        ids.truncate(SERVERS_MAX);
        self.turn = ids.last().copied().unwrap_or(self.turn);
        ids
    }
}

fn lock(progress: &Mutex<Progress>) -> parking_lot::MutexGuard<'_, Progress> {
    progress.lock()
}

/// How far a server's inventory has been compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cursor {
    boot: String,
    /// The epoch of the metadata that it is compared with: what was right before a restore says nothing after it.
    epoch: i64,
    after: Option<ReplicaKey>,
    kept: usize,
    adopted: usize,
    deleted: usize,
    missing: usize,
    quarantined: usize,
}

impl Sync {
    /// A pass each half second: a new server waits for it before it gets files.
    pub const TIMING: Timing = Timing { interval: Duration::from_millis(500), deadline: Duration::from_secs(300) };

    /// With nothing under way.
    pub fn new(context: Context) -> Self {
        Self { context, progress: Arc::default() }
    }
}

impl Work for Sync {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone(), self.progress.clone()))
    }
}

async fn pass(context: Context, progress: Arc<Mutex<Progress>>) -> Result<PassReport> {
    let servers = context.servers().await?;
    // One that was down begins anew, also when it still runs.
    let goes_on = |id: &i64| {
        let mut all = servers.iter();
        all.any(|server| server.row.id == *id && server.is_syncing() && server.health != Health::Down)
    };
    lock(&progress).cursors.retain(|id, _| goes_on(id));
    let is_syncing =
        |server: &&ServerView| server.health == Health::Live && server.is_syncing() && !server.is_failing();
    let turn = lock(&progress).next_turn(servers.iter().filter(is_syncing).map(|server| server.row.id));
    let syncing: Vec<&ServerView> = servers.iter().filter(|server| turn.contains(&server.row.id)).collect();
    if syncing.is_empty() {
        return Ok(PassReport::default());
    }
    if let Some(report) = context.hindrance().await? {
        lock(&progress).cursors.clear();
        return Ok(report);
    }
    let outcomes = join_all(syncing.iter().map(|server| one(&context, &progress, server))).await;
    context.fresh_servers().await?;
    let (mut report, mut failed) = (PassReport::default(), None);
    for (server, outcome) in syncing.iter().zip(outcomes) {
        match outcome {
            Ok(true) => report.counts.push(("server compared", 1)),
            Ok(false) => report.more = true,
            Err(error) => failed = Some(error.context(format!("comparing {}", server.row.name))),
        }
    }
    failed.map_or(Ok(report), Err)
}

/// Goes on with one server. Answers whether it is done.
async fn one(context: &Context, progress: &Mutex<Progress>, server: &ServerView) -> Result<bool> {
    let Some(checked) = &server.checked else { return Ok(true) };
    let id = server.row.id;
    let epoch = context.db.read(cluster::state).await?.epoch;
    let (known, begun) = (lock(progress).cursors.get(&id).cloned(), Instant::now());
    let mut cursor = known
        .filter(|cursor| cursor.boot == checked.boot_id && cursor.epoch == epoch)
        .unwrap_or_else(|| Cursor { boot: checked.boot_id.clone(), epoch, ..Cursor::default() });
    for _ in 0..PAGES_MAX {
        let (page, differences) = next_page(context, server, cursor.after, false).await?;
        refuse_evidence(context, server, &page, &differences).await?;
        cursor.kept += differences.kept;
        put_right(context, server, differences, &mut cursor).await?;
        cursor.after = page.last;
        if page.last.is_none() {
            let done = finish(context, server, &cursor).await?;
            lock(progress).cursors.remove(&id);
            return Ok(done);
        }
        // What is put right is not looked at again, however this turn ends.
        lock(progress).cursors.insert(id, cursor.clone());
        if begun.elapsed() > TURN_TIME {
            break;
        }
    }
    Ok(false)
}

/// Rule 5: a copy that was committed after the database's last change, or by a change that is another one in the
/// database, is the evidence that the database was set back. It must not be put aside as one that nobody knows.
async fn refuse_evidence(context: &Context, server: &ServerView, page: &Page, differences: &Differences) -> Result<()> {
    let newest = page.lines.iter().filter_map(|line| line.version).max().unwrap_or(0);
    let unknown = differences.lines.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Quarantine(_)));
    let unknown: Vec<(Version, ObjectId)> =
        unknown.filter_map(|(line, _)| Some((line.version?, line.replica.object))).collect();
    let (state, strange) = context
        .db
        .read(move |connection| {
            let state = cluster::state(connection)?;
            for (version, object) in unknown {
                if journal::was_not_committed_by(connection, version, object)? {
                    return Ok((state, Some(version)));
                }
            }
            Ok((state, None))
        })
        .await?;
    let what = match strange {
        Some(version) => format!("that was committed as version {version}, which is another change in the database"),
        None if newest > state.version => format!("of version {newest}, the database is at version {}", state.version),
        None => return Ok(()),
    };
    let reason = format!(
        "the storage server {} has a copy {what}: the database was set back; bring it forward with `holdfast restore`",
        server.row.name
    );
    context.protect(state, &reason).await?;
    Err(Error::new(ErrorCode::ReadOnly, reason))
}

/// One page with its differences; what it lacks was asked for twice. With `files` the server looks for the files of the
/// page, too: copies without one are lacking.
pub async fn next_page(
    context: &Context,
    server: &ServerView,
    after: Option<ReplicaKey>,
    files: bool,
) -> Result<(Page, Differences)> {
    let (id, peer) = (server.row.id, server.row.peer());
    let lines = context.storage.inventory_page(&peer, after, files).await?;
    let full = lines.len() >= INVENTORY_PAGE_ROWS_MAX;
    let last = lines.last().map(|line| line.replica).filter(|_| full);
    let (gone, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.gone);
    let page = Page { after, last, lines };
    let (page, mut differences) = context.db.read(move |connection| sync::compare(connection, id, page)).await?;
    if !differences.missing.is_empty() {
        // What came between the page and the look at the metadata is in a second page that begins at the same place.
        let mut asked = after;
        loop {
            let again = context.storage.inventory_page(&peer, asked, files).await?;
            let there: HashSet<ReplicaKey> = again.iter().filter(|line| !line.gone).map(|line| line.replica).collect();
            differences.missing.retain(|key| !there.contains(key));
            let last = again.last().map(|line| line.replica);
            let beyond = differences.missing.iter().all(|key| last.is_none_or(|last| *key <= last));
            if beyond || again.len() < INVENTORY_PAGE_ROWS_MAX {
                break;
            }
            asked = last;
        }
    }
    // Of these the server knows that they are gone: nothing on its way can explain it.
    let gone: HashSet<ReplicaKey> = gone.iter().map(|line| line.replica).collect();
    (differences.gone, differences.missing) = differences.missing.into_iter().partition(|key| gone.contains(key));
    Ok((page, differences))
}

async fn put_right(context: &Context, server: &ServerView, found: Differences, cursor: &mut Cursor) -> Result<()> {
    if found.lines.is_empty() && found.missing.is_empty() {
        return Ok(());
    }
    crate::types::failpoint::SYNC_COMPARED.passed();
    let applied = apply(context, server, found).await?;
    cursor.adopted += applied.adopted;
    cursor.deleted += applied.deleted;
    cursor.missing += applied.missing;
    cursor.quarantined += applied.quarantine.len();
    Ok(())
}

/// Puts the metadata right about differences, and then has the server put aside what it should.
pub async fn apply(context: &Context, server: &ServerView, found: Differences) -> Result<Applied> {
    let (id, read_ttl) = (server.row.id, context.settings.read_ttl);
    let lines: Vec<_> = found.lines.into_iter().map(|(line, _)| line).collect();
    let missing = found.missing;
    let applied = context.act(move |connection| sync::apply(connection, id, &lines, &missing, read_ttl)).await?;
    crate::types::failpoint::SYNC_APPLIED.passed();
    let mut by_reason: HashMap<&str, Vec<ReplicaKey>> = HashMap::new();
    for (key, why) in &applied.quarantine {
        by_reason.entry(why).or_default().push(*key);
    }
    for (why, replicas) in by_reason {
        let request = DeleteRequest { replicas, quarantine: Some(why.into()) };
        context.storage.delete(&server.row.peer(), &request).await?;
    }
    Ok(applied)
}

async fn finish(context: &Context, server: &ServerView, cursor: &Cursor) -> Result<bool> {
    let status = context.storage.status(&server.row.peer(), Duration::from_secs(2)).await?;
    if status.boot_id.to_string() != cursor.boot {
        return Err(Error::unavailable("it was started again meanwhile; its inventory is read anew"));
    }
    let Cursor { kept, adopted, deleted, missing, quarantined, .. } = cursor;
    let detail = format!(
        "the inventory of {} was compared: {kept} copies are as they should be, {adopted} are counted again, {deleted} \
         are outdated and deleted, {missing} are missing, {quarantined} were put aside",
        server.row.name
    );
    if missing + quarantined + adopted + deleted > 0 {
        log::warn!("{detail}");
    } else {
        log::info!("{detail}");
    }
    let (id, boot, epoch) = (server.row.id, cursor.boot.clone(), cursor.epoch);
    crate::types::failpoint::SYNC_COMPLETING.passed();
    context.act(move |connection| sync::complete(connection, id, &boot, epoch, detail)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_take_turns_however_many_fail() {
        let mut progress = Progress::default();
        let mut had = HashSet::new();
        for _ in 0..2 {
            let turn = progress.next_turn([50, 10, 30, 20, 40].into_iter());
            assert_eq!(turn.len(), SERVERS_MAX);
            had.extend(turn);
        }
        assert_eq!(had.len(), 5, "the fifth is not starved by four that are never done");
        assert_eq!(progress.next_turn([7].into_iter()), [7]);
        assert_eq!(progress.next_turn([9, 7].into_iter()), [9, 7]);
        assert!(progress.next_turn(std::iter::empty()).is_empty());
    }
}
