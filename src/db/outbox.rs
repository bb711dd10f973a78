//! Deletions that storage servers still have to carry out.

use std::collections::HashMap;

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::events;
use super::rows::{EventRow, OutboxRow};
use super::schema::outbox::dsl;
use super::{cluster, dialect};
use crate::types::{CauseWord, EventKind, Generation, Mode, ObjectId, Result, ServerId};

/// Waiting deletions of one object that are told.
const WAITING_ROWS_MAX: i64 = 20;

/// Deletions that are due on a server, the oldest first.
pub fn due(connection: &mut AnyConnection, server: i64, limit: usize) -> Result<Vec<OutboxRow>> {
    let state = cluster::state(connection)?;
    if state.mode != Mode::Normal {
        return Ok(Vec::new());
    }
    let rows = dsl::outbox
        .filter(dsl::server.eq(server).and(dsl::not_before.le(state.now.naive_utc())))
        // Bytes never die before the journal's copies know why: a restore must not miss them.
        .filter(dsl::version.le(state.journal_copied))
        .order(dsl::not_before)
        .limit(limit as i64)
        .select(OutboxRow::as_select())
        .load(connection)?;
    Ok(rows)
}

/// Notes that a server has carried them out, with the reasons that came with the orders.
pub fn complete(connection: &mut AnyConnection, rows: &[OutboxRow]) -> Step<()> {
    let now = dialect::clock(connection)?;
    let mut happened = Vec::with_capacity(rows.len());
    for row in rows {
        diesel::delete(dsl::outbox.find((row.server, row.object, row.generation))).execute(connection)?;
        let word = CauseWord::of_word(&row.reason).unwrap_or(CauseWord::Unknown);
        let cause = match word {
            CauseWord::Draining => word.of(ServerId(row.server)),
            _ => word.into(),
        };
        let copy = (row.object, row.server);
        let event = events::of_copy(now, EventKind::ReplicaDeleted, copy, cause, words(row, word));
        happened.push(EventRow { by_token: row.by_token.clone(), ..event });
    }
    crate::types::failpoint::REAP_NOTED.passed();
    events::tell(connection, happened)
}

/// No token is named: those who may see a part of the namespace only are told this sentence too.
fn words(row: &OutboxRow, cause: CauseWord) -> String {
    let copy = format!("copy {}.{}", ObjectId(row.object), Generation(row.generation));
    let why = cause.meaning();
    match cause {
        CauseWord::Removed | CauseWord::Replaced => format!("{copy} was deleted: {why} (change {})", row.version),
        _ => format!("{copy} was deleted: {why}"),
    }
}

/// Deletions of an object's copies that wait, with the names of their servers: some of them, which are enough to tell.
pub fn waiting(connection: &mut AnyConnection, object: i64) -> QueryResult<Vec<(String, CauseWord)>> {
    use super::schema::servers;
    let known: Vec<(i64, String)> = servers::table.select((servers::id, servers::name)).load(connection)?;
    let names: HashMap<i64, String> = known.into_iter().collect();
    let rows: Vec<(i64, String)> = dsl::outbox
        .filter(dsl::server.eq_any(names.keys().copied().collect::<Vec<_>>()).and(dsl::object.eq(object)))
        .order(dsl::server)
        .limit(WAITING_ROWS_MAX)
        .select((dsl::server, dsl::reason))
        .load(connection)?;
    let told = |(server, reason): (i64, String)| {
        Some((names.get(&server)?.clone(), CauseWord::of_word(&reason).unwrap_or(CauseWord::Unknown)))
    };
    Ok(rows.into_iter().filter_map(told).collect())
}
