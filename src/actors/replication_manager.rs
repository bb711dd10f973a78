//! The `ReplicationManager`: brings objects back to their number of copies, and trims what is too many.
//!
//! It works through the repair queue, most endangered first. What belongs into the queue is found by scans: of a
//! server's objects when the server is gone, is back, or drains; of everything when this name server begins to
//! act or a server is new; and slowly, for ever, for whatever the rest has missed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use futures_util::future::BoxFuture;

use super::context::Context;
use super::pass::{PassReport, Timing, Work};
use super::transfers::Transfers;
use crate::db::counts;
use crate::db::repair::{self, Rules, scan, server_facts};
use crate::db::server::{self, ServerView};
use crate::decisions::repair::paused;
use crate::types::Result;
use crate::types::api::{AdminState, Health};

/// Between two pages of the slow scan.
const SLOW_SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// Pages that one pass scans.
const SCAN_PAGES_MAX: usize = 8;

/// How long a draining server may take to say whether uploads are under way.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// The work of the actor.
pub struct Replicate {
    context: Context,
    transfers: Transfers,
    scans: Arc<Mutex<Scans>>,
}

impl Replicate {
    /// A pass each second, and whenever a transfer has ended.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(1), deadline: Duration::from_secs(60) };

    /// With nothing under way.
    pub fn new(context: Context, transfers: Transfers) -> Self {
        Self { context, transfers, scans: Arc::default() }
    }
}

impl Work for Replicate {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone(), self.transfers.clone(), self.scans.clone()))
    }
}

/// What of a server decides about its copies; when it changes, they are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    gone: bool,
    syncing: bool,
    alarmed: bool,
    failing: bool,
    can_keep: bool,
    admin_state: AdminState,
    host: String,
    zone: String,
}

/// Scans under way. Lost when the process ends: the next one begins with a scan of everything.
#[derive(Default)]
struct Scans {
    term: i64,
    classes: HashMap<i64, Class>,
    /// Servers (all, when that is `None`), and the objects behind which to go on.
    fast: VecDeque<(Option<i64>, i64)>,
    slow_after: i64,
    slow_last: Option<Instant>,
}

impl Scans {
    fn want(&mut self, server: Option<i64>) {
        self.fast.retain(|(wanted, _)| *wanted != server);
        self.fast.push_back((server, i64::MIN));
    }

    /// Notes how the servers are. Answers whether that is news for objects that wait.
    fn note(&mut self, term: i64, classes: HashMap<i64, Class>) -> bool {
        if self.term != term {
            *self = Self { term, classes, ..Self::default() };
            self.want(None);
            return true;
        }
        let before = std::mem::replace(&mut self.classes, classes);
        let mut wanted = Vec::new();
        for (id, now) in &self.classes {
            match before.get(id) {
                Some(class) if class == now => {}
                Some(class) if (&class.host, &class.zone) == (&now.host, &now.zone) => wanted.push(Some(*id)),
                _ => wanted.push(None),
            }
        }
        let news = !wanted.is_empty();
        wanted.into_iter().for_each(|server| self.want(server));
        news
    }

    /// The next page to scan: a fast one, else a slow one when its time has come.
    fn next(&mut self) -> Option<(bool, Option<i64>, i64)> {
        if let Some((server, after)) = self.fast.front() {
            return Some((true, *server, *after));
        }
        if self.slow_last.is_some_and(|last| last.elapsed() < SLOW_SCAN_INTERVAL) {
            return None;
        }
        self.slow_last = Some(Instant::now());
        Some((false, None, self.slow_after))
    }

    fn scanned(&mut self, fast: bool, server: Option<i64>, next: Option<i64>) {
        if !fast {
            self.slow_after = next.unwrap_or(i64::MIN);
        } else if self.fast.front().is_some_and(|(wanted, _)| *wanted == server) {
            match next {
                Some(next) => self.fast[0].1 = next,
                None => drop(self.fast.pop_front()),
            }
        }
    }
}

/// The rules of repair, as set.
pub fn rules(context: &Context) -> Rules {
    Rules {
        allow_same_host: context.settings.allow_same_host,
        repair_delay: context.settings.repair_delay,
        read_ttl: context.settings.read_ttl,
    }
}

async fn pass(context: Context, transfers: Transfers, scans: Arc<Mutex<Scans>>) -> Result<PassReport> {
    let Some(held) = context.standing.held() else {
        drop(transfers.take_ended());
        return Ok(context.standby());
    };
    if let Some(report) = context.hindrance().await? {
        return Ok(report);
    }
    // The health that the database has may be old: a new holder of the lease looks first.
    let watched_for = TimeDelta::from_std(held.since.elapsed()).unwrap_or(TimeDelta::MAX);
    if watched_for < context.settings.down_after {
        return Ok(PassReport { counts: vec![("look around first", 1)], more: false });
    }
    let rules = rules(&context);
    let views = context.fresh_servers().await?;
    let classes = server_facts(&views, Utc::now().naive_utc(), rules.repair_delay).into_iter().map(|facts| {
        let class = Class {
            gone: facts.gone,
            syncing: facts.syncing,
            alarmed: facts.alarmed,
            failing: facts.failing,
            can_keep: facts.can_keep,
            admin_state: facts.admin_state,
            host: facts.place.host,
            zone: facts.place.zone,
        };
        (facts.place.server.0, class)
    });
    let news = scans.lock().unwrap_or_else(PoisonError::into_inner).note(held.term, classes.collect());
    if news {
        context.act(repair::hurry).await?;
    }
    let (queued, scanning) = scan_pages(&context, &scans, rules).await?;
    let pause =
        paused(views.iter().map(|view| (view.health_of_copies(), view.admin_state)), context.settings.mass_down_share);
    let mut report = work(&context, &transfers, rules, pause.is_some()).await?;
    report.counts.push(("servers drained", finish_drains(&context, &views).await?));
    report.counts.push(("queued by scans", queued));
    report.counts.push(("PAUSED: too many servers are down", usize::from(pause.is_some())));
    report.more |= scanning;
    Ok(report)
}

/// Scans some pages. Answers how many objects were queued, and whether there is more to scan at once.
async fn scan_pages(context: &Context, scans: &Mutex<Scans>, rules: Rules) -> Result<(usize, bool)> {
    let mut queued = 0;
    for _ in 0..SCAN_PAGES_MAX {
        let Some((fast, server, after)) = scans.lock().unwrap_or_else(PoisonError::into_inner).next() else { break };
        let page = context.db.read(move |connection| scan(connection, server, after, &rules)).await?;
        if !page.needy.is_empty() {
            queued += context.act(move |connection| repair::enqueue(connection, &page.needy)).await?;
        }
        scans.lock().unwrap_or_else(PoisonError::into_inner).scanned(fast, server, page.next);
        if !fast {
            break;
        }
    }
    let more = !scans.lock().unwrap_or_else(PoisonError::into_inner).fast.is_empty();
    Ok((queued, more))
}

/// Draining servers that nothing needs any more become drained: no replica is listed on them, every deletion is
/// carried out, and no upload is under way. A ticket from before may still bring a copy; its commit does not count it.
async fn finish_drains(context: &Context, views: &[ServerView]) -> Result<usize> {
    let mut drained = 0;
    for view in views.iter().filter(|view| view.admin_state == AdminState::Draining) {
        let id = view.row.id;
        let left =
            move |connection: &mut _| Ok((counts::has_copies(connection, id)?, counts::has_deletions(connection, id)?));
        let (copies, deletions) = context.db.read(left).await?;
        let busy = match view.health_of_copies() {
            // The dead have nothing under way, and their deletions go with them.
            Health::Down => false,
            // One that does not answer is asked again in the next pass; nothing else waits for it.
            _ => {
                let status = context.storage.status(&view.row.peer(), STATUS_TIMEOUT).await;
                deletions || status.map_or(true, |status| status.uploads > 0)
            }
        };
        if !copies && !busy && view.health != Health::Suspect {
            crate::types::failpoint::DRAIN_EMPTY.passed();
            drained += usize::from(context.act_change(move |changes| server::drained(changes, id)).await?);
            crate::types::failpoint::DRAIN_FINISHED.passed();
        }
    }
    Ok(drained)
}

/// One transaction on the queue, and the start of what it decided.
async fn work(context: &Context, transfers: &Transfers, rules: Rules, paused: bool) -> Result<PassReport> {
    let settings = &context.settings;
    let ended = transfers.take_ended();
    let (carried, room) =
        (transfers.carried(), transfers.room(settings.repair_transfers, settings.repair_bytes_per_second));
    let noted = ended.clone();
    let worked =
        context.act(move |connection| repair::work_through(connection, &rules, &noted, &carried, room, paused)).await;
    let done = match worked {
        Ok(done) => done,
        Err(error) => {
            transfers.put_back(ended);
            return Err(error);
        }
    };
    let failures = ended.iter().filter_map(|ended| Some((&ended.transfer, ended.outcome.as_ref().err()?)));
    for (transfer, error) in failures {
        log::warn!("copying {} to {} failed: {}", transfer.object, transfer.target.url, error.chain());
    }
    if done.copied > 0 {
        crate::types::failpoint::REPAIR_NOTED.passed();
    }
    let started = done.transfers.len();
    for transfer in done.transfers {
        crate::types::failpoint::REPAIR_PLANNED.passed();
        transfers.start(context, transfer);
    }
    Ok(PassReport {
        counts: vec![
            ("copies started", started),
            ("copies completed", done.copied),
            ("copies failed", done.failed),
            ("copies too many trimmed", done.trimmed),
            ("objects well again", done.healthy),
            ("objects that have to wait", done.waiting),
        ],
        more: done.more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(zone: &str, gone: bool) -> Class {
        let admin_state = AdminState::InService;
        let (host, zone) = ("h".into(), zone.into());
        Class { gone, syncing: false, alarmed: false, failing: false, can_keep: true, admin_state, host, zone }
    }

    fn wanted(scans: &Scans) -> Vec<Option<i64>> {
        scans.fast.iter().map(|(server, _)| *server).collect()
    }

    #[test]
    fn what_changes_is_scanned() {
        let mut scans = Scans::default();
        let servers = |zone: &str, gone| HashMap::from([(1, class("", false)), (2, class(zone, gone))]);
        assert!(scans.note(1, servers("", false)));
        assert_eq!(wanted(&scans), [None], "a new term looks at everything");
        assert_eq!(scans.next(), Some((true, None, i64::MIN)));
        scans.scanned(true, None, Some(7));
        assert_eq!(scans.next(), Some((true, None, 7)));
        scans.scanned(true, None, None);
        assert!(!scans.note(1, servers("", false)) && wanted(&scans).is_empty());
        assert!(scans.note(1, servers("", true)));
        assert_eq!(wanted(&scans), [Some(2)], "a server that is gone");
        assert!(scans.note(1, servers("z", true)));
        assert_eq!(wanted(&scans), [Some(2), None], "another zone may crowd any object");
    }

    #[test]
    fn the_slow_scan_goes_round() {
        let mut scans = Scans::default();
        assert_eq!(scans.next(), Some((false, None, 0)));
        scans.scanned(false, None, Some(9));
        assert_eq!(scans.next(), None, "not so soon");
        scans.slow_last = None;
        assert_eq!(scans.next(), Some((false, None, 9)));
    }
}
