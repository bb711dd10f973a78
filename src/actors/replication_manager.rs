//! The `ReplicationManager`: brings objects back to their number of copies, and trims what is too many.
//!
//! It works through the repair queue, most endangered first. What belongs into the queue is found by scans: of a
//! server's objects when the server is gone, is back, or drains; of everything when this name server begins to
//! act or a server is new; and slowly, for ever, for whatever the rest has missed.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::context::Context;
use super::pass::{Timing, Work};
use super::pass_report::PassReport;
use super::rebalance::{self, Rebalancing};
use super::scans::Scans;
use super::transfers::{Transfers, carry};
use crate::db::repair::{self, Rules, server_facts};
use crate::db::server::{self, ServerView};
use crate::db::{counts, scan};
use crate::decisions::repair::{ServerFacts, paused};
use crate::types::Result;
use crate::types::api::{AdminState, Health};

/// Pages that one pass scans.
const SCAN_PAGES_MAX: usize = 8;

/// How long a draining server may take to say whether uploads are under way.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// The work of the actor.
pub struct Replicate {
    context: Context,
    transfers: Transfers,
    scans: Arc<Mutex<Scans>>,
    rebalancing: Rebalancing,
}

impl Replicate {
    /// A pass each second, and whenever a transfer has ended.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(1), deadline: Duration::from_secs(60) };

    /// With nothing under way.
    pub fn new(context: Context, transfers: Transfers) -> Self {
        Self { context, transfers, scans: Arc::default(), rebalancing: Rebalancing::default() }
    }
}

impl Work for Replicate {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone(), self.transfers.clone(), self.scans.clone(), self.rebalancing.clone()))
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

async fn pass(
    context: Context,
    transfers: Transfers,
    scans: Arc<Mutex<Scans>>,
    rebalancing: Rebalancing,
) -> Result<PassReport> {
    let Some(held) = context.standing.held() else {
        transfers.forget_ended();
        return Ok(context.standby());
    };
    if let Some(report) = context.hindrance().await? {
        return Ok(report);
    }
    // The health that the database has may be old: a new holder of the lease looks first.
    let watched_for = TimeDelta::from_std(held.since.elapsed()).unwrap_or(TimeDelta::MAX);
    if watched_for < context.settings.down_after {
        return Ok(PassReport::noting("look around first"));
    }
    let rules = rules(&context);
    let views = context.fresh_servers().await?;
    let facts = server_facts(&views, Utc::now().naive_utc(), rules.repair_delay);
    scans.lock().note(held.term, &facts);
    // A page that cannot be read keeps nobody from being repaired.
    let scanned = scan_pages(&context, &scans, rules).await;
    let pause =
        paused(views.iter().map(|view| (view.health_of_copies(), view.admin_state)), context.settings.mass_down_share);
    let mut report = work(&context, &transfers, rules, pause.is_some(), |servers| {
        scans.lock().note(held.term, servers);
    })
    .await?;
    report.counts.push(("servers drained", finish_drains(&context, &views).await?));
    report.note = pause.is_some().then_some("paused: too many servers are down");
    let moved = rebalance::step(&context, &transfers, &rebalancing, rules, &views, (held.term, pause)).await?;
    report.counts.push(("copies begun to be moved", moved.begun));
    let (queued, scanning) = scanned?;
    report.counts.push(("queued by scans", queued));
    report.more |= scanning || moved.more;
    Ok(report)
}

/// Scans some pages. Answers how many objects were queued, and whether there is more to scan at once.
async fn scan_pages(context: &Context, scans: &Mutex<Scans>, rules: Rules) -> Result<(usize, bool)> {
    let scans = || scans.lock();
    let mut queued = 0;
    for _ in 0..SCAN_PAGES_MAX {
        let Some((fast, range, after)) = scans().next_page() else { break };
        let page = context.db.read(move |connection| scan::scan(connection, range, after, &rules)).await?;
        let next = page.next;
        if !page.needy.is_empty() || !page.ready.is_empty() {
            queued += context.act(move |connection| scan::note_scanned(connection, &page)).await?;
        }
        scans().scanned(fast, range, next);
        if !fast {
            break;
        }
    }
    let more = scans().is_busy();
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

/// One transaction on the queue, and the start of what it decided. When something has to wait, `decided_by` is told for
/// which servers to become others: they may have been these for a moment only.
async fn work(
    context: &Context,
    transfers: &Transfers,
    rules: Rules,
    paused: bool,
    decided_by: impl FnOnce(&[ServerFacts]),
) -> Result<PassReport> {
    let settings = &context.settings;
    // Given back, should this end before they are written down.
    let ended = transfers.take_ended();
    let (carried, room) =
        (transfers.carried(), transfers.room(settings.repair_transfers, settings.repair_bytes_per_second));
    let noted = ended.all().to_vec();
    let done =
        context.act(move |connection| repair::work_through(connection, &rules, &noted, &carried, room, paused)).await?;
    for (transfer, error) in
        ended.noted().iter().filter_map(|ended| Some((&ended.transfer, ended.outcome.as_ref().err()?)))
    {
        log::warn!("copying {} to {} failed: {}", transfer.object, transfer.target.url, error.chain());
    }
    if done.copied > 0 {
        crate::types::failpoint::REPAIR_NOTED.passed();
    }
    if done.waiting > 0 {
        decided_by(&done.servers);
    }
    transfers.go_on_behind(done.behind);
    let started = done.transfers.len();
    for transfer in done.transfers {
        crate::types::failpoint::REPAIR_PLANNED.passed();
        transfers.start(transfer.clone(), carry(context.clone(), transfer));
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
        note: None,
    })
}
