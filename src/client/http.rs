//! What both clients share: one connection pool, credentials, errors from answers, retries.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::TimeDelta;
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;

use super::proxy;
use super::reach::{explain, through, without_query};
use crate::security::ticket::Sender;
use crate::security::tls::Trust;
use crate::security::{ServerCredential, Signer};
use crate::types::api::{ErrorBody, REQUEST_ID_HEADER};
use crate::types::limits::{CONNECT_TIMEOUT, STALL_TIMEOUT};
use crate::types::{Error, ErrorCode, Result};

/// Longest body of an error that is read.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// How long a server's credential is good for.
const CREDENTIAL_TTL: TimeDelta = TimeDelta::minutes(5);

/// Gives the cluster and epoch that requests are sent under; both may change while the program runs.
pub type Membership = Arc<dyn Fn() -> (Option<uuid::Uuid>, i64) + Send + Sync>;

/// What a name server's request is signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedAs {
    /// The cluster.
    pub cluster: uuid::Uuid,
    /// Its epoch.
    pub epoch: i64,
    /// The lease's term; 0 when the sender does not hold it.
    pub term: i64,
}

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
        /// Who sends.
        sender: Sender,
        /// Under which cluster and epoch.
        membership: Membership,
    },
    /// A name server, which signs each request as what it is at that moment.
    NameServer {
        /// Signs.
        signer: Signer,
        /// Under which cluster, epoch and term.
        standing: Arc<dyn Fn() -> SignedAs + Send + Sync>,
    },
}

impl Credentials {
    /// The value of the `Authorization` header.
    fn header(&self) -> Result<Option<String>> {
        Ok(match self {
            Self::None => None,
            Self::Token(token) => Some(format!("Bearer {token}")),
            Self::Server { signer, sender, membership } => {
                let (cluster, epoch) = membership();
                Some(signature(signer, cluster, epoch, sender.clone())?)
            }
            Self::NameServer { signer, standing } => {
                let SignedAs { cluster, epoch, term } = standing();
                Some(signature(signer, Some(cluster), epoch, Sender::NameServer { term })?)
            }
        })
    }
}

fn signature(signer: &Signer, cluster: Option<uuid::Uuid>, epoch: i64, sender: Sender) -> Result<String> {
    let expires = chrono::Utc::now() + CREDENTIAL_TTL;
    Ok(format!("Holdfast {}", signer.sign(cluster, epoch, &ServerCredential { sender, expires })?))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "Credentials::None",
            Self::Token(_) => "Credentials::Token(…)",
            Self::Server { .. } => "Credentials::Server(…)",
            Self::NameServer { .. } => "Credentials::NameServer(…)",
        })
    }
}

/// Connection pools. Cheap to clone. They go through no proxy unless the process says so ([`proxy`]).
#[derive(Debug, Clone)]
pub struct HttpClient {
    inner: reqwest::Client,
    /// Without the stall timeout: reqwest counts it from the start of a request to the head of its answer,
    /// which would end every upload that takes longer, however well it goes.
    patient: reqwest::Client,
    trust: Arc<Trust>,
}

impl HttpClient {
    /// A pool that trusts the system's certificates and those in `ca_cert` (PEM).
    pub fn new(ca_cert: Option<&Path>) -> Result<Self> {
        let trust = Trust::load(ca_cert)?;
        Ok(Self {
            inner: Self::build(&trust, |builder| builder.read_timeout(STALL_TIMEOUT))?,
            patient: Self::build(&trust, |builder| builder.tcp_keepalive(STALL_TIMEOUT))?,
            trust,
        })
    }

    fn build(
        trust: &Arc<Trust>,
        adapt: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Result<reqwest::Client> {
        let builder = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(trust.client_config());
        let builder = adapt(proxy::apply(builder));
        builder.build().map_err(|e| Error::internal("cannot set up the HTTP client").with_source(e))
    }

    /// The authorities that servers' certificates are judged by; they can be read again.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The pool to build requests from: an answer that begins late or stands still is a failure.
    pub fn raw(&self) -> &reqwest::Client {
        &self.inner
    }

    /// The pool for requests whose answer begins late in the ordinary course of things. The caller bounds
    /// the wait: by a timeout of the request, or by watching its body.
    pub fn patient(&self) -> &reqwest::Client {
        &self.patient
    }
}

/// Whether a failed request certainly never reached the server.
pub struct Failure {
    /// What to report.
    pub error: Error,
    /// The server has not acted on it.
    pub not_sent: bool,
}

/// Sends a small request, whose timeout the caller has set, and reads its JSON answer.
pub async fn send_json<T: DeserializeOwned>(request: RequestBuilder, credentials: &Credentials) -> Result<T, Failure> {
    let response = send(request, credentials).await?;
    let url = format!("{}{}", without_query(response.url()), through(Some(response.url())));
    response.json().await.map_err(|error| Failure {
        error: Error::unavailable(format!("the answer of {url} could not be read")).with_source(error.without_url()),
        not_sent: false,
    })
}

/// Sends a request; an answer that is not a success becomes the error that its body tells.
pub async fn send(request: RequestBuilder, credentials: &Credentials) -> Result<Response, Failure> {
    let request = match credentials.header() {
        Ok(Some(value)) => request.header(reqwest::header::AUTHORIZATION, value),
        Ok(None) => request,
        Err(error) => return Err(Failure { error, not_sent: true }),
    };
    let response = request.send().await.map_err(|error| {
        let not_sent = error.is_connect() || error.is_builder();
        let error = Error::unavailable(explain(&error)).with_source(error.without_url());
        Failure { error, not_sent }
    })?;
    if response.status().is_success() {
        return Ok(response);
    }
    // The other side gave up waiting for a request that it had not read: it has done nothing.
    let not_sent = response.status() == reqwest::StatusCode::REQUEST_TIMEOUT;
    Err(Failure { error: error_of(response).await, not_sent })
}

/// The error that an answer's body tells; one made from the status when it has no such body.
async fn error_of(mut response: Response) -> Error {
    let (status, url) = (response.status(), without_query(response.url()));
    let through = through(Some(response.url()));
    let header = response.headers().get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok()).map(String::from);
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ERROR_BODY_BYTES_MAX {
            break;
        }
    }
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(&body) {
        return Error::new(body.code, body.message).with_request_id(body.request_id.or(header));
    }
    let code = match status.as_u16() {
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

    #[test]
    fn credentials_never_print_their_secret() {
        assert!(!format!("{:?}", Credentials::Token("hf_geheim".into())).contains("geheim"));
    }
}
