//! Deciding the fate of pending replicas, when their servers ask.
//!
//! Before the ticket's expiry anything may still be committed. After it, ids that are unknown become
//! *aborted* under the cluster row's lock, so that a commit in flight has either happened or is refused, and
//! a copy is kept exactly when its replica row exists.

use std::collections::HashMap;

use chrono::TimeDelta;
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::{ObjectRow, ReplicaRow};
use super::schema::{objects, replicas};
use super::{dialect, events};
use crate::types::api::{PendingFate, PendingReplica};
use crate::types::{CauseWord, EventKind, Mode, Result, ServerId};

/// Answers without a lock where that is safe; `None` where [`decide`] has to look.
pub fn known(
    connection: &mut AnyConnection,
    server: ServerId,
    asked: &[PendingReplica],
) -> Result<Vec<Option<PendingFate>>> {
    let state = super::cluster::state(connection)?;
    let kept = kept(connection, server, asked)?;
    let fate = |replica: &PendingReplica| match kept.get(&(replica.object.0, replica.generation.0)) {
        Some(keep) => Some(keep.clone()),
        None if replica.ticket_expires >= state.now || replica.epoch != state.epoch || state.mode != Mode::Normal => {
            Some(PendingFate::Wait)
        }
        None => None,
    };
    Ok(asked.iter().map(fate).collect())
}

/// Decides for replicas whose tickets have expired.
pub fn decide(
    connection: &mut AnyConnection,
    server: ServerId,
    asked: &[PendingReplica],
    keep_row_for: TimeDelta,
) -> Step<Vec<PendingFate>> {
    let cluster = dialect::lock_cluster(connection)?;
    let now = dialect::clock(connection)?.max(cluster.clock_floor);
    let kept = kept(connection, server, asked)?;
    let ids: Vec<i64> = asked.iter().map(|replica| replica.object.0).collect();
    let states: Vec<(i64, String)> =
        objects::table.filter(objects::id.eq_any(ids)).select((objects::id, objects::state)).load(connection)?;
    let states: HashMap<i64, String> = states.into_iter().collect();
    let mut aborted = Vec::new();
    let mut happened = Vec::new();
    let mut fates = Vec::with_capacity(asked.len());
    for replica in asked {
        if let Some(keep) = kept.get(&(replica.object.0, replica.generation.0)) {
            fates.push(keep.clone());
        } else if replica.ticket_expires.naive_utc() >= now
            || replica.epoch != cluster.epoch
            || cluster.mode != Mode::Normal
        {
            fates.push(PendingFate::Wait);
        } else {
            aborted.push(ObjectRow {
                id: replica.object.0,
                state: ObjectRow::ABORTED.into(),
                size: 0,
                sha256: Vec::new(),
                copies_wanted: 0,
                label: String::new(),
                version: 0,
                created: now,
                forget_after: Some(now + keep_row_for),
            });
            let cause = match states.get(&replica.object.0).map(String::as_str) {
                Some(ObjectRow::DELETED) => CauseWord::Removed,
                // It was committed without this copy.
                Some(ObjectRow::LIVE) => CauseWord::Surplus,
                _ => CauseWord::UploadFailed,
            };
            let copy = (replica.object.0, server.0);
            let detail = format!("copy {}.{} is deleted: {}", replica.object, replica.generation, cause.meaning());
            happened.push(events::of_copy(now, EventKind::ReplicaDeleted, copy, cause.into(), detail));
            fates.push(PendingFate::Delete);
        }
    }
    dialect::insert_objects_if_absent(connection, &aborted)?;
    aborted.first().inspect(|_| crate::types::failpoint::PENDING_ABORTED.passed());
    events::tell(connection, happened)?;
    Ok(fates)
}

/// The copies among those asked about whose replica rows exist.
fn kept(
    connection: &mut AnyConnection,
    server: ServerId,
    asked: &[PendingReplica],
) -> QueryResult<HashMap<(i64, i64), PendingFate>> {
    let ids: Vec<i64> = asked.iter().map(|replica| replica.object.0).collect();
    let rows: Vec<(ReplicaRow, ObjectRow)> = replicas::table
        .inner_join(objects::table.on(objects::id.eq(replicas::object)))
        .filter(replicas::server.eq(server.0).and(replicas::object.eq_any(ids)))
        .select((ReplicaRow::as_select(), ObjectRow::as_select()))
        .load(connection)?;
    let keep = |(copy, object): (ReplicaRow, ObjectRow)| {
        let fate = PendingFate::Keep { version: object.version, label: object.label };
        ((copy.object, copy.generation), fate)
    };
    Ok(rows.into_iter().map(keep).collect())
}
