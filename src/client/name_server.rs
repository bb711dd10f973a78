//! The name server's client. Takes a list of name servers and fails over between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::{
    Credentials, Envelope, Failure, HttpClient, SMALL_ANSWER_BYTES_MAX, backoff, send, send_json, send_json_within,
};
use super::reach::is_of_tls;
use super::url::{encode_component, normal_base_url};
use super::waits::Waiting;
use super::watchdog::{PROBES, PROBES_LONG, hangs, serves};
use crate::security::Recipient;
use crate::types::api::*;
use crate::types::limits::{LONG_REQUEST_TIMEOUT, REQUEST_TIMEOUT};
use crate::types::{DfsPath, Error, ErrorCode, Result, ServerId, Time, Version, bounds};

/// Further tries of a request that failed for a passing reason.
const RETRIES_MAX: usize = 5;
/// The same where the others are asked as well.
const RETRIES_OF_EACH_MAX: usize = 1;
/// A person's request that was sent and had no answer for so long is not repeated: whoever waits should be told.
const PATIENCE: Duration = Duration::from_secs(6);

/// Whether a request may be repeated when nobody knows if it was carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// It changes nothing, or a second time changes nothing.
    Safe,
    /// Only when it certainly was not carried out.
    IfNotDone,
}

/// How long the answer of a request may take.
#[derive(Clone, Copy)]
enum Wait {
    /// As long as small requests do.
    Short,
    /// As long as it takes.
    Long,
}

/// Calls the name servers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NameServerClient {
    http: HttpClient,
    urls: Arc<Vec<String>>,
    /// Index of the one that answered last.
    current: Arc<AtomicUsize>,
    /// It has answered this program.
    is_proven: Arc<AtomicBool>,
    credentials: Credentials,
    retries: usize,
}

impl NameServerClient {
    /// A client of the name servers at these base URLs.
    pub fn new(http: HttpClient, urls: Vec<String>, credentials: Credentials) -> Result<Self> {
        if urls.is_empty() {
            return Err(Error::invalid("no name server is given"));
        }
        let urls = urls.into_iter().map(|url| normal_base_url(&url)).collect::<Result<_>>()?;
        let (urls, current) = (Arc::new(urls), Arc::new(AtomicUsize::new(0)));
        let is_proven = Arc::default();
        Ok(Self { http, urls, current, is_proven, credentials, retries: RETRIES_MAX })
    }

    /// The same client with another number of further tries.
    pub fn with_retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// A client of each of the name servers alone.
    pub fn each(&self) -> impl Iterator<Item = Self> + use<'_> {
        let alone = |url: &String| Self {
            urls: Arc::new(vec![url.clone()]),
            current: Arc::default(),
            is_proven: Arc::default(),
            ..self.clone()
        };
        self.urls.iter().map(alone)
    }

    /// The base URLs, normalized.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        repeat: Repeat,
        wait: Wait,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<T> {
        let (mut waits, started) = (backoff(self.retries), Instant::now());
        let url = &self.urls[self.current.load(Ordering::Relaxed)];
        let waiting = self.http.waits().on(format!("the name server at {url}"));
        if repeat == Repeat::IfNotDone {
            self.prove_one().await;
        }
        loop {
            let failure = match self.call_once(&method, path, repeat, wait, &waiting, &fill).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let done_for_certain_not = failure.not_sent || failure.error.code() == ErrorCode::Busy;
            let may_repeat = match repeat {
                Repeat::Safe if failure.error.code() == ErrorCode::Unavailable => {
                    failure.not_sent || !self.is_for_people() || started.elapsed() < PATIENCE
                }
                Repeat::Safe => failure.error.code() == ErrorCode::Busy,
                Repeat::IfNotDone => done_for_certain_not,
            };
            match waits.next() {
                Some(wait) if may_repeat && !is_of_tls(&failure.error) => {
                    waiting.because(failure.error.message());
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(failure.error),
            }
        }
    }

    /// Whether a person or a program of theirs waits for the answers; servers have more patience.
    fn is_for_people(&self) -> bool {
        !matches!(self.credentials, Credentials::Server { .. })
    }

    /// Looks for a name server that serves, where there are several and none has yet: of a change that one takes and
    /// never answers nobody knows whether it was made.
    async fn prove_one(&self) {
        if self.urls.len() < 2 || self.is_proven.load(Ordering::Relaxed) || !self.is_for_people() {
            return;
        }
        let first = self.current.load(Ordering::Relaxed);
        // One that answers and cannot serve (its database is away) is better than none: it says why.
        let mut second_best = None;
        for step in 0..self.urls.len() {
            let index = (first + step) % self.urls.len();
            match serves(&self.http, &self.urls[index]).await {
                Ok(true) => return self.current.store(index, Ordering::Relaxed),
                Ok(false) => second_best = second_best.or(Some(index)),
                Err(_) => {}
            }
        }
        if let Some(index) = second_best {
            self.current.store(index, Ordering::Relaxed);
        }
    }

    /// Tries each name server once, from the one that answered last. What may be repeated is tried with the next one when
    /// one does not answer, or cannot serve now.
    async fn call_once<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        repeat: Repeat,
        wait: Wait,
        waiting: &Waiting,
        fill: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<T, Failure> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last_failure = None;
        for step in 0..self.urls.len() {
            let index = (first + step) % self.urls.len();
            let url = format!("{}{path}", self.urls[index]);
            let request = match wait {
                Wait::Short => self.http.raw().request(method.clone(), url).timeout(REQUEST_TIMEOUT),
                Wait::Long => self.http.patient().request(method.clone(), url).timeout(LONG_REQUEST_TIMEOUT),
            };
            let request = fill(request);
            let exchange = send_json(request, self.credentials.to(Recipient::NameServer));
            let outcome = if self.is_for_people() {
                waiting.heard();
                let probes = match wait {
                    Wait::Short => PROBES,
                    Wait::Long => PROBES_LONG,
                };
                tokio::select! {
                    outcome = exchange => outcome,
                    error = hangs(&self.http, &self.urls[index], waiting, probes) => {
                        Err(Failure { error, not_sent: false, answered: false })
                    }
                }
            } else {
                exchange.await
            };
            match outcome {
                Ok(answer) => {
                    self.is_proven.store(true, Ordering::Relaxed);
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure) if failure.not_sent || repeat == Repeat::Safe && is_of_this_one(&failure) => {
                    last_failure = Some(failure);
                }
                Err(failure) => return Err(of_no_name_server(failure, &self.urls[index])),
            }
        }
        Err(last_failure.unwrap_or_else(|| Failure {
            error: Error::internal("no name server"),
            not_sent: true,
            answered: false,
        }))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &(impl Serialize + Sync)) -> Result<T> {
        self.call(Method::GET, path, Repeat::Safe, Wait::Short, |request| request.query(query)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &(impl Serialize + Sync), repeat: Repeat) -> Result<T> {
        self.call(Method::POST, path, repeat, Wait::Short, |request| request.json(body)).await
    }

    /// Where to write a file.
    pub async fn available(&self, query: &AvailableQuery) -> Result<AvailableResponse> {
        self.get("/api/v1/available", query).await
    }

    /// Commits uploads (storage servers). Repeating a report is harmless.
    pub async fn commit(&self, request: &CommitRequest) -> Result<CommitResponse> {
        self.post("/api/v1/file", request, Repeat::Safe).await
    }

    /// Asks about pending replicas (storage servers).
    pub async fn pending(&self, request: &PendingRequest) -> Result<PendingResponse> {
        self.post("/api/v1/pending", request, Repeat::Safe).await
    }

    /// Tells of corrupt copies and asks what to do with them (storage servers). Asking again is harmless.
    pub async fn corrupt(&self, request: &CorruptRequest) -> Result<CorruptResponse> {
        self.post("/api/v1/corrupt", request, Repeat::Safe).await
    }

    /// Announces a storage server.
    pub async fn register(&self, request: &RegisterRequest) -> Result<RegisterResponse> {
        self.post("/api/v1/register", request, Repeat::Safe).await
    }

    /// The cluster's time to the second, as a name server tells everybody.
    pub async fn time(&self) -> Result<Time> {
        let mut last = Error::unavailable("no name server is given");
        for url in self.urls.iter() {
            let request = self.http.raw().get(format!("{url}/status")).timeout(REQUEST_TIMEOUT);
            match send(request, Envelope::NOBODY).await {
                Err(failure) => last = failure.error,
                Ok(response) => {
                    let date = response.headers().get(reqwest::header::DATE).and_then(|value| value.to_str().ok());
                    if let Some(time) = date.and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok()) {
                        return bounds::check_time(time.to_utc()).map_err(|error| error.context(url));
                    }
                    last = Error::unavailable(format!("{url} does not tell what time it is"));
                }
            }
        }
        Err(last)
    }

    /// A file with its copies and tickets to read them, or a directory.
    pub async fn stat(&self, path: &DfsPath) -> Result<Entry> {
        self.get("/api/v1/file", &PathQuery { path: path.clone() }).await
    }

    /// One page of a listing.
    pub async fn list(&self, query: &ListQuery) -> Result<ListResponse> {
        self.get("/api/v1/ls", query).await
    }

    /// Makes a directory.
    pub async fn mkdir(&self, path: &DfsPath, parents: bool) -> Result<Changed> {
        let repeat = if parents { Repeat::Safe } else { Repeat::IfNotDone };
        self.post("/api/v1/mkdir", &MkdirRequest { path: path.clone(), parents }, repeat).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, path: &DfsPath) -> Result<Changed> {
        self.post("/api/v1/rmdir", &PathQuery { path: path.clone() }, Repeat::IfNotDone).await
    }

    /// Makes an empty file, or renews the time of one that is there.
    pub async fn touch(&self, path: &DfsPath) -> Result<Changed> {
        self.post("/api/v1/touch", &PathQuery { path: path.clone() }, Repeat::Safe).await
    }

    /// Moves a file or directory to exactly `to`.
    pub async fn mv(&self, from: &DfsPath, to: &DfsPath) -> Result<Changed> {
        let request = TransferRequest { from: from.clone(), to: to.clone(), recursive: false };
        self.post("/api/v1/mv", &request, Repeat::IfNotDone).await
    }

    /// Copies a file, or with `recursive` a directory, to exactly `to`.
    pub async fn cp(&self, from: &DfsPath, to: &DfsPath, recursive: bool) -> Result<Changed> {
        let request = TransferRequest { from: from.clone(), to: to.clone(), recursive };
        // A copy of a large directory takes as long as it takes; the server bounds each of its steps.
        self.call(Method::POST, "/api/v1/cp", Repeat::IfNotDone, Wait::Long, |builder| builder.json(&request)).await
    }

    /// Sets the copies wanted of a file, or of a directory and all below it. Repeating it is harmless.
    pub async fn setrep(&self, request: &SetrepRequest) -> Result<SetrepResponse> {
        self.call(Method::POST, "/api/v1/setrep", Repeat::Safe, Wait::Long, |builder| builder.json(request)).await
    }

    /// Removes a file, or with `recursive` a directory with all that is in it.
    pub async fn delete(&self, path: &DfsPath, recursive: bool, if_match: Option<Version>) -> Result<Changed> {
        let query = DeleteQuery { path: path.clone(), recursive, if_match };
        self.call(Method::DELETE, "/api/v1/file", Repeat::IfNotDone, Wait::Short, |request| request.query(&query)).await
    }

    /// The storage servers.
    pub async fn servers(&self) -> Result<ServersResponse> {
        self.get("/api/v1/servers", &()).await
    }

    /// Drains, undrains or removes a server; `action` is the endpoint's last name.
    pub async fn server_action(&self, server: ServerId, action: &str) -> Result<ServerInfo> {
        self.post(&format!("/api/v1/servers/{server}/{action}"), &serde_json::json!({}), Repeat::Safe).await
    }

    /// The same by name or id, of removed servers too; with `force` also when that hurts.
    pub async fn server_order(&self, server: &str, action: &str, force: bool) -> Result<ServerInfo> {
        let path = format!("/api/v1/servers/{}/{action}?force={force}", encode_component(server));
        // Giving up the copies of a server that is removed takes as long as it takes.
        let wait = if force { Wait::Long } else { Wait::Short };
        self.call(Method::POST, &path, Repeat::Safe, wait, |builder| builder.json(&serde_json::json!({}))).await
    }

    /// Whether data is in danger.
    pub async fn report(&self) -> Result<Report> {
        self.get("/api/v1/report", &()).await
    }

    /// What each of the name servers says of that, by their URLs. All are asked at once: one that hangs, or does not reach
    /// its database, takes some seconds.
    pub async fn report_of_each(&self) -> Vec<(String, Result<Report>)> {
        let retries = if self.urls.len() > 1 { self.retries.min(RETRIES_OF_EACH_MAX) } else { self.retries };
        let alone = |url: &String| {
            let (urls, current) = (Arc::new(vec![url.clone()]), Arc::default());
            Self { urls, current, retries, ..self.clone() }
        };
        let asked = self.urls.iter().map(async |url| (url.clone(), alone(url).report().await));
        join_all(asked).await
    }

    /// Compares the metadata with itself and with what the storage servers have. Takes as long as it takes.
    pub async fn fsck_start(&self, request: &FsckRequest) -> Result<JobStatus> {
        self.post("/api/v1/fsck", request, Repeat::IfNotDone).await
    }

    /// How far that is, or what the last one found.
    pub async fn fsck_status(&self) -> Result<JobStatus> {
        self.get("/api/v1/fsck", &()).await
    }

    /// Has the copies at and below a path read.
    pub async fn scrub_path_start(&self, request: &ScrubPathRequest) -> Result<JobStatus> {
        self.post("/api/v1/scrub/path", request, Repeat::IfNotDone).await
    }

    /// How far that is, or what came of the last time.
    pub async fn scrub_path_status(&self) -> Result<JobStatus> {
        self.get("/api/v1/scrub/path", &()).await
    }

    /// Begins to fill servers evenly, or says what would be moved.
    pub async fn rebalance_start(&self, request: &RebalanceRequest) -> Result<RebalanceStatus> {
        self.post("/api/v1/rebalance", request, Repeat::IfNotDone).await
    }

    /// How far that is.
    pub async fn rebalance_status(&self) -> Result<RebalanceStatus> {
        self.get("/api/v1/rebalance", &()).await
    }

    /// Ends it.
    pub async fn rebalance_stop(&self) -> Result<RebalanceStatus> {
        self.call(Method::DELETE, "/api/v1/rebalance", Repeat::IfNotDone, Wait::Short, |request| request).await
    }

    /// Has storage servers read everything they have.
    pub async fn scrub_start(&self, request: &ScrubRequest) -> Result<ScrubResponse> {
        self.post("/api/v1/scrub", request, Repeat::IfNotDone).await
    }

    /// How far they are with that.
    pub async fn scrub_status(&self) -> Result<ScrubResponse> {
        self.get("/api/v1/scrub", &()).await
    }

    /// Starts a restore of the metadata from the storage servers.
    pub async fn restore_start(&self, request: &RestoreRequest) -> Result<RestoreStatus> {
        self.post("/api/v1/restore", request, Repeat::IfNotDone).await
    }

    /// Ends a restore that is under way or was interrupted.
    pub async fn restore_abort(&self) -> Result<RestoreStatus> {
        self.call(Method::DELETE, "/api/v1/restore", Repeat::IfNotDone, Wait::Short, |request| request).await
    }

    /// How a restore goes on, or what the last one found.
    pub async fn restore_status(&self) -> Result<RestoreStatus> {
        self.get("/api/v1/restore", &()).await
    }

    /// The actors.
    pub async fn actors(&self) -> Result<ActorsResponse> {
        self.get("/api/v1/actors", &()).await
    }

    /// What happened.
    pub async fn events(&self, query: &EventsQuery) -> Result<EventsResponse> {
        self.get("/api/v1/events", query).await
    }

    /// One file explained.
    pub async fn why(&self, path: &DfsPath) -> Result<Why> {
        self.get("/api/v1/why", &PathQuery { path: path.clone() }).await
    }

    /// Makes a token.
    pub async fn token_create(&self, request: &TokenRequest) -> Result<TokenCreated> {
        self.post("/api/v1/tokens", request, Repeat::IfNotDone).await
    }

    /// All tokens.
    pub async fn token_list(&self) -> Result<TokensResponse> {
        self.get("/api/v1/tokens", &()).await
    }

    /// Revokes a token. The name stands in the query: as a part of the path some names would be lost on the way.
    pub async fn token_revoke(&self, name: &str, force: bool) -> Result<Changed> {
        let query = RevokeQuery { name: name.into(), force };
        let revoke = |request: RequestBuilder| request.query(&query);
        self.call(Method::DELETE, "/api/v1/tokens", Repeat::IfNotDone, Wait::Short, revoke).await
    }

    /// Whether a name server can serve.
    pub async fn status(&self) -> Result<NameServerStatus> {
        self.get("/status", &()).await
    }
}

/// Whether another name server may do better: this one has not answered, or cannot serve now.
fn is_of_this_one(failure: &Failure) -> bool {
    !failure.answered || failure.error.code() == ErrorCode::Unavailable
}

/// A server that has none of a name server's endpoints is not one, and nothing is said about what was asked for.
fn of_no_name_server(failure: Failure, url: &str) -> Failure {
    let message = failure.error.message();
    let has_no_such = message.starts_with("there is no ") && message.contains(" /api/v1/");
    if failure.error.code() != ErrorCode::NotFound || !has_no_such {
        return failure;
    }
    let error = Error::invalid(format!(
        "{url} is not a name server, though a server of Holdfast answers there ({message}): give the URL of the name server"
    ));
    Failure { error, ..failure }
}

/// What a server of either kind tells anybody of itself: the word of `GET /status`.
pub async fn open_status(http: &HttpClient, base: &str, timeout: std::time::Duration) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Open {
        status: String,
    }
    let request = http.raw().get(format!("{base}/status")).timeout(timeout);
    let answer = send_json_within::<Open>(request, Envelope::NOBODY, SMALL_ANSWER_BYTES_MAX).await;
    answer.map(|open| open.status).map_err(|failure| failure.error)
}
