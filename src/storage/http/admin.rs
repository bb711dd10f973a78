//! What servers ask each other: status, inventory, deletions, replication.

use std::sync::atomic::Ordering;

use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::TryStreamExt;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::client::storage::BodyFacts;
use crate::security::credential::{Challenge, Proof};
use crate::security::ticket::Verified;
use crate::security::{Sender, ServerCredential};
use crate::storage::identity::Standing;
use crate::storage::state::{Daemon, DiskFacts, Shared};
use crate::storage::store::{ReplicaRow, index, objects};
use crate::storage::writer::{INDEX_DEADLINE, IndexChange};
use crate::storage::{heard, readiness};
use crate::types::limits::{DELETE_BATCH_ITEMS_MAX, INVENTORY_PAGE_ROWS_MAX};
use crate::types::storage_api::*;
use crate::types::{Error, ErrorCode, Result, Version};
use crate::web::body::Json;
use crate::web::error::body_of;
use crate::web::request::RequestId;

/// Copies that go into quarantine in one change of the index: each costs some fsyncs, and uploads wait for them.
const QUARANTINE_STEP_COPIES: usize = 32;

/// What a name server of this cluster signs its requests under.
type Rank = (i64, i64);

/// Epoch and term of the name server of this cluster that asks. To be asked once for each request.
pub(super) fn sender(request: &HttpRequest, shared: &Shared) -> Result<Rank> {
    rank(any_server(request, shared)?, shared)
}

/// The server that asks, with this cluster's secret, whatever cluster it names. To be asked once for each request.
pub(super) fn any_server(request: &HttpRequest, shared: &Shared) -> Result<Verified<ServerCredential>> {
    shared.gate.server(request, shared.identity.now()).inspect_err(|error| {
        if error.code() == ErrorCode::TicketExpired {
            // Perhaps it is the clock here that is wrong: a registration brings the cluster's time.
            shared.forget_registration();
        }
    })
}

fn rank(verified: Verified<ServerCredential>, shared: &Shared) -> Result<Rank> {
    let (cluster, _) = shared.identity.require_cluster()?;
    if verified.cluster != Some(cluster) {
        return Err(Error::new(ErrorCode::Forbidden, "the request comes from another cluster"));
    }
    match verified.claims.sender {
        Sender::NameServer { term } => Ok((verified.epoch, term)),
        Sender::Storage { .. } => Err(Error::new(ErrorCode::Forbidden, "only name servers may ask this")),
    }
}

/// Refuses who is older than the newest name server that has asked.
fn judge(rank: Rank, shared: &Shared) -> Result<()> {
    let standing = shared.identity.standing();
    if rank < (standing.epoch, standing.term) {
        return Err(outdated(rank, &standing));
    }
    Ok(())
}

fn outdated((epoch, term): Rank, standing: &Standing) -> Error {
    Error::new(
        ErrorCode::Forbidden,
        format!(
            "the request is of epoch {epoch} and term {term}, this server has seen {} and {}",
            standing.epoch, standing.term
        ),
    )
}

/// Checks that a name server of this cluster asks that may act, and shuts out everything older from now on.
pub(super) async fn fence(request: &HttpRequest, shared: &Shared) -> Result<()> {
    raise(sender(request, shared)?, shared).await
}

/// As [`fence`], for what only reads: any name server of the newest epoch may, whether or not it holds the lease.
pub(super) async fn fence_reader(request: &HttpRequest, shared: &Shared) -> Result<()> {
    let rank = sender(request, shared)?;
    let standing = shared.identity.standing();
    if rank.0 < standing.epoch {
        return Err(outdated(rank, &standing));
    }
    raise_to_read(rank, shared).await
}

/// As [`fence`], for a server that has a copy sent from here: only the target writes, so that a disk which takes no writes
/// is no hindrance.
pub(super) async fn fence_source(request: &HttpRequest, shared: &Shared) -> Result<()> {
    let rank = sender(request, shared)?;
    judge(rank, shared)?;
    raise_to_read(rank, shared).await
}

async fn raise(rank: Rank, shared: &Shared) -> Result<()> {
    judge(rank, shared)?;
    let (epoch, term) = rank;
    let standing = shared.identity.standing();
    if rank > (standing.epoch, standing.term) {
        // Durable before it is believed: after a restart nothing older is accepted either.
        let change = IndexChange::Fence { epoch, term };
        shared.writer.submit(change, INDEX_DEADLINE).await?;
        shared.identity.raise(epoch, term);
    }
    Ok(())
}

/// As [`raise`], for what only reads: from a disk that takes no writes too, because that is when its copies are needed. A
/// newer term of the same epoch is believed until the end of this process then.
async fn raise_to_read(rank: Rank, shared: &Shared) -> Result<()> {
    if rank < (shared.identity.standing().epoch, shared.identity.standing().term) {
        return Ok(());
    }
    match raise(rank, shared).await {
        Err(_) if rank.0 == shared.identity.standing().epoch && shared.condition.known().is_some() => {
            shared.identity.raise(rank.0, rank.1);
            Ok(())
        }
        outcome => outcome,
    }
}

/// Remembers what a name server that may act tells of the cluster.
fn note_told(told: Told, daemon: &Daemon) {
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

/// The question in a request's query, signed by a server of the cluster. It opens nothing but [`identity`].
pub(super) fn challenge(request: &HttpRequest, shared: &Shared) -> Result<Verified<Challenge>> {
    #[derive(Deserialize)]
    struct IdentityQuery {
        challenge: String,
    }
    let query = web::Query::<IdentityQuery>::from_query(request.query_string())
        .map_err(|_| Error::new(ErrorCode::Unauthorized, "this is only for servers of the cluster"))?;
    shared.signer.verify::<Challenge>(&query.challenge)
}

/// Proves to a name server who answers here. The proof names this server's own URL, so that it is worth nothing to anybody
/// who passes the question on.
#[utoipa::path(
    get, path = "/identity", tag = "name servers",
    params(("challenge" = String, Query, description = "a signed question")),
    responses((status = 200, body = IdentityProof))
)]
pub(super) async fn identity(challenge: web::ReqData<Verified<Challenge>>, daemon: Daemon) -> Result<HttpResponse> {
    let Verified { cluster, epoch, claims: Challenge { nonce, expires } } = challenge.into_inner();
    let answerer =
        Answerer { identity: daemon.identity.identity, boot_id: daemon.identity.boot_id, url: daemon.url.clone() };
    let proof = daemon.signer.sign(cluster, epoch, &Proof { nonce, answerer, expires })?;
    Ok(HttpResponse::Ok().json(IdentityProof { proof }))
}

/// What a name server tells with its check; both or nothing.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StatusQuery {
    /// The newest version that the journal's copies have.
    journal_head: Option<Version>,
    /// How many storage servers belong to the cluster, drained ones left out.
    servers: Option<i64>,
}

/// Whether the server is ready, for anybody; how it is (`StorageStatus`), for whoever has the cluster's secret.
///
/// A name server whose database was lost names another cluster, and must hear all the same.
#[utoipa::path(get, path = "/status", tag = "operation", params(StatusQuery), responses(
    (status = 200, body = PlainStatus), (status = 503, body = PlainStatus, description = "It is not ready yet")
))]
pub(super) async fn status(
    request: HttpRequest,
    query: web::Query<StatusQuery>,
    id: web::ReqData<RequestId>,
    daemon: Daemon,
) -> Result<HttpResponse> {
    let Some(verified) = request.extensions().get::<Verified<ServerCredential>>().cloned() else {
        return Ok(plain_status(&daemon, &id.0));
    };
    if let (Some(version), Some(servers)) = (query.journal_head, query.servers) {
        match rank(verified, &daemon).and_then(|rank| judge(rank, &daemon)) {
            Ok(()) => note_told(Told { version, servers }, &daemon),
            Err(error) => log::debug!("what is told of the journal is not believed: {}", error.message()),
        }
    }
    details(&daemon).await
}

fn plain_status(daemon: &Shared, request_id: &str) -> HttpResponse {
    let status = daemon.status_word().to_string();
    if status == readiness::OK {
        return HttpResponse::Ok().json(PlainStatus { status, error: None });
    }
    let error = Error::unavailable(format!("this storage server is not ready: {status}"));
    let error = Some(body_of(&error, Some(request_id)));
    HttpResponse::ServiceUnavailable().json(PlainStatus { status, error })
}

async fn details(daemon: &Daemon) -> Result<HttpResponse> {
    let (journal, told) = (daemon.journal.position(), daemon.heard.told());
    let (DiskFacts { capacity_bytes, free_bytes, objects, bytes, scrubbed }, trouble) =
        daemon.get_ref().look_at_disk().await?;
    let standing = daemon.identity.standing();
    Ok(HttpResponse::Ok().json(StorageStatus {
        status: if trouble.is_some() { readiness::TROUBLE } else { daemon.status_word() }.into(),
        trouble,
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
        index_changes: daemon.index_changes.load(Ordering::Relaxed),
        capacity_bytes,
        free_bytes,
        time: Some(chrono::Utc::now()),
        scrubbed: scrubbed.map(|time| time.and_utc()),
        uploads: daemon.uploads_under_way() as u64,
        objects,
        bytes,
        program_version: env!("CARGO_PKG_VERSION").into(),
    }))
}

/// Removes copies, or puts them into quarantine; what is not there counts as removed.
#[utoipa::path(
    delete, path = "/file", tag = "name servers", request_body = DeleteRequest,
    responses((status = 200, body = DeleteResponse))
)]
pub(super) async fn delete(body: Json<DeleteRequest>, daemon: Daemon) -> Result<HttpResponse> {
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InventoryQuery {
    /// The cursor: the last copy (`OBJECT.GENERATION`) of the page before.
    #[param(pattern = r"^[0-7][0-9a-f]{15}\.[0-7][0-9a-f]{15}$")]
    after: Option<String>,
    /// Rows wanted; at most and by default `INVENTORY_PAGE_ROWS_MAX`.
    limit: Option<usize>,
    /// Whether the files of larger copies are to be looked for.
    #[serde(default)]
    files: bool,
}

/// One page of the inventory: a JSON object (`InventoryLine`) on each line.
#[utoipa::path(
    get, path = "/dump_tree", tag = "name servers", params(InventoryQuery),
    responses((status = 200, body = String, content_type = "application/x-ndjson"))
)]

pub(super) async fn dump_tree(query: web::Query<InventoryQuery>, daemon: Daemon) -> Result<HttpResponse> {
    let after = query.after.as_deref().map(str::parse).transpose()?;
    let limit = query.limit.unwrap_or(INVENTORY_PAGE_ROWS_MAX).clamp(1, INVENTORY_PAGE_ROWS_MAX);
    let rows = daemon.index.read(move |connection| index::page(connection, after, limit)).await?;
    let gone = if query.files { without_file(&daemon, &rows).await? } else { Vec::new() };
    daemon.readiness.page_read(daemon.identity.standing().epoch, rows.len() < limit);
    let mut body = Vec::new();
    for row in &rows {
        let line = InventoryLine { gone: gone.contains(&row.key()), ..line(row)? };
        serde_json::to_writer(&mut body, &line)
            .map_err(|e| Error::internal("cannot encode an inventory").with_source(e))?;
        body.push(b'\n');
    }
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").body(body))
}

/// Copies of a page whose files are not there, though their rows still are: they go to the scrubber, which counts them out.
async fn without_file(daemon: &Daemon, rows: &[ReplicaRow]) -> Result<Vec<ReplicaKey>> {
    let shared = daemon.get_ref().clone();
    let in_files: Vec<ReplicaKey> = rows.iter().filter(|row| !row.in_index).map(ReplicaRow::key).collect();
    let looked = tokio::task::spawn_blocking(move || {
        let mut gone = Vec::new();
        for key in in_files {
            // Asked in this order, as a deletion takes the row first.
            if !objects::is_there(&shared.layout, key)?
                && shared.index.read_here(|connection| index::find(connection, key))?.is_some()
            {
                gone.push(key);
            }
        }
        if !gone.is_empty() {
            shared.suspects.want_look();
            gone.iter().for_each(|key| shared.suspects.add(*key));
        }
        Ok(gone)
    });
    looked.await.map_err(|error| Error::internal("looking for files panicked").with_source(error))?
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
        gone: false,
    })
}

/// Streams a copy of what is here to another server, which checks its digest.
#[utoipa::path(
    post, path = "/replicate", tag = "name servers", request_body = ReplicateRequest,
    responses((status = 200, body = CopyStored))
)]
pub(super) async fn replicate(body: Json<ReplicateRequest>, daemon: Daemon) -> Result<HttpResponse> {
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
