//! Opening an index to write to it, and making one.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use super::index::{damaged, refuse_newer, touch};
use super::inspect;
use crate::types::{Error, Result};

/// The format that `index.sql` makes.
const INDEX_MADE: i32 = 2;
/// What leads from each older format to the next one; the first is that of format 1.
const INDEX_STEPS: [&str; 2] = [
    "CREATE INDEX IF NOT EXISTS replicas_verified ON replicas (verified); PRAGMA user_version = 2",
    include_str!("missing.sql"),
];
/// Opens the writing connection of an index that must be there. Damage and newer formats are refused.
pub fn open_writer(path: &Path) -> Result<SqliteConnection> {
    inspect::open(path)?.map_err(|reason| damaged(path, &reason))?;
    open_or_make(path, false)
}

/// Opens the writing connection of the index of a directory that has never held anything.
pub fn make(path: &Path) -> Result<SqliteConnection> {
    open_or_make(path, true)
}

fn open_or_make(path: &Path, may_make: bool) -> Result<SqliteConnection> {
    let mut connection =
        SqliteConnection::establish(&path.to_string_lossy()).map_err(|error| damaged(path, &error.to_string()))?;
    let prepare = |connection: &mut SqliteConnection| -> QueryResult<i32> {
        connection.batch_execute(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA journal_size_limit = 67108864",
        )?;
        let mut version: i32 = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>(
            "(SELECT user_version FROM pragma_user_version)",
        ))
        .get_result(connection)?;
        if version == 0 && may_make {
            connection.immediate_transaction(|connection| connection.batch_execute(include_str!("index.sql")))?;
            version = INDEX_MADE;
        }
        touch(connection)?;
        Ok(version)
    };
    let version = prepare(&mut connection).map_err(|error| damaged(path, &error.to_string()))?;
    refuse_newer(path, version)?;
    bring_up_to_date(&mut connection, version).map_err(|error| {
        Error::internal(format!("cannot bring the index {} up to date", path.display())).with_source(error)
    })?;
    Ok(connection)
}

/// Each step is a transaction of its own; an interrupted one is as if it had not begun.
fn bring_up_to_date(connection: &mut SqliteConnection, version: i32) -> QueryResult<()> {
    for step in INDEX_STEPS.iter().skip(usize::try_from(version - 1).unwrap_or(0)) {
        connection.immediate_transaction(|connection| connection.batch_execute(step))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::store::index::oldest_verified;

    #[test]
    fn an_older_index_is_brought_up_to_date_and_a_newer_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        let mut connection = make(&path).unwrap();
        // What the first format was.
        let back =
            "DROP INDEX replicas_verified; DROP INDEX replicas_shelf; DROP TABLE missing; PRAGMA user_version = 1";
        connection.batch_execute(back).unwrap();
        drop(connection);
        for _ in 0..2 {
            let mut connection = open_writer(&path).unwrap();
            let facts = "(SELECT (SELECT user_version FROM pragma_user_version) * 10 + count(*) \
                         FROM sqlite_master WHERE name = 'replicas_verified')";
            let found: i32 = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>(facts))
                .get_result(&mut connection)
                .unwrap();
            assert_eq!(found, 31);
            assert_eq!(oldest_verified(&mut connection).unwrap(), None);
        }
        let mut connection = open_writer(&path).unwrap();
        connection.batch_execute("PRAGMA user_version = 4").unwrap();
        drop(connection);
        let refused = open_writer(&path).err().unwrap();
        assert!(refused.message().contains("format 4") && refused.message().contains("newer program"), "{refused}");
    }
}
