//! What happened lately and what servers that leave still have: what the report needs beside the counts. Every question is
//! bounded, and goes by an index.

use std::collections::HashMap;

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::lease::ACTING;
use super::rows::{RebalanceRow, utc};
use super::schema::{cluster, events, leases, objects, repair_queue, replicas, servers};
use super::{counts, dialect, tree};
use crate::types::id::floor_at;
use crate::types::{AdminState, DfsPath, EventKind, Result};

/// Corrupt copies are told for so long.
const CORRUPT_WITHIN: TimeDelta = TimeDelta::days(1);
/// Servers that come and go are judged by so long.
const DOWN_WITHIN: TimeDelta = TimeDelta::hours(1);
/// Events that are read of each sort.
const EVENTS_ROWS_MAX: i64 = 10_000;
/// Objects without a copy that are looked at for their paths.
const LOST_ROWS_MAX: i64 = 500;
/// Paths that are told.
const LOST_LABELS_MAX: usize = 5;
/// Kept numbers that were wrong are told for so long.
const MENDED_WITHIN: TimeDelta = TimeDelta::days(1);

/// What happened lately.
#[derive(Debug, Clone, Default)]
pub struct Lately {
    /// The database's time.
    pub now: NaiveDateTime,
    /// When the cluster was made, or restored into an empty database.
    pub created: NaiveDateTime,
    /// Copies wanted in the root directory.
    pub copies_wanted: u32,
    /// When the lease ends or has ended, if there ever was one.
    pub lease_expires: Option<NaiveDateTime>,
    /// Copies that were found corrupt since yesterday, by server.
    pub corrupt: HashMap<i64, u64>,
    /// When servers went down within the last hour, the last time first.
    pub downs: HashMap<i64, Vec<NaiveDateTime>>,
    /// Replicas on servers that are draining.
    pub drain_left: HashMap<i64, u64>,
    /// When the kept numbers were found to be wrong and put right, since yesterday.
    pub mended: Option<NaiveDateTime>,
    /// Filling servers evenly, while it is under way.
    pub rebalance: Option<RebalanceRow>,
}

/// Reads it.
pub fn lately(connection: &mut AnyConnection) -> Result<Lately> {
    let now = dialect::clock(connection)?;
    let created = cluster::table.select(cluster::created).first(connection)?;
    let lease = leases::table.find(ACTING).select(leases::expires).first(connection).optional()?;
    let mut corrupt: HashMap<i64, u64> = HashMap::new();
    for (server, _) in events_since(connection, &["replica_corrupt", "last_copy_corrupt"], now - CORRUPT_WITHIN)? {
        *corrupt.entry(server).or_default() += 1;
    }
    let mut downs: HashMap<i64, Vec<NaiveDateTime>> = HashMap::new();
    for (server, time) in events_since(connection, &["server_down"], now - DOWN_WITHIN)? {
        downs.entry(server).or_default().push(time);
    }
    let draining: Vec<i64> =
        servers::table.filter(servers::admin_state.eq(AdminState::Draining)).select(servers::id).load(connection)?;
    let mut drain_left = HashMap::new();
    if !draining.is_empty() {
        let listed = counts::listed(connection)?;
        drain_left.extend(draining.iter().map(|server| (*server, listed.get(server).copied().unwrap_or(0))));
    }
    let mended = events::table
        .filter(events::kind.eq(EventKind::CountsMended.word()).and(events::part_of.is_null()))
        .filter(events::id.ge(floor_at(utc(now - MENDED_WITHIN))))
        .order(events::id.desc())
        .select(events::time)
        .first(connection)
        .optional()?;
    // There is no root while the metadata waits for a restore.
    let copies_wanted = tree::walk(connection, &DfsPath::root()).map_or(1, |walk| walk.copies_wanted()) as u32;
    let rebalance = super::rebalance::last(connection)?.filter(RebalanceRow::is_running);
    Ok(Lately { now, created, copies_wanted, lease_expires: lease, corrupt, downs, drain_left, mended, rebalance })
}

/// Servers and times of events of these kinds, the newest first.
fn events_since(
    connection: &mut AnyConnection,
    kinds: &[&str],
    since: NaiveDateTime,
) -> QueryResult<Vec<(i64, NaiveDateTime)>> {
    events::table
        .filter(events::kind.eq_any(kinds).and(events::id.ge(floor_at(utc(since)))))
        .filter(events::server.is_not_null())
        .order(events::id.desc())
        .limit(EVENTS_ROWS_MAX)
        .select((events::server.assume_not_null(), events::time))
        .load(connection)
}

/// Paths, as they were at the commit, of objects that no server is listed for. They wait in the repair queue.
pub fn lost_labels(connection: &mut AnyConnection) -> Result<Vec<String>> {
    let candidates: Vec<(i64, String)> = repair_queue::table
        .inner_join(objects::table.on(objects::id.eq(repair_queue::object)))
        .filter(repair_queue::copies.eq(0).and(objects::state.eq("live")))
        .order((repair_queue::copies, repair_queue::next_attempt))
        .limit(LOST_ROWS_MAX)
        .select((objects::id, objects::label))
        .load(connection)?;
    let ids: Vec<i64> = candidates.iter().map(|(id, _)| *id).collect();
    let listed: Vec<i64> = replicas::table
        .filter(replicas::object.eq_any(&ids).and(replicas::state.eq("present")))
        .select(replicas::object)
        .distinct()
        .load(connection)?;
    let lost = candidates.into_iter().filter(|(id, _)| !listed.contains(id));
    Ok(lost.map(|(_, label)| label).take(LOST_LABELS_MAX).collect())
}
