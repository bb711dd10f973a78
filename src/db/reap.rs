//! Emptying removed directories and forgetting dead objects, in bounded batches.

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::change::{Changes, ReleaseTimes, Released};
use super::error::Step;
use super::rows::{EntryRow, ObjectRow};
use super::schema::{building, cluster, entries, objects};
use super::timeline;
use crate::types::id::ROOT;
use crate::types::{CauseWord, EntryId};

/// Entries or objects of one batch.
pub const BATCH_ROWS: i64 = 200;

/// Removes up to [`BATCH_ROWS`] entries below one detached directory. Subdirectories are detached in turn, so
/// that the depth of what was removed costs nothing. Answers how many rows it handled.
pub fn empty_detached(changes: &mut Changes<'_>, times: &ReleaseTimes) -> Step<usize> {
    let Some((directory, version)) = next_detached(changes)? else { return Ok(0) };
    let children: Vec<EntryRow> = entries::table
        .filter(entries::parent.eq(directory))
        .limit(BATCH_ROWS)
        .select(EntryRow::as_select())
        .load(changes.connection)?;
    if children.is_empty() {
        diesel::delete(building::table.find(directory)).execute(changes.connection)?;
        changes.delete_entries(&[directory])?;
        return Ok(1);
    }
    let handled = children.len();
    let (directories, files): (Vec<EntryRow>, Vec<EntryRow>) = children.into_iter().partition(EntryRow::is_directory);
    for mut row in directories {
        row.parent = None;
        row.name = EntryId(row.id).to_string();
        // Whoever asks who removed it finds that change.
        row.version = version;
        changes.update_entry(&row)?;
    }
    let ids: Vec<i64> = files.iter().map(|row| row.id).collect();
    let by = timeline::maker_of(changes.connection, version)?;
    let released = |object| Released { object, cause: CauseWord::Removed, by: by.clone() };
    let released: Vec<Released> = files.iter().filter_map(|row| row.object).map(released).collect();
    changes.delete_entries(&ids)?;
    changes.release_objects(&released, times)?;
    crate::types::failpoint::REAP_EMPTIED.passed();
    Ok(handled)
}

/// A detached directory that nobody is building, with the version of the change that detached it.
fn next_detached(changes: &mut Changes<'_>) -> Step<Option<(i64, i64)>> {
    let building_now: Vec<i64> =
        building::table.filter(building::deadline.gt(changes.now)).select(building::entry).load(changes.connection)?;
    let directory = entries::table
        .filter(entries::parent.is_null().and(entries::id.ne(ROOT.0)).and(entries::id.ne_all(building_now)))
        .select((entries::id, entries::version))
        .first(changes.connection)
        .optional()?;
    Ok(directory)
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
    let building_now: i64 = building::table.filter(building::deadline.gt(now)).count().get_result(connection)?;
    // One more than are being built is enough to know; there may be a million while a large tree is emptied.
    let detached: Vec<i64> = entries::table
        .filter(entries::parent.is_null().and(entries::id.ne(ROOT.0)))
        .limit(building_now + 1)
        .select(entries::id)
        .load(connection)?;
    let dead: Option<i64> =
        objects::table.filter(objects::forget_after.lt(now)).select(objects::id).first(connection).optional()?;
    Ok(detached.len() as i64 > building_now || dead.is_some())
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
