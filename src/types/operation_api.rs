//! What travels to and from the name server about its operation: report, events, `why`, actors, `setrep`, restore, scrubs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::file_api::Entry;
use super::object::objects;
use super::{DfsPath, EventId, Mode, ObjectId, ServerId, Version};

/// How many objects have how many copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopiesCount {
    /// Copies on servers that are not down.
    pub copies: u32,
    /// Objects with that many, though they want more.
    pub objects: u64,
    /// Their bytes, once each.
    #[serde(default)]
    pub bytes: u64,
}

/// How bad a trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It goes on or ends by itself; the cluster is healthy.
    Notice,
    /// Somebody should see to it in the morning.
    Degraded,
    /// Something cannot be read or written, or one more failure would lose something.
    Danger,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trouble {
    /// What programs decide by; `docs/operations.md` lists all codes. They stay as they are.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is so, in a sentence.
    pub what: String,
    /// What to do about it, in a sentence; commands stand between backquotes.
    pub remedy: String,
    /// In so many seconds something changes by itself: repair begins, a disk is full, a copy is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_seconds: Option<u64>,
}

/// Whether data is in danger.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// `healthy`, `degraded` (see to it in the morning) or `danger` (something cannot be read or written, or hangs on one
    /// copy): the worst severity of the troubles.
    pub verdict: String,
    /// What the troubles say, without notices; the worst first.
    pub problems: Vec<String>,
    /// What is not as it should be; the worst first.
    #[serde(default)]
    pub troubles: Vec<Trouble>,
    /// The numbers below are of all that there is. They are not while the database does not answer, is damaged, was set back
    /// or waits for a restore: then nobody can tell.
    #[serde(default)]
    pub counted: bool,
    /// Servers by health.
    pub servers_live: u32,
    /// Missed a check.
    pub servers_suspect: u32,
    /// Down.
    pub servers_down: u32,
    /// Live objects.
    pub objects: u64,
    /// Their bytes, once each.
    pub bytes: u64,
    /// Objects short of copies, the fewest copies first.
    pub under_replicated: Vec<CopiesCount>,
    /// Objects with no copy on a server that answers.
    pub missing_objects: u64,
    /// Deletions that storage servers still have to carry out.
    pub outbox: u64,
    /// Copying that brings objects back to their number of copies.
    pub repair: RepairProgress,
    /// What would be lost if a server died now, with nobody else having a copy; servers with nothing are left out.
    pub lost_if_died: Vec<LossIfDied>,
    /// The copies of the metadata's journal.
    pub journal: JournalHealth,
    /// The cluster's last version.
    pub version: Version,
    /// `normal`, `read_only`, `restoring`, `damaged` (nothing is changed until the database is restored), or `unknown` while
    /// the database does not answer.
    pub mode: String,
}

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Rising.
    pub id: EventId,
    /// When.
    pub time: DateTime<Utc>,
    /// What sort of thing (`server_down`, `replica_deleted`, …).
    pub kind: String,
    /// The object, if it is about one.
    pub object: Option<ObjectId>,
    /// The server, if it is about one.
    pub server: Option<ServerId>,
    /// What happened and why.
    pub detail: String,
    /// What people call the server.
    #[serde(default)]
    pub server_name: Option<String>,
    /// The path that it is about: of an object the path at its commit, of a sum that of the first copy.
    #[serde(default)]
    pub path: Option<String>,
    /// Of a move or a copy: the new path.
    #[serde(default)]
    pub other_path: Option<String>,
    /// The name of the token that asked for it.
    #[serde(default)]
    pub by: Option<String>,
    /// Of a change of the namespace: its version.
    #[serde(default)]
    pub version: Option<Version>,
    /// Why a copy was made or deleted, as a word (`down`, `surplus`, `removed`, …).
    #[serde(default)]
    pub cause: Option<String>,
    /// The server that is the cause.
    #[serde(default)]
    pub cause_server: Option<ServerId>,
    /// What people call that.
    #[serde(default)]
    pub cause_server_name: Option<String>,
    /// It sums up as many events about single copies.
    #[serde(default)]
    pub copies: Option<u64>,
    /// Of a sum: when the last of them was.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
}

/// Kinds of events whose details name no file: constant sentences, ids and servers.
const KINDS_WITHOUT_PATHS: [&str; 6] =
    ["replica_adopted", "replica_copied", "replica_deleted", "replica_missing", "replica_outdated", "replica_trimmed"];

impl Event {
    /// The event as it is told to somebody who may see a part of the namespace only. An object may have other names than
    /// the one that was asked for, and a detail may name any of them, or somebody's token.
    pub fn without_paths(mut self) -> Self {
        (self.path, self.other_path, self.by) = (None, None, None);
        if !KINDS_WITHOUT_PATHS.contains(&self.kind.as_str()) {
            self.detail = match self.kind.as_str() {
                "replica_corrupt" => "a copy was found corrupt",
                "last_copy_corrupt" => "the last copy was found corrupt",
                "replica_quarantined" => "a copy was put aside",
                _ => "what happened is told to tokens for the whole cluster",
            }
            .into();
        }
        self
    }
}

/// Asks for events, the newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only older than this id; a decimal number is understood too.
    #[param(value_type = Option<String>, pattern = "^([0-7][0-9a-f]{15}|[0-9]{1,15}|[0-9]{17,18})$")]
    pub before: Option<EventId>,
    /// Rows wanted.
    pub limit: Option<usize>,
    /// Only what is about this object.
    pub object: Option<ObjectId>,
    /// Only what is about this storage server (name or id).
    pub server: Option<String>,
    /// Only what is of this kind.
    pub kind: Option<String>,
    /// Only what the token of this name asked for, with changes of the namespace.
    pub by: Option<String>,
    /// Only what is at or below this path, with changes of the namespace.
    pub path: Option<DfsPath>,
    /// Only from this time on.
    pub since: Option<DateTime<Utc>>,
    /// Only before this time.
    pub until: Option<DateTime<Utc>>,
    /// `true`: each copy instead of sums by their cause.
    #[serde(default)]
    pub each_copy: bool,
}

/// One page of events.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventsResponse {
    /// The newest first. There may be fewer than asked for, or none, although there is a next page.
    pub events: Vec<Event>,
    /// The `before` of the next page; none after the last.
    pub next: Option<EventId>,
}

/// One file explained.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// The file with its copies.
    pub entry: Entry,
    /// Whether it is in danger; then of each copy that is wanted and not there, what stands in its way and what will be done.
    pub findings: Vec<String>,
    /// What happened to its object, the newest first.
    pub events: Vec<Event>,
}

/// An actor as its supervisor sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ActorInfo {
    /// Its name.
    pub name: String,
    /// `running`, `waiting`, `restarting`.
    pub state: String,
    /// When its last pass ended.
    pub last_pass: Option<DateTime<Utc>>,
    /// How long that took, in seconds.
    pub last_pass_seconds: Option<f64>,
    /// What the last pass that did not fail came to, in words.
    pub last_report: Option<String>,
    /// The same in numbers; those that are 0 too.
    #[serde(default)]
    pub counts: Vec<ActorCount>,
    /// What it waits for, or how it stands otherwise, where numbers do not say it.
    #[serde(default)]
    pub note: Option<String>,
    /// The error of the last pass, if it failed.
    pub last_error: Option<String>,
    /// Passes that failed since the last one that did not.
    #[serde(default)]
    pub failures: u32,
    /// When the first of them ended.
    #[serde(default)]
    pub failing_since: Option<DateTime<Utc>>,
    /// How often it was restarted.
    pub restarts: u64,
    /// What its last panic said.
    pub last_panic: Option<String>,
}

/// A number of an actor's last pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActorCount {
    /// Of what.
    pub what: String,
    /// How many.
    pub count: u64,
}

/// All actors.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ActorsResponse {
    /// By name.
    pub actors: Vec<ActorInfo>,
}

/// How repair goes on.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct RepairProgress {
    /// Objects in the queue.
    pub queued: u64,
    /// Age of the oldest of them, in seconds.
    pub oldest_seconds: f64,
    /// Bytes that are still to be copied, as far as the queue knows.
    pub bytes: u64,
    /// Transfers under way (on the name server that acts).
    pub in_flight: u64,
    /// Objects that were repaired in each second of the last minute.
    pub objects_per_second: f64,
    /// At this rate the queue is empty after as many seconds.
    pub seconds_left: Option<f64>,
    /// Objects that are short of copies and not in the queue: their servers may come back.
    #[serde(default)]
    pub waiting: u64,
    /// Their bytes, once each.
    #[serde(default)]
    pub waiting_bytes: u64,
    /// In so many seconds the first of them are queued, unless their servers come back.
    #[serde(default)]
    pub begins_seconds: Option<f64>,
    /// Why no copying is started, if it is paused.
    pub paused: Option<String>,
    /// Objects that have failed again and again, the most endangered first; at most 20 are shown.
    pub stuck: Vec<StuckObject>,
}

/// An object whose repair keeps failing.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StuckObject {
    /// The object.
    pub object: ObjectId,
    /// The path at its commit.
    pub label: String,
    /// Copies that can be counted on.
    pub copies: i32,
    /// Tries so far.
    pub attempts: i32,
    /// Why the last one failed.
    pub last_error: String,
    /// When it is tried again; without a time, it waits for the storage servers to change.
    pub next_attempt: Option<DateTime<Utc>>,
}

/// What hangs on one server alone.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LossIfDied {
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Objects of which it has the only copy that can be counted on.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far the journal's copies are behind.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct JournalHealth {
    /// All changes up to this one are on the required copies.
    pub copied_version: Version,
    /// Age of the oldest change that is not, in seconds.
    pub lag_seconds: f64,
    /// The servers that keep the copies, as far as the name server that acts has asked them.
    #[serde(default)]
    pub holders: Vec<JournalHolder>,
}

/// A server that keeps a copy of the metadata's journal.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JournalHolder {
    /// The server.
    pub server: ServerId,
    /// What people call it.
    pub name: String,
    /// How far its copy reaches; none while it does not suffice to bring the metadata back.
    pub version: Option<Version>,
    /// For how long a snapshot has been on its way to it, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_seconds: Option<f64>,
    /// Why it is behind, if it did not do its part last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Sets copies wanted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SetrepRequest {
    /// A directory, with all that is below it, or a file.
    pub path: DfsPath,
    /// Copies wanted.
    #[schema(minimum = 1, maximum = 16)]
    pub copies: u32,
    /// Also when nothing could be written there then.
    #[serde(default)]
    pub force: bool,
}

/// What setting the copies wanted did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SetrepResponse {
    /// The last version.
    pub version: Version,
    /// Files whose number was changed; they are copied or trimmed in the background.
    pub files: u64,
}

/// What a cluster was before a restore began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModeBefore {
    /// What it took.
    pub mode: Mode,
    /// Why the mode was not normal.
    pub reason: Option<String>,
    /// The cluster's UUID: an empty database takes the one of the servers that it is restored from.
    pub cluster: String,
}

/// Starts a restore.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct RestoreRequest {
    /// Storage servers (names or ids) that are known to be absent and shall not be waited for.
    #[serde(default)]
    pub without: Vec<String>,
    /// Goes on although the journal's copies lack changes, which are lost then.
    #[serde(default)]
    pub accept_gap: bool,
    /// Copies wanted of files when no journal is left that tells.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 16)]
    pub replicas: Option<u32>,
    /// Goes on although the database is complete, and nothing is to be brought back.
    #[serde(default)]
    pub force: bool,
}

/// How far a step of a restore is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreProgress {
    /// What is counted: `rows` or `bytes`.
    pub unit: String,
    /// Done.
    pub done: u64,
    /// About as many as there are in all.
    pub total: u64,
    /// Time until the step ends, as far as what was done tells.
    pub seconds_left: Option<u64>,
}

/// How a restore goes on, and what it found.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct RestoreStatus {
    /// `none`, `running`, `done` or `failed`.
    pub state: String,
    /// What it is doing, or did last.
    pub step: String,
    /// How far that is; none where nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<RestoreProgress>,
    /// When it was started.
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// Why it failed, and what to do.
    pub error: Option<String>,
    /// What the cluster was before; one that fails or is aborted goes back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<ModeBefore>,
    /// Where the metadata came from: `journal`, `forward` (a database that was rolled back) or `labels`.
    pub source: String,
    /// The newest version that the journal's copies have.
    pub journal_version: Version,
    /// The epoch that the restore raised the cluster to.
    pub epoch: i64,
    /// Storage servers that took part.
    pub servers: Vec<String>,
    /// Storage servers that were left out by name.
    pub without: Vec<String>,
    /// Files in the namespace.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Replicas that were found and counted.
    pub replicas: u64,
    /// Committed files that the journal had not reached; they are back under the paths of their commits.
    pub tail: u64,
    /// Paths or rows of which there were several versions, and which one was taken; the first thousand.
    pub conflicts: Vec<String>,
    /// Changes that are not back, and files of which no copy was found; the first thousand.
    pub losses: Vec<String>,
    /// Copies whose commit nobody has heard of; they are kept aside. The first thousand.
    pub doubts: Vec<String>,
    /// How many conflicts, losses and doubts there are in all.
    pub conflicts_total: u64,
    /// See `conflicts_total`.
    pub losses_total: u64,
    /// See `conflicts_total`.
    pub doubts_total: u64,
    /// What a person must know besides: where a damaged database was put, what became of tokens.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Changes that are known to have been made and are not back; `losses` tells more of them.
    #[serde(default)]
    pub lost_changes: u64,
}

/// Asks storage servers to read everything they have.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ScrubRequest {
    /// The id or name of one; without it each of them.
    #[serde(default)]
    pub server: Option<String>,
}

/// How far storage servers are with reading everything.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ScrubResponse {
    /// By name.
    pub servers: Vec<ScrubServer>,
}

/// How far one of them is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ScrubServer {
    /// Its id.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// What it answered.
    pub status: Option<super::storage_api::ScrubStatus>,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A storage server tells of copies whose bytes are not what they should be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CorruptRequest {
    /// The sender.
    pub server: ServerId,
    /// The copies.
    #[serde(deserialize_with = "objects")]
    pub replicas: Vec<CorruptReplica>,
    /// So many were found at once that the sender no longer trusts its own disk or memory. It moves nothing; copies
    /// that other servers have too are no longer counted on.
    #[serde(default)]
    pub alarm: bool,
    /// Files of its copy of the metadata's journal that were damaged. They are in quarantine.
    #[serde(default)]
    pub journal: Vec<CorruptJournalFile>,
}

/// A file of the journal whose bytes were wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CorruptJournalFile {
    /// Its name.
    pub name: String,
    /// What was wrong with it.
    pub reason: String,
}

/// A copy whose bytes are wrong or gone.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CorruptReplica {
    /// The object.
    pub object: ObjectId,
    /// The copy.
    pub generation: super::Generation,
    /// What is wrong with it.
    pub reason: String,
    /// It is in quarantine already. This is asked once more after the move, because whoever compared an inventory
    /// meanwhile may have listed the copy again.
    #[serde(default)]
    pub aside: bool,
    /// Its file is not there. It is out of the inventory, and there is nothing to put into quarantine.
    #[serde(default)]
    pub gone: bool,
}

/// The answer to [`CorruptRequest`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CorruptResponse {
    /// For each copy, in order.
    pub fates: Vec<CorruptFate>,
}

/// What to do with a corrupt copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CorruptFate {
    /// Put it aside; it may be removed after a while, because there are good copies or nobody wants it.
    Quarantine,
    /// Put it aside and never remove it: it is the last copy of a live object, and a person may save parts of it.
    QuarantineForGood,
    /// Leave it where it is and ask again: the name server cannot decide now.
    Wait,
    /// Leave it where it is; it was noted. The answer to a server in alarm.
    Leave,
}
