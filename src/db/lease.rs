//! The lease: which name server acts.
//!
//! Its term rises at each takeover. Transactions of the acting actors hold a share of the row ([`hold`]), which
//! a takeover waits for; so when a takeover has committed, nothing that acts under an older term can commit.

use chrono::TimeDelta;
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::error::Step;
use super::rows::LeaseRow;
use super::schema::leases;
use crate::types::{Error, ErrorCode, bounds};

/// The one lease there is.
pub const ACTING: &str = "acting";

/// Takes or renews the lease. Answers its term, or `None` while somebody else holds it.
pub fn acquire(connection: &mut AnyConnection, holder: &str, ttl: TimeDelta) -> Step<Option<i64>> {
    let now = dialect::clock(connection)?;
    let renewed = diesel::update(leases::table.find(ACTING))
        .filter(leases::holder.eq(holder).and(leases::expires.gt(now)))
        .set(leases::expires.eq(now + ttl))
        .execute(connection)?;
    let before: Option<LeaseRow> =
        leases::table.find(ACTING).select(LeaseRow::as_select()).first(connection).optional()?;
    match before {
        Some(row) if renewed > 0 => Ok(Some(row.term)),
        Some(row) if row.expires > now => Ok(None),
        _ => take(connection, holder, ttl, false),
    }
}

/// Takes the lease from whoever holds it. Waits for transactions that act under it.
pub fn seize(connection: &mut AnyConnection, holder: &str, ttl: TimeDelta) -> Step<i64> {
    match take(connection, holder, ttl, true)? {
        Some(term) => Ok(term),
        None => Err(Error::internal("a lease could not be seized").into()),
    }
}

fn take(connection: &mut AnyConnection, holder: &str, ttl: TimeDelta, by_force: bool) -> Step<Option<i64>> {
    let locked = dialect::lock_lease(connection, ACTING)?;
    let now = dialect::clock(connection)?;
    if locked.as_ref().is_some_and(|row| row.expires > now && !by_force) {
        // Another one was faster.
        return Ok(None);
    }
    let row = LeaseRow {
        name: ACTING.into(),
        holder: holder.into(),
        term: match &locked {
            None => 1,
            Some(row) => bounds::next("term", row.term, bounds::TERM_MAX)?,
        },
        expires: now + ttl,
    };
    if locked.is_none() {
        diesel::insert_into(leases::table).values(&row).execute(connection)?;
    } else {
        diesel::update(leases::table.find(ACTING))
            .set((leases::holder.eq(&row.holder), leases::term.eq(row.term), leases::expires.eq(row.expires)))
            .execute(connection)?;
    }
    crate::types::failpoint::LEASE_WRITTEN.passed();
    Ok(Some(row.term))
}

/// Makes sure that the lease is held under this term, until the transaction ends.
pub fn hold(connection: &mut AnyConnection, holder: &str, term: i64) -> Step<()> {
    let row = dialect::share_lease(connection, ACTING)?;
    let now = dialect::clock(connection)?;
    match row {
        Some(row) if row.holder == holder && row.term == term && row.expires > now => Ok(()),
        _ => Err(Error::new(
            ErrorCode::Unavailable,
            format!("this name server no longer holds the lease of term {term}"),
        )
        .into()),
    }
}

/// Lets the lease go, so that another name server need not wait for its end.
pub fn release(connection: &mut AnyConnection, holder: &str) -> Step<()> {
    let now = dialect::clock(connection)?;
    diesel::update(leases::table.find(ACTING))
        .filter(leases::holder.eq(holder))
        .set(leases::expires.eq(now))
        .execute(connection)?;
    Ok(())
}
