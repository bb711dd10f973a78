//! The storage server's endpoints.

mod admin;
pub mod download;
mod journal;
mod upload;

use std::sync::Arc;

use actix_web::{HttpResponse, web};

use super::server::Shared;
use crate::types::Result;

type Daemon = web::Data<Arc<Shared>>;

/// All routes.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/file")
                .route(web::post().to(upload::receive))
                .route(web::put().to(upload::receive))
                .route(web::get().to(download::send))
                .route(web::head().to(download::send))
                .route(web::delete().to(admin::delete)),
        )
        .service(web::resource("/journal").route(web::get().to(journal::read)).route(web::post().to(journal::receive)))
        .route("/status", web::get().to(admin::status))
        .route("/replicate", web::post().to(admin::replicate))
        .route("/dump_tree", web::get().to(admin::dump_tree))
        .route("/metrics", web::get().to(metrics));
}

async fn metrics(daemon: Daemon, metrics: web::Data<crate::web::Metrics>) -> Result<HttpResponse> {
    daemon.refresh_metrics().await?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.text()?))
}
