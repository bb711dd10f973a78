//! What both clients share: one connection pool, credentials, errors from answers, retries.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Request, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use super::hung::Hung;
use super::pools::{OfThread, Pools};
use super::reach::{explain, through, without_query};
use super::waits::Waits;
use crate::security::credential::{BodySeal, CREDENTIAL_TTL};
use crate::security::tls::Trust;
use crate::security::{Recipient, Sender, ServerCredential, Signer};
use crate::types::api::{ErrorBody, REQUEST_ID_HEADER};
use crate::types::{Error, ErrorCode, Result, Sha256, Time};

/// Longest body of an error that is read.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// Longest answer that is read: a page of a listing, whose thousand paths have the greatest length and are escaped for
/// JSON byte by byte, each with sixteen copies and their tickets.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// Longest answer of a server that has not proven who it is, or that has little to say.
pub(super) const SMALL_ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a server's request is signed as; it may change while the program runs.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedAs {
    /// The cluster; `None` for a storage server that has not joined one yet.
    pub cluster: Option<uuid::Uuid>,
    /// Its epoch.
    pub epoch: i64,
    /// Who sends; for a name server with the lease's term, 0 when it does not hold it.
    pub sender: Sender,
    /// The cluster's time.
    pub now: Time,
}

/// Tells what a request is signed as at the moment when it is sent.
pub type Standing = Arc<dyn Fn() -> SignedAs + Send + Sync>;

/// Who a client is.
#[derive(Clone)]
pub enum Credentials {
    /// Nobody.
    None,
    /// A person or program with a bearer token.
    Token(String),
    /// A server, which signs each request.
    Server {
        /// Signs.
        signer: Signer,
        /// As what.
        standing: Standing,
    },
}

impl Credentials {
    /// With whom a request goes.
    pub fn to(&self, recipient: Recipient) -> Envelope<'_> {
        Envelope { from: self, to: recipient }
    }
}

/// Ends a body that is made while it is sent, for a request with this random word in its query. Nothing when nobody signs.
pub(super) type Seal = Box<dyn FnOnce(Sha256) -> Result<Bytes> + Send>;

impl Credentials {
    /// What seals the body of a request; see [`BodySeal`].
    pub(super) fn seal(&self, request: String) -> Option<Seal> {
        let Self::Server { signer, standing } = self else { return None };
        let (signer, standing) = (signer.clone(), standing.clone());
        Some(Box::new(move |sha256| {
            let SignedAs { cluster, epoch, now, .. } = standing();
            let expires = now.checked_add_signed(CREDENTIAL_TTL).unwrap_or(now);
            BodySeal { request, sha256, expires }.bytes(&signer, cluster, epoch).map(Bytes::from)
        }))
    }
}

/// Who sends a request, and whom it is for.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'c> {
    from: &'c Credentials,
    to: Recipient,
}

impl Envelope<'static> {
    /// A request that shows nothing: its ticket says everything, or it needs no permission.
    pub const NOBODY: Self = Self { from: &Credentials::None, to: Recipient::NameServer };
}

impl Envelope<'_> {
    /// The value of the `Authorization` header of this request.
    fn header(&self, request: &Request) -> Result<Option<HeaderValue>> {
        let text = match self.from {
            Credentials::None => return Ok(None),
            Credentials::Token(token) => format!("Bearer {token}"),
            Credentials::Server { signer, standing } => {
                let SignedAs { cluster, epoch, sender, now } = standing();
                let credential = ServerCredential {
                    sender,
                    recipient: self.to,
                    method: request.method().to_string(),
                    target: target_of(request.url()),
                    body: digest_of(request.body()),
                    nonce: rand::random(),
                    expires: now.checked_add_signed(CREDENTIAL_TTL).unwrap_or(now),
                };
                format!("Holdfast {}", signer.sign(cluster, epoch, &credential)?)
            }
        };
        let mut value = HeaderValue::try_from(text)
            .map_err(|error| Error::invalid("the token has characters that no header can carry").with_source(error))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Path and query, as the other side sees them.
fn target_of(url: &reqwest::Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().into(),
    }
}

/// The digest of a body that is there as a whole, or of none.
fn digest_of(body: Option<&reqwest::Body>) -> Option<Sha256> {
    match body {
        None => Some(Sha256::of(b"")),
        Some(body) => body.as_bytes().map(Sha256::of),
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "Credentials::None",
            Self::Token(_) => "Credentials::Token(…)",
            Self::Server { .. } => "Credentials::Server(…)",
        })
    }
}

/// Connection pools. Cheap to clone. They go through no proxy unless the process says so ([`proxy`](super::proxy)).
#[derive(Debug, Clone)]
pub struct HttpClient {
    common: Pools,
    /// Set for servers, each of whose threads has pools of its own.
    of_thread: Option<OfThread>,
    trust: Arc<Trust>,
    waits: Waits,
    hung: Hung,
}

impl HttpClient {
    /// For a program with one runtime. It trusts the system's certificates and those in `ca_cert` (PEM).
    pub fn new(ca_cert: Option<&Path>) -> Result<Self> {
        let trust = Trust::load(ca_cert)?;
        let (common, waits, hung) = (Pools::new(&trust)?, Waits::default(), Hung::default());
        Ok(Self { common, of_thread: None, trust, waits, hung })
    }

    /// The same for a server, whose threads have nothing to do with each other's connections.
    pub fn for_server(ca_cert: Option<&Path>) -> Result<Self> {
        Ok(Self { of_thread: Some(OfThread::new()), ..Self::new(ca_cert)? })
    }

    /// Those of this thread. That they cannot be made was found when the first were.
    fn pools(&self) -> Pools {
        let own = self.of_thread.map(|of_thread| of_thread.pools(&self.trust));
        own.and_then(Result::ok).unwrap_or_else(|| self.common.clone())
    }

    /// The authorities that servers' certificates are judged by; they can be read again.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Whom this client and its clones wait for.
    pub fn waits(&self) -> &Waits {
        &self.waits
    }

    /// The servers that have hung.
    pub fn hung(&self) -> &Hung {
        &self.hung
    }

    /// The pool to build requests from: an answer that begins late or stands still is a failure.
    pub fn raw(&self) -> reqwest::Client {
        self.pools().hasty
    }

    /// The pool for requests whose answer begins late in the ordinary course of things. The caller bounds
    /// the wait: by a timeout of the request, or by watching its body.
    pub fn patient(&self) -> reqwest::Client {
        self.pools().patient
    }
}

/// Whether a failed request certainly never reached the server.
pub struct Failure {
    /// What to report.
    pub error: Error,
    /// The server has not acted on it.
    pub not_sent: bool,
    /// The server has answered something.
    pub answered: bool,
}

/// Sends a small request, whose timeout the caller has set, and reads its JSON answer.
pub async fn send_json<T: DeserializeOwned>(request: RequestBuilder, envelope: Envelope<'_>) -> Result<T, Failure> {
    send_json_within(request, envelope, ANSWER_BYTES_MAX).await
}

/// The same for an answer of at most so many bytes.
pub(super) async fn send_json_within<T: DeserializeOwned>(
    request: RequestBuilder,
    envelope: Envelope<'_>,
    bytes_max: usize,
) -> Result<T, Failure> {
    let response = send(request, envelope).await?;
    read_json(response, bytes_max).await.map_err(|error| Failure { error, not_sent: false, answered: true })
}

/// Reads an answer, of which no more than `bytes_max` are taken.
pub(super) async fn read_json<T: DeserializeOwned>(mut response: Response, bytes_max: usize) -> Result<T> {
    let url = format!("{}{}", without_query(response.url()), through(Some(response.url())));
    let too_large = || {
        let message = format!("the answer of {url} has more than {bytes_max} bytes: is it a server of Holdfast?");
        Error::new(ErrorCode::TooLarge, message)
    };
    if response.content_length().is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) if body.len() + piece.len() > bytes_max => return Err(too_large()),
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break,
            Err(error) => {
                let broken = Error::unavailable(format!("the answer of {url} could not be read"));
                return Err(broken.with_source(error.without_url()));
            }
        }
    }
    serde_json::from_slice(&body).map_err(|error| {
        Error::unavailable(format!("the answer of {url} is not what it must be: {error}")).with_source(error)
    })
}

/// Sends a request; an answer that is not a success becomes the error that its body tells.
pub async fn send(request: RequestBuilder, envelope: Envelope<'_>) -> Result<Response, Failure> {
    let not_sent = |error| Failure { error, not_sent: true, answered: false };
    let (client, request) = request.build_split();
    let mut request = request.map_err(|e| {
        not_sent(Error::invalid("the request cannot be made: is the URL right?").with_source(e.without_url()))
    })?;
    if let Some(value) = envelope.header(&request).map_err(not_sent)? {
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let response = client.execute(request).await.map_err(|error| {
        let not_sent = error.is_connect();
        let error = Error::unavailable(explain(&error)).with_source(error.without_url());
        Failure { error, not_sent, answered: false }
    })?;
    if response.status().is_success() {
        return Ok(response);
    }
    // The other side gave up waiting for a request that it had not read: it has done nothing.
    let not_sent = response.status() == reqwest::StatusCode::REQUEST_TIMEOUT;
    Err(Failure { error: error_of(response).await, not_sent, answered: true })
}

/// The error that an answer's body tells; one made from the status when it has no such body.
async fn error_of(mut response: Response) -> Error {
    let (status, url) = (response.status(), without_query(response.url()));
    let through = through(Some(response.url()));
    let header = response.headers().get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok()).map(String::from);
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > ERROR_BODY_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(&body) {
        return Error::new(body.code, body.message).with_request_id(body.request_id.or(header));
    }
    let code = match status.as_u16() {
        // Every server of Holdfast names the request. What a proxy or another program on the port forbids says nothing of
        // the cluster: no daemon may end for it, and no token is wrong.
        401 | 403 if header.is_none() => {
            let message = format!(
                "{url} answered {status}{through}, and not as a server of Holdfast does: is that the right address, and \
                 does no proxy stand between?"
            );
            return Error::unavailable(message);
        }
        401 => ErrorCode::Unauthorized,
        403 => ErrorCode::Forbidden,
        404 => ErrorCode::NotFound,
        408 | 500.. => ErrorCode::Unavailable,
        _ => ErrorCode::InvalidRequest,
    };
    Error::new(code, format!("{url} answered {status}{through}")).with_request_id(header)
}

/// Waits between tries: from 100 ms, doubling to 2 s, with jitter, `tries` times.
pub fn backoff(tries: usize) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(tries)
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers one request with this head, and then with `x` until nobody takes any more.
    fn endless(head: &'static str) -> String {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/status", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4_096]);
            let _ = write!(stream, "HTTP/1.1 {head}\r\nContent-Type: application/json\r\n\r\n\"");
            // More than anybody may take, but not without an end.
            for _ in 0..1_024 {
                if stream.write_all(&[b'x'; 64 << 10]).is_err() {
                    return;
                }
            }
        });
        url
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_whole() {
        let http = HttpClient::new(None).unwrap();
        for (head, code) in [
            ("200 OK", ErrorCode::TooLarge),
            ("200 OK\r\nContent-Length: 9999999999", ErrorCode::TooLarge),
            ("500 Oh", ErrorCode::Unavailable),
        ] {
            let url = endless(head);
            let answer = send_json_within::<String>(http.raw().get(&url), Envelope::NOBODY, 1 << 20).await;
            let error = answer.err().unwrap().error;
            assert_eq!(error.code(), code, "{head}: {error}");
            assert!(error.message().contains(&url), "{head}: {error}");
        }
    }

    /// Answers any number of requests on each connection.
    fn keeps_connections() -> String {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/status", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    while stream.read(&mut [0; 4_096]).is_ok_and(|count| count > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\"x\"");
                    }
                });
            }
        });
        url
    }

    #[test]
    fn a_thread_that_hangs_keeps_no_other_from_its_requests() {
        let (http, url) = (HttpClient::for_server(None).unwrap(), keeps_connections());
        let ask = |http: HttpClient, url: String| async move {
            let request = http.raw().get(&url).timeout(std::time::Duration::from_secs(20));
            send_json_within::<String>(request, Envelope::NOBODY, 1_024).await.map_err(|failure| failure.error)
        };
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (asked, wait_for_asked) = std::sync::mpsc::channel();
        let (go_on, wait_for_end) = std::sync::mpsc::channel::<()>();
        let (other, other_url) = (http.clone(), url.clone());
        let hung = std::thread::spawn(move || {
            runtime().block_on(async {
                ask(other, other_url).await.unwrap();
                asked.send(()).unwrap();
                // The connection is kept, and nobody drives it.
                wait_for_end.recv().unwrap();
            });
        });
        wait_for_asked.recv().unwrap();
        for _ in 0..3 {
            assert_eq!(runtime().block_on(ask(http.clone(), url.clone())).unwrap(), "x");
        }
        go_on.send(()).unwrap();
        hung.join().unwrap();
    }

    #[test]
    fn credentials_never_print_their_secret() {
        assert!(!format!("{:?}", Credentials::Token("hf_geheim".into())).contains("geheim"));
    }
}
