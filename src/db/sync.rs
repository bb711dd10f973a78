//! Comparing a server's inventory with the metadata, page by page.
//!
//! [`compare`] looks without locks and says what differs; [`apply`] decides each difference again under the
//! objects' locks before it writes anything.

use std::collections::{HashMap, HashSet};

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::*;
use super::schema::{cluster, objects, outbox, replicas, server_health};
use super::{chunks, dialect, events, queue};
use crate::decisions::sync::{Held, Known, Listed, Verdict, judge};
use crate::types::limits::INVENTORY_PAGE_ROWS_MAX;
use crate::types::storage_api::{InventoryLine, ReplicaKey};
use crate::types::{CauseWord, EventKind, Generation, Health, ObjectId, Result, ServerId};

/// Copies that the metadata lists and that are compared with one page of an inventory. A server that has lost much lists
/// few where the metadata lists many: the page is cut where these end, so that any loss is found in bounded steps.
const LISTED_ROWS_MAX: usize = 2 * INVENTORY_PAGE_ROWS_MAX;

/// One page of an inventory: all copies with keys after `after` and up to `last` (to the end, if that is `None`).
#[derive(Debug, Clone)]
pub struct Page {
    /// The cursor that it was asked with.
    pub after: Option<ReplicaKey>,
    /// Its last key, unless it is the last page.
    pub last: Option<ReplicaKey>,
    /// The copies.
    pub lines: Vec<InventoryLine>,
}

/// What differs between a page and the metadata.
#[derive(Debug, Clone, Default)]
pub struct Differences {
    /// Copies with something to do about them.
    pub lines: Vec<(InventoryLine, Verdict)>,
    /// Copies that the metadata lists and the page lacks.
    pub missing: Vec<ReplicaKey>,
    /// Copies that the metadata lists and whose files the server has lost, as it says itself.
    pub gone: Vec<ReplicaKey>,
    /// Copies that are as they should be.
    pub kept: usize,
}

/// What is known of the objects of some copies on one server.
struct Facts {
    objects: HashMap<i64, ObjectRow>,
    listed: HashMap<i64, ReplicaRow>,
    waiting: HashSet<(i64, i64)>,
}

impl Facts {
    fn load(connection: &mut AnyConnection, server: i64, ids: &[i64]) -> QueryResult<Self> {
        let rows: Vec<ObjectRow> = chunks::load(ids, |piece| {
            objects::table.filter(objects::id.eq_any(piece)).select(ObjectRow::as_select()).load(connection)
        })?;
        let listed: Vec<ReplicaRow> = chunks::load(ids, |piece| {
            replicas::table
                .filter(replicas::server.eq(server).and(replicas::object.eq_any(piece)))
                .select(ReplicaRow::as_select())
                .load(connection)
        })?;
        let waiting: Vec<(i64, i64)> = chunks::load(ids, |piece| {
            outbox::table
                .filter(outbox::server.eq(server).and(outbox::object.eq_any(piece)))
                .select((outbox::object, outbox::generation))
                .load(connection)
        })?;
        Ok(Self {
            objects: rows.into_iter().map(|row| (row.id, row)).collect(),
            listed: listed.into_iter().map(|row| (row.object, row)).collect(),
            waiting: waiting.into_iter().collect(),
        })
    }

    fn verdict(&self, line: &InventoryLine) -> Result<Verdict> {
        let key = line.replica;
        let held = Held { generation: key.generation, size: line.size, sha256: line.sha256, version: line.version };
        let known = match self.objects.get(&key.object.0) {
            None => Known::Unknown,
            Some(row) if row.state == ObjectRow::LIVE => Known::Live { size: row.size as u64, sha256: row.digest()? },
            Some(row) if row.state == ObjectRow::DELETED => Known::Deleted,
            Some(_) => Known::Aborted,
        };
        let listed = self
            .listed
            .get(&key.object.0)
            .map(|row| Listed { generation: Generation(row.generation), copying: row.state == ReplicaRow::COPYING });
        Ok(judge(&held, &known, listed, self.waiting.contains(&(key.object.0, key.generation.0))))
    }
}

fn key(row: &ReplicaRow) -> ReplicaKey {
    ReplicaKey { object: ObjectId(row.object), generation: Generation(row.generation) }
}

/// Compares a page with the metadata as it is now. Answers the page as far as it was compared: it is cut short when the
/// metadata lists many more copies than it has.
pub fn compare(connection: &mut AnyConnection, server: i64, mut page: Page) -> Result<(Page, Differences)> {
    let listed = listed(connection, server, &mut page)?;
    let ids: Vec<i64> = page.lines.iter().map(|line| line.replica.object.0).collect();
    let facts = Facts::load(connection, server, &ids)?;
    let mut differences = Differences::default();
    for line in &page.lines {
        match facts.verdict(line)? {
            Verdict::Keep | Verdict::Leave => differences.kept += 1,
            verdict => differences.lines.push((line.clone(), verdict)),
        }
    }
    let there: HashSet<ReplicaKey> = page.lines.iter().map(|line| line.replica).collect();
    differences.missing = listed.into_iter().filter(|key| !there.contains(key)).collect();
    Ok((page, differences))
}

/// The present copies that the metadata lists inside of a page, which ends with the last of them when there are too many.
fn listed(connection: &mut AnyConnection, server: i64, page: &mut Page) -> QueryResult<Vec<ReplicaKey>> {
    let (from, to) = (page.after.map_or(i64::MIN, |key| key.object.0), page.last.map_or(i64::MAX, |key| key.object.0));
    let rows: Vec<ReplicaRow> = replicas::table
        .filter(replicas::server.eq(server).and(replicas::object.between(from, to)))
        .filter(replicas::state.eq(ReplicaRow::PRESENT))
        .order(replicas::object)
        .limit(LISTED_ROWS_MAX as i64)
        .select(ReplicaRow::as_select())
        .load(connection)?;
    if let Some(row) = rows.last().filter(|_| rows.len() == LISTED_ROWS_MAX) {
        // Behind all copies of its object; there is one row for each.
        let end = ReplicaKey { object: ObjectId(row.object), generation: Generation(i64::MAX) };
        page.last = Some(page.last.map_or(end, |last| last.min(end)));
        page.lines.retain(|line| line.replica <= end);
    }
    let inside =
        |key: &ReplicaKey| page.after.is_none_or(|after| *key > after) && page.last.is_none_or(|last| *key <= last);
    Ok(rows.iter().map(key).filter(inside).collect())
}

/// What was done about differences.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Copies that are counted again.
    pub adopted: usize,
    /// Copies that will be deleted.
    pub deleted: usize,
    /// Copies that the server lost.
    pub missing: usize,
    /// Copies to put aside, and why.
    pub quarantine: Vec<(ReplicaKey, &'static str)>,
}

/// Puts the metadata right about differences that still exist, under the objects' locks.
pub fn apply(
    connection: &mut AnyConnection,
    server: i64,
    lines: &[InventoryLine],
    missing: &[ReplicaKey],
    read_ttl: TimeDelta,
) -> Step<Applied> {
    let now = dialect::clock(connection)?;
    let mut ids: Vec<i64> =
        lines.iter().map(|line| line.replica.object.0).chain(missing.iter().map(|key| key.object.0)).collect();
    ids.sort_unstable();
    ids.dedup();
    dialect::lock_objects(connection, &ids)?;
    let facts = Facts::load(connection, server, &ids)?;
    let version = cluster::table.select(cluster::last_version).first(connection)?;
    let mut write =
        Write { server, now, version, read_ttl, applied: Applied::default(), changed: Vec::new(), events: Vec::new() };
    for line in lines {
        write.line(connection, line, facts.verdict(line)?)?;
    }
    let still = |key: &&ReplicaKey| {
        let row = facts.listed.get(&key.object.0);
        row.is_some_and(|row| row.generation == key.generation.0 && row.state == ReplicaRow::PRESENT)
    };
    write.missing(connection, &missing.iter().filter(still).copied().collect::<Vec<_>>())?;
    queue::look_again(connection, &write.changed, now)?;
    events::tell(connection, write.events)?;
    Ok(write.applied)
}

struct Write {
    server: i64,
    now: NaiveDateTime,
    version: i64,
    read_ttl: TimeDelta,
    applied: Applied,
    /// Objects that have one copy more or less.
    changed: Vec<i64>,
    events: Vec<EventRow>,
}

impl Write {
    fn event(&mut self, key: ReplicaKey, kind: EventKind, detail: String) {
        let cause = CauseWord::Returned.of(ServerId(self.server));
        self.events.push(events::of_copy(self.now, kind, (key.object.0, self.server), cause, detail));
    }

    fn line(&mut self, connection: &mut AnyConnection, line: &InventoryLine, verdict: Verdict) -> Step<()> {
        let key = line.replica;
        match verdict {
            Verdict::Keep | Verdict::Leave => {}
            Verdict::Adopt => {
                let row = ReplicaRow {
                    object: key.object.0,
                    server: self.server,
                    generation: key.generation.0,
                    state: ReplicaRow::PRESENT.into(),
                    created: self.now,
                    verified: Some(line.verified.naive_utc()),
                };
                dialect::insert_replicas_if_absent(connection, &[row])?;
                self.changed.push(key.object.0);
                self.event(
                    key,
                    EventKind::ReplicaAdopted,
                    "the server came back with this copy, and it is counted again".into(),
                );
                self.applied.adopted += 1;
            }
            Verdict::Delete(why) => {
                let copy = (key.object.0, key.generation.0);
                let row = OutboxRow::new(self.server, copy, self.version, CauseWord::Outdated, self.now);
                dialect::insert_outbox(connection, &[row.after(self.read_ttl)])?;
                self.event(key, EventKind::ReplicaOutdated, format!("this copy will be deleted: {why}"));
                self.applied.deleted += 1;
            }
            Verdict::Quarantine(why) => {
                self.drop_row(connection, key)?;
                self.event(
                    key,
                    EventKind::ReplicaQuarantined,
                    format!("the copy of {:?} is put aside: {why}", line.label),
                );
                self.applied.quarantine.push((key, why));
            }
        }
        Ok(())
    }

    /// Under the objects' locks these are the copies that the rows are about.
    fn missing(&mut self, connection: &mut AnyConnection, keys: &[ReplicaKey]) -> Step<()> {
        let ids: Vec<i64> = keys.iter().map(|key| key.object.0).collect();
        let server = self.server;
        chunks::execute(&ids, |piece| {
            let rows = replicas::table.filter(replicas::server.eq(server).and(replicas::object.eq_any(piece)));
            diesel::delete(rows).execute(connection)
        })?;
        for key in keys {
            let detail = "the server no longer has this copy; it is replaced from another one";
            self.event(*key, EventKind::ReplicaMissing, detail.into());
        }
        self.changed.extend(ids);
        self.applied.missing += keys.len();
        Ok(())
    }

    fn drop_row(&mut self, connection: &mut AnyConnection, key: ReplicaKey) -> Step<()> {
        let row = replicas::table.find((key.object.0, self.server)).filter(replicas::generation.eq(key.generation.0));
        if diesel::delete(row).execute(connection)? > 0 {
            self.changed.push(key.object.0);
        }
        Ok(())
    }
}

/// Notes that a server's inventory was compared, if it still runs as it did and the metadata is still that of `epoch`.
/// Answers whether it is so.
pub fn complete(connection: &mut AnyConnection, server: i64, boot: &str, epoch: i64, detail: String) -> Step<bool> {
    let now: i64 = cluster::table.select(cluster::epoch).first(connection)?;
    if now != epoch {
        return Ok(false);
    }
    // One that is down meanwhile is compared again when it is back.
    let same = server_health::boot_id.eq(boot).and(server_health::health.ne(Health::Down));
    let changed = diesel::update(server_health::table.find(server).filter(same))
        .set(server_health::synced_boot.eq(boot))
        .execute(connection)?;
    if changed > 0 {
        let now = dialect::clock(connection)?;
        let row = events::row(now, EventKind::ServerSynced, detail);
        dialect::insert_events(connection, &[EventRow { server: Some(server), ..row }])?;
    }
    Ok(changed > 0)
}

/// Makes a server's inventory be compared again.
pub fn again(connection: &mut AnyConnection, server: i64) -> QueryResult<usize> {
    diesel::update(server_health::table.find(server)).set(server_health::synced_boot.eq("")).execute(connection)
}
