//! How the cluster is: status, metrics, report, actors, events, and one file explained.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::auth::{self, Bearer};
use super::files::stat_path;
use super::gauges::Gauges;
use super::state::{App, Data};
use crate::actors::announced::knocking_problem;
use crate::actors::context::takes_files;
use crate::db::server::{self, ServerView};
use crate::db::timeline::{self, Filter};
use crate::db::{AnyConnection, cluster, outbox, removed, report as counts, tree};
use crate::decisions::certificate;
use crate::decisions::repair::paused;
use crate::types::api::*;
use crate::types::limits::LIST_PAGE_ROWS_MAX;
use crate::types::{DfsPath, Error, ErrorCode, EventKind, Result, ServerId};
use crate::web::Metrics;
use crate::web::route::note_sender;

/// Events of one page, unless asked otherwise.
const EVENTS_DEFAULT: usize = 50;
/// A journal that is behind its copies for longer is a problem. In the ordinary course it is about a second.
const JOURNAL_LAG_ALARM_SECONDS: f64 = 15.0;

/// Whether this name server can serve; how the cluster is, for those who show a valid token or credential.
#[utoipa::path(get, path = "/status", tag = "operation", responses((status = 200, body = NameServerStatus)))]
pub async fn status(request: HttpRequest, app: Data) -> Result<HttpResponse> {
    let known = auth::shows_anything_valid(&request, &app).await.unwrap_or(false);
    note_sender(&request, known);
    let (ready, mode, details) = if known {
        let (ready, details, mode) = look(&app).await?;
        (ready, mode, details)
    } else {
        let (ready, mode) = app.recent_readiness(look_plainly(&app)).await?;
        (ready, mode, None)
    };
    // The cluster's time, which a storage server that has just started may need to sign its first request.
    let date = app.context.standing.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let status = NameServerStatus { status: "ok".into(), ready, mode, details };
    Ok(HttpResponse::Ok().insert_header((header::DATE, date)).json(status))
}

async fn look_plainly(app: &App) -> Result<(bool, String)> {
    look(app).await.map(|(ready, _, mode)| (ready, mode))
}

/// Whether it is ready, how the cluster is, and the mode. A database that is damaged may not tell.
async fn look(app: &App) -> Result<(bool, Option<NameServerDetails>, String)> {
    let damaged = app.context.db.soundness().trouble().is_some();
    let read = app.context.db.read(|connection| {
        let state = cluster::state(connection)?;
        // There is no root while the metadata waits for a restore.
        let copies = tree::walk(connection, &DfsPath::root()).map_or(1, |walk| walk.copies_wanted());
        Ok((state, copies))
    });
    let (state, copies) = match read.await {
        Err(_) if damaged => return Ok((false, None, DAMAGED.into())),
        read => read?,
    };
    let servers = app.context.servers().await?;
    let live = servers.iter().filter(|server| server.can_keep() && !server.is_syncing()).count();
    let usable = servers.iter().filter(|server| takes_files(server)).count();
    let needed = app.context.settings.min_write_copies_of(copies as u32);
    let mode = if damaged { DAMAGED.into() } else { state.mode };
    let details = NameServerDetails {
        program_version: env!("CARGO_PKG_VERSION").into(),
        cluster: state.cluster,
        history: Some(state.history),
        epoch: state.epoch,
        version: state.version,
        servers_live: live as u32,
        time: state.now,
    };
    Ok((mode == "normal" && usable >= needed as usize, Some(details), mode))
}

/// The mode of a cluster whose database is damaged: read-only, and nothing says more than that there is a way out.
const DAMAGED: &str = "damaged";

/// Whether data is in danger.
#[utoipa::path(get, path = "/api/v1/report", tag = "operation", responses((status = 200, body = Report)))]
pub async fn report(bearer: Bearer, app: Data) -> Result<HttpResponse> {
    if let Some(trouble) = app.context.db.soundness().trouble() {
        // It tells nothing of what is stored, so whoever may start the restore may read it.
        return Ok(HttpResponse::Ok().json(report_of_damaged(&trouble.sentence)));
    }
    bearer.at_all()?;
    Ok(HttpResponse::Ok().json(make_report(&app).await?))
}

/// Numbers of a damaged database would say nothing.
fn report_of_damaged(sentence: &str) -> Report {
    Report { verdict: "danger".into(), problems: vec![sentence.into()], mode: DAMAGED.into(), ..Report::default() }
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
    repair.paused = paused(
        servers.iter().map(|view| (view.health_of_copies(), view.admin_state)),
        app.context.settings.mass_down_share,
    );
    let mut problems = endangered(&counted.under_replicated);
    let mut danger = counted.under_replicated.iter().any(|row| row.copies <= 1);
    if counted.objects == 0
        && let Some(problem) = knocking_problem(&app.restores.announced.knocking(state.cluster))
    {
        problems.push(problem);
        danger = true;
    }
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
    problems.extend(app.context.db.room().trouble().map(|sentence| sentence.to_string()));
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
    if server.trouble().is_some() {
        let reason =
            server.checked.as_ref().and_then(|checked| checked.reason.as_deref()).unwrap_or("it does not say why");
        let copies = match server.is_failing() {
            true => "what it has can be read for now, and is copied elsewhere",
            false => "what it has is well",
        };
        return Some(format!("storage server {name} cannot keep new files: {reason}; {copies}"));
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
#[utoipa::path(get, path = "/api/v1/actors", tag = "operation", responses((status = 200, body = ActorsResponse)))]
pub async fn actors_list(app: Data) -> Result<HttpResponse> {
    Ok(HttpResponse::Ok().json(ActorsResponse { actors: app.board.all() }))
}

/// What happened, the newest first.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "operation", params(EventsQuery),
    responses((status = 200, body = EventsResponse))
)]
pub async fn events_list(query: web::Query<EventsQuery>, app: Data) -> Result<HttpResponse> {
    let limit = query.limit.unwrap_or(EVENTS_DEFAULT).clamp(1, LIST_PAGE_ROWS_MAX);
    let EventsQuery { before, object, server: named, kind, by, path, since, until, each_copy, .. } = query.into_inner();
    let kind = kind.as_deref().map(EventKind::asked).transpose()?;
    let (events, next) = app
        .context
        .db
        .read(move |connection| {
            let server = named.map(|named| resolve_any(connection, &named)).transpose()?;
            let (since, until) = (since.map(|time| time.naive_utc()), until.map(|time| time.naive_utc()));
            let (object, server) = (object.map(|id| id.0), server.map(|id| id.0));
            let filter = Filter { object, server, kind, by, path, since, until, each_copy };
            timeline::page(connection, &filter, before, limit)
        })
        .await?;
    Ok(HttpResponse::Ok().json(EventsResponse { events, next }))
}

/// A server by its id or name, also one that was removed.
fn resolve_any(connection: &mut AnyConnection, text: &str) -> Result<ServerId> {
    match server::resolve(connection, text) {
        Err(error) if error.code() == ErrorCode::NotFound => {
            removed::resolve(connection, text)?.map(|row| ServerId(row.id)).ok_or(error)
        }
        found => found,
    }
}

/// One file explained: where its copies are, whether it is in danger, what happened to it.
#[utoipa::path(
    get, path = "/api/v1/why", tag = "operation", params(PathQuery), responses((status = 200, body = Why))
)]
pub async fn why(bearer: Bearer, query: web::Query<PathQuery>, app: Data) -> Result<HttpResponse> {
    bearer.at(&query.path)?;
    let (entry, _) = stat_path(&app, &query.path).await?;
    let Some(object) = entry.object else {
        return Err(Error::invalid(format!("{} is a directory; ask about a file", query.path)));
    };
    let (mut events, waiting) = app
        .context
        .db
        .read(move |connection| {
            let filter = Filter { object: Some(object.0), ..Filter::default() };
            let (events, _) = timeline::page(connection, &filter, None, EVENTS_DEFAULT)?;
            Ok((events, outbox::waiting(connection, object.0)?))
        })
        .await?;
    if bearer.is_prefixed() {
        events = events.into_iter().map(Event::without_paths).collect();
    }
    let mut findings = Vec::new();
    for replica in entry.replicas.iter().filter(|replica| replica.health != Health::Live) {
        findings.push(
            format!("the copy on {} cannot be counted on: the server is {:?}", replica.name, replica.health)
                .to_lowercase(),
        );
    }
    for (name, why) in waiting {
        findings.push(format!("a copy on {name} is to be deleted: {}", why.meaning()));
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
#[utoipa::path(
    get, path = "/metrics", tag = "operation", responses((status = 200, body = String, content_type = "text/plain"))
)]
pub async fn metrics_text(app: Data, metrics: web::Data<Metrics>, gauges: web::Data<Gauges>) -> Result<HttpResponse> {
    let counted = app.recent_counts().await?;
    let healths: Vec<(Health, bool)> =
        app.context.servers().await?.iter().map(|server| (server.health, server.trouble().is_some())).collect();
    gauges.set(&counted, &healths, &app.board.all());
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.text()?))
}
