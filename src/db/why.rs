//! What is known of one object's copies, for those who explain them.

use chrono::NaiveDateTime;
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::repair::{Rules, server_facts};
use super::rows::{RepairRow, ReplicaRow};
use super::schema::{objects, repair_queue, replicas};
use super::server_view::{ServerView, server_views};
use crate::decisions::repair::ServerFacts;
use crate::types::Result;

/// One object with its copies and its place in the repair queue.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The database's time.
    pub now: NaiveDateTime,
    /// Copies wanted.
    pub copies_wanted: u32,
    /// Bytes.
    pub size: u64,
    /// All servers.
    pub views: Vec<ServerView>,
    /// The same as repair sees them, in the same order.
    pub servers: Vec<ServerFacts>,
    /// Its copies.
    pub copies: Vec<ReplicaRow>,
    /// Its place in the repair queue.
    pub queued: Option<RepairRow>,
}

/// Reads it; `None` when the object is gone meanwhile.
pub fn explained(connection: &mut AnyConnection, object: i64, rules: &Rules) -> Result<Option<Explained>> {
    let now = dialect::clock(connection)?;
    let row: Option<(i32, i64)> = objects::table
        .find(object)
        .filter(objects::state.eq("live"))
        .select((objects::copies_wanted, objects::size))
        .first(connection)
        .optional()?;
    let Some((copies_wanted, size)) = row else { return Ok(None) };
    let copies =
        replicas::table.filter(replicas::object.eq(object)).select(ReplicaRow::as_select()).load(connection)?;
    let queued = repair_queue::table.find(object).select(RepairRow::as_select()).first(connection).optional()?;
    let views = server_views(connection)?;
    let servers = server_facts(&views, now, rules.repair_delay);
    let (copies_wanted, size) = (copies_wanted as u32, size as u64);
    Ok(Some(Explained { now, copies_wanted, size, views, servers, copies, queued }))
}
