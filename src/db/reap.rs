//! Emptying removed directories and forgetting dead objects, in bounded batches.

use std::collections::{HashMap, HashSet};

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::change::{Changes, ReleaseTimes, Released};
use super::error::Step;
use super::rows::{EntryRow, ObjectRow};
use super::schema::{building, cluster, entries, objects};
use super::timeline;
use crate::types::{CauseWord, EntryId};

/// Entries or objects of one batch.
pub const BATCH_ROWS: i64 = 200;
/// Detached directories that are emptied together.
const DIRECTORIES_MAX: i64 = 50;

/// Removes up to [`BATCH_ROWS`] entries below detached directories, and those of these that are empty. Subdirectories are
/// detached in turn, so that the depth of what was removed costs nothing, and neither does the number of directories: some
/// are emptied together. Answers how many rows it handled.
pub fn empty_detached(changes: &mut Changes<'_>, times: &ReleaseTimes) -> Step<usize> {
    let detached: Vec<(i64, i64)> = nobody_builds(changes.now)
        .limit(DIRECTORIES_MAX)
        .select((entries::id, entries::version))
        .load(changes.connection)?;
    if detached.is_empty() {
        return Ok(0);
    }
    let versions: HashMap<i64, i64> = detached.into_iter().collect();
    let ids: Vec<i64> = versions.keys().copied().collect();
    let children: Vec<EntryRow> = entries::table
        .filter(entries::parent.eq_any(&ids))
        .limit(BATCH_ROWS)
        .select(EntryRow::as_select())
        .load(changes.connection)?;
    let mut handled = children.len();
    if children.len() < BATCH_ROWS as usize {
        let full: HashSet<i64> = children.iter().filter_map(|row| row.parent).collect();
        let empty: Vec<i64> = ids.into_iter().filter(|id| !full.contains(id)).collect();
        diesel::delete(building::table.filter(building::entry.eq_any(&empty))).execute(changes.connection)?;
        changes.delete_entries(&empty)?;
        handled += empty.len();
    }
    let (directories, files): (Vec<EntryRow>, Vec<EntryRow>) = children.into_iter().partition(EntryRow::is_directory);
    let detached_by = |row: &EntryRow| row.parent.and_then(|parent| versions.get(&parent).copied());
    for mut row in directories {
        // Whoever asks who removed it finds that change.
        row.version = detached_by(&row).unwrap_or(row.version);
        row.parent = None;
        row.name = EntryId(row.id).to_string();
        changes.update_entry(&row)?;
    }
    let mut makers: HashMap<i64, Option<String>> = HashMap::new();
    let mut released = Vec::with_capacity(files.len());
    for row in &files {
        let (Some(object), Some(version)) = (row.object, detached_by(row)) else { continue };
        let by = match makers.get(&version) {
            Some(by) => by.clone(),
            None => makers.entry(version).or_insert(timeline::maker_of(changes.connection, version)?).clone(),
        };
        released.push(Released { object, cause: CauseWord::Removed, by });
    }
    changes.delete_entries(&files.iter().map(|row| row.id).collect::<Vec<_>>())?;
    changes.release_objects(&released, times)?;
    crate::types::failpoint::REAP_EMPTIED.passed();
    Ok(handled)
}

/// Detached directories that nobody is building.
#[diesel::dsl::auto_type(no_type_alias)]
fn nobody_builds(now: NaiveDateTime) -> _ {
    let built = building::table.filter(building::entry.eq(entries::id).and(building::deadline.gt(now)));
    let detached = entries::parent.is_null().and(entries::id.ne(1i64));
    entries::table.filter(detached.and(diesel::dsl::not(diesel::dsl::exists(built))))
}

/// Whether [`empty_detached`], [`forget_objects`] or the removal of old events and noted changes has anything
/// to do; a cheap look without a lock.
pub fn has_work(
    connection: &mut super::AnyConnection,
    events_keep: TimeDelta,
    changes_keep: TimeDelta,
) -> crate::types::Result<bool> {
    let now = super::cluster::state(connection)?.now.naive_utc();
    let old = super::events::has_older(connection, now - events_keep)?
        || timeline::has_older_changes(connection, now - changes_keep)?;
    if old {
        return Ok(true);
    }
    let detached: Option<i64> = nobody_builds(now).select(entries::id).first(connection).optional()?;
    let dead: Option<i64> =
        objects::table.filter(objects::forget_after.lt(now)).select(objects::id).first(connection).optional()?;
    Ok(detached.is_some() || dead.is_some())
}

/// Removes the rows of deleted and aborted objects that no ticket can name any more. The clock's floor rises
/// to their times, so that a clock that jumps back cannot make their tickets valid again.
pub fn forget_objects(changes: &mut Changes<'_>) -> Step<usize> {
    let dead: Vec<ObjectRow> = objects::table
        .filter(objects::forget_after.lt(changes.now))
        .limit(BATCH_ROWS)
        .select(ObjectRow::as_select())
        .load(changes.connection)?;
    let Some(floor) = dead.iter().filter_map(|row| row.forget_after).max() else { return Ok(0) };
    raise_clock_floor(changes, floor)?;
    let ids: Vec<i64> = dead.iter().map(|row| row.id).collect();
    diesel::delete(objects::table.filter(objects::id.eq_any(ids))).execute(changes.connection)?;
    for row in dead.iter().filter(|row| row.state == ObjectRow::DELETED) {
        changes.record::<ObjectRow>("objects", row.id, None)?;
    }
    Ok(dead.len())
}

fn raise_clock_floor(changes: &mut Changes<'_>, floor: NaiveDateTime) -> Step<()> {
    diesel::update(cluster::table.filter(cluster::clock_floor.lt(floor)))
        .set(cluster::clock_floor.eq(floor))
        .execute(changes.connection)?;
    Ok(())
}
