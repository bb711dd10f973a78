//! `/files/{path}` for curl and browsers: redirects to a storage server, which has the bytes.

use actix_http::Request;
use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::auth::Bearer;
use super::files::{placements, stat_path};
use super::state::{Data, version_of};
use crate::actors::metadata_writer::Change;
use crate::types::api::*;
use crate::types::schema::PathBehindFiles;
use crate::types::{DfsPath, Error, ErrorCode, Result, Version};
use crate::web::file_body;
use crate::web::preconditions::{Judged, Preconditions, Wanted};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Flags {
    /// Directories too, with all that is in them.
    #[serde(default)]
    recursive: bool,
}

/// None are known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFlags {}

/// The path behind `/files`.
fn path_of(request: &HttpRequest) -> Result<DfsPath> {
    path_in_url(request.uri().path().strip_prefix("/files").unwrap_or_default())
}

/// The DFS path that a URL's path names, decoded once.
pub fn path_in_url(raw: &str) -> Result<DfsPath> {
    let text = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| Error::new(ErrorCode::InvalidPath, "the path in the URL is not UTF-8"))?;
    DfsPath::parse(&text)
}

/// Whether the body of a request is never read: those who wait with it until they are told to send it keep it.
pub fn leaves_body(request: &Request) -> bool {
    request.path().starts_with("/files/")
}

/// What stands behind the question mark. What is not known there is refused and not passed over: it may be a part of a
/// name, or something that changes what is meant.
fn flags<T: DeserializeOwned>(request: &HttpRequest) -> Result<T> {
    let flags = match request.uri().query() {
        Some("") => Err("there is nothing behind the question mark".to_string()),
        query => web::Query::<T>::from_query(query.unwrap_or_default())
            .map(web::Query::into_inner)
            .map_err(|error| error.to_string()),
    };
    flags
        .map_err(|reason| Error::invalid(format!("{reason}; nothing was changed. A ? in a file's name is written %3F")))
}

fn not_as_wanted(path: &DfsPath, there: Version) -> Error {
    let message = format!("{path} is at version {there} now, which is not what the request wants to find");
    Error::new(ErrorCode::PreconditionFailed, message)
}

/// What a change of a path must find. Of conditions that need a look the result is what was seen, so that nothing comes
/// between; a change that comes between makes the condition fail.
async fn wanted(request: &HttpRequest, app: &Data, path: &DfsPath) -> Result<Wanted> {
    let given = Preconditions::of(request.headers())?;
    if let Some(wanted) = given.at_once() {
        return Ok(wanted);
    }
    match stat_path(app, path).await {
        Ok((entry, _)) if entry.kind == Kind::Directory && request.method() == Method::PUT => Ok(Wanted::Anything),
        Ok((entry, _)) => {
            let there = Some((entry.version, Some(entry.modified)));
            given.of_write(there).ok_or_else(|| not_as_wanted(path, entry.version))
        }
        Err(error) if error.code() == ErrorCode::NotFound => given.of_write(None).ok_or_else(|| {
            let message = format!("{path} does not exist, and the request wants to find it");
            Error::new(ErrorCode::PreconditionFailed, message)
        }),
        Err(error) => Err(error),
    }
}

fn redirect(url: String) -> HttpResponse {
    HttpResponse::TemporaryRedirect()
        .insert_header((header::LOCATION, url))
        // The URL has a ticket for this request alone.
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .finish()
}

/// Redirects to the best copy of a file.
#[utoipa::path(
    method(get, head), path = "/files/{path}", tag = "files",
    params(
        ("path" = inline(PathBehindFiles), Path, description = "The path without its first slash"),
        ("If-Match" = Option<String>, Header, description = "`*` or a list of `\"VERSION\"`",
            pattern = r#"^(\*|"[0-9]{1,15}"(, "[0-9]{1,15}")*|[0-9]{1,15})$"#),
        ("If-None-Match" = Option<String>, Header, description = "`*` or a list of `\"VERSION\"`; also `W/\"VERSION\"`",
            pattern = r#"^(\*|(W/)?"[0-9]{1,15}"(, (W/)?"[0-9]{1,15}")*|[0-9]{1,15})$"#)
    ),
    responses(
        (status = 307, description = "To a storage server, with a ticket", headers(("Location" = String))),
        (status = 304, description = "The caller has it already")
    )
)]
pub async fn read(request: HttpRequest, bearer: Bearer, app: Data) -> Result<HttpResponse> {
    let path = path_of(&request)?;
    bearer.at(&path)?;
    let NoFlags {} = flags(&request)?;
    let given = Preconditions::of(request.headers())?;
    let (entry, _) = stat_path(&app, &path).await?;
    if entry.kind == Kind::Directory {
        return Err(Error::new(
            ErrorCode::IsADirectory,
            format!("{path} is a directory; list it with /api/v1/ls?path="),
        ));
    }
    match given.of_read((entry.version, Some(entry.modified))) {
        Judged::Holds => {}
        Judged::Failed => return Err(not_as_wanted(&path, entry.version)),
        Judged::NotModified => {
            return Ok(HttpResponse::NotModified()
                .insert_header((header::ETAG, format!("\"{}\"", entry.version)))
                .insert_header((header::CACHE_CONTROL, "private, no-cache"))
                .finish());
        }
    }
    match entry.replicas.into_iter().find_map(|replica| replica.url) {
        Some(url) => Ok(redirect(url)),
        None => Err(Error::unavailable(format!(
            "no server that has {path} answers now; holdfast stat shows where its copies are"
        ))),
    }
}

/// Redirects an upload to the first of the servers chosen. Directories above the path are made when they are missing.
#[utoipa::path(
    put, path = "/files/{path}", tag = "files",
    params(
        ("path" = inline(PathBehindFiles), Path, description = "The path without its first slash"),
        ("If-Match" = Option<String>, Header, description = "A list of `\"VERSION\"`: the write replaces one of these; `*`: it replaces something",
            pattern = r#"^(\*|"[0-9]{1,15}"(, "[0-9]{1,15}")*|[0-9]{1,15})$"#),
        ("If-None-Match" = Option<String>, Header, description = "`*`: the write replaces nothing; a list of `\"VERSION\"`: none of these",
            pattern = r#"^(\*|(W/)?"[0-9]{1,15}"(, (W/)?"[0-9]{1,15}")*|[0-9]{1,15})$"#)
    ),
    responses((status = 307, description = "To a storage server, with a ticket", headers(("Location" = String))))
)]
pub async fn write(request: HttpRequest, bearer: Bearer, app: Data) -> Result<HttpResponse> {
    let path = path_of(&request)?;
    bearer.at(&path)?;
    let NoFlags {} = flags(&request)?;
    let size = file_body::announced(request.headers())?;
    let (if_match, absent) = match wanted(&request, &app, &path).await? {
        Wanted::Anything => (None, false),
        Wanted::Nothing => (None, true),
        Wanted::Version(version) => (Some(version), false),
    };
    let query = AvailableQuery {
        path,
        size,
        count: None,
        object: None,
        exclude: None,
        if_match,
        if_none_match: Some(absent),
        parents: Some(true),
    };
    let placement =
        placements(&app, query, bearer.name()).await?.pop().ok_or_else(|| Error::internal("no placement"))?;
    let first = placement.servers.first().ok_or_else(|| Error::internal("a placement has no servers"))?;
    Ok(redirect(format!("{}/file?ticket={}", first.url, placement.ticket)))
}

/// Removes a file, or with `recursive` a directory with all that is in it.
#[utoipa::path(
    delete, path = "/files/{path}", tag = "files",
    params(
        ("path" = inline(PathBehindFiles), Path, description = "The path without its first slash"), Flags,
        ("If-Match" = Option<String>, Header, description = "A list of `\"VERSION\"`: only one of these is removed",
            pattern = r#"^(\*|"[0-9]{1,15}"(, "[0-9]{1,15}")*|[0-9]{1,15})$"#)
    ),
    responses((status = 200, body = Changed))
)]
pub async fn delete(request: HttpRequest, bearer: Bearer, app: Data) -> Result<HttpResponse> {
    let path = path_of(&request)?;
    bearer.at(&path)?;
    let Flags { recursive } = flags(&request)?;
    let if_match = match wanted(&request, &app, &path).await? {
        Wanted::Anything => None,
        Wanted::Version(version) => Some(version),
        // Nothing is there to remove, or something that should not be.
        Wanted::Nothing => {
            let (entry, _) = stat_path(&app, &path).await?;
            return Err(not_as_wanted(&path, entry.version));
        }
    };
    let change = Change::Remove { path, recursive, if_match };
    let version = version_of(app.change(bearer.name(), change).await?)?;
    Ok(HttpResponse::Ok().json(Changed { version }))
}
