//! `scrub`: storage servers are asked to read everything they have, and what came of it is gathered.
//!
//! Nothing is kept here: each server remembers what it was asked and what it found, over restarts too, so a name server
//! that ends takes nothing with it.

use std::time::Duration;

use actix_web::HttpResponse;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};

use super::auth::Bearer;
use super::state::{App, Data};
use crate::actors::scrub_path;
use crate::db::server::{self, ServerView};
use crate::db::{AnyConnection, Failure, tree};
use crate::types::api::{Health, JobStatus, ScrubPathRequest, ScrubRequest, ScrubResponse, ScrubServer};
use crate::types::{Error, Result, ServerId};
use crate::web::body::Json;

/// How long a server may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Servers that are asked at a time.
const ASKED_AT_ONCE_MAX: usize = 16;

/// Has one storage server, or each of them, read everything and compare it with what was acknowledged. Answers at once;
/// `GET` tells how far they are. One that reads already because it was asked goes on.
#[utoipa::path(
    post, path = "/api/v1/scrub", tag = "operation", request_body = ScrubRequest,
    responses((status = 200, body = ScrubResponse))
)]
pub async fn start(Json(body): Json<ScrubRequest>, app: Data) -> Result<HttpResponse> {
    // Only who may act is obeyed by storage servers.
    app.context.act(|_| Ok(())).await?;
    let only = match body.server {
        Some(name) => Some(app.context.db.read(move |connection| server::resolve(connection, &name)).await?),
        None => None,
    };
    Ok(HttpResponse::Ok().json(ask(&app, only, true).await?))
}

/// How far the storage servers are with reading everything, and what came of the last time.
#[utoipa::path(get, path = "/api/v1/scrub", tag = "operation", responses((status = 200, body = ScrubResponse)))]
pub async fn status(app: Data) -> Result<HttpResponse> {
    Ok(HttpResponse::Ok().json(ask(&app, None, false).await?))
}

/// Has the copies of a file, or of all files below a directory, read and compared with what was acknowledged. It is the name
/// server's work and goes on when the client goes away; `GET` tells how far it is. The same that is under way already is
/// answered instead; another one is refused.
#[utoipa::path(
    post, path = "/api/v1/scrub/path", tag = "operation", request_body = ScrubPathRequest,
    responses((status = 202, body = JobStatus))
)]
pub async fn start_path(bearer: Bearer, Json(body): Json<ScrubPathRequest>, app: Data) -> Result<HttpResponse> {
    // Only who may act is obeyed by storage servers.
    app.context.act(|_| Ok(())).await?;
    let path = body.path.clone();
    let is_there = move |connection: &mut AnyConnection| {
        tree::walk(connection, &path).and_then(|walk| walk.require().map(|_| ())).map_err(Failure::into_error)
    };
    app.context.db.read(is_there).await?;
    let (context, path) = (app.context.clone(), body.path.clone());
    let work = Box::new(move |job| -> BoxFuture<'static, _> { Box::pin(scrub_path::run(context, path, job)) });
    let begun = app.jobs.begin(&app.context, scrub_path::KIND, bearer.name(), &body, work).await?;
    Ok(HttpResponse::Accepted().json(begun))
}

/// How far reading the copies below a path is, or what came of the last time.
#[utoipa::path(get, path = "/api/v1/scrub/path", tag = "operation", responses((status = 200, body = JobStatus)))]
pub async fn path_status(app: Data) -> Result<HttpResponse> {
    Ok(HttpResponse::Ok().json(app.jobs.status(&app.context, scrub_path::KIND).await?))
}

async fn ask(app: &App, only: Option<ServerId>, start: bool) -> Result<ScrubResponse> {
    let views = app.context.fresh_servers().await?;
    let wanted: Vec<&ServerView> = views.iter().filter(|view| only.is_none_or(|only| only.0 == view.row.id)).collect();
    let asked = wanted.into_iter().map(|view| async move {
        let peer = view.row.peer();
        let answer = if view.health == Health::Down {
            Err(Error::unavailable("it is down"))
        } else if start {
            app.context.storage.scrub_start(&peer, ASK_TIMEOUT).await
        } else {
            app.context.storage.scrub_status(&peer, ASK_TIMEOUT).await
        };
        let (status, error) = match answer {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error.chain())),
        };
        ScrubServer { server: ServerId(view.row.id), name: view.row.name.clone(), status, error }
    });
    let mut servers: Vec<ScrubServer> = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE_MAX).collect().await;
    servers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(ScrubResponse { servers })
}
