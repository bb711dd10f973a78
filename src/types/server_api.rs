//! What travels to and from the name server about servers: announcements, what is known of each, and its own state.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::bounds;
use super::schema::Uuid;
pub use super::server_state::{AdminState, Health};
use super::storage_api::TroubleCode;
use super::{ServerId, Version};

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

/// How a server is taken out of service, or away.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LeaveQuery {
    /// Also when that hurts.
    #[serde(default)]
    pub force: bool,
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
