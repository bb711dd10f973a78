//! Counts for the report and the metrics.

use diesel::prelude::*;
use diesel::sql_types::BigInt;

use super::connection::AnyConnection;
use super::schema::objects;
use crate::types::Result;
use crate::types::api::CopiesCount;

/// How much there is, and how much of it is short of copies.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Live objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Short of copies, by copies on servers that are not down.
    pub under_replicated: Vec<CopiesCount>,
    /// Deletions that wait.
    pub outbox: u64,
}

#[derive(QueryableByName)]
struct CopiesRow {
    #[diesel(sql_type = BigInt)]
    copies: i64,
    #[diesel(sql_type = BigInt)]
    objects: i64,
}

/// Works on both backends: counts, per object, the copies that servers which are not down have.
const UNDER_REPLICATED: &str = "
    SELECT copies, count(*) AS objects FROM (
        SELECT o.id, o.copies_wanted,
               count(CASE WHEN r.state = 'present' AND coalesce(h.health, 'down') <> 'down' THEN 1 END) AS copies
        FROM objects o
        LEFT JOIN replicas r ON r.object = o.id
        LEFT JOIN server_health h ON h.server = r.server
        WHERE o.state = 'live'
        GROUP BY o.id, o.copies_wanted) AS counted
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
    Ok(Counts {
        objects: objects as u64,
        bytes: bytes as u64,
        under_replicated: short
            .into_iter()
            .map(|row| CopiesCount { copies: row.copies as u32, objects: row.objects as u64 })
            .collect(),
        outbox: outbox as u64,
    })
}
