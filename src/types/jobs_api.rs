//! What travels about work that somebody asks for and that goes on without him: `fsck`, scrubbing a path, `rebalance`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DfsPath, Error, ObjectId, Result, ServerId};

/// Asks for a check of the metadata against the inventories.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct FsckRequest {
    /// Puts right what can be put right without a person.
    #[serde(default)]
    pub repair: bool,
}

/// How long work that somebody asked for goes on, or what came of the last of its kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct JobStatus {
    /// `none`, `running`, `done`, `failed`; `interrupted` when the name server that did it has ended.
    pub state: String,
    /// Tells one from the next.
    pub id: String,
    /// It was under way already when it was asked for.
    #[serde(default)]
    pub joined: bool,
    /// When it was begun.
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// The name of the token that began it.
    pub by: Option<String>,
    /// What was asked for.
    #[schema(value_type = Object)]
    pub request: serde_json::Value,
    /// How far it is.
    pub step: String,
    /// Why it failed.
    pub error: Option<String>,
    /// What was found: when it is done, in all; before, so far, or nothing yet.
    #[schema(value_type = Option<Object>)]
    pub report: serde_json::Value,
}

impl JobStatus {
    /// What was found, as what it is.
    pub fn report_as<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.report)
            .map_err(|error| Error::internal("the report of a job cannot be read").with_source(error))
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct FsckReport {
    /// Nothing is wrong, and every server could be asked.
    pub clean: bool,
    /// Storage servers whose inventories were compared.
    pub servers_checked: u64,
    /// Storage servers that could not be asked, and why.
    pub servers_skipped: Vec<String>,
    /// Entries that were looked at.
    pub entries: u64,
    /// Live objects that were looked at.
    pub objects: u64,
    /// Replicas that were looked at.
    pub replicas: u64,
    /// All findings.
    pub findings_total: u64,
    /// How many of them were put right or queued for repair.
    pub repaired: u64,
    /// The first thousand of them.
    pub findings: Vec<Finding>,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What sort of thing (`missing`, `unknown`, `wrong_content`, `under_replicated`, `unreferenced`, …).
    pub kind: String,
    /// The object, if it is about one.
    pub object: Option<ObjectId>,
    /// The server's name, if it is about one.
    pub server: Option<String>,
    /// What is wrong.
    pub detail: String,
}

/// Begins to fill servers evenly.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RebalanceRequest {
    /// It ends when servers are filled within so many percent of each other.
    #[serde(default = "within_percent")]
    #[schema(minimum = 1, maximum = 100)]
    pub within_percent: u32,
    /// Begins nothing; says what would be moved.
    #[serde(default)]
    pub dry_run: bool,
}

/// Servers are filled evenly within this, unless somebody says otherwise.
pub const WITHIN_PERCENT: u32 = 5;

fn within_percent() -> u32 {
    WITHIN_PERCENT
}

/// How filling servers evenly goes on, or what came of the last time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct RebalanceStatus {
    /// `none`, `running`, `done` or `stopped`; `dry_run` when nothing was begun.
    pub state: String,
    /// Tells one from the next.
    pub id: Option<String>,
    /// It ends when servers are filled within so many percent of each other.
    pub within_percent: u32,
    /// When it was begun.
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// The name of the token that began it.
    pub by: Option<String>,
    /// Copies that were moved.
    pub moved: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// About how many bytes are left to move; none before the servers' copies were counted.
    pub left_bytes: Option<u64>,
    /// About how long that takes.
    pub seconds_left: Option<f64>,
    /// What it waits for, or why it has ended.
    pub note: String,
    /// How far the fullest and the emptiest server are apart now, in percent of what each would have.
    pub difference_percent: f64,
    /// The servers among which copies are moved, by name, as they told their room last: copies that were moved are on both
    /// until they are deleted.
    pub servers: Vec<RebalanceServer>,
}

/// How full one server is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RebalanceServer {
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Bytes of its copies.
    pub bytes: u64,
    /// Bytes of all the copies that it could have.
    pub room_bytes: u64,
    /// What it would have if all were even.
    pub even_bytes: u64,
}

/// Has the copies of a file, or of all files below a directory, read.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ScrubPathRequest {
    /// The file or directory.
    pub path: DfsPath,
}

/// What came of reading the copies below a path.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ScrubPathReport {
    /// The file or directory.
    pub path: String,
    /// Files at and below it.
    pub files: u64,
    /// Copies of them that were read.
    pub copies: u64,
    /// Bytes of those that are right.
    pub bytes: u64,
    /// Copies that were corrupt or missing; they are replaced from others.
    pub corrupt: u64,
    /// Copies that could not be read.
    pub unread: u64,
    /// The first thousand that were corrupt.
    pub findings: Vec<ScrubFinding>,
    /// Which servers have not read how many, and why.
    pub skipped: Vec<String>,
}

/// A copy that was corrupt.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ScrubFinding {
    /// The file.
    pub path: String,
    /// The name of the server that had the copy.
    pub server: String,
    /// What was wrong.
    pub detail: String,
}
