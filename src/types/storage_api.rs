//! What travels to and from a storage server, as JSON.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bounds;
use super::file_api::{ErrorBody, Target};
use super::object::{object, objects};
use super::schema::Uuid;
use super::{Error, Generation, ObjectId, Result, ServerId, Sha256, Version};

/// A storage server as a recipient of requests: who it must be, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The UUID that it made for itself.
    pub identity: uuid::Uuid,
    /// Where servers reach it.
    pub url: String,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

/// Who answers at a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answerer {
    /// The UUID that it made for itself.
    pub identity: uuid::Uuid,
    /// New with each start.
    pub boot_id: uuid::Uuid,
    /// Where it believes to be reached by servers.
    pub url: String,
}

/// The answer to `GET /identity`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentityProof {
    /// A signed `Proof`.
    pub proof: String,
}

/// The answer to `GET /status` for anybody: 200 when it is ready, else 503.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PlainStatus {
    /// `ok`, or how far it has come: `unregistered`, `waiting` for the name server's first look, `syncing`; or `trouble`.
    pub status: String,
    /// The same as an error, when it is not ready.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub error: Option<ErrorBody>,
}

/// The answer to `GET /status` for a server of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StorageStatus {
    /// As in [`PlainStatus::status`].
    pub status: String,
    /// Why it cannot keep what it would be given, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// The UUID that it made for itself.
    #[schema(value_type = Uuid)]
    pub identity: uuid::Uuid,
    /// The cluster that its data belongs to.
    #[schema(value_type = Option<Uuid>)]
    pub cluster: Option<uuid::Uuid>,
    /// Its id, once it is registered.
    pub server: Option<ServerId>,
    /// The newest epoch that it has seen.
    #[serde(deserialize_with = "bounds::epoch")]
    pub epoch: i64,
    /// The newest term of the lease that it has seen in this epoch.
    #[serde(default, deserialize_with = "bounds::term")]
    pub term: i64,
    /// How far its copy of the metadata's journal reaches, if it has one.
    #[serde(default)]
    pub journal: Option<JournalPosition>,
    /// The newest change of the metadata that it has heard of.
    #[serde(default, deserialize_with = "bounds::version")]
    pub heard_version: Version,
    /// How many storage servers it has heard belong to the cluster, drained ones left out; 0 when it has heard nothing.
    #[serde(default, deserialize_with = "bounds::servers")]
    pub heard_servers: i64,
    /// So many copies were found corrupt at once that it no longer trusts its disk or memory.
    #[serde(default)]
    pub scrub_alarm: bool,
    /// Its TLS certificate, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// New with each start.
    #[schema(value_type = Uuid)]
    pub boot_id: uuid::Uuid,
    /// Rises with every change of its index: of two copies of one directory, the one with more is newer.
    #[serde(default)]
    pub index_changes: i64,
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// Bytes that new objects may take.
    pub free_bytes: u64,
    /// What its wall clock says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<DateTime<Utc>>,
    /// When the replica that was checked least recently was checked; none when it has no replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrubbed: Option<DateTime<Utc>>,
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

/// Why a storage server cannot keep what it would be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trouble {
    /// What programs decide by.
    pub code: TroubleCode,
    /// What people read.
    pub message: String,
}

/// What kind of trouble it is. What follows from each is in `decisions::health`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TroubleCode {
    /// The data directory, or a part of it, is another one than at the start.
    Replaced,
    /// The file system takes no more writes.
    ReadOnly,
    /// The disk answers with errors.
    IoError,
    /// The disk does not answer.
    Hung,
    /// The file system has room, but not for one more file.
    OutOfInodes,
    /// The quota of the daemon's user is used up.
    Quota,
    /// The daemon or the machine has no file handles left.
    OutOfFiles,
    /// Something that this program does not know.
    #[serde(other)]
    Other,
}

impl TroubleCode {
    /// The stored word, which is that on the wire too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::ReadOnly => "read_only",
            Self::IoError => "io_error",
            Self::Hung => "hung",
            Self::OutOfInodes => "out_of_inodes",
            Self::Quota => "quota",
            Self::OutOfFiles => "out_of_files",
            Self::Other => "other",
        }
    }

    /// The code of a word.
    pub fn of_word(word: &str) -> Self {
        const KNOWN: [TroubleCode; 7] = [
            TroubleCode::Replaced,
            TroubleCode::ReadOnly,
            TroubleCode::IoError,
            TroubleCode::Hung,
            TroubleCode::OutOfInodes,
            TroubleCode::Quota,
            TroubleCode::OutOfFiles,
        ];
        KNOWN.into_iter().find(|code| code.word() == word).unwrap_or(Self::Other)
    }
}

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Validity {
    /// Not before.
    pub from: DateTime<Utc>,
    /// Not after.
    pub until: DateTime<Utc>,
}

/// A server's TLS certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateStatus {
    /// When the one in use is valid.
    #[serde(flatten)]
    pub validity: Validity,
    /// Newer files are there and cannot be used, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What a holder that is not the first answers to an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeleteRequest {
    /// At most `DELETE_BATCH_ITEMS_MAX`.
    #[serde(deserialize_with = "objects")]
    pub replicas: Vec<ReplicaKey>,
    /// Puts them into quarantine, with this reason, instead of removing them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
}

/// A place in the metadata's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalPosition {
    /// The branch of history.
    #[schema(value_type = Uuid)]
    pub history: uuid::Uuid,
    /// The epoch of the last segment or snapshot.
    #[serde(deserialize_with = "bounds::epoch")]
    pub epoch: i64,
    /// The last version.
    #[serde(deserialize_with = "bounds::version")]
    pub version: Version,
    /// The tip after it.
    pub tip: Sha256,
}

/// What a health check tells a storage server, in the query of `GET /status`: there it is covered by the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Told {
    /// The newest version that the journal's copies have.
    #[serde(rename = "journal_head", deserialize_with = "bounds::version")]
    pub version: Version,
    /// How many storage servers belong to the cluster, drained ones left out.
    #[serde(deserialize_with = "bounds::servers")]
    pub servers: i64,
}

/// How far a storage server is with reading everything again, and what came of the last time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScrubStatus {
    /// When somebody last asked for a round, in milliseconds since 1970 of the cluster's time; 0 for never.
    pub wanted_ms: i64,
    /// What the round under way has to read: bytes, with something on top for each copy.
    pub total_bytes: u64,
    /// What of it was read.
    pub done_bytes: u64,
    /// Copies and files of the journal that were found corrupt in it.
    pub corrupt: u64,
    /// The last round that has ended.
    pub last: Option<ScrubResult>,
}

impl ScrubStatus {
    /// A round that somebody asked for has not ended.
    pub fn is_under_way(&self) -> bool {
        self.last.as_ref().map_or(0, |last| last.asked_ms) < self.wanted_ms
    }
}

/// Asks for copies to be read, or how far that is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct VerifyRequest {
    /// What was read since then, in milliseconds since 1970 by the answer before, is not read again; 0 the first time.
    #[serde(default)]
    pub since_ms: i64,
    /// At most `VERIFY_BATCH_ITEMS_MAX`.
    #[serde(deserialize_with = "objects")]
    pub replicas: Vec<ReplicaKey>,
}

/// How a copy is that was to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// It was read since, and is as it should be.
    Right,
    /// There is no such copy: it never was, is put aside, or has lost its file.
    Gone,
    /// It is still to be read, or what becomes of it is to be decided.
    Waiting,
}

/// How far copies are that were to be read.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerifyResponse {
    /// What to ask with the next time.
    pub since_ms: i64,
    /// In the order of the request.
    pub states: Vec<CopyState>,
}

/// What came of reading everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScrubResult {
    /// When the last round that somebody had asked for was asked for; as [`ScrubStatus::wanted_ms`].
    pub asked_ms: i64,
    /// Its beginning.
    pub started: DateTime<Utc>,
    /// Its end.
    pub ended: DateTime<Utc>,
    /// Copies that were read.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies and files of the journal that were corrupt.
    pub corrupt: u64,
}

/// What a file of the journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JournalFileKind {
    /// Changes, in order.
    Segment,
    /// Rows of the tables.
    Snapshot,
}

/// A file of a server's copy of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalFile {
    /// For `GET /journal?file=`.
    pub name: String,
    /// What it has.
    pub kind: JournalFileKind,
    /// The first version of a segment; the version at which reading a snapshot began.
    #[serde(deserialize_with = "bounds::version")]
    pub first: Version,
    /// The last version of a segment; the version at which reading a snapshot ended: it counts only together with the
    /// changes up to there.
    #[serde(deserialize_with = "bounds::version")]
    pub last: Version,
    /// Its size.
    pub bytes: u64,
}

/// The answer to `GET /journal`. It has the same size whatever the copy has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// The version at which reading the newest snapshot began.
    #[serde(default)]
    pub snapshot_version: Option<Version>,
    /// Number of files of this history.
    #[serde(default)]
    pub files: usize,
    /// Their bytes.
    #[serde(default)]
    pub bytes: u64,
}

/// The answer to `GET /journal?list=true`: one page of the files of this history, in the order of their names; those of
/// the history before follow, as long as this one is not complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalFiles {
    /// At most `JOURNAL_PAGE_FILES_MAX`.
    pub files: Vec<JournalFile>,
    /// The name after which the next page begins; none when this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The answer to `POST /journal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalAccepted {
    /// Where the copy ends now.
    pub position: JournalPosition,
    /// As in [`JournalStatus`].
    pub complete: bool,
}

/// The answer to `DELETE /file`: everything named is gone, whether or not it was there.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeleteResponse {
    /// How many were there.
    pub deleted: usize,
}

/// The body of `POST /replicate`: send a copy of what you have to another server.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReplicateRequest {
    /// The copy to send.
    #[serde(deserialize_with = "object")]
    pub replica: ReplicaKey,
    /// Where to.
    #[serde(deserialize_with = "object")]
    pub target: Target,
    /// The target's permission to take it.
    pub ticket: String,
}

/// One line of `GET /dump_tree`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventoryLine {
    /// The copy.
    #[serde(flatten)]
    pub replica: ReplicaKey,
    /// Bytes.
    #[serde(deserialize_with = "bounds::object_bytes")]
    pub size: u64,
    /// Their digest.
    pub sha256: Sha256,
    /// The path at the commit, or at which the upload aimed.
    pub label: String,
    /// The epoch of the ticket that brought it.
    #[serde(deserialize_with = "bounds::epoch")]
    pub epoch: i64,
    /// The object's version, once it is known to be committed.
    #[serde(default, deserialize_with = "bounds::version_if_any")]
    pub version: Option<Version>,
    /// When the ticket that brought it ends.
    #[serde(deserialize_with = "bounds::time")]
    pub ticket_expires: DateTime<Utc>,
    /// When its bytes were last checked.
    #[serde(deserialize_with = "bounds::time")]
    pub verified: DateTime<Utc>,
    /// The index knows it, but its file is gone: it is no copy. Told only when files are asked about.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

impl std::str::FromStr for ReplicaKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?} does not name a replica (OBJECT.GENERATION)"));
        let (object, generation) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { object: object.parse()?, generation: generation.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_have_the_same_word_on_the_wire_and_in_the_database() {
        for code in ["replaced", "read_only", "io_error", "hung", "out_of_inodes", "quota", "out_of_files", "other"] {
            let of_wire: TroubleCode = serde_json::from_str(&format!("\"{code}\"")).unwrap();
            assert_eq!((of_wire, of_wire.word()), (TroubleCode::of_word(code), code));
        }
        assert_eq!(serde_json::from_str::<TroubleCode>("\"from_the_future\"").unwrap(), TroubleCode::Other);
    }
}
