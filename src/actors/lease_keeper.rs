//! The `LeaseKeeper`: holds the lease or waits for it, and watches that the database forgets nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::context::Context;
use super::pass::{Timing, Work};
use super::pass_report::PassReport;
use super::standing::LEASE_TTL;
use crate::db::cluster::{self, ClusterState};
use crate::db::damage::Trouble;
use crate::db::{DatabaseUrl, dialect, events, journal, lease};
use crate::types::{ErrorCode, EventKind, Mode, Result, Version};

/// Taken off the time for which the lease is believed, for what a round trip and a scheduler may take.
const CAUTION: Duration = Duration::from_secs(1);

/// The work of the actor.
pub struct KeepLease {
    context: Context,
    seen: Arc<Mutex<Option<Seen>>>,
}

/// The newest change that this process knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    history: uuid::Uuid,
    version: Version,
    tip: Vec<u8>,
}

impl KeepLease {
    /// Renewed well within the time that it lasts.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(1), deadline: Duration::from_secs(6) };

    /// Without the lease.
    pub fn new(context: Context) -> Self {
        Self { context, seen: Arc::default() }
    }
}

/// Takes the lease at once: for a name server that is certainly the only one (a SQLite file is locked by its name
/// server), so that it need not wait for the end of the lease that it held before it was started again.
pub async fn take_at_once(context: &Context) -> Result<()> {
    let asked = Instant::now();
    let state = context.db.read(cluster::state).await?;
    context.standing.set_membership(state.cluster, state.epoch);
    context.standing.set_clock(state.now, asked);
    let (asked, holder) = (Instant::now(), context.standing.holder.to_string());
    let ttl = TimeDelta::from_std(LEASE_TTL).unwrap_or(TimeDelta::seconds(8));
    let term = context.db.write(move |connection| lease::seize(connection, &holder, ttl)).await?;
    context.standing.took(term, asked + LEASE_TTL - CAUTION);
    announce(context, term).await
}

/// Lets the lease go at the end of the process, so that another name server need not wait for its end.
pub async fn let_go(context: &Context) {
    let holder = context.standing.holder.to_string();
    context.standing.lost();
    if let Err(error) = context.db.write(move |connection| lease::release(connection, &holder)).await {
        log::warn!("the lease could not be let go: {}", error.chain());
    }
}

impl Work for KeepLease {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone(), self.seen.clone()))
    }
}

async fn pass(context: Context, seen: Arc<Mutex<Option<Seen>>>) -> Result<PassReport> {
    if let Some(trouble) = context.db.soundness().trouble() {
        return stopped(&context, &trouble).await;
    }
    context.db.tend_room().await?;
    let asked = Instant::now();
    let state = context.db.read(cluster::state).await?;
    context.standing.set_clock(state.now, asked);
    watch(&context, &seen, &state).await?;
    context.standing.set_membership(state.cluster, state.epoch);
    let asked = Instant::now();
    let term = match acquire(&context).await {
        // The ballast was given up for it.
        Err(error) if error.code() == ErrorCode::OutOfSpace => acquire(&context).await?,
        term => term?,
    };
    match term {
        Some(term) => {
            if context.standing.took(term, asked + LEASE_TTL - CAUTION) {
                announce(&context, term).await?;
            }
            Ok(PassReport { note: Some("holds the lease"), ..PassReport::of(vec![("term", term as usize)]) })
        }
        None => {
            if context.standing.lost() {
                log::warn!("another name server holds the lease now; this one stands by");
            }
            Ok(PassReport::standby())
        }
    }
}

async fn acquire(context: &Context) -> Result<Option<i64>> {
    let holder = context.standing.holder.to_string();
    let ttl = TimeDelta::from_std(LEASE_TTL).unwrap_or(TimeDelta::seconds(8));
    context.db.write(move |connection| lease::acquire(connection, &holder, ttl)).await
}

/// A damaged database is not acted on. On Postgres there may be other name servers that have not met the damage: they are
/// told by the mode, as far as the database still takes it; and one of them may have restored it meanwhile.
async fn stopped(context: &Context, trouble: &Trouble) -> Result<PassReport> {
    context.standing.lost();
    let is_shared = matches!(context.db.url(), DatabaseUrl::Postgres(_));
    if is_shared && let Ok(state) = context.db.read(cluster::state).await {
        let (_, epoch) = context.membership();
        if state.mode == Mode::Normal && epoch > 0 && state.epoch > epoch {
            log::warn!("the metadata was restored into epoch {}: the damaged tables are gone", state.epoch);
            context.db.soundness().clear();
        } else if state.mode == Mode::Normal {
            let reason = trouble.sentence.clone();
            let noted = context.db.note_damage(move |connection| cluster::protect(connection, &state, &reason)).await;
            noted.inspect_err(|error| log::warn!("other name servers could not be told: {}", error.chain())).ok();
        }
    }
    Ok(context.standby())
}

async fn announce(context: &Context, term: i64) -> Result<()> {
    crate::types::failpoint::LEASE_TAKEN.passed();
    let detail = format!("a name server acts from now on, under term {term}");
    log::info!("{detail} (this one)");
    context
        .lead(move |connection| {
            let now = dialect::clock(connection)?;
            dialect::insert_events(connection, &[events::row(now, EventKind::LeaseTaken, detail)])?;
            Ok(())
        })
        .await
}

/// Rule 5: a database that has lost changes which this process has seen takes none until a person restores it.
async fn watch(context: &Context, seen: &Mutex<Option<Seen>>, state: &ClusterState) -> Result<()> {
    let now = Seen { history: state.history, version: state.version, tip: state.tip.clone() };
    let before = seen.lock().clone();
    if let Some(before) = before.filter(|before| before.history == now.history && *before != now) {
        let version = before.version;
        let tip = context.db.read(move |connection| Ok(journal::tip_at(connection, version)?)).await?;
        let differs = tip.is_some_and(|tip| tip != before.tip);
        if now.version < before.version || differs {
            let reason = format!(
                "the database has lost changes: it is at version {}, and this name server has seen version {version}; \
                 bring them back with `holdfast restore`",
                now.version
            );
            let judged = state.clone();
            if context.db.write(move |connection| cluster::protect(connection, &judged, &reason)).await? {
                log::error!("the database has lost changes; the cluster is read-only now");
            }
            // What was seen stays: it is the evidence.
            return Ok(());
        }
    }
    *seen.lock() = Some(now);
    Ok(())
}
