//! `POST` and `GET /journal`: the name server brings files of the journal, and reads them back for a restore.

use std::io::Write;
use std::sync::Arc;

use actix_web::body::SizedStream;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Daemon;
use super::upload::{ROOM_CHECK_BYTES, check_room, next_piece};
use crate::storage::server::Shared;
use crate::storage::store::incoming::not_stored;
use crate::storage::store::{Content, Dir, Incoming, TempFile};
use crate::types::limits::JOURNAL_SNAPSHOT_BYTES_MAX;
use crate::types::storage_api::{JournalAccepted, JournalStatus};
use crate::types::{Error, ErrorCode, Result};
use crate::web::body::SignedDigest;

/// Bytes that are read from a file at once.
const READ_BYTES: usize = 256 << 10;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FileQuery {
    /// A file's name.
    file: Option<String>,
}

/// The state of the copy of the journal; with a name, that file.
#[utoipa::path(
    get, path = "/journal", tag = "name servers", params(FileQuery), responses(
        (status = 200, description = "The state, or the file", content(
            (JournalStatus = "application/json"), (String = "application/x-ndjson")
        ))
    )
)]
pub(super) async fn read(query: web::Query<FileQuery>, daemon: Daemon) -> Result<HttpResponse> {
    let shared: Arc<Shared> = daemon.get_ref().clone();
    let Some(name) = query.into_inner().file else {
        return Ok(HttpResponse::Ok().json(blocking(move || Ok(shared.journal.status())).await?));
    };
    let (file, bytes) = blocking(move || shared.journal.open_file(&name)).await?;
    let pieces = tokio_util::io::ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ_BYTES);
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").body(SizedStream::new(bytes, pieces)))
}

/// Takes a segment or a snapshot.
#[utoipa::path(
    post, path = "/journal", tag = "name servers",
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, body = JournalAccepted))
)]
pub(super) async fn receive(request: HttpRequest, payload: web::Payload, daemon: Daemon) -> Result<HttpResponse> {
    let shared: Arc<Shared> = daemon.get_ref().clone();
    let (cluster, _) = shared.identity.require_cluster()?;
    let permit = shared.journal.permits.clone().try_acquire_owned().map_err(|_| {
        Error::new(ErrorCode::Busy, "this storage server receives as many files of the journal as it takes; try again")
    })?;
    let length = request.headers().get("Content-Length").and_then(|value| value.to_str().ok()?.parse().ok());
    let outcome = match take_body(&shared, &request, payload, length).await {
        Ok(file) => {
            let shared = shared.clone();
            let accept = blocking(move || {
                let _permit = permit;
                shared.journal.accept(file, cluster)
            });
            accept.await
        }
        Err(error) => Err(error),
    };
    match &outcome {
        // Deletions, which make room, wait for the journal: the next try gets the ballast's place.
        Err(error) if error.code() == ErrorCode::OutOfSpace => drop(shared.layout.give_up_ballast()),
        Err(error) if error.code() == ErrorCode::Unavailable => shared.condition.doubt(),
        _ => {}
    }
    Ok(HttpResponse::Ok().json(outcome?))
}

/// Streams a body to a file. What is small may take the room that is reserved for it.
async fn take_body(
    shared: &Shared,
    request: &HttpRequest,
    mut payload: web::Payload,
    length: Option<u64>,
) -> Result<TempFile> {
    let dir = shared.layout.incoming().clone();
    let mut incoming = Incoming::new(&dir, length);
    let mut unchecked = 0;
    while let Some(piece) = next_piece(&mut payload, incoming.size(), length).await? {
        if incoming.size() + piece.len() as u64 > JOURNAL_SNAPSHOT_BYTES_MAX {
            let message = format!("a file of the journal has at most {JOURNAL_SNAPSHOT_BYTES_MAX} bytes");
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        unchecked += piece.len() as u64;
        if unchecked >= ROOM_CHECK_BYTES {
            unchecked = 0;
            check_room(shared, length.map_or(0, |length| length.saturating_sub(incoming.size())))?;
        }
        incoming.write(piece).await?;
    }
    let received = incoming.finish().await?;
    SignedDigest::check(request, || received.sha256)?;
    match received.content {
        Content::File(file) => Ok(file),
        Content::Small(bytes) => blocking(move || write_small(&dir, &bytes)).await,
    }
}

fn write_small(dir: &Dir, bytes: &[u8]) -> Result<TempFile> {
    let write = || -> std::io::Result<TempFile> {
        let (mut file, temporary) = TempFile::new_in(dir, "journal-")?;
        file.write_all(bytes)?;
        Ok(temporary)
    };
    write().map_err(|error| not_stored("storing a file of the journal", error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("work on the journal panicked").with_source(error))?
}
