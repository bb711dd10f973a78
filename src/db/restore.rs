//! Writing the tables anew from what the storage servers have: one transaction, so that an interrupted restore has
//! changed nothing and is run again.

mod tail;

use std::collections::{HashMap, HashSet, VecDeque};

use chrono::NaiveDateTime;
use diesel::prelude::*;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256 as Hasher};

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::*;
use super::schema::*;
use super::{dialect, events};
use crate::decisions::restore::Marked;
use crate::journal::{ENTRIES, OBJECTS, SERVERS, Staging, TOKENS};
use crate::types::api::RestoreStatus;
use crate::types::limits::COMPONENT_BYTES_MAX;
use crate::types::storage_api::InventoryLine;
use crate::types::{EntryId, Error, EventKind, ObjectId, Result, Version, bounds, id};

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
    /// The newest change that anybody knows of.
    pub known: Known,
    /// The servers that answered, as they announce themselves now.
    pub servers: Vec<ServerRow>,
    /// The first token, where nothing tells which tokens there were.
    pub superuser: TokenRow,
    /// It has started the restore.
    pub by_first_token: bool,
    /// Copies wanted where no directory says it.
    pub copies: i32,
    /// Rows whose content comes from the database itself and wins, by table and key.
    pub own: HashSet<(String, String)>,
}

/// The newest change that is known to have been made.
pub struct Known {
    /// Its version.
    pub version: Version,
    /// Who knows it.
    pub by: String,
    /// What can be read of changes that are not back.
    pub rows: Vec<String>,
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
    rebuild.servers()?;
    rebuild.tokens()?;
    rebuild.objects()?;
    rebuild.entries()?;
    rebuild.release()?;
    let marked = rebuild.replicas()?;
    rebuild.tail(&marked)?;
    rebuild.changes_lost(&marked);
    rebuild.count()?;
    let last = rebuild.last.max(plan.known.version).max(cluster.last_version);
    finish(connection, plan, last, now, &status)?;
    crate::types::failpoint::RESTORE_WRITTEN.passed();
    Ok(status)
}

/// Everything goes but the leases, the events and the reports of restores.
fn clear(connection: &mut AnyConnection) -> Step<()> {
    diesel::delete(super::schema::moves::table).execute(connection)?;
    diesel::delete(super::schema::rebalances::table).execute(connection)?;
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
    fn servers(&mut self) -> Step<()> {
        let known: Vec<ServerRow> = self.rows(SERVERS)?;
        let mut rows: HashMap<i64, ServerRow> = known.into_iter().map(|row| (row.id, row)).collect();
        for server in &self.plan.servers {
            let admin_state = rows.get(&server.id).map_or("in_service".into(), |row| row.admin_state.clone());
            rows.insert(server.id, ServerRow { admin_state, ..server.clone() });
        }
        for row in rows.values() {
            diesel::insert_into(servers::table).values(row).execute(self.connection)?;
            let health = ServerHealthRow::unchecked(row.id, self.now, "it was not checked since the restore");
            diesel::insert_into(server_health::table).values(&health).execute(self.connection)?;
        }
        Ok(())
    }

    /// Tokens as the journal tells them: what was revoked stays revoked, the first token too. Only where nothing tells of
    /// tokens that one is made anew, because somebody must be able to go on.
    fn tokens(&mut self) -> Step<()> {
        let mut tokens: Vec<TokenRow> = self.rows(TOKENS)?;
        let first = self.plan.superuser.sha256.clone();
        if self.status.source == "labels" && tokens.iter().all(|row| row.sha256 == first) {
            self.status.notes.push(format!(
                "No journal tells which tokens there were. The token {:?}, which is derived from the secret, is valid again, \
                 also if it had been revoked; all others are gone.",
                self.plan.superuser.name
            ));
            tokens = vec![self.plan.superuser.clone()];
        }
        for row in &tokens {
            diesel::insert_into(tokens::table).values(row).execute(self.connection)?;
        }
        if self.plan.by_first_token && tokens.iter().all(|row| row.sha256 != first) {
            self.status.notes.push(format!(
                "This restore was started with the token {:?}, which is derived from the secret and had been revoked. It was \
                 taken because the cluster waited for its restore; it is revoked again.",
                self.plan.superuser.name
            ));
        }
        let now = self.now;
        let can_administer = |row: &TokenRow| {
            row.role == "superuser" && row.prefix.is_none() && row.expires.is_none_or(|expires| expires > now)
        };
        if !tokens.iter().any(can_administer) {
            self.status.notes.push("No superuser's token is valid: the last one was revoked or has ended.".into());
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
    let history = uuid::Uuid::new_v4();
    // What is claimed may be anything; the next restore must be able to count on from here as well.
    let last = bounds::check_version(last.saturating_add(VERSION_MARGIN)).map_err(|error| {
        error.context(format!("versions cannot go on behind the newest change that is known ({})", plan.known.by))
    })?;
    diesel::update(cluster::table)
        .set((
            cluster::cluster_id.eq(plan.cluster.to_string()),
            cluster::history_id.eq(history.to_string()),
            cluster::last_version.eq(last),
            cluster::tip.eq(Hasher::digest(history.as_bytes()).to_vec()),
            // Nothing that was deleted before waits for its deletion; what comes now waits for the copies, which have
            // nothing of this history yet.
            cluster::journal_copied.eq(last - 1),
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
    let mut happened = vec![events::row(now, EventKind::Restored, detail)];
    if status.lost_changes > 0 {
        happened
            .extend(status.losses.first().map(|sentence| events::row(now, EventKind::ChangesLost, sentence.clone())));
    }
    happened.extend(status.notes.iter().map(|note| events::row(now, EventKind::RestoreNote, note.clone())));
    dialect::insert_events(connection, &happened)?;
    // Whoever took part belongs to the cluster again.
    let there = servers::table.select(servers::id);
    diesel::delete(removed_servers::table.filter(removed_servers::id.eq_any(there))).execute(connection)?;
    Ok(())
}
