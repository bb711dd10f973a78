//! What a database that was put aside still tells.
//!
//! Changes are acknowledged when the database has them, and are on the journal's copies about a second later. So a
//! damaged database may know changes that no copy has. Its journal proves them by itself: a line whose hash, over the
//! tip before it, is the tip that stands beside it follows from that tip and from nothing else. Lines that follow from
//! the end of the journal's copies are brought back; of all others it is told that they are lost.

use diesel::prelude::*;

use super::aside::{self, Place};
use super::check::{is_next, tip_after};
use super::connection::AnyConnection;
use super::rows::JournalRow;
use super::schema::{cluster, journal};
use super::url::DatabaseUrl;
use crate::journal::{JournalLine, Staging};
use crate::types::storage_api::JournalPosition;
use crate::types::{Result, Sha256, Version, bounds};

/// Lines of its journal that are read at once.
const PAGE_LINES: i64 = 5_000;
/// Rows of changes that are lost and are told one by one.
const LOST_ROWS_MAX: i64 = 100;

/// What one tells beyond the end of the journal's copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// Where it is.
    pub place: Place,
    /// Up to this version its lines follow from that end, each change whole.
    pub reach: Version,
    /// The newest version that it knew of.
    pub knows: Version,
    /// Changes of a later history, which a restore had begun there, and of which no copy has anything.
    pub later_changes: u64,
    /// What can be read of the changes that are not proven, for people.
    pub lost_rows: Vec<String>,
}

/// Looks for a database of the same history, or of a later one, among those that were put aside: the newest that tells anything of it.
/// What cannot be read is logged and left out.
pub fn find(url: &DatabaseUrl, head: &JournalPosition) -> Option<Former> {
    let places = aside::all(url).unwrap_or_else(|error| {
        log::warn!("databases that were put aside cannot be found: {}", error.chain());
        Vec::new()
    });
    places.into_iter().find_map(|place| {
        let mut connection = match aside::open(url, &place) {
            Ok(connection) => connection,
            Err(error) => {
                log::warn!("{place} cannot be read: {}", error.chain());
                return None;
            }
        };
        look(&mut connection, place, head)
    })
}

fn look(connection: &mut AnyConnection, place: Place, head: &JournalPosition) -> Option<Former> {
    let state = state(connection);
    let of_this_history = state.as_ref().filter(|state| state.history == head.history.to_string());
    let mut reach = head.version;
    let end = each_proven_change(connection, head, of_this_history, |lines| {
        reach = lines.last().map_or(reach, |line| line.version);
        Ok(())
    });
    if let Err(error) = end {
        log::warn!("{place} can be read up to version {reach} only: {}", error.chain());
    }
    // A line that follows is proof enough, also where the cluster row cannot be read.
    if of_this_history.is_none() && reach == head.version {
        let later = state.filter(|state| state.epoch > head.epoch)?;
        let first = super::journal::first_version(connection).ok().flatten().unwrap_or(later.version + 1);
        let later_changes = (later.version + 1 - first).max(0) as u64;
        let lost_rows = lost_rows(connection, 0);
        return Some(Former { place, reach, knows: reach, later_changes, lost_rows });
    }
    let knows = of_this_history.map_or(reach, |state| state.version.max(reach));
    let lost_rows = if knows > reach { lost_rows(connection, reach) } else { Vec::new() };
    Some(Former { place, reach, knows, later_changes: 0, lost_rows })
}

/// Applies the changes that [`find`] has found proven.
pub fn bring_back(url: &DatabaseUrl, former: &Former, head: &JournalPosition, staging: &mut Staging) -> Result<()> {
    let mut connection = aside::open(url, &former.place)?;
    let state = state(&mut connection);
    let of_this_history = state.as_ref().filter(|state| state.history == head.history.to_string());
    let mut reached = head.version;
    let end = each_proven_change(&mut connection, head, of_this_history, |lines| {
        for line in lines {
            staging.apply_line(line)?;
            reached = line.version;
        }
        Ok(())
    });
    // As before, it may break off behind what was found.
    if reached < former.reach { end } else { Ok(()) }
}

struct State {
    history: String,
    epoch: i64,
    version: Version,
    tip: Vec<u8>,
}

fn state(connection: &mut AnyConnection) -> Option<State> {
    let row: QueryResult<(String, i64, Version, Vec<u8>)> = cluster::table
        .select((cluster::history_id, cluster::epoch, cluster::last_version, cluster::tip))
        .first(connection);
    match row {
        Ok((history, epoch, version, tip)) => {
            if let Err(error) = bounds::check_epoch(epoch).and_then(|_| bounds::check_version(version)) {
                log::warn!("the state of a database that was put aside is damaged: {error}");
                return None;
            }
            Some(State { history, epoch, version, tip })
        }
        Err(error) => {
            log::warn!("the state of a database that was put aside cannot be read: {error}");
            None
        }
    }
}

/// Hands out changes that follow from `head`, in order, each with all its lines: a change is whole when the next one
/// follows from it, or when it is where the database says that it ends.
fn each_proven_change(
    connection: &mut AnyConnection,
    head: &JournalPosition,
    state: Option<&State>,
    mut visit: impl FnMut(&[JournalLine]) -> Result<()>,
) -> Result<()> {
    let (mut tip, mut at): (Sha256, (Version, i32)) = (head.tip, (head.version, i32::MAX - 1));
    let mut change: Vec<JournalLine> = Vec::new();
    loop {
        let rows: Vec<JournalRow> = journal::table
            .filter(journal::version.gt(at.0).or(journal::version.eq(at.0).and(journal::seq.gt(at.1))))
            .order((journal::version, journal::seq))
            .limit(PAGE_LINES)
            .select(JournalRow::as_select())
            .load(connection)?;
        let is_last_page = (rows.len() as i64) < PAGE_LINES;
        for row in rows {
            let next = tip_after(tip, &row);
            if !is_next(at, (row.version, row.seq)) || next.0 != *row.tip {
                return Ok(());
            }
            if row.seq == 0 && !change.is_empty() {
                visit(&change)?;
                change.clear();
            }
            (tip, at) = (next, (row.version, row.seq));
            change.push(row.into());
        }
        if is_last_page {
            break;
        }
    }
    if !change.is_empty() && state.is_some_and(|state| state.version == at.0 && state.tip == tip.0) {
        visit(&change)?;
    }
    Ok(())
}

/// What can still be read of changes after a version. Nothing proves it, so it is told and not brought back.
fn lost_rows(connection: &mut AnyConnection, after: Version) -> Vec<String> {
    let rows: QueryResult<Vec<JournalRow>> = journal::table
        .filter(journal::version.gt(after))
        .order((journal::version, journal::seq))
        .limit(LOST_ROWS_MAX)
        .select(JournalRow::as_select())
        .load(connection);
    let rows = rows.unwrap_or_else(|error| {
        log::warn!("the changes that are lost cannot be read: {error}");
        Vec::new()
    });
    let row = |row: JournalRow| {
        let name = row.content.as_deref().and_then(|content| {
            let content: serde_json::Value = serde_json::from_str(content).ok()?;
            let name = content.get("label").or(content.get("name"))?.as_str()?.to_string();
            Some(format!(", {name:?}"))
        });
        let gone = if row.content.is_none() { " (removed)" } else { "" };
        format!(
            "version {}: a row of {}, {}{}{gone}",
            row.version,
            row.table_name,
            row.row_key,
            name.unwrap_or_default()
        )
    };
    rows.into_iter().map(row).collect()
}
