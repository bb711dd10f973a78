//! The cluster row, read without a lock.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::error::Step;
use super::rows::{ClusterRow, utc};
use super::schema::cluster::dsl;
use crate::types::{Error, EventKind, Mode, Result, Time, Version, bounds};

/// What the rest of the program needs to know of the cluster.
#[derive(Debug, Clone)]
pub struct ClusterState {
    /// The cluster's UUID.
    pub cluster: uuid::Uuid,
    /// The branch of history.
    pub history: uuid::Uuid,
    /// Raised by every restore.
    pub epoch: i64,
    /// What it takes.
    pub mode: Mode,
    /// Why the mode is not normal.
    pub mode_reason: Option<String>,
    /// The newest change.
    pub version: Version,
    /// The tip after it.
    pub tip: Vec<u8>,
    /// Changes up to this one are on the required copies of the journal.
    pub journal_copied: Version,
    /// The database's time, never before the stored floor.
    pub now: Time,
}

/// The cluster as it is now.
pub fn state(connection: &mut AnyConnection) -> Result<ClusterState> {
    let row: ClusterRow = dsl::cluster.select(ClusterRow::as_select()).first(connection)?;
    possible(&row)?;
    let now = dialect::clock(connection)?.max(row.clock_floor);
    let id = |text: &str, what: &str| -> Result<uuid::Uuid> {
        text.parse().map_err(|error: uuid::Error| {
            Error::internal(format!("the {what}'s id in the database is no UUID")).with_source(error)
        })
    };
    Ok(ClusterState {
        cluster: id(&row.cluster_id, "cluster")?,
        history: id(&row.history_id, "history")?,
        epoch: row.epoch,
        mode: row.mode,
        mode_reason: row.mode_reason,
        version: row.last_version,
        tip: row.tip,
        journal_copied: row.journal_copied,
        now: bounds::check_time(utc(now)).map_err(|error| error.context("the database's clock"))?,
    })
}

/// Refuses a row whose numbers nobody has counted up to: whoever counts on from them would overflow.
pub fn possible(row: &ClusterRow) -> Result<()> {
    let checked = bounds::check_epoch(row.epoch)
        .and_then(|_| bounds::check_version(row.last_version))
        .and_then(|_| bounds::check_version(row.journal_copied))
        .and_then(|_| bounds::check_time(utc(row.clock_floor)));
    checked.map(drop).map_err(|error| {
        Error::internal(format!(
            "the database is damaged: in its table `cluster`, {}; `holdfast restore` with an empty database brings the \
             metadata back",
            error.message()
        ))
    })
}

/// Refuses unless the cluster takes changes. Rule 5: a database that has forgotten something must not destroy
/// the evidence, so nothing is decided, deleted or repaired in any other mode either.
pub fn require_normal(connection: &mut AnyConnection) -> Step<()> {
    let (mode, reason): (Mode, Option<String>) =
        dsl::cluster.select((dsl::mode, dsl::mode_reason)).first(connection)?;
    if mode == Mode::Normal {
        return Ok(());
    }
    Err(Error::new(crate::types::ErrorCode::ReadOnly, refusal(reason.as_deref())).into())
}

/// Why changes are refused.
pub fn refusal(reason: Option<&str>) -> String {
    format!("the cluster takes no changes now: {}", reason.unwrap_or("no reason was noted"))
}

/// Stops all changes: from `normal` to `read_only`. Answers whether that is new. `judged` is the state that the reason
/// is about: when a restore has ended since, what it says was put right, and nothing is stopped.
pub fn protect(connection: &mut AnyConnection, judged: &ClusterState, reason: &str) -> Step<bool> {
    let cluster = dialect::lock_cluster(connection)?;
    let same = cluster.history_id == judged.history.to_string() && cluster.epoch == judged.epoch;
    if cluster.mode != Mode::Normal || !same {
        return Ok(false);
    }
    diesel::update(dsl::cluster)
        .set((dsl::mode.eq(Mode::ReadOnly), dsl::mode_reason.eq(reason)))
        .execute(connection)?;
    let now = dialect::clock(connection)?;
    dialect::insert_events(connection, &[super::events::row(now, EventKind::ReadOnly, reason.into())])?;
    Ok(true)
}
