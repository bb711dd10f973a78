//! `report`: gathers what is known and has it judged ([`crate::decisions::verdict`]). It answers in any state, also when the
//! database does not.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use chrono::{NaiveDateTime, TimeDelta, Utc};

use super::auth::Bearer;
use super::state::{App, Data};
use crate::db::cluster::{self, ClusterState};
use crate::db::lately::{Lately, lately, lost_labels};
use crate::db::report::{self as counts, Counts};
use crate::db::rows::{RebalanceRow, ServerHealthRow};
use crate::db::server::ServerView;
use crate::decisions::certificate;
use crate::decisions::verdict::{
    Counted, Database, Facts, Failing, Knocking, Rebalancing, Server, begins_in, judge, pause, problems, span, word,
};
use crate::types::api::*;
use crate::types::{Error, Mode, Result, ServerId, Version};

/// The mode of a cluster whose database is damaged: read-only, and nothing says more than that there is a way out.
pub(super) const DAMAGED: &str = "damaged";

/// How long the database may take for what is quickly told.
const DATABASE_TIME_MAX: Duration = Duration::from_secs(2);
/// A lease that has ended for longer is one that nobody takes.
const LEADERLESS_MIN: TimeDelta = TimeDelta::seconds(4);

/// How the database sees the cluster, without counting.
type Seen = (ClusterState, Lately, Arc<Vec<ServerView>>);

/// Whether data is in danger, and why.
#[utoipa::path(get, path = "/api/v1/report", tag = "operation", responses((status = 200, body = Report)))]
pub async fn report(bearer: Bearer, app: Data) -> Result<HttpResponse> {
    let seen = look(&app).await;
    // Whoever may start a restore may see that one is needed, and nothing else.
    if seen.as_ref().is_ok_and(|(state, ..)| state.mode != Mode::Restoring) {
        bearer.at_all()?;
    }
    let fresh = async |seen: &Seen| {
        let labels = |counted: &Counts| counted.lost > 0;
        let read = app.context.db.read(move |connection| {
            let counted = counts::counts(connection)?;
            let lost = if labels(&counted) { lost_labels(connection)? } else { Vec::new() };
            Ok((counted, lost))
        });
        if tells(&seen.0) {
            read.await
        } else {
            Err(Error::unavailable("nobody can tell while the mode is not normal"))
        }
    };
    let counted = match &seen {
        Ok(seen) => fresh(seen).await,
        Err(error) => Err(error.clone()),
    };
    let facts = facts(&app, &seen, counted.as_ref().map(|(counted, labels)| (counted, labels.as_slice())));
    Ok(HttpResponse::Ok().json(told(&app, &facts, &seen, counted.ok().map(|(counted, _)| counted))))
}

/// The troubles, by counts that are a few seconds old: for metrics.
pub async fn troubles(app: &App) -> Vec<Trouble> {
    let seen = look(app).await;
    let counted = match &seen {
        Ok((state, ..)) if tells(state) => {
            let counted = tokio::time::timeout(DATABASE_TIME_MAX, app.recent_counts()).await;
            counted.unwrap_or_else(|_| Err(Error::unavailable("the database did not answer in time")))
        }
        _ => Err(Error::unavailable("nobody can tell")),
    };
    judge(&facts(app, &seen, counted.as_ref().map(|counted| (counted, &[][..]))))
}

fn tells(state: &ClusterState) -> bool {
    state.mode == Mode::Normal
}

/// What the database says, if it says anything in time.
async fn look(app: &App) -> Result<Seen> {
    if let Some(trouble) = app.context.db.soundness().trouble() {
        return Err(Error::unavailable(trouble.sentence.clone()));
    }
    let look = async {
        let (state, lately) =
            app.context.db.read(|connection| Ok((cluster::state(connection)?, lately(connection)?))).await?;
        Ok((state, lately, app.context.fresh_servers().await?))
    };
    match tokio::time::timeout(DATABASE_TIME_MAX, look).await {
        Ok(seen) => seen,
        Err(_) => Err(Error::unavailable(format!("it did not answer within {} s", DATABASE_TIME_MAX.as_secs()))),
    }
}

fn facts(app: &App, seen: &Result<Seen>, counted: Result<(&Counts, &[String]), &Error>) -> Facts {
    let (context, now) = (&app.context, app.context.standing.now());
    let announced = &app.restores.announced;
    let restore = app.restores.status();
    let nothing = Lately { now: now.naive_utc(), created: now.naive_utc(), copies_wanted: 1, ..Lately::default() };
    let lately = seen.as_ref().map_or(&nothing, |(_, lately, _)| lately);
    let state = seen.as_ref().ok().map(|(state, ..)| state);
    let views: &[ServerView] = seen.as_ref().map_or(&[], |(.., views)| views);
    let copies = lately.copies_wanted;
    let database = match (context.db.soundness().trouble(), seen) {
        (Some(trouble), _) => Database::Damaged(trouble.sentence.clone()),
        (None, Err(error)) => Database::Unreachable(error.chain()),
        (None, Ok(_)) => Database::Well,
    };
    let foreign = announced.knocking(state.map_or(uuid::Uuid::nil(), |state| state.cluster));
    let cluster_of_foreign = foreign.first().and_then(|first| first.cluster).unwrap_or_default().to_string();
    let leaderless = lately.lease_expires.map(|expires| lately.now - expires).filter(|since| *since > LEADERLESS_MIN);
    Facts {
        database,
        mode: state.map_or(Mode::Normal, |state| state.mode),
        mode_reason: state.and_then(|state| state.mode_reason.clone()),
        restore_step: (restore.state == "running").then_some(restore.step),
        age: lately.now - lately.created,
        servers: views.iter().map(|view| server(app, view, views, lately)).collect(),
        allow_same_host: context.settings.allow_same_host,
        write_needs: context.settings.min_write_copies_of(copies),
        copies_wanted: copies,
        counted: counted
            .map(|(counted, labels)| count(counted, labels, state, &journal_holders(app, views)))
            .map_err(Error::chain),
        mass_down_share: context.settings.mass_down_share,
        leaderless,
        rebalance: lately.rebalance.as_ref().map(|row| rebalancing(row, lately.now)),
        failing: app.board.all().into_iter().filter_map(failing).collect(),
        knocking: announced
            .refused()
            .into_iter()
            .map(|one| Knocking { name: one.name, url: one.url, why: one.why, still: one.still })
            .collect(),
        foreign: (!foreign.is_empty())
            .then(|| (foreign.into_iter().map(|request| request.name).collect(), cluster_of_foreign)),
        strangers: announced.strangers().iter().map(ToString::to_string).collect(),
        certificate: app.certificate.as_ref().and_then(|own| certificate::trouble(&own.status(), now)),
        no_room: context.db.room().trouble().map(|sentence| sentence.to_string()),
        disk: context.db.disk(),
        counts_mended: lately.mended.map(|mended| lately.now - mended),
    }
}

/// Those that keep the journal's copies, as far as this name server serves them.
fn journal_holders(app: &App, views: &[ServerView]) -> Vec<JournalHolder> {
    app.context.journal.told(|server| {
        let view = views.iter().find(|view| view.row.id == server.0);
        view.map_or_else(|| server.to_string(), |view| view.row.name.clone())
    })
}

/// What holds the journal's copies up on a server, if anything does.
fn behind(holder: &JournalHolder, copied: Version) -> Option<String> {
    let name = &holder.name;
    match (&holder.error, holder.snapshot_seconds, holder.version) {
        (Some(error), ..) => Some(format!("{name} does not take it ({error})")),
        (None, Some(seconds), None) => Some(format!(
            "{name} has had the first snapshot of the metadata on its way for {}",
            span(TimeDelta::milliseconds((seconds * 1e3) as i64))
        )),
        (None, None, None) => Some(format!("{name} waits for a snapshot of the metadata")),
        (None, _, Some(version)) if version <= copied => Some(format!("{name} has it up to change {version}")),
        _ => None,
    }
}

fn rebalancing(row: &RebalanceRow, now: NaiveDateTime) -> Rebalancing {
    Rebalancing {
        within_percent: row.within_percent as u32,
        moved_bytes: row.moved_bytes as u64,
        left_bytes: row.left_bytes.map(|bytes| bytes as u64),
        done_in: row.seconds_left(now).and_then(|seconds| TimeDelta::try_seconds(seconds.min(1e12) as i64)),
        note: row.note.clone(),
    }
}

fn failing(actor: ActorInfo) -> Option<Failing> {
    Some(Failing {
        since: Utc::now() - actor.failing_since?,
        actor: actor.name,
        failures: actor.failures,
        error: actor.last_error?,
    })
}

fn count(counted: &Counts, labels: &[String], state: Option<&ClusterState>, holders: &[JournalHolder]) -> Counted {
    let seconds = |seconds: f64| TimeDelta::try_milliseconds((seconds * 1e3) as i64).unwrap_or_default();
    let version = state.map_or(0, |state| state.version);
    Counted {
        objects: counted.objects,
        short: counted.under_replicated.clone(),
        lost: counted.lost,
        lost_labels: labels.to_vec(),
        queued: counted.repair.queued,
        queued_bytes: counted.repair.bytes,
        in_flight: counted.repair.in_flight,
        done_in: counted.repair.seconds_left.map(seconds),
        stuck: counted.repair.stuck.first().map(|one| (counted.repair.stuck.len() as u64, one.last_error.clone())),
        journal_lag: seconds(counted.journal.lag_seconds),
        journal_changes: (version - counted.journal.copied_version).max(0) as u64,
        journal_behind: holders.iter().filter_map(|holder| behind(holder, counted.journal.copied_version)).collect(),
        deletions: counted.outbox,
        deletions_age: seconds(counted.outbox_oldest_seconds),
    }
}

/// In what time the copies on a server count as gone, unless that is over.
pub fn given_up_in(view: &ServerView, now: NaiveDateTime, delay: TimeDelta) -> Option<TimeDelta> {
    let since = match (view.health, view.is_failing()) {
        (Health::Down, _) => view.since(),
        (_, true) => view.troubled(),
        _ => None,
    };
    Some(since? + delay - now).filter(|left| *left > TimeDelta::zero() && view.admin_state == AdminState::InService)
}

fn server(app: &App, view: &ServerView, all: &[ServerView], lately: &Lately) -> Server {
    let (id, now) = (view.row.id, lately.now);
    let checked = view.checked.as_ref();
    let of = |value: fn(&ServerHealthRow) -> i64| checked.map_or(0, value);
    let ago = |time: &NaiveDateTime| now - *time;
    let is_one_of_several = all.iter().filter(|other| other.row.name == view.row.name).count() > 1;
    let free_bytes = of(|row| row.free_bytes) as u64;
    let starts = app.restores.announced.starts(view.row.identity.parse().unwrap_or_default());
    Server {
        name: if is_one_of_several { ServerId(id).to_string() } else { view.row.name.clone() },
        host: view.row.host.clone(),
        age: now - view.row.registered,
        health: view.health,
        admin_state: view.admin_state,
        reason: checked.and_then(|checked| checked.reason.clone()),
        since: view.since().map_or(TimeDelta::zero(), |since| now - since),
        given_up_in: given_up_in(view, now, app.context.settings.repair_delay),
        syncing: view.is_syncing(),
        alarmed: view.is_alarmed(),
        trouble: view.trouble(),
        failing: view.is_failing(),
        downs: lately.downs.get(&id).into_iter().flatten().map(ago).collect(),
        starts: starts.into_iter().filter_map(|ago| TimeDelta::from_std(ago).ok()).collect(),
        clock_ahead_ms: of(|row| row.clock_ahead_ms),
        answer_ms: of(|row| row.answer_ms),
        capacity_bytes: of(|row| row.capacity_bytes) as u64,
        free_bytes,
        full_in: checked.and_then(|checked| checked.filling(now).full_in(now.and_utc(), free_bytes)),
        corrupt_lately: lately.corrupt.get(&id).copied().unwrap_or(0),
        drain_left: lately.drain_left.get(&id).copied().unwrap_or(0),
    }
}

/// The report, by what was judged.
fn told(app: &App, facts: &Facts, seen: &Result<Seen>, counted: Option<Counts>) -> Report {
    let troubles = judge(facts);
    let with = |health: Health| facts.servers.iter().filter(|server| server.health == health).count() as u32;
    let mode = match (&facts.database, app.restores.status().state == "running") {
        (Database::Well, _) => facts.mode.word().into(),
        (_, true) => "restoring".into(),
        (Database::Damaged(_), _) => DAMAGED.into(),
        (Database::Unreachable(_), _) => "unknown".into(),
    };
    let holders = journal_holders(app, seen.as_ref().map_or(&[], |(.., views)| views));
    let is_counted = counted.is_some();
    let counted = counted.unwrap_or_default();
    let mut repair = counted.repair;
    repair.paused = pause(&facts.servers, facts.mass_down_share).filter(|_| is_counted);
    let sum = |of: fn(&CopiesCount) -> u64| counted.under_replicated.iter().map(of).sum::<u64>();
    repair.waiting = sum(|row| row.objects).saturating_sub(repair.queued);
    repair.waiting_bytes = sum(|row| row.bytes).saturating_sub(repair.bytes);
    repair.begins_seconds = begins_in(&facts.servers).map(|left| left.num_milliseconds() as f64 / 1e3);
    let missing = counted.under_replicated.iter().filter(|row| row.copies == 0).map(|row| row.objects).sum();
    Report {
        verdict: word(&troubles).into(),
        problems: problems(&troubles),
        troubles,
        counted: is_counted,
        servers_live: with(Health::Live),
        servers_suspect: with(Health::Suspect),
        servers_down: with(Health::Down),
        objects: counted.objects,
        bytes: counted.bytes,
        under_replicated: counted.under_replicated,
        missing_objects: missing,
        outbox: counted.outbox,
        repair,
        lost_if_died: counted.lost_if_died,
        journal: JournalHealth { holders, ..counted.journal },
        version: seen.as_ref().map_or(0, |(state, ..)| state.version),
        mode,
    }
}
