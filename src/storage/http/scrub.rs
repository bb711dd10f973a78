//! `POST` and `GET /scrub`: everything is to be read now, and what came of it.

use actix_web::{HttpResponse, web};

use crate::storage::scrubber::WANTED;
use crate::storage::state::{Daemon, Shared};
use crate::storage::store::index;
use crate::storage::writer::{INDEX_DEADLINE, IndexChange};
use crate::types::limits::VERIFY_BATCH_ITEMS_MAX;
use crate::types::storage_api::{CopyState, ReplicaKey, ScrubStatus, VerifyRequest, VerifyResponse};
use crate::types::{Error, Result};
use crate::web::body::Json;

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

/// Has copies read before the round goes on, those that were not read since a time, and tells how far that is. Asked again
/// it begins nothing anew.
#[utoipa::path(
    post, path = "/scrub/copies", tag = "name servers", request_body = VerifyRequest,
    responses((status = 200, body = VerifyResponse))
)]
pub(super) async fn copies(Json(body): Json<VerifyRequest>, daemon: Daemon) -> Result<HttpResponse> {
    if body.replicas.len() > VERIFY_BATCH_ITEMS_MAX {
        return Err(Error::invalid(format!("at most {VERIFY_BATCH_ITEMS_MAX} copies are read at once")));
    }
    let now_ms = daemon.identity.now().timestamp_millis();
    // A clock that was set back since would never come there again.
    let since_ms = if body.since_ms > 0 { body.since_ms.min(now_ms) } else { now_ms };
    let keys = body.replicas;
    let read = daemon.index.read(move |connection| {
        let of = |key: ReplicaKey| {
            // One that has lost its file is in no inventory either.
            let row = index::find(connection, key)?;
            let verified = row.map(|row| (row.verified.and_utc().timestamp_millis(), row.size as u64));
            Ok((key, verified))
        };
        keys.into_iter().map(of).collect::<Result<Vec<_>>>()
    });
    let state = |(key, row): (ReplicaKey, Option<(i64, u64)>)| match row {
        None => {
            daemon.suspects.is_told(key);
            CopyState::Gone
        }
        Some((verified_ms, _)) if verified_ms >= since_ms => {
            daemon.suspects.is_told(key);
            CopyState::Right
        }
        Some((_, size)) => {
            daemon.suspects.want_read(key, size);
            CopyState::Waiting
        }
    };
    let states = read.await?.into_iter().map(state).collect();
    Ok(HttpResponse::Ok().json(VerifyResponse { since_ms, states }))
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
