//! Reading the `Authorization` header.

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;

use crate::security::ticket::Verified;
use crate::security::{ServerCredential, Signer};
use crate::types::{Error, ErrorCode, Result};

/// The credential in the header after its scheme (`Bearer` or `Holdfast`).
pub fn credential<'r>(request: &'r HttpRequest, scheme: &str) -> Option<&'r str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (given, rest) = value.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then_some(rest.trim())
}

/// The server that sends a request, by its signature; cluster, epoch and time are still to be judged.
pub fn server(request: &HttpRequest, signer: &Signer) -> Result<Verified<ServerCredential>> {
    match credential(request, "Holdfast") {
        Some(text) => signer.verify(text).map_err(|error| {
            let message = "the request is not signed with this cluster's secret: its sender belongs to another cluster";
            Error::new(ErrorCode::Unauthorized, message).with_source(error)
        }),
        None => Err(Error::new(ErrorCode::Unauthorized, "this is only for servers of the cluster")),
    }
}
