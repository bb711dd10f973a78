//! Storage servers that a person removed. Their copies are counted no longer, so one that starts again must not be in
//! service as if nothing had happened: it is refused, and told the ways back.

use chrono::TimeDelta;
use diesel::prelude::*;

use super::change::Changes;
use super::connection::AnyConnection;
use super::error::Step;
use super::rows::{EventRow, RemovedServerRow, ServerRow, utc};
use super::schema::removed_servers as removed;
use super::{dialect, events};
use crate::types::{Error, ErrorCode, EventKind, Result, ServerId};

/// One that tries again and again is told of as often.
const RETURN_EVENT_INTERVAL: TimeDelta = TimeDelta::hours(1);

/// The removed server with this id.
pub fn find(connection: &mut AnyConnection, id: ServerId) -> QueryResult<Option<RemovedServerRow>> {
    removed::table.find(id.0).select(RemovedServerRow::as_select()).first(connection).optional()
}

/// Finds a removed server by its id's text or its name.
pub fn resolve(connection: &mut AnyConnection, text: &str) -> Result<Option<RemovedServerRow>> {
    if let Ok(id) = text.parse::<ServerId>()
        && let Some(row) = find(connection, id)?
    {
        return Ok(Some(row));
    }
    let mut rows: Vec<RemovedServerRow> = removed::table
        .filter(removed::name.eq(text))
        .limit(2)
        .select(RemovedServerRow::as_select())
        .load(connection)?;
    if rows.len() > 1 {
        return Err(Error::invalid(format!("several removed storage servers are named {text:?}; use an id")));
    }
    Ok(rows.pop())
}

/// Notes that a server was removed.
pub(super) fn note(changes: &mut Changes<'_>, server: &ServerRow) -> Step<()> {
    let row = RemovedServerRow {
        id: server.id,
        name: server.name.clone(),
        url: server.url.clone(),
        removed: changes.now,
        by_token: changes.by().map(String::from),
    };
    diesel::insert_into(removed::table).values(&row).execute(changes.connection)?;
    Ok(())
}

/// Why a removed server is refused, and its ways back.
pub fn refusal(row: &RemovedServerRow) -> Error {
    let by = row.by_token.as_ref().map(|name| format!(" by {name}")).unwrap_or_default();
    let (id, time) = (ServerId(row.id), utc(row.removed).format("%Y-%m-%d %H:%M:%S UTC"));
    Error::new(
        ErrorCode::Forbidden,
        format!(
            "this storage server was removed from the cluster, as {}, at {time}{by}, and what it has is not counted. To take \
             it back with what it has: `holdfast undrain {id}`, and start it again. To join as a new one, start it with an \
             empty directory",
            row.name
        ),
    )
}

/// Tells people that a removed server has announced itself, and answers why it is refused.
pub fn note_return(connection: &mut AnyConnection, row: &RemovedServerRow, url: &str) -> Step<Error> {
    let now = dialect::clock(connection)?;
    if !events::was_told(connection, EventKind::RemovedServerReturned, row.id, None, now - RETURN_EVENT_INTERVAL)? {
        let (name, id) = (&row.name, ServerId(row.id));
        let detail = format!(
            "{name} was removed and has announced itself from {url}: it was refused. `holdfast undrain {id}` lets it come \
             back"
        );
        let event = events::row(now, EventKind::RemovedServerReturned, detail);
        dialect::insert_events(connection, &[EventRow { server: Some(row.id), ..event }])?;
    }
    Ok(refusal(row))
}

/// Lets a removed server come back: at its next announcement it is a server that returns, and its inventory is compared.
pub fn readmit(changes: &mut Changes<'_>, row: &RemovedServerRow) -> Step<()> {
    if diesel::delete(removed::table.find(row.id)).execute(changes.connection)? == 0 {
        return Err(Error::not_found(format!("{} is not among the removed servers any more", row.name)).into());
    }
    let detail = format!("{} may come back: it is taken when its daemon starts", row.name);
    let event = events::row(changes.now, EventKind::ServerReadmitted, detail);
    let by_token = changes.by().map(String::from);
    dialect::insert_events(changes.connection, &[EventRow { server: Some(row.id), by_token, ..event }])?;
    Ok(())
}
