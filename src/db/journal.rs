//! Reading the journal's rows, trimming them, and pages of the journaled tables for snapshots; their tips are made by [`crate::journal::next_tip`].

use chrono::NaiveDateTime;
use diesel::prelude::*;

use super::cluster::ClusterState;
use super::connection::AnyConnection;
use super::rows::{EntryRow, JournalRow, ObjectRow, ServerRow, TokenRow};
use super::schema::journal::dsl;
use crate::journal::{ENTRIES, JournalLine, OBJECTS, SERVERS, TOKENS};
use crate::types::storage_api::JournalPosition;
use crate::types::{Error, ObjectId, Result, Version};

/// The tip after a version, while the journal has it.
pub fn tip_at(connection: &mut AnyConnection, version: i64) -> QueryResult<Option<Vec<u8>>> {
    dsl::journal.filter(dsl::version.eq(version)).order(dsl::seq.desc()).select(dsl::tip).first(connection).optional()
}

/// Whether a copy of the journal of this history has gone another way than the database, as far as the database can
/// still tell.
pub fn has_parted(connection: &mut AnyConnection, state: &ClusterState, copy: &JournalPosition) -> QueryResult<bool> {
    if copy.history != state.history || copy.version > state.version {
        return Ok(false);
    }
    let ours = if copy.version == state.version { Some(state.tip.clone()) } else { tip_at(connection, copy.version)? };
    Ok(ours.is_some_and(|tip| tip != copy.tip.0))
}

/// Whether an object was certainly not committed by this version's change: the journal has the change, and it is
/// another one.
pub fn was_not_committed_by(connection: &mut AnyConnection, version: Version, object: ObjectId) -> QueryResult<bool> {
    let rows: Vec<(String, String)> =
        dsl::journal.filter(dsl::version.eq(version)).select((dsl::table_name, dsl::row_key)).load(connection)?;
    Ok(!rows.is_empty() && !rows.contains(&(OBJECTS.to_string(), object.0.to_string())))
}

impl From<JournalRow> for JournalLine {
    fn from(row: JournalRow) -> Self {
        Self {
            version: row.version,
            seq: row.seq,
            table: row.table_name,
            key: row.row_key,
            content: row.content,
            created: row.created,
        }
    }
}

/// Whole versions after `version`: about `rows` rows, more when a single version has more.
pub fn lines_after(connection: &mut AnyConnection, version: i64, rows: i64) -> Result<Vec<JournalLine>> {
    let mut lines: Vec<JournalRow> = dsl::journal
        .filter(dsl::version.gt(version))
        .order((dsl::version, dsl::seq))
        .limit(rows)
        .select(JournalRow::as_select())
        .load(connection)?;
    if lines.len() as i64 == rows
        && let (Some(first), Some(last)) = (lines.first().map(|row| row.version), lines.last().map(|row| row.version))
    {
        // The last version may be cut off.
        if first < last {
            lines.retain(|row| row.version < last);
        } else {
            lines = dsl::journal
                .filter(dsl::version.eq(first))
                .order(dsl::seq)
                .select(JournalRow::as_select())
                .load(connection)?;
        }
    }
    Ok(lines.into_iter().map(JournalLine::from).collect())
}

/// The first version that the journal still has.
pub fn first_version(connection: &mut AnyConnection) -> QueryResult<Option<i64>> {
    dsl::journal.select(diesel::dsl::min(dsl::version)).first(connection)
}

/// The version that storage servers are told of, for the next restore to look for: 0 as long as no copy has anything of
/// this history, because the versions that a restore leaves out were never made.
pub fn told_version(connection: &mut AnyConnection) -> Result<Version> {
    let state = super::cluster::state(connection)?;
    let next = first_version(connection)?.unwrap_or(state.version + 1);
    Ok(if state.journal_copied + 1 >= next { state.journal_copied } else { 0 })
}

/// Notes that all changes up to `version` of this history are on the required copies.
pub fn note_copied(connection: &mut AnyConnection, history: &str, version: i64) -> QueryResult<usize> {
    use super::schema::cluster;
    diesel::update(cluster::table.filter(cluster::history_id.eq(history).and(cluster::journal_copied.lt(version))))
        .set(cluster::journal_copied.eq(version))
        .execute(connection)
}

/// Removes rows that are on the required copies, older than `before`, and not the newest: nothing from version `needed` on,
/// with which a snapshot under way will be gone on from. Answers how many.
pub fn trim(
    connection: &mut AnyConnection,
    before: NaiveDateTime,
    needed: Option<Version>,
    versions: i64,
) -> QueryResult<usize> {
    use super::schema::cluster;
    let (copied, last): (i64, i64) =
        cluster::table.select((cluster::journal_copied, cluster::last_version)).first(connection)?;
    let Some(first) = first_version(connection)? else { return Ok(0) };
    let young: Option<i64> = dsl::journal
        .filter(dsl::created.ge(before).and(dsl::version.ge(first)))
        .order(dsl::version)
        .select(dsl::version)
        .first(connection)
        .optional()?;
    let end = (copied + 1).min(last).min(needed.unwrap_or(last)).min(young.unwrap_or(last)).min(first + versions);
    diesel::delete(dsl::journal.filter(dsl::version.lt(end))).execute(connection)
}

/// A row of a snapshot: its key and its content, as the journal would have them.
pub type Row = (String, String);

/// One page of a journaled table, after a key (none for the first page).
pub fn page(connection: &mut AnyConnection, table: &str, after: Option<&str>, rows: i64) -> Result<Vec<Row>> {
    use super::schema::{entries, objects, servers, tokens};
    let id = after.map_or(Ok(i64::MIN), |after| {
        after.parse().map_err(|error| Error::internal("a cursor is no number").with_source(error))
    });
    match table {
        ENTRIES => encoded(
            entries::table
                .filter(entries::id.gt(id?))
                .order(entries::id)
                .limit(rows)
                .select(EntryRow::as_select())
                .load(connection)?,
            |row| row.id.to_string(),
        ),
        OBJECTS => encoded(
            objects::table
                .filter(objects::id.gt(id?).and(objects::state.ne(ObjectRow::ABORTED)))
                .order(objects::id)
                .limit(rows)
                .select(ObjectRow::as_select())
                .load(connection)?,
            |row| row.id.to_string(),
        ),
        SERVERS => encoded(
            servers::table
                .filter(servers::id.gt(id?))
                .order(servers::id)
                .limit(rows)
                .select(ServerRow::as_select())
                .load(connection)?,
            |row| row.id.to_string(),
        ),
        TOKENS => encoded(
            tokens::table
                .filter(tokens::name.gt(after.unwrap_or_default()))
                .order(tokens::name)
                .limit(rows)
                .select(TokenRow::as_select())
                .load(connection)?,
            |row| row.name.clone(),
        ),
        _ => Err(Error::internal(format!("the journal has no table {table}"))),
    }
}

fn encoded<T: serde::Serialize>(rows: Vec<T>, key: impl Fn(&T) -> String) -> Result<Vec<Row>> {
    let row = |row: &T| {
        let content = serde_json::to_string(row)
            .map_err(|error| Error::internal("cannot encode a row for a snapshot").with_source(error))?;
        Ok((key(row), content))
    };
    rows.iter().map(row).collect()
}
