//! The servers that take part in a restore.

use uuid::Uuid;

use crate::db::rows::ServerRow;
use crate::types::storage_api::StorageStatus;

/// Who takes part, and of what.
pub(super) struct Parts {
    pub(super) members: Vec<Member>,
    pub(super) cluster: Uuid,
    /// Servers that answer and do not take part: they hold nothing of the cluster.
    pub(super) newcomers: Vec<String>,
    /// Servers that do not answer.
    pub(super) absent: Vec<String>,
}

/// A server that takes part.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) row: ServerRow,
    pub(super) status: StorageStatus,
}
