//! Scans: which objects need something, found page by page.
//!
//! A scan locks and writes nothing. What it finds is queued by [`note_scanned`], and decided again when its turn comes.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::repair::{Loaded, Rules, enqueue};
use super::schema::{objects, replicas};
use super::{dialect, queue};
use crate::decisions::repair;
use crate::types::Result;

/// Objects of one page of a scan.
pub const SCAN_ROWS: i64 = 1_000;

/// What a scan looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// All objects.
    All,
    /// Those that have a copy on a server.
    Server(i64),
    /// Those in the queue that wait for the servers to change.
    Waiting,
}

/// How far a scan has come: behind this object, and among those that wait behind those with fewer copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Copies at hand, of those that wait.
    pub copies: i32,
    /// The object.
    pub object: i64,
}

impl Cursor {
    /// Before all.
    pub const START: Self = Self { copies: i32::MIN, object: i64::MIN };
}

/// What came of one page of a scan.
#[derive(Debug, Clone, Default)]
pub struct Scanned {
    /// What needs something, with the copies at hand.
    pub needy: Vec<(i64, i32)>,
    /// Those of them for which something can be done now.
    pub ready: Vec<i64>,
    /// How many were looked at.
    pub seen: usize,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// Looks at one page of objects. It locks nothing; whatever is done about them is decided again.
pub fn scan(connection: &mut AnyConnection, range: Range, after: Cursor, rules: &Rules) -> Result<Scanned> {
    let now = dialect::clock(connection)?;
    let at = |object: i64| Cursor { copies: after.copies, object };
    let page: Vec<Cursor> = match range {
        Range::Server(server) => replicas::table
            .filter(replicas::server.eq(server).and(replicas::object.gt(after.object)))
            .order(replicas::object)
            .limit(SCAN_ROWS)
            .select(replicas::object)
            .load::<i64>(connection)?
            .into_iter()
            .map(at)
            .collect(),
        Range::All => objects::table
            .filter(objects::id.gt(after.object))
            .order(objects::id)
            .limit(SCAN_ROWS)
            .select(objects::id)
            .load::<i64>(connection)?
            .into_iter()
            .map(at)
            .collect(),
        Range::Waiting => {
            let behind = Some((after.copies, after.object)).filter(|_| after != Cursor::START);
            let rows = queue::waiting(connection, behind, SCAN_ROWS as usize)?;
            rows.into_iter().map(|(copies, object)| Cursor { copies, object }).collect()
        }
    };
    let ids: Vec<i64> = page.iter().map(|cursor| cursor.object).collect();
    let loaded = Loaded::load(connection, &ids, now, rules)?;
    let next = page.last().copied().filter(|_| page.len() == SCAN_ROWS as usize);
    let mut scanned = Scanned { seen: ids.len(), next, ..Scanned::default() };
    for id in ids {
        match loaded.decide(id, rules) {
            // One that waits and needs nothing any more leaves the queue as any other: when it is looked at.
            None | Some((repair::Step::Nothing, _)) if range == Range::Waiting => scanned.ready.push(id),
            None | Some((repair::Step::Nothing, _)) => {}
            Some((step, at_hand)) => {
                scanned.needy.push((id, at_hand as i32));
                if !matches!(step, repair::Step::Wait { .. }) {
                    scanned.ready.push(id);
                }
            }
        }
    }
    Ok(scanned)
}

/// Queues what a scan has found, and wakes what waited and can be helped now. Answers how many were queued.
pub fn note_scanned(connection: &mut AnyConnection, scanned: &Scanned) -> Step<usize> {
    // Locks the objects; of those that are ready and not needy the rows are only moved on.
    let added = enqueue(connection, &scanned.needy)?;
    let now = dialect::clock(connection)?;
    queue::wake(connection, &scanned.ready, now)?;
    Ok(added)
}
