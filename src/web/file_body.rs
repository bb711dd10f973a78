//! What a request says of the file that it brings.
//!
//! A file is written whole, byte by byte as it comes. What a header says of the body, and nobody obeys, would make another
//! file of it than was meant: a part in the place of the whole, compressed bytes, an envelope, or nothing at all.

use actix_web::http::header::{self, HeaderMap, HeaderName};

use crate::types::{Error, ErrorCode, Result};

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Error::invalid(format!("the header {name} is not text")))
}

/// How long the file is that a request brings; `None` when that shows at its end.
///
/// Errors: `invalid_request` when the body is not the file itself, `length_required` when there is none.
pub fn announced(headers: &HeaderMap) -> Result<Option<u64>> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Error::invalid(
            "files are written whole: a body with Content-Range would replace all of the file by a part; nothing was \
             changed. Send the whole file, without curl's -C or the like",
        ));
    }
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let encoding = String::from_utf8_lossy(value.as_bytes());
        if encoding.split(',').any(|one| !matches!(one.trim(), "" | "identity")) {
            return Err(Error::invalid(format!(
                "bytes are stored as they come, and Content-Encoding ({encoding}) would be forgotten; nothing was changed. \
                 Send the file without it"
            )));
        }
    }
    let kind = text(headers, &header::CONTENT_TYPE)?.unwrap_or_default();
    if let Some(envelope) = ["multipart/form-data", "multipart/byteranges"]
        .into_iter()
        .find(|envelope| kind.get(..envelope.len()).is_some_and(|start| start.eq_ignore_ascii_case(envelope)))
    {
        return Err(Error::invalid(format!(
            "a body of {envelope} has the file in an envelope, which would be stored with it; nothing was changed. Send the \
             file itself (curl -T FILE)"
        )));
    }
    match text(headers, &header::CONTENT_LENGTH)? {
        Some(length) => length.parse().map(Some).map_err(|_| Error::invalid("Content-Length is not a number")),
        None if headers.contains_key(header::TRANSFER_ENCODING) => Ok(None),
        None => Err(Error::new(
            ErrorCode::LengthRequired,
            "the request has no body and does not say that the file shall be empty; nothing was changed. Send the file \
             (curl -T FILE), or Content-Length: 0 for an empty one",
        )),
    }
}

/// Refuses an empty body of which nobody has said that it is empty, when it came here by a redirect: a client that had
/// sent its body already, and cannot send it again, sends none.
pub fn refuse_unmeant() -> Error {
    Error::invalid(
        "no byte came, and the request did not say that the file is empty: where it was redirected from, the body may have \
         been used up; nothing was changed. An empty file is sent with Content-Length: 0 (curl -X PUT --data-binary '') or \
         with its digest in Holdfast-Sha256; a pipe goes in by `holdfast import - PATH`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    #[test]
    fn only_a_whole_file_as_it_is_is_taken() {
        let long = ("content-length", "7");
        for (lines, want) in [
            (&[long][..], Ok(Some(7))),
            (&[("content-length", "0")], Ok(Some(0))),
            (&[("transfer-encoding", "chunked")], Ok(None)),
            (&[long, ("content-encoding", "identity")], Ok(Some(7))),
            (&[long, ("content-type", "application/x-www-form-urlencoded")], Ok(Some(7))),
            (&[long, ("content-type", "multipart/mixed; boundary=x")], Ok(Some(7))),
            (&[], Err(ErrorCode::LengthRequired)),
            (&[long, ("content-range", "bytes 3-5/6")], Err(ErrorCode::InvalidRequest)),
            (&[long, ("content-range", "")], Err(ErrorCode::InvalidRequest)),
            (&[long, ("content-encoding", "gzip")], Err(ErrorCode::InvalidRequest)),
            (&[long, ("content-encoding", "identity, br")], Err(ErrorCode::InvalidRequest)),
            (&[long, ("content-encoding", "identity"), ("content-encoding", "br")], Err(ErrorCode::InvalidRequest)),
            (&[long, ("content-type", "Multipart/Form-Data; boundary=x")], Err(ErrorCode::InvalidRequest)),
            (&[long, ("content-type", "multipart/byteranges; boundary=x")], Err(ErrorCode::InvalidRequest)),
            (&[("content-length", "x")], Err(ErrorCode::InvalidRequest)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name.parse().unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let got = announced(&headers);
            assert_eq!(got.as_ref().map_err(Error::code).copied(), want, "{lines:?}");
        }
    }
}
