//! The table of the name server's endpoints.

use actix_web::http::Method;
use actix_web::web::{ServiceConfig, to};

use super::auth::Access::{self, Open, Restorer, Scrape, StorageServer, Token};
use super::auth::Of::{AnyCluster, ThisCluster};
use super::auth::Scope::{Cluster, Path};
use super::{
    files, fsck, namespace, openapi, operation, rebalance, redirect, report, restore, scrub, servers, tokens, why,
};
use crate::types::ErrorCode::{self, *};
use crate::types::api::Role::{Reader, Superuser, Writer};
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

/// What looking at a path may answer.
const LOOK: &[ErrorCode] = &[InvalidPath, NotFound, NotADirectory, IsADirectory];
/// What reading a file under conditions may answer.
const READ: &[ErrorCode] = &[InvalidPath, NotFound, NotADirectory, IsADirectory, PreconditionFailed];
/// What changing the namespace may answer.
const CHANGE: &[ErrorCode] = &[
    InvalidPath,
    NotFound,
    AlreadyExists,
    NotADirectory,
    IsADirectory,
    DirectoryNotEmpty,
    PreconditionFailed,
    ReadOnly,
];
/// What finding a place for a file may answer.
const PLACE: &[ErrorCode] = &[
    InvalidPath,
    NotFound,
    AlreadyExists,
    NotADirectory,
    IsADirectory,
    PreconditionFailed,
    TooLarge,
    LengthRequired,
    NotEnoughServers,
    OutOfSpace,
    ReadOnly,
];
/// What revoking a token may answer.
const REVOKE: &[ErrorCode] = &[NotFound, PreconditionFailed, ReadOnly];
/// What a decision about a storage server may answer.
const SERVER: &[ErrorCode] = &[NotFound, PreconditionFailed, ReadOnly];

/// All endpoints.
pub const ROUTES: &[Route<Access>] = &[
    row(GET, "/api/v1/available", Token(Writer, Path), Body::None, PLACE, || to(files::available)),
    row(POST, "/api/v1/file", StorageServer(ThisCluster), Body::Batch, &[ReadOnly], || to(files::commit)),
    row(GET, "/api/v1/file", Token(Reader, Path), Body::None, LOOK, || to(files::stat)),
    row(DELETE, "/api/v1/file", Token(Writer, Path), Body::None, CHANGE, || to(files::delete)),
    row(GET, "/api/v1/ls", Token(Reader, Path), Body::None, LOOK, || to(files::list)),
    row(POST, "/api/v1/mkdir", Token(Writer, Path), Body::Json, CHANGE, || to(namespace::mkdir)),
    row(POST, "/api/v1/rmdir", Token(Writer, Path), Body::Json, CHANGE, || to(namespace::rmdir)),
    row(POST, "/api/v1/touch", Token(Writer, Path), Body::Json, PLACE, || to(namespace::touch)),
    row(POST, "/api/v1/mv", Token(Writer, Path), Body::Json, CHANGE, || to(namespace::mv)),
    row(POST, "/api/v1/cp", Token(Writer, Path), Body::Json, CHANGE, || to(namespace::cp)),
    row(POST, "/api/v1/setrep", Token(Superuser, Path), Body::Json, CHANGE, || to(namespace::setrep)),
    row(POST, "/api/v1/register", StorageServer(AnyCluster), Body::Json, &[AlreadyExists, ReadOnly], || {
        to(servers::register)
    }),
    row(POST, "/api/v1/pending", StorageServer(ThisCluster), Body::Batch, &[], || to(servers::pending_fates)),
    row(POST, "/api/v1/corrupt", StorageServer(ThisCluster), Body::Batch, &[], || to(servers::corrupt_fates)),
    row(GET, "/api/v1/servers", Token(Reader, Cluster), Body::None, &[], || to(servers::list)),
    row(POST, "/api/v1/servers/{id}/drain", Token(Superuser, Cluster), Body::None, SERVER, || to(servers::drain)),
    row(POST, "/api/v1/servers/{id}/undrain", Token(Superuser, Cluster), Body::None, SERVER, || to(servers::undrain)),
    row(POST, "/api/v1/servers/{id}/remove", Token(Superuser, Cluster), Body::None, SERVER, || to(servers::remove)),
    row(GET, "/api/v1/report", Restorer(Reader), Body::None, &[], || to(report::report)),
    row(GET, "/api/v1/actors", Token(Reader, Cluster), Body::None, &[], || to(operation::actors_list)),
    row(GET, "/api/v1/events", Token(Reader, Cluster), Body::None, &[InvalidPath, NotFound], || {
        to(operation::events_list)
    }),
    row(GET, "/api/v1/why", Token(Reader, Path), Body::None, LOOK, || to(why::why)),
    row(POST, "/api/v1/fsck", Token(Superuser, Cluster), Body::Json, &[ReadOnly], || to(fsck::start)),
    row(GET, "/api/v1/fsck", Token(Superuser, Cluster), Body::None, &[], || to(fsck::status)),
    row(POST, "/api/v1/scrub", Token(Superuser, Cluster), Body::Json, &[NotFound, ReadOnly], || to(scrub::start)),
    row(
        POST,
        "/api/v1/scrub/path",
        Token(Superuser, Cluster),
        Body::Json,
        &[InvalidPath, NotFound, NotADirectory, ReadOnly],
        || to(scrub::start_path),
    ),
    row(GET, "/api/v1/scrub/path", Token(Superuser, Cluster), Body::None, &[], || to(scrub::path_status)),
    row(GET, "/api/v1/scrub", Token(Reader, Cluster), Body::None, &[], || to(scrub::status)),
    row(POST, "/api/v1/rebalance", Token(Superuser, Cluster), Body::Json, &[ReadOnly], || to(rebalance::start)),
    row(GET, "/api/v1/rebalance", Token(Reader, Cluster), Body::None, &[], || to(rebalance::status)),
    row(DELETE, "/api/v1/rebalance", Token(Superuser, Cluster), Body::None, &[PreconditionFailed], || {
        to(rebalance::stop)
    }),
    row(DELETE, "/api/v1/restore", Restorer(Superuser), Body::None, &[PreconditionFailed], || to(restore::abort)),
    row(POST, "/api/v1/restore", Restorer(Superuser), Body::Json, &[PreconditionFailed], || to(restore::start)),
    row(GET, "/api/v1/restore", Restorer(Superuser), Body::None, &[], || to(restore::status)),
    row(POST, "/api/v1/tokens", Token(Superuser, Cluster), Body::Json, &[InvalidPath, AlreadyExists, ReadOnly], || {
        to(tokens::create)
    }),
    row(GET, "/api/v1/tokens", Token(Superuser, Cluster), Body::None, &[], || to(tokens::list)),
    row(DELETE, "/api/v1/tokens/{name}", Token(Superuser, Cluster), Body::None, REVOKE, || to(tokens::revoke)),
    row(DELETE, "/api/v1/tokens", Token(Superuser, Cluster), Body::None, REVOKE, || to(tokens::revoke_by_query)),
    row(GET, "/api/v1/openapi.json", Open, Body::None, &[], || to(openapi::document)),
    row(GET, "/status", Open, Body::None, &[], || to(operation::status)),
    row(GET, "/metrics", Scrape, Body::None, &[], || to(operation::metrics_text)),
    row(GET, "/files/{path:.*}", Token(Reader, Path), Body::None, READ, || to(redirect::read)),
    row(HEAD, "/files/{path:.*}", Token(Reader, Path), Body::None, READ, || to(redirect::read)),
    row(PUT, "/files/{path:.*}", Token(Writer, Path), Body::None, PLACE, || to(redirect::write)),
    row(DELETE, "/files/{path:.*}", Token(Writer, Path), Body::None, CHANGE, || to(redirect::delete)),
];

/// Registers them.
pub fn routes(config: &mut ServiceConfig) {
    mount(ROUTES, config);
}
