//! The repair queue: what stands in it where, and what is taken out of it next.
//!
//! An object's place is the number of its copies *at hand* (`decisions::repair::at_hand`), whoever queues it, and falls when one of
//! them goes. A row is due from its next attempt on. One that can only wait for the servers to change is not due at any
//! time ([`waits`]): it is written once, looked at (and not written) when the servers have changed, and woken when
//! something can be done for it.
//!
//! Rows are read in pages by key, class by class: those of one number of copies that are due stand together in the index,
//! so that a page costs the same however many wait beside it.

use std::collections::{BTreeMap, HashMap};

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use diesel::dsl::{exists, not};
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::*;
use super::schema::{moves, repair_queue, replicas};
use super::server_view::{ServerView, server_views};
use super::{chunks, dialect};
use crate::types::api::{AdminState, Health};

/// The next attempt of what waits for the servers to change, and for no time.
pub fn waits() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(9999, 1, 1).unwrap_or(NaiveDate::MAX).and_time(NaiveTime::MIN)
}

/// A place in the queue, in the order in which it is worked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Copies at hand.
    pub copies: i32,
    /// When it is due.
    pub next_attempt: NaiveDateTime,
    /// The object.
    pub object: i64,
}

impl Place {
    /// Where a row stands.
    pub fn of(row: &RepairRow) -> Self {
        Self { copies: row.copies, next_attempt: row.next_attempt, object: row.object }
    }
}

/// Copies at hand of these objects: listed as present on servers in service that are neither down nor failing.
pub fn at_hand(connection: &mut AnyConnection, ids: &[i64]) -> QueryResult<HashMap<i64, i32>> {
    let views = server_views(connection)?;
    let counts =
        |view: &&ServerView| view.admin_state == AdminState::InService && view.health_of_copies() != Health::Down;
    let counting: std::collections::HashSet<i64> = views.iter().filter(counts).map(|view| view.row.id).collect();
    let listed: Vec<(i64, i64)> = chunks::load(ids, |piece| {
        replicas::table
            .filter(replicas::object.eq_any(piece).and(replicas::state.eq(ReplicaRow::PRESENT)))
            .select((replicas::object, replicas::server))
            .load(connection)
    })?;
    let mut copies: HashMap<i64, i32> = ids.iter().map(|id| (*id, 0)).collect();
    for (object, server) in listed {
        *copies.entry(object).or_default() += i32::from(counting.contains(&server));
    }
    Ok(copies)
}

/// Queues objects, to be looked at now; those that are queued already get the place that is theirs now. The caller holds
/// the objects' locks.
pub fn look_again(connection: &mut AnyConnection, ids: &[i64], now: NaiveDateTime) -> QueryResult<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let places: Vec<(i64, i32)> = at_hand(connection, ids)?.into_iter().collect();
    insert(connection, &places, now)?;
    for (copies, ids) in by_copies(&places) {
        chunks::execute(&ids, |piece| {
            diesel::update(repair_queue::table.filter(repair_queue::object.eq_any(piece)))
                .set((repair_queue::copies.eq(copies), repair_queue::next_attempt.eq(now)))
                .execute(connection)
        })?;
    }
    Ok(())
}

/// Queues objects; those that are queued already keep their time, and get a place further in front when they are more
/// endangered than they were. Answers how many are new.
pub fn add(connection: &mut AnyConnection, places: &[(i64, i32)], now: NaiveDateTime) -> QueryResult<usize> {
    let added = insert(connection, places, now)?;
    if added < places.len() {
        for (copies, ids) in by_copies(places) {
            chunks::execute(&ids, |piece| {
                let safer = repair_queue::object.eq_any(piece).and(repair_queue::copies.gt(copies));
                diesel::update(repair_queue::table.filter(safer))
                    .set(repair_queue::copies.eq(copies))
                    .execute(connection)
            })?;
        }
    }
    Ok(added)
}

/// Lets what has waited, or was put off after a failure, be tried now. What is put off before its first try stays so.
pub fn wake(connection: &mut AnyConnection, ids: &[i64], now: NaiveDateTime) -> QueryResult<usize> {
    chunks::execute(ids, |piece| {
        let later = repair_queue::attempts.gt(0).and(repair_queue::next_attempt.gt(now));
        diesel::update(repair_queue::table.filter(repair_queue::object.eq_any(piece).and(later)))
            .set(repair_queue::next_attempt.eq(now))
            .execute(connection)
    })
}

fn insert(connection: &mut AnyConnection, places: &[(i64, i32)], now: NaiveDateTime) -> QueryResult<usize> {
    let row = |place: &(i64, i32)| RepairRow::new(*place, now, now);
    dialect::queue_repairs(connection, &places.iter().map(row).collect::<Vec<_>>())
}

fn by_copies(places: &[(i64, i32)]) -> BTreeMap<i32, Vec<i64>> {
    let mut by_copies: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    places.iter().for_each(|(object, copies)| by_copies.entry(*copies).or_default().push(*object));
    by_copies
}

/// The next number of copies above `above` that a row of the queue has.
fn next_class(connection: &mut AnyConnection, above: i32) -> QueryResult<Option<i32>> {
    repair_queue::table
        .filter(repair_queue::copies.gt(above))
        .order(repair_queue::copies)
        .select(repair_queue::copies)
        .first(connection)
        .optional()
}

/// Rows that are due, in their order, behind a place.
pub fn due(
    connection: &mut AnyConnection,
    now: NaiveDateTime,
    behind: Option<Place>,
    limit: usize,
) -> QueryResult<Vec<RepairRow>> {
    let mut rows: Vec<RepairRow> = Vec::new();
    let mut class = match behind {
        Some(place) => Some(place.copies),
        None => next_class(connection, i32::MIN)?,
    };
    while let Some(copies) = class {
        let mut query = repair_queue::table
            .filter(repair_queue::copies.eq(copies).and(repair_queue::next_attempt.le(now)))
            .order((repair_queue::next_attempt, repair_queue::object))
            .limit((limit - rows.len()) as i64)
            .select(RepairRow::as_select())
            .into_boxed();
        if let Some(place) = behind.filter(|place| place.copies == copies) {
            let later = repair_queue::next_attempt.gt(place.next_attempt);
            // The first condition is the index's.
            query = query
                .filter(repair_queue::next_attempt.ge(place.next_attempt))
                .filter(later.or(repair_queue::object.gt(place.object)));
        }
        rows.extend(query.load::<RepairRow>(connection)?);
        if rows.len() >= limit {
            break;
        }
        class = next_class(connection, copies)?;
    }
    Ok(rows)
}

/// A row that repair can do something about, now or when its time comes: none that waits for the servers to change, and none
/// that is here because a copy of its object moves.
pub fn first_to_do(connection: &mut AnyConnection) -> QueryResult<Option<RepairRow>> {
    let mut class = next_class(connection, i32::MIN)?;
    while let Some(copies) = class {
        let is_moving = exists(moves::table.filter(moves::object.eq(repair_queue::object)));
        let row = repair_queue::table
            .filter(repair_queue::copies.eq(copies).and(repair_queue::next_attempt.lt(waits())))
            .filter(not(is_moving))
            .order((repair_queue::next_attempt, repair_queue::object))
            .select(RepairRow::as_select())
            .first(connection)
            .optional()?;
        if row.is_some() {
            return Ok(row);
        }
        class = next_class(connection, copies)?;
    }
    Ok(None)
}

/// Objects that wait for the servers to change, most endangered first, behind a place of theirs.
pub fn waiting(
    connection: &mut AnyConnection,
    behind: Option<(i32, i64)>,
    limit: usize,
) -> QueryResult<Vec<(i32, i64)>> {
    let mut found: Vec<(i32, i64)> = Vec::new();
    let mut class = match behind {
        Some((copies, _)) => Some(copies),
        None => next_class(connection, i32::MIN)?,
    };
    while let Some(copies) = class {
        let after = behind.filter(|(class, _)| *class == copies).map_or(i64::MIN, |(_, object)| object);
        let rows: Vec<(i32, i64)> = repair_queue::table
            .filter(repair_queue::copies.eq(copies).and(repair_queue::next_attempt.eq(waits())))
            .filter(repair_queue::object.gt(after))
            .order(repair_queue::object)
            .limit((limit - found.len()) as i64)
            .select((repair_queue::copies, repair_queue::object))
            .load(connection)?;
        found.extend(rows);
        if found.len() >= limit {
            break;
        }
        class = next_class(connection, copies)?;
    }
    Ok(found)
}

/// Writes a row's place, tries and last error.
pub fn save(connection: &mut AnyConnection, row: &RepairRow) -> QueryResult<usize> {
    diesel::update(repair_queue::table.find(row.object))
        .set((
            repair_queue::copies.eq(row.copies),
            repair_queue::next_attempt.eq(row.next_attempt),
            repair_queue::attempts.eq(row.attempts),
            repair_queue::last_error.eq(&row.last_error),
        ))
        .execute(connection)
}

/// Takes objects out that need nothing more.
pub fn remove(connection: &mut AnyConnection, ids: &[i64]) -> Step<()> {
    chunks::execute(ids, |piece| {
        diesel::delete(repair_queue::table.filter(repair_queue::object.eq_any(piece))).execute(connection)
    })?;
    Ok(())
}
