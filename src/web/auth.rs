//! Reading the `Authorization` header; judging the credentials of servers.

use std::time::Instant;

use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpMessage, HttpRequest};

use crate::security::credential::{Seeing, Seen};
use crate::security::ticket::Verified;
use crate::security::{Recipient, ServerCredential, Signer};
use crate::types::{Error, ErrorCode, Result, Sha256, Time};

/// In a request's extensions: the digest that its sender has signed. Whoever reads the body compares it.
#[derive(Debug, Clone, Copy)]
pub struct SignedDigest(pub Sha256);

impl SignedDigest {
    /// Refuses a body that is not the one that was signed. A request that nobody signed a body for passes.
    pub fn check(request: &HttpRequest, found: Sha256) -> Result<()> {
        match request.extensions().get::<Self>() {
            Some(Self(signed)) if *signed != found => {
                Err(Error::new(ErrorCode::Unauthorized, "the body is not the one that the request was signed with"))
            }
            _ => Ok(()),
        }
    }
}

/// The credential in the header after its scheme (`Bearer` or `Holdfast`).
pub fn credential<'r>(request: &'r HttpRequest, scheme: &str) -> Option<&'r str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (given, rest) = value.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then_some(rest.trim())
}

/// Judges what servers send to this one.
pub struct Gate {
    signer: Signer,
    me: Recipient,
    seen: Seen,
    started: Instant,
}

impl Gate {
    /// The gate of a server that starts now.
    pub fn new(signer: Signer, me: Recipient) -> Self {
        Self { signer, me, seen: Seen::default(), started: Instant::now() }
    }

    /// The server that sends a request: its credential was made for this request, at this time, and was not used before.
    /// Cluster, epoch and term are still to be judged. To be asked once for each request: the second time the
    /// credential is a used one.
    ///
    /// Errors: `unauthorized` without a credential, with one of another secret or request, or a used one; `forbidden`
    /// with one that is meant for another server; `ticket_expired` when its time is over or to come.
    pub fn server(&self, request: &HttpRequest, now: Time) -> Result<Verified<ServerCredential>> {
        let Some(text) = credential(request, "Holdfast") else {
            return Err(Error::new(ErrorCode::Unauthorized, "this is only for servers of the cluster"));
        };
        let verified = self.signer.verify::<ServerCredential>(text).map_err(|error| {
            let message = "the request is not signed with this cluster's secret: its sender belongs to another cluster";
            Error::new(ErrorCode::Unauthorized, message).with_source(error)
        })?;
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        verified.claims.judge(&Seeing {
            me: self.me,
            method: request.method().as_str(),
            target,
            now,
            running: self.started.elapsed(),
        })?;
        self.seen.use_once(verified.claims.nonce)?;
        if let Some(digest) = verified.claims.body {
            request.extensions_mut().insert(SignedDigest(digest));
        }
        Ok(verified)
    }
}
