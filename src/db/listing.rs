//! Listings by keyset pages, and what is known of the files in them.

use std::collections::{HashMap, VecDeque};

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::*;
use super::server_view::{ServerView, server_views};
use super::{schema, tree};
use crate::types::api::Health;
use crate::types::{DfsPath, Result};

/// Rows that one query of a recursive listing fetches.
const FETCH_ROWS: i64 = 256;

/// An entry of a listing, with its path relative to the listed directory.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Names joined by slashes.
    pub path: String,
    /// The entry.
    pub entry: EntryRow,
    /// Copies wanted of files in it (directories).
    pub copies_wanted: i32,
}

/// One page of a directory, in the order of the names' bytes. `after` is the path of the last one before it.
pub fn page(
    connection: &mut AnyConnection,
    path: &DfsPath,
    after: Option<&str>,
    limit: usize,
    recursive: bool,
) -> Step<Vec<Listed>> {
    let walk = tree::walk(connection, path)?;
    let entry = walk.require()?;
    if !entry.is_directory() {
        let listed = Listed { path: path.name().into(), entry: entry.clone(), copies_wanted: walk.copies_wanted() };
        return Ok(if after.is_some() { Vec::new() } else { vec![listed] });
    }
    let top = Frame::new(entry.id, String::new(), walk.copies_wanted());
    let mut stack = resume(connection, top, after, recursive)?;
    let mut rows = Vec::new();
    while rows.len() < limit {
        let Some(frame) = stack.last_mut() else { break };
        match frame.next(connection)? {
            None => drop(stack.pop()),
            Some(entry) => {
                let below = entry.replication.unwrap_or(frame.copies_wanted);
                let path = if frame.prefix.is_empty() {
                    entry.name.clone()
                } else {
                    format!("{}/{}", frame.prefix, entry.name)
                };
                if recursive && entry.is_directory() {
                    stack.push(Frame::new(entry.id, path.clone(), below));
                }
                rows.push(Listed { path, entry, copies_wanted: below });
            }
        }
    }
    Ok(rows)
}

/// A directory whose entries are being listed.
struct Frame {
    directory: i64,
    prefix: String,
    copies_wanted: i32,
    after: String,
    fetched: VecDeque<EntryRow>,
    exhausted: bool,
}

impl Frame {
    fn new(directory: i64, prefix: String, copies_wanted: i32) -> Self {
        Self { directory, prefix, copies_wanted, after: String::new(), fetched: VecDeque::new(), exhausted: false }
    }

    fn next(&mut self, connection: &mut AnyConnection) -> QueryResult<Option<EntryRow>> {
        use schema::entries::dsl;
        if self.fetched.is_empty() && !self.exhausted {
            let rows: Vec<EntryRow> = dsl::entries
                .filter(dsl::parent.eq(self.directory).and(dsl::name.gt(&self.after)))
                .order(dsl::name)
                .limit(FETCH_ROWS)
                .select(EntryRow::as_select())
                .load(connection)?;
            self.exhausted = rows.len() < FETCH_ROWS as usize;
            self.fetched = rows.into();
        }
        let next = self.fetched.pop_front();
        if let Some(entry) = &next {
            self.after.clone_from(&entry.name);
        }
        Ok(next)
    }
}

/// The stack of directories as it was behind the entry `after`. What was removed since is skipped.
fn resume(connection: &mut AnyConnection, top: Frame, after: Option<&str>, recursive: bool) -> QueryResult<Vec<Frame>> {
    let mut stack = vec![top];
    let Some(after) = after else { return Ok(stack) };
    for name in after.split('/') {
        let Some(frame) = stack.last_mut() else { break };
        frame.after = name.into();
        if !recursive {
            break;
        }
        match tree::child(connection, frame.directory, name)? {
            Some(entry) if entry.is_directory() => {
                let prefix = if frame.prefix.is_empty() { name.into() } else { format!("{}/{name}", frame.prefix) };
                let copies = entry.replication.unwrap_or(frame.copies_wanted);
                stack.push(Frame::new(entry.id, prefix, copies));
            }
            _ => break,
        }
    }
    Ok(stack)
}

/// What is known of a file's bytes.
#[derive(Debug, Clone)]
pub struct ObjectView {
    /// The object.
    pub object: ObjectRow,
    /// Its copies, each with its server; best first.
    pub copies: Vec<(ReplicaRow, ServerView)>,
}

impl ObjectView {
    /// Copies that can be counted on: present, on servers that are not down.
    pub fn healthy(&self) -> u32 {
        let counts = |(copy, server): &&(ReplicaRow, ServerView)| {
            copy.state == ReplicaRow::PRESENT && server.health != Health::Down
        };
        self.copies.iter().filter(counts).count() as u32
    }
}

/// The objects of these ids with their copies, those first that can be read best: present, on a live server that does not
/// fail.
pub fn object_views(connection: &mut AnyConnection, ids: &[i64]) -> Result<HashMap<i64, ObjectView>> {
    use schema::{objects, replicas};
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let servers: HashMap<i64, ServerView> =
        server_views(connection)?.into_iter().map(|view| (view.row.id, view)).collect();
    let rows: Vec<ObjectRow> =
        objects::table.filter(objects::id.eq_any(ids)).select(ObjectRow::as_select()).load(connection)?;
    let copies: Vec<ReplicaRow> =
        replicas::table.filter(replicas::object.eq_any(ids)).select(ReplicaRow::as_select()).load(connection)?;
    let mut views: HashMap<i64, ObjectView> =
        rows.into_iter().map(|object| (object.id, ObjectView { object, copies: Vec::new() })).collect();
    for copy in copies {
        if let (Some(view), Some(server)) = (views.get_mut(&copy.object), servers.get(&copy.server)) {
            view.copies.push((copy, server.clone()));
        }
    }
    for view in views.values_mut() {
        view.copies.sort_by_key(|(copy, server)| {
            // Ties are broken by a number that differs from object to object, so that reads spread.
            (copy.state != ReplicaRow::PRESENT, server.health as u8, server.is_failing(), copy.generation)
        });
    }
    Ok(views)
}
