//! Checks of the metadata itself, in bounded pages, and what can be put right about what they find.
//!
//! A page sees one state of the database, and what it finds may still be a change under way: whoever asks looks
//! again a little later before believing it.

use std::collections::{HashMap, HashSet};

use chrono::TimeDelta;
use diesel::prelude::*;

use super::change::{Changes, ReleaseTimes, Released};
use super::connection::AnyConnection;
use super::error::Step;
use super::rows::*;
use super::schema::{cluster, entries, objects, replicas};
use super::server_view::server_views;
use super::{dialect, events};
use crate::types::api::Health;
use crate::types::id::ROOT;
use crate::types::limits::PATH_BYTES_MAX;
use crate::types::storage_api::ReplicaKey;
use crate::types::{CauseWord, EntryId, EventKind, ObjectId, Result, ServerId};

/// Objects or entries of one page.
pub const PAGE_ROWS: i64 = 1_000;

/// What is wrong with an object or an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Problem {
    /// No entry refers to the object, and it is live.
    Unreferenced,
    /// Fewer copies on servers that are not down than wanted.
    UnderReplicated {
        /// Copies there are.
        copies: i32,
    },
    /// No server is listed for the object.
    Lost,
    /// A copy is listed of an object that is not live.
    StaleReplica(ServerId),
    /// The entry's object is not there, or not live.
    Dangling,
    /// The entry's directory is not there, or is a file.
    Orphan,
}

impl Problem {
    /// What programs know it by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreferenced => "unreferenced",
            Self::UnderReplicated { .. } => "under_replicated",
            Self::Lost => "lost",
            Self::StaleReplica(_) => "stale_replica",
            Self::Dangling => "dangling",
            Self::Orphan => "orphan_entry",
        }
    }
}

/// One finding.
#[derive(Debug, Clone)]
pub struct Found {
    /// The entry, if it is about one.
    pub entry: Option<EntryId>,
    /// The object, if there is one.
    pub object: Option<ObjectId>,
    /// What is wrong.
    pub problem: Problem,
    /// The same in words.
    pub detail: String,
}

impl Found {
    fn object(row: &ObjectRow, problem: Problem, detail: String) -> Self {
        Self { entry: None, object: Some(ObjectId(row.id)), problem, detail }
    }
}

/// What a page or a second look showed.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// Live objects, or entries, that were looked at.
    pub seen: usize,
    /// What is wrong with them.
    pub found: Vec<Found>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<i64>,
}

fn page_end(ids: &[i64]) -> Option<i64> {
    if ids.len() < PAGE_ROWS as usize { None } else { ids.last().copied() }
}

/// Looks at the next page of objects.
pub fn objects_after(connection: &mut AnyConnection, after: i64) -> Step<Looked> {
    let ids: Vec<i64> = objects::table
        .filter(objects::id.gt(after))
        .order(objects::id)
        .limit(PAGE_ROWS)
        .select(objects::id)
        .load(connection)?;
    Ok(Looked { next: page_end(&ids), ..look_at_objects(connection, &ids)? })
}

/// Looks at these objects.
pub fn look_at_objects(connection: &mut AnyConnection, ids: &[i64]) -> Step<Looked> {
    let rows: Vec<ObjectRow> = objects::table
        .filter(objects::id.eq_any(ids))
        .order(objects::id)
        .select(ObjectRow::as_select())
        .load(connection)?;
    let referred = referred(connection, ids)?;
    let listed: Vec<(i64, i64, String)> = replicas::table
        .filter(replicas::object.eq_any(ids))
        .select((replicas::object, replicas::server, replicas::state))
        .load(connection)?;
    let mut copies: HashMap<i64, Vec<(i64, bool)>> = HashMap::new();
    for (object, server, state) in listed {
        copies.entry(object).or_default().push((server, state == ReplicaRow::PRESENT));
    }
    let down: HashMap<i64, bool> =
        server_views(connection)?.into_iter().map(|view| (view.row.id, view.health == Health::Down)).collect();
    let answers = |server: i64| down.get(&server).is_some_and(|down| !down);
    let mut looked = Looked::default();
    for row in &rows {
        let copies = copies.get(&row.id).map_or(&[][..], Vec::as_slice);
        if row.state != ObjectRow::LIVE {
            looked.found.extend(copies.iter().map(|(server, _)| stale(row, *server)));
            continue;
        }
        looked.seen += 1;
        if !referred.contains(&row.id) {
            let detail = format!("no file refers to these bytes, which were {} at their commit", row.label);
            looked.found.push(Found::object(row, Problem::Unreferenced, detail));
            continue;
        }
        let present: Vec<i64> = copies.iter().filter(|(_, present)| *present).map(|(server, _)| *server).collect();
        let counted = present.iter().filter(|server| answers(**server)).count() as i32;
        looked.found.extend(short(row, present.len(), counted));
    }
    Ok(looked)
}

fn stale(row: &ObjectRow, server: i64) -> Found {
    let detail = format!("a copy is listed of bytes that are {}; they were {} at their commit", row.state, row.label);
    Found::object(row, Problem::StaleReplica(ServerId(server)), detail)
}

fn short(row: &ObjectRow, listed: usize, counted: i32) -> Option<Found> {
    if counted >= row.copies_wanted {
        return None;
    }
    let (label, wanted) = (&row.label, row.copies_wanted);
    if listed == 0 {
        let detail = format!("no server is listed for these bytes, which were {label} at their commit");
        return Some(Found::object(row, Problem::Lost, detail));
    }
    let detail =
        format!("{counted} of {wanted} copies wanted are on servers that answer; it was {label} at its commit");
    Some(Found::object(row, Problem::UnderReplicated { copies: counted }, detail))
}

/// Those of these objects that entries refer to.
fn referred(connection: &mut AnyConnection, ids: &[i64]) -> QueryResult<HashSet<i64>> {
    let referred: Vec<Option<i64>> =
        entries::table.filter(entries::object.eq_any(ids)).select(entries::object).distinct().load(connection)?;
    Ok(referred.into_iter().flatten().collect())
}

/// Looks at the next page of entries.
pub fn entries_after(connection: &mut AnyConnection, after: i64) -> Step<Looked> {
    let ids: Vec<i64> = entries::table
        .filter(entries::id.gt(after))
        .order(entries::id)
        .limit(PAGE_ROWS)
        .select(entries::id)
        .load(connection)?;
    Ok(Looked { next: page_end(&ids), ..look_at_entries(connection, &ids)? })
}

/// Looks at these entries. A detached directory is none: the reaper empties it, or somebody builds it.
pub fn look_at_entries(connection: &mut AnyConnection, ids: &[i64]) -> Step<Looked> {
    let rows: Vec<EntryRow> = entries::table
        .filter(entries::id.eq_any(ids))
        .order(entries::id)
        .select(EntryRow::as_select())
        .load(connection)?;
    let wanted: Vec<i64> = rows.iter().filter_map(|row| row.object).collect();
    let live: HashSet<i64> = objects::table
        .filter(objects::id.eq_any(&wanted).and(objects::state.eq(ObjectRow::LIVE)))
        .select(objects::id)
        .load::<i64>(connection)?
        .into_iter()
        .collect();
    let above: Vec<i64> = rows.iter().filter_map(|row| row.parent).collect();
    let directories: HashSet<i64> = entries::table
        .filter(entries::id.eq_any(&above).and(entries::kind.eq(EntryRow::DIRECTORY)))
        .select(entries::id)
        .load::<i64>(connection)?
        .into_iter()
        .collect();
    let mut looked = Looked { seen: rows.len(), ..Looked::default() };
    for row in &rows {
        let mut note = |problem: Problem, detail: &str| {
            let object = row.object.map(ObjectId);
            looked.found.push(Found { entry: Some(EntryId(row.id)), object, problem, detail: detail.into() });
        };
        if row.object.is_some_and(|object| !live.contains(&object)) {
            note(Problem::Dangling, "the bytes of this file are not there any more");
        }
        match row.parent {
            Some(parent) if !directories.contains(&parent) => note(Problem::Orphan, "it lies in no directory"),
            None if !row.is_directory() => note(Problem::Orphan, "it lies in no directory"),
            _ => {}
        }
    }
    Ok(looked)
}

/// The path of an entry, for people; it begins with `…` when it does not reach the root.
pub fn path_of(connection: &mut AnyConnection, entry: EntryId) -> Result<String> {
    let (mut names, mut at) = (Vec::new(), entry.0);
    // Each name takes a byte and a slash.
    for _ in 0..PATH_BYTES_MAX {
        if at == ROOT.0 {
            names.push(String::new());
            break;
        }
        let row: Option<(String, Option<i64>)> =
            entries::table.find(at).select((entries::name, entries::parent)).first(connection).optional()?;
        let Some((name, parent)) = row else { break };
        names.push(name);
        match parent {
            Some(parent) => at = parent,
            None => break,
        }
    }
    if at != ROOT.0 {
        names.push("…".into());
    }
    names.reverse();
    Ok(if names.len() == 1 { "/".into() } else { names.join("/") })
}

/// Those of these copies that the metadata does not list on a server.
pub fn unlisted(connection: &mut AnyConnection, server: i64, keys: &[ReplicaKey]) -> Result<usize> {
    let ids: Vec<i64> = keys.iter().map(|key| key.object.0).collect();
    let listed: HashSet<(i64, i64)> = replicas::table
        .filter(replicas::server.eq(server).and(replicas::object.eq_any(ids)))
        .select((replicas::object, replicas::generation))
        .load::<(i64, i64)>(connection)?
        .into_iter()
        .collect();
    Ok(keys.iter().filter(|key| !listed.contains(&(key.object.0, key.generation.0))).count())
}

/// Lets go of those of these objects that are live and that no entry refers to. Answers how many there were.
pub fn release(changes: &mut Changes<'_>, ids: &[i64], times: &ReleaseTimes) -> Step<usize> {
    let referred = referred(changes.connection, ids)?;
    let live: Vec<i64> = objects::table
        .filter(objects::id.eq_any(ids).and(objects::state.eq(ObjectRow::LIVE)))
        .select(objects::id)
        .load(changes.connection)?;
    let free: Vec<i64> = live.into_iter().filter(|id| !referred.contains(id)).collect();
    let released = |id: &i64| Released { object: *id, cause: CauseWord::Unreferenced, by: None };
    changes.release_objects(&free.iter().map(released).collect::<Vec<_>>(), times)?;
    Ok(free.len())
}

/// Gives up the copies of those of these objects that are not live, unless a file refers to them still: then they
/// are evidence. Answers how many copies there were.
pub fn drop_stale(connection: &mut AnyConnection, ids: &[i64], read_ttl: TimeDelta) -> Step<usize> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    dialect::lock_objects(connection, &ids)?;
    let referred = referred(connection, &ids)?;
    let dead: Vec<i64> = objects::table
        .filter(objects::id.eq_any(&ids).and(objects::state.ne(ObjectRow::LIVE)))
        .select(objects::id)
        .load(connection)?;
    let dead: Vec<i64> = dead.into_iter().filter(|id| !referred.contains(id)).collect();
    let copies: Vec<ReplicaRow> =
        replicas::table.filter(replicas::object.eq_any(&dead)).select(ReplicaRow::as_select()).load(connection)?;
    let (now, version) = (dialect::clock(connection)?, cluster::table.select(cluster::last_version).first(connection)?);
    let cause = CauseWord::Unreferenced;
    let deletion = |copy: &ReplicaRow| {
        OutboxRow::new(copy.server, (copy.object, copy.generation), version, cause, now).after(read_ttl)
    };
    dialect::insert_outbox(connection, &copies.iter().map(deletion).collect::<Vec<_>>())?;
    diesel::delete(replicas::table.filter(replicas::object.eq_any(&dead))).execute(connection)?;
    let event = |copy: &ReplicaRow| {
        let detail = "this copy will be deleted: fsck found it listed without a file".to_string();
        let cause = CauseWord::Unreferenced.into();
        events::of_copy(now, EventKind::ReplicaOutdated, (copy.object, copy.server), cause, detail)
    };
    events::tell(connection, copies.iter().map(event).collect())?;
    Ok(copies.len())
}
