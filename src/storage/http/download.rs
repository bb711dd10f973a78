//! `GET` and `HEAD /file`: sending a copy's bytes, checked on their way.
//!
//! A whole read is hashed while it is sent, and its last piece is held back until the digest is right: when it
//! is not, the connection breaks before the body is complete, so that even a client that checks nothing sees an
//! error and not wrong bytes. Ranges are not checked here; the client checks what it puts together.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use actix_web::body::SizedStream;
use actix_web::http::Method;
use actix_web::http::header::{self, ByteRangeSpec, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::Stream;
use serde::Deserialize;

use crate::security::ReadTicket;
use crate::storage::state::{Daemon, Shared};
use crate::storage::store::{ReplicaRow, index, objects};
use crate::storage::suspects::Suspects;
use crate::types::api::SHA256_HEADER;
use crate::types::hash::Hasher;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, ErrorCode, Result, Sha256};
use crate::web::preconditions::{Judged, Preconditions};
use crate::web::route::found;

/// What stands behind a ticket is for whoever has it, and for its time only.
const CACHE_CONTROL: &str = "private, no-cache";
/// The name server's pages may show it: they are of another origin, of the same site.
const EMBEDDING: (header::HeaderName, &str) = (header::CROSS_ORIGIN_RESOURCE_POLICY, "same-site");
/// Bytes that are read from the disk at a time. As many, and once more, wait in memory for each reader that is slow.
const READ_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
struct DownloadQuery {
    ticket: String,
}

/// Judges a request's ticket: signature, cluster, epoch, time, and that it is for this server.
pub(super) fn ticket(request: &HttpRequest, shared: &Shared) -> Result<ReadTicket> {
    let refuse = |message: &str| Error::new(ErrorCode::Unauthorized, message);
    let query = web::Query::<DownloadQuery>::from_query(request.query_string())
        .map_err(|_| refuse("a ticket is needed (?ticket=…); the name server hands them out"))?;
    let verified = shared.signer.verify::<ReadTicket>(&query.ticket)?;
    let (cluster, server, epoch) = shared.identity.require_member()?;
    let ticket = verified.valid(cluster, epoch, shared.identity.now())?;
    if ticket.server != server {
        return Err(refuse("the ticket is for another storage server"));
    }
    Ok(ticket)
}

/// The bytes of a copy, whole or a single range of them.
#[utoipa::path(
    method(get, head), path = "/file", tag = "files", params(
        ("Range" = Option<String>, Header, description = "A single range of bytes; anything else is answered with the whole"),
        ("If-Match" = Option<String>, Header, description = "`*` or a list of `\"VERSION\"`"),
        ("If-None-Match" = Option<String>, Header, description = "`*` or a list of `\"VERSION\"`"),
        ("If-Range" = Option<String>, Header, description = "`\"VERSION\"`: the range counts only of this one")
    ),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The range that was asked for"),
        (status = 304, description = "`If-None-Match` names the version that it is"),
        (status = 416, description = "The range lies outside")
    )
)]
pub(super) async fn send(request: HttpRequest, daemon: Daemon) -> Result<HttpResponse> {
    let ticket: ReadTicket = found(&request)?;
    let etag = format!("\"{}\"", ticket.version);
    match Preconditions::of(request.headers())?.of_read((ticket.version, None)) {
        Judged::Holds => {}
        Judged::Failed => {
            let version = ticket.version;
            let message = format!("this is version {version}, which is not what the request wants");
            return Err(Error::new(ErrorCode::PreconditionFailed, message));
        }
        Judged::NotModified => {
            return Ok(HttpResponse::NotModified()
                .insert_header((header::ETAG, etag))
                .insert_header((header::CACHE_CONTROL, CACHE_CONTROL))
                .insert_header(EMBEDDING)
                .finish());
        }
    }
    let suspicion = Suspicion { key: ticket.replica, suspects: daemon.suspects.clone() };
    let (row, source) = open(&daemon, &suspicion).await?;
    let (size, digest) = (row.size as u64, row.digest()?);
    // No date is told, so none holds; nor does a weak tag (RFC 9110, section 13.1.5).
    let if_range_holds = header_text(&request, &header::IF_RANGE).is_none_or(|text| text.trim() == etag);
    // Ranges are for GET alone (section 14.2).
    let head = request.method() == Method::HEAD;
    let range = match header_text(&request, &header::RANGE) {
        Some(text) if if_range_holds && !head => range(text, size),
        _ => Range::Whole,
    };
    let mut response = match range {
        Range::Whole => HttpResponse::Ok(),
        Range::Part { .. } => HttpResponse::PartialContent(),
        Range::Outside => {
            return Ok(HttpResponse::RangeNotSatisfiable()
                .insert_header((header::CONTENT_RANGE, format!("bytes */{size}")))
                .finish());
        }
    };
    let mime = mime_guess::from_path(&ticket.name).first_or_octet_stream();
    response
        .insert_header((header::ETAG, etag))
        .insert_header((header::CACHE_CONTROL, CACHE_CONTROL))
        .insert_header(EMBEDDING)
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::CONTENT_TYPE, mime.as_ref()))
        // What people stored must not act as a page of this server.
        .insert_header((
            "Content-Security-Policy",
            "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'",
        ))
        .insert_header((SHA256_HEADER, digest.to_string()));
    if let Ok(disposition) = HeaderValue::from_str(&disposition(&ticket.name)) {
        response.insert_header((header::CONTENT_DISPOSITION, disposition));
    }
    let (start, length, check) = match range {
        Range::Part { start, length } => {
            response.insert_header((header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", start + length - 1)));
            (start, length, None)
        }
        _ => (0, size, Some(digest)),
    };
    if head {
        // The length without the bytes: nothing is read from the disk.
        return Ok(response.body(SizedStream::new(length, futures_util::stream::empty::<std::io::Result<Bytes>>())));
    }
    Ok(response.body(SizedStream::new(length, pieces(source, start, length, check, suspicion))))
}

fn header_text<'r>(request: &'r HttpRequest, name: &header::HeaderName) -> Option<&'r str> {
    request.headers().get(name)?.to_str().ok()
}

/// Shows in the browser, and is saved under its name.
fn disposition(name: &str) -> String {
    format!("inline; filename*=UTF-8''{}", crate::client::url::encode_component(name))
}

enum Source {
    Memory(Bytes),
    File(File),
}

async fn open(shared: &Shared, suspicion: &Suspicion) -> Result<(ReplicaRow, Source)> {
    let key = suspicion.key;
    let gone = || Error::not_found("the copy is not here any more; ask the name server where the file is now");
    let (row, bytes) = shared
        .index
        .read(move |connection| {
            let row = index::find(connection, key)?.ok_or_else(gone)?;
            let bytes = if row.in_index { index::bytes(connection, key)? } else { None };
            Ok((row, bytes))
        })
        .await?;
    if row.in_index {
        let bytes = bytes.ok_or_else(gone).inspect_err(|_| suspicion.raise())?;
        if Sha256::of(&bytes) != row.digest()? {
            return Err(suspicion.corrupt());
        }
        return Ok((row, Source::Memory(bytes.into())));
    }
    let layout = shared.layout.clone();
    let file = tokio::task::spawn_blocking(move || objects::open(&layout, key))
        .await
        .map_err(|error| Error::internal("opening a file panicked").with_source(error))??;
    match file {
        Some(file) => {
            let length =
                file.metadata().map_err(|error| Error::io(format!("asking for the size of {key}"), error))?.len();
            if length != row.size as u64 {
                return Err(suspicion.corrupt());
            }
            Ok((row, Source::File(file)))
        }
        None => {
            suspicion.raise();
            Err(Error::not_found(format!("the file of {key} is missing on this server; read another copy")))
        }
    }
}

/// Hands a copy that turns out to be wrong to the scrubber.
struct Suspicion {
    key: ReplicaKey,
    suspects: Arc<Suspects>,
}

impl Suspicion {
    fn raise(&self) {
        self.suspects.add(self.key);
    }

    fn corrupt(&self) -> Error {
        let key = self.key;
        log::error!("the copy {key} is corrupt on this server");
        self.raise();
        Error::new(ErrorCode::ChecksumMismatch, format!("the copy {key} is corrupt on this server; read another one"))
    }
}

/// What of a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// All of it.
    Whole,
    /// Some bytes, at least one.
    Part {
        /// The place of the first.
        start: u64,
        /// How many.
        length: u64,
    },
    /// Nothing that it has.
    Outside,
}

/// A single range of bytes; several at once, or other units, are answered with the whole, as RFC 9110 allows. Units have
/// no case.
pub fn range(text: &str, size: u64) -> Range {
    let text = text.trim();
    let lower = match text.get(..6) {
        Some(unit) if unit.eq_ignore_ascii_case("bytes=") => format!("bytes={}", &text[6..]),
        _ => text.into(),
    };
    match lower.parse::<header::Range>() {
        Ok(header::Range::Bytes(specs)) => match specs[..] {
            [ref spec @ (ByteRangeSpec::FromTo(..) | ByteRangeSpec::From(_) | ByteRangeSpec::Last(_))] => {
                // The last bytes of nothing are all of it, which no Content-Range can say.
                if size == 0 && matches!(spec, ByteRangeSpec::Last(1..)) {
                    return Range::Whole;
                }
                match spec.to_satisfiable_range(size) {
                    Some((start, end)) => Range::Part { start, length: end - start + 1 },
                    None => Range::Outside,
                }
            }
            _ => Range::Whole,
        },
        _ => Range::Whole,
    }
}

/// What is still to be sent.
struct Sending {
    source: Source,
    position: u64,
    left: u64,
    check: Option<(Hasher, Sha256)>,
    suspicion: Suspicion,
}

fn pieces(
    source: Source,
    start: u64,
    length: u64,
    check: Option<Sha256>,
    suspicion: Suspicion,
) -> impl Stream<Item = std::io::Result<Bytes>> {
    let check = check.map(|digest| (Hasher::default(), digest));
    let sending = Sending { source, position: start, left: length, check, suspicion };
    futures_util::stream::unfold(Some(sending), |sending| async move {
        let sending = sending.filter(|sending| sending.left > 0)?;
        if let Source::Memory(bytes) = &sending.source {
            let range = sending.position as usize..(sending.position + sending.left) as usize;
            return Some((Ok(bytes.slice(range)), None));
        }
        let next = tokio::task::spawn_blocking(move || sending.next_from_file()).await;
        Some(match next {
            Ok(Ok((piece, sending))) => (Ok(piece), Some(sending)),
            Ok(Err(error)) => (Err(error), None),
            Err(error) => (Err(std::io::Error::other(error)), None),
        })
    })
}

impl Sending {
    fn next_from_file(mut self) -> std::io::Result<(Bytes, Self)> {
        let Source::File(file) = &mut self.source else { return Err(std::io::Error::other("not a file")) };
        let mut piece = vec![0; READ_BYTES.min(usize::try_from(self.left).unwrap_or(READ_BYTES))];
        file.seek(SeekFrom::Start(self.position))
            .and_then(|_| file.read_exact(&mut piece))
            .inspect_err(|_| self.suspicion.raise())?;
        self.position += piece.len() as u64;
        self.left -= piece.len() as u64;
        if let Some((hasher, _)) = &mut self.check {
            hasher.update(&piece);
        }
        if self.left == 0
            && let Some((hasher, digest)) = self.check.take()
            && hasher.finish() != digest
        {
            return Err(std::io::Error::other(self.suspicion.corrupt()));
        }
        Ok((piece.into(), self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let show = |text, size| match range(text, size) {
            Range::Whole => "whole".to_string(),
            Range::Part { start, length } => format!("{start}+{length}"),
            Range::Outside => "outside".into(),
        };
        for (text, want) in [
            ("bytes=0-3", "0+4"),
            ("bytes=4-", "4+6"),
            ("bytes=-3", "7+3"),
            ("bytes=5-99", "5+5"),
            ("bytes=10-", "outside"),
            ("bytes=0-1,4-5", "whole"),
            ("bytes=9-9", "9+1"),
            ("bytes=-99", "0+10"),
            ("bytes=-0", "outside"),
            ("BYTES=0-3", "0+4"),
            ("bytes=3-1", "whole"),
            ("bytes=0-99999999999999999999999", "whole"),
            ("bytes=", "whole"),
            ("bytes=-", "whole"),
            ("lines=1-2", "whole"),
            ("nonsense", "whole"),
        ] {
            assert_eq!(show(text, 10), want, "{text}");
        }
        for (text, want) in
            [("bytes=0-", "outside"), ("bytes=0-0", "outside"), ("bytes=-1", "whole"), ("bytes=-0", "outside")]
        {
            assert_eq!(show(text, 0), want, "{text}");
        }
    }
}
