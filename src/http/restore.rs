//! Restoring the metadata from the storage servers.

use actix_web::{HttpRequest, HttpResponse, get, post, web};

use super::auth;
use super::state::Data;
use crate::db::restore;
use crate::types::api::*;
use crate::types::limits::REPLICATION_MAX;
use crate::types::{Error, Result};

/// Starts a restore; it goes on by itself. Superusers only.
#[utoipa::path(tag = "operation", request_body = RestoreRequest, responses((status = 202, body = RestoreStatus)))]
#[post("/restore")]
pub async fn start(request: HttpRequest, body: web::Json<RestoreRequest>, app: Data) -> Result<HttpResponse> {
    auth::allow_cluster(&request, &app, Role::Superuser).await?;
    let body = body.into_inner();
    if body.replicas.is_some_and(|copies| !(1..=REPLICATION_MAX).contains(&copies)) {
        return Err(Error::invalid(format!("replicas must be 1 to {REPLICATION_MAX}")));
    }
    Ok(HttpResponse::Accepted().json(app.restores.start(app.context.clone(), body)?))
}

/// How the restore goes on, or what the last one found.
#[utoipa::path(tag = "operation", responses((status = 200, body = RestoreStatus)))]
#[get("/restore")]
pub async fn status(request: HttpRequest, app: Data) -> Result<HttpResponse> {
    auth::allow_cluster(&request, &app, Role::Superuser).await?;
    let status = app.restores.status();
    if !status.state.is_empty() {
        return Ok(HttpResponse::Ok().json(status));
    }
    let last = app.context.db.read(restore::last_report).await?;
    let none = || RestoreStatus { state: "none".into(), ..RestoreStatus::default() };
    Ok(HttpResponse::Ok().json(last.unwrap_or_else(none)))
}
