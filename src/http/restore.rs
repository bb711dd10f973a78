//! Restoring the metadata from the storage servers.

use actix_web::{HttpRequest, HttpResponse, get, post, web};

use super::auth;
use super::state::{App, Data};
use crate::db::restores;
use crate::security::token;
use crate::types::api::*;
use crate::types::limits::REPLICATION_MAX;
use crate::types::{DfsPath, Error, Result};
use crate::web::auth::credential;

/// Superusers may, and the first token where the cluster waits for its restore or has just had it. Answers whether it is
/// that token.
async fn allow(request: &HttpRequest, app: &App) -> Result<bool> {
    let grant = auth::bearer(request, app).await?;
    if grant.only_restore.is_none() {
        grant.check(Role::Superuser, &DfsPath::root())?;
    }
    Ok(credential(request, "Bearer").is_some_and(|text| app.is_first_token(token::hash(text))))
}

/// Starts a restore; it goes on by itself. Superusers only.
#[utoipa::path(tag = "operation", request_body = RestoreRequest, responses((status = 202, body = RestoreStatus)))]
#[post("/restore")]
pub async fn start(request: HttpRequest, body: web::Json<RestoreRequest>, app: Data) -> Result<HttpResponse> {
    let by_first_token = allow(&request, &app).await?;
    if app.waits_for_restore().await.is_none() {
        // The first token, too, must be valid then.
        auth::allow_cluster(&request, &app, Role::Superuser).await?;
    }
    let body = body.into_inner();
    if body.replicas.is_some_and(|copies| !(1..=REPLICATION_MAX).contains(&copies)) {
        return Err(Error::invalid(format!("replicas must be 1 to {REPLICATION_MAX}")));
    }
    Ok(HttpResponse::Accepted().json(app.restores.start(app.context.clone(), body, by_first_token)?))
}

/// How the restore goes on, or what the last one found.
#[utoipa::path(tag = "operation", responses((status = 200, body = RestoreStatus)))]
#[get("/restore")]
pub async fn status(request: HttpRequest, app: Data) -> Result<HttpResponse> {
    allow(&request, &app).await?;
    let status = app.restores.status();
    if !status.state.is_empty() {
        return Ok(HttpResponse::Ok().json(status));
    }
    let last = app.context.db.read(restores::last_report).await?;
    let none = || RestoreStatus { state: "none".into(), ..RestoreStatus::default() };
    Ok(HttpResponse::Ok().json(last.unwrap_or_else(none)))
}
