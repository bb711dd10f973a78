//! What is done around every request: its id, its line in the access log, its place in the metrics, and the headers that
//! every answer has.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, web};
use bytes::Bytes;

use super::connections::{Connection, UnderWay};
use super::error::{response, status_of};
use super::metrics::Metrics;
use crate::types::api::REQUEST_ID_HEADER;
use crate::types::{Error, ErrorCode};

/// Longest id that is taken from a caller, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;
/// Bytes of a path in a line of the log.
const LOG_PATH_BYTES_MAX: usize = 512;

/// Headers of every answer that does not have its own.
const HEADERS: [(HeaderName, &str); 4] = [
    // Most answers are for one caller and one moment, and many have tickets.
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // A ticket in a URL must not travel on.
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
];

/// Whether the sender of a request has proven who it is; in the extensions of those that have.
#[derive(Debug, Clone, Copy)]
pub struct IsKnown;

/// A request's id.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// The id that the caller sent, if it is harmless in a log, or a new one.
fn request_id(request: &ServiceRequest) -> RequestId {
    let sent = request.headers().get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    let harmless = |text: &&str| {
        !text.is_empty()
            && text.len() <= REQUEST_ID_BYTES_MAX
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    match sent.filter(harmless) {
        Some(text) => RequestId(text.into()),
        None => RequestId(format!("{:016x}", rand::random::<u64>())),
    }
}

/// The middleware: gives the request an id, times it, logs it, puts the id into errors, and notes on its connection that
/// it is being answered.
pub async fn around(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let under_way = request.conn_data::<Connection>().map(Connection::begin);
    let id = request_id(&request);
    request.extensions_mut().insert(id.clone());
    let mut answer = match next.call(request).await {
        Ok(answer) => answer.map_into_boxed_body(),
        Err(error) => return Err(error),
    };
    if let Some(error) = answer.response().error().and_then(|error| error.as_error::<Error>()).cloned() {
        log_failure(answer.request(), &error, &id);
        let (request, _) = answer.into_parts();
        answer = ServiceResponse::new(request, response(&error, Some(&id.0)));
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        answer.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    add_missing(answer.headers_mut());
    account(&answer, &id, started);
    Ok(answer.map_body(|_, body| BoxBody::new(Answering { body, id, _under_way: under_way })))
}

fn add_missing(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// A body that is sent; its request is under way until the end.
struct Answering {
    body: BoxBody,
    id: RequestId,
    _under_way: Option<UnderWay>,
}

impl MessageBody for Answering {
    type Error = Box<dyn StdError>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_next(cx);
        if let Poll::Ready(Some(Err(error))) = &polled {
            log::warn!("an answer was broken off: {error} [{}]", self.id.0);
        }
        polled
    }
}

/// Whether the sender of a request has proven who it is.
fn is_known(request: &HttpRequest) -> bool {
    request.extensions().contains::<IsKnown>()
}

fn log_failure(request: &HttpRequest, error: &Error, id: &RequestId) {
    // Tickets are in the query, so only the path is logged.
    let path = shown(request.path());
    let line = || format!("{} {path} failed: {} [{}]", method_label(request), error.chain(), id.0);
    match status_of(error.code()).as_u16() {
        _ if error.code() == ErrorCode::Internal => log::error!("{}", line()),
        // Strangers must not be able to fill the log.
        500.. if is_known(request) => log::warn!("{}", line()),
        _ => log::debug!("{}", line()),
    }
}

fn account(answer: &ServiceResponse<BoxBody>, id: &RequestId, started: Instant) {
    let request = answer.request();
    let route = request.match_pattern().unwrap_or_else(|| "unknown".into());
    let elapsed = started.elapsed();
    if let Some(metrics) = request.app_data::<web::Data<Metrics>>() {
        let status = answer.status();
        let labels = [route.as_str(), method_label(request), status.as_str()];
        metrics.http.with_label_values(&labels).observe(elapsed.as_secs_f64());
    }
    // Checks and scrapes come every few seconds for ever; they are logged only when asked for, and so is what comes from
    // strangers.
    let often = matches!(route.as_str(), "/status" | "/metrics");
    let level = if often || !is_known(request) { log::Level::Debug } else { log::Level::Info };
    log::log!(
        target: "holdfast::access",
        level,
        "{} {} {} {:.1}ms [{}]",
        method_label(request),
        shown(request.path()),
        answer.status().as_u16(),
        elapsed.as_secs_f64() * 1_000.0,
        id.0
    );
}

/// A path as the log has it: a long one is cut.
fn shown(path: &str) -> Cow<'_, str> {
    if path.len() <= LOG_PATH_BYTES_MAX {
        return path.into();
    }
    let cut = path.floor_char_boundary(LOG_PATH_BYTES_MAX);
    format!("{}… ({} bytes)", &path[..cut], path.len()).into()
}

/// The method, if it is one of HTTP's: callers must not be able to make labels up.
pub(super) fn method_label(request: &HttpRequest) -> &str {
    match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known,
        _ => "OTHER",
    }
}

/// Makes broken queries and paths the crate's error, with the reason that the parser gives.
pub fn parsing(config: &mut web::ServiceConfig) {
    config
        .app_data(web::QueryConfig::default().error_handler(|error, _| about_input(error.to_string()).into()))
        .app_data(web::PathConfig::default().error_handler(|error, _| about_input(error.to_string()).into()));
}

/// The error about something that could not be read.
pub(super) fn about_input(reason: String) -> Error {
    let code = if reason.contains("is not a valid path") || reason.contains("a path of ") {
        ErrorCode::InvalidPath
    } else {
        ErrorCode::InvalidRequest
    };
    Error::new(code, reason)
}

/// Answers requests that no route takes.
pub async fn no_such_route(request: HttpRequest) -> Result<actix_web::HttpResponse, Error> {
    Err(Error::not_found(format!("there is no {} {}", method_label(&request), shown(request.path()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_cut_in_the_log() {
        assert_eq!(shown("/a"), "/a");
        let long = format!("/{}", "ü".repeat(10_000));
        let cut = shown(&long);
        assert!(cut.len() < LOG_PATH_BYTES_MAX + 32 && cut.ends_with("(20001 bytes)"), "{cut}");
    }
}
