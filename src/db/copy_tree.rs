//! Copying a directory: built where nobody sees it, in bounded steps, and attached in one row.
//!
//! What it shows is atomic in appearance, not a snapshot: changes made in the source while the copy is being
//! built may or may not be in it. A builder that dies leaves a detached directory, which the reaper removes
//! after its deadline.

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::change::Changes;
use super::error::Step;
use super::namespace::{check_path_bytes, directory_row, raise_copies};
use super::rows::{EntryRow, ObjectRow};
use super::{schema, tree};
use crate::types::{DfsPath, EntryId, Error, ErrorCode, EventKind};

/// Entries that one step copies.
pub const STEP_ROWS: i64 = 500;
/// How long a builder may be silent between two steps.
const BUILD_DEADLINE: TimeDelta = TimeDelta::minutes(10);

/// A copy under way. Its size is bounded by the depth of the tree times [`STEP_ROWS`].
#[derive(Debug, Clone)]
pub struct Copy {
    source: i64,
    root: i64,
    copies_wanted: i32,
    stack: Vec<Frame>,
}

/// A directory that is being copied.
#[derive(Debug, Clone)]
struct Frame {
    source: i64,
    target: i64,
    /// How long the target's path is.
    path_bytes: usize,
    /// The last name that has been copied.
    after: Option<String>,
    /// Subdirectories that have been made and are still to be filled.
    subdirectories: Vec<(i64, i64, usize)>,
    listed: bool,
}

impl Frame {
    fn new(source: i64, target: i64, path_bytes: usize) -> Self {
        Self { source, target, path_bytes, after: None, subdirectories: Vec::new(), listed: false }
    }
}

/// Checks both ends and makes the top directory, detached.
pub fn begin(changes: &mut Changes<'_>, from: &DfsPath, to: &DfsPath) -> Step<Copy> {
    let source = tree::walk(changes.connection, from)?.require_directory()?.clone();
    let (parent_walk, _) = check_target(changes, from, to, source.id)?;
    let mut root = directory_row(changes, None, "");
    root.name = EntryId(root.id).to_string();
    root.replication = source.replication.filter(|_| source.id != crate::types::id::ROOT.0);
    changes.insert_entries(&[root.clone()])?;
    let deadline = changes.now + BUILD_DEADLINE;
    diesel::insert_into(schema::building::table)
        .values((schema::building::entry.eq(root.id), schema::building::deadline.eq(deadline)))
        .execute(changes.connection)?;
    let copies_wanted = root.replication.unwrap_or_else(|| parent_walk.copies_wanted());
    let stack = vec![Frame::new(source.id, root.id, to.as_str().len())];
    Ok(Copy { source: source.id, root: root.id, copies_wanted, stack })
}

/// Where the copy goes: the directory must exist, the name must be free, and it must not lie in the source.
fn check_target(changes: &mut Changes<'_>, from: &DfsPath, to: &DfsPath, source: i64) -> Step<(tree::Walk, String)> {
    let Some((to_parent, to_name)) = to.split() else {
        return Err(Error::invalid("the root directory cannot be replaced").into());
    };
    let walk = tree::walk(changes.connection, &to_parent)?;
    let parent = walk.require_directory()?.id;
    if walk.passes_through(source) {
        return Err(Error::invalid(format!("{from} cannot be copied into itself ({to})")).into());
    }
    if tree::child(changes.connection, parent, to_name)?.is_some() {
        return Err(Error::new(ErrorCode::AlreadyExists, format!("{to} exists already")).into());
    }
    Ok((walk, to_name.to_string()))
}

/// Copies up to [`STEP_ROWS`] entries. Answers whether anything is left to do.
pub fn step(changes: &mut Changes<'_>, mut copy: Copy) -> Step<(Copy, bool)> {
    renew_deadline(changes, copy.root)?;
    let Some(frame) = copy.stack.last_mut() else {
        return Ok((copy, false));
    };
    if let Some((source, target, path_bytes)) = frame.subdirectories.pop() {
        copy.stack.push(Frame::new(source, target, path_bytes));
    } else if frame.listed {
        copy.stack.pop();
        let more = !copy.stack.is_empty();
        return Ok((copy, more));
    }
    let copies_wanted = copy.copies_wanted;
    if let Some(frame) = copy.stack.last_mut() {
        copy_page(changes, frame, copies_wanted)?;
        crate::types::failpoint::COPY_TREE_STEP.passed();
    }
    Ok((copy, true))
}

fn renew_deadline(changes: &mut Changes<'_>, root: i64) -> Step<()> {
    use schema::building::dsl;
    let deadline: NaiveDateTime = changes.now + BUILD_DEADLINE;
    // One that has expired is the reaper's, even if its row is still there: parts of it may be gone.
    let alive = dsl::building.filter(dsl::entry.eq(root).and(dsl::deadline.gt(changes.now)));
    let renewed = diesel::update(alive).set(dsl::deadline.eq(deadline)).execute(changes.connection)?;
    if renewed == 0 {
        return Err(Error::unavailable("the copy took too long between two steps and was removed; try again").into());
    }
    Ok(())
}

fn copy_page(changes: &mut Changes<'_>, frame: &mut Frame, copies_wanted: i32) -> Step<()> {
    use schema::entries::dsl;
    let after = frame.after.clone().unwrap_or_default();
    let page: Vec<EntryRow> = dsl::entries
        .filter(dsl::parent.eq(frame.source).and(dsl::name.gt(after)))
        .order(dsl::name)
        .limit(STEP_ROWS)
        .select(EntryRow::as_select())
        .load(changes.connection)?;
    frame.listed = page.len() < STEP_ROWS as usize;
    frame.after = page.last().map(|row| row.name.clone()).or(frame.after.take());
    let mut rows = Vec::with_capacity(page.len());
    for source in &page {
        let path_bytes = check_path_bytes(frame.path_bytes, &source.name)?;
        let row = EntryRow {
            kind: source.kind.clone(),
            object: source.object,
            replication: source.replication,
            ..directory_row(changes, Some(frame.target), &source.name)
        };
        if source.is_directory() {
            frame.subdirectories.push((source.id, row.id, path_bytes));
        }
        rows.push(row);
    }
    let objects: Vec<i64> = page.iter().filter_map(|row| row.object).collect();
    changes.insert_entries(&rows)?;
    let short: Vec<i64> = schema::objects::table
        .filter(schema::objects::id.eq_any(objects))
        .filter(schema::objects::copies_wanted.lt(copies_wanted))
        .filter(schema::objects::state.eq(ObjectRow::LIVE))
        .select(schema::objects::id)
        .load(changes.connection)?;
    for object in short {
        raise_copies(changes, object, copies_wanted)?;
    }
    Ok(())
}

/// Attaches the finished copy, if both ends are still what they were.
pub fn attach(changes: &mut Changes<'_>, copy: &Copy, from: &DfsPath, to: &DfsPath) -> Step<()> {
    if tree::walk(changes.connection, from)?.require()?.id != copy.source {
        return Err(Error::not_found(format!("{from} was replaced while it was being copied")).into());
    }
    renew_deadline(changes, copy.root)?;
    let (walk, name) = check_target(changes, from, to, copy.source)?;
    let parent = walk.require_directory()?.id;
    let mut root: EntryRow =
        schema::entries::table.find(copy.root).select(EntryRow::as_select()).first(changes.connection)?;
    root.parent = Some(parent);
    root.name = name;
    root.version = changes.version();
    changes.update_entry(&root)?;
    changes.note(EventKind::Copied, from, Some(to));
    crate::types::failpoint::COPY_TREE_ATTACHED.passed();
    diesel::delete(schema::building::table.find(copy.root)).execute(changes.connection)?;
    Ok(())
}
