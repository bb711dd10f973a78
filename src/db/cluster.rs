//! The cluster row, read without a lock.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::rows::{ClusterRow, utc};
use super::schema::cluster::dsl;
use crate::types::{Error, Result, Time, Version};

/// What the rest of the program needs to know of the cluster.
#[derive(Debug, Clone)]
pub struct ClusterState {
    /// The cluster's UUID.
    pub cluster: uuid::Uuid,
    /// Raised by every restore.
    pub epoch: i64,
    /// `normal`, `read_only` or `restoring`.
    pub mode: String,
    /// Why the mode is not normal.
    pub mode_reason: Option<String>,
    /// The newest change.
    pub version: Version,
    /// The database's time, never before the stored floor.
    pub now: Time,
}

/// The cluster as it is now.
pub fn state(connection: &mut AnyConnection) -> Result<ClusterState> {
    let row: ClusterRow = dsl::cluster.select(ClusterRow::as_select()).first(connection)?;
    let now = dialect::clock(connection)?.max(row.clock_floor);
    let cluster = row
        .cluster_id
        .parse()
        .map_err(|error| Error::internal("the cluster's id in the database is no UUID").with_source(error))?;
    Ok(ClusterState {
        cluster,
        epoch: row.epoch,
        mode: row.mode,
        mode_reason: row.mode_reason,
        version: row.last_version,
        now: utc(now),
    })
}
