//! Rebalancing: the run that a person has begun, what each server has, and the copies that move.
//!
//! A move is a copy on its way as repair makes them, and a row that says which copy goes when it is there. The rest is
//! repair's ([`super::repair`]): it notes what came of the transfer and trims, in one transaction. The row of the run is
//! kept after its end, until the next one begins.
//!
//! None of it is journaled: it says nothing about files. After a restore nothing is being moved; what was, is there too
//! often and trimmed.

use std::collections::HashMap;

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::repair::{Loaded, Room, Rules, Transfer, Written};
use super::rows::*;
use super::schema::{rebalances, replicas};
use super::{counts, dialect, events, queue};
use crate::decisions::rebalance::{self, Levels};
use crate::decisions::repair;
use crate::types::{CauseWord, Error, ErrorCode, EventKind, ObjectId, Result, ServerId};

/// Copies that one transaction looks at.
const PLAN_ROWS: i64 = 400;

/// The last run, if there was one.
pub fn last(connection: &mut AnyConnection) -> Result<Option<RebalanceRow>> {
    Ok(rebalances::table.order(rebalances::id.desc()).select(RebalanceRow::as_select()).first(connection).optional()?)
}

/// Begins a run. One that is under way goes on, within other percent if they are others.
pub fn begin(connection: &mut AnyConnection, within_percent: i32, by: &str) -> Step<RebalanceRow> {
    dialect::lock_cluster(connection)?;
    let before = rebalances::table
        .filter(rebalances::state.eq(RebalanceRow::RUNNING))
        .select(RebalanceRow::as_select())
        .first(connection)
        .optional()?;
    if let Some(running) = before {
        diesel::update(rebalances::table.find(running.id))
            .set(rebalances::within_percent.eq(within_percent))
            .execute(connection)?;
        return Ok(RebalanceRow { within_percent, ..running });
    }
    let row = RebalanceRow {
        id: ObjectId::generate().0,
        state: RebalanceRow::RUNNING.into(),
        within_percent,
        started: dialect::clock(connection)?,
        ended: None,
        by_token: Some(by.into()),
        moved: 0,
        moved_bytes: 0,
        left_bytes: None,
        note: String::new(),
    };
    diesel::delete(rebalances::table).execute(connection)?;
    diesel::insert_into(rebalances::table).values(&row).execute(connection)?;
    let detail = format!("copies are moved until servers are filled within {within_percent} % of each other");
    let event = events::row(row.started, EventKind::RebalanceStarted, detail);
    dialect::insert_events(connection, &[EventRow { by_token: Some(by.into()), ..event }])?;
    Ok(row)
}

/// Ends the run that is under way, because a person says so. What is on its way comes to its end.
pub fn stop(connection: &mut AnyConnection, by: &str) -> Step<RebalanceRow> {
    dialect::lock_cluster(connection)?;
    let Some(row) = last(connection)?.filter(RebalanceRow::is_running) else {
        let message = "nothing is being rebalanced; `holdfast rebalance --status` shows the last time";
        return Err(Error::new(ErrorCode::PreconditionFailed, message).into());
    };
    finish(connection, row.id, RebalanceRow::STOPPED, &format!("it was stopped by {by}"))?;
    Ok(last(connection)?.unwrap_or(row))
}

/// Notes that a run has ended, unless somebody else did.
pub fn finish(connection: &mut AnyConnection, id: i64, state: &str, note: &str) -> Step<()> {
    let now = dialect::clock(connection)?;
    let running = rebalances::table.find(id).filter(rebalances::state.eq(RebalanceRow::RUNNING));
    let ended = (rebalances::state.eq(state), rebalances::ended.eq(Some(now)), rebalances::note.eq(note));
    if diesel::update(running).set(ended).execute(connection)? == 0 {
        return Ok(());
    }
    if state == RebalanceRow::DONE {
        diesel::update(rebalances::table.find(id)).set(rebalances::left_bytes.eq(Some(0i64))).execute(connection)?;
    }
    let moved: i64 = rebalances::table.find(id).select(rebalances::moved).first(connection)?;
    let detail = format!("{note}; {}", crate::types::words::counted(moved as u64, "moved copy"));
    dialect::insert_events(connection, &[events::row(now, EventKind::RebalanceEnded, detail)])?;
    Ok(())
}

/// Writes down how far a run is.
pub fn progress(connection: &mut AnyConnection, id: i64, left_bytes: Option<u64>, note: &str) -> Step<()> {
    let row = rebalances::table.find(id).filter(rebalances::state.eq(RebalanceRow::RUNNING));
    diesel::update(row).set(rebalances::note.eq(note)).execute(connection)?;
    if let Some(left) = left_bytes {
        diesel::update(rebalances::table.find(id))
            .set(rebalances::left_bytes.eq(Some(left as i64)))
            .execute(connection)?;
    }
    Ok(())
}

/// Why nothing is moved now, if repair has anything to do that can be done. What stands in its queue because of a move does
/// not count, nor what can only wait for the servers to change: that may be for ever, nothing that moves is in its way, and
/// none of its own copies move.
pub fn repair_first(connection: &mut AnyConnection) -> Result<Option<String>> {
    let Some(row) = queue::first_to_do(connection)? else { return Ok(None) };
    let why = match row.attempts {
        0 => "it waits until repair has done what can be done now",
        _ => {
            "it waits until repair has done what can be done now; some of that has failed, `holdfast report` says what"
        }
    };
    Ok(Some(why.to_string()))
}

/// Bytes of the copies of live files that each server has, by the numbers that are kept.
pub fn bytes_by_server(connection: &mut AnyConnection) -> Result<HashMap<i64, u64>> {
    let mut bytes: HashMap<i64, u64> = HashMap::new();
    for held in counts::read(connection)?.live {
        for server in held.servers {
            *bytes.entry(server.0).or_default() += held.bytes;
        }
    }
    Ok(bytes)
}

/// What one transaction began.
#[derive(Debug, Default)]
pub struct Planned {
    /// Copies to be made now.
    pub transfers: Vec<Transfer>,
    /// The copy behind which to go on; `None` at the end of the server's copies.
    pub next: Option<i64>,
    /// More could be begun, and there is no room for it now.
    pub full: bool,
}

/// Looks at a page of the copies on a server that is too full, and begins to move those that may move, as far as the
/// levels and the room allow. Answers the levels as they will be then.
pub fn plan(
    connection: &mut AnyConnection,
    rules: &Rules,
    from: ServerId,
    after: i64,
    mut levels: Levels,
    mut room: Room,
) -> Step<(Planned, Levels)> {
    let now = dialect::clock(connection)?;
    let ids: Vec<i64> = replicas::table
        .filter(replicas::server.eq(from.0).and(replicas::object.gt(after)))
        .filter(replicas::state.eq(ReplicaRow::PRESENT))
        .order(replicas::object)
        .limit(PLAN_ROWS)
        .select(replicas::object)
        .load(connection)?;
    dialect::lock_objects(connection, &ids)?;
    let loaded = Loaded::load(connection, &ids, now, rules)?;
    let mut written = Written::begin(connection, now)?;
    let mut planned =
        Planned { next: ids.last().copied().filter(|_| ids.len() == PLAN_ROWS as usize), ..Planned::default() };
    let (mut seen, mut begun) = (after, Vec::new());
    for id in ids {
        if !levels.givers().contains(&from) {
            planned.next = Some(seen);
            break;
        }
        if let Some(to) = target(&loaded, id, from, rules, &levels) {
            let Some(transfer) = written.start(&loaded, id, from, to, &mut room) else {
                (planned.next, planned.full) = (Some(seen), true);
                break;
            };
            levels.note_move(from, to, transfer.size);
            begun.push(MoveRow { object: id, server: from.0, begun: now });
            planned.transfers.push(Transfer { cause: CauseWord::Rebalanced.of(from), ..transfer });
        }
        seen = id;
    }
    dialect::insert_moves(connection, &begun)?;
    written.write(connection)?;
    Ok((planned, levels))
}

/// Where a copy moves, if nothing else is to be done about its object.
fn target(loaded: &Loaded, id: i64, from: ServerId, rules: &Rules, levels: &Levels) -> Option<ServerId> {
    if loaded.moving_from(id).is_some() || !matches!(loaded.decide(id, rules), Some((repair::Step::Nothing, _))) {
        return None;
    }
    rebalance::target(&loaded.object(id, rules)?, &loaded.copies(id), from, loaded.servers(), levels)
}
