//! What travels to and from the name server about files: places for copies, commits, listings and changes of the
//! namespace; and what every answer has, its errors and headers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::object::objects;
use super::server_state::Health;
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
