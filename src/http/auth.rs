//! Who sends a request, and what that allows.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use uuid::Uuid;

use super::state::App;
use crate::security::token::{self, Grant};
use crate::security::{Sender, ServerCredential};
use crate::types::api::Role;
use crate::types::{DfsPath, Error, ErrorCode, Result};
use crate::web::auth;
use crate::web::route::{self, Admitted, found};

/// How long looking a token up may take where it can be done without.
const LOOKUP_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// Who may ask an endpoint of the name server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Open,
    /// Whoever scrapes metrics.
    Scrape,
    /// The bearer of a token with at least this role.
    Token(Role, Scope),
    /// The bearer of a token with at least this role for the whole cluster; and, while the cluster waits for its restore,
    /// the bearer of the token that is derived from its secret, which is valid for nothing else then.
    Restorer(Role),
    /// A storage server.
    StorageServer(Of),
}

/// What a token must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole cluster: a token for a part of the namespace may not look at the rest of it.
    Cluster,
    /// The path that the request names; the handler checks it by [`Bearer::at`].
    Path,
}

/// Of which cluster a storage server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Of any: a database that was lost may have another id than its servers.
    AnyCluster,
    /// Of this one, and in its epoch.
    ThisCluster,
}

impl route::Access for Access {
    type Server = App;

    async fn judge(self, request: &HttpRequest, app: &App) -> Result<Admitted> {
        match self {
            Self::Open => return Ok(Admitted::Anybody),
            Self::Scrape => return scraper(request, app).await,
            Self::Token(role, scope) => {
                let grant = bearer(request, app).await?;
                match scope {
                    Scope::Cluster => grant.check(role, &DfsPath::root())?,
                    Scope::Path => grant.check_role(role)?,
                }
                request.extensions_mut().insert(Bearer { grant, role });
            }
            Self::Restorer(role) => {
                let looks_only = role == Role::Reader;
                let grant = if looks_only { bearer_in_need(request, app).await? } else { bearer(request, app).await? };
                if grant.only_restore.is_none() {
                    grant.check(role, &DfsPath::root())?;
                }
                request.extensions_mut().insert(Bearer { grant, role });
            }
            Self::StorageServer(of) => {
                let identity = match of {
                    Of::AnyCluster => {
                        any_storage_server(request, app).inspect_err(|error| note(request, app, error))?
                    }
                    Of::ThisCluster => storage_server(request, app)?,
                };
                request.extensions_mut().insert(StorageServer(identity));
            }
        }
        Ok(Admitted::Known)
    }

    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Open => &[],
            Self::Scrape | Self::Token(..) | Self::Restorer(_) => &["token"],
            Self::StorageServer(_) => &["server"],
        }
    }
}

/// The bearer of a request's token, who has the role that the endpoint needs.
#[derive(Debug, Clone)]
pub struct Bearer {
    grant: Grant,
    role: Role,
}

impl Bearer {
    /// Checks that the token covers a path.
    pub fn at(&self, path: &DfsPath) -> Result<()> {
        self.grant.check(self.role, path)
    }

    /// Checks that the token is good for the whole cluster, and not only to follow a restore.
    pub fn at_all(&self) -> Result<()> {
        self.at(&DfsPath::root())
    }

    /// The token's name.
    pub fn name(&self) -> &str {
        &self.grant.name
    }

    /// Whether the token is for a part of the namespace only.
    pub fn is_prefixed(&self) -> bool {
        self.grant.prefix.is_some()
    }
}

/// The identity of the storage server that sends a request.
#[derive(Debug, Clone, Copy)]
pub struct StorageServer(pub Uuid);

impl FromRequest for Bearer {
    type Error = Error;
    type Future = Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(found(request))
    }
}

impl FromRequest for StorageServer {
    type Error = Error;
    type Future = Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(found(request))
    }
}

/// The grant of the bearer's token.
pub async fn bearer(request: &HttpRequest, app: &App) -> Result<Grant> {
    let refuse = |message: &str| Error::new(ErrorCode::Unauthorized, message);
    let Some(text) = auth::credential(request, "Bearer") else {
        return Err(refuse(
            "a bearer token is needed (header Authorization: Bearer …); client.toml of the cluster has one",
        ));
    };
    app.grant(token::hash(text))
        .await?
        .ok_or_else(|| refuse("the token is not valid: it is unknown, was revoked or has ended"))
}

/// As [`bearer`], also while the database does not answer: what was known of the token lately counts then, and so does the
/// one that is derived from the cluster's secret. It is good for looking at how the cluster is; all else needs the database.
async fn bearer_in_need(request: &HttpRequest, app: &App) -> Result<Grant> {
    let found = match tokio::time::timeout(LOOKUP_TIME_MAX, bearer(request, app)).await {
        Ok(found) => found,
        Err(_) => Err(Error::unavailable("the database does not answer")),
    };
    match (found, auth::credential(request, "Bearer")) {
        (Err(error), Some(text)) if error.code() == ErrorCode::Unavailable => {
            app.grant_in_need(token::hash(text), &error).ok_or(error)
        }
        (found, _) => found,
    }
}

/// Notes somebody who announces a storage server and does not have the secret.
fn note(request: &HttpRequest, app: &App, error: &Error) {
    let signed = auth::credential(request, "Holdfast").is_some() && error.code() == ErrorCode::Unauthorized;
    if let Some(address) = request.peer_addr().filter(|_| signed && error.message().contains("secret")) {
        app.restores.announced.stranger(address.ip());
    }
}

/// Whether a request shows a valid token or a storage server's credential.
pub async fn shows_anything_valid(request: &HttpRequest, app: &App) -> Result<bool> {
    if let Some(text) = auth::credential(request, "Bearer") {
        return Ok(app.grant(token::hash(text)).await?.is_some());
    }
    Ok(any_storage_server(request, app).is_ok())
}

/// Checks that the sender may have metrics: anybody, if that was said at the start; else the bearer of the scrape token
/// or of a token for the whole cluster.
async fn scraper(request: &HttpRequest, app: &App) -> Result<Admitted> {
    if app.scrape.lets_in(request) {
        return Ok(app.scrape.admitted());
    }
    bearer(request, app).await?.check(Role::Reader, &DfsPath::root())?;
    Ok(Admitted::Known)
}

/// Checks that a storage server with this cluster's secret sends the request, whatever cluster and epoch it names: it may
/// not have joined yet, or the database was lost and has another id than its servers.
pub fn any_storage_server(request: &HttpRequest, app: &App) -> Result<Uuid> {
    identity(app.gate.server(request, app.context.standing.now())?.claims)
}

/// Checks that a storage server of this cluster sends the request, in the cluster's epoch.
pub fn storage_server(request: &HttpRequest, app: &App) -> Result<Uuid> {
    let verified = app.gate.server(request, app.context.standing.now())?;
    let (cluster, epoch) = app.context.membership();
    match verified.cluster {
        Some(theirs) if theirs == cluster => {}
        Some(_) => {
            return Err(Error::new(
                ErrorCode::Forbidden,
                format!(
                    "this storage server has the data of another cluster than this name server's ({cluster}); keep its \
                     directory"
                ),
            ));
        }
        None => {
            return Err(Error::new(ErrorCode::Forbidden, "this storage server has not joined the cluster yet"));
        }
    }
    if verified.epoch != epoch {
        let message = format!(
            "the request is of epoch {}, the cluster is in epoch {epoch}: the storage server must register first",
            verified.epoch
        );
        return Err(Error::new(ErrorCode::TicketExpired, message));
    }
    identity(verified.claims)
}

fn identity(claims: ServerCredential) -> Result<Uuid> {
    match claims {
        ServerCredential { sender: Sender::Storage { identity }, .. } => Ok(identity),
        ServerCredential { .. } => Err(Error::new(ErrorCode::Forbidden, "only storage servers may ask this")),
    }
}
