//! Reading the journal's rows; their tips are made by [`crate::journal::next_tip`].

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::rows::JournalRow;
use super::schema::journal::dsl;
use crate::journal::JournalLine;

/// The tip after a version, while the journal has it.
pub fn tip_at(connection: &mut AnyConnection, version: i64) -> QueryResult<Option<Vec<u8>>> {
    dsl::journal.filter(dsl::version.eq(version)).order(dsl::seq.desc()).select(dsl::tip).first(connection).optional()
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
