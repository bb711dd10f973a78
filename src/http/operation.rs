//! How the cluster is: status, metrics, report, actors, events, and one file explained.

use actix_web::{HttpRequest, HttpResponse, get, web};

use super::auth;
use super::files::stat_path;
use super::gauges::Gauges;
use super::state::{App, Data};
use crate::db::events::Filter;
use crate::db::server::{self, ServerView};
use crate::db::{cluster, events as stored_events, report as counts};
use crate::decisions::certificate;
use crate::decisions::repair::paused;
use crate::types::api::*;
use crate::types::limits::LIST_PAGE_ROWS_MAX;
use crate::types::{Error, Result};
use crate::web::Metrics;

/// Events of one page, unless asked otherwise.
const EVENTS_DEFAULT: usize = 50;
/// A journal that is behind its copies for longer is a problem. In the ordinary course it is about a second.
const JOURNAL_LAG_ALARM_SECONDS: f64 = 15.0;

/// Whether this name server can serve.
#[utoipa::path(tag = "operation", responses((status = 200, body = NameServerStatus)))]
#[get("/status")]
pub async fn status(app: Data) -> Result<HttpResponse> {
    let state = app.context.db.read(cluster::state).await?;
    let ready = |server: &&ServerView| server.health == Health::Live && !server.is_syncing();
    let live = app.context.servers().await?.iter().filter(ready).count();
    Ok(HttpResponse::Ok().json(NameServerStatus {
        status: "ok".into(),
        program_version: env!("CARGO_PKG_VERSION").into(),
        cluster: state.cluster,
        epoch: state.epoch,
        version: state.version,
        mode: state.mode,
        servers_live: live as u32,
        time: state.now,
    }))
}

/// Whether data is in danger.
#[utoipa::path(tag = "operation", responses((status = 200, body = Report)))]
#[get("/report")]
pub async fn report(request: HttpRequest, app: Data) -> Result<HttpResponse> {
    auth::allow_cluster(&request, &app, Role::Reader).await?;
    Ok(HttpResponse::Ok().json(make_report(&app).await?))
}

async fn make_report(app: &App) -> Result<Report> {
    let (state, counted, lost_if_died) = app
        .context
        .db
        .read(|connection| Ok((cluster::state(connection)?, counts::counts(connection)?, counts::losses(connection)?)))
        .await?;
    let servers = app.context.fresh_servers().await?;
    let with = |health: Health| servers.iter().filter(|server| server.health == health).count() as u32;
    let missing = counted.under_replicated.iter().filter(|row| row.copies == 0).map(|row| row.objects).sum();
    let mut repair = counted.repair.clone();
    repair.paused =
        paused(servers.iter().map(|view| (view.health, view.admin_state)), app.context.settings.mass_down_share);
    let mut problems = endangered(&counted.under_replicated);
    let danger = counted.under_replicated.iter().any(|row| row.copies <= 1);
    problems.extend(repair.paused.clone());
    if !repair.stuck.is_empty() {
        problems.push(format!("the repair of {} objects or more keeps failing; they are listed", repair.stuck.len()));
    }
    problems.extend(servers.iter().filter_map(server_problem));
    let own = app.certificate.as_ref().and_then(|own| certificate::trouble(&own.status(), state.now));
    problems.extend(own.map(|trouble| format!("this name server: {trouble}")));
    if state.mode != "normal" {
        problems.push(format!("the cluster is {}: {}", state.mode, cluster::refusal(state.mode_reason.as_deref())));
    }
    if counted.journal.lag_seconds > JOURNAL_LAG_ALARM_SECONDS {
        problems.push(format!(
            "changes of the last {:.0} s are in the database only: the copies of its journal are behind",
            counted.journal.lag_seconds
        ));
    }
    let verdict = match (danger, problems.is_empty()) {
        (true, _) => "danger",
        (false, false) => "degraded",
        (false, true) => "healthy",
    };
    Ok(Report {
        verdict: verdict.into(),
        problems,
        servers_live: with(Health::Live),
        servers_suspect: with(Health::Suspect),
        servers_down: with(Health::Down),
        objects: counted.objects,
        bytes: counted.bytes,
        under_replicated: counted.under_replicated,
        missing_objects: missing,
        outbox: counted.outbox,
        repair,
        lost_if_died,
        journal: counted.journal,
        version: state.version,
        mode: state.mode,
    })
}

fn endangered(short: &[CopiesCount]) -> Vec<String> {
    let sentence = |row: &CopiesCount| match row.copies {
        0 => format!("{} objects have no copy on a server that answers", row.objects),
        1 => format!("{} objects hang on a single copy", row.objects),
        copies => format!("{} objects have {copies} copies and want more", row.objects),
    };
    short.iter().map(sentence).collect()
}

fn server_problem(server: &ServerView) -> Option<String> {
    let name = &server.row.name;
    let reason = server.checked.as_ref().and_then(|checked| checked.reason.as_deref());
    if server.health != Health::Live {
        let health = format!("{:?}", server.health).to_lowercase();
        return Some(format!("storage server {name} is {health}: {}", reason.unwrap_or("it was never checked")));
    }
    if server.is_alarmed() {
        return Some(format!(
            "storage server {name} found so many corrupt copies at once that it no longer trusts its disk or its \
             memory; it gets no new files: look at its hardware and drain it, or start it again if it is well"
        ));
    }
    if let Some(reason) = reason {
        return Some(format!("storage server {name}: {reason}"));
    }
    server.is_syncing().then(|| format!("storage server {name} is back, and its inventory is still being compared"))
}

/// The actors of this name server.
#[utoipa::path(tag = "operation", responses((status = 200, body = ActorsResponse)))]
#[get("/actors")]
pub async fn actors_list(request: HttpRequest, app: Data) -> Result<HttpResponse> {
    auth::allow_cluster(&request, &app, Role::Reader).await?;
    Ok(HttpResponse::Ok().json(ActorsResponse { actors: app.board.all() }))
}

/// What happened, the newest first.
#[utoipa::path(tag = "operation", params(EventsQuery), responses((status = 200, body = EventsResponse)))]
#[get("/events")]
pub async fn events_list(request: HttpRequest, query: web::Query<EventsQuery>, app: Data) -> Result<HttpResponse> {
    auth::allow_cluster(&request, &app, Role::Reader).await?;
    let limit = query.limit.unwrap_or(EVENTS_DEFAULT).clamp(1, LIST_PAGE_ROWS_MAX);
    let EventsQuery { before, object, server: named, kind, .. } = query.into_inner();
    let events = app
        .context
        .db
        .read(move |connection| {
            let server = named.map(|named| server::resolve(connection, &named)).transpose()?;
            let filter = Filter { object: object.map(|id| id.0), server: server.map(|id| id.0), kind };
            stored_events::filtered(connection, &filter, before, limit)
        })
        .await?;
    let next = if events.len() == limit { events.last().map(|event| event.id) } else { None };
    Ok(HttpResponse::Ok().json(EventsResponse { events, next }))
}

/// One file explained: where its copies are, whether it is in danger, what happened to it.
#[utoipa::path(tag = "operation", params(PathQuery), responses((status = 200, body = Why)))]
#[get("/why")]
pub async fn why(request: HttpRequest, query: web::Query<PathQuery>, app: Data) -> Result<HttpResponse> {
    auth::allow(&request, &app, Role::Reader, &query.path).await?;
    let (entry, _) = stat_path(&app, &query.path).await?;
    let Some(object) = entry.object else {
        return Err(Error::invalid(format!("{} is a directory; ask about a file", query.path)));
    };
    let events = app
        .context
        .db
        .read(move |connection| stored_events::page(connection, Some(object.0), None, EVENTS_DEFAULT))
        .await?;
    let mut findings = Vec::new();
    for replica in entry.replicas.iter().filter(|replica| replica.health != Health::Live) {
        findings.push(
            format!("the copy on {} cannot be counted on: the server is {:?}", replica.name, replica.health)
                .to_lowercase(),
        );
    }
    let (copies, wanted) = (entry.copies.unwrap_or(0), entry.copies_wanted);
    findings.push(match copies {
        0 => "no server that answers has a copy: it cannot be read now".into(),
        1 if wanted > 1 => format!("it hangs on a single copy of {wanted} wanted"),
        _ if copies < wanted => format!("{copies} of {wanted} copies wanted are there"),
        _ => format!("all {wanted} copies wanted are there"),
    });
    Ok(HttpResponse::Ok().json(Why { entry, findings, events }))
}

/// Prometheus metrics.
#[utoipa::path(tag = "operation", responses((status = 200, body = String, content_type = "text/plain")))]
#[get("/metrics")]
pub async fn metrics_text(app: Data, metrics: web::Data<Metrics>, gauges: web::Data<Gauges>) -> Result<HttpResponse> {
    let counted = app.recent_counts().await?;
    let healths: Vec<Health> = app.context.servers().await?.iter().map(|server| server.health).collect();
    gauges.set(&counted, &healths, &app.board.all());
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.text()?))
}
