//! Bearer tokens.

use actix_web::{HttpResponse, web};
use chrono::TimeDelta;

use super::auth::Bearer;
use super::state::{App, Data};
use crate::db::change::Changes;
use crate::db::token as tokens;
use crate::security::token;
use crate::types::api::*;
use crate::types::{Error, Result};
use crate::web::body::Json;

/// Makes a token; its text is shown only now.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenRequest,
    responses((status = 201, body = TokenCreated))
)]
pub async fn create(bearer: Bearer, Json(body): Json<TokenRequest>, app: Data) -> Result<HttpResponse> {
    let TokenRequest { name, role, prefix, ttl_seconds } = body;
    token::check_name(&name)?;
    let ttl = match ttl_seconds {
        None => None,
        Some(seconds) => Some(
            i64::try_from(seconds)
                .ok()
                .and_then(TimeDelta::try_seconds)
                .filter(|ttl| *ttl > TimeDelta::zero() && *ttl < TimeDelta::days(36_500))
                .ok_or_else(|| Error::invalid("ttl_seconds must be more than 0 and less than a hundred years"))?,
        ),
    };
    let text = token::generate();
    let (hash, stored, by) = (token::hash(&text), name.clone(), bearer.name().to_string());
    app.context
        .grow(move |changes| {
            changes.asked_by(Some(by));
            let expires = ttl.map(|ttl| changes.now + ttl);
            tokens::insert(changes, &stored, hash, role, prefix.as_ref(), expires)
        })
        .await?;
    Ok(HttpResponse::Created().json(TokenCreated { name, token: text }))
}

/// All tokens, without their texts.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses((status = 200, body = TokensResponse)))]
pub async fn list(app: Data) -> Result<HttpResponse> {
    let tokens = app.context.db.read(tokens::list).await?;
    Ok(HttpResponse::Ok().json(TokensResponse { tokens }))
}

/// Revokes a token. The last superuser without a prefix goes only with `force=true`.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{name}", tag = "tokens", params(("name" = String, Path), ForceQuery),
    responses((status = 200, body = Changed))
)]
pub async fn revoke(
    bearer: Bearer,
    name: web::Path<String>,
    query: web::Query<ForceQuery>,
    app: Data,
) -> Result<HttpResponse> {
    revoke_named(&app, &bearer, name.into_inner(), query.force).await
}

/// Revokes a token by a name that cannot stand in a path, such as `..`; otherwise as with the name in the path.
#[utoipa::path(
    delete, path = "/api/v1/tokens", tag = "tokens", params(RevokeQuery), responses((status = 200, body = Changed))
)]
pub async fn revoke_by_query(bearer: Bearer, query: web::Query<RevokeQuery>, app: Data) -> Result<HttpResponse> {
    let RevokeQuery { name, force } = query.into_inner();
    revoke_named(&app, &bearer, name, force).await
}

async fn revoke_named(app: &App, bearer: &Bearer, name: String, force: bool) -> Result<HttpResponse> {
    let by = bearer.name().to_string();
    let revoke = move |changes: &mut Changes<'_>| {
        changes.asked_by(Some(by));
        tokens::revoke(changes, &name, force)
    };
    let ((), version) = app.context.change(revoke).await?;
    app.forget_tokens();
    Ok(HttpResponse::Ok().json(Changed { version }))
}
