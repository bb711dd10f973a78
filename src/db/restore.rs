//! Writing the tables anew from what the storage servers have: one transaction, so that an interrupted restore has
//! changed nothing and is run again.

use std::collections::{HashMap, HashSet, VecDeque};

use chrono::NaiveDateTime;
use diesel::prelude::*;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256 as Hasher};

use super::connection::AnyConnection;
use super::error::{Failure, Step};
use super::rows::*;
use super::schema::*;
use super::{dialect, events, tree};
use crate::decisions::restore::{Found, Marked, newest};
use crate::journal::{ENTRIES, OBJECTS, SERVERS, Staging, TOKENS};
use crate::types::api::RestoreStatus;
use crate::types::limits::COMPONENT_BYTES_MAX;
use crate::types::storage_api::InventoryLine;
use crate::types::{DfsPath, EntryId, Error, ObjectId, Result, Version, id};

/// Versions are left out after a restore, so that none that anybody remembers is used again.
pub const VERSION_MARGIN: i64 = 1_000_000;
/// Sentences of each kind that a report keeps.
pub const SENTENCES_MAX: usize = 1_000;
/// The staged table of the inventories; its keys are `SERVER/OBJECT.GENERATION`.
pub const INVENTORY: &str = "inventory";
/// Rows that are written together.
const BATCH_ROWS: usize = 500;

/// All that the tables are made of.
pub struct Plan {
    /// The cluster.
    pub cluster: uuid::Uuid,
    /// The epoch that the servers were fenced with.
    pub epoch: i64,
    /// The newest version that the staged rows have.
    pub head: Version,
    /// Up to this version nothing was committed that the staged rows do not tell of. Where the database had gone its own
    /// way, that is the end of the journal's copies: what was committed behind it on their way has higher numbers, and
    /// the database has given the same ones to changes of its own.
    pub told: Version,
    /// The newest version that anybody has heard of.
    pub newest: Version,
    /// The servers that answered, as they announce themselves now.
    pub servers: Vec<ServerRow>,
    /// The first token.
    pub superuser: TokenRow,
    /// Copies wanted where no directory says it.
    pub copies: i32,
    /// Rows whose content comes from the database itself and wins, by table and key.
    pub own: HashSet<(String, String)>,
}

/// Adds a sentence to a list that is kept short, and counts it.
pub fn say(list: &mut Vec<String>, total: &mut u64, sentence: String) {
    *total += 1;
    if list.len() < SENTENCES_MAX {
        list.push(sentence);
    }
}

/// Writes everything. The caller has made sure that nobody else writes: the mode is *restoring*.
pub fn rebuild(
    connection: &mut AnyConnection,
    staging: &mut Staging,
    plan: &Plan,
    mut status: RestoreStatus,
) -> Step<RestoreStatus> {
    let cluster = dialect::lock_cluster(connection)?;
    if cluster.mode != "restoring" || cluster.epoch != plan.epoch {
        return Err(Error::unavailable("another restore has begun meanwhile").into());
    }
    dialect::take_time(connection)?;
    let now = dialect::clock(connection)?.max(cluster.clock_floor);
    clear(connection)?;
    let mut rebuild = Rebuild { connection, staging, plan, now, status: &mut status, last: plan.head };
    rebuild.servers_and_tokens()?;
    rebuild.objects()?;
    rebuild.entries()?;
    rebuild.release()?;
    let marked = rebuild.replicas()?;
    rebuild.tail(&marked)?;
    rebuild.count()?;
    let last = rebuild.last.max(plan.newest).max(cluster.last_version);
    finish(connection, plan, last, now, &status)?;
    Ok(status)
}

/// Everything goes but the leases, the events and the reports of restores.
fn clear(connection: &mut AnyConnection) -> Step<()> {
    diesel::delete(repair_queue::table).execute(connection)?;
    diesel::delete(outbox::table).execute(connection)?;
    diesel::delete(replicas::table).execute(connection)?;
    diesel::delete(building::table).execute(connection)?;
    diesel::delete(entries::table).execute(connection)?;
    diesel::delete(objects::table).execute(connection)?;
    diesel::delete(server_health::table).execute(connection)?;
    diesel::delete(servers::table).execute(connection)?;
    diesel::delete(tokens::table).execute(connection)?;
    diesel::delete(journal::table).execute(connection)?;
    Ok(())
}

struct Rebuild<'r> {
    connection: &'r mut AnyConnection,
    staging: &'r mut Staging,
    plan: &'r Plan,
    now: NaiveDateTime,
    status: &'r mut RestoreStatus,
    /// The newest version of anything that was written.
    last: Version,
}

fn parse<T: DeserializeOwned>(content: &str) -> Result<T> {
    serde_json::from_str(content)
        .map_err(|error| Error::internal("a row in the journal is not what it must be").with_source(error))
}

impl Rebuild<'_> {
    fn rows<T: DeserializeOwned>(&mut self, table: &str) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        self.staging.each(table, |page| {
            for row in page {
                rows.push(parse(&row.content)?);
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// Servers as they announce themselves now; what a person decided about them is the journal's.
    fn servers_and_tokens(&mut self) -> Step<()> {
        let known: Vec<ServerRow> = self.rows(SERVERS)?;
        let mut rows: HashMap<i64, ServerRow> = known.into_iter().map(|row| (row.id, row)).collect();
        for server in &self.plan.servers {
            let admin_state = rows.get(&server.id).map_or("in_service".into(), |row| row.admin_state.clone());
            rows.insert(server.id, ServerRow { admin_state, ..server.clone() });
        }
        for row in rows.values() {
            diesel::insert_into(servers::table).values(row).execute(self.connection)?;
            let health = ServerHealthRow {
                server: row.id,
                health: "suspect".into(),
                since: self.now,
                reason: Some("it was not checked since the restore".into()),
                boot_id: ServerHealthRow::UNKNOWN_BOOT.into(),
                capacity_bytes: 0,
                free_bytes: 0,
                last_seen: None,
                synced_boot: String::new(),
                scrub_alarm: false,
                index_changes: 0,
                trouble: None,
                troubled: None,
            };
            diesel::insert_into(server_health::table).values(&health).execute(self.connection)?;
        }
        let mut tokens: Vec<TokenRow> = self.rows(TOKENS)?;
        tokens.retain(|row| row.name != self.plan.superuser.name);
        tokens.push(self.plan.superuser.clone());
        for row in &tokens {
            diesel::insert_into(tokens::table).values(row).execute(self.connection)?;
        }
        Ok(())
    }

    fn objects(&mut self) -> Step<()> {
        let connection = &mut *self.connection;
        let mut last = self.last;
        self.staging.each(OBJECTS, |page| {
            let rows: Vec<ObjectRow> = page.iter().map(|row| parse(&row.content)).collect::<Result<_>>()?;
            last = rows.iter().map(|row| row.version).fold(last, Version::max);
            for rows in rows.chunks(BATCH_ROWS) {
                dialect::insert_objects(connection, rows)?;
            }
            Ok(())
        })?;
        self.last = last;
        Ok(())
    }

    /// The tree, from the root down. What does not reach the root had been removed.
    fn entries(&mut self) -> Step<()> {
        let root = match self.staging.get(ENTRIES, &id::ROOT.0.to_string())? {
            Some(content) => parse(&content)?,
            None => EntryRow {
                id: id::ROOT.0,
                parent: None,
                name: String::new(),
                kind: EntryRow::DIRECTORY.into(),
                object: None,
                replication: Some(self.plan.copies),
                version: 0,
                created: self.now,
                modified: self.now,
            },
        };
        dialect::insert_entries(self.connection, &[root])?;
        let (mut open, mut seen) = (VecDeque::from([id::ROOT.0]), HashSet::from([id::ROOT.0]));
        while let Some(directory) = open.pop_front() {
            let rows = self.children(directory)?;
            for row in rows.iter().filter(|row| row.is_directory()) {
                if seen.insert(row.id) {
                    open.push_back(row.id);
                }
            }
            for rows in rows.chunks(BATCH_ROWS) {
                dialect::insert_entries(self.connection, rows)?;
            }
        }
        Ok(())
    }

    /// A directory's entries, each name once, and files only with their objects.
    fn children(&mut self, directory: i64) -> Step<Vec<EntryRow>> {
        let mut rows: Vec<EntryRow> = Vec::new();
        for staged in self.staging.children(directory, None, i64::MAX)? {
            let Some(content) = self.staging.get(ENTRIES, &staged.id.to_string())? else { continue };
            rows.push(parse(&content)?);
        }
        // The database's own entries keep their names.
        rows.sort_by_key(|row| (!self.is_own(row), std::cmp::Reverse(row.version)));
        let (mut names, mut kept) = (HashSet::new(), Vec::with_capacity(rows.len()));
        for mut row in rows {
            self.last = self.last.max(row.version);
            if let Some(object) = row.object
                && !self.is_live(object)?
            {
                let sentence =
                    format!("the file {:?}: the journal does not tell of its object {}", row.name, ObjectId(object));
                say(&mut self.status.losses, &mut self.status.losses_total, sentence);
                continue;
            }
            if !names.insert(row.name.clone()) {
                let other = renamed(&row.name, &format!("restored {}", EntryId(row.id)));
                let sentence =
                    format!("there were two entries named {:?} in one directory; one is {other:?} now", row.name);
                say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
                names.insert(other.clone());
                row.name = other;
            }
            kept.push(row);
        }
        Ok(kept)
    }

    /// Whether the database itself changed an entry after it had parted from the journal's copies: then it wins.
    fn is_own(&self, row: &EntryRow) -> bool {
        self.plan.own.contains(&(ENTRIES.to_string(), row.id.to_string()))
    }

    /// Whether an object is live, or is again: on one branch its last entry was removed, and another branch has an
    /// entry more.
    fn is_live(&mut self, id: i64) -> Step<bool> {
        let state: Option<String> = objects::table.find(id).select(objects::state).first(self.connection).optional()?;
        if state.as_deref() == Some(ObjectRow::DELETED) {
            diesel::update(objects::table.find(id))
                .set((objects::state.eq(ObjectRow::LIVE), objects::forget_after.eq(None::<NaiveDateTime>)))
                .execute(self.connection)?;
            return Ok(true);
        }
        Ok(state.as_deref() == Some(ObjectRow::LIVE))
    }

    /// Objects that no entry refers to are deleted: their files had been removed, or stood in a removed directory.
    fn release(&mut self) -> Step<()> {
        let used = entries::table.filter(entries::object.is_not_null()).select(entries::object.assume_not_null());
        let unused = objects::table.filter(objects::state.eq(ObjectRow::LIVE).and(objects::id.ne_all(used)));
        diesel::update(unused)
            .set((
                objects::state.eq(ObjectRow::DELETED),
                objects::forget_after.eq(self.now + chrono::TimeDelta::days(30)),
            ))
            .execute(self.connection)?;
        Ok(())
    }

    /// Takes copies from the inventories. Answers those that the staged rows do not tell of and that are committed.
    fn replicas(&mut self) -> Step<Vec<Marked>> {
        let mut marked = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.staging.page(INVENTORY, after.as_deref(), BATCH_ROWS as i64)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let mut lines = Vec::with_capacity(page.len());
            for row in &page {
                let server = row.key.split('/').next().and_then(|text| text.parse::<crate::types::ServerId>().ok());
                let Some(server) = server else { continue };
                lines.push((server, parse::<InventoryLine>(&row.content)?));
            }
            self.take_lines(&lines, &mut marked)?;
        }
        Ok(marked)
    }

    fn take_lines(&mut self, lines: &[(crate::types::ServerId, InventoryLine)], marked: &mut Vec<Marked>) -> Step<()> {
        let ids: Vec<i64> = lines.iter().map(|(_, line)| line.replica.object.0).collect();
        let known: Vec<ObjectRow> =
            objects::table.filter(objects::id.eq_any(ids)).select(ObjectRow::as_select()).load(self.connection)?;
        let known: HashMap<i64, ObjectRow> = known.into_iter().map(|row| (row.id, row)).collect();
        let mut rows = Vec::new();
        for (server, line) in lines {
            let key = line.replica;
            match known.get(&key.object.0) {
                Some(row) if row.state == ObjectRow::LIVE => {
                    if row.sha256 == line.sha256.0 && row.size as u64 == line.size {
                        rows.push(replica(*server, line, self.now));
                    } else {
                        let sentence =
                            format!("{}: the copy on {server} has other bytes; it is not counted", row.label);
                        say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
                    }
                }
                // What was deleted stays deleted; the server is told when its inventory is compared.
                Some(_) => {}
                None => self.unknown(*server, line, marked),
            }
        }
        dialect::insert_replicas_if_absent(self.connection, &rows)?;
        Ok(())
    }

    fn unknown(&mut self, server: crate::types::ServerId, line: &InventoryLine, marked: &mut Vec<Marked>) {
        match line.version {
            // Committed before the journal's end and not in it: deleted and forgotten.
            Some(version) if version <= self.plan.told => {}
            Some(version) => marked.push(Marked {
                server,
                object: line.replica.object,
                version,
                label: line.label.clone(),
                size: line.size,
                sha256: line.sha256,
            }),
            None => {
                let sentence = format!(
                    "{}: copy {} on {server} was stored, and nobody has heard of its commit; it is kept there as it is",
                    line.label, line.replica
                );
                say(&mut self.status.doubts, &mut self.status.doubts_total, sentence);
            }
        }
    }

    /// Brings back what was committed after the journal's end, under the paths of the commits.
    fn tail(&mut self, marked: &[Marked]) -> Step<()> {
        let (found, said) = newest(marked);
        for sentence in said {
            say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
        }
        for found in &found {
            self.last = self.last.max(found.version);
            self.bring_back(found)?;
            self.status.tail += 1;
        }
        let by_object: HashMap<ObjectId, &Found> = found.iter().map(|found| (found.object, found)).collect();
        let mut after: Option<String> = None;
        loop {
            let page = self.staging.page(INVENTORY, after.as_deref(), BATCH_ROWS as i64)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let mut rows = Vec::new();
            for row in &page {
                let line: InventoryLine = parse(&row.content)?;
                let server = row.key.split('/').next().and_then(|text| text.parse::<crate::types::ServerId>().ok());
                if let (Some(server), Some(found)) = (server, by_object.get(&line.replica.object))
                    && (found.sha256, found.size) == (line.sha256, line.size)
                {
                    rows.push(replica(server, &line, self.now));
                }
            }
            dialect::insert_replicas_if_absent(self.connection, &rows)?;
        }
        self.release()
    }

    fn bring_back(&mut self, found: &Found) -> Step<()> {
        let Ok(path) = DfsPath::parse(&found.label) else { return Ok(()) };
        let Some((parent_path, name)) = path.split() else { return Ok(()) };
        let parent = self.directory(&parent_path)?;
        let object = ObjectRow {
            id: found.object.0,
            state: ObjectRow::LIVE.into(),
            size: found.size as i64,
            sha256: found.sha256.0.to_vec(),
            copies_wanted: parent.1,
            label: found.label.clone(),
            version: found.version,
            created: self.now,
            forget_after: None,
        };
        dialect::insert_objects_if_absent(self.connection, &[object])?;
        let mut name = name.to_string();
        match tree::child(self.connection, parent.0, &name)? {
            Some(entry) if entry.is_directory() || self.is_own(&entry) => {
                name = renamed(&name, &format!("restored {}", found.object));
                let what =
                    if entry.is_directory() { "is a directory" } else { "has the database's own, later content" };
                let sentence = format!("{path} {what}; the file that was committed there is {name:?} now");
                say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
            }
            Some(entry) => {
                diesel::update(entries::table.find(entry.id))
                    .set((entries::object.eq(Some(found.object.0)), entries::version.eq(found.version)))
                    .execute(self.connection)?;
                return Ok(());
            }
            None => {}
        }
        let row = EntryRow {
            id: EntryId::generate().0,
            parent: Some(parent.0),
            name,
            kind: EntryRow::FILE.into(),
            object: Some(found.object.0),
            replication: None,
            version: found.version,
            created: self.now,
            modified: self.now,
        };
        dialect::insert_entries(self.connection, &[row])?;
        Ok(())
    }

    /// The directory at a path, made if need be, and the copies wanted in it. Where a file is in the way, another
    /// name is taken for the directory.
    fn directory(&mut self, path: &DfsPath) -> Step<(i64, i32)> {
        let (mut parent, mut copies) = (id::ROOT.0, tree::walk(self.connection, &DfsPath::root())?.copies_wanted());
        for name in path.components() {
            let mut name = name.to_string();
            let mut found = tree::child(self.connection, parent, &name)?;
            if found.as_ref().is_some_and(|entry| !entry.is_directory()) {
                name = renamed(&name, "restored");
                found = tree::child(self.connection, parent, &name)?;
            }
            let entry = match found {
                Some(entry) => entry,
                None => {
                    let row = EntryRow {
                        id: EntryId::generate().0,
                        parent: Some(parent),
                        name,
                        kind: EntryRow::DIRECTORY.into(),
                        object: None,
                        replication: None,
                        version: self.plan.head,
                        created: self.now,
                        modified: self.now,
                    };
                    dialect::insert_entries(self.connection, std::slice::from_ref(&row))?;
                    row
                }
            };
            copies = entry.replication.unwrap_or(copies);
            parent = entry.id;
        }
        Ok((parent, copies))
    }

    fn count(&mut self) -> Step<()> {
        let of = |kind: &str| entries::table.filter(entries::kind.eq(kind.to_string())).count();
        let files: i64 = of(EntryRow::FILE).get_result(self.connection)?;
        let directories: i64 = of(EntryRow::DIRECTORY).get_result(self.connection)?;
        let copies: i64 = replicas::table.count().get_result(self.connection)?;
        (self.status.files, self.status.directories) = (files as u64, directories as u64);
        self.status.replicas = copies as u64;
        let lost: Vec<(i64, String)> = objects::table
            .filter(objects::state.eq(ObjectRow::LIVE))
            .filter(objects::id.ne_all(replicas::table.select(replicas::object)))
            .select((objects::id, objects::label))
            .load(self.connection)?;
        for (id, label) in lost {
            let sentence = format!("{label} (object {}): no copy was found", ObjectId(id));
            say(&mut self.status.losses, &mut self.status.losses_total, sentence);
        }
        Ok(())
    }
}

/// Another name for an entry whose own is taken: with a note, and cut so that it is still a name.
pub fn renamed(name: &str, note: &str) -> String {
    let room = COMPONENT_BYTES_MAX.saturating_sub(note.len() + " ()".len());
    let end = (0..=room.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{} ({note})", &name[..end])
}

fn replica(server: crate::types::ServerId, line: &InventoryLine, now: NaiveDateTime) -> ReplicaRow {
    ReplicaRow {
        object: line.replica.object.0,
        server: server.0,
        generation: line.replica.generation.0,
        state: ReplicaRow::PRESENT.into(),
        created: now,
        verified: Some(line.verified.naive_utc()),
    }
}

/// A new history, with a margin of versions, in normal mode again.
fn finish(
    connection: &mut AnyConnection,
    plan: &Plan,
    last: Version,
    now: NaiveDateTime,
    status: &RestoreStatus,
) -> Step<()> {
    let (history, last) = (uuid::Uuid::new_v4(), last + VERSION_MARGIN);
    diesel::update(cluster::table)
        .set((
            cluster::cluster_id.eq(plan.cluster.to_string()),
            cluster::history_id.eq(history.to_string()),
            cluster::last_version.eq(last),
            cluster::tip.eq(Hasher::digest(history.as_bytes()).to_vec()),
            // Nothing that was deleted before waits for its deletion; what comes now waits for the copies.
            cluster::journal_copied.eq(last),
            cluster::mode.eq("normal"),
            cluster::mode_reason.eq(None::<String>),
        ))
        .execute(connection)?;
    let detail = format!(
        "the metadata was restored ({}) into epoch {}: {} files, {} copies; {} conflicts, {} losses, {} doubts",
        status.source,
        plan.epoch,
        status.files,
        status.replicas,
        status.conflicts_total,
        status.losses_total,
        status.doubts_total
    );
    dialect::insert_events(connection, &[events::row(now, "restored", detail)])?;
    Ok(())
}

/// Stops the cluster for a restore and raises its epoch. Answers the epoch.
pub fn begin(connection: &mut AnyConnection, cluster_id: uuid::Uuid, epoch_seen: i64) -> Step<i64> {
    let row = dialect::lock_cluster(connection)?;
    let epoch = row.epoch.max(epoch_seen) + 1;
    diesel::update(cluster::table)
        .set((
            cluster::cluster_id.eq(cluster_id.to_string()),
            cluster::epoch.eq(epoch),
            cluster::mode.eq("restoring"),
            cluster::mode_reason.eq("a restore is under way, or was interrupted: run `holdfast restore` again"),
        ))
        .execute(connection)?;
    Ok(epoch)
}

/// Keeps the report of a restore.
pub fn save_report(
    connection: &mut AnyConnection,
    id: i64,
    started: NaiveDateTime,
    ended: Option<NaiveDateTime>,
    status: &RestoreStatus,
) -> Step<()> {
    let report = serde_json::to_string(status)
        .map_err(|error| Failure::Database(Error::internal("cannot encode a report").with_source(error)))?;
    let row = RestoreRow { id, started, ended, report };
    diesel::delete(restores::table.find(id)).execute(connection)?;
    diesel::insert_into(restores::table).values(&row).execute(connection)?;
    Ok(())
}

/// The report of the last restore, if there was one.
pub fn last_report(connection: &mut AnyConnection) -> Result<Option<RestoreStatus>> {
    let report: Option<String> =
        restores::table.order(restores::id.desc()).select(restores::report).first(connection).optional()?;
    report.as_deref().map(parse).transpose()
}

/// Whether nothing was ever stored under this database's cluster: no file and no server.
pub fn is_new(connection: &mut AnyConnection) -> Result<bool> {
    let servers: i64 = servers::table.count().get_result(connection)?;
    let objects: i64 = objects::table.count().get_result(connection)?;
    Ok(servers == 0 && objects == 0)
}

/// Puts the database's own rows into an empty staging: when no journal is left, they are better than nothing.
pub fn stage_own(connection: &mut AnyConnection, staging: &mut Staging) -> Result<()> {
    for table in [SERVERS, TOKENS, OBJECTS, ENTRIES] {
        let mut after: Option<String> = None;
        loop {
            let rows = super::journal::page(connection, table, after.as_deref(), BATCH_ROWS as i64)?;
            for (key, content) in &rows {
                staging.apply(table, key, Some(content))?;
            }
            match rows.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
    }
    Ok(())
}

/// The number of copies that the root wants now, if there is a root.
pub fn root_copies(connection: &mut AnyConnection) -> Result<Option<i32>> {
    Ok(entries::table.find(id::ROOT.0).select(entries::replication).first(connection).optional()?.flatten())
}
