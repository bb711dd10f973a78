//! The table of the storage server's endpoints, and who is let in.

use std::sync::Arc;

use actix_web::http::Method;
use actix_web::web::{ServiceConfig, to};
use actix_web::{HttpMessage, HttpRequest};

use self::Access::{NameServer, Open, OpenOrServer, Scrape, Ticket};
use super::{admin, download, journal, metrics, openapi, scrub, upload};
use crate::storage::server::Shared;
use crate::types::ErrorCode::{self, *};
use crate::types::{Error, Result};
use crate::web::auth;
use crate::web::route::{self, Admitted, Body, Route, mount};

/// Who may ask an endpoint of a storage server. It knows no tokens of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Open,
    /// Anybody, and a server of the cluster, who is told more; a credential that is shown must be right.
    OpenOrServer,
    /// Whoever scrapes metrics.
    Scrape,
    /// A name server of this cluster.
    NameServer(As),
    /// Whoever shows a ticket of this kind.
    Ticket(Kind),
}

/// As what a name server asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// It acts: it must be as new as any that has asked before, and shuts out older ones.
    Acting,
    /// It acts, and this server only reads for it: from a disk that takes no writes too.
    Copier,
    /// It only reads: of the newest epoch, whether or not it holds the lease.
    Reader,
}

/// What a ticket permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To read a copy.
    Read,
    /// To bring a file, or a copy of it.
    Write,
    /// To be told who answers here. Only servers of the cluster can ask.
    Challenge,
}

impl route::Access for Access {
    type Server = Arc<Shared>;

    async fn judge(self, request: &HttpRequest, shared: &Arc<Shared>) -> Result<Admitted> {
        match self {
            Self::Open => return Ok(Admitted::Anybody),
            Self::OpenOrServer if auth::credential(request, "Holdfast").is_none() => return Ok(Admitted::Anybody),
            Self::OpenOrServer => {
                let verified = admin::any_server(request, shared)?;
                request.extensions_mut().insert(verified);
            }
            Self::Scrape if shared.scrape.lets_in(request) => return Ok(shared.scrape.admitted()),
            Self::Scrape => {
                admin::sender(request, shared).map_err(|error| match error.code() {
                    Unauthorized => Error::new(
                        Unauthorized,
                        "metrics are for the bearer of the scrape token (--metrics-token-file), unless the server was \
                         started with --open-metrics",
                    ),
                    _ => error,
                })?;
            }
            Self::NameServer(As::Acting) => admin::fence(request, shared).await?,
            Self::NameServer(As::Copier) => admin::fence_source(request, shared).await?,
            Self::NameServer(As::Reader) => admin::fence_reader(request, shared).await?,
            Self::Ticket(Kind::Challenge) => {
                let challenge = admin::challenge(request, shared)?;
                request.extensions_mut().insert(challenge);
            }
            Self::Ticket(Kind::Read) => {
                let ticket = download::ticket(request, shared)?;
                request.extensions_mut().insert(ticket);
            }
            Self::Ticket(Kind::Write) => {
                let order = upload::order(request, shared)?;
                request.extensions_mut().insert(order);
            }
        }
        Ok(Admitted::Known)
    }

    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Open | Self::OpenOrServer => &[],
            Self::Scrape => &["scrape", "server"],
            Self::NameServer(_) => &["server"],
            Self::Ticket(_) => &["ticket"],
        }
    }
}

/// One row.
const fn row(
    method: Method,
    pattern: &'static str,
    access: Access,
    body: Body,
    fails: &'static [ErrorCode],
    handler: fn() -> actix_web::Route,
) -> Route<Access> {
    Route { method, pattern, access, body, fails, handler }
}

const GET: Method = Method::GET;
const HEAD: Method = Method::HEAD;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// What receiving a file may answer; what its commit answers is among it.
const UPLOAD: &[ErrorCode] = &[
    InvalidRequest,
    NotFound,
    AlreadyExists,
    NotADirectory,
    IsADirectory,
    PreconditionFailed,
    TooLarge,
    LengthRequired,
    ChecksumMismatch,
    NotEnoughServers,
    OutOfSpace,
    ReadOnly,
];
const DOWNLOAD: &[ErrorCode] = &[NotFound, PreconditionFailed, ChecksumMismatch];

/// All endpoints.
pub const ROUTES: &[Route<Access>] = &[
    row(POST, "/file", Ticket(Kind::Write), Body::Bytes, UPLOAD, || to(upload::receive)),
    row(PUT, "/file", Ticket(Kind::Write), Body::Bytes, UPLOAD, || to(upload::receive)),
    row(GET, "/file", Ticket(Kind::Read), Body::None, DOWNLOAD, || to(download::send)),
    row(HEAD, "/file", Ticket(Kind::Read), Body::None, DOWNLOAD, || to(download::send)),
    row(DELETE, "/file", NameServer(As::Acting), Body::Batch, &[OutOfSpace], || to(admin::delete)),
    row(POST, "/replicate", NameServer(As::Copier), Body::Json, UPLOAD, || to(admin::replicate)),
    row(GET, "/dump_tree", NameServer(As::Reader), Body::None, &[], || to(admin::dump_tree)),
    row(GET, "/journal", NameServer(As::Reader), Body::None, &[NotFound], || to(journal::read)),
    row(
        POST,
        "/journal",
        NameServer(As::Acting),
        Body::Bytes,
        &[PreconditionFailed, ChecksumMismatch, TooLarge, OutOfSpace],
        || to(journal::receive),
    ),
    row(POST, "/scrub", NameServer(As::Acting), Body::None, &[OutOfSpace], || to(scrub::start)),
    row(POST, "/scrub/copies", NameServer(As::Acting), Body::Batch, &[], || to(scrub::copies)),
    row(GET, "/scrub", NameServer(As::Reader), Body::None, &[], || to(scrub::read)),
    row(GET, "/identity", Ticket(Kind::Challenge), Body::None, &[], || to(admin::identity)),
    row(GET, "/openapi.json", Open, Body::None, &[], || to(openapi::document)),
    row(GET, "/status", OpenOrServer, Body::None, &[], || to(admin::status)),
    row(GET, "/metrics", Scrape, Body::None, &[], || to(metrics)),
];

/// Registers them.
pub fn routes(config: &mut ServiceConfig) {
    mount(ROUTES, config);
}
