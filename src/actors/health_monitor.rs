//! The `HealthMonitor`: asks every storage server how it is, all at once, each with its own deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{NaiveDateTime, TimeDelta, Utc};
use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;

use super::context::Context;
use super::pass::{Timing, Work};
use super::pass_report::PassReport;
use crate::db::health::Seen;
use crate::db::rows::{EventRow, ServerHealthRow};
use crate::db::server::ServerView;
use crate::db::{cluster, events, health, journal};
use crate::decisions::certificate;
use crate::decisions::health::{Watched, after_check, is_apart, is_away, is_slow, round_counts};
use crate::types::api::{AdminState, Health};
use crate::types::storage_api::{JournalPosition, StorageStatus, Told};
use crate::types::{EventKind, Result, Time};

/// Free room and the time of the last answer are written when they are older than this, or health changes.
const REFRESH: TimeDelta = TimeDelta::seconds(10);
/// Longest time that one check may take.
const CHECK_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// The work of the actor. What it remembers between rounds is only what the database has too.
pub struct CheckServers {
    context: Context,
    memory: Arc<Mutex<Memory>>,
}

struct Memory {
    /// The term of the lease under which this was seen; a new holder of the lease begins anew.
    term: i64,
    /// Times are this instant's wall clock plus what a monotonic clock says, so that they never jump.
    started: (Time, Instant),
    /// When the round before ended.
    last_round: Option<Time>,
    watched: HashMap<i64, Watched>,
}

impl Memory {
    fn begin(&mut self, term: i64) {
        if self.term != term {
            (self.term, self.last_round) = (term, None);
            self.watched.clear();
        }
    }

    fn now(&self) -> Time {
        self.started.0 + TimeDelta::from_std(self.started.1.elapsed()).unwrap_or_default()
    }
}

impl CheckServers {
    /// With an empty memory: the health that the database has counts.
    pub fn new(context: Context) -> Self {
        let memory =
            Memory { term: 0, started: (Utc::now(), Instant::now()), last_round: None, watched: HashMap::new() };
        Self { context, memory: Arc::new(Mutex::new(memory)) }
    }

    /// A round each `interval`.
    pub fn timing(interval: Duration) -> Timing {
        Timing { interval, deadline: CHECK_TIMEOUT_MAX + Duration::from_secs(10) }
    }
}

impl Work for CheckServers {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(round(self.context.clone(), self.memory.clone()))
    }
}

/// What a check found.
enum Found {
    Answered(Box<StorageStatus>, Heard),
    Missed(String),
}

/// What was noticed while it answered.
struct Heard {
    took: Duration,
    /// How far its wall clock is ahead of the cluster's time.
    clock_ahead: TimeDelta,
}

impl Found {
    fn journal(&self) -> Option<JournalPosition> {
        match self {
            Self::Answered(status, _) => status.journal.clone(),
            Self::Missed(_) => None,
        }
    }
}

async fn round(context: Context, memory: Arc<Mutex<Memory>>) -> Result<PassReport> {
    let Some(held) = context.standing.held() else { return Ok(context.standby()) };
    memory.lock().begin(held.term);
    let started_late = started_late(&context, &memory);
    let servers = context.fresh_servers().await?;
    let timeout = context.settings.health_interval.min(CHECK_TIMEOUT_MAX);
    let belong = servers.iter().filter(|server| server.admin_state != AdminState::Drained).count() as i64;
    let told = Told { version: context.db.read(journal::told_version).await?, servers: belong };
    let asked = Instant::now();
    let checks = servers.iter().map(|server| check(&context, server, timeout, told));
    let found = join_all(checks).await;
    // Each answer was waited for so long; what took longer is this process's own trouble.
    let took = TimeDelta::from_std(asked.elapsed()).unwrap_or(TimeDelta::MAX);
    let late = started_late || !round_counts(took, TimeDelta::from_std(timeout).unwrap_or_default());
    protect(&context, &servers, &found).await?;
    // From here on they may be compared, repaired, told to delete: the database is as new as anybody knows.
    context.standing.looked_around(held.term);
    let rows = judge(&context, &memory, &servers, found, late);
    let (changed, written) = (rows.iter().filter(|seen| seen.health_changed).count(), rows.len());
    let troubled = servers.iter().filter(|server| server.trouble().is_some()).count();
    let counts = vec![("servers", servers.len()), ("changes of health", changed), ("in trouble", troubled)];
    let mut report = PassReport::of(counts);
    if written > 0 {
        for event in rows.iter().flat_map(|seen| &seen.events) {
            log::warn!("{}", event.detail);
        }
        context.lead(move |connection| health::save(connection, &rows)).await?;
        context.fresh_servers().await?;
        report.counts.push(("rows written", written));
    }
    Ok(report)
}

/// Rule 5: storage servers that know more than the database are the evidence that it was set back. This is looked at
/// before any of them counts as live, so nothing is written or put aside meanwhile.
async fn protect(context: &Context, servers: &[ServerView], found: &[Found]) -> Result<()> {
    // Read after the answers: a change in between cannot make them look newer than it.
    let copies: Vec<_> = found.iter().map(Found::journal).collect();
    let (state, parted) = context
        .db
        .read(move |connection| {
            let state = cluster::state(connection)?;
            let mut parted = Vec::with_capacity(copies.len());
            for copy in copies {
                parted.push(match copy {
                    Some(copy) => journal::has_parted(connection, &state, &copy)?,
                    None => false,
                });
            }
            Ok((state, parted))
        })
        .await?;
    let knows_more = |(found, parted): (&Found, bool)| match found {
        Found::Answered(status, _) if status.cluster == Some(state.cluster) => {
            let held = status.journal.as_ref().filter(|position| position.history == state.history);
            let version = held.map_or(0, |position| position.version).max(status.heard_version);
            if parted {
                Some("has a copy of the journal that has gone another way".to_string())
            } else if status.epoch > state.epoch {
                Some(format!("has seen epoch {}, the database is in epoch {}", status.epoch, state.epoch))
            } else {
                (version > state.version)
                    .then(|| format!("knows of version {version}, the database is at version {}", state.version))
            }
        }
        _ => None,
    };
    let mut answers = servers.iter().zip(found.iter().zip(parted));
    let Some((server, what)) = answers.find_map(|(server, answer)| Some((server, knows_more(answer)?))) else {
        return Ok(());
    };
    let reason = format!(
        "the storage server {} {what}: the database was set back; bring it forward with `holdfast restore`",
        server.row.name
    );
    context.protect(state, &reason).await
}

async fn check(context: &Context, server: &ServerView, timeout: Duration, told: Told) -> Found {
    let (cluster, _) = context.membership();
    let asked = Instant::now();
    match context.storage.check(&server.row.peer(), timeout, Some(told)).await {
        Err(error) => Found::Missed(error.message().to_string()),
        Ok(status) if status.identity.to_string() != server.row.identity => {
            Found::Missed(format!("another server (identity {}) answers at {}", status.identity, server.row.url))
        }
        Ok(status) if status.cluster != Some(cluster) => {
            Found::Missed(format!("the server at {} belongs to another cluster", server.row.url))
        }
        Ok(status) if status.trouble.as_ref().is_some_and(|trouble| is_away(trouble.code)) => {
            Found::Missed(reason_of(&status, context.standing.now()).unwrap_or_default())
        }
        Ok(status) => {
            let took = asked.elapsed();
            // It looked at its clock some time in between.
            let then = context.standing.now() - TimeDelta::from_std(took / 2).unwrap_or_default();
            let clock_ahead = status.time.map_or(TimeDelta::zero(), |time| time - then);
            Found::Answered(Box::new(status), Heard { took, clock_ahead })
        }
    }
}

/// Whether this round starts later after the end of the one before than it should: then this name server was
/// in trouble, and a server that does not answer may be in none.
fn started_late(context: &Context, memory: &Mutex<Memory>) -> bool {
    let memory = memory.lock();
    let interval = TimeDelta::from_std(context.settings.health_interval).unwrap_or(TimeDelta::seconds(2));
    memory.last_round.is_some_and(|last| !round_counts(memory.now() - last, interval))
}

/// All that is wrong with a server, in its own words: the disk's trouble and the certificate's, which have nothing to do
/// with each other.
fn reason_of(status: &StorageStatus, now: Time) -> Option<String> {
    let disk = status.trouble.as_ref().map(|trouble| trouble.message.clone());
    let certificate = status.certificate.as_ref().and_then(|shown| certificate::trouble(shown, now));
    let reasons: Vec<String> = disk.into_iter().chain(certificate).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// The rows to write, each with what people are told.
fn judge(
    context: &Context,
    memory: &Mutex<Memory>,
    servers: &[ServerView],
    found: Vec<Found>,
    late: bool,
) -> Vec<Seen> {
    let mut memory = memory.lock();
    let now = memory.now();
    memory.last_round = Some(now);
    let mut rows = Vec::new();
    for (server, found) in servers.iter().zip(found) {
        if late && matches!(found, Found::Missed(_)) {
            continue;
        }
        let before = memory
            .watched
            .get(&server.row.id)
            .copied()
            .filter(|watched| watched.health == server.health)
            .unwrap_or(Watched { health: server.health, missing_since: None });
        let answered = matches!(found, Found::Answered(..));
        let after = after_check(before, answered, now, context.settings.down_after);
        memory.watched.insert(server.row.id, after);
        rows.extend(row(server, after.health, found, now.naive_utc()));
    }
    memory.watched.retain(|id, _| servers.iter().any(|server| server.row.id == *id));
    rows
}

/// A server's new row, when there is something new in it.
fn row(server: &ServerView, health: Health, found: Found, now: NaiveDateTime) -> Option<Seen> {
    let before = server.checked.as_ref()?;
    let changed = server.health != health;
    let mut row = ServerHealthRow { health, ..before.clone() };
    let mut begins_anew = health == Health::Down;
    match found {
        Found::Answered(status, heard) => {
            row.trouble = status.trouble.as_ref().map(|trouble| trouble.code.word().into());
            row.reason = reason_of(&status, now.and_utc());
            if row.boot_id != status.boot_id.to_string() {
                // It was started again; its registration, which notes the new boot, is on its way.
                begins_anew = true;
            }
            // A file system may say anything of its size.
            row.capacity_bytes = i64::try_from(status.capacity_bytes).unwrap_or(i64::MAX);
            row.free_bytes = i64::try_from(status.free_bytes).unwrap_or(i64::MAX);
            row.last_seen = Some(now);
            row.scrub_alarm = status.scrub_alarm;
            row.index_changes = status.index_changes;
            row.stored_bytes = status.bytes as i64;
            row.scrubbed = status.scrubbed.map(|time| time.naive_utc());
            row.clock_ahead_ms = heard.clock_ahead.num_milliseconds();
            row.answer_ms = heard.took.as_millis() as i64;
            let filling = before.filling(now).after(now.and_utc(), status.free_bytes);
            row.fill_since = Some(filling.since.naive_utc());
            row.fill_free_bytes = filling.free_bytes as i64;
            row.fill_bytes_per_day = filling.bytes_per_day;
        }
        Found::Missed(reason) => row.reason = Some(reason),
    }
    let stale = row.last_seen.zip(before.last_seen).is_none_or(|(new, old)| new - old >= REFRESH);
    let is_undone = begins_anew && !before.synced_boot.is_empty();
    if !changed
        && !is_undone
        && row.scrub_alarm == before.scrub_alarm
        && is_apart(row.clock_ahead_ms) == is_apart(before.clock_ahead_ms)
        && is_slow(row.answer_ms) == is_slow(before.answer_ms)
        // An older copy of its directory is told by this: it must not be older than the last round.
        && row.index_changes == before.index_changes
        && (&row.reason, &row.trouble) == (&before.reason, &before.trouble)
        && !(stale && row.last_seen != before.last_seen)
    {
        return None;
    }
    let event =
        |kind: EventKind, detail: String| EventRow { server: Some(server.row.id), ..events::row(now, kind, detail) };
    let mut told = Vec::new();
    let name = &server.row.name;
    if changed {
        let why = row.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let detail = format!("storage server {name} is {} (it was {}){why}", row.health, before.health);
        let kind = match health {
            Health::Live => EventKind::ServerLive,
            Health::Suspect => EventKind::ServerSuspect,
            Health::Down => EventKind::ServerDown,
        };
        told.push(event(kind, detail));
    }
    match (&row.trouble, &before.trouble) {
        (Some(trouble), before) if before.as_ref() != Some(trouble) => {
            let why = row.reason.as_deref().unwrap_or(trouble);
            told.push(event(EventKind::ServerTrouble, format!("storage server {name} cannot keep files: {why}")));
        }
        (None, Some(_)) => {
            told.push(event(EventKind::ServerWell, format!("storage server {name} can keep files again")))
        }
        _ => {}
    }
    Some(Seen { row, health_changed: changed, begins_anew, events: told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_and_a_certificate_are_both_told() {
        let id = uuid::Uuid::nil();
        let status = |trouble: bool, until: &str| -> StorageStatus {
            let trouble = trouble.then(|| serde_json::json!({ "code": "read_only", "message": "it takes no writes" }));
            serde_json::from_value(serde_json::json!({
                "status": "ok", "trouble": trouble, "identity": id, "cluster": id, "server": null, "epoch": 1,
                "certificate": { "from": "2026-01-01T00:00:00Z", "until": until }, "boot_id": id, "capacity_bytes": 1,
                "free_bytes": 1, "objects": 0, "bytes": 0, "program_version": "0",
            }))
            .unwrap()
        };
        let now = "2026-03-01T00:00:00Z".parse().unwrap();
        let (soon, late) = ("2026-03-02T00:00:00Z", "2027-03-02T00:00:00Z");
        assert_eq!(reason_of(&status(false, late), now), None);
        assert_eq!(reason_of(&status(true, late), now).as_deref(), Some("it takes no writes"));
        assert!(reason_of(&status(false, soon), now).unwrap().starts_with("its TLS certificate ends on"));
        let both = reason_of(&status(true, soon), now).unwrap();
        assert!(both.starts_with("it takes no writes; its TLS certificate ends on 2026-03-02"), "{both}");
    }
}
