//! Rows as they are stored. Times are naive UTC; ids are plain numbers.
#![allow(missing_docs, reason = "the migrations comment each column")]

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};

use super::schema::*;
use crate::decisions::room::Filling;
use crate::types::storage_api::Peer;
use crate::types::{AdminState, CauseWord, Health, Mode, Result, Sha256, Time};

/// A stored time as the rest of the program has it.
pub fn utc(time: NaiveDateTime) -> Time {
    time.and_utc()
}

#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = cluster)]
pub struct ClusterRow {
    pub id: i16,
    pub cluster_id: String,
    pub history_id: String,
    pub epoch: i64,
    pub mode: Mode,
    pub mode_reason: Option<String>,
    pub last_version: i64,
    pub tip: Vec<u8>,
    pub clock_floor: NaiveDateTime,
    pub created: NaiveDateTime,
    pub journal_copied: i64,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset, Serialize, Deserialize)]
#[diesel(table_name = servers)]
pub struct ServerRow {
    pub id: i64,
    pub identity: String,
    pub name: String,
    pub host: String,
    pub url: String,
    pub public_url: String,
    pub zone: String,
    pub admin_state: AdminState,
    pub registered: NaiveDateTime,
}

impl ServerRow {
    /// The server as a recipient of requests. With an identity that is none nobody takes them.
    pub fn peer(&self) -> Peer {
        Peer { identity: self.identity.parse().unwrap_or_default(), url: self.url.clone() }
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = server_health, treat_none_as_null = true)]
pub struct ServerHealthRow {
    pub server: i64,
    pub health: Health,
    pub since: NaiveDateTime,
    pub reason: Option<String>,
    pub boot_id: String,
    pub capacity_bytes: i64,
    pub free_bytes: i64,
    pub last_seen: Option<NaiveDateTime>,
    pub synced_boot: String,
    pub scrub_alarm: bool,
    pub index_changes: i64,
    pub trouble: Option<String>,
    pub troubled: Option<NaiveDateTime>,
    pub stored_bytes: i64,
    pub scrubbed: Option<NaiveDateTime>,
    pub clock_ahead_ms: i64,
    pub answer_ms: i64,
    pub fill_since: Option<NaiveDateTime>,
    pub fill_free_bytes: i64,
    pub fill_bytes_per_day: i64,
}

impl ServerHealthRow {
    /// How fast its room becomes less, as it was measured so far.
    pub fn filling(&self, now: NaiveDateTime) -> Filling {
        Filling {
            since: utc(self.fill_since.unwrap_or(now)),
            free_bytes: if self.fill_since.is_some() { self.fill_free_bytes } else { self.free_bytes } as u64,
            bytes_per_day: self.fill_bytes_per_day,
        }
    }

    /// The row of a server that was not checked yet, for this reason.
    pub fn unchecked(server: i64, since: NaiveDateTime, reason: &str) -> Self {
        Self {
            server,
            health: Health::Suspect,
            since,
            reason: Some(reason.into()),
            boot_id: Self::UNKNOWN_BOOT.into(),
            capacity_bytes: 0,
            free_bytes: 0,
            last_seen: None,
            synced_boot: String::new(),
            scrub_alarm: false,
            index_changes: 0,
            trouble: None,
            troubled: None,
            stored_bytes: 0,
            scrubbed: None,
            clock_ahead_ms: 0,
            answer_ms: 0,
            fill_since: None,
            fill_free_bytes: 0,
            fill_bytes_per_day: 0,
        }
    }

    /// The boot id of a server that a restore has entered and that has not registered since. No inventory was ever
    /// compared under it.
    pub const UNKNOWN_BOOT: &'static str = "unknown";
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, Serialize, Deserialize)]
#[diesel(table_name = objects, treat_none_as_default_value = false)]
pub struct ObjectRow {
    pub id: i64,
    pub state: String,
    pub size: i64,
    #[serde(with = "hex::serde")]
    pub sha256: Vec<u8>,
    pub copies_wanted: i32,
    pub label: String,
    pub version: i64,
    pub created: NaiveDateTime,
    pub forget_after: Option<NaiveDateTime>,
}

impl ObjectRow {
    pub const LIVE: &'static str = "live";
    pub const DELETED: &'static str = "deleted";
    pub const ABORTED: &'static str = "aborted";

    pub fn digest(&self) -> Result<Sha256> {
        Sha256::from_slice(&self.sha256)
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, QueryableByName, Serialize, Deserialize)]
#[diesel(table_name = entries, treat_none_as_default_value = false)]
pub struct EntryRow {
    pub id: i64,
    pub parent: Option<i64>,
    pub name: String,
    pub kind: String,
    pub object: Option<i64>,
    pub replication: Option<i32>,
    pub version: i64,
    pub created: NaiveDateTime,
    pub modified: NaiveDateTime,
}

impl EntryRow {
    pub const FILE: &'static str = "file";
    pub const DIRECTORY: &'static str = "directory";

    pub fn is_directory(&self) -> bool {
        self.kind == Self::DIRECTORY
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = replicas, treat_none_as_default_value = false)]
pub struct ReplicaRow {
    pub object: i64,
    pub server: i64,
    pub generation: i64,
    pub state: String,
    pub created: NaiveDateTime,
    pub verified: Option<NaiveDateTime>,
}

impl ReplicaRow {
    pub const COPYING: &'static str = "copying";
    pub const PRESENT: &'static str = "present";
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = repair_queue, treat_none_as_default_value = false)]
pub struct RepairRow {
    pub object: i64,
    pub copies: i32,
    pub queued: NaiveDateTime,
    pub next_attempt: NaiveDateTime,
    pub attempts: i32,
    pub last_error: Option<String>,
}

impl RepairRow {
    /// An object that is to be looked at from `next_attempt` on, and so many copies of which are at hand.
    pub fn new((object, copies): (i64, i32), queued: NaiveDateTime, next_attempt: NaiveDateTime) -> Self {
        Self { object, copies, queued, next_attempt, attempts: 0, last_error: None }
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = outbox, treat_none_as_default_value = false)]
pub struct OutboxRow {
    pub server: i64,
    pub object: i64,
    pub generation: i64,
    pub version: i64,
    pub queued: NaiveDateTime,
    pub not_before: NaiveDateTime,
    pub reason: String,
    pub by_token: Option<String>,
}

impl OutboxRow {
    /// The deletion of a copy `(object, generation)` on a server, decided at a version, for a cause.
    pub fn new(server: i64, copy: (i64, i64), version: i64, cause: CauseWord, now: NaiveDateTime) -> Self {
        let (object, generation) = copy;
        let reason = cause.word().into();
        Self { server, object, generation, version, queued: now, not_before: now, reason, by_token: None }
    }

    /// Whoever got a ticket for this copy may still read it for so long.
    pub fn after(self, read_ttl: TimeDelta) -> Self {
        Self { not_before: self.queued + read_ttl, ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = journal, treat_none_as_default_value = false)]
pub struct JournalRow {
    pub version: i64,
    pub seq: i32,
    pub table_name: String,
    pub row_key: String,
    pub content: Option<String>,
    pub tip: Vec<u8>,
    pub created: NaiveDateTime,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = leases)]
pub struct LeaseRow {
    pub name: String,
    pub holder: String,
    pub term: i64,
    pub expires: NaiveDateTime,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, Serialize, Deserialize)]
#[diesel(table_name = tokens, treat_none_as_default_value = false)]
pub struct TokenRow {
    pub name: String,
    #[serde(with = "hex::serde")]
    pub sha256: Vec<u8>,
    pub role: String,
    pub prefix: Option<String>,
    pub created: NaiveDateTime,
    pub expires: Option<NaiveDateTime>,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = events, treat_none_as_default_value = false)]
pub struct EventRow {
    pub id: i64,
    pub time: NaiveDateTime,
    pub kind: String,
    pub object: Option<i64>,
    pub server: Option<i64>,
    pub detail: String,
    pub path: Option<String>,
    pub by_token: Option<String>,
    pub cause: Option<String>,
    pub cause_server: Option<i64>,
    pub part_of: Option<i64>,
    pub copies: Option<i64>,
    pub until: Option<NaiveDateTime>,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = audit, treat_none_as_default_value = false)]
pub struct AuditRow {
    pub id: i64,
    pub version: i64,
    pub time: NaiveDateTime,
    pub kind: String,
    pub path: String,
    pub other_path: Option<String>,
    pub by_token: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = removed_servers, treat_none_as_default_value = false)]
pub struct RemovedServerRow {
    pub id: i64,
    pub name: String,
    pub url: String,
    pub removed: NaiveDateTime,
    pub by_token: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = restores, treat_none_as_default_value = false)]
pub struct RestoreRow {
    pub id: i64,
    pub started: NaiveDateTime,
    pub ended: Option<NaiveDateTime>,
    pub report: String,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = rebalances, treat_none_as_default_value = false)]
pub struct RebalanceRow {
    pub id: i64,
    pub state: String,
    pub within_percent: i32,
    pub started: NaiveDateTime,
    pub ended: Option<NaiveDateTime>,
    pub by_token: Option<String>,
    pub moved: i64,
    pub moved_bytes: i64,
    pub left_bytes: Option<i64>,
    pub note: String,
}

impl RebalanceRow {
    pub const RUNNING: &'static str = "running";
    pub const DONE: &'static str = "done";
    pub const STOPPED: &'static str = "stopped";

    pub fn is_running(&self) -> bool {
        self.state == Self::RUNNING
    }

    /// About how long it takes until it is done, at the rate so far.
    pub fn seconds_left(&self, now: NaiveDateTime) -> Option<f64> {
        let seconds = (now - self.started).num_milliseconds() as f64 / 1e3;
        let left = self.left_bytes.filter(|_| self.is_running() && self.moved_bytes > 0 && seconds > 0.0)?;
        Some(left as f64 / (self.moved_bytes as f64 / seconds))
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = moves, treat_none_as_default_value = false)]
pub struct MoveRow {
    pub object: i64,
    pub server: i64,
    pub begun: NaiveDateTime,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = jobs, treat_none_as_default_value = false)]
pub struct JobRow {
    pub kind: String,
    pub id: i64,
    pub holder: String,
    pub state: String,
    pub started: NaiveDateTime,
    pub beat: NaiveDateTime,
    pub ended: Option<NaiveDateTime>,
    pub by_token: Option<String>,
    pub request: String,
    pub step: String,
    pub report: String,
}

impl JobRow {
    pub const RUNNING: &'static str = "running";
    pub const DONE: &'static str = "done";
    pub const FAILED: &'static str = "failed";
}
