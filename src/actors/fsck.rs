//! `fsck`, a job ([`super::jobs`]): the metadata against itself, and the inventories of the storage servers against the metadata.
//!
//! Everything is looked at in pages, and what a page shows is looked at again a second later: a write in flight,
//! a copy on its way and a deletion that waits come right by themselves and are no findings. Nothing is changed
//! without `repair`, so it works in every mode of the cluster.
//!
//! The servers look for the files of their copies, page by page. One that is gone is told at once: the server has looked
//! twice, and counts the copy out by itself before anybody could look again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::context::Context;
use super::jobs::Job;
use super::sync_actor;
use crate::db::fsck::{self, Found, Looked, Problem};
use crate::db::rows::EventRow;
use crate::db::server::ServerView;
use crate::db::sync::{Differences, Page};
use crate::db::{AnyConnection, Step, cluster, dialect, events, repair};
use crate::types::api::*;
use crate::types::storage_api::ReplicaKey;
use crate::types::words::counted;
use crate::types::{Error, EventKind, ObjectId, Result, Time};

/// Findings that are told one by one.
const FINDINGS_MAX: usize = 1_000;
/// What is found is looked at again after as long.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(1);
/// Pages with something to look at again.
const DOUBTFUL_PAGES_MAX: usize = 8;
/// A storage server asks about its pending copies every few minutes; one that is undecided for as long is told.
const PENDING_OLD: TimeDelta = TimeDelta::days(1);

/// What this job is called.
pub const KIND: &str = "fsck";

/// Compares the metadata with itself and with the inventories of all live storage servers. With `repair`, puts right what
/// can be put right without a person, and tells by whom that was asked for.
pub async fn run(context: Context, repair: bool, by: String, job: Job) -> Result<()> {
    let report = Check::new(&context, repair, job.clone()).await?.run().await?;
    log::info!(
        "fsck: {} findings, {} put right; {} servers checked, {} skipped",
        report.findings_total,
        report.repaired,
        report.servers_checked,
        report.servers_skipped.len()
    );
    if repair && report.repaired > 0 {
        let detail = format!("fsck put {} of {} findings right", report.repaired, report.findings_total);
        let told = context.act(move |connection| {
            let now = dialect::clock(connection)?;
            let event = EventRow { by_token: Some(by), ..events::row(now, EventKind::FsckRepaired, detail) };
            dialect::insert_events(connection, &[event])?;
            Ok(())
        });
        if let Err(error) = told.await {
            log::warn!("the event of it could not be written: {}", error.chain());
        }
    }
    job.tell("", &report);
    Ok(())
}

/// What waits for its second look.
struct Doubts<T> {
    pages: VecDeque<(Instant, T)>,
}

impl<T> Doubts<T> {
    fn new() -> Self {
        Self { pages: VecDeque::new() }
    }

    fn push(&mut self, page: T) {
        self.pages.push_back((Instant::now(), page));
    }

    /// The next page whose time has come. Waits for it when there are too many, or when no more pages come.
    async fn ripe(&mut self, no_more_pages: bool) -> Option<T> {
        let (at, _) = self.pages.front()?;
        let left = SECOND_LOOK_AFTER.saturating_sub(at.elapsed());
        if !left.is_zero() {
            if !no_more_pages && self.pages.len() < DOUBTFUL_PAGES_MAX {
                return None;
            }
            tokio::time::sleep(left).await;
        }
        self.pages.pop_front().map(|(_, page)| page)
    }
}

/// A page of an inventory with its differences.
struct Doubtful {
    after: Option<ReplicaKey>,
    last: Option<ReplicaKey>,
    found: Differences,
}

/// A page of the metadata, or a second look at some of its rows.
type Look = fn(&mut AnyConnection, i64) -> Step<Looked>;
type LookAgain = fn(&mut AnyConnection, &[i64]) -> Step<Looked>;

/// One run.
struct Check<'c> {
    context: &'c Context,
    repair: bool,
    epoch: i64,
    now: Time,
    servers: Arc<Vec<ServerView>>,
    report: FsckReport,
    job: Job,
}

impl<'c> Check<'c> {
    async fn new(context: &'c Context, repair: bool, job: Job) -> Result<Self> {
        let state = context.db.read(cluster::state).await?;
        let servers = context.fresh_servers().await?;
        Ok(Self { context, repair, epoch: state.epoch, now: state.now, servers, report: FsckReport::default(), job })
    }

    async fn run(mut self) -> Result<FsckReport> {
        // The metadata first: what the inventories lack is queued for repair and would be told twice.
        self.report.objects = self.metadata("object", fsck::objects_after, fsck::look_at_objects).await?;
        self.report.entries = self.metadata("entry", fsck::entries_after, fsck::look_at_entries).await?;
        for server in self.servers.clone().iter() {
            if let Err(error) = self.server(server).await {
                log::warn!("fsck: {} could not be compared: {}", server.row.name, error.chain());
                self.report.servers_skipped.push(format!("{}: {}", server.row.name, error.message()));
            }
        }
        self.report.clean = self.report.findings_total == 0 && self.report.servers_skipped.is_empty();
        Ok(self.report)
    }

    fn tell_step(&self, seen: &str) {
        self.job
            .tell(format!("{seen} compared, {} so far", counted(self.report.findings_total, "finding")), &self.report);
    }

    /// Goes through objects or entries. Answers how many there are.
    async fn metadata(&mut self, what: &str, look: Look, again: LookAgain) -> Result<u64> {
        let (mut seen, mut doubts, mut after) = (0, Doubts::new(), Some(i64::MIN));
        while let Some(from) = after {
            let page = self.context.db.read_snapshot(move |connection| look(connection, from)).await?;
            seen += page.seen as u64;
            self.tell_step(&format!("{} of the metadata", counted(seen, what)));
            after = page.next;
            if !page.found.is_empty() {
                doubts.push(page.found);
            }
            while let Some(found) = doubts.ripe(after.is_none()).await {
                self.settle(found, again).await?;
            }
        }
        Ok(seen)
    }

    /// Tells what is still so at the second look, and puts it right.
    async fn settle(&mut self, mut found: Vec<Found>, again: LookAgain) -> Result<()> {
        let key = |found: &Found| (found.entry, found.object, found.problem.clone());
        let mut ids: Vec<i64> =
            found.iter().filter_map(|f| f.entry.map(|id| id.0).or(f.object.map(|id| id.0))).collect();
        ids.dedup();
        let now = self.context.db.read_snapshot(move |connection| again(connection, &ids)).await?;
        let still: HashSet<_> = now.found.iter().map(key).collect();
        found.retain(|found| still.contains(&key(found)));
        if self.repair {
            self.report.repaired += self.put_right(&found).await?;
        }
        for found in found {
            self.tell_found(found).await?;
        }
        Ok(())
    }

    /// Puts right what can be. Entries are never touched: a name is all that is left of what it named.
    async fn put_right(&self, found: &[Found]) -> Result<u64> {
        let with = |want: fn(&Problem) -> bool| -> Vec<i64> {
            found.iter().filter(|found| want(&found.problem)).filter_map(|found| Some(found.object?.0)).collect()
        };
        let short: Vec<(i64, i32)> = found
            .iter()
            .filter_map(|found| match found.problem {
                Problem::UnderReplicated { copies } => Some((found.object?.0, copies)),
                _ => None,
            })
            .collect();
        let mut repaired = short.len();
        if !short.is_empty() {
            self.context.act(move |connection| repair::enqueue(connection, &short)).await?;
        }
        let unreferenced = with(|problem| *problem == Problem::Unreferenced);
        if !unreferenced.is_empty() {
            let times = self.context.settings.release_times();
            repaired += self.context.act_change(move |changes| fsck::release(changes, &unreferenced, &times)).await?;
        }
        let stale = with(|problem| matches!(problem, Problem::StaleReplica(_)));
        if !stale.is_empty() {
            let read_ttl = self.context.settings.read_ttl;
            repaired += self.context.act(move |connection| fsck::drop_stale(connection, &stale, read_ttl)).await?;
        }
        Ok(repaired as u64)
    }

    async fn tell_found(&mut self, found: Found) -> Result<()> {
        let server = match found.problem {
            Problem::StaleReplica(server) => self.servers.iter().find(|view| view.row.id == server.0),
            _ => None,
        };
        let server = server.map(|view| view.row.name.clone());
        let detail = match found.entry {
            Some(entry) if self.report.findings.len() < FINDINGS_MAX => {
                let path = self.context.db.read(move |connection| fsck::path_of(connection, entry)).await?;
                format!("{path}: {}", found.detail)
            }
            _ => found.detail,
        };
        // What repair cannot bring back is lost; its name is left for a person to see.
        let lost = self.repair && found.problem == Problem::Dangling;
        self.tell(if lost { "lost" } else { found.problem.kind() }, found.object, server, detail);
        Ok(())
    }

    fn tell(&mut self, kind: &str, object: Option<ObjectId>, server: Option<String>, detail: String) {
        self.report.findings_total += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Finding { kind: kind.into(), object, server, detail });
        }
    }

    /// Compares one server, if it answers. One that is drained and switched off has nothing to be asked for.
    async fn server(&mut self, server: &ServerView) -> Result<()> {
        if server.health != Health::Live {
            if server.admin_state == AdminState::Drained {
                return Ok(());
            }
            let reason = server.checked.as_ref().and_then(|checked| checked.reason.clone());
            let health = format!("{:?}", server.health).to_lowercase();
            let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            return Err(Error::unavailable(format!("it is {health}{reason}")));
        }
        let (mut doubts, mut after, mut last_page, mut old) = (Doubts::new(), None, false, 0);
        while !last_page {
            let (page, mut found) = sync_actor::next_page(self.context, server, after, true).await?;
            self.report.replicas += page.lines.len() as u64;
            self.tell_step(&format!("{} on {} and before it", counted(self.report.replicas, "copy"), server.row.name));
            self.settle_gone(server, std::mem::take(&mut found.gone)).await?;
            old += self.undecided(server, &page).await?;
            (last_page, after) = (page.last.is_none(), page.last);
            if !found.lines.is_empty() || !found.missing.is_empty() {
                doubts.push(Doubtful { after: page.after, last: page.last, found });
            }
            while let Some(doubtful) = doubts.ripe(last_page).await {
                self.settle_differences(server, doubtful).await?;
            }
        }
        if old > 0 {
            let detail = format!("{old} copies wait since more than a day for their commit to be decided");
            self.tell("pending", None, Some(server.row.name.clone()), detail);
        }
        self.report.servers_checked += 1;
        Ok(())
    }

    /// Copies of a page that should have been asked about long ago. Those of an older epoch are a restore's doubts
    /// and wait for a person.
    async fn undecided(&self, server: &ServerView, page: &Page) -> Result<usize> {
        let old = self.now - PENDING_OLD;
        let keys: Vec<ReplicaKey> = page
            .lines
            .iter()
            .filter(|line| line.version.is_none() && line.epoch >= self.epoch && line.ticket_expires < old)
            .map(|line| line.replica)
            .collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let id = server.row.id;
        self.context.db.read(move |connection| fsck::unlisted(connection, id, &keys)).await
    }

    async fn settle_gone(&mut self, server: &ServerView, gone: Vec<ReplicaKey>) -> Result<()> {
        if self.repair && !gone.is_empty() {
            let found = Differences { missing: gone.clone(), ..Differences::default() };
            self.report.repaired += sync_actor::apply(self.context, server, found).await?.missing as u64;
        }
        for key in gone {
            let detail = "the metadata lists a copy whose file is gone on the server".into();
            self.tell("missing", Some(key.object), Some(server.row.name.clone()), detail);
        }
        Ok(())
    }

    /// Tells which differences are still there at the second look, and puts them right.
    async fn settle_differences(&mut self, server: &ServerView, doubtful: Doubtful) -> Result<()> {
        let Doubtful { after, last, mut found } = doubtful;
        let (mut verdicts, mut missing, mut from) = (HashMap::new(), HashSet::new(), after);
        loop {
            let (page, again) = sync_actor::next_page(self.context, server, from, true).await?;
            verdicts.extend(again.lines.into_iter().map(|(line, verdict)| (line.replica, verdict)));
            missing.extend(again.missing);
            from = page.last;
            // What came meanwhile may have moved the end of the page.
            if from.is_none() || last.is_some_and(|last| from >= Some(last)) {
                break;
            }
        }
        found.lines.retain(|(line, verdict)| verdicts.get(&line.replica) == Some(verdict));
        found.missing.retain(|key| missing.contains(key));
        if self.repair {
            let applied = sync_actor::apply(self.context, server, found.clone()).await?;
            let count = applied.adopted + applied.deleted + applied.missing + applied.quarantine.len();
            self.report.repaired += count as u64;
        }
        let name = Some(server.row.name.clone());
        for (line, verdict) in found.lines {
            let detail = format!("the copy of {}: {}", line.label, verdict.reason());
            self.tell(verdict.kind(), Some(line.replica.object), name.clone(), detail);
        }
        for key in found.missing {
            let detail = "the metadata lists a copy that the server does not have".into();
            self.tell("missing", Some(key.object), name.clone(), detail);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_doubt_ripens_and_too_many_are_waited_for() {
        let mut doubts = Doubts::new();
        doubts.push(1);
        assert_eq!(doubts.ripe(false).await, None, "it is too young");
        let started = Instant::now();
        assert_eq!(doubts.ripe(true).await, Some(1));
        assert!(started.elapsed() >= SECOND_LOOK_AFTER / 2);
        for page in 0..DOUBTFUL_PAGES_MAX {
            doubts.push(page);
        }
        assert_eq!(doubts.ripe(false).await, Some(0), "there are too many to wait without work");
        assert_eq!(doubts.ripe(true).await, Some(1), "the others have waited with it");
    }
}
