//! Files: where to write them, their commit, where they are, listings, deletion.

use actix_web::{HttpResponse, web};
use futures_util::future::join_all;

use super::auth::Bearer;
use super::locations::{condition, entry, entry_with_locations, place};
use super::state::{App, Data, version_of};
use crate::actors::metadata_writer::{Answer, Change};
use crate::db::cluster::{self, ClusterState};
use crate::db::commit::{Upload, check_target};
use crate::db::listing::{self, Listed, ObjectView, object_views};
use crate::db::{Failure, tree};
use crate::security::WriteTicket;
use crate::types::api::*;
use crate::types::limits::{COMMIT_BATCH_ITEMS_MAX, LIST_PAGE_ROWS_MAX, OBJECT_BYTES_MAX, PLACEMENTS_MAX};
use crate::types::{Error, ErrorCode, Mode, Result};
use crate::web::body::Json;
use crate::web::error::body_of;
use crate::web::request::RequestId;

/// Where to write a file: object ids, storage servers and upload tickets. Writes nothing down.
#[utoipa::path(
    get, path = "/api/v1/available", tag = "files", params(AvailableQuery),
    responses((status = 200, body = AvailableResponse))
)]
pub async fn available(bearer: Bearer, query: web::Query<AvailableQuery>, app: Data) -> Result<HttpResponse> {
    bearer.at(&query.path)?;
    Ok(HttpResponse::Ok()
        .json(AvailableResponse { placements: placements(&app, query.into_inner(), bearer.name()).await? }))
}

/// Checks a write as far as that is possible before its bytes come, and chooses servers.
pub async fn placements(app: &App, query: AvailableQuery, by: &str) -> Result<Vec<Placement>> {
    let count = query.count.unwrap_or(1);
    if !(1..=PLACEMENTS_MAX).contains(&count) {
        return Err(Error::invalid(format!("count must be 1 to {PLACEMENTS_MAX}")));
    }
    if query.object.is_some() && count > 1 {
        return Err(Error::invalid("object and count do not go together"));
    }
    if let Some(size) = query.size.filter(|size| *size > OBJECT_BYTES_MAX) {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("{size} bytes are more than one file may have ({OBJECT_BYTES_MAX})"),
        ));
    }
    let (path, wanted, parents) = (query.path.clone(), condition(&query), query.parents.unwrap_or(false));
    // The target is not checked when an earlier try may have committed already.
    let repeated = query.object.is_some();
    let (state, copies) = app
        .context
        .db
        .read(move |connection| {
            let state = cluster::state(connection)?;
            let Some((parent, name)) = path.split() else {
                return Err(Error::new(ErrorCode::IsADirectory, "/ is a directory"));
            };
            let walk = tree::walk(connection, &parent).map_err(Failure::into_error)?;
            match walk.require_directory() {
                Ok(directory) if !repeated => {
                    let target = tree::child(connection, directory.id, name)?;
                    check_target(&path, target.as_ref(), wanted).map_err(Failure::into_error)?;
                }
                Ok(_) => {}
                Err(Failure::Refused(error)) if parents && error.code() == ErrorCode::NotFound => {}
                Err(failure) => return Err(failure.into_error()),
            }
            Ok((state, walk.copies_wanted()))
        })
        .await?;
    refuse_unless_normal(&state)?;
    app.context.db.soundness().require()?;
    app.context.db.room().require()?;
    place(&app.context, &state, &query, copies as u32, count, by).await
}

fn refuse_unless_normal(state: &ClusterState) -> Result<()> {
    if state.mode == Mode::Normal {
        return Ok(());
    }
    Err(Error::new(ErrorCode::ReadOnly, cluster::refusal(state.mode_reason.as_deref())))
}

/// Commits uploads; only storage servers call it. Each report has its own outcome.
#[utoipa::path(
    post, path = "/api/v1/file", tag = "storage servers", request_body = CommitRequest,
    responses((status = 200, body = CommitResponse))
)]
pub async fn commit(body: Json<CommitRequest>, id: web::ReqData<RequestId>, app: Data) -> Result<HttpResponse> {
    let reports = body.into_inner().reports;
    if reports.len() > COMMIT_BATCH_ITEMS_MAX {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("at most {COMMIT_BATCH_ITEMS_MAX} reports travel together"),
        ));
    }
    if let Some(report) = reports.iter().find(|report| report.size > OBJECT_BYTES_MAX) {
        let message = format!("{} bytes are more than one file may have ({OBJECT_BYTES_MAX})", report.size);
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    let outcomes = join_all(reports.into_iter().map(|report| commit_one(&app, report))).await;
    // A database that cannot be reached fails the request as a whole, so that it is repeated.
    if let Some(error) = outcomes.iter().find_map(|outcome| outcome.as_ref().err().filter(|error| is_passing(error))) {
        return Err(error.clone());
    }
    let outcomes = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Ok(committed) => CommitOutcome::Committed(committed),
            Err(error) => {
                if error.code() == ErrorCode::Internal {
                    log::error!("a commit failed: {} [{}]", error.chain(), id.0);
                }
                CommitOutcome::Failed(body_of(&error, Some(&id.0)))
            }
        })
        .collect();
    Ok(HttpResponse::Ok().json(CommitResponse { outcomes }))
}

fn is_passing(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Busy)
}

async fn commit_one(app: &App, report: CommitReport) -> Result<Committed> {
    let (cluster, _) = app.context.membership();
    let verified = app.context.signer.verify::<WriteTicket>(&report.ticket)?;
    if verified.cluster != Some(cluster) {
        return Err(Error::new(ErrorCode::Unauthorized, "the ticket is for another cluster"));
    }
    let ticket = verified.claims;
    if ticket.size.is_some_and(|size| size != report.size) {
        return Err(Error::invalid(format!("{} bytes came, the ticket is for {:?}", report.size, ticket.size)));
    }
    if let Some(stranger) =
        report.holders.iter().find(|holder| !ticket.targets.iter().any(|target| target.server == **holder))
    {
        return Err(Error::invalid(format!("{stranger} is not among the servers of the ticket")));
    }
    let mut holders = report.holders;
    holders.sort_unstable();
    holders.dedup();
    let upload = Upload { ticket, epoch: verified.epoch, size: report.size, sha256: report.sha256, holders };
    match app.submit(Change::Commit(Box::new(upload))).await? {
        Answer::Committed(committed) => Ok(committed),
        _ => Err(Error::internal("a commit had another answer")),
    }
}

/// A file with its copies and tickets to read them, or a directory.
#[utoipa::path(
    get, path = "/api/v1/file", tag = "files", params(PathQuery), responses((status = 200, body = Entry))
)]
pub async fn stat(bearer: Bearer, query: web::Query<PathQuery>, app: Data) -> Result<HttpResponse> {
    bearer.at(&query.path)?;
    Ok(HttpResponse::Ok().json(stat_path(&app, &query.path).await?.0))
}

/// The entry at a path, with its copies and tickets.
pub async fn stat_path(app: &App, path: &crate::types::DfsPath) -> Result<(Entry, ClusterState)> {
    let asked = path.clone();
    let (state, listed, views) = app
        .context
        .db
        .read_snapshot(move |connection| {
            let state = cluster::state(connection)?;
            let walk = tree::walk(connection, &asked)?;
            let row = walk.require()?.clone();
            let views = object_views(connection, &row.object.into_iter().collect::<Vec<_>>())?;
            let listed = Listed { path: asked.to_string(), entry: row, copies_wanted: walk.copies_wanted() };
            Ok((state, listed, views))
        })
        .await?;
    let view = listed.entry.object.and_then(|object| views.get(&object));
    Ok((entry_with_locations(&app.context, &state, &listed, view)?, state))
}

/// Removes a file; with `recursive=true` also a directory with all that is in it.
#[utoipa::path(
    delete, path = "/api/v1/file", tag = "files", params(DeleteQuery), responses((status = 200, body = Changed))
)]
pub async fn delete(bearer: Bearer, query: web::Query<DeleteQuery>, app: Data) -> Result<HttpResponse> {
    bearer.at(&query.path)?;
    let DeleteQuery { path, recursive, if_match } = query.into_inner();
    let version = version_of(app.change(bearer.name(), Change::Remove { path, recursive, if_match }).await?)?;
    Ok(HttpResponse::Ok().json(Changed { version }))
}

/// One page of a directory, or of all that lies below it.
#[utoipa::path(
    get, path = "/api/v1/ls", tag = "files", params(ListQuery), responses((status = 200, body = ListResponse))
)]
pub async fn list(bearer: Bearer, query: web::Query<ListQuery>, app: Data) -> Result<HttpResponse> {
    bearer.at(&query.path)?;
    let ListQuery { path, after, limit, recursive, locations } = query.into_inner();
    let limit = limit.unwrap_or(LIST_PAGE_ROWS_MAX).clamp(1, LIST_PAGE_ROWS_MAX);
    // Whoever copies a listing removes what is not in it.
    app.context.db.soundness().require()?;
    let (state, rows, views) = app
        .context
        .db
        .read_snapshot(move |connection| {
            let state = cluster::state(connection)?;
            let rows = listing::page(connection, &path, after.as_deref(), limit, recursive)?;
            let objects: Vec<i64> = rows.iter().filter_map(|row| row.entry.object).collect();
            let views = object_views(connection, &objects)?;
            Ok((state, rows, views))
        })
        .await?;
    let shown = |listed: &Listed| -> Result<Entry> {
        let view: Option<&ObjectView> = listed.entry.object.and_then(|object| views.get(&object));
        if locations { entry_with_locations(&app.context, &state, listed, view) } else { entry(listed, view) }
    };
    let next = if rows.len() == limit { rows.last().map(|row| row.path.clone()) } else { None };
    let entries = rows.iter().map(shown).collect::<Result<_>>()?;
    Ok(HttpResponse::Ok().json(ListResponse { entries, next }))
}
