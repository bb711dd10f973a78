//! The copies that move so that servers are filled more evenly, as repair meets them: which do, and what came of it.

use diesel::dsl::{exists, not};
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::schema::{moves, rebalances, replicas};
use super::{chunks, counts};
use crate::types::Result;

/// Copies on their way for the sake of repair: those that only fill servers more evenly are none.
pub fn repairs_in_flight(connection: &mut AnyConnection) -> QueryResult<i64> {
    let is_moving = exists(moves::table.filter(moves::object.eq(replicas::object)));
    replicas::table.filter(counts::is_copying()).filter(not(is_moving)).count().get_result(connection)
}

/// Whether any copy is being moved.
pub fn is_moving(connection: &mut AnyConnection) -> Result<bool> {
    Ok(moves::table.select(moves::object).first::<i64>(connection).optional()?.is_some())
}

/// Notes copies that were moved: how many, and their bytes.
pub(super) fn moved(connection: &mut AnyConnection, copies: usize, bytes: i64) -> QueryResult<()> {
    if copies > 0 {
        let more = (
            rebalances::moved.eq(rebalances::moved + copies as i64),
            rebalances::moved_bytes.eq(rebalances::moved_bytes + bytes),
        );
        diesel::update(rebalances::table).set(more).execute(connection)?;
    }
    Ok(())
}

/// Notes that nothing is moved any more of these objects.
pub(super) fn over(connection: &mut AnyConnection, objects: &[i64]) -> QueryResult<()> {
    chunks::execute(objects, |piece| {
        diesel::delete(moves::table.filter(moves::object.eq_any(piece))).execute(connection)
    })?;
    Ok(())
}

/// Of which of these objects a copy is being moved, and from where.
pub(super) fn moving(connection: &mut AnyConnection, ids: &[i64]) -> QueryResult<Vec<(i64, i64)>> {
    chunks::load(ids, |piece| {
        moves::table.filter(moves::object.eq_any(piece)).select((moves::object, moves::server)).load(connection)
    })
}
