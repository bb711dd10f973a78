//! What the health checks saw.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::error::Step;
use super::rows::{EventRow, ServerHealthRow};
use super::schema::server_health::dsl;

/// Writes the rows of servers that are still registered, each with an event when its health changed. Since when
/// it has its health is the database's time: repair judges by it.
pub fn save(connection: &mut AnyConnection, rows: &[(ServerHealthRow, Option<EventRow>)]) -> Step<()> {
    let now = dialect::clock(connection)?;
    for (row, event) in rows {
        let server = dsl::server_health.find(row.server);
        // Not the boot id: a registration may have written a newer one during the round.
        diesel::update(server)
            .set((
                dsl::health.eq(&row.health),
                dsl::reason.eq(&row.reason),
                dsl::capacity_bytes.eq(row.capacity_bytes),
                dsl::free_bytes.eq(row.free_bytes),
                dsl::last_seen.eq(row.last_seen),
                dsl::scrub_alarm.eq(row.scrub_alarm),
            ))
            .execute(connection)?;
        // Of the process that was checked, which another one may have followed.
        diesel::update(server.filter(dsl::boot_id.eq(&row.boot_id)))
            .set(dsl::index_changes.eq(row.index_changes))
            .execute(connection)?;
        if event.is_some() {
            diesel::update(server).set(dsl::since.eq(now)).execute(connection)?;
        }
        if row.synced_boot.is_empty() {
            diesel::update(server).set(dsl::synced_boot.eq("")).execute(connection)?;
        }
    }
    let events: Vec<EventRow> = rows.iter().filter_map(|(_, event)| event.clone()).collect();
    dialect::insert_events(connection, &events)?;
    Ok(())
}
