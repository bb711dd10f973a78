//! Committing uploads: objects, their replicas and their entries, many in one transaction.
//!
//! The set is worked through in whole queries: parents, existing objects and existing entries are read for
//! all items at once, and what is new is inserted at once; only replaced files cost statements of their own.
//! A set holds each path and each object once (the caller sees to it), so items do not depend on each other.

use std::collections::hash_map::Entry::Vacant;
use std::collections::{HashMap, HashSet};

use chrono::TimeDelta;
use diesel::prelude::*;

use super::change::{Changes, ReleaseTimes, Released};
use super::error::{Failure, Step};
use super::rows::*;
use super::server::Standing;
use super::tree::{self, Walk};
use super::{dialect, namespace, schema};
use crate::security::WriteTicket;
use crate::types::api::{AdminState, Committed, Condition};
use crate::types::{CauseWord, DfsPath, EntryId, Error, ErrorCode, EventKind, ObjectId, ServerId, Sha256};

/// One fsynced upload; its ticket's signature, cluster and epoch have been checked.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The ticket.
    pub ticket: WriteTicket,
    /// Its epoch.
    pub epoch: i64,
    /// Bytes.
    pub size: u64,
    /// Digest of the bytes.
    pub sha256: Sha256,
    /// Servers that have fsynced them.
    pub holders: Vec<ServerId>,
}

/// A directory that items of the set go into.
#[derive(Clone)]
struct Parent {
    id: i64,
    copies_wanted: i32,
}

/// Commits a set; each item has its own outcome.
pub fn commit(
    changes: &mut Changes<'_>,
    uploads: &[Upload],
    times: &ReleaseTimes,
    repair_delay: TimeDelta,
) -> Step<Vec<crate::types::Result<Committed>>> {
    let mut parents = HashMap::new();
    for upload in uploads {
        if let Some((path, _)) = upload.ticket.path.split()
            && let Vacant(place) = parents.entry(path)
        {
            let walk = tree::walk(changes.connection, place.key())?;
            place.insert(walk);
        }
    }
    let existing = load_entries(changes, uploads, &parents)?;
    // At once and in one order, with those that are replaced: nobody who locks some of them waits for this in a ring.
    let ids: Vec<i64> = uploads.iter().map(|upload| upload.ticket.object.0).collect();
    let mut locked: Vec<i64> = ids.iter().copied().chain(existing.values().filter_map(|row| row.object)).collect();
    locked.sort_unstable();
    locked.dedup();
    dialect::lock_objects(changes.connection, &locked)?;
    let known = load_objects(changes, &ids)?;
    let standings = super::server::standings(changes.connection)?;
    let mut new = NewRows { repair_delay, standings, ..NewRows::default() };
    let mut outcomes = Vec::with_capacity(uploads.len());
    for upload in uploads {
        changes.asked_by(upload.ticket.by.clone());
        let outcome = match known.get(&upload.ticket.object.0) {
            Some(object) => repeat(changes, upload, object, &mut new),
            None => fresh(changes, upload, &parents, &existing, &mut new),
        };
        match outcome {
            Ok(committed) => outcomes.push(Ok(committed)),
            Err(Failure::Refused(error)) => outcomes.push(Err(changes.refused(error)?)),
            Err(failure) => return Err(failure),
        }
        changes.end_item();
    }
    new.insert(changes)?;
    release_replaced(changes, new.replaced, times)?;
    crate::types::failpoint::COMMIT_WRITTEN.passed();
    Ok(outcomes)
}

fn load_objects(changes: &mut Changes<'_>, ids: &[i64]) -> Step<HashMap<i64, ObjectRow>> {
    use schema::objects;
    let rows: Vec<ObjectRow> =
        objects::table.filter(objects::id.eq_any(ids)).select(ObjectRow::as_select()).load(changes.connection)?;
    Ok(rows.into_iter().map(|row| (row.id, row)).collect())
}

/// The entries that are at the uploads' paths now, by parent and name.
fn load_entries(
    changes: &mut Changes<'_>,
    uploads: &[Upload],
    parents: &HashMap<DfsPath, Walk>,
) -> Step<HashMap<(i64, String), EntryRow>> {
    use schema::entries;
    let mut names: HashMap<i64, Vec<&str>> = HashMap::new();
    for upload in uploads {
        let Some((path, name)) = upload.ticket.path.split() else { continue };
        if let Some(parent) = parents.get(&path).and_then(Walk::entry) {
            names.entry(parent.id).or_default().push(name);
        }
    }
    let mut found = HashMap::new();
    for (parent, names) in names {
        let rows: Vec<EntryRow> = entries::table
            .filter(entries::parent.eq(parent).and(entries::name.eq_any(names)))
            .select(EntryRow::as_select())
            .load(changes.connection)?;
        found.extend(rows.into_iter().map(|row| ((parent, row.name.clone()), row)));
    }
    Ok(found)
}

/// Rows that the set inserts together at its end.
#[derive(Default)]
struct NewRows {
    objects: Vec<ObjectRow>,
    entries: Vec<EntryRow>,
    updated_entries: Vec<EntryRow>,
    replicas: Vec<ReplicaRow>,
    repairs: Vec<RepairRow>,
    replaced: Vec<Released>,
    repair_delay: TimeDelta,
    standings: HashMap<i64, Standing>,
}

impl NewRows {
    /// In the order that the foreign keys ask for. The journal has these rows already.
    fn insert(&mut self, changes: &mut Changes<'_>) -> Step<()> {
        use schema::entries::dsl;
        dialect::insert_objects(changes.connection, &self.objects)?;
        dialect::insert_entries(changes.connection, &self.entries)?;
        for row in &self.updated_entries {
            diesel::update(dsl::entries.find(row.id))
                .set((dsl::object.eq(row.object), dsl::version.eq(row.version), dsl::modified.eq(row.modified)))
                .execute(changes.connection)?;
        }
        dialect::insert_replicas_if_absent(changes.connection, &self.replicas)?;
        dialect::queue_repairs(changes.connection, &self.repairs)?;
        Ok(())
    }

    fn add_replicas(&mut self, changes: &Changes<'_>, upload: &Upload) {
        let holders = self.counted(upload);
        let row = |holder: &ServerId| ReplicaRow {
            object: upload.ticket.object.0,
            server: holder.0,
            generation: upload.ticket.generation.0,
            state: ReplicaRow::PRESENT.into(),
            created: changes.now,
            verified: Some(changes.now),
        };
        self.replicas.extend(holders.iter().map(row));
    }

    /// Holders that count. A server may have been drained or removed since the ticket was made: whoever drained it
    /// was told that nothing is on it any more, and may have switched it off. Or it is somewhere else now: then what took
    /// the bytes may be the original of a copied directory, which was silent while the copy took its place.
    fn counted(&self, upload: &Upload) -> Vec<ServerId> {
        let targets = &upload.ticket.targets;
        let there = |holder: &ServerId, url: &str| targets.iter().any(|to| to.server == *holder && to.url == url);
        let stays = |holder: &&ServerId| {
            let standing = self.standings.get(&holder.0);
            standing.is_some_and(|now| now.admin_state != AdminState::Drained && there(holder, &now.url))
        };
        upload.holders.iter().filter(stays).copied().collect()
    }

    fn in_service(&self, holders: &[ServerId]) -> usize {
        let in_service = |now: &Standing| now.admin_state == AdminState::InService;
        holders.iter().filter(|holder| self.standings.get(&holder.0).is_some_and(in_service)).count()
    }
}

/// The objects that were replaced become deleted as changes of their own, right behind the set.
fn release_replaced(changes: &mut Changes<'_>, replaced: Vec<Released>, times: &ReleaseTimes) -> Step<()> {
    if !replaced.is_empty() {
        changes.release_objects(&replaced, times)?;
        changes.end_item();
    }
    Ok(())
}

/// A report about an object that has a row: an id commits at most once. A report of a live object may add
/// holders; one of a deleted object answers as the first time and changes nothing.
fn repeat(changes: &mut Changes<'_>, upload: &Upload, object: &ObjectRow, new: &mut NewRows) -> Step<Committed> {
    if object.state == ObjectRow::ABORTED {
        return Err(ticket_expired().into());
    }
    let same = object.size == upload.size as i64
        && object.sha256 == upload.sha256.0
        && object.label == upload.ticket.path.as_str();
    if !same {
        let message =
            format!("object {} is committed already with other content or another path", upload.ticket.object);
        return Err(Error::new(ErrorCode::AlreadyExists, message).into());
    }
    if object.state != ObjectRow::LIVE {
        return Ok(committed(upload, object.version, object.copies_wanted, Vec::new()));
    }
    let in_time = upload.ticket.expires.naive_utc() >= changes.now && upload.epoch == changes.epoch();
    let there = generations(changes, object.id)?;
    let given_up = given_up(changes, object.id, &upload.holders)?;
    let listed = new.counted(upload).into_iter().filter(|holder| match there.get(&holder.0) {
        Some(generation) => *generation == upload.ticket.generation.0,
        None => in_time && !given_up.contains(&holder.0),
    });
    let listed: Vec<ServerId> = listed.collect();
    if in_time {
        new.add_replicas(changes, &Upload { holders: listed.clone(), ..upload.clone() });
    }
    Ok(committed(upload, object.version, object.copies_wanted, listed))
}

/// Which copy of an object each server has.
fn generations(changes: &mut Changes<'_>, object: i64) -> Step<HashMap<i64, i64>> {
    use schema::replicas::dsl;
    let rows: Vec<(i64, i64)> =
        dsl::replicas.filter(dsl::object.eq(object)).select((dsl::server, dsl::generation)).load(changes.connection)?;
    Ok(rows.into_iter().collect())
}

/// Events that tell of a copy that it does not count any more.
const GIVEN_UP: [EventKind; 7] = [
    EventKind::ReplicaTrimmed,
    EventKind::ReplicaDeleted,
    EventKind::ReplicaOutdated,
    EventKind::ReplicaMissing,
    EventKind::ReplicaQuarantined,
    EventKind::ReplicaCorrupt,
    EventKind::LastCopyCorrupt,
];

/// Those of the holders whose copy of an object was given up since its commit: its deletion is ordered or done, or its bytes are bad or
/// lost. A late report knows nothing of that. Each was told in the transaction that gave it up.
fn given_up(changes: &mut Changes<'_>, object: i64, holders: &[ServerId]) -> Step<HashSet<i64>> {
    use schema::{events, outbox};
    let holders: Vec<i64> = holders.iter().map(|holder| holder.0).collect();
    let ordered: Vec<i64> = outbox::table
        .filter(outbox::server.eq_any(&holders).and(outbox::object.eq(object)))
        .select(outbox::server)
        .distinct()
        .load(changes.connection)?;
    let told: Vec<i64> = events::table
        .filter(events::object.eq(object).and(events::kind.eq_any(GIVEN_UP.map(|kind| kind.word()))))
        .filter(events::server.is_not_null())
        .select(events::server.assume_not_null())
        .distinct()
        .load(changes.connection)?;
    Ok(ordered.into_iter().chain(told).collect())
}

/// A report about an object that is not known yet.
fn fresh(
    changes: &mut Changes<'_>,
    upload: &Upload,
    parents: &HashMap<DfsPath, Walk>,
    existing: &HashMap<(i64, String), EntryRow>,
    new: &mut NewRows,
) -> Step<Committed> {
    let ticket = &upload.ticket;
    if ticket.expires.naive_utc() < changes.now || upload.epoch != changes.epoch() {
        return Err(ticket_expired().into());
    }
    let counted = new.counted(upload);
    let holders = counted.len() as u32;
    if holders < ticket.min_write_copies {
        let message = format!(
            "{holders} of {} needed copies are fsynced on servers that are still in service, where they were",
            ticket.min_write_copies
        );
        return Err(Error::new(ErrorCode::NotEnoughServers, message).into());
    }
    let Some((parent_path, name)) = ticket.path.split() else {
        return Err(Error::new(ErrorCode::IsADirectory, "/ is a directory").into());
    };
    let walk = parents.get(&parent_path).ok_or_else(|| Error::internal("a parent was not resolved"))?;
    let parent = match walk.require_directory() {
        Ok(entry) => Parent { id: entry.id, copies_wanted: walk.copies_wanted() },
        Err(Failure::Refused(error)) if ticket.make_parents && error.code() == ErrorCode::NotFound => {
            check_target(&ticket.path, None, ticket.condition)?;
            make_parent(changes, &parent_path)?
        }
        Err(failure) => return Err(failure),
    };
    let target = existing.get(&(parent.id, name.to_string()));
    check_target(&ticket.path, target, ticket.condition)?;
    let version = changes.version();
    let object = ObjectRow {
        id: ticket.object.0,
        state: ObjectRow::LIVE.into(),
        size: upload.size as i64,
        sha256: upload.sha256.0.to_vec(),
        copies_wanted: parent.copies_wanted,
        label: ticket.path.to_string(),
        version,
        created: changes.now,
        forget_after: None,
    };
    changes.record("objects", object.id, Some(&object))?;
    write_entry(changes, &parent, name, target, &object, new)?;
    let kind = if target.is_some() { EventKind::FileReplaced } else { EventKind::FileWritten };
    changes.note(kind, &ticket.path, None);
    new.add_replicas(changes, upload);
    let staying = new.in_service(&counted) as i32;
    if staying < parent.copies_wanted {
        // A server that drains will not come back; one that was missed may, within the delay.
        let delay = if staying < holders as i32 { TimeDelta::zero() } else { new.repair_delay };
        new.repairs.push(RepairRow::new((object.id, staying), changes.now, changes.now + delay));
    }
    new.objects.push(object);
    Ok(committed(upload, version, parent.copies_wanted, counted))
}

/// Another item of this set may have made it just before, so it is looked up again.
fn make_parent(changes: &mut Changes<'_>, path: &DfsPath) -> Step<Parent> {
    let walk = tree::walk(changes.connection, path)?;
    let entry = match walk.entry() {
        Some(entry) => entry.clone(),
        None => namespace::make_missing(changes, &walk, path, usize::MAX)?,
    };
    Ok(Parent { id: entry.id, copies_wanted: walk.copies_wanted() })
}

/// Puts the object into the namespace: a new entry, or a new content of the one that is there.
fn write_entry(
    changes: &mut Changes<'_>,
    parent: &Parent,
    name: &str,
    target: Option<&EntryRow>,
    object: &ObjectRow,
    new: &mut NewRows,
) -> Step<()> {
    let row = match target {
        Some(target) => {
            let by = changes.by().map(String::from);
            let released = |object| Released { object, cause: CauseWord::Replaced, by };
            new.replaced.extend(target.object.map(released));
            EntryRow { object: Some(object.id), version: object.version, modified: changes.now, ..target.clone() }
        }
        None => EntryRow {
            id: EntryId::generate().0,
            parent: Some(parent.id),
            name: name.into(),
            kind: EntryRow::FILE.into(),
            object: Some(object.id),
            replication: None,
            version: object.version,
            created: changes.now,
            modified: changes.now,
        },
    };
    changes.record("entries", row.id, Some(&row))?;
    if target.is_some() {
        new.updated_entries.push(row)
    } else {
        new.entries.push(row)
    }
    Ok(())
}

/// Whether a write with this condition may replace what is there.
pub fn check_target(path: &DfsPath, target: Option<&EntryRow>, condition: Condition) -> Step<()> {
    if target.is_some_and(EntryRow::is_directory) {
        return Err(Error::new(ErrorCode::IsADirectory, format!("{path} is a directory")).into());
    }
    let failed = |message: String| Err(Error::new(ErrorCode::PreconditionFailed, message).into());
    match (condition, target) {
        (Condition::Absent, Some(_)) => failed(format!("{path} exists already")),
        (Condition::Version(_), None) => failed(format!("{path} does not exist any more")),
        (Condition::Version(version), Some(target)) => namespace::check_version(path, target, Some(version)),
        _ => Ok(()),
    }
}

fn ticket_expired() -> Error {
    Error::new(ErrorCode::TicketExpired, "the ticket's time was over before the commit; upload the file again")
}

fn committed(upload: &Upload, version: i64, copies_wanted: i32, listed: Vec<ServerId>) -> Committed {
    Committed {
        path: upload.ticket.path.clone(),
        object: ObjectId(upload.ticket.object.0),
        version,
        size: upload.size,
        sha256: upload.sha256,
        copies: upload.holders.len() as u32,
        copies_wanted: copies_wanted as u32,
        listed,
    }
}
