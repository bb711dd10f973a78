//! What happened, and why. Only ever added to; old ones are removed after a time, in bounded batches.

use chrono::NaiveDateTime;
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::rows::{EventRow, utc};
use super::schema::events::dsl;
use crate::types::api::Event;
use crate::types::id::floor_at;
use crate::types::{EventId, ObjectId, Result, ServerId};

/// A new event; object and server are for the caller to set.
pub fn row(time: NaiveDateTime, kind: &str, detail: String) -> EventRow {
    EventRow { id: ObjectId::generate().0, time, kind: kind.into(), object: None, server: None, detail }
}

/// Which events are wanted; all, unless something is set.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// About this object.
    pub object: Option<i64>,
    /// About this server.
    pub server: Option<i64>,
    /// Of this kind.
    pub kind: Option<String>,
}

/// Whether there are events from before a time.
pub fn has_older(connection: &mut AnyConnection, before: NaiveDateTime) -> QueryResult<bool> {
    let oldest: Option<i64> = dsl::events.order(dsl::id).select(dsl::id).first(connection).optional()?;
    Ok(oldest.is_some_and(|id| id < floor_at(utc(before))))
}

/// Removes the oldest events from before a time, at most `rows` of them. Answers how many.
pub fn trim(connection: &mut AnyConnection, before: NaiveDateTime, rows: i64) -> QueryResult<usize> {
    let old = dsl::events.filter(dsl::id.lt(floor_at(utc(before)))).order(dsl::id);
    let last: Option<i64> = old.limit(rows).select(dsl::id).load(connection)?.pop();
    let Some(last) = last else { return Ok(0) };
    diesel::delete(dsl::events.filter(dsl::id.le(last))).execute(connection)
}

/// One page, the newest first, optionally of one object.
pub fn page(
    connection: &mut AnyConnection,
    object: Option<i64>,
    before: Option<EventId>,
    limit: usize,
) -> Result<Vec<Event>> {
    filtered(connection, &Filter { object, ..Filter::default() }, before, limit)
}

/// One page of what passes a filter, the newest first.
pub fn filtered(
    connection: &mut AnyConnection,
    filter: &Filter,
    before: Option<EventId>,
    limit: usize,
) -> Result<Vec<Event>> {
    let mut query = dsl::events.order(dsl::id.desc()).limit(limit as i64).select(EventRow::as_select()).into_boxed();
    if let Some(object) = filter.object {
        query = query.filter(dsl::object.eq(object));
    }
    if let Some(server) = filter.server {
        query = query.filter(dsl::server.eq(server));
    }
    if let Some(kind) = &filter.kind {
        query = query.filter(dsl::kind.eq(kind));
    }
    if let Some(EventId(before)) = before {
        query = query.filter(dsl::id.lt(before));
    }
    let event = |row: EventRow| Event {
        id: EventId(row.id),
        time: utc(row.time),
        kind: row.kind,
        object: row.object.map(ObjectId),
        server: row.server.map(ServerId),
        detail: row.detail,
    };
    Ok(query.load(connection)?.into_iter().map(event).collect())
}
