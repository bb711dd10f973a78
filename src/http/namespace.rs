//! Changes of the namespace.

use actix_web::HttpResponse;

use super::auth::Bearer;
use super::files::placements;
use super::state::{App, Data, version_of};
use crate::actors::metadata_writer::Change;
use crate::client::storage::BodyFacts;
use crate::db::change::Changes;
use crate::db::{copy_tree, leaving, replication};
use crate::types::api::*;
use crate::types::{DfsPath, Error, ErrorCode, Result, Sha256, Version};
use crate::web::body::Json;

fn changed(version: Version) -> HttpResponse {
    HttpResponse::Ok().json(Changed { version })
}

/// Makes a directory.
#[utoipa::path(
    post, path = "/api/v1/mkdir", tag = "namespace", request_body = MkdirRequest, responses((status = 200, body = Changed))
)]
pub async fn mkdir(bearer: Bearer, Json(body): Json<MkdirRequest>, app: Data) -> Result<HttpResponse> {
    bearer.at(&body.path)?;
    let MkdirRequest { path, parents } = body;
    Ok(changed(version_of(app.change(bearer.name(), Change::Mkdir { path, parents }).await?)?))
}

/// Removes an empty directory.
#[utoipa::path(
    post, path = "/api/v1/rmdir", tag = "namespace", request_body = PathQuery, responses((status = 200, body = Changed))
)]
pub async fn rmdir(bearer: Bearer, Json(body): Json<PathQuery>, app: Data) -> Result<HttpResponse> {
    bearer.at(&body.path)?;
    Ok(changed(version_of(app.change(bearer.name(), Change::Rmdir(body.path)).await?)?))
}

/// Makes an empty file, or gives what is there the present time.
#[utoipa::path(
    post, path = "/api/v1/touch", tag = "namespace", request_body = PathQuery, responses((status = 200, body = Changed))
)]
pub async fn touch(bearer: Bearer, Json(body): Json<PathQuery>, app: Data) -> Result<HttpResponse> {
    bearer.at(&body.path)?;
    let path = body.path;
    if let Some(version) = app.change(bearer.name(), Change::Touch(path.clone())).await? {
        return Ok(changed(version));
    }
    match write_empty(&app, &path, bearer.name()).await {
        // Somebody else made it meanwhile.
        Err(error) if error.code() == ErrorCode::PreconditionFailed => {
            Ok(changed(version_of(app.change(bearer.name(), Change::Touch(path)).await?)?))
        }
        outcome => outcome.map(changed),
    }
}

/// Writes an empty file as any client would: its copies are on storage servers like any other's.
async fn write_empty(app: &App, path: &DfsPath, by: &str) -> Result<Version> {
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
    let placement = placements(app, query, by).await?.pop().ok_or_else(|| Error::internal("no placement"))?;
    let first = placement.servers.first().ok_or_else(|| Error::internal("a placement has no servers"))?;
    let facts = BodyFacts { size: Some(0), sha256: Some(Sha256::of(b"")) };
    let body = futures_util::stream::empty();
    Ok(app.context.storage.upload(&first.url, &placement.ticket, facts, body).await?.version)
}

/// Moves a file or directory to exactly `to`.
#[utoipa::path(
    post, path = "/api/v1/mv", tag = "namespace", request_body = TransferRequest, responses((status = 200, body = Changed))
)]
pub async fn mv(bearer: Bearer, Json(body): Json<TransferRequest>, app: Data) -> Result<HttpResponse> {
    bearer.at(&body.from)?;
    bearer.at(&body.to)?;
    let TransferRequest { from, to, .. } = body;
    Ok(changed(version_of(app.change(bearer.name(), Change::Move { from, to }).await?)?))
}

/// Copies a file, or with `recursive` a directory, to exactly `to`.
#[utoipa::path(
    post, path = "/api/v1/cp", tag = "namespace", request_body = TransferRequest, responses((status = 200, body = Changed))
)]
pub async fn cp(bearer: Bearer, Json(body): Json<TransferRequest>, app: Data) -> Result<HttpResponse> {
    bearer.at(&body.from)?;
    bearer.at(&body.to)?;
    let TransferRequest { from, to, recursive } = body;
    let file = app.change(bearer.name(), Change::CopyFile { from: from.clone(), to: to.clone() }).await;
    match file {
        Err(error) if recursive && error.code() == ErrorCode::IsADirectory => {
            copy_directory(&app, from, to, bearer.name().into()).await.map(changed)
        }
        outcome => Ok(changed(version_of(outcome?)?)),
    }
}

/// Builds the copy step by step and attaches it. A caller that goes away leaves a directory that nobody sees and
/// the reaper removes.
async fn copy_directory(app: &App, from: DfsPath, to: DfsPath, by: String) -> Result<Version> {
    let (source, target) = (from.clone(), to.clone());
    let (mut copy, _) = app.context.grow(move |changes| copy_tree::begin(changes, &source, &target)).await?;
    loop {
        let ((next, more), _) = app.context.grow(move |changes| copy_tree::step(changes, copy)).await?;
        copy = next;
        if !more {
            break;
        }
    }
    let attach = move |changes: &mut Changes<'_>| {
        changes.asked_by(Some(by));
        copy_tree::attach(changes, &copy, &from, &to)
    };
    let ((), version) = app.context.grow(attach).await?;
    Ok(version)
}

/// Sets how many copies are wanted of a file, or of all files below a directory; those that nested directories
/// have set for themselves stay.
#[utoipa::path(
    post, path = "/api/v1/setrep", tag = "operation", request_body = SetrepRequest, responses((status = 200, body = SetrepResponse))
)]
pub async fn setrep(bearer: Bearer, Json(body): Json<SetrepRequest>, app: Data) -> Result<HttpResponse> {
    bearer.at(&body.path)?;
    let SetrepRequest { path, copies, force } = body;
    let (by, rules) = (bearer.name().to_string(), app.context.settings.leaving());
    // The directory first: what is written from now on has the new number. A caller that goes away leaves files
    // behind that still have the old one; asking again goes through all of them.
    let begin = move |changes: &mut Changes<'_>| {
        changes.asked_by(Some(by));
        if !force {
            leaving::refuse_unwritable(changes, &path, copies, rules)?;
        }
        replication::begin(changes, &path, copies)
    };
    let (mut adjustment, mut version) = app.context.grow(begin).await?;
    let mut more = true;
    while more {
        let ((next, left), last) = app.context.grow(move |changes| replication::step(changes, adjustment)).await?;
        (adjustment, more, version) = (next, left, last);
    }
    Ok(HttpResponse::Ok().json(SetrepResponse { version, files: adjustment.changed }))
}
