//! What the health checks saw.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::ServerHealthRow;
use super::schema::server_health::dsl;

/// Writes the rows of servers that are still registered.
pub fn save(connection: &mut AnyConnection, rows: &[ServerHealthRow]) -> Step<()> {
    for row in rows {
        diesel::update(dsl::server_health.find(row.server)).set(row).execute(connection)?;
    }
    Ok(())
}
