//! How the cluster is: status, metrics, actors, events.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::auth;
use super::gauges::Gauges;
use super::report::{DAMAGED, troubles};
use super::state::{App, Data};
use crate::actors::context::takes_files;
use crate::db::server;
use crate::db::timeline::{self, Filter};
use crate::db::{AnyConnection, cluster, rebalance, removed, tree};
use crate::types::api::*;
use crate::types::limits::LIST_PAGE_ROWS_MAX;
use crate::types::{DfsPath, Error, ErrorCode, EventKind, Mode, Result, ServerId};
use crate::web::Metrics;
use crate::web::route::note_sender;

/// How long a scrape waits for what the database tells.
const SCRAPE_TIME_MAX: Duration = Duration::from_secs(2);
/// Events of one page, unless asked otherwise.
const EVENTS_DEFAULT: usize = 50;

/// How long anybody waits to be told whether this name server can serve. Clients ask a silent one for 2 s.
const LOOK_TIME_MAX: Duration = Duration::from_millis(1_500);

/// Whether this name server can serve; how the cluster is, for those who show a valid token or credential.
#[utoipa::path(get, path = "/status", tag = "operation", responses((status = 200, body = NameServerStatus)))]
pub async fn status(request: HttpRequest, app: Data) -> Result<HttpResponse> {
    let known = auth::shows_anything_valid(&request, &app).await.unwrap_or(false);
    note_sender(&request, known);
    let (ready, mode, details) = if known {
        let (ready, details, mode) = look(&app).await?;
        (ready, mode, details)
    } else {
        // Whoever asks whether this process is alive is told so, also while its database is away.
        let looked = tokio::time::timeout(LOOK_TIME_MAX, app.recent_readiness(look_plainly(&app))).await;
        let late = |_| Error::unavailable("this name server is there, and its database does not answer");
        let (ready, mode) = looked.map_err(late)??;
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
    let takes_changes = !damaged && state.mode == Mode::Normal;
    let mode = if damaged { DAMAGED.into() } else { state.mode.word().into() };
    let details = NameServerDetails {
        program_version: env!("CARGO_PKG_VERSION").into(),
        cluster: state.cluster,
        history: Some(state.history),
        epoch: state.epoch,
        version: state.version,
        servers_live: live as u32,
        time: state.now,
    };
    Ok((takes_changes && usable >= needed as usize, Some(details), mode))
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

/// Prometheus metrics.
#[utoipa::path(
    get, path = "/metrics", tag = "operation", responses((status = 200, body = String, content_type = "text/plain"))
)]
pub async fn metrics_text(app: Data, metrics: web::Data<Metrics>, gauges: web::Data<Gauges>) -> Result<HttpResponse> {
    gauges.show(&troubles(&app).await);
    gauges.show_actors(&app.board.all());
    // What the database does not tell in time fails nothing else: least of all those numbers that show it.
    let read = async {
        Ok((app.recent_counts().await?, app.context.servers().await?, app.context.db.read(rebalance::last).await?))
    };
    let read = tokio::time::timeout(SCRAPE_TIME_MAX, read).await.unwrap_or_else(|_| {
        Err(Error::unavailable(format!("the database did not answer within {} s", SCRAPE_TIME_MAX.as_secs())))
    });
    match read {
        Ok((counted, servers, rebalance)) => {
            let healths: Vec<(Health, bool)> =
                servers.iter().map(|server| (server.health, server.trouble().is_some())).collect();
            gauges.show_servers(&healths);
            gauges.show_counts(Some(&counted));
            gauges.show_rebalance(rebalance.as_ref());
        }
        Err(error) => {
            log::warn!("the numbers of the metrics are old: {}", error.chain());
            gauges.show_counts(None);
        }
    }
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.text()?))
}
