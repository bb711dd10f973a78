//! Lists that a statement binds, in pieces.
//!
//! SQLite takes 32,766 bound values in one statement and refuses one more; Postgres takes any array and plans badly for a
//! long one. A list whose length the caller decides, or a disaster, is therefore never bound whole.

use diesel::prelude::*;

/// Values that one statement binds from a list.
pub const BOUND_VALUES_MAX: usize = 4_000;

/// Loads the rows for all values of a list.
pub fn load<V, R>(values: &[V], mut piece: impl FnMut(&[V]) -> QueryResult<Vec<R>>) -> QueryResult<Vec<R>> {
    let mut rows = Vec::new();
    for values in values.chunks(BOUND_VALUES_MAX) {
        rows.append(&mut piece(values)?);
    }
    Ok(rows)
}

/// Executes a statement for all values of a list. Answers how many rows it was about.
pub fn execute<V>(values: &[V], mut piece: impl FnMut(&[V]) -> QueryResult<usize>) -> QueryResult<usize> {
    values.chunks(BOUND_VALUES_MAX).try_fold(0, |sum, values| Ok(sum + piece(values)?))
}
