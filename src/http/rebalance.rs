//! `rebalance`: copies are moved until servers are filled evenly. The run is in the database, and the
//! `ReplicationManager` of the name server that acts goes on with it; any name server may be asked.

use actix_web::HttpResponse;

use super::auth::Bearer;
use super::state::{App, Data};
use crate::actors::rebalance::levels;
use crate::actors::replication_manager::rules;
use crate::db::rows::{RebalanceRow, utc};
use crate::db::server::ServerView;
use crate::db::{cluster, dialect, rebalance};
use crate::types::api::*;
use crate::types::{Error, Result, ServerId};
use crate::web::body::Json;

/// Begins to fill servers evenly, in the background; `GET` tells how far it is. One that is under way goes on.
#[utoipa::path(
    post, path = "/api/v1/rebalance", tag = "operation", request_body = RebalanceRequest,
    responses((status = 200, body = RebalanceStatus))
)]
pub async fn start(bearer: Bearer, Json(body): Json<RebalanceRequest>, app: Data) -> Result<HttpResponse> {
    let within = body.within_percent;
    if !(1..=100).contains(&within) {
        return Err(Error::invalid("within_percent must be 1 to 100"));
    }
    if body.dry_run {
        let status = RebalanceStatus { state: "dry_run".into(), within_percent: within, ..RebalanceStatus::default() };
        return Ok(HttpResponse::Ok().json(with_servers(&app, status).await?));
    }
    let by = bearer.name().to_string();
    let begin = move |connection: &mut _| {
        cluster::require_normal(connection)?;
        rebalance::begin(connection, within as i32, &by)
    };
    let row = app.context.db.write(begin).await?;
    Ok(HttpResponse::Ok().json(told(&app, Some(row)).await?))
}

/// How far it is, or what came of the last time.
#[utoipa::path(
    get, path = "/api/v1/rebalance", tag = "operation", responses((status = 200, body = RebalanceStatus))
)]
pub async fn status(app: Data) -> Result<HttpResponse> {
    let row = app.context.db.read(rebalance::last).await?;
    Ok(HttpResponse::Ok().json(told(&app, row).await?))
}

/// Ends it. Copies that are on their way come to their end.
#[utoipa::path(
    delete, path = "/api/v1/rebalance", tag = "operation", responses((status = 200, body = RebalanceStatus))
)]
pub async fn stop(bearer: Bearer, app: Data) -> Result<HttpResponse> {
    let by = bearer.name().to_string();
    let row = app.context.db.write(move |connection| rebalance::stop(connection, &by)).await?;
    Ok(HttpResponse::Ok().json(told(&app, Some(row)).await?))
}

async fn told(app: &App, row: Option<RebalanceRow>) -> Result<RebalanceStatus> {
    let none =
        || RebalanceStatus { state: "none".into(), within_percent: WITHIN_PERCENT, ..RebalanceStatus::default() };
    let now = app.context.db.read(|connection| Ok(dialect::clock(connection)?)).await?;
    let status = row.map_or_else(none, |row| RebalanceStatus {
        seconds_left: row.seconds_left(now),
        id: Some(row.id.to_string()),
        state: row.state,
        within_percent: row.within_percent as u32,
        started: Some(utc(row.started)),
        ended: row.ended.map(utc),
        by: row.by_token,
        moved: row.moved as u64,
        moved_bytes: row.moved_bytes as u64,
        left_bytes: row.left_bytes.map(|bytes| bytes as u64),
        note: row.note,
        ..RebalanceStatus::default()
    });
    with_servers(app, status).await
}

/// With what the servers have, as they told it last.
async fn with_servers(app: &App, mut status: RebalanceStatus) -> Result<RebalanceStatus> {
    let views = app.context.fresh_servers().await?;
    let has = |view: &ServerView| view.checked.as_ref().map_or(0, |checked| checked.stored_bytes.max(0) as u64);
    let levels = levels(&views, &rules(&app.context), status.within_percent, has);
    let row = |view: &ServerView| {
        let level = levels.of(ServerId(view.row.id))?;
        Some(RebalanceServer {
            server: level.server,
            name: view.row.name.clone(),
            bytes: level.bytes,
            room_bytes: level.room_bytes,
            even_bytes: (levels.even() * level.room_bytes as f64) as u64,
        })
    };
    status.servers = views.iter().filter_map(row).collect();
    status.difference_percent = levels.difference() * 100.0;
    if status.state == "dry_run" {
        status.left_bytes = Some(levels.left_bytes());
    }
    Ok(status)
}
