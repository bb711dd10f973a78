//! Copies at and below a path, page by page, for those who have them read; and what became of those that are not there any
//! more.

use std::collections::HashMap;
use std::time::Duration;

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Failure;
use super::rows::{ReplicaRow, utc};
use super::schema::{events, objects, replicas};
use super::{dialect, listing, tree};
use crate::types::id::floor_at;
use crate::types::storage_api::ReplicaKey;
use crate::types::{DfsPath, Generation, ObjectId, Result};

/// Entries of one page.
const PAGE_ENTRIES: usize = 500;
/// Events of the copies of a page that are read.
const EVENTS_ROWS_MAX: i64 = 5_000;

/// A copy of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCopy {
    /// Which.
    pub key: ReplicaKey,
    /// Where.
    pub server: i64,
    /// Its bytes.
    pub size: u64,
    /// The file.
    pub path: String,
}

/// One page.
#[derive(Debug, Default)]
pub struct Page {
    /// Files in it.
    pub files: u64,
    /// Their copies.
    pub copies: Vec<ListedCopy>,
    /// What the next one comes after; `None` at the end.
    pub next: Option<String>,
}

/// Copies of the files of one page below a directory, or of a file.
pub fn page(connection: &mut AnyConnection, path: &DfsPath, after: Option<&str>) -> Result<Page> {
    let rows = listing::page(connection, path, after, PAGE_ENTRIES, true).map_err(Failure::into_error)?;
    let next = rows.last().filter(|_| rows.len() == PAGE_ENTRIES).map(|row| row.path.clone());
    let is_file = !tree::walk(connection, path)
        .and_then(|walk| Ok(walk.require()?.is_directory()))
        .map_err(Failure::into_error)?;
    let top = path.to_string();
    let full = |row: &listing::Listed| match is_file {
        true => top.clone(),
        false => format!("{}/{}", top.trim_end_matches('/'), row.path),
    };
    let files: HashMap<i64, String> = rows.iter().filter_map(|row| Some((row.entry.object?, full(row)))).collect();
    let ids: Vec<i64> = files.keys().copied().collect();
    let found: Vec<(ReplicaRow, i64)> = replicas::table
        .inner_join(objects::table.on(objects::id.eq(replicas::object)))
        .filter(replicas::object.eq_any(&ids).and(replicas::state.eq(ReplicaRow::PRESENT)))
        .order((replicas::object, replicas::server))
        .select((ReplicaRow::as_select(), objects::size))
        .load(connection)?;
    let copy = |(row, size): (ReplicaRow, i64)| ListedCopy {
        key: ReplicaKey { object: ObjectId(row.object), generation: Generation(row.generation) },
        server: row.server,
        size: size as u64,
        path: files.get(&row.object).cloned().unwrap_or_default(),
    };
    let files_seen = rows.iter().filter(|row| row.entry.object.is_some()).count() as u64;
    Ok(Page { files: files_seen, copies: found.into_iter().map(copy).collect(), next })
}

/// Of copies that a server does not have any more: those that were told to be corrupt or missing within this time, and what
/// was told. The others were moved, or their files removed.
pub fn found_bad(
    connection: &mut AnyConnection,
    copies: &[ListedCopy],
    age: Duration,
) -> Result<Vec<(ListedCopy, String)>> {
    const KINDS: &[&str] = &["replica_corrupt", "last_copy_corrupt", "replica_missing"];
    let age = chrono::TimeDelta::from_std(age).unwrap_or_default() + chrono::TimeDelta::seconds(10);
    let since = utc(dialect::clock(connection)? - age);
    let ids: Vec<i64> = copies.iter().map(|copy| copy.key.object.0).collect();
    let told: Vec<(i64, i64, String)> = events::table
        .filter(events::object.eq_any(&ids).and(events::id.ge(floor_at(since))))
        .filter(events::kind.eq_any(KINDS).and(events::server.is_not_null()))
        .order(events::id)
        .limit(EVENTS_ROWS_MAX)
        .select((events::object.assume_not_null(), events::server.assume_not_null(), events::detail))
        .load(connection)?;
    let told: HashMap<(i64, i64), String> =
        told.into_iter().map(|(object, server, detail)| ((object, server), detail)).collect();
    let bad = |copy: &ListedCopy| Some((copy.clone(), told.get(&(copy.key.object.0, copy.server))?.clone()));
    Ok(copies.iter().filter_map(bad).collect())
}
