//! `POST /file`: receiving a body, to the own disk and to the other targets at the same time.

use std::sync::Arc;

use actix_web::error::PayloadError;
use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::storage::BodyFacts;
use crate::security::{ReplicateTicket, WriteTicket};
use crate::storage::admission::{Place, Purpose};
use crate::storage::identity::Claim;
use crate::storage::reporter::Report;
use crate::storage::room::{Promise, UNKNOWN_SIZE_BYTES};
use crate::storage::state::{Daemon, Shared};
use crate::storage::store::{Content, Incoming, Received, ReplicaRow, State, index, objects};
use crate::storage::writer::{INDEX_DEADLINE, IndexChange};
use crate::types::api::{CommitReport, Committed, SHA256_HEADER, Target};
use crate::types::limits::{FORWARD_TIMEOUT, REPORT_TIMEOUT, STALL_TIMEOUT};
use crate::types::storage_api::{CopyStored, ReplicaKey};
use crate::types::{Error, ErrorCode, Result, ServerId, Sha256, Time};
use crate::web::file_body;
use crate::web::route::found;

/// Pieces that wait for a slower target.
const FORWARD_PIECES_MAX: usize = 16;

#[derive(Deserialize)]
struct UploadQuery {
    ticket: String,
    /// `copy`: take the body and tell nobody; else pass it on and commit it.
    role: Option<String>,
}

/// What the bytes are for, from either kind of ticket.
#[derive(Clone)]
pub(super) struct Order {
    ticket: String,
    is_copy: bool,
    key: ReplicaKey,
    label: String,
    size: Option<u64>,
    sha256: Option<Sha256>,
    expires: Time,
    epoch: i64,
    server: ServerId,
    write: Option<WriteTicket>,
}

/// Takes the bytes of a file, passes them on to the other servers of the ticket, and commits the file; with `role=copy`
/// takes a copy and tells nobody.
#[utoipa::path(
    method(post, put), path = "/file", tag = "files", params(
        ("role" = Option<String>, Query, description = "`copy`: take the body and tell nobody; else pass it on and commit it"),
        ("Holdfast-Sha256" = Option<Sha256>, Header, description = "The SHA-256 of the body, if the sender knows it")
    ),
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = CopyStored, description = "The copy is stored (`role=copy`)"),
        (status = 201, body = Committed, description = "The file is committed")
    )
)]
pub(super) async fn receive(request: HttpRequest, payload: web::Payload, daemon: Daemon) -> Result<HttpResponse> {
    let shared: Arc<Shared> = daemon.get_ref().clone();
    let order: Order = found(&request)?;
    let is_copy = order.is_copy;
    let facts = facts(&request, &order)?;
    let place = shared.admission.enter(order.purpose())?;
    shared.condition.require()?;
    let promise = shared.room.promise(facts.size.unwrap_or(UNKNOWN_SIZE_BYTES)).await?;
    let claim = shared.identity.claim(order.key)?;
    let key = order.key;
    let stored = shared.index.read(move |connection| index::find(connection, key)).await?;
    let forwards = match &order.write {
        Some(ticket) if !is_copy => Forwards::start(&shared, ticket, order.server, &order.ticket, facts),
        _ => Forwards::default(),
    };
    let bounds = Bounds { facts, until: order.expires, may_be_used_up: request.method() == Method::PUT };
    let (received, forwards) = take_body(&shared, (&place, promise), payload, bounds, forwards).await?;
    let ticket = order.ticket.clone();
    let upload = Upload { shared, order, received, stored, claim };
    // From here on the work goes on even if the client hangs up.
    let task = tokio::spawn(async move {
        let _place = place;
        if is_copy {
            upload.keep().await.map(Outcome::Copy)
        } else {
            upload.commit(ticket, forwards).await.map(Outcome::Committed)
        }
    });
    let outcome = task.await.map_err(|error| Error::internal("an upload panicked").with_source(error))??;
    crate::types::failpoint::UPLOAD_ANSWERING.passed();
    match outcome {
        Outcome::Copy(stored) => Ok(HttpResponse::Ok().json(stored)),
        Outcome::Committed(committed) => Ok(HttpResponse::Created()
            .insert_header(("ETag", format!("\"{}\"", committed.version)))
            .insert_header((SHA256_HEADER, committed.sha256.to_string()))
            .json(committed)),
    }
}

enum Outcome {
    Copy(CopyStored),
    Committed(Committed),
}

impl Order {
    fn purpose(&self) -> Purpose {
        if self.write.is_some() { Purpose::Write } else { Purpose::Repair }
    }
}

/// Judges a request's ticket: signature, cluster, epoch, time, and that it is for this server.
pub(super) fn order(request: &HttpRequest, shared: &Shared) -> Result<Order> {
    let refuse = |message: &str| Error::new(ErrorCode::Unauthorized, message);
    let query = web::Query::<UploadQuery>::from_query(request.query_string())
        .map_err(|_| refuse("a ticket is needed (?ticket=…); the name server hands them out"))?;
    let UploadQuery { ticket, role } = query.into_inner();
    let is_copy = role.as_deref() == Some("copy");
    let not_here = || refuse("the ticket is for other storage servers");
    match shared.signer.verify::<WriteTicket>(&ticket) {
        Ok(verified) => {
            let (cluster, server, epoch) = shared.identity.require_member()?;
            let write = verified.valid(cluster, epoch, shared.identity.now())?;
            if !write.targets.iter().any(|target| target.server == server) {
                return Err(not_here());
            }
            Ok(Order {
                ticket,
                is_copy,
                key: ReplicaKey { object: write.object, generation: write.generation },
                label: write.path.to_string(),
                size: write.size,
                sha256: None,
                expires: write.expires,
                epoch,
                server,
                write: Some(write),
            })
        }
        Err(_) if is_copy => {
            let verified = shared.signer.verify::<ReplicateTicket>(&ticket)?;
            let (cluster, server, epoch) = shared.identity.require_member()?;
            let copy = verified.valid(cluster, epoch, shared.identity.now())?;
            if copy.target != server {
                return Err(not_here());
            }
            Ok(Order {
                ticket,
                is_copy,
                key: copy.replica,
                label: copy.label,
                size: Some(copy.size),
                sha256: Some(copy.sha256),
                expires: copy.expires,
                epoch,
                server,
                write: None,
            })
        }
        Err(error) => Err(error),
    }
}

/// Size and digest, as the ticket and the headers announce them; they must not contradict each other.
fn facts(request: &HttpRequest, order: &Order) -> Result<BodyFacts> {
    let length = file_body::announced(request.headers())?;
    if let (Some(length), Some(size)) = (length, order.size)
        && length != size
    {
        return Err(Error::invalid(format!("the body has {length} bytes, the ticket is for {size}")));
    }
    let sent = request.headers().get(SHA256_HEADER).map(|value| {
        value.to_str().map_err(|_| Error::invalid(format!("the header {SHA256_HEADER} is not text")))?.parse()
    });
    let sent: Option<Sha256> = sent.transpose()?;
    Ok(BodyFacts { size: order.size.or(length), sha256: order.sha256.or(sent) })
}

/// A target that is being sent the body.
struct Forward {
    target: Target,
    /// `None` when the target is given up.
    pieces: Option<mpsc::Sender<std::io::Result<Bytes>>>,
    result: JoinHandle<Result<CopyStored>>,
}

/// The other targets of an upload.
#[derive(Default)]
struct Forwards(Vec<Forward>);

impl Forwards {
    fn start(shared: &Shared, ticket: &WriteTicket, here: ServerId, text: &str, facts: BodyFacts) -> Self {
        let start = |target: &Target| {
            let (pieces, queue) = mpsc::channel::<std::io::Result<Bytes>>(FORWARD_PIECES_MAX);
            let (client, url, text) = (shared.storage.clone(), target.url.clone(), text.to_string());
            let body =
                futures_util::stream::unfold(queue, |mut queue| async move { Some((queue.recv().await?, queue)) });
            let result = tokio::spawn(async move { client.upload_copy(&url, &text, facts, body).await });
            Forward { target: target.clone(), pieces: Some(pieces), result }
        };
        Self(ticket.targets.iter().filter(|target| target.server != here).map(start).collect())
    }

    /// Sends a piece to all targets. One that fails shows it in its result; one that takes nothing for too long
    /// is broken off, so that its copy cannot have a hole.
    async fn pass_on(&mut self, piece: &Bytes) {
        for forward in &mut self.0 {
            let Some(pieces) = &forward.pieces else { continue };
            let sent = tokio::time::timeout(FORWARD_TIMEOUT, pieces.send(Ok(piece.clone()))).await;
            if !matches!(sent, Ok(Ok(()))) {
                if sent.is_err() {
                    forward.result.abort();
                }
                forward.pieces = None;
            }
        }
    }

    /// A broken body makes every target keep nothing.
    fn break_off(&self) {
        for forward in &self.0 {
            if let Some(pieces) = &forward.pieces {
                // When the queue is full, the abort below breaks the connection.
                let _ = pieces.try_send(Err(std::io::Error::other("the upload was broken off")));
            }
            forward.result.abort();
        }
    }
}

/// What a body must be.
struct Bounds {
    facts: BodyFacts,
    /// When its ticket ends.
    until: Time,
    /// It comes by a redirect (the name server redirects PUT, and the command line sends POST), so that an empty one may
    /// be one that was sent already.
    may_be_used_up: bool,
}

/// Streams the body to the own disk and to all targets. A target that fails or stalls is left behind; a body
/// that fails is broken off everywhere.
async fn take_body(
    shared: &Shared,
    (place, mut promise): (&Place, Promise),
    mut payload: web::Payload,
    Bounds { facts, until, may_be_used_up }: Bounds,
    mut forwards: Forwards,
) -> Result<(Received, Forwards)> {
    let mut incoming = Incoming::new(shared.layout.incoming(), facts.size);
    let outcome = async {
        let size = |piece: &Option<Result<Bytes, PayloadError>>| match piece {
            Some(Ok(piece)) => piece.len(),
            _ => 0,
        };
        while let Some(piece) = place.wait_for(payload.next(), size).await? {
            let piece = piece.map_err(|error| broke_off(incoming.size(), facts.size, &error))?;
            if shared.identity.now() > until {
                // It could not be committed any more.
                let message = format!("the ticket's time was over after {} bytes; ask for a new one", incoming.size());
                return Err(Error::new(ErrorCode::TicketExpired, message));
            }
            forwards.pass_on(&piece).await;
            promise.write(piece.len() as u64).await?;
            incoming.write(piece).await?;
        }
        let nothing_said = facts.size.is_none() && facts.sha256.is_none();
        if may_be_used_up && nothing_said && incoming.size() == 0 {
            return Err(file_body::refuse_unmeant());
        }
        place.is_whole();
        let received = incoming.finish().await?;
        match facts.sha256 {
            Some(announced) if announced != received.sha256 => Err(Error::new(
                ErrorCode::ChecksumMismatch,
                format!(
                    "the bytes that came have SHA-256 {}, announced was {announced}; nothing was kept",
                    received.sha256
                ),
            )),
            _ => Ok(received),
        }
    }
    .await;
    match outcome {
        Ok(received) => Ok((received, forwards)),
        Err(error) => {
            if matches!(error.code(), ErrorCode::Unavailable | ErrorCode::OutOfSpace) {
                shared.condition.doubt();
            }
            forwards.break_off();
            Err(error)
        }
    }
}

/// The next piece of a body from another server.
pub(super) async fn next_piece(
    payload: &mut web::Payload,
    so_far: u64,
    announced: Option<u64>,
) -> Result<Option<Bytes>> {
    match tokio::time::timeout(STALL_TIMEOUT, payload.next()).await {
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(None) => Ok(None),
        Ok(Some(Err(error))) => Err(broke_off(so_far, announced, &error)),
        Err(_) => Err(Error::invalid(format!("the sender was silent for {STALL_TIMEOUT:?} after {so_far} bytes"))),
    }
}

fn broke_off(so_far: u64, announced: Option<u64>, error: &PayloadError) -> Error {
    let of = announced.map(|size| format!(" of {size} announced")).unwrap_or_default();
    Error::invalid(format!("the body broke off after {so_far}{of} bytes: {error}"))
}

/// A body that has come whole.
struct Upload {
    shared: Arc<Shared>,
    order: Order,
    received: Received,
    /// The copy that is stored under this name already, from an earlier try.
    stored: Option<ReplicaRow>,
    claim: Claim,
}

impl Upload {
    /// Makes the copy durable, as pending.
    async fn keep(self) -> Result<CopyStored> {
        let Self { shared, order, received, stored, claim } = self;
        let answer = CopyStored {
            object: order.key.object,
            generation: order.key.generation,
            size: received.size,
            sha256: received.sha256,
        };
        if let Some(stored) = stored {
            if stored.digest()? != received.sha256 {
                return Err(other_content(order.key));
            }
            // Nothing is written, so nothing else has looked.
            let layout = shared.layout.clone();
            let same = tokio::task::spawn_blocking(move || layout.require_same());
            same.await.map_err(|error| Error::internal("a look at the directory panicked").with_source(error))??;
            return Ok(answer);
        }
        let now = shared.identity.now().naive_utc();
        let row = ReplicaRow {
            object: order.key.object.0,
            generation: order.key.generation.0,
            size: received.size as i64,
            sha256: received.sha256.0.to_vec(),
            label: order.label,
            epoch: order.epoch,
            version: None,
            ticket_expires: order.expires.naive_utc(),
            state: State::Pending.word().into(),
            in_index: matches!(received.content, Content::Small(_)),
            created: now,
            verified: now,
        };
        let bytes = match received.content {
            Content::Small(bytes) => Some(bytes),
            Content::File(path) => {
                let layout = shared.layout.clone();
                let put = tokio::task::spawn_blocking(move || objects::put(&layout, order.key, path));
                put.await.map_err(|error| Error::internal("placing a file panicked").with_source(error))??;
                None
            }
        };
        let in_file = bytes.is_none();
        let inserted = shared.writer.submit(IndexChange::Insert { row: Box::new(row), bytes }, INDEX_DEADLINE).await;
        if let Err(error) = inserted {
            shared.condition.doubt();
            // Only a failure that is certain lets the file go; after another one the next start decides.
            if in_file && error.code() == ErrorCode::OutOfSpace {
                objects::remove(&shared.layout, order.key, received.size)?;
            }
            return Err(error);
        }
        drop(claim);
        Ok(answer)
    }

    /// Makes the copy durable, waits for the other targets and reports to the name server.
    async fn commit(self, ticket: String, forwards: Forwards) -> Result<Committed> {
        let Some(write) = self.order.write.clone() else {
            return Err(Error::invalid("a ticket for a copy cannot commit a file"));
        };
        let (shared, key, here) = (self.shared.clone(), self.order.key, self.order.server);
        let waiting: Vec<(Target, JoinHandle<Result<CopyStored>>)> = forwards
            .0
            .into_iter()
            .map(|forward| {
                // The end of the channel is the end of the body.
                drop(forward.pieces);
                (forward.target, forward.result)
            })
            .collect();
        let stored = self.keep().await?;
        let (mut holders, mut failures) = (vec![here], Vec::new());
        let deadline = tokio::time::Instant::now() + FORWARD_TIMEOUT;
        for (target, result) in waiting {
            match tokio::time::timeout_at(deadline, result).await {
                Ok(Ok(Ok(copy))) if copy == stored => holders.push(target.server),
                Ok(Ok(Ok(_))) => failures.push(format!("{} received other bytes", target.url)),
                Ok(Ok(Err(error))) => failures.push(format!("{}: {}", target.url, error.message())),
                Ok(Err(error)) => failures.push(format!("{}: {error}", target.url)),
                Err(_) => failures.push(format!("{} did not answer within {FORWARD_TIMEOUT:?}", target.url)),
            }
        }
        if !failures.is_empty() {
            log::warn!("{key} reached {} of {} servers: {}", holders.len(), write.targets.len(), failures.join("; "));
        }
        if holders.len() < write.min_write_copies as usize {
            let message = format!(
                "{} of {} needed copies could be stored: {}",
                holders.len(),
                write.min_write_copies,
                failures.join("; ")
            );
            return Err(Error::new(ErrorCode::NotEnoughServers, message));
        }
        crate::types::failpoint::UPLOAD_PENDING.passed();
        let report = CommitReport { ticket, size: stored.size, sha256: stored.sha256, holders };
        shared.reporter.submit(Report { key, report }, REPORT_TIMEOUT).await
    }
}

fn other_content(key: ReplicaKey) -> Error {
    Error::new(
        ErrorCode::AlreadyExists,
        format!("the copy {key} is stored already with other bytes; nothing was changed"),
    )
}
