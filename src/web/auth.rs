//! Reading the `Authorization` header; judging the credentials of servers; and who may scrape metrics.

use std::path::PathBuf;
use std::time::Instant;

use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpMessage, HttpRequest};
use structopt::StructOpt;

use super::body::SignedDigest;
use super::route::Admitted;
use crate::security::credential::{Seeing, Seen};
use crate::security::ticket::Verified;
use crate::security::{Recipient, ServerCredential, Signer, token};
use crate::types::{Error, ErrorCode, Result, Sha256, Time};

/// Shortest scrape token that is accepted, in bytes.
const SCRAPE_TOKEN_BYTES_MIN: usize = 16;

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

// The options of both servers about metrics. A doc comment here would become the program's description.
#[allow(missing_docs, reason = "each option has its help")]
#[derive(Debug, Clone, StructOpt)]
pub struct ScrapeOptions {
    /// File with a token that may read /metrics and nothing else, for Prometheus
    #[structopt(long)]
    pub metrics_token_file: Option<PathBuf>,
    /// Let anybody read /metrics
    #[structopt(long)]
    pub open_metrics: bool,
}

impl ScrapeOptions {
    /// Reads the token.
    pub fn load(&self) -> Result<Scrape> {
        let token = match &self.metrics_token_file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| Error::invalid(format!("cannot read {}: {error}", path.display())))?;
                let text = text.trim();
                if text.len() < SCRAPE_TOKEN_BYTES_MIN || text.contains(char::is_whitespace) {
                    return Err(Error::invalid(format!(
                        "{} must hold one word of at least {SCRAPE_TOKEN_BYTES_MIN} characters (make one with: openssl \
                         rand -hex 32)",
                        path.display()
                    )));
                }
                Some(token::hash(text))
            }
        };
        Ok(Scrape { open: self.open_metrics, token })
    }
}

/// Who may read metrics, beside those whom the server knows otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scrape {
    open: bool,
    token: Option<Sha256>,
}

impl Scrape {
    /// Whether a request may have metrics for this alone.
    pub fn lets_in(&self, request: &HttpRequest) -> bool {
        // Hashes are compared, of which a caller cannot choose the bytes one by one.
        self.open || self.token.is_some() && credential(request, "Bearer").map(token::hash) == self.token
    }

    /// What is known of a sender who was let in.
    pub fn admitted(&self) -> Admitted {
        if self.open { Admitted::Anybody } else { Admitted::Known }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn metrics_are_for_the_scrape_token_or_for_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let with = |text: &str, open_metrics| {
            std::fs::write(&path, text).unwrap();
            ScrapeOptions { metrics_token_file: Some(path.clone()), open_metrics }.load()
        };
        let asks = |scrape: Scrape, token: &str| {
            scrape.lets_in(
                &TestRequest::get().insert_header(("Authorization", format!("Bearer {token}"))).to_http_request(),
            )
        };
        let word = "0123456789abcdef";
        let scrape = with(&format!(" {word}\n"), false).unwrap();
        assert!(asks(scrape, word) && !asks(scrape, "0123456789abcdeg"));
        assert!(asks(with(word, true).unwrap(), "whatever"));
        assert!(!asks(Scrape::default(), word), "without a token nobody has it");
        assert!(with("short", false).is_err() && with("0123456789 abcdef", false).is_err());
        let missing = ScrapeOptions { metrics_token_file: Some(dir.path().join("none")), open_metrics: false };
        assert!(missing.load().unwrap_err().message().contains("none"));
    }
}
