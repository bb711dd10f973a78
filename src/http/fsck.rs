//! `fsck`: begun and followed. The work is a job of the name server ([`crate::actors::fsck`]).

use actix_web::HttpResponse;

use super::auth::Bearer;
use super::state::Data;
use crate::actors::fsck;
use crate::types::api::{FsckRequest, JobStatus};
use crate::types::{Error, ErrorCode, Result};
use crate::web::body::Json;

/// Begins to compare the metadata with itself and with the inventories of all live storage servers. With `repair`, puts
/// right what can be put right without a person. It goes on when the client goes away; `GET` tells how far it is. The same
/// that is under way already is answered instead; another one is refused.
#[utoipa::path(
    post, path = "/api/v1/fsck", tag = "operation", request_body = FsckRequest,
    responses((status = 202, body = JobStatus))
)]
pub async fn start(bearer: Bearer, Json(body): Json<FsckRequest>, app: Data) -> Result<HttpResponse> {
    if let Some(why) = app.waits_for_restore().await {
        return Err(Error::new(ErrorCode::ReadOnly, why));
    }
    let repair = body.repair;
    if repair {
        // Whether this name server may change anything is better known before an hour of work than after it.
        app.context.act(|_| Ok(())).await?;
    }
    let (context, by) = (app.context.clone(), bearer.name().to_string());
    let work = Box::new(move |job| -> futures_util::future::BoxFuture<'static, _> {
        Box::pin(fsck::run(context, repair, by, job))
    });
    let begun = app.jobs.begin(&app.context, fsck::KIND, bearer.name(), &body, work).await?;
    Ok(HttpResponse::Accepted().json(begun))
}

/// How far it is, or what the last one found.
#[utoipa::path(get, path = "/api/v1/fsck", tag = "operation", responses((status = 200, body = JobStatus)))]
pub async fn status(app: Data) -> Result<HttpResponse> {
    Ok(HttpResponse::Ok().json(app.jobs.status(&app.context, fsck::KIND).await?))
}
