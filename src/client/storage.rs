//! A storage server's client: transfers by ticket, and what servers ask each other.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::body::watched;
use super::http::{
    Credentials, Envelope, Failure, HttpClient, SMALL_ANSWER_BYTES_MAX, Seal, read_json, send, send_json,
    send_json_within,
};
use super::waits::Waiting;
use super::watchdog::{PROBES, hangs};
use crate::security::Recipient;
use crate::types::api::{Committed, SHA256_HEADER};
use crate::types::hash::Hasher;
use crate::types::limits::{
    INVENTORY_PAGE_ROWS_MAX, LONG_REQUEST_TIMEOUT, REQUEST_TIMEOUT, SNAPSHOT_TIMEOUT, UPLOAD_TIMEOUT,
};
use crate::types::storage_api::*;
use crate::types::{Error, ErrorCode, Result, Sha256};

/// Longest page of an inventory that is read, in bytes: its lines, each with a path of the greatest length in which
/// every byte is escaped for JSON.
const INVENTORY_PAGE_BYTES_MAX: usize = 32 << 20;

/// Calls storage servers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StorageClient {
    http: HttpClient,
    credentials: Credentials,
}

/// The answer to `GET /status`: whole, or only what anybody is told. Whatever has an identity must be whole.
#[derive(Deserialize)]
#[serde(try_from = "serde_json::Value")]
enum Status {
    Whole(Box<StorageStatus>),
    Plain,
}

impl TryFrom<serde_json::Value> for Status {
    type Error = serde_json::Error;

    fn try_from(value: serde_json::Value) -> Result<Self, Self::Error> {
        match value.get("identity") {
            Some(_) => serde_json::from_value(value).map(Self::Whole),
            None => serde_json::from_value::<PlainStatus>(value).map(|_| Self::Plain),
        }
    }
}

/// What a sender knows of the body that it sends.
#[derive(Debug, Clone, Copy, Default)]
pub struct BodyFacts {
    /// Bytes.
    pub size: Option<u64>,
    /// Digest.
    pub sha256: Option<Sha256>,
}

/// Bytes on their way in.
pub struct Download {
    response: reqwest::Response,
    from: Watch,
    /// Bytes of the whole answer, if the server told.
    pub size: Option<u64>,
}

/// One exchange with a server, which is watched.
struct Watch {
    http: HttpClient,
    base: String,
    waiting: Arc<Waiting>,
}

impl Watch {
    /// What `exchange` answers, unless the server hangs before.
    async fn over<T>(&self, exchange: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            answer = exchange => answer,
            error = hangs(&self.http, &self.base, &self.waiting, PROBES) => Err(error),
        }
    }
}

impl Download {
    fn new(response: reqwest::Response, from: Watch) -> Self {
        from.waiting.is_waited_for();
        Self { size: response.content_length(), response, from }
    }

    /// The next piece; `None` at the end. Each piece must come within the stall timeout.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.from.waiting.heard();
        let broken =
            |error: reqwest::Error| Error::unavailable("the transfer broke off").with_source(error.without_url());
        let chunk = async { self.response.chunk().await.map_err(broken) };
        let answer = self.from.over(chunk).await;
        self.from.waiting.is_waited_for();
        answer
    }
}

impl StorageClient {
    /// A client that shows these credentials (transfers need none: they have tickets).
    pub fn new(http: HttpClient, credentials: Credentials) -> Self {
        Self { http, credentials }
    }

    fn watch(&self, base: &str) -> Watch {
        let waiting = Arc::new(self.http.waits().on_storage(base));
        Watch { http: self.http.clone(), base: base.into(), waiting }
    }

    /// Whether the server of this URL has hung while this program ran.
    pub fn has_hung(&self, url: &str) -> bool {
        self.http.hung().has(base_of(url))
    }

    /// Remembers what people call the server of this URL.
    pub fn call(&self, url: &str, name: &str) {
        self.http.waits().call(base_of(url), name);
    }

    /// Uploads a body to the first server of a placement, which passes it on and commits it.
    pub async fn upload<S>(&self, base: &str, ticket: &str, facts: BodyFacts, body: S) -> Result<Committed>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        self.send_body(base, &[("ticket", ticket)], facts, body).await
    }

    /// Sends a copy to one of the other servers of a placement, or the target of a replication.
    pub async fn upload_copy<S>(&self, base: &str, ticket: &str, facts: BodyFacts, body: S) -> Result<CopyStored>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        self.send_body(base, &[("ticket", ticket), ("role", "copy")], facts, body).await
    }

    async fn send_body<S, T>(&self, base: &str, query: &[(&str, &str)], facts: BodyFacts, body: S) -> Result<T>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        T: DeserializeOwned,
    {
        let watch = self.watch(base);
        let (body, progress) = watched(body, watch.waiting.clone());
        let mut request =
            self.http.patient().post(format!("{base}/file")).query(query).body(reqwest::Body::wrap_stream(body));
        if let Some(size) = facts.size {
            request = request.header(reqwest::header::CONTENT_LENGTH, size);
        }
        if let Some(sha256) = facts.sha256 {
            request = request.header(SHA256_HEADER, sha256.to_string());
        }
        let exchange = async {
            let response = send(request, Envelope::NOBODY).await.map_err(error)?;
            read_json(response, SMALL_ANSWER_BYTES_MAX).await
        };
        tokio::select! {
            answer = watch.over(exchange) => answer,
            () = progress.stalled(UPLOAD_TIMEOUT) => {
                let seconds = UPLOAD_TIMEOUT.as_secs();
                Err(Error::unavailable(format!("{base} took no more of an upload for {seconds} s")))
            }
        }
    }

    /// Downloads from a location's URL (it has the ticket), from byte `from` on.
    pub async fn download(&self, url: &str, from: u64) -> Result<Download> {
        let mut request = self.http.raw().get(url);
        if from > 0 {
            request = request.header(reqwest::header::RANGE, format!("bytes={from}-"));
        }
        let watch = self.watch(base_of(url));
        let response = watch.over(async { send(request, Envelope::NOBODY).await.map_err(error) }).await?;
        if from > 0 && response.status() != reqwest::StatusCode::PARTIAL_CONTENT {
            return Err(Error::unavailable("the server does not answer ranges"));
        }
        Ok(Download::new(response, watch))
    }

    fn to(&self, peer: &Peer) -> Envelope<'_> {
        self.credentials.to(Recipient::Storage(peer.identity))
    }

    /// Asks whatever answers at a URL for a proof of who it is. Nothing is shown to it but a question that opens nothing.
    pub async fn prove(&self, base: &str, challenge: &str, timeout: std::time::Duration) -> Result<IdentityProof> {
        let request =
            self.http.raw().get(format!("{base}/identity")).query(&[("challenge", challenge)]).timeout(timeout);
        send_json_within(request, Envelope::NOBODY, SMALL_ANSWER_BYTES_MAX).await.map_err(error)
    }

    /// Its health.
    pub async fn status(&self, peer: &Peer, timeout: std::time::Duration) -> Result<StorageStatus> {
        self.check(peer, timeout, None).await
    }

    /// As [`StorageClient::status`], and tells it what a restore must know, if this is a name server that may act.
    pub async fn check(&self, peer: &Peer, timeout: std::time::Duration, told: Option<Told>) -> Result<StorageStatus> {
        let request = self.http.raw().get(format!("{peer}/status")).query(&told);
        match tokio::time::timeout(timeout, send_json_within(request, self.to(peer), SMALL_ANSWER_BYTES_MAX)).await {
            Ok(Ok(Status::Whole(status))) => Ok(*status),
            Ok(Ok(Status::Plain)) => Err(Error::new(
                ErrorCode::Unauthorized,
                format!("{peer} answers as it answers strangers: it is of an older version, or no storage server"),
            )),
            Ok(Err(failure)) => Err(failure.error),
            Err(_) => Err(Error::unavailable(format!("{peer} did not answer within {} ms", timeout.as_millis()))),
        }
    }

    /// How far it has come since its start, as it tells anybody; see [`PlainStatus::status`].
    pub async fn readiness(&self, base: &str, timeout: std::time::Duration) -> Result<String> {
        let request = self.http.raw().get(format!("{base}/status")).timeout(timeout);
        let broken = |error: reqwest::Error| {
            Error::unavailable(format!("{base} did not say how it is")).with_source(error.without_url())
        };
        // That it is not ready yet is an answer too.
        let answer = request.send().await.map_err(broken)?;
        Ok(read_json::<PlainStatus>(answer, SMALL_ANSWER_BYTES_MAX).await?.status)
    }

    /// Has it read everything it has.
    pub async fn scrub_start(&self, peer: &Peer, timeout: std::time::Duration) -> Result<ScrubStatus> {
        let request = self.http.raw().post(format!("{peer}/scrub")).timeout(timeout);
        send_json(request, self.to(peer)).await.map_err(error)
    }

    /// How far it is with that.
    pub async fn scrub_status(&self, peer: &Peer, timeout: std::time::Duration) -> Result<ScrubStatus> {
        let request = self.http.raw().get(format!("{peer}/scrub")).timeout(timeout);
        send_json(request, self.to(peer)).await.map_err(error)
    }

    /// Has it read copies, or asks how far it is with that.
    pub async fn verify(
        &self,
        peer: &Peer,
        request: &VerifyRequest,
        timeout: std::time::Duration,
    ) -> Result<VerifyResponse> {
        let request = self.http.raw().post(format!("{peer}/scrub/copies")).timeout(timeout).json(request);
        send_json(request, self.to(peer)).await.map_err(error)
    }

    /// The state of its copy of the journal.
    pub async fn journal_status(&self, peer: &Peer) -> Result<JournalStatus> {
        let request = self.http.raw().get(format!("{peer}/journal")).timeout(REQUEST_TIMEOUT);
        send_json(request, self.to(peer)).await.map_err(error)
    }

    /// One page of the files of its copy of the journal, after a name.
    pub async fn journal_files(&self, peer: &Peer, after: Option<&str>) -> Result<JournalFiles> {
        let mut query = vec![("list", "true")];
        query.extend(after.map(|after| ("after", after)));
        let request = self.http.raw().get(format!("{peer}/journal")).query(&query).timeout(REQUEST_TIMEOUT);
        send_json(request, self.to(peer)).await.map_err(error)
    }

    /// One file of its copy of the journal, by a name from [`JournalFiles::files`].
    pub async fn journal_file(&self, peer: &Peer, name: &str) -> Result<Download> {
        let request = self.http.raw().get(format!("{peer}/journal")).query(&[("file", name)]);
        let response = send(request, self.to(peer)).await.map_err(error)?;
        Ok(Download::new(response, self.watch(&peer.url)))
    }

    /// Sends a segment. `precondition_failed`: it does not continue that server's position; ask for its status.
    pub async fn journal_send(&self, peer: &Peer, segment: impl Into<Bytes>) -> Result<JournalAccepted> {
        let builder = self.http.raw().post(format!("{peer}/journal")).body(segment.into()).timeout(REQUEST_TIMEOUT);
        send_json(builder, self.to(peer)).await.map_err(error)
    }

    /// Sends a snapshot, whose size need not be known. Its digest is known at its end only, so there it is signed
    /// ([`crate::security::credential::BodySeal`]).
    pub async fn journal_send_stream<S>(&self, peer: &Peer, snapshot: S) -> Result<JournalAccepted>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let word = uuid::Uuid::new_v4().to_string();
        let (body, progress) =
            watched(sealed(snapshot, self.credentials.seal(word.clone())), self.watch(&peer.url).waiting);
        let request = self.http.patient().post(format!("{peer}/journal")).timeout(LONG_REQUEST_TIMEOUT);
        let request = request.query(&[("seal", &word)]);
        let request = request.body(reqwest::Body::wrap_stream(body));
        tokio::select! {
            answer = send_json(request, self.to(peer)) => answer.map_err(error),
            () = progress.stalled(SNAPSHOT_TIMEOUT) => {
                let seconds = SNAPSHOT_TIMEOUT.as_secs();
                Err(Error::unavailable(format!("{peer} took no more of a snapshot for {seconds} s")))
            }
        }
    }

    /// Removes copies; those that are not there count as removed.
    pub async fn delete(&self, peer: &Peer, request: &DeleteRequest) -> Result<DeleteResponse> {
        let builder = self.http.raw().delete(format!("{peer}/file")).json(request).timeout(REQUEST_TIMEOUT);
        send_json(builder, self.to(peer)).await.map_err(error)
    }

    /// Makes it send a copy to another server; answers when the copy is fsynced there.
    pub async fn replicate(&self, peer: &Peer, request: &ReplicateRequest) -> Result<CopyStored> {
        let builder = self.http.patient().post(format!("{peer}/replicate")).json(request).timeout(LONG_REQUEST_TIMEOUT);
        let response = send(builder, self.to(peer)).await.map_err(error)?;
        read_json(response, SMALL_ANSWER_BYTES_MAX).await
    }

    /// One page of its inventory, after a copy.
    pub async fn inventory(&self, peer: &Peer, after: Option<ReplicaKey>) -> Result<Vec<InventoryLine>> {
        self.inventory_page(peer, after, false).await
    }

    /// As [`StorageClient::inventory`]; with `files` it looks for the files of the page, and says which are gone.
    pub async fn inventory_page(
        &self,
        peer: &Peer,
        after: Option<ReplicaKey>,
        files: bool,
    ) -> Result<Vec<InventoryLine>> {
        let mut query = vec![("limit", INVENTORY_PAGE_ROWS_MAX.to_string())];
        query.extend(files.then(|| ("files", "true".into())));
        query.extend(after.map(|key| ("after", key.to_string())));
        let request = self.http.raw().get(format!("{peer}/dump_tree")).query(&query);
        let response = send(request, self.to(peer)).await.map_err(error)?;
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece.map_err(|e| {
                Error::unavailable(format!("the inventory of {peer} broke off")).with_source(e.without_url())
            })?);
            if body.len() > INVENTORY_PAGE_BYTES_MAX {
                let message =
                    format!("a page of the inventory of {peer} has more than {INVENTORY_PAGE_BYTES_MAX} bytes");
                return Err(Error::new(ErrorCode::TooLarge, message));
            }
        }
        inventory_page(&body, after).map_err(|error| error.context(&peer.url))
    }
}

/// A body with its seal behind it; one that breaks off has none.
fn sealed<S>(body: S, seal: Option<Seal>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static
where
    S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    // What has ended is asked once more behind the seal.
    let state = (Box::pin(body.fuse()), Hasher::default(), seal);
    futures_util::stream::try_unfold(state, |(mut body, mut hasher, seal)| async move {
        match body.next().await.transpose()? {
            Some(piece) => {
                hasher.update(&piece);
                Ok(Some((piece, (body, hasher, seal))))
            }
            None => match seal {
                Some(seal) => {
                    let end = seal(std::mem::take(&mut hasher).finish()).map_err(std::io::Error::other)?;
                    Ok(Some((end, (body, hasher, None))))
                }
                None => Ok(None),
            },
        }
    })
}

/// Reads one page of an inventory, a line for each copy, after a copy. What a page lacks between its ends counts as
/// lost on that server, so one that is torn, or not in order, is an error.
pub fn inventory_page(body: &[u8], after: Option<ReplicaKey>) -> Result<Vec<InventoryLine>> {
    let (mut page, mut last) = (Vec::new(), after);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if page.len() == INVENTORY_PAGE_ROWS_MAX {
            return Err(Error::internal(format!(
                "a page of an inventory has more than {INVENTORY_PAGE_ROWS_MAX} lines"
            )));
        }
        let Some(whole) = line.strip_suffix(b"\n") else {
            return Err(Error::internal("a page of an inventory ends in the middle of a line"));
        };
        let line: InventoryLine = serde_json::from_slice(whole)
            .map_err(|error| Error::internal("a line of an inventory is not what it must be").with_source(error))?;
        if last.is_some_and(|last| line.replica <= last) {
            return Err(Error::internal(format!("an inventory is not in order: {} comes too late", line.replica)));
        }
        last = Some(line.replica);
        page.push(line);
    }
    Ok(page)
}

/// The base of a location's URL.
fn base_of(url: &str) -> &str {
    url.split_once("/file?").map_or(url, |(base, _)| base)
}

fn error(failure: Failure) -> Error {
    failure.error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Generation, ObjectId};

    fn key(object: i64, generation: i64) -> ReplicaKey {
        ReplicaKey { object: ObjectId(object), generation: Generation(generation) }
    }

    fn page(keys: &[ReplicaKey]) -> Vec<u8> {
        let mut body = Vec::new();
        for replica in keys {
            let (time, label) = (chrono::DateTime::UNIX_EPOCH, "/a\nb".to_string());
            let (sha256, version) = (Sha256::of(b""), Some(7));
            let line = InventoryLine {
                replica: *replica,
                size: 0,
                sha256,
                label,
                epoch: 1,
                version,
                ticket_expires: time,
                verified: time,
                gone: false,
            };
            serde_json::to_writer(&mut body, &line).unwrap();
            body.push(b'\n');
        }
        body
    }

    #[test]
    fn a_page_is_whole_and_in_order() {
        let keys = [key(1, 2), key(1, 3), key(2, 1)];
        let body = page(&keys);
        let read = inventory_page(&body, Some(key(1, 1))).unwrap();
        assert_eq!(read.iter().map(|line| line.replica).collect::<Vec<_>>(), keys);
        assert!(inventory_page(b"", None).unwrap().is_empty());
        for length in 1..body.len() {
            let whole = body[..length].ends_with(b"\n");
            assert_eq!(inventory_page(&body[..length], None).is_ok(), whole, "{length}");
        }
        for after in [key(1, 2), key(5, 0)] {
            assert!(inventory_page(&body, Some(after)).is_err(), "what was asked before comes again");
        }
        for wrong in [[key(2, 1), key(1, 2)], [key(1, 2), key(1, 2)]] {
            assert!(inventory_page(&page(&wrong), None).is_err(), "{wrong:?}");
        }
        assert!(inventory_page(b"\n", None).is_err());
        let many: Vec<_> = (0..INVENTORY_PAGE_ROWS_MAX as i64 + 1).map(|object| key(object, 0)).collect();
        assert!(inventory_page(&page(&many), None).is_err());
        assert!(inventory_page(&page(&many[1..]), None).is_ok());
    }
}
