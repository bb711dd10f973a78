//! `/files/{path}` for curl and browsers: redirects to a storage server, which has the bytes.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::Bearer;
use super::files::{placements, stat_path};
use super::state::{Data, version_of};
use crate::actors::metadata_writer::Change;
use crate::types::api::*;
use crate::types::schema::PathBehindFiles;
use crate::types::{DfsPath, Error, ErrorCode, Result, Version};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Flags {
    /// Directories too, with all that is in them.
    #[serde(default)]
    recursive: bool,
}

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

fn header_text<'r>(request: &'r HttpRequest, name: &header::HeaderName) -> Result<Option<&'r str>> {
    let Some(value) = request.headers().get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Error::invalid(format!("the header {name} is not text")))
}

/// The version in an entity tag.
fn version_in(tag: &str) -> Result<Version> {
    tag.trim().trim_matches('"').parse().map_err(|_| Error::invalid(format!("{tag} is not a version such as \"7\"")))
}

/// `If-Match` and `If-None-Match` as a version and a wish for absence.
pub fn conditions(request: &HttpRequest) -> Result<(Option<Version>, bool)> {
    let if_match = match header_text(request, &header::IF_MATCH)? {
        None => None,
        Some("*") => {
            return Err(Error::invalid("If-Match: * is not understood for writes; give the version, such as \"7\""));
        }
        Some(tag) => Some(version_in(tag)?),
    };
    match header_text(request, &header::IF_NONE_MATCH)? {
        None => Ok((if_match, false)),
        Some("*") => Ok((if_match, true)),
        Some(other) => Err(Error::invalid(format!("If-None-Match: {other} is not understood for writes; only * is"))),
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
    params(("path" = inline(PathBehindFiles), Path, description = "The path without its first slash")),
    responses((status = 307, description = "To a storage server, with a ticket", headers(("Location" = String))))
)]
pub async fn read(request: HttpRequest, bearer: Bearer, app: Data) -> Result<HttpResponse> {
    let path = path_of(&request)?;
    bearer.at(&path)?;
    let (entry, _) = stat_path(&app, &path).await?;
    if entry.kind == Kind::Directory {
        return Err(Error::new(
            ErrorCode::IsADirectory,
            format!("{path} is a directory; list it with /api/v1/ls?path="),
        ));
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
        ("If-Match" = Option<String>, Header, description = "`\"VERSION\"`: the write replaces exactly this one",
            pattern = "^(\"[0-9]{1,15}\"|[0-9]{1,15})$"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: the write replaces nothing", pattern = "^\\*$")
    ),
    responses((status = 307, description = "To a storage server, with a ticket", headers(("Location" = String))))
)]
pub async fn write(request: HttpRequest, bearer: Bearer, app: Data) -> Result<HttpResponse> {
    let path = path_of(&request)?;
    bearer.at(&path)?;
    let size = match header_text(&request, &header::CONTENT_LENGTH)? {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| Error::invalid("Content-Length is not a number"))?),
    };
    let (if_match, absent) = conditions(&request)?;
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
    params(("path" = inline(PathBehindFiles), Path, description = "The path without its first slash"), Flags),
    responses((status = 200, body = Changed))
)]
pub async fn delete(request: HttpRequest, bearer: Bearer, app: Data) -> Result<HttpResponse> {
    let path = path_of(&request)?;
    bearer.at(&path)?;
    let flags = web::Query::<Flags>::from_query(request.query_string()).map_err(|e| Error::invalid(e.to_string()))?;
    let (if_match, _) = conditions(&request)?;
    let change = Change::Remove { path, recursive: flags.recursive, if_match };
    let version = version_of(app.change(bearer.name(), change).await?)?;
    Ok(HttpResponse::Ok().json(Changed { version }))
}
