//! Finding entries by path, always from the root: what does not reach the root does not exist.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::error::Step;
use super::rows::EntryRow;
use super::schema::entries;
use crate::types::{DfsPath, Error, ErrorCode};

/// The entries along a path, as far as they exist.
#[derive(Debug, Clone)]
pub struct Walk {
    path: DfsPath,
    wanted: usize,
    found: Vec<EntryRow>,
}

/// Walks down a path, in one query.
pub fn walk(connection: &mut AnyConnection, path: &DfsPath) -> Step<Walk> {
    let names: Vec<&str> = path.components().collect();
    let json =
        serde_json::to_string(&names).map_err(|error| Error::internal("cannot encode a path").with_source(error))?;
    let found = dialect::walk(connection, &json)?;
    Ok(Walk { path: path.clone(), wanted: names.len() + 1, found })
}

impl Walk {
    /// The entry at the path, if it exists.
    pub fn entry(&self) -> Option<&EntryRow> {
        if self.found.len() == self.wanted { self.found.last() } else { None }
    }

    /// The entry at the path.
    pub fn require(&self) -> Step<&EntryRow> {
        match self.entry() {
            Some(entry) => Ok(entry),
            None => Err(self.missing().into()),
        }
    }

    /// The directory at the path.
    pub fn require_directory(&self) -> Step<&EntryRow> {
        let entry = self.require()?;
        if entry.is_directory() {
            Ok(entry)
        } else {
            Err(Error::new(ErrorCode::NotADirectory, format!("{} is not a directory", self.path)).into())
        }
    }

    /// The entries that exist, from the root down.
    pub fn found(&self) -> &[EntryRow] {
        &self.found
    }

    /// How many names at the path's end have no entry.
    pub fn missing_names(&self) -> usize {
        self.wanted - self.found.len()
    }

    /// Whether an entry is the path's or lies above it.
    pub fn passes_through(&self, id: i64) -> bool {
        self.found.iter().any(|entry| entry.id == id)
    }

    /// Copies wanted of files made in the directory at the path: the nearest setting on the way up.
    pub fn copies_wanted(&self) -> i32 {
        self.found.iter().rev().find_map(|entry| entry.replication).unwrap_or(1)
    }

    /// Why the path leads nowhere: a name that does not exist, or a file on the way.
    pub fn missing(&self) -> Error {
        let reached = self.found.len();
        // Absence is evidence only from somebody who knows.
        if reached == 0 {
            return Error::unavailable(
                "the metadata of this cluster is not there, so that nobody can say what exists: the cluster waits for \
                 `holdfast restore`",
            );
        }
        let mut path = DfsPath::root();
        for name in self.path.components().take(reached) {
            path = path.join(name).unwrap_or(path);
        }
        match self.found.last() {
            Some(last) if !last.is_directory() && reached > 0 => {
                let above = path.split().map(|(parent, _)| parent).unwrap_or_else(DfsPath::root);
                Error::new(ErrorCode::NotADirectory, format!("{above} is not a directory"))
            }
            _ => Error::not_found(format!("{path} does not exist")),
        }
    }
}

/// The entry `name` of a directory.
pub fn child(connection: &mut AnyConnection, parent: i64, name: &str) -> QueryResult<Option<EntryRow>> {
    entries::table
        .filter(entries::parent.eq(parent).and(entries::name.eq(name)))
        .select(EntryRow::as_select())
        .first(connection)
        .optional()
}

/// Whether a directory has entries.
pub fn has_children(connection: &mut AnyConnection, parent: i64) -> QueryResult<bool> {
    let first: Option<i64> =
        entries::table.filter(entries::parent.eq(parent)).select(entries::id).first(connection).optional()?;
    Ok(first.is_some())
}
