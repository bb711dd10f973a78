//! JSON bodies of requests: how large they may be, how long they may take, and that they are what was signed.
//!
//! The limits follow from the endpoint's row in the table of routes. Who sends the request has been checked before.

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

use super::request::about_input;
use super::route::{Body, found};
use crate::types::limits::{JSON_BODY_RATE_MIN_BYTES, JSON_BODY_TIMEOUT};
use crate::types::object::Object;
use crate::types::{Error, ErrorCode, Result, Sha256};

/// The SHA-256 that a credential has signed of the body; in the extensions of requests that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedDigest(pub Sha256);

impl SignedDigest {
    /// Whether a credential has signed the body.
    pub fn is_there(request: &HttpRequest) -> bool {
        request.extensions().get::<Self>().is_some()
    }

    /// Refuses a body that is not the one that was signed. A request that nobody signed a body for passes.
    pub fn check(request: &HttpRequest, found: impl FnOnce() -> Sha256) -> Result<()> {
        match request.extensions().get::<Self>() {
            Some(Self(signed)) if *signed != found() => Err(Error::new(
                ErrorCode::Unauthorized,
                "the body is not the one that the request's credential was made for",
            )),
            _ => Ok(()),
        }
    }
}

/// A JSON object as a request's body.
pub struct Json<T>(pub T);

impl<T> Json<T> {
    /// What came.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            if !says_json(&request) {
                let message = "the body must be JSON, and say so: Content-Type: application/json";
                return Err(Error::invalid(message));
            }
            let bytes = read(&request, payload).await?;
            SignedDigest::check(&request, || Sha256::of(&bytes))?;
            let parsed: Result<Object<T>, _> = serde_json::from_slice(&bytes);
            parsed.map(|object| Self(object.0)).map_err(|error| about_input(error.to_string()))
        })
    }
}

fn says_json(request: &HttpRequest) -> bool {
    let kind = request.content_type().to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

/// How long a body of at most so many bytes may take, from the first to the last.
fn time_for(bytes_max: usize) -> Duration {
    JSON_BODY_TIMEOUT + Duration::from_secs(bytes_max as u64 / JSON_BODY_RATE_MIN_BYTES)
}

/// Reads a body within the limits of its endpoint. Memory is taken for what has come, not for what is announced.
async fn read(request: &HttpRequest, mut payload: Payload) -> Result<Bytes> {
    let no_json = || Error::internal(format!("{} reads JSON, which its row does not say", request.path()));
    let bytes_max = found::<Body>(request)?.json_bytes_max().ok_or_else(no_json)?;
    let too_large =
        || Error::new(ErrorCode::TooLarge, format!("the body of this request may have at most {bytes_max} bytes"));
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > bytes_max as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(|error| Error::invalid(format!("the body broke off: {error}")))?;
            if bytes.len() + piece.len() > bytes_max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    };
    let time = time_for(bytes_max);
    tokio::time::timeout(time, reading)
        .await
        .map_err(|_| Error::invalid(format!("the body did not come within {} s", time.as_secs())))?
}

#[cfg(test)]
mod tests {
    use actix_web::FromRequest;
    use actix_web::test::TestRequest;
    use serde::Deserialize;

    use super::*;
    use crate::types::DfsPath;
    use crate::types::limits::SMALL_JSON_BYTES_MAX;

    #[derive(Debug, Deserialize)]
    struct Named {
        path: DfsPath,
    }

    async fn parse(kind: &str, body: impl Into<Bytes>, signed: Option<Sha256>) -> Result<Named> {
        let request = TestRequest::post().insert_header(("Content-Type", kind)).set_payload(body);
        let (request, mut payload) = request.to_http_parts();
        request.extensions_mut().insert(Body::Json);
        if let Some(signed) = signed {
            request.extensions_mut().insert(SignedDigest(signed));
        }
        Ok(Json::<Named>::from_request(&request, &mut payload).await?.into_inner())
    }

    #[actix_web::test]
    async fn what_is_refused_says_why() {
        let large = format!(r#"{{"path": "/{}"}}"#, "x".repeat(SMALL_JSON_BYTES_MAX));
        for (kind, body, code, word) in [
            ("text/plain", r#"{"path": "/a"}"#, ErrorCode::InvalidRequest, "Content-Type: application/json"),
            ("application/json", "", ErrorCode::InvalidRequest, "EOF"),
            ("application/json", "{", ErrorCode::InvalidRequest, "EOF"),
            ("application/json", "{}", ErrorCode::InvalidRequest, "missing field `path`"),
            ("application/json", r#"["/a"]"#, ErrorCode::InvalidRequest, "a JSON object"),
            ("application/json", r#"{"path": "a"}"#, ErrorCode::InvalidPath, "is not a valid path"),
            ("application/json", &large, ErrorCode::TooLarge, "65536 bytes"),
        ] {
            let error = parse(kind, body.to_string(), None).await.unwrap_err();
            assert_eq!(error.code(), code, "{body:.40}: {error}");
            assert!(error.message().contains(word), "{body:.40}: {error}");
        }
        let named = parse("Application/JSON; charset=utf-8", r#"{"path": "/a"}"#, None).await.unwrap();
        assert_eq!(named.path.as_str(), "/a");
    }

    #[actix_web::test]
    async fn another_body_than_the_signed_one_is_refused() {
        let body = r#"{"path": "/a"}"#;
        assert!(parse("application/json", body, Some(Sha256::of(body.as_bytes()))).await.is_ok());
        let error = parse("application/json", body, Some(Sha256::of(b"another"))).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unauthorized);
        // A broken body is not looked into either.
        let error = parse("application/json", "{", Some(Sha256::of(b"another"))).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unauthorized);
    }
}
