//! The storage server's endpoints. All of them stand in one table, [`ROUTES`], from which follows who is let in before a
//! handler sees the request.

mod admin;
pub mod download;
mod journal;
mod openapi;
mod routes;
mod scrub;
mod upload;

use std::sync::Arc;

use actix_web::{HttpResponse, web};

pub use self::routes::{Access, As, Kind, ROUTES, routes};
use super::server::Shared;
use crate::types::Result;

type Daemon = web::Data<Arc<Shared>>;

/// Prometheus metrics.
#[utoipa::path(
    get, path = "/metrics", tag = "operation", responses((status = 200, body = String, content_type = "text/plain"))
)]
async fn metrics(daemon: Daemon, metrics: web::Data<crate::web::Metrics>) -> Result<HttpResponse> {
    daemon.refresh_metrics().await?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.text()?))
}
