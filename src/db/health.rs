//! What the health checks saw.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::ServerHealthRow;
use super::schema::server_health::dsl;

/// Writes the rows of servers that are still registered.
pub fn save(connection: &mut AnyConnection, rows: &[ServerHealthRow]) -> Step<()> {
    for row in rows {
        // Not the boot id: a registration may have written a newer one during the round.
        diesel::update(dsl::server_health.find(row.server))
            .set((
                dsl::health.eq(&row.health),
                dsl::since.eq(row.since),
                dsl::reason.eq(&row.reason),
                dsl::capacity_bytes.eq(row.capacity_bytes),
                dsl::free_bytes.eq(row.free_bytes),
                dsl::last_seen.eq(row.last_seen),
            ))
            .execute(connection)?;
    }
    Ok(())
}
