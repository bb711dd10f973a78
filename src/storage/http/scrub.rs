//! `POST` and `GET /scrub`: everything is to be read now, and what came of it.

use actix_web::{HttpResponse, web};

use super::Daemon;
use crate::storage::scrubber::WANTED;
use crate::storage::server::Shared;
use crate::storage::store::index;
use crate::storage::writer::{INDEX_DEADLINE, IndexChange};
use crate::types::Result;
use crate::types::storage_api::ScrubStatus;

/// Has everything read from the beginning, at the rate of the scrubber. A round that was asked for before and is under
/// way is joined. It goes on after a restart.
#[utoipa::path(post, path = "/scrub", tag = "name servers", responses((status = 200, body = ScrubStatus)))]
pub(super) async fn start(daemon: Daemon) -> Result<HttpResponse> {
    let status = status_of(&daemon).await?;
    if status.is_under_way() {
        return Ok(HttpResponse::Ok().json(status));
    }
    let wanted_ms = daemon.identity.now().timestamp_millis().max(status.wanted_ms + 1);
    daemon.writer.submit(IndexChange::Settings(vec![(WANTED, wanted_ms)]), INDEX_DEADLINE).await?;
    daemon.suspects.want_scrub();
    Ok(HttpResponse::Ok().json(ScrubStatus { wanted_ms, ..status }))
}

/// How far the round of scrubbing is, and what came of the last one.
#[utoipa::path(get, path = "/scrub", tag = "name servers", responses((status = 200, body = ScrubStatus)))]
pub(super) async fn read(daemon: Daemon) -> Result<HttpResponse> {
    Ok(HttpResponse::Ok().json(status_of(&daemon).await?))
}

/// From the index, where the scrubber writes it down with each pass.
async fn status_of(shared: &web::Data<std::sync::Arc<Shared>>) -> Result<ScrubStatus> {
    let read = |connection: &mut index::IndexConnection| {
        let (copies, bytes) = index::sums(connection)?;
        crate::storage::scrubber::status(connection, copies, bytes)
    };
    shared.index.read(read).await
}
