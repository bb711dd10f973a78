//! Bearer tokens, by their hashes.

use chrono::NaiveDateTime;
use diesel::prelude::*;

use super::change::Changes;
use super::connection::AnyConnection;
use super::error::Step;
use super::rows::{EventRow, TokenRow, utc};
use super::schema::tokens;
use super::{dialect, events};
use crate::security::token::Grant;
use crate::types::api::{Role, TokenInfo};
use crate::types::{DfsPath, Error, ErrorCode, EventKind, Result, Sha256};

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Writer => "writer",
        Role::Superuser => "superuser",
    }
}

fn role_of(word: &str) -> Result<Role> {
    match word {
        "reader" => Ok(Role::Reader),
        "writer" => Ok(Role::Writer),
        "superuser" => Ok(Role::Superuser),
        _ => Err(Error::internal(format!("the database has a token with the unknown role {word:?}"))),
    }
}

/// Adds a token.
pub fn insert(
    changes: &mut Changes<'_>,
    name: &str,
    sha256: Sha256,
    role: Role,
    prefix: Option<&DfsPath>,
    expires: Option<NaiveDateTime>,
) -> Step<()> {
    let taken: Option<String> = tokens::table.find(name).select(tokens::name).first(changes.connection).optional()?;
    if taken.is_some() {
        return Err(Error::new(ErrorCode::AlreadyExists, format!("there is a token named {name:?} already")).into());
    }
    let row = TokenRow {
        name: name.into(),
        sha256: sha256.0.to_vec(),
        role: role_word(role).into(),
        prefix: prefix.map(DfsPath::to_string),
        created: changes.now,
        expires,
    };
    diesel::insert_into(tokens::table).values(&row).execute(changes.connection)?;
    changes.record("tokens", name, Some(&row))?;
    let place = prefix.map_or_else(String::new, |prefix| format!(" for {prefix} and below"));
    let end = expires.map_or_else(String::new, |end| format!(", until {}", utc(end).format("%Y-%m-%d %H:%M:%S UTC")));
    tell(changes, EventKind::TokenCreated, format!("the token {name} was made: {}{place}{end}", row.role))
}

/// Takes a token away. The last one that may do everything goes only by force: without it nobody can make tokens, drain
/// servers or restore any more.
pub fn revoke(changes: &mut Changes<'_>, name: &str, force: bool) -> Step<()> {
    let unlimited = unlimited(changes)?;
    if !force && unlimited == [name] {
        let message = format!(
            "{name:?} is the last superuser token without a prefix: without one nobody can make tokens, drain servers or \
             restore any more. Make another one first (`holdfast token create NAME --role superuser`), or say --force \
             (force=true)"
        );
        return Err(Error::new(ErrorCode::PreconditionFailed, message).into());
    }
    if diesel::delete(tokens::table.find(name)).execute(changes.connection)? == 0 {
        return Err(Error::not_found(format!("there is no token named {name:?}")).into());
    }
    changes.record::<TokenRow>("tokens", name, None)?;
    tell(changes, EventKind::TokenRevoked, format!("the token {name} was revoked"))
}

fn tell(changes: &mut Changes<'_>, kind: EventKind, detail: String) -> Step<()> {
    let by_token = changes.by().map(String::from);
    let event = EventRow { by_token, ..events::row(changes.now, kind, detail) };
    dialect::insert_events(changes.connection, &[event])?;
    Ok(())
}

/// The names of some tokens that may do everything now: of two at most, which is enough to know which is the last.
fn unlimited(changes: &mut Changes<'_>) -> Step<Vec<String>> {
    let now = changes.now;
    Ok(tokens::table
        .filter(tokens::role.eq(role_word(Role::Superuser)))
        .filter(tokens::prefix.is_null().or(tokens::prefix.eq(DfsPath::root().to_string())))
        .filter(tokens::expires.is_null().or(tokens::expires.ge(now)))
        .order(tokens::name)
        .limit(2)
        .select(tokens::name)
        .load(changes.connection)?)
}

/// What the token with this hash allows, if it exists and has not ended.
pub fn find(connection: &mut AnyConnection, sha256: Sha256) -> Result<Option<Grant>> {
    let row: Option<TokenRow> = tokens::table
        .filter(tokens::sha256.eq(sha256.0.to_vec()))
        .select(TokenRow::as_select())
        .first(connection)
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let now = super::cluster::state(connection)?.now.naive_utc();
    if row.expires.is_some_and(|expires| expires < now) {
        return Ok(None);
    }
    let prefix = row.prefix.as_deref().map(DfsPath::parse).transpose()?;
    Ok(Some(Grant {
        name: row.name,
        role: role_of(&row.role)?,
        prefix,
        only_restore: None,
        expires: row.expires.map(utc),
    }))
}

/// All tokens, by name.
pub fn list(connection: &mut AnyConnection) -> Result<Vec<TokenInfo>> {
    let rows: Vec<TokenRow> = tokens::table.order(tokens::name).select(TokenRow::as_select()).load(connection)?;
    rows.into_iter()
        .map(|row| {
            Ok(TokenInfo {
                role: role_of(&row.role)?,
                name: row.name,
                prefix: row.prefix,
                expires: row.expires.map(utc),
            })
        })
        .collect()
}
