//! What the health checks saw.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::error::Step;
use super::rows::{EventRow, ServerHealthRow};
use super::schema::server_health::dsl;

/// What a check saw of a server, when there is something new in it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its new row.
    pub row: ServerHealthRow,
    /// Its health is another one.
    pub health_changed: bool,
    /// This check found that what its inventory was compared for is over: it was down, or another process answers. Only
    /// then: a comparison may have ended during the round, and the row was read before it.
    pub begins_anew: bool,
    /// What people are told.
    pub events: Vec<EventRow>,
}

/// Writes the rows of servers that are still registered, with their events. Since when a server has its health, and
/// its trouble, is the database's time: repair judges by it.
pub fn save(connection: &mut AnyConnection, seen: &[Seen]) -> Step<()> {
    let now = dialect::clock(connection)?;
    for Seen { row, health_changed, begins_anew, .. } in seen {
        let server = dsl::server_health.find(row.server);
        if let Some(trouble) = &row.trouble {
            let is_new = dsl::trouble.is_null().or(dsl::trouble.ne(trouble));
            diesel::update(server.filter(is_new)).set(dsl::troubled.eq(now)).execute(connection)?;
        } else {
            diesel::update(server.filter(dsl::trouble.is_not_null()))
                .set(dsl::troubled.eq(None::<chrono::NaiveDateTime>))
                .execute(connection)?;
        }
        // Not the boot id: a registration may have written a newer one during the round.
        diesel::update(server)
            .set((
                dsl::health.eq(&row.health),
                dsl::reason.eq(&row.reason),
                dsl::capacity_bytes.eq(row.capacity_bytes),
                dsl::free_bytes.eq(row.free_bytes),
                dsl::last_seen.eq(row.last_seen),
                dsl::scrub_alarm.eq(row.scrub_alarm),
                dsl::trouble.eq(&row.trouble),
                dsl::stored_bytes.eq(row.stored_bytes),
                dsl::scrubbed.eq(row.scrubbed),
                dsl::clock_ahead_ms.eq(row.clock_ahead_ms),
                dsl::answer_ms.eq(row.answer_ms),
                dsl::fill_since.eq(row.fill_since),
                dsl::fill_free_bytes.eq(row.fill_free_bytes),
                dsl::fill_bytes_per_day.eq(row.fill_bytes_per_day),
            ))
            .execute(connection)?;
        // Of the process that was checked, which another one may have followed.
        diesel::update(server.filter(dsl::boot_id.eq(&row.boot_id)))
            .set(dsl::index_changes.eq(row.index_changes))
            .execute(connection)?;
        if *health_changed {
            diesel::update(server).set(dsl::since.eq(now)).execute(connection)?;
        }
        if *begins_anew {
            // A process that has registered since was not what was checked.
            diesel::update(server.filter(dsl::boot_id.eq(&row.boot_id)))
                .set(dsl::synced_boot.eq(""))
                .execute(connection)?;
        }
    }
    let events: Vec<EventRow> = seen.iter().flat_map(|seen| seen.events.iter().cloned()).collect();
    dialect::insert_events(connection, &events)?;
    Ok(())
}
