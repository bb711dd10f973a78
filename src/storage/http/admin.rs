//! What servers ask each other: status, inventory, deletions, replication.

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::TryStreamExt;
use serde::Deserialize;

use super::Daemon;
use crate::client::storage::BodyFacts;
use crate::security::ticket::Sender;
use crate::storage::heard;
use crate::storage::identity::Standing;
use crate::storage::server::Shared;
use crate::storage::store::{ReplicaRow, index, objects};
use crate::storage::writer::{INDEX_DEADLINE, IndexChange};
use crate::types::limits::{DELETE_BATCH_ITEMS_MAX, INVENTORY_PAGE_ROWS_MAX};
use crate::types::storage_api::*;
use crate::types::{Error, ErrorCode, Result};
use crate::web::auth;

/// Copies that go into quarantine in one change of the index: each costs some fsyncs, and uploads wait for them.
const QUARANTINE_STEP_COPIES: usize = 32;

/// Checks that a name server of this cluster asks, and that no newer one has asked before. Answers its epoch and term.
fn judge(request: &HttpRequest, shared: &Shared) -> Result<(i64, i64)> {
    let (epoch, term) = sender(request, shared)?;
    let standing = shared.identity.standing();
    if (epoch, term) < (standing.epoch, standing.term) {
        return Err(outdated(epoch, term, &standing));
    }
    Ok((epoch, term))
}

fn outdated(epoch: i64, term: i64, standing: &Standing) -> Error {
    Error::new(
        ErrorCode::Forbidden,
        format!(
            "the request is of epoch {epoch} and term {term}, this server has seen {} and {}",
            standing.epoch, standing.term
        ),
    )
}

/// Epoch and term of a name server of this cluster.
fn sender(request: &HttpRequest, shared: &Shared) -> Result<(i64, i64)> {
    let verified = auth::server(request, &shared.signer)?;
    let (cluster, _) = shared.identity.require_cluster()?;
    if verified.cluster != Some(cluster) {
        return Err(Error::new(ErrorCode::Forbidden, "the request comes from another cluster"));
    }
    let Sender::NameServer { term } = verified.claims.sender else {
        return Err(Error::new(ErrorCode::Forbidden, "only name servers may ask this"));
    };
    if verified.claims.expires < shared.identity.now() {
        return Err(Error::new(ErrorCode::Unauthorized, "the request's credential has expired"));
    }
    Ok((verified.epoch, term))
}

/// As [`fence`], for what only reads: any name server of the newest epoch may, whether or not it holds the lease.
pub(super) async fn fence_reader(request: &HttpRequest, shared: &Shared) -> Result<()> {
    let (epoch, term) = sender(request, shared)?;
    let standing = shared.identity.standing();
    if (epoch, term) > (standing.epoch, standing.term) {
        return fence(request, shared).await;
    }
    if epoch < standing.epoch {
        return Err(outdated(epoch, term, &standing));
    }
    Ok(())
}

/// As [`judge`], and shuts out everything older from now on.
pub(super) async fn fence(request: &HttpRequest, shared: &Shared) -> Result<()> {
    let (epoch, term) = judge(request, shared)?;
    let standing = shared.identity.standing();
    if (epoch, term) > (standing.epoch, standing.term) {
        // Durable before it is believed: after a restart nothing older is accepted either.
        let change = IndexChange::Settings(vec![("epoch", epoch), ("term", term)]);
        shared.writer.submit(change, INDEX_DEADLINE).await?;
        shared.identity.raise(epoch, term);
    }
    Ok(())
}

/// Remembers what a name server tells of the cluster, when it is one that may act here. Anybody else is
/// answered all the same.
fn note_head(request: &HttpRequest, daemon: &Daemon) {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
    let Some(version) = header(JOURNAL_HEAD_HEADER) else { return };
    let told = Told { version, servers: header(SERVERS_HEADER).unwrap_or_default() };
    match judge(request, daemon) {
        Err(error) => log::debug!("a journal's head is not believed: {}", error.message()),
        Ok(_) => {
            let Some(Told { version, servers }) = daemon.heard.note(told) else { return };
            let shared = daemon.get_ref().clone();
            // The check is not held up by a slow disk.
            actix_web::rt::spawn(async move {
                let [of_version, of_servers] = heard::SETTINGS;
                let change = IndexChange::Settings(vec![(of_version, version), (of_servers, servers)]);
                if let Err(error) = shared.writer.submit(change, INDEX_DEADLINE).await {
                    log::warn!("the newest version could not be written down: {}", error.chain());
                    shared.heard.not_written();
                }
            });
        }
    }
}

pub(super) async fn status(request: HttpRequest, daemon: Daemon) -> Result<HttpResponse> {
    note_head(&request, &daemon);
    let (journal, told) = (daemon.journal.position(), daemon.heard.told());
    let (capacity_bytes, free_bytes) = daemon.layout.room()?;
    let (objects, bytes) = daemon.index.read(index::sums).await?;
    let standing = daemon.identity.standing();
    Ok(HttpResponse::Ok().json(StorageStatus {
        status: daemon.readiness.word(&standing).into(),
        identity: daemon.identity.identity,
        cluster: standing.cluster,
        server: standing.server,
        epoch: standing.epoch,
        term: standing.term,
        heard_servers: told.servers,
        heard_version: told.version.max(journal.as_ref().map_or(0, |position| position.version)),
        journal,
        scrub_alarm: daemon.suspects.alarm(),
        certificate: daemon.certificate.as_ref().map(|certificate| certificate.status()),
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
    let DeleteRequest { replicas: keys, quarantine } = body.into_inner();
    if keys.len() > DELETE_BATCH_ITEMS_MAX {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("at most {DELETE_BATCH_ITEMS_MAX} replicas are deleted at once"),
        ));
    }
    let mut deleted = 0;
    match quarantine {
        None => deleted = daemon.writer.submit(IndexChange::Delete(keys), INDEX_DEADLINE).await?,
        Some(reason) => {
            for keys in keys.chunks(QUARANTINE_STEP_COPIES) {
                let change = IndexChange::Quarantine { keys: keys.to_vec(), reason: reason.clone(), for_good: false };
                deleted += daemon.writer.submit(change, INDEX_DEADLINE).await?;
            }
        }
    }
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
    fence_reader(&request, &daemon).await?;
    let after = query.after.as_deref().map(str::parse).transpose()?;
    let limit = query.limit.unwrap_or(INVENTORY_PAGE_ROWS_MAX).clamp(1, INVENTORY_PAGE_ROWS_MAX);
    let rows = daemon.index.read(move |connection| index::page(connection, after, limit)).await?;
    daemon.readiness.page_read(daemon.identity.standing().epoch, rows.len() < limit);
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
    let sent = match bytes {
        Some(bytes) => {
            let body = futures_util::stream::iter([Ok(Bytes::from(bytes))]);
            daemon.storage.upload_copy(&target.url, &ticket, facts, body).await
        }
        None => {
            let file = open_source(&daemon, &row).await.inspect_err(|_| daemon.suspects.add(replica))?;
            let suspects = daemon.suspects.clone();
            let body = tokio_util::io::ReaderStream::with_capacity(tokio::fs::File::from_std(file), 256 << 10)
                .inspect_err(move |_| suspects.add(replica));
            daemon.storage.upload_copy(&target.url, &ticket, facts, body).await
        }
    };
    if sent.as_ref().is_err_and(|error| error.code() == ErrorCode::ChecksumMismatch) {
        // The line may have been at fault, or the copy here.
        daemon.suspects.add(replica);
    }
    let stored = sent?;
    crate::types::failpoint::TRANSFER_STORED.passed();
    Ok(HttpResponse::Ok().json(stored))
}

/// The file of a copy that is to be sent, as long as it must be.
async fn open_source(shared: &Shared, row: &ReplicaRow) -> Result<std::fs::File> {
    let (layout, key) = (shared.layout.clone(), row.key());
    let file = tokio::task::spawn_blocking(move || objects::open(&layout, key))
        .await
        .map_err(|error| Error::internal("opening a file panicked").with_source(error))??
        .ok_or_else(|| Error::not_found(format!("the file of {key} is missing on this server")))?;
    let length = file.metadata().map_err(|error| Error::io(format!("asking for the size of {key}"), error))?.len();
    if length != row.size as u64 {
        let message = format!("the file of {key} has {length} bytes instead of {}: it is corrupt here", row.size);
        return Err(Error::new(ErrorCode::ChecksumMismatch, message));
    }
    Ok(file)
}
