//! What happened, and why. Only ever added to; old ones are removed after a time, in bounded batches.
//!
//! An event about one copy has its cause. Those of one kind, one cause and one server are *summed up* in a row of their
//! own, which counts them and is what people are shown: when a server of a million copies is lost, the list has a line for
//! each server that got new ones, and the million rows are read by those only who ask about a path, an object, or for
//! each copy. The sums are written with the rows, so a list costs what it shows, however much lies between.

use std::collections::{BTreeMap, HashMap};

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::{EventRow, utc};
use super::schema::events::dsl;
use super::schema::objects;
use super::{chunks, dialect};
use crate::types::id::floor_at;
use crate::types::{Cause, EventKind, ObjectId};

/// A sum takes what comes within this time of its last part.
const SUM_PAUSE_MAX: TimeDelta = TimeDelta::minutes(5);
/// A sum takes nothing more after this time: it stands in the list where it began.
const SUM_SPAN_MAX: TimeDelta = TimeDelta::hours(1);

/// A new event; object, server and the rest are for the caller to set.
pub fn row(time: NaiveDateTime, kind: EventKind, detail: String) -> EventRow {
    EventRow {
        id: ObjectId::generate().0,
        time,
        kind: kind.word().into(),
        object: None,
        server: None,
        detail,
        path: None,
        by_token: None,
        cause: None,
        cause_server: None,
        part_of: None,
        copies: None,
        until: None,
    }
}

/// A new event about one copy, and why.
pub fn of_copy(time: NaiveDateTime, kind: EventKind, copy: (i64, i64), cause: Cause, detail: String) -> EventRow {
    let (object, server) = copy;
    EventRow {
        object: Some(object),
        server: Some(server),
        cause: Some(cause.word.word().into()),
        cause_server: cause.server.map(|id| id.0),
        ..row(time, kind, detail)
    }
}

/// What is summed up together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sum {
    kind: String,
    cause: String,
    cause_server: Option<i64>,
    server: Option<i64>,
    by_token: Option<String>,
}

/// Writes events. Those about objects get the objects' paths, and those with a cause are summed up. The last statement of
/// a transaction: two that add to one sum wait for each other.
pub fn tell(connection: &mut AnyConnection, mut rows: Vec<EventRow>) -> Step<()> {
    note_paths(connection, &mut rows)?;
    // In one order everywhere, so that nobody waits for somebody who waits for him.
    let mut sums: BTreeMap<Sum, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let Some(cause) = row.cause.clone() else { continue };
        let (kind, by_token) = (row.kind.clone(), row.by_token.clone());
        let sum = Sum { kind, cause, cause_server: row.cause_server, server: row.server, by_token };
        sums.entry(sum).or_default().push(index);
    }
    let mut opened = Vec::new();
    for (sum, parts) in sums {
        let (copies, last) = (parts.len() as i64, rows[parts[parts.len() - 1]].time);
        let id = match open_sum(connection, &sum, last)? {
            Some(id) => {
                diesel::update(dsl::events.find(id))
                    .set((dsl::copies.eq(dsl::copies + copies), dsl::until.eq(last)))
                    .execute(connection)?;
                id
            }
            None => {
                let first = &rows[parts[0]];
                let row =
                    EventRow { id: ObjectId::generate().0, copies: Some(copies), until: Some(last), ..first.clone() };
                let id = row.id;
                opened.push(row);
                id
            }
        };
        parts.iter().for_each(|part| rows[*part].part_of = Some(id));
    }
    rows.extend(opened);
    dialect::insert_events(connection, &rows)?;
    Ok(())
}

/// The sum that goes on, if there is one.
fn open_sum(connection: &mut AnyConnection, sum: &Sum, now: NaiveDateTime) -> QueryResult<Option<i64>> {
    let mut query = dsl::events
        .filter(dsl::kind.eq(&sum.kind).and(dsl::part_of.is_null()).and(dsl::copies.is_not_null()))
        .filter(dsl::id.ge(floor_at(utc(now - SUM_SPAN_MAX))).and(dsl::until.ge(now - SUM_PAUSE_MAX)))
        .filter(dsl::cause.eq(&sum.cause))
        .order(dsl::id.desc())
        .select(dsl::id)
        .into_boxed();
    query = match sum.server {
        Some(server) => query.filter(dsl::server.eq(server)),
        None => query.filter(dsl::server.is_null()),
    };
    query = match sum.cause_server {
        Some(server) => query.filter(dsl::cause_server.eq(server)),
        None => query.filter(dsl::cause_server.is_null()),
    };
    query = match &sum.by_token {
        Some(name) => query.filter(dsl::by_token.eq(name)),
        None => query.filter(dsl::by_token.is_null()),
    };
    query.first(connection).optional()
}

/// Gives events about objects the paths at their commits: the objects' rows are forgotten long before the events.
fn note_paths(connection: &mut AnyConnection, rows: &mut [EventRow]) -> QueryResult<()> {
    let bare = rows.iter().filter(|row| row.path.is_none()).filter_map(|row| row.object);
    let paths = paths(connection, &bare.collect::<Vec<_>>())?;
    for row in rows {
        row.path = row.path.take().or_else(|| paths.get(&row.object?).cloned());
    }
    Ok(())
}

/// The paths of objects at their commits, as far as they are known.
pub fn paths(connection: &mut AnyConnection, ids: &[i64]) -> QueryResult<HashMap<i64, String>> {
    let rows: Vec<(i64, String)> = chunks::load(ids, |piece| {
        objects::table.filter(objects::id.eq_any(piece)).select((objects::id, objects::label)).load(connection)
    })?;
    // Of an upload that was never committed there is none.
    Ok(rows.into_iter().filter(|(_, label)| !label.is_empty()).collect())
}

/// Whether an event of a kind about a server, and an object, if there is one, was written since.
pub fn was_told(
    connection: &mut AnyConnection,
    kind: EventKind,
    server: i64,
    object: Option<i64>,
    since: NaiveDateTime,
) -> QueryResult<bool> {
    let mut events = dsl::events
        .filter(dsl::id.ge(floor_at(utc(since))).and(dsl::time.ge(since)))
        .filter(dsl::server.eq(server).and(dsl::kind.eq(kind.word())))
        .select(dsl::id)
        .into_boxed();
    events = match object {
        Some(object) => events.filter(dsl::object.eq(object)),
        None => events.filter(dsl::part_of.is_null()),
    };
    let told: Option<i64> = events.first(connection).optional()?;
    Ok(told.is_some())
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
