//! A temporary SQLite database into which a snapshot's rows and the journal's lines are applied, to walk the tree
//! that they describe without holding it in memory.
//!
//! It is disposable: nothing is synced, and its directory is removed when it is dropped.
#![allow(missing_docs, reason = "diesel's table macro makes public items without any")]

use std::collections::HashSet;
use std::path::Path;

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use serde::Deserialize;
use tempfile::TempDir;

use super::{ENTRIES, JournalLine, SnapshotLine};
use crate::types::id::ROOT;
use crate::types::{Error, Result};

/// Rows that are applied in one transaction.
const BATCH_ROWS: usize = 10_000;
/// Rows that are read at once.
const PAGE_ROWS: i64 = 1_000;
/// As many are applied before it is said again how many they are.
const WATCHED_ROWS: u64 = 1_000;

diesel::table! {
    rows (tbl, key) {
        tbl -> Text,
        key -> Text,
        content -> Text,
        parent -> Nullable<BigInt>,
        name -> Nullable<Text>,
        object -> Nullable<BigInt>,
    }
}

const TABLES: &str = "
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    CREATE TABLE rows (
        tbl TEXT NOT NULL, key TEXT NOT NULL, content TEXT NOT NULL, parent BIGINT, name TEXT, object BIGINT,
        PRIMARY KEY (tbl, key)
    ) WITHOUT ROWID;
    CREATE INDEX rows_parent ON rows (parent, name) WHERE parent IS NOT NULL;
    CREATE INDEX rows_object ON rows (object) WHERE object IS NOT NULL;
";

/// A row as it was after the last line that named it.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct StagedRow {
    /// Its primary key.
    pub key: String,
    /// The whole row as JSON.
    pub content: String,
}

/// An entry as it stands in its directory.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct StagedChild {
    /// Its name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// Its primary key.
    #[diesel(sql_type = Text)]
    pub key: String,
    /// The whole row as JSON.
    #[diesel(sql_type = Text)]
    pub content: String,
    /// The state of a file's object; none when there is no such object.
    #[diesel(sql_type = Nullable<Text>)]
    pub object_state: Option<String>,
}

/// A page of a directory, with what is to be known of the files' objects. The index has the columns in this order.
const CHILDREN: &str = "
    SELECT r.name, r.key, r.content, json_extract(o.content, '$.state') AS object_state
    FROM rows r LEFT JOIN rows o ON o.tbl = 'objects' AND o.key = CAST(r.object AS TEXT)
    WHERE r.parent = ?1 AND r.name >= ?2 AND (r.name > ?2 OR r.key > ?3)
    ORDER BY r.name, r.tbl, r.key LIMIT ?4";

/// Hears how many more rows were applied, and may end it.
type Watcher = Box<dyn FnMut(u64) -> Result<()> + Send>;

/// What walking the tree needs of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StagedEntry {
    /// Its id.
    pub id: i64,
    /// The directory; none for the root and for what was detached.
    pub parent: Option<i64>,
    /// Its name there.
    pub name: String,
    /// The object of a file.
    pub object: Option<i64>,
    /// `file` or `directory`.
    pub kind: String,
}

impl StagedEntry {
    /// Whether others may be in it.
    pub fn is_directory(&self) -> bool {
        self.kind == "directory"
    }

    fn parse(content: &str) -> Result<Self> {
        serde_json::from_str(content)
            .map_err(|error| Error::internal("an entry in the journal is not what it must be").with_source(error))
    }
}

/// The database.
pub struct Staging {
    connection: SqliteConnection,
    /// Rows applied in the transaction that is open; 0 when none is.
    open_rows: usize,
    watcher: Option<Watcher>,
    /// Rows that the watcher has not heard of.
    untold_rows: u64,
    _dir: TempDir,
}

impl Staging {
    /// An empty one in a new directory inside `dir`, or where temporary files are.
    pub fn create(dir: Option<&Path>) -> Result<Self> {
        let made = match dir {
            Some(dir) => tempfile::Builder::new().prefix("holdfast-staging-").tempdir_in(dir),
            None => tempfile::Builder::new().prefix("holdfast-staging-").tempdir(),
        };
        let made = made.map_err(|error| Error::io("making a temporary directory", error))?;
        let path = made.path().join("rows.sqlite");
        let mut connection = SqliteConnection::establish(&path.to_string_lossy())
            .map_err(|error| Error::internal("a temporary database cannot be made").with_source(error))?;
        connection.batch_execute(TABLES).map_err(failed)?;
        Ok(Self { connection, open_rows: 0, watcher: None, untold_rows: 0, _dir: made })
    }

    /// Has somebody hear how it goes on, who may also end it.
    pub fn watch(&mut self, watcher: impl FnMut(u64) -> Result<()> + Send + 'static) {
        self.watcher = Some(Box::new(watcher));
    }

    fn tell(&mut self) -> Result<()> {
        self.untold_rows += 1;
        if self.untold_rows >= WATCHED_ROWS
            && let Some(watcher) = &mut self.watcher
        {
            watcher(std::mem::take(&mut self.untold_rows))?;
        }
        Ok(())
    }

    /// Gives a row its new content, or takes it away. Doing so again changes nothing.
    pub fn apply(&mut self, table: &str, key: &str, content: Option<&str>) -> Result<()> {
        let entry = content.filter(|_| table == ENTRIES).map(StagedEntry::parse).transpose()?;
        // So that each entry has one row, and with it one parent: what walks the tree relies on it.
        if let Some(entry) = entry.as_ref().filter(|entry| entry.id.to_string() != key) {
            return Err(Error::internal(format!("the journal has the entry {} in the row of {key:?}", entry.id)));
        }
        if self.open_rows == 0 {
            AnsiTransactionManager::begin_transaction(&mut self.connection).map_err(failed)?;
        }
        self.open_rows += 1;
        match content {
            None => drop(diesel::delete(rows::table.find((table, key))).execute(&mut self.connection).map_err(failed)?),
            Some(content) => {
                let (parent, name, object) = match &entry {
                    Some(entry) => (entry.parent, Some(entry.name.as_str()), entry.object),
                    None => (None, None, None),
                };
                let values = (
                    rows::tbl.eq(table),
                    rows::key.eq(key),
                    rows::content.eq(content),
                    rows::parent.eq(parent),
                    rows::name.eq(name),
                    rows::object.eq(object),
                );
                diesel::replace_into(rows::table).values(values).execute(&mut self.connection).map_err(failed)?;
            }
        }
        if self.open_rows >= BATCH_ROWS {
            self.commit()?;
        }
        self.tell()
    }

    /// Applies a line of the journal.
    pub fn apply_line(&mut self, line: &JournalLine) -> Result<()> {
        self.apply(&line.table, &line.key, line.content.as_deref())
    }

    /// Applies a row of a snapshot.
    pub fn apply_row(&mut self, row: &SnapshotLine) -> Result<()> {
        self.apply(&row.table, &row.key, Some(&row.content))
    }

    fn commit(&mut self) -> Result<()> {
        self.open_rows = 0;
        AnsiTransactionManager::commit_transaction(&mut self.connection).map_err(failed)
    }

    /// A row's content.
    pub fn get(&mut self, table: &str, key: &str) -> Result<Option<String>> {
        let row = rows::table.find((table, key)).select(rows::content);
        row.first(&mut self.connection).optional().map_err(failed)
    }

    /// How many rows a table has.
    pub fn count(&mut self, table: &str) -> Result<u64> {
        let count: i64 = rows::table.filter(rows::tbl.eq(table)).count().first(&mut self.connection).map_err(failed)?;
        Ok(count as u64)
    }

    /// One page of a table, after a key, in the order of the keys' text.
    pub fn page(&mut self, table: &str, after: Option<&str>, limit: i64) -> Result<Vec<StagedRow>> {
        rows::table
            .filter(rows::tbl.eq(table).and(rows::key.gt(after.unwrap_or_default())))
            .order(rows::key)
            .limit(limit)
            .select((rows::key, rows::content))
            .load(&mut self.connection)
            .map_err(failed)
    }

    /// Goes through a table, a page at a time.
    pub fn each(&mut self, table: &str, mut visit: impl FnMut(&[StagedRow]) -> Result<()>) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let page = self.page(table, after.as_deref(), PAGE_ROWS)?;
            let Some(last) = page.last() else { return Ok(()) };
            visit(&page)?;
            after = Some(last.key.clone());
        }
    }

    /// An entry.
    pub fn entry(&mut self, id: i64) -> Result<Option<StagedEntry>> {
        self.get(ENTRIES, &id.to_string())?.map(|content| StagedEntry::parse(&content)).transpose()
    }

    /// The root directory, if the journal has one.
    pub fn root(&mut self) -> Result<Option<StagedEntry>> {
        self.entry(ROOT.0)
    }

    /// One page of a directory, after a name, in the order of the names' bytes.
    pub fn children(&mut self, parent: i64, after: Option<&str>, limit: i64) -> Result<Vec<StagedEntry>> {
        let mut query = rows::table
            .filter(rows::parent.eq(parent))
            .order(rows::name)
            .limit(limit)
            .select(rows::content)
            .into_boxed::<diesel::sqlite::Sqlite>();
        if let Some(after) = after {
            query = query.filter(rows::name.gt(after));
        }
        let contents: Vec<String> = query.load(&mut self.connection).map_err(failed)?;
        contents.iter().map(|content| StagedEntry::parse(content)).collect()
    }

    /// One page of a directory, after a name and a key, in the order of the names' bytes; where histories have parted, one
    /// name may be there several times.
    pub fn children_in_full(&mut self, parent: i64, after: (&str, &str), limit: i64) -> Result<Vec<StagedChild>> {
        diesel::sql_query(CHILDREN)
            .bind::<BigInt, _>(parent)
            .bind::<Text, _>(after.0)
            .bind::<Text, _>(after.1)
            .bind::<BigInt, _>(limit)
            .load(&mut self.connection)
            .map_err(failed)
    }

    /// Whether a directory has a name.
    pub fn has_child(&mut self, parent: i64, name: &str) -> Result<bool> {
        let row = rows::table.filter(rows::parent.eq(parent).and(rows::name.eq(name))).select(rows::key);
        Ok(row.first::<String>(&mut self.connection).optional().map_err(failed)?.is_some())
    }

    /// One page of the entries that share an object, after a key.
    pub fn entries_of(&mut self, object: i64, after: Option<&str>, limit: i64) -> Result<Vec<StagedEntry>> {
        let contents: Vec<String> = rows::table
            .filter(rows::object.eq(object).and(rows::tbl.eq(ENTRIES)))
            .filter(rows::key.gt(after.unwrap_or_default()))
            .order(rows::key)
            .limit(limit)
            .select(rows::content)
            .load(&mut self.connection)
            .map_err(failed)?;
        contents.iter().map(|content| StagedEntry::parse(content)).collect()
    }

    /// An entry's path; `None` when it does not reach the root.
    pub fn path_of(&mut self, id: i64) -> Result<Option<String>> {
        let (mut names, mut above, mut seen) = (Vec::new(), id, HashSet::new());
        while above != ROOT.0 {
            // A journal without damage has no circles; one with damage must not hold us up.
            if !seen.insert(above) {
                return Ok(None);
            }
            let Some(StagedEntry { parent: Some(parent), name, .. }) = self.entry(above)? else { return Ok(None) };
            names.push(name);
            above = parent;
        }
        if self.root()?.is_none() {
            return Ok(None);
        }
        names.reverse();
        Ok(Some(format!("/{}", names.join("/"))))
    }
}

fn failed(error: diesel::result::Error) -> Error {
    use diesel::result::{DatabaseErrorKind, Error as DieselError};
    if let DieselError::DatabaseError(DatabaseErrorKind::Unknown, information) = &error
        && information.message().contains("full")
    {
        let full = std::io::ErrorKind::StorageFull.into();
        return Error::io("writing the temporary database", full);
    }
    Error::internal("the temporary database failed").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: i64, parent: Option<i64>, name: &str, object: Option<i64>) -> (String, String) {
        let kind = if object.is_some() { "file" } else { "directory" };
        let row = serde_json::json!({ "id": id, "parent": parent, "name": name, "object": object, "kind": kind });
        (id.to_string(), row.to_string())
    }

    fn tree() -> Staging {
        let mut staging = Staging::create(None).unwrap();
        for (key, content) in [
            entry(1, None, "", None),
            entry(2, Some(1), "a", None),
            entry(30, Some(2), "file", Some(100)),
            entry(4, Some(1), "copy of ü", Some(100)),
            entry(5, None, "detached", None),
            entry(6, Some(5), "x", Some(101)),
        ] {
            staging.apply(ENTRIES, &key, Some(&content)).unwrap();
        }
        staging
    }

    #[test]
    fn the_tree_is_walked_by_name_and_detached_parts_have_no_path() {
        let mut staging = tree();
        let names = |entries: Vec<StagedEntry>| entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert_eq!(names(staging.children(1, None, 10).unwrap()), ["a", "copy of ü"]);
        assert_eq!(names(staging.children(1, None, 1).unwrap()), ["a"]);
        assert_eq!(names(staging.children(1, Some("a"), 10).unwrap()), ["copy of ü"]);
        assert_eq!(names(staging.entries_of(100, None, 10).unwrap()), ["file", "copy of ü"]);
        let paths = [1, 30, 4, 5, 6, 7].map(|id| staging.path_of(id).unwrap());
        assert_eq!(
            paths,
            [Some("/"), Some("/a/file"), Some("/copy of ü"), None, None, None].map(|p| p.map(String::from))
        );
        assert!(staging.root().unwrap().unwrap().is_directory());
    }

    #[test]
    fn later_lines_win_and_rows_can_go() {
        let mut staging = tree();
        let (key, moved) = entry(2, Some(5), "a", None);
        staging.apply(ENTRIES, &key, Some(&moved)).unwrap();
        staging.apply(ENTRIES, &key, Some(&moved)).unwrap();
        staging.apply(ENTRIES, "4", None).unwrap();
        staging.apply(ENTRIES, "4", None).unwrap();
        assert_eq!((staging.path_of(30).unwrap(), staging.path_of(4).unwrap()), (None, None));
        assert_eq!(staging.count(ENTRIES).unwrap(), 5);
        let (key, circle) = entry(5, Some(2), "a", None);
        staging.apply(ENTRIES, &key, Some(&circle)).unwrap();
        assert_eq!(staging.path_of(30).unwrap(), None, "a circle ends");
    }

    #[test]
    fn many_rows_go_through_in_pages() {
        let mut staging = Staging::create(None).unwrap();
        for number in 0..BATCH_ROWS + 10 {
            staging.apply("objects", &number.to_string(), Some("{}")).unwrap();
        }
        let mut seen = HashSet::new();
        let visited = staging.each("objects", |page| {
            seen.extend(page.iter().map(|row| row.key.clone()));
            Ok(())
        });
        visited.unwrap();
        assert_eq!((seen.len(), staging.count("tokens").unwrap()), (BATCH_ROWS + 10, 0));
        assert!(staging.apply(ENTRIES, "1", Some("{}")).is_err(), "an entry without a name is none");
        let (_, other) = entry(20, Some(20), "a", None);
        for key in ["10", "020", "20 ", "1"] {
            assert!(staging.apply(ENTRIES, key, Some(&other)).is_err(), "the tree could be walked for ever");
        }
    }
}
