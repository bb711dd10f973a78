//! The table of a server's endpoints, which is the only way to register one.
//!
//! A row says method, pattern, who may ask, what body it takes, which failures it answers, and what does the work. From
//! the table come the routes themselves; the check of who asks, which runs before any extractor and before a byte of the
//! body is read; `405` with `Allow`; the limits of bodies; and security and answers in the API's description. The test of
//! rights walks it, so that an endpoint without a decision cannot be had.

use std::future::Future;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::ALLOW;
use actix_web::middleware::{Next, from_fn};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};

use super::connections::Connection;
use super::error::body_of;
use super::request::{IsKnown, RequestId, method_label};
use crate::types::limits::{JSON_BODY_BYTES_MAX, SMALL_JSON_BYTES_MAX};
use crate::types::{Error, ErrorCode, Result};

/// One endpoint of a server whose ways to be let in are `A`.
pub struct Route<A> {
    /// The method.
    pub method: Method,
    /// The path, with `{name}` for what varies.
    pub pattern: &'static str,
    /// Who may ask.
    pub access: A,
    /// What body it takes.
    pub body: Body,
    /// Failures that it answers beside those that follow from `access` and `body`.
    pub fails: &'static [ErrorCode],
    /// Makes the route of its handler.
    pub handler: fn() -> actix_web::Route,
}

/// What body an endpoint takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// None; one that is sent is not read.
    None,
    /// A small JSON object.
    Json,
    /// A JSON object with many items.
    Batch,
    /// Bytes, which the handler reads and bounds itself.
    Bytes,
}

impl Body {
    /// Bytes of JSON at most; nothing for what is not JSON.
    pub fn json_bytes_max(self) -> Option<usize> {
        match self {
            Self::None | Self::Bytes => None,
            Self::Json => Some(SMALL_JSON_BYTES_MAX),
            Self::Batch => Some(JSON_BODY_BYTES_MAX),
        }
    }
}

/// What a check of the sender has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Anybody may ask this; nothing was proven.
    Anybody,
    /// The sender has shown a valid token, ticket or credential.
    Known,
}

/// A server's ways to be let in.
pub trait Access: Copy + std::fmt::Debug + 'static {
    /// What the check needs, as the application has it in its data.
    type Server: 'static;

    /// Checks who sends a request. What was found goes into the request's extensions, where the handlers' extractors
    /// take it from. Called once for each request: a credential may be good for one look only.
    fn judge(self, request: &HttpRequest, server: &Self::Server) -> impl Future<Output = Result<Admitted>>;

    /// The names of the schemes in the API's description of which one is needed; none when nothing is.
    fn schemes(self) -> &'static [&'static str];
}

/// Registers all endpoints of a table.
pub fn mount<A: Access>(table: &'static [Route<A>], config: &mut web::ServiceConfig) {
    let mut patterns: Vec<&'static str> = Vec::new();
    for route in table {
        if !patterns.contains(&route.pattern) {
            patterns.push(route.pattern);
        }
    }
    for pattern in patterns {
        let mut resource = web::resource(pattern);
        let mut allowed = Vec::new();
        for route in table.iter().filter(|route| route.pattern == pattern) {
            allowed.push(route.method.as_str());
            let guarded = from_fn(move |request, next| admit(route, request, next));
            resource = resource.route((route.handler)().method(route.method.clone()).wrap(guarded));
        }
        let allowed = allowed.join(", ");
        config.service(resource.default_service(web::to(move |request| not_allowed(request, allowed.clone()))));
    }
}

/// Lets a request in, or answers it.
async fn admit<A: Access>(
    route: &'static Route<A>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, actix_web::Error> {
    request.extensions_mut().insert(route.body);
    let judged = match request.app_data::<web::Data<A::Server>>().cloned() {
        Some(server) => route.access.judge(request.request(), &server).await,
        None => Err(Error::internal("the application has no data for its access checks")),
    };
    // Whoever may not do this has proven all the same who it is.
    let known = match &judged {
        Ok(admitted) => *admitted == Admitted::Known,
        Err(error) => error.code() == ErrorCode::Forbidden,
    };
    note_sender(request.request(), known);
    match judged {
        Ok(_) => next.call(request).await,
        Err(error) => Ok(request.error_response(error)),
    }
}

/// Notes whether the sender of a request has proven who it is. For handlers of what anybody may ask, who look by
/// themselves.
pub fn note_sender(request: &HttpRequest, known: bool) {
    if let Some(connection) = request.conn_data::<Connection>() {
        connection.note_sender(known);
    }
    if known {
        request.extensions_mut().insert(IsKnown);
    }
}

/// Answers a method that an endpoint does not have.
async fn not_allowed(request: HttpRequest, allowed: String) -> HttpResponse {
    let id = request.extensions().get::<RequestId>().cloned();
    let message = format!("{} is not for this path; it takes {allowed}", method_label(&request));
    let error = Error::invalid(message);
    HttpResponse::MethodNotAllowed().insert_header((ALLOW, allowed)).json(body_of(&error, id.as_ref().map(|id| &*id.0)))
}

/// Takes what a check of the sender has left in a request's extensions.
pub fn found<T: Clone + 'static>(request: &HttpRequest) -> Result<T> {
    request
        .extensions()
        .get::<T>()
        .cloned()
        .ok_or_else(|| Error::internal(format!("{} asks for what its row in the table does not check", request.path())))
}
