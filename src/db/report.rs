//! Counts for the report and the metrics.

use chrono::TimeDelta;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

use super::connection::AnyConnection;
use super::rows::{RepairRow, utc};
use super::schema::{events, journal, objects, outbox, repair_queue, replicas};
use super::{cluster, dialect, queue};
use crate::types::api::{CopiesCount, JournalHealth, LossIfDied, RepairProgress, StuckObject};
use crate::types::id::floor_at;
use crate::types::{ObjectId, Result, ServerId};

/// From as many failed tries on an object is shown as stuck.
const STUCK_ATTEMPTS: i32 = 5;
/// So does one that has waited for the servers to change for so long.
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
    /// Deletions that wait.
    pub outbox: u64,
    /// Age of the oldest of them.
    pub outbox_oldest_seconds: f64,
    /// How repair goes on.
    pub repair: RepairProgress,
    /// How far the journal's copies are behind.
    pub journal: JournalHealth,
}

#[derive(QueryableByName)]
struct CopiesRow {
    #[diesel(sql_type = BigInt)]
    copies: i64,
    #[diesel(sql_type = BigInt)]
    objects: i64,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
    #[diesel(sql_type = BigInt)]
    lost: i64,
}

/// Works on both backends: counts, per object, the copies that servers which are not down have.
const UNDER_REPLICATED: &str = "
    SELECT copies, count(*) AS objects, CAST(sum(size) AS BIGINT) AS bytes, count(CASE WHEN listed = 0 THEN 1 END) AS lost FROM (
        SELECT o.id, o.copies_wanted, o.size, count(CASE WHEN r.state = 'present' THEN 1 END) AS listed,
               count(CASE WHEN r.state = 'present' AND coalesce(h.health, 'down') <> 'down' THEN 1 END) AS copies
        FROM objects o
        LEFT JOIN replicas r ON r.object = o.id
        LEFT JOIN server_health h ON h.server = r.server
        WHERE o.state = 'live'
        GROUP BY o.id, o.copies_wanted, o.size) AS counted
    WHERE copies < copies_wanted
    GROUP BY copies ORDER BY copies";

/// Counts everything. Reads every live object: for a person's question, or once in a while.
pub fn counts(connection: &mut AnyConnection) -> Result<Counts> {
    let live = objects::table.filter(objects::state.eq("live"));
    let objects: i64 = live.count().get_result(connection)?;
    let bytes: i64 =
        live.select(diesel::dsl::sql::<BigInt>("CAST(coalesce(sum(size), 0) AS BIGINT)")).get_result(connection)?;
    let short: Vec<CopiesRow> = diesel::sql_query(UNDER_REPLICATED).load(connection)?;
    let outbox = super::outbox::length(connection)?;
    let now = dialect::clock(connection)?;
    let oldest: Option<chrono::NaiveDateTime> =
        outbox::table.select(diesel::dsl::min(outbox::queued)).first(connection)?;
    Ok(Counts {
        objects: objects as u64,
        bytes: bytes as u64,
        lost: short.iter().map(|row| row.lost as u64).sum(),
        under_replicated: short
            .into_iter()
            .map(|row| CopiesCount { copies: row.copies as u32, objects: row.objects as u64, bytes: row.bytes as u64 })
            .collect(),
        outbox: outbox as u64,
        outbox_oldest_seconds: oldest.map_or(0.0, |oldest| seconds(now - oldest)),
        repair: repair(connection)?,
        journal: journal_health(connection)?,
    })
}

fn seconds(delta: TimeDelta) -> f64 {
    (delta.num_milliseconds().max(0) as f64) / 1_000.0
}

/// How repair goes on, as the database shows it: the same on every name server.
pub fn repair(connection: &mut AnyConnection) -> Result<RepairProgress> {
    let now = dialect::clock(connection)?;
    let queued: i64 = repair_queue::table.count().get_result(connection)?;
    let oldest: Option<chrono::NaiveDateTime> =
        repair_queue::table.select(diesel::dsl::min(repair_queue::queued)).first(connection)?;
    let bytes: i64 = objects::table
        .inner_join(repair_queue::table.on(repair_queue::object.eq(objects::id)))
        .select(diesel::dsl::sql::<BigInt>("CAST(coalesce(sum(size), 0) AS BIGINT)"))
        .get_result(connection)?;
    let in_flight: i64 = replicas::table.filter(replicas::state.eq("copying")).count().get_result(connection)?;
    let since = utc(now) - RATE_WINDOW;
    let copied: i64 = events::table
        .filter(events::id.ge(floor_at(since)).and(events::kind.eq("replica_copied")))
        .filter(events::time.ge(since.naive_utc()))
        .count()
        .get_result(connection)?;
    let rate = copied as f64 / RATE_WINDOW.num_seconds() as f64;
    Ok(RepairProgress {
        queued: queued as u64,
        oldest_seconds: oldest.map_or(0.0, |oldest| seconds(now - oldest)),
        bytes: bytes as u64,
        in_flight: in_flight as u64,
        objects_per_second: rate,
        seconds_left: if queued == 0 { Some(0.0) } else { (rate > 0.0).then(|| queued as f64 / rate) },
        waiting: 0,
        waiting_bytes: 0,
        begins_seconds: None,
        paused: None,
        stuck: stuck(connection)?,
    })
}

/// Objects whose repair keeps failing, the most endangered first.
fn stuck(connection: &mut AnyConnection) -> Result<Vec<StuckObject>> {
    let since = dialect::clock(connection)? - STUCK_WAIT;
    let waits_long = repair_queue::next_attempt.eq(queue::waits()).and(repair_queue::queued.lt(since));
    let rows: Vec<(RepairRow, String)> = repair_queue::table
        .inner_join(objects::table.on(objects::id.eq(repair_queue::object)))
        .filter(repair_queue::attempts.ge(STUCK_ATTEMPTS).or(waits_long))
        .order((repair_queue::copies, repair_queue::object))
        .limit(STUCK_ROWS_MAX)
        .select((RepairRow::as_select(), objects::label))
        .load(connection)?;
    let stuck = |(row, label): (RepairRow, String)| StuckObject {
        object: ObjectId(row.object),
        label,
        copies: row.copies,
        attempts: row.attempts,
        last_error: row.last_error.unwrap_or_default(),
        next_attempt: Some(utc(row.next_attempt)).filter(|_| row.next_attempt < queue::waits()),
    };
    Ok(rows.into_iter().map(stuck).collect())
}

#[derive(QueryableByName)]
struct LossRow {
    #[diesel(sql_type = BigInt)]
    server: i64,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    objects: i64,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

/// Objects that a single server which is not down has, by server. Works on both backends.
const LOSSES: &str = "
    SELECT s.id AS server, s.name, count(*) AS objects, CAST(coalesce(sum(alone.size), 0) AS BIGINT) AS bytes FROM (
        SELECT o.id, o.size, min(r.server) AS server
        FROM objects o
        JOIN replicas r ON r.object = o.id AND r.state = 'present'
        JOIN server_health h ON h.server = r.server AND h.health <> 'down'
        WHERE o.state = 'live'
        GROUP BY o.id, o.size
        HAVING count(*) = 1) AS alone
    JOIN servers s ON s.id = alone.server
    GROUP BY s.id, s.name ORDER BY objects DESC";

/// What would be lost if a server died now. Reads every live object: for a person's question.
pub fn losses(connection: &mut AnyConnection) -> Result<Vec<LossIfDied>> {
    let rows: Vec<LossRow> = diesel::sql_query(LOSSES).load(connection)?;
    let loss = |row: LossRow| LossIfDied {
        server: ServerId(row.server),
        name: row.name,
        objects: row.objects as u64,
        bytes: row.bytes as u64,
    };
    Ok(rows.into_iter().map(loss).collect())
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
    })
}
