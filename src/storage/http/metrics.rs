//! `GET /metrics`.

use actix_web::{HttpResponse, web};

use crate::storage::state::Daemon;
use crate::types::Result;

/// Prometheus metrics.
#[utoipa::path(
    get, path = "/metrics", tag = "operation", responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(daemon: Daemon, metrics: web::Data<crate::web::Metrics>) -> Result<HttpResponse> {
    daemon.refresh_metrics().await?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.text()?))
}
