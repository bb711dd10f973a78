//! What servers ask each other: status, inventory, deletions, replication.

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Deserialize;

use super::Daemon;
use crate::client::storage::BodyFacts;
use crate::security::ticket::Sender;
use crate::storage::server::Shared;
use crate::storage::store::{ReplicaRow, index, objects};
use crate::storage::writer::{INDEX_DEADLINE, IndexChange};
use crate::types::limits::{DELETE_BATCH_ITEMS_MAX, INVENTORY_PAGE_ROWS_MAX};
use crate::types::storage_api::*;
use crate::types::{Error, ErrorCode, Result};
use crate::web::auth;

/// Checks that a name server of this cluster asks, and that no newer one has asked before.
async fn fence(request: &HttpRequest, shared: &Shared) -> Result<()> {
    let verified = auth::server(request, &shared.signer)?;
    let (cluster, _, epoch) = shared.identity.require_member()?;
    if verified.cluster != Some(cluster) {
        return Err(Error::new(ErrorCode::Forbidden, "the request comes from another cluster"));
    }
    let Sender::NameServer { term } = verified.claims.sender else {
        return Err(Error::new(ErrorCode::Forbidden, "only name servers may ask this"));
    };
    if verified.claims.expires < shared.identity.now() {
        return Err(Error::new(ErrorCode::Unauthorized, "the request's credential has expired"));
    }
    let standing = shared.identity.standing();
    if (verified.epoch, term) < (epoch, standing.term) {
        return Err(Error::new(
            ErrorCode::Forbidden,
            format!(
                "the request is of epoch {} and term {term}, this server has seen {epoch} and {}",
                verified.epoch, standing.term
            ),
        ));
    }
    if (verified.epoch, term) > (epoch, standing.term) {
        // Durable before it is believed: after a restart nothing older is accepted either.
        let change = IndexChange::Settings(vec![("epoch", verified.epoch), ("term", term)]);
        shared.writer.submit(change, INDEX_DEADLINE).await?;
        shared.identity.raise(verified.epoch, term);
    }
    Ok(())
}

pub(super) async fn status(daemon: Daemon) -> Result<HttpResponse> {
    let (capacity_bytes, free_bytes) = daemon.layout.room()?;
    let (objects, bytes) = daemon.index.read(index::sums).await?;
    let standing = daemon.identity.standing();
    Ok(HttpResponse::Ok().json(StorageStatus {
        status: "ok".into(),
        identity: daemon.identity.identity,
        cluster: standing.cluster,
        server: standing.server,
        epoch: standing.epoch,
        term: standing.term,
        journal: None,
        heard_version: 0,
        scrub_alarm: false,
        boot_id: daemon.identity.boot_id,
        capacity_bytes,
        free_bytes,
        uploads: daemon.uploads_under_way() as u64,
        objects,
        bytes,
        program_version: env!("CARGO_PKG_VERSION").into(),
    }))
}

pub(super) async fn delete(
    request: HttpRequest,
    body: web::Json<DeleteRequest>,
    daemon: Daemon,
) -> Result<HttpResponse> {
    fence(&request, &daemon).await?;
    let keys = body.into_inner().replicas;
    if keys.len() > DELETE_BATCH_ITEMS_MAX {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("at most {DELETE_BATCH_ITEMS_MAX} replicas are deleted at once"),
        ));
    }
    let deleted = daemon.writer.submit(IndexChange::Delete(keys), INDEX_DEADLINE).await?;
    Ok(HttpResponse::Ok().json(DeleteResponse { deleted }))
}

#[derive(Deserialize)]
pub(super) struct InventoryQuery {
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn dump_tree(
    request: HttpRequest,
    query: web::Query<InventoryQuery>,
    daemon: Daemon,
) -> Result<HttpResponse> {
    fence(&request, &daemon).await?;
    let after = query.after.as_deref().map(str::parse).transpose()?;
    let limit = query.limit.unwrap_or(INVENTORY_PAGE_ROWS_MAX).clamp(1, INVENTORY_PAGE_ROWS_MAX);
    let rows = daemon.index.read(move |connection| index::page(connection, after, limit)).await?;
    let mut body = Vec::new();
    for row in &rows {
        serde_json::to_writer(&mut body, &line(row)?)
            .map_err(|e| Error::internal("cannot encode an inventory").with_source(e))?;
        body.push(b'\n');
    }
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").body(body))
}

fn line(row: &ReplicaRow) -> Result<InventoryLine> {
    Ok(InventoryLine {
        replica: row.key(),
        size: row.size as u64,
        sha256: row.digest()?,
        label: row.label.clone(),
        epoch: row.epoch,
        version: row.version,
        ticket_expires: row.ticket_expires.and_utc(),
        verified: row.verified.and_utc(),
    })
}

/// Streams a copy of what is here to another server, which checks its digest.
pub(super) async fn replicate(
    request: HttpRequest,
    body: web::Json<ReplicateRequest>,
    daemon: Daemon,
) -> Result<HttpResponse> {
    fence(&request, &daemon).await?;
    let ReplicateRequest { replica, target, ticket } = body.into_inner();
    let gone = move || Error::not_found(format!("{replica} is not on this server"));
    let (row, bytes) = daemon
        .index
        .read(move |connection| {
            let row = index::find(connection, replica)?.ok_or_else(gone)?;
            let bytes = if row.in_index { index::bytes(connection, replica)? } else { None };
            Ok((row, bytes))
        })
        .await?;
    let facts = BodyFacts { size: Some(row.size as u64), sha256: Some(row.digest()?) };
    crate::types::failpoint::TRANSFER_STARTING.passed();
    let stored = match bytes {
        Some(bytes) => {
            let body = futures_util::stream::iter([Ok(Bytes::from(bytes))]);
            daemon.storage.upload_copy(&target.url, &ticket, facts, body).await?
        }
        None => {
            let layout = daemon.layout.clone();
            let file = tokio::task::spawn_blocking(move || objects::open(&layout, replica))
                .await
                .map_err(|error| Error::internal("opening a file panicked").with_source(error))??
                .ok_or_else(gone)?;
            let body = tokio_util::io::ReaderStream::with_capacity(tokio::fs::File::from_std(file), 256 << 10);
            daemon.storage.upload_copy(&target.url, &ticket, facts, body).await?
        }
    };
    crate::types::failpoint::TRANSFER_STORED.passed();
    Ok(HttpResponse::Ok().json(stored))
}
