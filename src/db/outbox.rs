//! Deletions that storage servers still have to carry out.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::events;
use super::rows::{EventRow, OutboxRow};
use super::schema::outbox::dsl;
use super::{cluster, dialect};
use crate::types::{Generation, ObjectId, Result};

/// Deletions that are due on a server, the oldest first.
pub fn due(connection: &mut AnyConnection, server: i64, limit: usize) -> Result<Vec<OutboxRow>> {
    let state = cluster::state(connection)?;
    if state.mode != "normal" {
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

/// Notes that a server has carried them out.
pub fn complete(connection: &mut AnyConnection, rows: &[OutboxRow]) -> Step<()> {
    let now = dialect::clock(connection)?;
    let mut happened = Vec::with_capacity(rows.len());
    for row in rows {
        diesel::delete(dsl::outbox.find((row.server, row.object, row.generation))).execute(connection)?;
        let detail = format!(
            "copy {}.{} was deleted, because change {} removed the last file with these bytes",
            ObjectId(row.object),
            Generation(row.generation),
            row.version
        );
        happened.push(EventRow {
            object: Some(row.object),
            server: Some(row.server),
            ..events::row(now, "replica_deleted", detail)
        });
    }
    crate::types::failpoint::REAP_NOTED.passed();
    dialect::insert_events(connection, &happened)?;
    Ok(())
}

/// How many wait in all.
pub fn length(connection: &mut AnyConnection) -> Result<i64> {
    Ok(dsl::outbox.count().get_result(connection)?)
}
