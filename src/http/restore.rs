//! Restoring the metadata from the storage servers.

use actix_web::{HttpRequest, HttpResponse};

use super::auth::Bearer;
use super::state::{App, Data};
use crate::db::rows::EventRow;
use crate::db::{dialect, events, restores};
use crate::security::token;
use crate::types::api::*;
use crate::types::limits::REPLICATION_MAX;
use crate::types::{Error, EventKind, Result};
use crate::web::auth::credential;
use crate::web::body::Json;

/// Starts a restore; it goes on by itself. Superusers only.
#[utoipa::path(
    post, path = "/api/v1/restore", tag = "operation", request_body = RestoreRequest,
    responses((status = 202, body = RestoreStatus))
)]
pub async fn start(
    request: HttpRequest,
    bearer: Bearer,
    Json(body): Json<RestoreRequest>,
    app: Data,
) -> Result<HttpResponse> {
    let by_first_token = shows_first_token(&request, &app);
    if app.waits_for_restore().await.is_none() {
        // The first token, too, must be valid then.
        bearer.at_all()?;
    }
    if body.replicas.is_some_and(|copies| !(1..=REPLICATION_MAX).contains(&copies)) {
        return Err(Error::invalid(format!("replicas must be 1 to {REPLICATION_MAX}")));
    }
    if !body.force {
        app.restores.refuse_needless(&app.context).await?;
    }
    let begun = app.restores.start(app.context.for_actors(), body, by_first_token).await?;
    note_start(&app, bearer.name()).await;
    Ok(HttpResponse::Accepted().json(begun))
}

/// Ends a restore that is under way or was interrupted; the cluster is what it was before. Superusers only.
#[utoipa::path(
    delete, path = "/api/v1/restore", tag = "operation", responses((status = 200, body = RestoreStatus))
)]
pub async fn abort(bearer: Bearer, app: Data) -> Result<HttpResponse> {
    if app.waits_for_restore().await.is_none() {
        bearer.at_all()?;
    }
    Ok(HttpResponse::Ok().json(app.restores.abort(&app.context).await?))
}

/// How the restore goes on, or what the last one found.
#[utoipa::path(
    get, path = "/api/v1/restore", tag = "operation", responses((status = 200, body = RestoreStatus))
)]
pub async fn status(app: Data) -> Result<HttpResponse> {
    let status = app.restores.status();
    if status.state != "running"
        && let Ok(Some(other)) = app.context.db.read(|connection| Ok(restores::elsewhere(connection)?)).await
    {
        return Ok(HttpResponse::Ok().json(other));
    }
    if !status.state.is_empty() {
        return Ok(HttpResponse::Ok().json(status));
    }
    let last = app.context.db.read(restores::last_report).await?;
    let none = || RestoreStatus { state: "none".into(), ..RestoreStatus::default() };
    Ok(HttpResponse::Ok().json(last.unwrap_or_else(none)))
}

/// Tells who began it, if there is a database to tell it to: a damaged one takes no event, and its place is still empty.
async fn note_start(app: &App, by: &str) {
    let by_token = Some(by.to_string());
    let told = app.context.db.write(move |connection| {
        let detail = "a restore of the metadata was begun".to_string();
        let event = events::row(dialect::clock(connection)?, EventKind::RestoreStarted, detail);
        dialect::insert_events(connection, &[EventRow { by_token, ..event }])?;
        Ok(())
    });
    if let Err(error) = told.await {
        log::warn!("the event of the restore's beginning could not be written: {}", error.chain());
    }
}

fn shows_first_token(request: &HttpRequest, app: &App) -> bool {
    credential(request, "Bearer").is_some_and(|text| app.is_first_token(token::hash(text)))
}
