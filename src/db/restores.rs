//! What a restore asks of the database that there is, and what is kept of restores. Writing the tables is
//! [`super::restore`]'s.

use chrono::NaiveDateTime;
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::error::{Failure, Step};
use super::migrate::FIRST_TOKEN;
use super::rows::*;
use super::schema::*;
use crate::journal::{ENTRIES, OBJECTS, SERVERS, Staging, TOKENS};
use crate::types::api::RestoreStatus;
use crate::types::{Error, Result, bounds, id};

/// Rows that are read together.
const BATCH_ROWS: usize = 500;

/// Stops the cluster for a restore and raises its epoch. Answers the epoch.
pub fn begin(connection: &mut AnyConnection, cluster_id: uuid::Uuid, epoch_seen: i64) -> Step<i64> {
    let row = dialect::lock_cluster(connection)?;
    let epoch = bounds::next("epoch", row.epoch.max(epoch_seen), bounds::EPOCH_MAX)?;
    diesel::update(cluster::table)
        .set((
            cluster::cluster_id.eq(cluster_id.to_string()),
            cluster::epoch.eq(epoch),
            cluster::mode.eq("restoring"),
            cluster::mode_reason.eq("a restore is under way, or was interrupted: run `holdfast restore` again"),
        ))
        .execute(connection)?;
    Ok(epoch)
}

/// Keeps the report of a restore.
pub fn save_report(
    connection: &mut AnyConnection,
    id: i64,
    started: NaiveDateTime,
    ended: Option<NaiveDateTime>,
    status: &RestoreStatus,
) -> Step<()> {
    let report = serde_json::to_string(status)
        .map_err(|error| Failure::Database(Error::internal("cannot encode a report").with_source(error)))?;
    let row = RestoreRow { id, started, ended, report };
    diesel::delete(restores::table.find(id)).execute(connection)?;
    diesel::insert_into(restores::table).values(&row).execute(connection)?;
    Ok(())
}

/// The report of the last restore, if there was one.
pub fn last_report(connection: &mut AnyConnection) -> Result<Option<RestoreStatus>> {
    let report: Option<String> =
        restores::table.order(restores::id.desc()).select(restores::report).first(connection).optional()?;
    let read = |report: &str| {
        serde_json::from_str(report)
            .map_err(|error| Error::internal("the report of a restore cannot be read").with_source(error))
    };
    report.as_deref().map(read).transpose()
}

/// Whether any file was ever committed.
pub fn has_files(connection: &mut AnyConnection) -> Result<bool> {
    Ok(objects::table.select(objects::id).first::<i64>(connection).optional()?.is_some())
}

/// Whether nobody has put anything into this database: no file, no directory, no token but the first. Storage servers
/// register by themselves and count for nothing.
pub fn is_new(connection: &mut AnyConnection) -> Result<bool> {
    let entry: Option<i64> =
        entries::table.filter(entries::id.ne(id::ROOT.0)).select(entries::id).first(connection).optional()?;
    let token: Option<String> =
        tokens::table.filter(tokens::name.ne(FIRST_TOKEN)).select(tokens::name).first(connection).optional()?;
    Ok(entry.is_none() && token.is_none() && !has_files(connection)?)
}

/// Puts the database's own rows into an empty staging: when no journal is left, they are better than nothing.
pub fn stage_own(connection: &mut AnyConnection, staging: &mut Staging) -> Result<()> {
    for table in [SERVERS, TOKENS, OBJECTS, ENTRIES] {
        let mut after: Option<String> = None;
        loop {
            let rows = super::journal::page(connection, table, after.as_deref(), BATCH_ROWS as i64)?;
            for (key, content) in &rows {
                staging.apply(table, key, Some(content))?;
            }
            match rows.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
    }
    Ok(())
}

/// The number of copies that the root wants now, if there is a root.
pub fn root_copies(connection: &mut AnyConnection) -> Result<Option<i32>> {
    Ok(entries::table.find(id::ROOT.0).select(entries::replication).first(connection).optional()?.flatten())
}
