//! What a restore asks of the database that there is, and what is kept of restores. Writing the tables is
//! [`super::restore`]'s.

use chrono::NaiveDateTime;
use diesel::prelude::*;

use super::connection::{AnyConnection, Use, connect_once};
use super::error::{Failure, Step};
use super::migrate::FIRST_TOKEN;
use super::rows::*;
use super::schema::*;
use super::url::DatabaseUrl;
use super::{dialect, events};
use crate::journal::{ENTRIES, OBJECTS, SERVERS, Staging, TOKENS};
use crate::types::api::{ModeBefore, RestoreStatus};
use crate::types::{Error, EventKind, Mode, Result, bounds, id};

/// Rows that are read together.
const BATCH_ROWS: usize = 500;

/// Stops the cluster for the restore `id` and raises its epoch. Answers the epoch. What the cluster was before is kept with
/// the restore, so that one that comes to nothing can be taken back, also by another process.
pub fn begin(connection: &mut AnyConnection, id: i64, cluster_id: uuid::Uuid, epoch_seen: i64) -> Step<i64> {
    let row = dialect::lock_cluster(connection)?;
    let epoch = bounds::next("epoch", row.epoch.max(epoch_seen), bounds::EPOCH_MAX)?;
    let now = dialect::clock(connection)?;
    // One that was interrupted has left its own mode behind; what counts is the one before it.
    let interrupted = if row.mode == Mode::Restoring { unended(connection)? } else { None };
    let before = match interrupted.and_then(|(_, status)| status.before) {
        Some(before) => before,
        None => ModeBefore { mode: row.mode, reason: row.mode_reason, cluster: row.cluster_id },
    };
    diesel::update(restores::table.filter(restores::ended.is_null()))
        .set(restores::ended.eq(Some(now)))
        .execute(connection)?;
    let status = RestoreStatus {
        state: "running".into(),
        step: "the name server that did it has ended".into(),
        started: Some(utc(now)),
        before: Some(before),
        epoch,
        ..RestoreStatus::default()
    };
    save_report(connection, id, now, None, &status)?;
    diesel::update(cluster::table)
        .set((
            cluster::cluster_id.eq(cluster_id.to_string()),
            cluster::epoch.eq(epoch),
            cluster::mode.eq(Mode::Restoring),
            cluster::mode_reason.eq(
                "a restore is under way, or was interrupted: run `holdfast restore` again, or `holdfast restore --abort`",
            ),
        ))
        .execute(connection)?;
    Ok(epoch)
}

/// The restore that was begun and has not ended, if there is one.
fn unended(connection: &mut AnyConnection) -> Step<Option<(i64, RestoreStatus)>> {
    let row: Option<(i64, String)> = restores::table
        .filter(restores::ended.is_null())
        .order(restores::id.desc())
        .select((restores::id, restores::report))
        .first(connection)
        .optional()?;
    // A report that another program wrote tells nothing.
    Ok(row.and_then(|(id, report)| Some((id, serde_json::from_str(&report).ok()?))))
}

/// Held by whoever does a restore, until it is dropped or its process ends.
pub struct Doing(#[expect(dead_code, reason = "its connection holds a lock")] AnyConnection);

/// Begins to be the one that does a restore; nothing when another name server does one. Whoever has ended, also by force,
/// or whose restore was taken back, is in nobody's way.
pub fn do_alone(url: &DatabaseUrl) -> Result<Option<Doing>> {
    let mut connection = connect_once(url, Use::Write)?;
    Ok(dialect::try_lock_restore(&mut connection)?.then_some(Doing(connection)))
}

/// The report of a restore that another name server does now.
pub fn elsewhere(connection: &mut AnyConnection) -> Step<Option<RestoreStatus>> {
    if !dialect::is_restore_locked(connection)? {
        return Ok(None);
    }
    let under_way = unended(connection)?.map(|(_, status)| status);
    Ok(under_way.map(|status| RestoreStatus { step: "another name server does it".into(), ..status }))
}

/// Takes a restore back that has not ended (`id`, or whichever it is): the cluster is again what it was before. The epoch
/// stays, because servers have seen it; the restore itself, if it still runs anywhere, finds that it may not write any more.
/// It is told as an event of this kind. Answers its report, which tells the mode of before;
/// nothing when there is nothing to take back.
pub fn go_back(
    connection: &mut AnyConnection,
    id: Option<i64>,
    why: &str,
    kind: EventKind,
) -> Step<Option<RestoreStatus>> {
    let row = dialect::lock_cluster(connection)?;
    if row.mode != Mode::Restoring {
        return Ok(None);
    }
    let Some((begun, mut status)) = unended(connection)?.filter(|(begun, _)| id.is_none_or(|id| id == *begun)) else {
        return Ok(None);
    };
    let Some(before) = status.before.clone() else { return Ok(None) };
    // One that still runs elsewhere has the former epoch, and may not write any more.
    let epoch = match id {
        None => bounds::next("epoch", row.epoch, bounds::EPOCH_MAX)?,
        Some(_) => row.epoch,
    };
    diesel::update(cluster::table)
        .set((
            cluster::cluster_id.eq(&before.cluster),
            cluster::mode.eq(&before.mode),
            cluster::mode_reason.eq(&before.reason),
            cluster::epoch.eq(epoch),
        ))
        .execute(connection)?;
    let now = dialect::clock(connection)?;
    status.state = "failed".into();
    status.error = Some(why.into());
    status.ended = Some(utc(now));
    save_report(connection, begun, status.started.map_or(now, |started| started.naive_utc()), Some(now), &status)?;
    let detail = format!("a restore was taken back ({why}); the cluster is {} again", before.mode);
    dialect::insert_events(connection, &[events::row(now, kind, detail)])?;
    Ok(Some(status))
}

/// Whether a restore has begun to change something and has not ended.
pub fn is_open(connection: &mut AnyConnection) -> Result<bool> {
    Ok(unended(connection)?.is_some())
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
