//! What travels to and from a storage server, as JSON.

use serde::{Deserialize, Serialize};

use super::api::Target;
use super::{Error, Generation, ObjectId, Result, ServerId, Sha256, Time, Version};

/// The answer to `GET /status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StorageStatus {
    /// `ok`, or how far it has come since its start: `unregistered`, `waiting` for the name server's first look, `syncing`.
    pub status: String,
    /// The UUID that it made for itself.
    pub identity: uuid::Uuid,
    /// The cluster that its data belongs to.
    pub cluster: Option<uuid::Uuid>,
    /// Its id, once it is registered.
    pub server: Option<ServerId>,
    /// The newest epoch that it has seen.
    pub epoch: i64,
    /// The newest term of the lease that it has seen in this epoch.
    #[serde(default)]
    pub term: i64,
    /// How far its copy of the metadata's journal reaches, if it has one.
    #[serde(default)]
    pub journal: Option<JournalPosition>,
    /// The newest change of the metadata that it has heard of.
    #[serde(default)]
    pub heard_version: Version,
    /// How many storage servers it has heard belong to the cluster, drained ones left out; 0 when it has heard nothing.
    #[serde(default)]
    pub heard_servers: i64,
    /// So many copies were found corrupt at once that it no longer trusts its disk or memory.
    #[serde(default)]
    pub scrub_alarm: bool,
    /// Its TLS certificate, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// New with each start.
    pub boot_id: uuid::Uuid,
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// Bytes that new objects may take.
    pub free_bytes: u64,
    /// Uploads under way.
    #[serde(default)]
    pub uploads: u64,
    /// Replicas, pending ones included.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The program's version.
    pub program_version: String,
}

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// Not before.
    pub from: Time,
    /// Not after.
    pub until: Time,
}

/// A server's TLS certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// When the one in use is valid.
    #[serde(flatten)]
    pub validity: Validity,
    /// Newer files are there and cannot be used, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What a holder that is not the first answers to an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStored {
    /// The object.
    pub object: ObjectId,
    /// The copy.
    pub generation: Generation,
    /// Bytes received and fsynced.
    pub size: u64,
    /// Their digest.
    pub sha256: Sha256,
}

/// Names one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplicaKey {
    /// The object.
    pub object: ObjectId,
    /// The copy.
    pub generation: Generation,
}

impl std::fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.object, self.generation)
    }
}

/// The body of `DELETE /file`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// At most `DELETE_BATCH_ITEMS_MAX`.
    pub replicas: Vec<ReplicaKey>,
    /// Puts them into quarantine, with this reason, instead of removing them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
}

/// A place in the metadata's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalPosition {
    /// The branch of history.
    pub history: uuid::Uuid,
    /// The epoch of the last segment or snapshot.
    pub epoch: i64,
    /// The last version.
    pub version: Version,
    /// The tip after it.
    pub tip: Sha256,
}

/// Header of `GET /status`: the newest version that the journal's copies have.
pub const JOURNAL_HEAD_HEADER: &str = "Holdfast-Journal-Head";
/// Header of `GET /status`: how many storage servers belong to the cluster.
pub const SERVERS_HEADER: &str = "Holdfast-Servers";

/// What a health check tells a storage server, by these headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// The newest version that the journal's copies have.
    pub version: Version,
    /// How many storage servers belong to the cluster, drained ones left out.
    pub servers: i64,
}

/// What a file of the journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalFileKind {
    /// Changes, in order.
    Segment,
    /// Rows of the tables.
    Snapshot,
}

/// A file of a server's copy of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalFile {
    /// For `GET /journal?file=`.
    pub name: String,
    /// What it has.
    pub kind: JournalFileKind,
    /// The first version of a segment; the version at which reading a snapshot began.
    pub first: Version,
    /// The last version of a segment; the version at which reading a snapshot ended: it counts only together with the
    /// changes up to there.
    pub last: Version,
    /// Its size.
    pub bytes: u64,
}

/// The answer to `GET /journal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Where the copy ends, and so what it continues with.
    pub position: Option<JournalPosition>,
    /// The files up to the position suffice to bring the metadata back: the copy has reached the end of a snapshot,
    /// or has every change from the first on.
    pub complete: bool,
    /// Bytes of the segments since the newest snapshot.
    pub bytes_since_snapshot: u64,
    /// Number of these segments; after `JOURNAL_SEGMENTS_MAX` only a snapshot is accepted.
    pub segments_since_snapshot: usize,
    /// Bytes of the newest snapshot.
    pub snapshot_bytes: u64,
    /// All files of this history, in the order of their names; those of the history before, too, as long as this one
    /// is not complete.
    pub files: Vec<JournalFile>,
}

/// The answer to `POST /journal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalAccepted {
    /// Where the copy ends now.
    pub position: JournalPosition,
    /// As in [`JournalStatus`].
    pub complete: bool,
}

/// The answer to `DELETE /file`: everything named is gone, whether or not it was there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteResponse {
    /// How many were there.
    pub deleted: usize,
}

/// The body of `POST /replicate`: send a copy of what you have to another server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicateRequest {
    /// The copy to send.
    pub replica: ReplicaKey,
    /// Where to.
    pub target: Target,
    /// The target's permission to take it.
    pub ticket: String,
}

/// One line of `GET /dump_tree`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryLine {
    /// The copy.
    #[serde(flatten)]
    pub replica: ReplicaKey,
    /// Bytes.
    pub size: u64,
    /// Their digest.
    pub sha256: Sha256,
    /// The path at the commit, or at which the upload aimed.
    pub label: String,
    /// The epoch of the ticket that brought it.
    pub epoch: i64,
    /// The object's version, once it is known to be committed.
    pub version: Option<Version>,
    /// When the ticket that brought it ends.
    pub ticket_expires: Time,
    /// When its bytes were last checked.
    pub verified: Time,
}

impl std::str::FromStr for ReplicaKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?} does not name a replica (OBJECT.GENERATION)"));
        let (object, generation) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { object: object.parse()?, generation: generation.parse()? })
    }
}
