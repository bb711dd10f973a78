//! Copies wanted: the number of a directory, and what follows from it for the objects below.
//!
//! A directory's number is one row; the objects below follow in bounded steps, each a change of its own. An
//! object that several entries share wants the largest of what their places want, so a step looks at all of
//! them. The places are looked up anew in every step: whatever is moved, copied or set meanwhile, the number
//! that a step writes is right at that moment.

use std::collections::{HashMap, HashSet};

use diesel::prelude::*;

use super::change::Changes;
use super::error::Step;
use super::rows::*;
use super::schema::{building, entries, objects};
use super::{dialect, events, namespace, queue, tree};
use crate::types::id::ROOT;
use crate::types::limits::REPLICATION_MAX;
use crate::types::{DfsPath, Error, EventKind};

/// Entries of a directory that one step looks at.
pub const STEP_ROWS: i64 = 300;
/// Entries that refer to the objects of a step, in one query.
const SHARED_ROWS: i64 = 2_000;

/// A directory's tree that is being adjusted. Its size is bounded by the depth of the tree times [`STEP_ROWS`].
#[derive(Debug, Clone, Default)]
pub struct Adjustment {
    stack: Vec<Frame>,
    /// Objects whose number was changed so far.
    pub changed: u64,
}

#[derive(Debug, Clone)]
struct Frame {
    directory: i64,
    /// The last name that was looked at.
    after: String,
    /// Subdirectories that are still to be looked at.
    subdirectories: Vec<i64>,
    listed: bool,
}

impl Frame {
    fn new(directory: i64) -> Self {
        Self { directory, after: String::new(), subdirectories: Vec::new(), listed: false }
    }
}

/// Sets the number of a directory, or of a file's object: at least what its other entries' directories want. A
/// file has no number of its own beyond that; its next content, and the next setting of a directory above it,
/// follow the directory again.
pub fn begin(changes: &mut Changes<'_>, path: &DfsPath, copies: u32) -> Step<Adjustment> {
    if !(1..=REPLICATION_MAX).contains(&copies) {
        return Err(Error::invalid(format!("the number of copies must be 1 to {REPLICATION_MAX}")).into());
    }
    let entry = tree::walk(changes.connection, path)?.require()?.clone();
    let detail = format!("{copies} copies of {path} are wanted from now on");
    let event = events::row(changes.now, EventKind::CopiesWanted, detail);
    let by_token = changes.by().map(String::from);
    dialect::insert_events(changes.connection, &[EventRow { path: Some(path.to_string()), by_token, ..event }])?;
    let Some(object) = entry.object else {
        namespace::set_replication(changes, path, Some(copies))?;
        return Ok(Adjustment { stack: vec![Frame::new(entry.id)], changed: 0 });
    };
    let own = HashMap::from([(entry.id, copies as i32)]);
    Ok(Adjustment { stack: Vec::new(), changed: adjust(changes, &[object], &own)? })
}

/// Adjusts the objects of some [`STEP_ROWS`] entries. Answers whether anything is left to do. Directories with a
/// number of their own keep it, with all below them.
pub fn step(changes: &mut Changes<'_>, mut adjustment: Adjustment) -> Step<(Adjustment, bool)> {
    let mut seen = 0;
    while seen < STEP_ROWS as usize {
        let Some(frame) = adjustment.stack.last_mut() else { break };
        if let Some(next) = frame.subdirectories.pop() {
            adjustment.stack.push(Frame::new(next));
        } else if frame.listed {
            adjustment.stack.pop();
        } else {
            let (rows, changed) = page(changes, frame)?;
            adjustment.changed += changed;
            // An empty directory costs a query too.
            seen += rows.max(1);
        }
    }
    let more = !adjustment.stack.is_empty();
    Ok((adjustment, more))
}

/// Looks at one page of a directory. Answers its rows, and how many objects were changed.
fn page(changes: &mut Changes<'_>, frame: &mut Frame) -> Step<(usize, u64)> {
    let rows: Vec<EntryRow> = entries::table
        .filter(entries::parent.eq(frame.directory).and(entries::name.gt(&frame.after)))
        .order(entries::name)
        .limit(STEP_ROWS)
        .select(EntryRow::as_select())
        .load(changes.connection)?;
    frame.listed = rows.len() < STEP_ROWS as usize;
    if let Some(last) = rows.last() {
        frame.after.clone_from(&last.name);
    }
    let inherits = |row: &&EntryRow| row.is_directory() && row.replication.is_none();
    frame.subdirectories.extend(rows.iter().filter(inherits).map(|row| row.id));
    let ids: Vec<i64> = rows.iter().filter_map(|row| row.object).collect();
    Ok((rows.len(), adjust(changes, &ids, &HashMap::new())?))
}

/// Gives live objects the largest number of their entries' places, and queues those for which that is another
/// one than before. `own` has entries whose number is given. Answers how many were changed.
fn adjust(changes: &mut Changes<'_>, ids: &[i64], own: &HashMap<i64, i32>) -> Step<u64> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(0);
    }
    let wanted = wanted(changes, &ids, own)?;
    dialect::lock_objects(changes.connection, &ids)?;
    let rows: Vec<ObjectRow> = objects::table
        .filter(objects::id.eq_any(&ids).and(objects::state.eq(ObjectRow::LIVE)))
        .select(ObjectRow::as_select())
        .load(changes.connection)?;
    let mut changed = Vec::new();
    for mut row in rows {
        let Some(wanted) = wanted.get(&row.id) else { continue };
        let copies = if wanted.keep { wanted.copies.max(row.copies_wanted) } else { wanted.copies };
        if copies > 0 && copies != row.copies_wanted {
            row.copies_wanted = copies;
            changes.update_object(&row)?;
            changed.push(row.id);
        }
    }
    queue::look_again(changes.connection, &changed, changes.now)?;
    Ok(changed.len() as u64)
}

/// What the entries of an object want together; 0 copies when nobody can see any of them.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    copies: i32,
    /// A copy of a directory is being built around one of them, and nobody knows yet where it will be.
    keep: bool,
}

fn wanted(changes: &mut Changes<'_>, ids: &[i64], own: &HashMap<i64, i32>) -> Step<HashMap<i64, Wanted>> {
    let mut wanted: HashMap<i64, Wanted> = HashMap::new();
    let mut places = Places::load(changes)?;
    let mut after = i64::MIN;
    loop {
        let shared: Vec<EntryRow> = entries::table
            .filter(entries::object.eq_any(ids).and(entries::id.gt(after)))
            .order(entries::id)
            .limit(SHARED_ROWS)
            .select(EntryRow::as_select())
            .load(changes.connection)?;
        places.add(changes, shared.iter().filter_map(|row| row.parent).collect())?;
        for row in &shared {
            let (Some(object), Some(parent)) = (row.object, row.parent) else { continue };
            let wanted = wanted.entry(object).or_default();
            match own.get(&row.id).map_or_else(|| places.wants(parent), |copies| Place::Copies(*copies)) {
                Place::Copies(copies) => wanted.copies = wanted.copies.max(copies),
                Place::BeingBuilt => wanted.keep = true,
                Place::Removed => {}
            }
        }
        match shared.last() {
            Some(last) if shared.len() == SHARED_ROWS as usize => after = last.id,
            _ => return Ok(wanted),
        }
    }
}

/// Directories on the way from entries to the root.
struct Places {
    rows: HashMap<i64, (Option<i64>, Option<i32>)>,
    building: HashSet<i64>,
}

/// What the place of an entry wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So many copies.
    Copies(i32),
    /// A directory that is being copied.
    BeingBuilt,
    /// Nobody can see it any more.
    Removed,
}

impl Places {
    fn load(changes: &mut Changes<'_>) -> Step<Self> {
        let building = building::table
            .filter(building::deadline.gt(changes.now))
            .select(building::entry)
            .load::<i64>(changes.connection)?;
        Ok(Self { rows: HashMap::new(), building: building.into_iter().collect() })
    }

    /// Takes these directories in, and all above them.
    fn add(&mut self, changes: &mut Changes<'_>, mut missing: Vec<i64>) -> Step<()> {
        loop {
            missing.retain(|id| !self.rows.contains_key(id));
            missing.sort_unstable();
            missing.dedup();
            if missing.is_empty() {
                return Ok(());
            }
            let found: Vec<(i64, Option<i64>, Option<i32>)> = entries::table
                .filter(entries::id.eq_any(&missing))
                .select((entries::id, entries::parent, entries::replication))
                .load(changes.connection)?;
            missing = found.iter().filter_map(|(_, parent, _)| *parent).collect();
            self.rows.extend(found.into_iter().map(|(id, parent, copies)| (id, (parent, copies))));
        }
    }

    /// The nearest number on the way up from a directory, if the way ends at the root.
    fn wants(&self, directory: i64) -> Place {
        let (mut at, mut copies) = (directory, None);
        // A way up is never longer than that; a ring would be.
        for _ in 0..=self.rows.len() {
            let Some((parent, own)) = self.rows.get(&at) else { return Place::Removed };
            copies = copies.or(*own);
            match (parent, copies) {
                (Some(parent), _) => at = *parent,
                (None, Some(copies)) if at == ROOT.0 => return Place::Copies(copies),
                (None, _) if self.building.contains(&at) => return Place::BeingBuilt,
                (None, _) => return Place::Removed,
            }
        }
        Place::Removed
    }
}
