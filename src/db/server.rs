//! Storage servers: registration and administrative state (journaled), and the view of them for placement.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use diesel::prelude::*;

use super::change::Changes;
use super::connection::AnyConnection;
use super::error::{Failure, Step};
use super::rows::*;
use super::schema::{server_health, servers};
pub use super::server_view::{ServerView, server_views};
use super::{counts, dialect, newcomer};
use crate::decisions::admission::Known;
use crate::decisions::health::copies_last;
use crate::types::api::{AdminState, Health, RegisterRequest};
use crate::types::storage_api::TroubleCode;
use crate::types::{Error, ErrorCode, EventKind, Result, ServerId};

/// What a commit asks of a server.
pub struct Standing {
    /// Its administrative state.
    pub admin_state: AdminState,
    /// Where other servers reach it.
    pub url: String,
}

/// The standing of each server.
pub fn standings(connection: &mut AnyConnection) -> QueryResult<HashMap<i64, Standing>> {
    let columns = (servers::id, servers::admin_state, servers::url);
    let rows: Vec<(i64, AdminState, String)> = servers::table.select(columns).load(connection)?;
    let standing = |(id, admin_state, url)| (id, Standing { admin_state, url });
    Ok(rows.into_iter().map(standing).collect())
}

/// Notes that nothing is left on a draining server. Answers whether it is drained now.
pub fn drained(changes: &mut Changes<'_>, id: i64) -> Step<bool> {
    let row = require(changes, ServerId(id))?;
    let dead: Option<(Health, Option<String>)> = server_health::table
        .find(id)
        .select((server_health::health, server_health::trouble))
        .first(changes.connection)
        .optional()?;
    // The dead carry out none, and a disk that takes no writes does not either.
    let is_dead = dead.is_some_and(|(health, trouble)| is_dead(health, trouble));
    if row.admin_state != AdminState::Draining
        || counts::has_copies(changes.connection, id)?
        || !is_dead && counts::has_deletions(changes.connection, id)?
    {
        return Ok(false);
    }
    set_admin_state(changes, ServerId(id), AdminState::Drained)?;
    let detail = format!("{} is drained: nothing needs it any more", row.name);
    let event = super::events::row(changes.now, EventKind::ServerDrained, detail);
    super::dialect::insert_events(changes.connection, &[EventRow { server: Some(id), ..event }])?;
    Ok(true)
}

fn is_dead(health: Health, trouble: Option<String>) -> bool {
    health == Health::Down || trouble.is_some_and(|word| !copies_last(TroubleCode::of_word(&word)))
}

/// A server's row.
pub fn find(connection: &mut AnyConnection, id: ServerId) -> QueryResult<Option<ServerRow>> {
    servers::table.find(id.0).select(ServerRow::as_select()).first(connection).optional()
}

/// What is known of a server, for those who judge whether it is what it says.
pub fn known(connection: &mut AnyConnection, id: ServerId) -> Result<Option<Known>> {
    let Some(row) = find(connection, id)? else { return Ok(None) };
    let health: Option<ServerHealthRow> =
        server_health::table.find(id.0).select(ServerHealthRow::as_select()).first(connection).optional()?;
    Ok(Some(Known {
        name: row.name,
        url: row.url,
        boot_id: health.as_ref().and_then(|health| health.boot_id.parse().ok()),
        index_changes: health.map_or(0, |health| health.index_changes),
    }))
}

/// Takes the announcement of a server that was judged by what was `known` of it; when something else is known by now,
/// it must be judged again. Writes (and journals) only what has changed.
pub fn register(changes: &mut Changes<'_>, request: &RegisterRequest, judged_by: Option<&Known>) -> Step<ServerId> {
    let id = ServerId::of_identity(request.identity);
    let place = |known: &Known| (known.url.clone(), known.boot_id);
    if known(changes.connection, id)?.as_ref().map(place) != judged_by.map(place) {
        return Err(Error::unavailable("another announcement of this storage server came first; ask again").into());
    }
    let known = find(changes.connection, id)?;
    if let Some(known) = known.as_ref().filter(|known| known.identity != request.identity.to_string()) {
        let message = format!(
            "the identity {} collides with that of {}; join with an empty directory",
            request.identity, known.name
        );
        return Err(Error::new(ErrorCode::Forbidden, message).into());
    }
    let row = ServerRow {
        id: id.0,
        identity: request.identity.to_string(),
        name: request.name.clone(),
        host: request.host.clone(),
        url: request.url.clone(),
        public_url: request.public_url.clone(),
        zone: request.zone.clone(),
        admin_state: known.as_ref().map_or(AdminState::InService, |known| known.admin_state),
        registered: known.as_ref().map_or(changes.now, |known| known.registered),
    };
    match known {
        None => {
            if let Some(removed) = super::removed::find(changes.connection, id)? {
                return Err(super::removed::refusal(&removed).into());
            }
            newcomer::tell(changes, &row)?;
            diesel::insert_into(servers::table).values(&row).execute(changes.connection)?;
            changes.record("servers", row.id, Some(&row))?;
        }
        Some(known) if known != row => {
            if known.url != row.url {
                tell_moved(changes, &known, &row)?;
            }
            diesel::update(servers::table.find(row.id)).set(&row).execute(changes.connection)?;
            changes.record("servers", row.id, Some(&row))?;
        }
        Some(_) => {}
    }
    note_boot(changes.connection, changes.now, id, request)?;
    Ok(id)
}

/// A server that is known comes back while the cluster takes no changes: only what is not journaled is noted, its start and
/// its room. One that is new, or is reached elsewhere now, waits for `reason`'s end.
pub fn register_again(
    connection: &mut AnyConnection,
    request: &RegisterRequest,
    judged_by: Option<&Known>,
    reason: &str,
) -> Step<ServerId> {
    let id = ServerId::of_identity(request.identity);
    let place = |known: &Known| (known.url.clone(), known.boot_id);
    if known(connection, id)?.as_ref().map(place) != judged_by.map(place) {
        return Err(Error::unavailable("another announcement of this storage server came first; ask again").into());
    }
    let same = |row: &ServerRow| {
        row.identity == request.identity.to_string() && row.url == request.url && row.public_url == request.public_url
    };
    if !find(connection, id)?.as_ref().is_some_and(same) {
        return Err(Error::new(ErrorCode::ReadOnly, reason).into());
    }
    let now = dialect::clock(connection)?;
    note_boot(connection, now, id, request)?;
    Ok(id)
}

/// A server that is somewhere else was moved by somebody; or a copy of its data directory was started, whose original is
/// silent and has changed nothing since. Only a person knows which, so both places are named.
fn tell_moved(changes: &mut Changes<'_>, known: &ServerRow, row: &ServerRow) -> Step<()> {
    let detail = format!(
        "storage server {} is at {} (host {}) now, it was at {} (host {}). If nobody has moved it, a copy of its data \
         directory was started while the original is silent: stop one of the two before both run",
        row.name, row.url, row.host, known.url, known.host
    );
    log::warn!("{detail}");
    let event = EventRow {
        server: Some(row.id),
        ..super::events::row(changes.now, crate::types::EventKind::ServerMoved, detail)
    };
    super::dialect::insert_events(changes.connection, &[event])?;
    Ok(())
}

/// Notes start and room; the health is for the checks to say.
fn note_boot(connection: &mut AnyConnection, now: NaiveDateTime, id: ServerId, request: &RegisterRequest) -> Step<()> {
    use server_health::dsl;
    let (boot_id, capacity) = (request.boot_id.to_string(), request.capacity_bytes as i64);
    let updated = diesel::update(dsl::server_health.find(id.0))
        .set((
            dsl::boot_id.eq(&boot_id),
            dsl::capacity_bytes.eq(capacity),
            dsl::free_bytes.eq(request.free_bytes as i64),
            dsl::index_changes.eq(request.index_changes),
        ))
        .execute(connection)?;
    if updated == 0 {
        let row = ServerHealthRow {
            boot_id,
            capacity_bytes: capacity,
            free_bytes: request.free_bytes as i64,
            index_changes: request.index_changes,
            ..ServerHealthRow::unchecked(id.0, now, "it has registered and was not checked yet")
        };
        diesel::insert_into(server_health::table).values(&row).execute(connection)?;
    }
    Ok(())
}

/// Sets what a person decided.
pub fn set_admin_state(changes: &mut Changes<'_>, id: ServerId, state: AdminState) -> Step<()> {
    let mut row = require(changes, id)?;
    if row.admin_state == state {
        return Ok(());
    }
    row.admin_state = state;
    diesel::update(servers::table.find(row.id)).set(&row).execute(changes.connection)?;
    changes.record("servers", row.id, Some(&row))
}

fn require(changes: &mut Changes<'_>, id: ServerId) -> Step<ServerRow> {
    find(changes.connection, id)?
        .ok_or_else(|| Failure::Refused(Error::not_found(format!("no storage server has the id {id}"))))
}

/// Finds a server by its id's text or its name.
pub fn resolve(connection: &mut AnyConnection, text: &str) -> Result<ServerId> {
    if let Ok(id) = text.parse::<ServerId>()
        && find(connection, id)?.is_some()
    {
        return Ok(id);
    }
    let ids: Vec<i64> = servers::table.filter(servers::name.eq(text)).select(servers::id).load(connection)?;
    match ids[..] {
        [id] => Ok(ServerId(id)),
        [] => Err(Error::not_found(format!(
            "no storage server has the id or name {text:?}; `holdfast servers` lists them"
        ))),
        _ => Err(Error::invalid(format!("{} storage servers are named {text:?}; use an id", ids.len()))),
    }
}
