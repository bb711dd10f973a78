//! `POST` and `GET /journal`: the name server brings files of the journal, and reads them back for a restore.

use std::io::Write;
use std::sync::Arc;

use actix_web::body::SizedStream;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::upload::next_piece;
use crate::security::credential::{BodySeal, SEAL_BYTES, Sealed};
use crate::storage::identity::Standing;
use crate::storage::room::UNKNOWN_SIZE_BYTES;
use crate::storage::state::{Daemon, Shared};
use crate::storage::store::incoming::not_stored;
use crate::storage::store::{Content, Dir, Incoming, TempFile};
use crate::types::limits::JOURNAL_SNAPSHOT_BYTES_MAX;
use crate::types::storage_api::{JournalAccepted, JournalFiles, JournalStatus};
use crate::types::{Error, ErrorCode, Result};
use crate::web::body::SignedDigest;

/// Bytes that are read from a file at once.
const READ_BYTES: usize = 256 << 10;
/// What a file of the journal may take of the room that is reserved for it, in bytes; beyond it needs room like an upload.
const RESERVED_BYTES_MAX: u64 = 8 << 20;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FileQuery {
    /// A file's name.
    file: Option<String>,
    /// Whether the names of the files are wanted, a page at a time.
    #[serde(default)]
    list: bool,
    /// The name after which a page of names begins.
    after: Option<String>,
}

/// The state of the copy of the journal; with `list`, a page of its files; with a name, that file.
#[utoipa::path(
    get, path = "/journal", tag = "name servers", params(FileQuery), responses(
        (status = 200, description = "The state, a page of the files, or a file", content(
            (JournalAnswer = "application/json"), (String = "application/x-ndjson")
        ))
    )
)]
pub(super) async fn read(query: web::Query<FileQuery>, daemon: Daemon) -> Result<HttpResponse> {
    let shared: Arc<Shared> = daemon.get_ref().clone();
    let FileQuery { file, list, after } = query.into_inner();
    let Some(name) = file else {
        let answer = blocking(move || {
            Ok(match list {
                false => JournalAnswer::Status(shared.journal.status()),
                true => JournalAnswer::Files(shared.journal.files_after(after.as_deref().unwrap_or_default())),
            })
        });
        return Ok(HttpResponse::Ok().json(answer.await?));
    };
    let (file, bytes) = blocking(move || shared.journal.open_file(&name)).await?;
    let pieces = tokio_util::io::ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ_BYTES);
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").body(SizedStream::new(bytes, pieces)))
}

/// What `GET /journal` answers.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum JournalAnswer {
    /// The state.
    Status(JournalStatus),
    /// A page of the files.
    Files(JournalFiles),
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SealQuery {
    /// A random word, which the seal at the end of a body names whose digest the credential does not.
    seal: Option<String>,
}

/// Takes a segment or a snapshot.
#[utoipa::path(
    post, path = "/journal", tag = "name servers", params(SealQuery),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, body = JournalAccepted))
)]
pub(super) async fn receive(
    request: HttpRequest,
    query: web::Query<SealQuery>,
    payload: web::Payload,
    daemon: Daemon,
) -> Result<HttpResponse> {
    let shared: Arc<Shared> = daemon.get_ref().clone();
    let (cluster, _) = shared.identity.require_cluster()?;
    // Who sends it was judged when the request began; a snapshot takes long.
    let fence = |standing: Standing| (standing.cluster, standing.epoch, standing.term);
    let judged = fence(shared.identity.standing());
    let is_snapshot = !SignedDigest::is_there(&request);
    let permits = if is_snapshot { &shared.journal.snapshot_permits } else { &shared.journal.segment_permits };
    let permit = permits.clone().try_acquire_owned().map_err(|_| {
        Error::new(ErrorCode::Busy, "this storage server receives as many files of the journal as it takes; try again")
    })?;
    // Either the credential covers the body, or the body ends with what does.
    let seal = match (SignedDigest::is_there(&request), query.into_inner().seal) {
        (true, _) => None,
        (false, Some(word)) => Some(word),
        (false, None) => {
            let message =
                "neither the request's credential nor a seal covers the body: its sender is of an older version";
            return Err(Error::new(ErrorCode::Unauthorized, message));
        }
    };
    let length = request.headers().get("Content-Length").and_then(|value| value.to_str().ok()?.parse().ok());
    let outcome = match take_body(&shared, &request, payload, length, seal).await {
        Ok(file) => {
            let shared = shared.clone();
            let accept = blocking(move || {
                let _permit = permit;
                if fence(shared.identity.standing()) != judged {
                    let message =
                        "another name server has taken over while this file of the journal came: it is refused";
                    return Err(Error::new(ErrorCode::Forbidden, message));
                }
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
    seal: Option<String>,
) -> Result<TempFile> {
    let dir = shared.layout.incoming().clone();
    let sealed_bytes = if seal.is_some() { SEAL_BYTES } else { 0 };
    // Whoever passes a snapshot on may have waited for its end, and announce its length.
    let mut incoming = Incoming::new(&dir, length.map(|length| length.saturating_sub(sealed_bytes as u64)));
    let mut promise = None;
    let mut end = Held::new(sealed_bytes);
    while let Some(piece) = next_piece(&mut payload, incoming.size(), length).await? {
        if incoming.size() + piece.len() as u64 > JOURNAL_SNAPSHOT_BYTES_MAX {
            let message = format!("a file of the journal has at most {JOURNAL_SNAPSHOT_BYTES_MAX} bytes");
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        let so_far = incoming.size() + piece.len() as u64;
        if so_far > RESERVED_BYTES_MAX {
            let rest = length.map_or(UNKNOWN_SIZE_BYTES, |length| length.saturating_sub(incoming.size()));
            let promise = match &mut promise {
                Some(promise) => promise,
                none => none.insert(shared.room.promise(rest.max(piece.len() as u64)).await?),
            };
            promise.write(piece.len() as u64).await?;
        }
        let piece = end.pass(piece);
        if !piece.is_empty() {
            incoming.write(piece).await?;
        }
    }
    let received = incoming.finish().await?;
    SignedDigest::check(request, || received.sha256)?;
    if let Some(word) = seal {
        let (cluster, epoch) = shared.identity.require_cluster()?;
        let now = shared.identity.now();
        let of = Sealed { cluster, epoch, request: &word, sha256: received.sha256, now };
        BodySeal::check(&end.0, &shared.signer, &of)?;
    }
    match received.content {
        Content::File(file) => Ok(file),
        Content::Small(bytes) => blocking(move || write_small(&dir, &bytes)).await,
    }
}

/// Holds back the end of a body, so many bytes.
struct Held(Vec<u8>, usize);

impl Held {
    fn new(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes), bytes)
    }

    /// What of the body so far is not its end for certain, when this piece has come.
    fn pass(&mut self, piece: Bytes) -> Bytes {
        if self.1 == 0 {
            return piece;
        }
        self.0.extend_from_slice(&piece);
        let passed = self.0.len().saturating_sub(self.1);
        self.0.drain(..passed).collect::<Vec<_>>().into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_held_back_however_the_body_is_cut() {
        let body: Vec<u8> = (0..=255).collect();
        for held in [0, 1, 7, 255, 256, 300] {
            for size in [1, 3, 64, 256] {
                let mut end = Held::new(held);
                let passed: Vec<u8> =
                    body.chunks(size).flat_map(|piece| end.pass(Bytes::copy_from_slice(piece))).collect();
                let (before, after) = body.split_at(body.len().saturating_sub(held));
                assert_eq!((passed.as_slice(), end.0.as_slice()), (before, after), "{held} {size}");
            }
        }
    }
}
