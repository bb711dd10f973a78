//! Writing the tables anew from what the storage servers have: one transaction, so that an interrupted restore has
//! changed nothing and is run again.
//!
//! Memory is bounded and the time is linear: everything is read from the staged rows in pages and written in batches, what is
//! to be remembered meanwhile is staged, too, and what one table says about another follows in single statements
//! ([`settle`]). No statement is made for a single file, but where one replaces another.
//!
//! | module | what is in it |
//! |---|---|
//! | `walk` | the tree, from the root down |
//! | `copies` | inventories: copies of known objects, and what becomes of unknown ones |
//! | `tail` | files that were committed behind the end of what the rows tell |
//! | [`settle`] | what follows from one table for another |
//! | [`progress`] | how far it is |

mod copies;
pub mod progress;
pub mod settle;
mod tail;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256 as Hasher};

use self::progress::Progress;
use super::connection::AnyConnection;
use super::error::Step;
use super::rows::*;
use super::schema::*;
use super::{counts, dialect, events};
use crate::journal::{ENTRIES, OBJECTS, SERVERS, Staging, TOKENS};
use crate::types::api::RestoreStatus;
use crate::types::limits::COMPONENT_BYTES_MAX;
use crate::types::{AdminState, Error, EventKind, Mode, Result, Version, bounds};

/// Versions are left out after a restore, so that none that anybody remembers is used again.
pub const VERSION_MARGIN: i64 = 1_000_000;
/// Sentences of each kind that a report keeps.
pub const SENTENCES_MAX: usize = 1_000;
/// The staged table of the inventories; its keys are `SERVER/OBJECT.GENERATION`.
pub const INVENTORY: &str = "inventory";
/// The staged table of rows whose content comes from the database itself and wins; its keys are [`own_key`]'s.
pub const OWN: &str = "own";
/// Rows that are read or written together.
const BATCH_ROWS: usize = 1_000;
/// Days for which the id of a released object is remembered.
const FORGET_AFTER_DAYS: i64 = 30;

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
    /// Hears how far it is, and may end it.
    pub progress: Arc<Progress>,
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

/// The key in the staged table [`OWN`] of a row of another table.
pub fn own_key(table: &str, key: &str) -> String {
    format!("{table}/{key}")
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
    if cluster.mode != Mode::Restoring || cluster.epoch != plan.epoch {
        return Err(Error::unavailable("another restore has begun meanwhile").into());
    }
    dialect::take_time(connection)?;
    dialect::begin_load(connection)?;
    let counting = counts::stop(connection)?;
    let now = dialect::clock(connection)?.max(cluster.clock_floor);
    clear(connection)?;
    let (objects, entries, copies) = (staging.count(OBJECTS)?, staging.count(ENTRIES)?, staging.count(INVENTORY)?);
    plan.progress.enter("rows", objects + entries + copies);
    let mut rebuild = Rebuild { connection, staging, plan, now, status: &mut status, last: plan.head };
    rebuild.servers()?;
    rebuild.tokens()?;
    rebuild.objects()?;
    rebuild.entries()?;
    plan.progress.reach(objects + entries)?;
    dialect::look_at_loaded(rebuild.connection)?;
    rebuild.settle()?;
    rebuild.replicas()?;
    rebuild.tail()?;
    dialect::end_load(rebuild.connection)?;
    rebuild.changes_lost()?;
    rebuild.count()?;
    rebuild.lost()?;
    counting.count(rebuild.connection)?;
    let last = rebuild.last.max(plan.known.version).max(cluster.last_version);
    finish(connection, plan, last, now, &status)?;
    crate::types::failpoint::RESTORE_WRITTEN.passed();
    plan.progress.check()?;
    Ok(status)
}

/// Everything goes but the leases, the events and the reports of restores.
fn clear(connection: &mut AnyConnection) -> Step<()> {
    diesel::delete(super::schema::moves::table).execute(connection)?;
    diesel::delete(super::schema::rebalances::table).execute(connection)?;
    // They found what they found in what was before.
    diesel::delete(super::schema::jobs::table).execute(connection)?;
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
            let admin_state = rows.get(&server.id).map_or(AdminState::InService, |row| row.admin_state);
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
        let mut after: Option<String> = None;
        loop {
            let page = self.staging.page(OBJECTS, after.as_deref(), BATCH_ROWS as i64)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            let rows: Vec<ObjectRow> = page.iter().map(|row| parse(&row.content)).collect::<Result<_>>()?;
            self.last = rows.iter().map(|row| row.version).fold(self.last, Version::max);
            dialect::load_objects(self.connection, &rows)?;
            self.wrote(rows.len())?;
        }
    }

    /// Some rows more are written: the place where it can be ended.
    fn wrote(&self, rows: usize) -> Step<()> {
        crate::types::failpoint::RESTORE_BATCH.passed();
        Ok(self.plan.progress.advance(rows as u64)?)
    }

    /// Objects that entries refer to are live, and no others.
    fn settle(&mut self) -> Step<()> {
        settle::states(self.connection, self.now + chrono::TimeDelta::days(FORGET_AFTER_DAYS))?;
        Ok(())
    }

    fn count(&mut self) -> Step<()> {
        let of = |kind: &str| entries::table.filter(entries::kind.eq(kind.to_string())).count();
        let files: i64 = of(EntryRow::FILE).get_result(self.connection)?;
        let directories: i64 = of(EntryRow::DIRECTORY).get_result(self.connection)?;
        let copies: i64 = replicas::table.count().get_result(self.connection)?;
        (self.status.files, self.status.directories) = (files as u64, directories as u64);
        self.status.replicas = copies as u64;
        Ok(())
    }
}

/// Another name for an entry whose own is taken: with a note, and cut so that it is still a name.
pub fn renamed(name: &str, note: &str) -> String {
    let room = COMPONENT_BYTES_MAX.saturating_sub(note.len() + " ()".len());
    let end = (0..=room.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{} ({note})", &name[..end])
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
            cluster::mode.eq(Mode::Normal),
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
