//! Who is let in at a storage server's endpoints.

use std::sync::Arc;

use actix_web::{HttpMessage, HttpRequest};

use super::{admin, download, upload};
use crate::storage::state::Shared;
use crate::types::ErrorCode::Unauthorized;
use crate::types::{Error, Result};
use crate::web::auth;
use crate::web::route::{self, Admitted};

/// Who may ask an endpoint of a storage server. It knows no tokens of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Open,
    /// Anybody, and a server of the cluster, who is told more; a credential that is shown must be right.
    OpenOrServer,
    /// Whoever scrapes metrics.
    Scrape,
    /// A name server of this cluster.
    NameServer(As),
    /// Whoever shows a ticket of this kind.
    Ticket(Kind),
}

/// As what a name server asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// It acts: it must be as new as any that has asked before, and shuts out older ones.
    Acting,
    /// It acts, and this server only reads for it: from a disk that takes no writes too.
    Copier,
    /// It only reads: of the newest epoch, whether or not it holds the lease.
    Reader,
}

/// What a ticket permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To read a copy.
    Read,
    /// To bring a file, or a copy of it.
    Write,
    /// To be told who answers here. Only servers of the cluster can ask.
    Challenge,
}

impl route::Access for Access {
    type Server = Arc<Shared>;

    async fn judge(self, request: &HttpRequest, shared: &Arc<Shared>) -> Result<Admitted> {
        match self {
            Self::Open => return Ok(Admitted::Anybody),
            Self::OpenOrServer if auth::credential(request, "Holdfast").is_none() => return Ok(Admitted::Anybody),
            Self::OpenOrServer => {
                let verified = admin::any_server(request, shared)?;
                request.extensions_mut().insert(verified);
            }
            Self::Scrape if shared.scrape.lets_in(request) => return Ok(shared.scrape.admitted()),
            Self::Scrape => {
                admin::sender(request, shared).map_err(|error| match error.code() {
                    Unauthorized => Error::new(
                        Unauthorized,
                        "metrics are for the bearer of the scrape token (--metrics-token-file), unless the server was \
                         started with --open-metrics",
                    ),
                    _ => error,
                })?;
            }
            Self::NameServer(As::Acting) => admin::fence(request, shared).await?,
            Self::NameServer(As::Copier) => admin::fence_source(request, shared).await?,
            Self::NameServer(As::Reader) => admin::fence_reader(request, shared).await?,
            Self::Ticket(Kind::Challenge) => {
                let challenge = admin::challenge(request, shared)?;
                request.extensions_mut().insert(challenge);
            }
            Self::Ticket(Kind::Read) => {
                let ticket = download::ticket(request, shared)?;
                request.extensions_mut().insert(ticket);
            }
            Self::Ticket(Kind::Write) => {
                let order = upload::order(request, shared)?;
                request.extensions_mut().insert(order);
            }
        }
        Ok(Admitted::Known)
    }

    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Open | Self::OpenOrServer => &[],
            Self::Scrape => &["scrape", "server"],
            Self::NameServer(_) => &["server"],
            Self::Ticket(_) => &["ticket"],
        }
    }
}
