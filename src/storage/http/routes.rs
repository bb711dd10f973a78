//! The table of the storage server's endpoints.

use actix_web::http::Method;
use actix_web::web::{ServiceConfig, to};

use super::access::Access::{self, NameServer, Open, OpenOrServer, Scrape, Ticket};
use super::access::{As, Kind};
use super::{admin, download, journal, metrics, openapi, scrub, upload};
use crate::types::ErrorCode::{self, *};
use crate::web::route::{Body, Route, mount};

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
    row(GET, "/metrics", Scrape, Body::None, &[], || to(metrics::metrics)),
];

/// Registers them.
pub fn routes(config: &mut ServiceConfig) {
    mount(ROUTES, config);
}
