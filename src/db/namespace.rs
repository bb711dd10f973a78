//! Changes of the namespace: each is one item of a [`Changes`] and costs the same however much lies below. Only a move of a
//! directory to a longer path looks at what is below, up to a limit.

use std::collections::{HashMap, VecDeque};

use diesel::prelude::*;

use super::change::{Changes, ReleaseTimes};
use super::error::Step;
use super::rows::{EntryRow, ObjectRow};
use super::tree::{self, Walk};
use super::{queue, schema};
use crate::types::limits::PATH_BYTES_MAX;
use crate::types::{CauseWord, DfsPath, EntryId, Error, ErrorCode, EventKind, Version};

/// Entries below a directory that a move looks at, at most, to find a path that would be too long.
const MOVE_LOOK_ROWS_MAX: usize = 10_000;
/// Directories whose entries are read together for that.
const MOVE_LOOK_PARENTS: usize = 500;

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Step<T> {
    Err(Error::new(code, message).into())
}

/// The directory above a path and the last name; the root itself cannot be changed.
fn split<'p>(path: &'p DfsPath, what: &str) -> Step<(DfsPath, &'p str)> {
    match path.split() {
        Some(parts) => Ok(parts),
        None => refuse(ErrorCode::InvalidRequest, format!("the root directory cannot be {what}")),
    }
}

/// A new directory's row.
pub(super) fn directory_row(changes: &Changes<'_>, parent: Option<i64>, name: &str) -> EntryRow {
    EntryRow {
        id: EntryId::generate().0,
        parent,
        name: name.into(),
        kind: EntryRow::DIRECTORY.into(),
        object: None,
        replication: None,
        version: changes.version(),
        created: changes.now,
        modified: changes.now,
    }
}

/// Makes a directory; with `parents` the missing ones above it too, and no error when it is there.
pub fn mkdir(changes: &mut Changes<'_>, path: &DfsPath, parents: bool) -> Step<()> {
    let walk = tree::walk(changes.connection, path)?;
    if let Some(entry) = walk.entry() {
        return match (entry.is_directory(), parents) {
            (true, true) => Ok(()),
            (true, false) => refuse(ErrorCode::AlreadyExists, format!("{path} exists already")),
            (false, _) => refuse(ErrorCode::AlreadyExists, format!("{path} exists already and is a file")),
        };
    }
    make_missing(changes, &walk, path, if parents { usize::MAX } else { 1 })?;
    changes.note(EventKind::DirectoryMade, path, None);
    Ok(())
}

/// Makes the directories at the end of a walk that are missing, at most `most` of them. Answers the last one.
pub(super) fn make_missing(changes: &mut Changes<'_>, walk: &Walk, path: &DfsPath, most: usize) -> Step<EntryRow> {
    let above = match walk.found().last() {
        Some(last) if last.is_directory() && walk.missing_names() <= most => last,
        _ => return Err(walk.missing().into()),
    };
    let mut made: Vec<EntryRow> = Vec::new();
    let mut parent = above.id;
    for name in path.components().skip(walk.found().len() - 1) {
        let row = directory_row(changes, Some(parent), name);
        parent = row.id;
        made.push(row);
    }
    let last = made.last().unwrap_or(above).clone();
    changes.insert_entries(&made)?;
    Ok(last)
}

/// Removes an empty directory.
pub fn rmdir(changes: &mut Changes<'_>, path: &DfsPath) -> Step<()> {
    split(path, "removed")?;
    let directory = tree::walk(changes.connection, path)?.require_directory()?.clone();
    if tree::has_children(changes.connection, directory.id)? {
        return refuse(ErrorCode::DirectoryNotEmpty, format!("{path} is not empty"));
    }
    changes.delete_entries(&[directory.id])?;
    changes.note(EventKind::DirectoryRemoved, path, None);
    Ok(())
}

/// Removes a file; with `recursive` also a directory, by detaching it in one row for the reaper to empty.
pub fn remove(
    changes: &mut Changes<'_>,
    path: &DfsPath,
    recursive: bool,
    if_match: Option<Version>,
    times: &ReleaseTimes,
) -> Step<()> {
    split(path, "removed")?;
    let entry = tree::walk(changes.connection, path)?.require()?.clone();
    check_version(path, &entry, if_match)?;
    match entry.object {
        Some(object) => {
            changes.delete_entries(&[entry.id])?;
            changes.note(EventKind::FileRemoved, path, None);
            crate::types::failpoint::REMOVE_ENTRY_GONE.passed();
            changes.release(object, CauseWord::Removed, times)
        }
        None if recursive => {
            detach(changes, entry)?;
            changes.note(EventKind::DirectoryRemoved, path, None);
            Ok(())
        }
        None => refuse(ErrorCode::IsADirectory, format!("{path} is a directory; remove it with recursive (rm -r)")),
    }
}

/// Takes a directory out of everyone's sight.
fn detach(changes: &mut Changes<'_>, mut entry: EntryRow) -> Step<()> {
    entry.parent = None;
    entry.name = EntryId(entry.id).to_string();
    entry.version = changes.version();
    changes.update_entry(&entry)
}

pub(super) fn check_version(path: &DfsPath, entry: &EntryRow, if_match: Option<Version>) -> Step<()> {
    match if_match {
        Some(version) if version != entry.version => refuse(
            ErrorCode::PreconditionFailed,
            format!("{path} has version {}, not {version}: it was changed meanwhile", entry.version),
        ),
        _ => Ok(()),
    }
}

/// Moves a file or directory to exactly `to`, replacing a file by a file and an empty directory by a
/// directory, as rename(2) does.
pub fn mv(changes: &mut Changes<'_>, from: &DfsPath, to: &DfsPath, times: &ReleaseTimes) -> Step<()> {
    split(from, "moved")?;
    let (to_parent, to_name) = split(to, "replaced")?;
    let mut entry = tree::walk(changes.connection, from)?.require()?.clone();
    let target_walk = tree::walk(changes.connection, &to_parent)?;
    let parent = target_walk.require_directory()?.id;
    if target_walk.passes_through(entry.id) {
        return refuse(ErrorCode::InvalidRequest, format!("{from} cannot be moved into itself ({to})"));
    }
    let target = tree::child(changes.connection, parent, to_name)?;
    if target.as_ref().is_some_and(|target| target.id == entry.id) {
        return Ok(());
    }
    check_paths_below(changes, &entry, from, to)?;
    if let Some(target) = &target {
        check_replaceable(changes, &entry, target, from, to)?;
        changes.delete_entries(&[target.id])?;
    }
    entry.parent = Some(parent);
    entry.name = to_name.into();
    entry.version = changes.version();
    changes.update_entry(&entry)?;
    changes.note(EventKind::Moved, from, Some(to));
    crate::types::failpoint::MOVE_WRITTEN.passed();
    if let Some(object) = entry.object {
        raise_copies(changes, object, target_walk.copies_wanted())?;
    }
    match target.and_then(|target| target.object) {
        Some(object) => changes.release(object, CauseWord::Replaced, times),
        None => Ok(()),
    }
}

/// How long the path of a name below one of so many bytes is; refused when that is too long for a path.
pub(super) fn check_path_bytes(above: usize, name: &str) -> Step<usize> {
    let bytes = above + 1 + name.len();
    if bytes <= PATH_BYTES_MAX {
        return Ok(bytes);
    }
    let message = format!("{name} in it would have a path of {bytes} bytes, and {PATH_BYTES_MAX} are the most");
    refuse(ErrorCode::InvalidPath, message)
}

/// Refuses a move that makes a path below too long, as far as the first [`MOVE_LOOK_ROWS_MAX`] entries tell, level by
/// level. A transaction cannot look at a tree of any size; whoever walks one names the paths that are too long for him.
fn check_paths_below(changes: &mut Changes<'_>, moved: &EntryRow, from: &DfsPath, to: &DfsPath) -> Step<()> {
    use schema::entries::dsl;
    // What is below fits below the old path.
    if !moved.is_directory() || to.as_str().len() <= from.as_str().len() {
        return Ok(());
    }
    let (mut waiting, mut left) = (VecDeque::from([(moved.id, to.as_str().len())]), MOVE_LOOK_ROWS_MAX);
    while !waiting.is_empty() && left > 0 {
        let some: HashMap<i64, usize> = waiting.drain(..waiting.len().min(MOVE_LOOK_PARENTS)).collect();
        let rows: Vec<(i64, Option<i64>, String, String)> = dsl::entries
            .filter(dsl::parent.eq_any(some.keys().copied().collect::<Vec<_>>()))
            .limit(left as i64)
            .select((dsl::id, dsl::parent, dsl::name, dsl::kind))
            .load(changes.connection)?;
        left -= rows.len();
        for (id, parent, name, kind) in rows {
            let Some(above) = parent.and_then(|parent| some.get(&parent)) else { continue };
            let bytes = check_path_bytes(*above, &name)?;
            if kind != EntryRow::FILE {
                waiting.push_back((id, bytes));
            }
        }
    }
    Ok(())
}

/// Whether rename(2) would replace `target` by `entry`.
fn check_replaceable(
    changes: &mut Changes<'_>,
    entry: &EntryRow,
    target: &EntryRow,
    from: &DfsPath,
    to: &DfsPath,
) -> Step<()> {
    match (entry.is_directory(), target.is_directory()) {
        (false, true) => {
            refuse(ErrorCode::IsADirectory, format!("{to} is a directory and cannot be replaced by a file"))
        }
        (true, false) => refuse(ErrorCode::NotADirectory, format!("{to} is a file and {from} is a directory")),
        (true, true) if tree::has_children(changes.connection, target.id)? => {
            refuse(ErrorCode::DirectoryNotEmpty, format!("{to} is a directory that is not empty"))
        }
        _ => Ok(()),
    }
}

/// Copies a file to exactly `to` by sharing its object.
pub fn cp_file(changes: &mut Changes<'_>, from: &DfsPath, to: &DfsPath, times: &ReleaseTimes) -> Step<()> {
    let source = tree::walk(changes.connection, from)?.require()?.clone();
    let Some(object) = source.object else {
        return refuse(ErrorCode::IsADirectory, format!("{from} is a directory; copy it with recursive (cp -r)"));
    };
    let (to_parent, to_name) = split(to, "replaced")?;
    let target_walk = tree::walk(changes.connection, &to_parent)?;
    let parent = target_walk.require_directory()?.id;
    let target = tree::child(changes.connection, parent, to_name)?;
    let replaced = match target {
        Some(target) if target.is_directory() => {
            return refuse(ErrorCode::IsADirectory, format!("{to} is a directory and cannot be replaced by a file"));
        }
        Some(target) if target.id == source.id => {
            return refuse(ErrorCode::InvalidRequest, format!("{from} and {to} are the same file"));
        }
        Some(mut target) => {
            let replaced = target.object.replace(object);
            target.version = changes.version();
            target.modified = changes.now;
            changes.update_entry(&target)?;
            replaced
        }
        None => {
            let row = EntryRow {
                kind: EntryRow::FILE.into(),
                object: Some(object),
                ..directory_row(changes, Some(parent), to_name)
            };
            changes.insert_entries(&[row])?;
            None
        }
    };
    changes.note(EventKind::Copied, from, Some(to));
    crate::types::failpoint::COPY_FILE_WRITTEN.passed();
    raise_copies(changes, object, target_walk.copies_wanted())?;
    match replaced {
        Some(replaced) => changes.release(replaced, CauseWord::Replaced, times),
        None => Ok(()),
    }
}

/// Makes an object want at least `copies`, and queues it when that is more than before.
pub(super) fn raise_copies(changes: &mut Changes<'_>, object: i64, copies: i32) -> Step<()> {
    use schema::objects;
    let mut row: ObjectRow = objects::table.find(object).select(ObjectRow::as_select()).first(changes.connection)?;
    if row.copies_wanted >= copies {
        return Ok(());
    }
    row.copies_wanted = copies;
    changes.update_object(&row)?;
    Ok(queue::look_again(changes.connection, &[object], changes.now)?)
}

/// Gives an entry the present time as its time of change. Answers whether it exists.
pub fn touch_existing(changes: &mut Changes<'_>, path: &DfsPath) -> Step<bool> {
    split(path, "touched")?;
    let walk = tree::walk(changes.connection, path)?;
    let Some(entry) = walk.entry() else {
        return match walk.missing_names() {
            1 if walk.found().last().is_some_and(EntryRow::is_directory) => Ok(false),
            _ => Err(walk.missing().into()),
        };
    };
    let mut entry = entry.clone();
    entry.version = changes.version();
    entry.modified = changes.now;
    changes.update_entry(&entry)?;
    changes.note(EventKind::Touched, path, None);
    Ok(true)
}

/// Sets how many copies files below a directory shall have; `None` inherits again.
pub fn set_replication(changes: &mut Changes<'_>, path: &DfsPath, copies: Option<u32>) -> Step<()> {
    let mut entry = tree::walk(changes.connection, path)?.require_directory()?.clone();
    if path.is_root() && copies.is_none() {
        return refuse(ErrorCode::InvalidRequest, "the root directory needs a number of copies");
    }
    entry.replication = copies.map(|copies| copies as i32);
    entry.version = changes.version();
    changes.update_entry(&entry)
}
