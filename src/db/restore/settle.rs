//! What follows from one table for another, in one statement each, whatever their size: each looks into the other table by
//! its index, or joins both; none reads it once for every row.

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text, Timestamp};

use super::SENTENCES_MAX;
use crate::db::connection::AnyConnection;

/// An object that an entry refers to is live: on one branch its last entry was removed, and another one has an entry more.
pub const REVIVE: &str = "UPDATE objects SET state = 'live', forget_after = NULL WHERE state = 'deleted' \
                          AND EXISTS (SELECT 1 FROM entries WHERE entries.object = objects.id)";
/// An object that no entry refers to is deleted: its files had been removed, or stood in a removed directory.
pub const RELEASE: &str = "UPDATE objects SET state = 'deleted', forget_after = $1 WHERE state = 'live' \
                           AND NOT EXISTS (SELECT 1 FROM entries WHERE entries.object = objects.id)";
/// How many objects have no copy.
pub const COUNT_WITHOUT_COPIES: &str = "SELECT count(*) AS count FROM objects WHERE state = 'live' \
                                        AND NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.object = objects.id)";
/// The first of them.
pub const WITHOUT_COPIES: &str = "SELECT id, label FROM objects WHERE state = 'live' \
                                  AND NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.object = objects.id) \
                                  ORDER BY id LIMIT $1";

/// Objects that entries refer to are live, and no others.
pub(super) fn states(connection: &mut AnyConnection, forget_after: NaiveDateTime) -> QueryResult<()> {
    diesel::sql_query(REVIVE).execute(connection)?;
    diesel::sql_query(RELEASE).bind::<Timestamp, _>(forget_after).execute(connection)?;
    Ok(())
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct Labelled {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    label: String,
}

/// Live objects of which there is no copy: the first ones with their labels, and how many there are.
pub(super) fn without_copies(connection: &mut AnyConnection) -> QueryResult<(Vec<(i64, String)>, u64)> {
    let count: Count = diesel::sql_query(COUNT_WITHOUT_COPIES).get_result(connection)?;
    let first: Vec<Labelled> =
        diesel::sql_query(WITHOUT_COPIES).bind::<BigInt, _>(SENTENCES_MAX as i64).load(connection)?;
    Ok((first.into_iter().map(|row| (row.id, row.label)).collect(), count.count as u64))
}
