//! Restoring the metadata from the storage servers.

use actix_web::{HttpRequest, HttpResponse};

use super::auth::Bearer;
use super::state::{App, Data};
use crate::db::restores;
use crate::security::token;
use crate::types::api::*;
use crate::types::limits::REPLICATION_MAX;
use crate::types::{Error, Result};
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
    Ok(HttpResponse::Accepted().json(app.restores.start(app.context.clone(), body, by_first_token)?))
}

/// How the restore goes on, or what the last one found.
#[utoipa::path(
    get, path = "/api/v1/restore", tag = "operation", responses((status = 200, body = RestoreStatus))
)]
pub async fn status(app: Data) -> Result<HttpResponse> {
    let status = app.restores.status();
    if !status.state.is_empty() {
        return Ok(HttpResponse::Ok().json(status));
    }
    let last = app.context.db.read(restores::last_report).await?;
    let none = || RestoreStatus { state: "none".into(), ..RestoreStatus::default() };
    Ok(HttpResponse::Ok().json(last.unwrap_or_else(none)))
}

fn shows_first_token(request: &HttpRequest, app: &App) -> bool {
    credential(request, "Bearer").is_some_and(|text| app.is_first_token(token::hash(text)))
}
