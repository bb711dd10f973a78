//! What is done around every request: its id, its line in the access log, its place in the metrics.

use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::JsonPayloadError;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, web};

use super::error::{response, status_of};
use super::metrics::Metrics;
use crate::types::api::REQUEST_ID_HEADER;
use crate::types::{Error, ErrorCode};

/// Longest id that is taken from a caller, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

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

/// The middleware: gives the request an id, times it, logs it, and puts the id into errors.
pub async fn around(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
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
    account(&answer, &id, started);
    Ok(answer)
}

fn log_failure(request: &HttpRequest, error: &Error, id: &RequestId) {
    // Tickets are in the query, so only the path is logged.
    let line = format!("{} {} failed: {} [{}]", request.method(), request.path(), error.chain(), id.0);
    match status_of(error.code()).as_u16() {
        _ if error.code() == ErrorCode::Internal => log::error!("{line}"),
        500.. => log::warn!("{line}"),
        _ => log::debug!("{line}"),
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
    // Checks and scrapes come every few seconds for ever; they are logged only when asked for.
    let level = if matches!(route.as_str(), "/status" | "/metrics") { log::Level::Debug } else { log::Level::Info };
    log::log!(
        target: "holdfast::access",
        level,
        "{} {} {} {:.1}ms [{}]",
        request.method(),
        request.path(),
        answer.status().as_u16(),
        elapsed.as_secs_f64() * 1_000.0,
        id.0
    );
}

/// The method, if it is one of HTTP's: callers must not be able to make labels up.
fn method_label(request: &HttpRequest) -> &str {
    match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known,
        _ => "OTHER",
    }
}

/// Makes broken JSON and queries the crate's error, with the reason that the parser gives.
pub fn parsing(config: &mut web::ServiceConfig) {
    let limit = crate::types::limits::JSON_BODY_BYTES_MAX;
    config
        .app_data(web::JsonConfig::default().limit(limit).error_handler(|error, _| refuse(about_body(&error))))
        .app_data(web::QueryConfig::default().error_handler(|error, _| refuse(error.to_string())))
        .app_data(web::PathConfig::default().error_handler(|error, _| refuse(error.to_string())));
}

fn about_body(error: &JsonPayloadError) -> String {
    match error {
        JsonPayloadError::ContentType => "the body must be JSON, and say so: Content-Type: application/json".into(),
        other => other.to_string(),
    }
}

fn refuse(reason: String) -> actix_web::Error {
    let code = if reason.contains("is not a valid path") || reason.contains("a path of ") {
        ErrorCode::InvalidPath
    } else {
        ErrorCode::InvalidRequest
    };
    Error::new(code, reason).into()
}

/// Answers requests that no route takes.
pub async fn no_such_route(request: HttpRequest) -> Result<actix_web::HttpResponse, Error> {
    Err(Error::not_found(format!("there is no {} {}", request.method(), request.path())))
}
