//! The `Auditor`: looks for damage of the database before anybody stumbles over it.
//!
//! Each minute it checks that cluster row, journal and tables belong together at the journal's end
//! ([`crate::db::check::end_fits`]); once a day SQLite checks all pages. What is found stops this name server at once
//! ([`crate::db::damage`]). Every name server looks, whether it holds the lease or not.
//!
//! The one that holds the lease also sums up the kept numbers each minute, and once a day begins to count everything anew
//! ([`crate::db::counts`]): a page in each pass, so that ten million objects take some hours and nobody notices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::context::Context;
use super::pass::{Timing, Work};
use super::pass_report::PassReport;
use crate::db::check;
use crate::db::counts::{self, Audited};
use crate::types::Result;

/// From one look at the journal's end to the next. The first is before the name server serves, and so is that at all
/// pages.
const END_INTERVAL: Duration = Duration::from_secs(60);
/// From one check of all pages to the next.
const ALL_PAGES_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// From one summing up of the kept numbers to the next.
const SUM_UP_INTERVAL: Duration = Duration::from_secs(60);
/// From the end of one audit of the kept numbers to the next; and to the first one after a start.
const COUNTS_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
const COUNTS_FIRST: Duration = Duration::from_secs(600);

/// The work of the actor.
pub struct Audit {
    context: Context,
    looked: Arc<Mutex<Looked>>,
}

/// When each look was begun last.
#[derive(Clone, Copy)]
struct Looked {
    end: Instant,
    all_pages: Instant,
    summed_up: Instant,
    /// When the numbers are audited next; at once, when an audit was interrupted.
    counts_due: Instant,
}

impl Audit {
    /// A pass every few seconds; most have nothing to do.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(4), deadline: Duration::from_secs(30) };

    /// Just after the look before the first use.
    pub fn new(context: Context) -> Self {
        let now = Instant::now();
        Self {
            context,
            looked: Arc::new(Mutex::new(Looked {
                end: now,
                all_pages: now,
                summed_up: now,
                counts_due: now + COUNTS_FIRST,
            })),
        }
    }
}

impl Work for Audit {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone(), self.looked.clone()))
    }
}

async fn pass(context: Context, looked: Arc<Mutex<Looked>>) -> Result<PassReport> {
    if context.db.soundness().trouble().is_some() {
        return Ok(context.standby());
    }
    let mut report = PassReport::default();
    look(&context, &looked, &mut report).await?;
    count(&context, &looked, &mut report).await?;
    Ok(report)
}

/// Looks for damage.
async fn look(context: &Context, looked: &Mutex<Looked>, report: &mut PassReport) -> Result<()> {
    let (last, now) = (*looked.lock(), Instant::now());
    if now - last.end < END_INTERVAL {
        return Ok(());
    }
    context.db.read_snapshot(|connection| Ok(check::end_fits(connection)?)).await?;
    let all_pages = now - last.all_pages >= ALL_PAGES_INTERVAL;
    if all_pages {
        // Its outcome goes where all signs of damage go.
        drop(check::all_pages(context.db.url(), context.db.soundness()));
    }
    let all_pages = if all_pages { now } else { last.all_pages };
    let mut looked = looked.lock();
    (looked.end, looked.all_pages) = (now, all_pages);
    report.counts.push(("looks at the journal's end", 1));
    Ok(())
}

/// Sums up the kept numbers, and counts the next page anew.
async fn count(context: &Context, looked: &Mutex<Looked>, report: &mut PassReport) -> Result<()> {
    let (last, now) = (*looked.lock(), Instant::now());
    let sums_up = now - last.summed_up >= SUM_UP_INTERVAL;
    if !sums_up && now < last.counts_due || context.hindrance().await?.is_some() {
        return Ok(());
    }
    if sums_up {
        let summed = context.act(counts::fold).await?;
        let under_way = context.db.read(|connection| Ok(counts::audit_is_under_way(connection)?)).await?;
        let mut looked = looked.lock();
        looked.summed_up = now;
        if under_way {
            looked.counts_due = looked.counts_due.min(now);
        }
        report.counts.push(("rows of numbers summed up", summed));
    }
    if now < last.counts_due {
        return Ok(());
    }
    match context.act(|connection| counts::audit_page(connection, counts::AUDIT_ROWS)).await? {
        Audited::Busy => {}
        Audited::Page => report.counts.push(("pages counted anew", 1)),
        Audited::Done { differences } => {
            looked.lock().counts_due = now + COUNTS_INTERVAL;
            report.counts.push(("numbers put right", differences));
        }
    }
    Ok(())
}
