//! Who sends a request, and what that allows.

use actix_web::HttpRequest;

use super::state::App;
use crate::security::token::{self, Grant};
use crate::security::{Sender, ServerCredential};
use crate::types::api::Role;
use crate::types::{DfsPath, Error, ErrorCode, Result};
use crate::web::auth;

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

/// Checks that the bearer may act in `role` at `path`.
pub async fn allow(request: &HttpRequest, app: &App, role: Role, path: &DfsPath) -> Result<()> {
    bearer(request, app).await?.check(role, path)
}

/// Checks that the bearer may act in `role`, for what is about the whole cluster. A token for a part of the
/// namespace may not look at the rest of it.
pub async fn allow_cluster(request: &HttpRequest, app: &App, role: Role) -> Result<()> {
    bearer(request, app).await?.check(role, &DfsPath::root())
}

/// Checks that a storage server with this cluster's secret sends the request, whatever cluster and epoch it names: it may
/// not have joined yet, or the database was lost and has another id than its servers.
pub fn any_storage_server(request: &HttpRequest, app: &App) -> Result<uuid::Uuid> {
    identity(app.gate.server(request, app.context.standing.now())?.claims)
}

/// Checks that a storage server of this cluster sends the request, in the cluster's epoch.
pub fn storage_server(request: &HttpRequest, app: &App) -> Result<uuid::Uuid> {
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

fn identity(claims: ServerCredential) -> Result<uuid::Uuid> {
    match claims {
        ServerCredential { sender: Sender::Storage { identity }, .. } => Ok(identity),
        ServerCredential { .. } => Err(Error::new(ErrorCode::Forbidden, "only storage servers may ask this")),
    }
}
