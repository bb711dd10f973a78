//! What travels to and from the name server, as JSON.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::bounds;
pub use super::jobs_api::*;
use super::object::objects;
pub use super::operation_api::*;
use super::schema::Uuid;
use super::storage_api::TroubleCode;
use super::{DfsPath, ErrorCode, Generation, ObjectId, ServerId, Sha256, Version};

/// Header with the SHA-256 (64 hexadecimal digits) that the sender computed of a body, or that the
/// server knows of what it sends.
pub const SHA256_HEADER: &str = "Holdfast-Sha256";
/// Header with the id of a request; taken from the caller when it sends one.
pub const REQUEST_ID_HEADER: &str = "X-Request-Id";

/// The body of every error.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What programs decide by.
    pub code: ErrorCode,
    /// What people read.
    pub message: String,
    /// Finds the log lines of the request.
    #[serde(default)]
    pub request_id: Option<String>,
}

/// File or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// A condition on what a write replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Whatever is there is replaced.
    #[default]
    Any,
    /// Nothing may be there (`If-None-Match: *`).
    Absent,
    /// Exactly this version must be there (`If-Match: "7"`).
    Version(Version),
}

/// Asks where to write a file.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AvailableQuery {
    /// Where the file shall be.
    pub path: DfsPath,
    /// Its size in bytes, if it is known; the upload must then have exactly that size.
    pub size: Option<u64>,
    /// How many placements, each for an object of its own (default 1).
    #[param(minimum = 1, maximum = 256)]
    pub count: Option<u32>,
    /// The object id of an earlier try whose outcome is unknown or that found too few servers.
    pub object: Option<ObjectId>,
    /// Comma-separated ids of servers that failed just now.
    pub exclude: Option<String>,
    /// The write shall replace exactly this version.
    pub if_match: Option<Version>,
    /// `true`: the write shall replace nothing.
    pub if_none_match: Option<bool>,
    /// `true`: directories above the path are made when they are missing.
    pub parents: Option<bool>,
}

/// Where to write, and the permission to do so.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// The new object.
    pub object: ObjectId,
    /// The number that its copies will carry.
    pub generation: Generation,
    /// Goes into the upload's URL.
    pub ticket: String,
    /// Where the body goes: to the first, which streams it to the others.
    pub servers: Vec<Target>,
    /// What people call these servers, in the same order.
    #[serde(default)]
    pub names: Vec<String>,
    /// Copies that must be fsynced before the write is acknowledged.
    pub min_write_copies: u32,
    /// When the ticket ends.
    pub expires: DateTime<Utc>,
}

/// A storage server as a transfer's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// The server.
    pub server: ServerId,
    /// Its base URL.
    pub url: String,
}

/// The answer to [`AvailableQuery`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AvailableResponse {
    /// As many as asked for.
    pub placements: Vec<Placement>,
}

/// One upload that a storage server has fsynced, with its other holders.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommitReport {
    /// The write ticket.
    pub ticket: String,
    /// Bytes received.
    pub size: u64,
    /// Their digest.
    pub sha256: Sha256,
    /// Servers that have fsynced them.
    pub holders: Vec<ServerId>,
}

/// Reports travel together.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommitRequest {
    /// At most `COMMIT_BATCH_ITEMS_MAX`.
    #[serde(deserialize_with = "objects")]
    pub reports: Vec<CommitReport>,
}

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Committed {
    /// The file's path at its commit.
    pub path: DfsPath,
    /// Its bytes.
    pub object: ObjectId,
    /// Its version.
    pub version: Version,
    /// Bytes.
    pub size: u64,
    /// Digest of the bytes.
    pub sha256: Sha256,
    /// Copies that are fsynced now.
    pub copies: u32,
    /// Copies wanted.
    pub copies_wanted: u32,
    /// Servers on which the metadata lists the copy that was reported. A report that is repeated may find its object
    /// deleted, or another copy of it listed there: what is not listed must not be marked as committed.
    #[serde(default)]
    pub listed: Vec<ServerId>,
}

/// The outcome of one report.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommitOutcome {
    /// It is committed.
    Committed(Committed),
    /// It is not, and this is why.
    Failed(ErrorBody),
}

/// Outcomes in the order of the reports.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommitResponse {
    /// One for each report.
    pub outcomes: Vec<CommitOutcome>,
}

/// A pending replica whose fate its server asks for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PendingReplica {
    /// The object.
    pub object: ObjectId,
    /// The copy.
    pub generation: Generation,
    /// When the ticket that brought it ends.
    pub ticket_expires: DateTime<Utc>,
    /// The epoch of that ticket.
    pub epoch: i64,
}

/// A storage server asks about its pending replicas.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PendingRequest {
    /// Who asks.
    pub server: ServerId,
    /// At most `PENDING_BATCH_ITEMS_MAX`.
    #[serde(deserialize_with = "objects")]
    pub replicas: Vec<PendingReplica>,
}

/// What shall become of a pending replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PendingFate {
    /// Not decided; ask again.
    Wait,
    /// The metadata lists it.
    Keep {
        /// The object's version.
        version: Version,
        /// The path at its commit.
        label: String,
    },
    /// No one will ever ask for it.
    Delete,
}

/// Fates in the order of the questions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PendingResponse {
    /// One for each replica.
    pub fates: Vec<PendingFate>,
}

/// One copy of a file and how to read it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReplicaLocation {
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// The machine it runs on.
    pub host: String,
    /// Where to read, with a ticket; only for copies that can be read now.
    pub url: Option<String>,
    /// `present` or `copying`.
    pub state: String,
    /// The server's health.
    pub health: Health,
    /// Since when the metadata lists it.
    #[serde(default)]
    pub since: Option<DateTime<Utc>>,
    /// When its bytes were last checked.
    pub verified: Option<DateTime<Utc>>,
}

/// A file or directory.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// In a listing relative to the listed directory; else the whole path.
    pub path: String,
    /// File or directory.
    pub kind: Kind,
    /// Bytes (files).
    #[serde(default)]
    pub size: Option<u64>,
    /// Digest of the bytes (files).
    #[serde(default)]
    pub sha256: Option<Sha256>,
    /// The bytes' id (files).
    #[serde(default)]
    pub object: Option<ObjectId>,
    /// The change that made it what it is.
    pub version: Version,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// When it was last changed.
    pub modified: DateTime<Utc>,
    /// Copies wanted: of a file, or for new files of a directory.
    pub copies_wanted: u32,
    /// Healthy copies (files).
    #[serde(default)]
    pub copies: Option<u32>,
    /// Where they are, best first; only when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaLocation>,
}

/// Names a path.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub struct PathQuery {
    /// The path.
    pub path: DfsPath,
}

/// Names what to remove.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeleteQuery {
    /// The path.
    pub path: DfsPath,
    /// Directories too, with all that is in them.
    #[serde(default)]
    pub recursive: bool,
    /// Only this version.
    pub if_match: Option<Version>,
}

/// Asks for one page of a listing.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// The directory.
    pub path: DfsPath,
    /// The cursor: the `next` of the page before.
    pub after: Option<String>,
    /// Rows wanted; at most and by default `LIST_PAGE_ROWS_MAX`.
    pub limit: Option<usize>,
    /// All that lies below, a directory before its contents.
    #[serde(default)]
    pub recursive: bool,
    /// With each file's copies and tickets to read them.
    #[serde(default)]
    pub locations: bool,
}

/// One page of a listing, in the order of the names' bytes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ListResponse {
    /// Paths are relative to the listed directory.
    pub entries: Vec<Entry>,
    /// The cursor of the next page; none after the last.
    pub next: Option<String>,
}

/// Makes a directory.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MkdirRequest {
    /// The path.
    pub path: DfsPath,
    /// Missing parents too, and no error when it is there already.
    #[serde(default)]
    pub parents: bool,
}

/// Moves or copies.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TransferRequest {
    /// What.
    pub from: DfsPath,
    /// The exact new path (not a directory to put it into).
    pub to: DfsPath,
    /// For copies: directories too.
    #[serde(default)]
    pub recursive: bool,
}

/// What a change of the namespace answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// The version of the change; of the newest change before it when there was nothing to do.
    pub version: Version,
}

/// A storage server announces itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RegisterRequest {
    /// The UUID that it made for itself.
    #[schema(value_type = Uuid)]
    pub identity: uuid::Uuid,
    /// What people call it.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    pub name: String,
    /// The machine it runs on.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    pub host: String,
    /// Where servers reach it.
    #[schema(
        max_length = 2048,
        pattern = r"^https?://[a-z][a-z0-9-]{0,62}(\.[a-z][a-z0-9-]{0,62})*(:[1-9][0-9]{0,3})?(/[A-Za-z0-9/._~-]*)?$"
    )]
    pub url: String,
    /// Where clients reach it.
    #[schema(
        max_length = 2048,
        pattern = r"^https?://[a-z][a-z0-9-]{0,62}(\.[a-z][a-z0-9-]{0,62})*(:[1-9][0-9]{0,3})?(/[A-Za-z0-9/._~-]*)?$"
    )]
    pub public_url: String,
    /// Rack, room or site; may be empty.
    #[serde(default)]
    #[schema(max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub zone: String,
    /// New with each start.
    #[schema(value_type = Uuid)]
    pub boot_id: uuid::Uuid,
    /// The cluster that its data belongs to, if it ever belonged to one.
    #[schema(value_type = Option<Uuid>)]
    pub cluster: Option<uuid::Uuid>,
    /// The newest epoch that it has seen.
    #[serde(deserialize_with = "bounds::epoch")]
    #[schema(minimum = 0, maximum = 1_099_511_627_776_u64)]
    pub epoch: i64,
    /// Rises with every change of its index: of two copies of one directory, the one with more is newer.
    #[serde(default)]
    pub index_changes: i64,
    /// The last starts of its directory, this one among them: a copy does not have those of what it was copied from since.
    #[serde(default)]
    #[schema(value_type = Vec<Uuid>, max_items = 64)]
    pub boots: Vec<uuid::Uuid>,
    /// A person says that this directory takes the place of a newer copy of it, which is lost.
    #[serde(default)]
    pub replace_newer: bool,
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// Bytes that new objects may take.
    pub free_bytes: u64,
}

/// The answer to [`RegisterRequest`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RegisterResponse {
    /// Its id from now on.
    pub server: ServerId,
    /// The cluster.
    #[schema(value_type = Uuid)]
    pub cluster: uuid::Uuid,
    /// The cluster's epoch.
    #[serde(deserialize_with = "bounds::epoch")]
    pub epoch: i64,
    /// The database's time, by which tickets are judged.
    #[serde(deserialize_with = "bounds::time")]
    pub time: DateTime<Utc>,
}

/// A server's health, from checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It answers.
    Live,
    /// It missed a check; it gets no new files.
    Suspect,
    /// It has missed checks for long.
    Down,
}

/// A server's administrative state, from a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// It takes files.
    InService,
    /// It takes none, and its files are to be copied away.
    Draining,
    /// Nothing needs it any more.
    Drained,
}

/// A storage server as the cluster sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServerInfo {
    /// Its id.
    pub server: ServerId,
    /// What people call it.
    pub name: String,
    /// The machine it runs on.
    pub host: String,
    /// Where servers reach it.
    pub url: String,
    /// Where clients reach it.
    #[serde(default)]
    pub public_url: String,
    /// Rack, room or site.
    pub zone: String,
    /// From checks.
    pub health: Health,
    /// Why it is not live; or, of one that is, what somebody should see to.
    pub reason: Option<String>,
    /// From a person.
    pub admin_state: AdminState,
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// Bytes that new objects may take.
    pub free_bytes: u64,
    /// Bytes of the replicas that it has.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Replicas that the metadata lists on it.
    pub replicas: u64,
    /// When it last answered.
    pub last_seen: Option<DateTime<Utc>>,
    /// Since when it has this health.
    #[serde(default)]
    pub since: Option<DateTime<Utc>>,
    /// When the replica that was checked least recently was checked.
    #[serde(default)]
    pub scrubbed: Option<DateTime<Utc>>,
    /// How far its wall clock is ahead of the cluster's time, in seconds; negative when it is behind.
    #[serde(default)]
    pub clock_ahead_seconds: f64,
    /// It is live, and its inventory is still to be compared with the metadata; it gets no new files yet.
    #[serde(default)]
    pub syncing: bool,
    /// It found so many corrupt copies at once that it no longer trusts its disk or its memory; it gets no new files
    /// until it is started again.
    #[serde(default)]
    pub scrub_alarm: bool,
    /// It is live and cannot keep new files, for this reason; `reason` says it in a sentence.
    #[serde(default)]
    pub trouble: Option<TroubleCode>,
    /// Of a draining server: replicas that would leave an object short of copies if they went now.
    #[serde(default)]
    pub drain_left: Option<u64>,
    /// Of a draining server: deletions that it still has to carry out before it is drained.
    #[serde(default)]
    pub drain_deletions: Option<u64>,
    /// Of a draining server: what it waits for, in sentences; none while its copies are being made elsewhere.
    #[serde(default)]
    pub drain_waits: Vec<String>,
    /// Of a draining server: how long that takes at the present rate, in seconds.
    #[serde(default)]
    pub drain_seconds_left: Option<f64>,
}

/// All storage servers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServersResponse {
    /// In the order of their names.
    pub servers: Vec<ServerInfo>,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads and writes.
    Writer,
    /// Everything.
    Superuser,
}

/// Makes a token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenRequest {
    /// Its name, by which it is revoked.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Only at and below this path.
    pub prefix: Option<DfsPath>,
    /// For how long from now; for ever when absent.
    #[schema(minimum = 1, maximum = 3_153_599_999_u64)]
    pub ttl_seconds: Option<u64>,
}

/// A new token; the only time that its text is shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// Its name.
    pub name: String,
    /// The secret text.
    pub token: String,
}

/// A token without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Only at and below this path.
    pub prefix: Option<String>,
    /// When it ends.
    pub expires: Option<DateTime<Utc>>,
}

/// Names a token to revoke.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RevokeQuery {
    /// Its name.
    pub name: String,
    /// The last superuser without a prefix too.
    #[serde(default)]
    pub force: bool,
}

/// How a token is revoked.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ForceQuery {
    /// The last superuser without a prefix too.
    #[serde(default)]
    pub force: bool,
}

/// How a server is taken out of service, or away.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LeaveQuery {
    /// Also when that hurts.
    #[serde(default)]
    pub force: bool,
}

/// All tokens.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokensResponse {
    /// By name.
    pub tokens: Vec<TokenInfo>,
}

/// Whether a name server can serve. Whoever shows a valid token is told `NameServerDetails` beside it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NameServerStatus {
    /// `ok`: it answers, and so does its database.
    pub status: String,
    /// It takes reads and writes: the mode is normal, and as many storage servers take files as a write needs.
    pub ready: bool,
    /// `normal`, `read_only`, `restoring`, or `damaged`: nothing is changed until the database is restored.
    pub mode: String,
    /// Beside these, for whoever shows a valid token or a storage server's credential.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub details: Option<NameServerDetails>,
}

/// What a name server tells of itself and its cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NameServerDetails {
    /// The program's version.
    pub program_version: String,
    /// The cluster.
    #[schema(value_type = Uuid)]
    pub cluster: uuid::Uuid,
    /// The branch of its history; a restore begins another.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub history: Option<uuid::Uuid>,
    /// The cluster's epoch.
    pub epoch: i64,
    /// The last version.
    pub version: Version,
    /// Storage servers that are live and compared.
    pub servers_live: u32,
    /// The database's time.
    pub time: DateTime<Utc>,
}
