//! The unit of work of every journaled transaction.
//!
//! [`Changes::begin`] locks the cluster row before anything is read. Each change then takes the next dense
//! version when it first writes a row, and records every row that it changes. [`Changes::finish`] appends
//! the journal rows and moves the cluster's version and tip, in the same transaction. A change that is
//! refused must have written nothing: it checks first and writes after.

use std::collections::{HashMap, HashSet};

use chrono::NaiveDateTime;
use diesel::prelude::*;
use serde::Serialize;

use super::connection::AnyConnection;
use super::error::{Failure, Step};
use super::rows::*;
use super::{chunks, dialect, queue, schema};
use crate::journal::next_tip;
use crate::types::{CauseWord, DfsPath, Error, ErrorCode, EventKind, Mode, ObjectId, Sha256, Version};

/// Changes that may be in the database alone: it bounds the journal, and what a lost database takes with it.
const JOURNAL_BEHIND_VERSIONS_MAX: i64 = 1_000_000;

/// Holds the cluster row's lock until the transaction ends.
pub struct Changes<'c> {
    /// The connection inside the transaction.
    pub connection: &'c mut AnyConnection,
    /// The database's time at the start, never before the stored floor.
    pub now: NaiveDateTime,
    cluster: ClusterRow,
    journal: Vec<JournalRow>,
    /// Rows that the current change has recorded.
    item_rows: i32,
    /// The token that asked for the current change.
    by: Option<String>,
    audit: Vec<AuditRow>,
}

/// An object that an entry no longer refers to.
#[derive(Debug, Clone)]
pub struct Released {
    /// The object.
    pub object: i64,
    /// What became of the entry.
    pub cause: CauseWord,
    /// The token that asked for it.
    pub by: Option<String>,
}

impl<'c> Changes<'c> {
    /// Locks the cluster row; refuses when the cluster takes no changes.
    pub fn begin(connection: &'c mut AnyConnection) -> Step<Self> {
        let cluster = dialect::lock_cluster(connection)?;
        if cluster.mode != Mode::Normal {
            return Err(Error::new(ErrorCode::ReadOnly, super::cluster::refusal(cluster.mode_reason.as_deref())).into());
        }
        super::cluster::possible(&cluster)?;
        let behind = cluster.last_version - cluster.journal_copied;
        if behind > JOURNAL_BEHIND_VERSIONS_MAX {
            let message = format!(
                "{behind} changes are not on the journal's copies yet, more than the {JOURNAL_BEHIND_VERSIONS_MAX} that may \
                 be; storage servers must be up to take them"
            );
            return Err(Error::new(ErrorCode::Busy, message).into());
        }
        let now = dialect::clock(connection)?.max(cluster.clock_floor);
        Ok(Self { connection, now, cluster, journal: Vec::new(), item_rows: 0, by: None, audit: Vec::new() })
    }

    /// The token that asks for what follows; `None` when nobody does, or it is not known.
    pub fn asked_by(&mut self, by: Option<String>) {
        self.by = by;
    }

    /// The token that asked for the current change.
    pub fn by(&self) -> Option<&str> {
        self.by.as_deref()
    }

    /// Notes what the current change is to people, and who asked for it; nothing, if it has changed nothing. It goes with
    /// the change's transaction, and is no part of what is chained and copied.
    pub fn note(&mut self, kind: EventKind, path: &DfsPath, other: Option<&DfsPath>) {
        if self.item_rows == 0 {
            return;
        }
        self.audit.push(AuditRow {
            id: ObjectId::generate().0,
            version: self.version(),
            time: self.now,
            kind: kind.word().into(),
            path: path.to_string(),
            other_path: other.map(DfsPath::to_string),
            by_token: self.by.clone(),
        });
    }

    /// The version of the current change.
    pub fn version(&self) -> Version {
        self.cluster.last_version + 1
    }

    /// The cluster's epoch.
    pub fn epoch(&self) -> i64 {
        self.cluster.epoch
    }

    /// Ends the current change; the next one gets the next version. Answers the version of this change, or
    /// of the last one before it when this one had nothing to write.
    pub fn end_item(&mut self) -> Version {
        if self.item_rows > 0 {
            self.cluster.last_version += 1;
            self.item_rows = 0;
        }
        self.cluster.last_version
    }

    /// The refusal of the current change, which must have written nothing; otherwise the whole transaction
    /// fails, because half a change must never be committed.
    pub fn refused(&self, error: Error) -> Step<Error> {
        if self.item_rows == 0 {
            return Ok(error);
        }
        Err(Failure::Database(Error::internal("a change was refused after it had written").with_source(error)))
    }

    /// Writes the journal rows and the cluster row. Without it the transaction has no effect on either.
    pub fn finish(mut self) -> Step<()> {
        self.end_item();
        if self.journal.is_empty() {
            return Ok(());
        }
        dialect::insert_journal(self.connection, &self.journal)?;
        dialect::insert_audit(self.connection, &self.audit)?;
        diesel::update(schema::cluster::table)
            .set((
                schema::cluster::last_version.eq(self.cluster.last_version),
                schema::cluster::tip.eq(&self.cluster.tip),
            ))
            .execute(self.connection)?;
        crate::types::failpoint::CHANGE_JOURNALED.passed();
        Ok(())
    }

    /// Notes a changed row, with its new content or `None` when it is gone.
    pub fn record<T: Serialize>(&mut self, table: &str, key: impl ToString, content: Option<&T>) -> Step<()> {
        let content = match content {
            Some(row) => Some(serde_json::to_string(row).map_err(|error| {
                Failure::Database(Error::internal("cannot encode a row for the journal").with_source(error))
            })?),
            None => None,
        };
        let (version, seq, key) = (self.version(), self.item_rows, key.to_string());
        let before = Sha256::from_slice(&self.cluster.tip)?;
        self.cluster.tip = next_tip(before, version, seq, table, &key, content.as_deref()).0.to_vec();
        self.journal.push(JournalRow {
            version,
            seq,
            table_name: table.into(),
            row_key: key,
            content,
            tip: self.cluster.tip.clone(),
            created: self.now,
        });
        self.item_rows += 1;
        Ok(())
    }

    /// Inserts entries of the current change.
    pub fn insert_entries(&mut self, rows: &[EntryRow]) -> Step<()> {
        dialect::insert_entries(self.connection, rows)?;
        for row in rows {
            self.record("entries", row.id, Some(row))?;
        }
        Ok(())
    }

    /// Gives an entry its new content.
    pub fn update_entry(&mut self, row: &EntryRow) -> Step<()> {
        use schema::entries::dsl;
        diesel::update(dsl::entries.find(row.id))
            .set((
                dsl::parent.eq(row.parent),
                dsl::name.eq(&row.name),
                dsl::object.eq(row.object),
                dsl::replication.eq(row.replication),
                dsl::version.eq(row.version),
                dsl::modified.eq(row.modified),
            ))
            .execute(self.connection)?;
        self.record("entries", row.id, Some(row))
    }

    /// Removes entries.
    pub fn delete_entries(&mut self, ids: &[i64]) -> Step<()> {
        chunks::execute(ids, |piece| {
            diesel::delete(schema::entries::table.filter(schema::entries::id.eq_any(piece))).execute(self.connection)
        })?;
        for id in ids {
            self.record::<EntryRow>("entries", id, None)?;
        }
        Ok(())
    }

    /// Gives an object its new content.
    pub fn update_object(&mut self, row: &ObjectRow) -> Step<()> {
        use schema::objects::dsl;
        diesel::update(dsl::objects.find(row.id))
            .set((
                dsl::state.eq(&row.state),
                dsl::copies_wanted.eq(row.copies_wanted),
                dsl::forget_after.eq(row.forget_after),
            ))
            .execute(self.connection)?;
        self.record("objects", row.id, Some(row))
    }

    /// Lets go of an object, for the token that asked for the current change.
    pub fn release(&mut self, object: i64, cause: CauseWord, times: &ReleaseTimes) -> Step<()> {
        let by = self.by.clone();
        self.release_objects(&[Released { object, cause, by }], times)
    }

    /// Lets go of objects that entries no longer refer to: those that no entry refers to any more become
    /// *deleted*, their replica rows go, and the outbox tells their servers, in this transaction.
    pub fn release_objects(&mut self, candidates: &[Released], times: &ReleaseTimes) -> Step<()> {
        use schema::{entries, objects, replicas};
        let mut ids: Vec<i64> = candidates.iter().map(|released| released.object).collect();
        ids.sort_unstable();
        ids.dedup();
        let still: Vec<Option<i64>> = chunks::load(&ids, |piece| {
            let referring = entries::table.filter(entries::object.eq_any(piece)).select(entries::object);
            referring.distinct().load(self.connection)
        })?;
        let still: HashSet<i64> = still.into_iter().flatten().collect();
        ids.retain(|id| !still.contains(id));
        if ids.is_empty() {
            return Ok(());
        }
        dialect::lock_objects(self.connection, &ids)?;
        let rows: Vec<ObjectRow> = chunks::load(&ids, |piece| {
            objects::table.filter(objects::id.eq_any(piece)).select(ObjectRow::as_select()).load(self.connection)
        })?;
        let copies: Vec<ReplicaRow> = chunks::load(&ids, |piece| {
            replicas::table.filter(replicas::object.eq_any(piece)).select(ReplicaRow::as_select()).load(self.connection)
        })?;
        let version = self.version();
        let why: HashMap<i64, &Released> = candidates.iter().map(|released| (released.object, released)).collect();
        let deletion = |copy: &ReplicaRow| {
            let why = why.get(&copy.object);
            let cause = why.map_or(CauseWord::Unknown, |why| why.cause);
            let row = OutboxRow::new(copy.server, (copy.object, copy.generation), version, cause, self.now);
            OutboxRow { by_token: why.and_then(|why| why.by.clone()), ..row.after(times.read_ticket) }
        };
        let outbox: Vec<OutboxRow> = copies.iter().map(deletion).collect();
        dialect::insert_outbox(self.connection, &outbox)?;
        crate::types::failpoint::RELEASE_QUEUED.passed();
        chunks::execute(&ids, |piece| {
            diesel::delete(replicas::table.filter(replicas::object.eq_any(piece))).execute(self.connection)
        })?;
        queue::remove(self.connection, &ids)?;
        for mut row in rows {
            row.state = ObjectRow::DELETED.into();
            row.forget_after = Some(self.now + times.write_ticket);
            self.update_object(&row)?;
        }
        Ok(())
    }
}

/// How long tickets may name an object that is deleted now.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseTimes {
    /// Read tickets: the bytes stay as long.
    pub read_ticket: chrono::TimeDelta,
    /// Write tickets, at most: the row stays as long, so that a late report finds it.
    pub write_ticket: chrono::TimeDelta,
}
