//! The `Auditor`: looks for damage of the database before anybody stumbles over it.
//!
//! Each minute it checks that cluster row, journal and tables belong together at the journal's end
//! ([`crate::db::check::end_fits`]); once a day SQLite checks all pages. What is found stops this name server at once
//! ([`crate::db::damage`]). Every name server looks, whether it holds the lease or not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::context::Context;
use super::pass::{PassReport, Timing, Work};
use crate::db::check;
use crate::types::Result;

/// From one look at the journal's end to the next. The first is before the name server serves, and so is that at all
/// pages.
const END_INTERVAL: Duration = Duration::from_secs(60);
/// From one check of all pages to the next.
const ALL_PAGES_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

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
}

impl Audit {
    /// A pass every few seconds; most have nothing to do.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(4), deadline: Duration::from_secs(30) };

    /// Just after the look before the first use.
    pub fn new(context: Context) -> Self {
        let now = Instant::now();
        Self { context, looked: Arc::new(Mutex::new(Looked { end: now, all_pages: now })) }
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
    let (last, now) = (*looked.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
    if now - last.end < END_INTERVAL {
        return Ok(PassReport::default());
    }
    context.db.read_snapshot(|connection| Ok(check::end_fits(connection)?)).await?;
    let all_pages = now - last.all_pages >= ALL_PAGES_INTERVAL;
    if all_pages {
        // Its outcome goes where all signs of damage go.
        drop(check::all_pages(context.db.url(), context.db.soundness()));
    }
    let all_pages = if all_pages { now } else { last.all_pages };
    *looked.lock().unwrap_or_else(PoisonError::into_inner) = Looked { end: now, all_pages };
    Ok(PassReport { counts: vec![("look at the journal's end", 1)], more: false })
}
