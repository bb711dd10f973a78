//! The numbers of the report and the metrics: as they are kept ([`super::counts`]), with what is found by an index.

use std::collections::{HashMap, HashSet};

use chrono::TimeDelta;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::connection::AnyConnection;
use super::counts::Kept;
use super::rows::{RepairRow, utc};
use super::schema::{events, journal, objects, outbox, repair_queue};
use super::server_view::{ServerView, server_views};
use super::{cluster, counts, dialect, moves, queue};
use crate::decisions::counts::{Figures, figures};
use crate::types::api::{CopiesCount, Health, JournalHealth, LossIfDied, RepairProgress, StuckObject};
use crate::types::id::floor_at;
use crate::types::{ObjectId, Result, ServerId};

/// From as many failed tries on an object is shown as stuck: as the index of these says it.
const IS_STUCK: &str = "repair_queue.attempts >= 5";
/// So is one that has waited for the servers to change for so long.
const STUCK_WAIT: TimeDelta = TimeDelta::minutes(1);
/// Stuck objects that are shown.
const STUCK_ROWS_MAX: i64 = 20;
/// The rate of repair is that of the last minute.
const RATE_WINDOW: TimeDelta = TimeDelta::seconds(60);

/// How much there is, and how much of it is short of copies.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Live objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Short of copies, by copies on servers that are not down.
    pub under_replicated: Vec<CopiesCount>,
    /// Objects that no server is listed for.
    pub lost: u64,
    /// What would be lost if a server died now, the most first.
    pub lost_if_died: Vec<LossIfDied>,
    /// Deletions that wait.
    pub outbox: u64,
    /// Age of the oldest of them.
    pub outbox_oldest_seconds: f64,
    /// How repair goes on.
    pub repair: RepairProgress,
    /// How far the journal's copies are behind.
    pub journal: JournalHealth,
}

/// All numbers, as they are now.
pub fn counts(connection: &mut AnyConnection) -> Result<Counts> {
    let kept = counts::read(connection)?;
    let views = server_views(connection)?;
    let up: HashSet<i64> = views.iter().filter(|view| view.health != Health::Down).map(|view| view.row.id).collect();
    let figures = figures(&kept.live, |server| up.contains(&server.0));
    let now = dialect::clock(connection)?;
    let oldest: Option<chrono::NaiveDateTime> =
        outbox::table.select(diesel::dsl::min(outbox::queued)).first(connection)?;
    Ok(Counts {
        objects: figures.objects,
        bytes: figures.bytes,
        lost: figures.lost,
        lost_if_died: losses(&figures, &views),
        under_replicated: figures.short,
        outbox: kept.outbox.values().sum(),
        outbox_oldest_seconds: oldest.map_or(0.0, |oldest| seconds(now - oldest)),
        repair: repair(connection, &kept)?,
        journal: journal_health(connection)?,
    })
}

/// What would be lost if a server died now, the most first.
fn losses(figures: &Figures, views: &[ServerView]) -> Vec<LossIfDied> {
    let loss = |view: &ServerView| {
        let on = figures.servers.get(&ServerId(view.row.id)).filter(|on| on.alone > 0)?;
        let server = ServerId(view.row.id);
        Some(LossIfDied { server, name: view.row.name.clone(), objects: on.alone, bytes: on.alone_bytes })
    };
    let mut losses: Vec<LossIfDied> = views.iter().filter_map(loss).collect();
    losses.sort_by_key(|loss| std::cmp::Reverse(loss.objects));
    losses
}

fn seconds(delta: TimeDelta) -> f64 {
    (delta.num_milliseconds().max(0) as f64) / 1_000.0
}

/// How repair goes on, as the database shows it: the same on every name server.
fn repair(connection: &mut AnyConnection, kept: &Kept) -> Result<RepairProgress> {
    let now = dialect::clock(connection)?;
    let oldest: Option<chrono::NaiveDateTime> =
        repair_queue::table.select(diesel::dsl::min(repair_queue::queued)).first(connection)?;
    let rate = repair_rate(connection)?;
    let queued = kept.queued;
    Ok(RepairProgress {
        queued,
        oldest_seconds: oldest.map_or(0.0, |oldest| seconds(now - oldest)),
        bytes: kept.queued_bytes,
        in_flight: moves::repairs_in_flight(connection)? as u64,
        objects_per_second: rate,
        seconds_left: if queued == 0 { Some(0.0) } else { (rate > 0.0).then(|| queued as f64 / rate) },
        waiting: 0,
        waiting_bytes: 0,
        begins_seconds: None,
        paused: None,
        stuck: stuck(connection)?,
    })
}

/// Copies that repair made in each second of the last minute.
pub fn repair_rate(connection: &mut AnyConnection) -> Result<f64> {
    let now = dialect::clock(connection)?;
    let since = utc(now) - RATE_WINDOW;
    let copied: i64 = events::table
        .filter(events::id.ge(floor_at(since)).and(events::kind.eq("replica_copied")))
        .filter(events::time.ge(since.naive_utc()))
        .count()
        .get_result(connection)?;
    Ok(copied as f64 / RATE_WINDOW.num_seconds() as f64)
}

/// Objects whose repair keeps failing, the most endangered first.
fn stuck(connection: &mut AnyConnection) -> Result<Vec<StuckObject>> {
    let since = dialect::clock(connection)? - STUCK_WAIT;
    let mut rows: Vec<RepairRow> = repair_queue::table
        .filter(diesel::dsl::sql::<Bool>(IS_STUCK))
        .order((repair_queue::copies, repair_queue::object))
        .limit(STUCK_ROWS_MAX)
        .select(RepairRow::as_select())
        .load(connection)?;
    let waiting = queue::waiting(connection, None, STUCK_ROWS_MAX as usize)?;
    let waiting: Vec<i64> = waiting.into_iter().map(|(_, object)| object).collect();
    let waiting: Vec<RepairRow> = repair_queue::table
        .filter(repair_queue::object.eq_any(&waiting))
        .select(RepairRow::as_select())
        .load(connection)?;
    rows.extend(waiting.into_iter().filter(|row| row.queued < since));
    rows.sort_by_key(|row| (row.copies, row.object));
    rows.dedup_by_key(|row| row.object);
    rows.truncate(STUCK_ROWS_MAX as usize);
    let ids: Vec<i64> = rows.iter().map(|row| row.object).collect();
    let labels: Vec<(i64, String)> =
        objects::table.filter(objects::id.eq_any(&ids)).select((objects::id, objects::label)).load(connection)?;
    let labels: HashMap<i64, String> = labels.into_iter().collect();
    let rows = rows.into_iter().filter_map(|row| Some((labels.get(&row.object)?.clone(), row)));
    let stuck = |(label, row): (String, RepairRow)| StuckObject {
        object: ObjectId(row.object),
        label,
        copies: row.copies,
        attempts: row.attempts,
        last_error: row.last_error.unwrap_or_default(),
        next_attempt: Some(utc(row.next_attempt)).filter(|_| row.next_attempt < queue::waits()),
    };
    Ok(rows.map(stuck).collect())
}

/// How far the journal's copies are behind.
pub fn journal_health(connection: &mut AnyConnection) -> Result<JournalHealth> {
    let state = cluster::state(connection)?;
    let oldest: Option<chrono::NaiveDateTime> = journal::table
        .filter(journal::version.gt(state.journal_copied))
        .order(journal::version)
        .select(journal::created)
        .first(connection)
        .optional()?;
    Ok(JournalHealth {
        copied_version: state.journal_copied,
        lag_seconds: oldest.map_or(0.0, |oldest| seconds(state.now.naive_utc() - oldest)),
        holders: Vec::new(),
    })
}
