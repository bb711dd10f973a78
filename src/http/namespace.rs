//! Changes of the namespace.

use actix_web::{HttpRequest, HttpResponse, post, web};

use super::auth;
use super::files::placements;
use super::state::{App, Data, version_of};
use crate::actors::metadata_writer::Change;
use crate::client::storage::BodyFacts;
use crate::db::{copy_tree, replication};
use crate::types::api::*;
use crate::types::{DfsPath, Error, ErrorCode, Result, Sha256, Version};

fn changed(version: Version) -> HttpResponse {
    HttpResponse::Ok().json(Changed { version })
}

/// Makes a directory.
#[utoipa::path(tag = "namespace", request_body = MkdirRequest, responses((status = 200, body = Changed)))]
#[post("/mkdir")]
pub async fn mkdir(request: HttpRequest, body: web::Json<MkdirRequest>, app: Data) -> Result<HttpResponse> {
    auth::allow(&request, &app, Role::Writer, &body.path).await?;
    let MkdirRequest { path, parents } = body.into_inner();
    Ok(changed(version_of(app.change(Change::Mkdir { path, parents }).await?)?))
}

/// Removes an empty directory.
#[utoipa::path(tag = "namespace", request_body = PathQuery, responses((status = 200, body = Changed)))]
#[post("/rmdir")]
pub async fn rmdir(request: HttpRequest, body: web::Json<PathQuery>, app: Data) -> Result<HttpResponse> {
    auth::allow(&request, &app, Role::Writer, &body.path).await?;
    Ok(changed(version_of(app.change(Change::Rmdir(body.into_inner().path)).await?)?))
}

/// Makes an empty file, or gives what is there the present time.
#[utoipa::path(tag = "namespace", request_body = PathQuery, responses((status = 200, body = Changed)))]
#[post("/touch")]
pub async fn touch(request: HttpRequest, body: web::Json<PathQuery>, app: Data) -> Result<HttpResponse> {
    auth::allow(&request, &app, Role::Writer, &body.path).await?;
    let path = body.into_inner().path;
    if let Some(version) = app.change(Change::Touch(path.clone())).await? {
        return Ok(changed(version));
    }
    match write_empty(&app, &path).await {
        // Somebody else made it meanwhile.
        Err(error) if error.code() == ErrorCode::PreconditionFailed => {
            Ok(changed(version_of(app.change(Change::Touch(path)).await?)?))
        }
        outcome => outcome.map(changed),
    }
}

/// Writes an empty file as any client would: its copies are on storage servers like any other's.
async fn write_empty(app: &App, path: &DfsPath) -> Result<Version> {
    let query = AvailableQuery {
        path: path.clone(),
        size: Some(0),
        count: None,
        object: None,
        exclude: None,
        if_match: None,
        if_none_match: Some(true),
        parents: None,
    };
    let placement = placements(app, query).await?.pop().ok_or_else(|| Error::internal("no placement"))?;
    let first = placement.servers.first().ok_or_else(|| Error::internal("a placement has no servers"))?;
    let facts = BodyFacts { size: Some(0), sha256: Some(Sha256::of(b"")) };
    let body = futures_util::stream::empty();
    Ok(app.context.storage.upload(&first.url, &placement.ticket, facts, body).await?.version)
}

/// Moves a file or directory to exactly `to`.
#[utoipa::path(tag = "namespace", request_body = TransferRequest, responses((status = 200, body = Changed)))]
#[post("/mv")]
pub async fn mv(request: HttpRequest, body: web::Json<TransferRequest>, app: Data) -> Result<HttpResponse> {
    let grant = auth::bearer(&request, &app).await?;
    grant.check(Role::Writer, &body.from)?;
    grant.check(Role::Writer, &body.to)?;
    let TransferRequest { from, to, .. } = body.into_inner();
    Ok(changed(version_of(app.change(Change::Move { from, to }).await?)?))
}

/// Copies a file, or with `recursive` a directory, to exactly `to`.
#[utoipa::path(tag = "namespace", request_body = TransferRequest, responses((status = 200, body = Changed)))]
#[post("/cp")]
pub async fn cp(request: HttpRequest, body: web::Json<TransferRequest>, app: Data) -> Result<HttpResponse> {
    let grant = auth::bearer(&request, &app).await?;
    grant.check(Role::Reader, &body.from)?;
    grant.check(Role::Writer, &body.to)?;
    let TransferRequest { from, to, recursive } = body.into_inner();
    let file = app.change(Change::CopyFile { from: from.clone(), to: to.clone() }).await;
    match file {
        Err(error) if recursive && error.code() == ErrorCode::IsADirectory => {
            copy_directory(&app, from, to).await.map(changed)
        }
        outcome => Ok(changed(version_of(outcome?)?)),
    }
}

/// Builds the copy step by step and attaches it. A caller that goes away leaves a directory that nobody sees and
/// the reaper removes.
async fn copy_directory(app: &App, from: DfsPath, to: DfsPath) -> Result<Version> {
    let (source, target) = (from.clone(), to.clone());
    let (mut copy, _) = app.context.change(move |changes| copy_tree::begin(changes, &source, &target)).await?;
    loop {
        let ((next, more), _) = app.context.change(move |changes| copy_tree::step(changes, copy)).await?;
        copy = next;
        if !more {
            break;
        }
    }
    let ((), version) = app.context.change(move |changes| copy_tree::attach(changes, &copy, &from, &to)).await?;
    Ok(version)
}

/// Sets how many copies are wanted of a file, or of all files below a directory; those that nested directories
/// have set for themselves stay.
#[utoipa::path(tag = "operation", request_body = SetrepRequest, responses((status = 200, body = SetrepResponse)))]
#[post("/setrep")]
pub async fn setrep(request: HttpRequest, body: web::Json<SetrepRequest>, app: Data) -> Result<HttpResponse> {
    auth::allow(&request, &app, Role::Superuser, &body.path).await?;
    let SetrepRequest { path, copies } = body.into_inner();
    // The directory first: what is written from now on has the new number. A caller that goes away leaves files
    // behind that still have the old one; asking again goes through all of them.
    let (mut adjustment, mut version) =
        app.context.change(move |changes| replication::begin(changes, &path, copies)).await?;
    let mut more = true;
    while more {
        let ((next, left), last) = app.context.change(move |changes| replication::step(changes, adjustment)).await?;
        (adjustment, more, version) = (next, left, last);
    }
    Ok(HttpResponse::Ok().json(SetrepResponse { version, files: adjustment.changed }))
}
