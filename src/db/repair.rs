//! The repair queue: objects to look at again, and what is done about them.
//!
//! One transaction notes what came of earlier transfers, looks at the objects that are due, most endangered
//! first, and writes down what is started: the row of a copy that is on its way comes before the transfer, so
//! that whoever takes over knows of it. Everything is decided again under the objects' locks, which are taken at once and
//! in one order: such transactions wait for each other and never in a ring.

use std::collections::{HashMap, HashSet};

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::queue::Place;
use super::rows::*;
use super::schema::{cluster, objects, repair_queue, replicas};
use super::server_view::{ServerView, server_views};
use super::{chunks, dialect, events, moves, queue};
use crate::decisions::placement::Candidate;
use crate::decisions::rebalance as moving;
use crate::decisions::repair::{self, CopyFacts, Object, ServerFacts};
use crate::types::api::{Health, Target};
use crate::types::{Cause, CauseWord, Error, EventKind, Generation, ObjectId, Result, ServerId, Sha256};

/// The most endangered objects that one transaction looks at, and as many behind those that found no room lately.
pub const DUE_ROWS_MAX: usize = 400;
/// Copies on their way that nobody carries any more; cleaned up in one transaction.
const STALE_ROWS_MAX: i64 = 500;
/// The queue does not look at an object again while a transfer of it is under way; whoever takes over does.
const IN_FLIGHT: TimeDelta = TimeDelta::days(1);

/// What an operator set.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Whether two copies may be on one host.
    pub allow_same_host: bool,
    /// How long a server may be down before its copies are gone.
    pub repair_delay: TimeDelta,
    /// How long read tickets are good for.
    pub read_ttl: TimeDelta,
}

/// A copy to be made.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// The object.
    pub object: ObjectId,
    /// Bytes.
    pub size: u64,
    /// Their digest.
    pub sha256: Sha256,
    /// The path at the commit.
    pub label: String,
    /// Where from.
    pub source: Target,
    /// The copy there.
    pub source_generation: Generation,
    /// Where to.
    pub target: Target,
    /// The new copy.
    pub generation: Generation,
    /// Why it is made.
    pub cause: Cause,
}

/// A transfer that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Which.
    pub transfer: Transfer,
    /// Whether the copy is fsynced on its target.
    pub outcome: Result<()>,
}

/// How many more transfers may be started.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// In all.
    pub transfers: usize,
    /// Of one server.
    pub per_server: usize,
    /// Transfers under way, by server.
    pub busy: HashMap<i64, usize>,
    /// Bytes that may be started.
    pub bytes: u64,
    /// Rows of the queue up to here found no room, though others may: what is behind them is looked at, too.
    pub behind: Option<Place>,
}

impl Room {
    fn is_free(&self, server: ServerId) -> bool {
        self.busy.get(&server.0).copied().unwrap_or(0) < self.per_server
    }

    fn take(&mut self, source: ServerId, target: ServerId, size: u64) -> bool {
        if self.transfers == 0 || self.bytes == 0 || !self.is_free(source) || !self.is_free(target) {
            return false;
        }
        self.transfers -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        for id in [source, target] {
            *self.busy.entry(id.0).or_default() += 1;
        }
        true
    }
}

/// What a transaction did.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// Copies to be made now.
    pub transfers: Vec<Transfer>,
    /// Copies that were completed.
    pub copied: usize,
    /// Transfers that failed or were interrupted.
    pub failed: usize,
    /// Copies too many that are deleted.
    pub trimmed: usize,
    /// Objects that need nothing more.
    pub healthy: usize,
    /// Objects that have to wait.
    pub waiting: usize,
    /// The servers by which this was decided: what has to wait waits for them to become others.
    pub servers: Vec<ServerFacts>,
    /// Due objects were left for the next time.
    pub more: bool,
    /// See [`Room::behind`].
    pub behind: Option<Place>,
    /// Servers whose copies are not what the metadata believes: their inventories are compared again.
    pub doubted: Vec<ServerId>,
}

/// The servers as repair sees them.
pub fn server_facts(views: &[ServerView], now: NaiveDateTime, repair_delay: TimeDelta) -> Vec<ServerFacts> {
    let is_long_ago = |since: Option<NaiveDateTime>| since.is_none_or(|since| now - since >= repair_delay);
    let facts = |view: &ServerView| ServerFacts {
        place: Candidate {
            server: ServerId(view.row.id),
            host: view.row.host.clone(),
            zone: view.row.zone.clone(),
            free_bytes: view.checked.as_ref().map_or(0, |checked| checked.free_bytes as u64),
        },
        capacity_bytes: view.checked.as_ref().map_or(0, |checked| checked.capacity_bytes as u64),
        health: view.health,
        gone: view.health == Health::Down && is_long_ago(view.since())
            || view.is_failing() && is_long_ago(view.troubled()),
        failing: view.is_failing(),
        can_keep: view.trouble().is_none(),
        admin_state: view.admin_state,
        syncing: view.is_syncing(),
        alarmed: view.is_alarmed(),
    };
    views.iter().map(facts).collect()
}

/// Objects with their copies.
pub(super) struct Loaded {
    servers: Vec<ServerFacts>,
    urls: HashMap<i64, String>,
    index: HashMap<i64, usize>,
    objects: HashMap<i64, ObjectRow>,
    copies: HashMap<i64, Vec<ReplicaRow>>,
    /// Whose copy is being moved, by object.
    moving: HashMap<i64, i64>,
}

impl Loaded {
    pub(super) fn load(
        connection: &mut AnyConnection,
        ids: &[i64],
        now: NaiveDateTime,
        rules: &Rules,
    ) -> QueryResult<Self> {
        let views = server_views(connection)?;
        let servers = server_facts(&views, now, rules.repair_delay);
        let index = servers.iter().enumerate().map(|(index, server)| (server.place.server.0, index)).collect();
        let rows: Vec<ObjectRow> = chunks::load(ids, |piece| {
            objects::table.filter(objects::id.eq_any(piece)).select(ObjectRow::as_select()).load(connection)
        })?;
        let mut copies: HashMap<i64, Vec<ReplicaRow>> = HashMap::new();
        let loaded: Vec<ReplicaRow> = chunks::load(ids, |piece| {
            replicas::table.filter(replicas::object.eq_any(piece)).select(ReplicaRow::as_select()).load(connection)
        })?;
        for copy in loaded {
            copies.entry(copy.object).or_default().push(copy);
        }
        Ok(Self {
            servers,
            urls: views.into_iter().map(|view| (view.row.id, view.row.url)).collect(),
            index,
            objects: rows.into_iter().map(|row| (row.id, row)).collect(),
            copies,
            moving: moves::moving(connection, ids)?.into_iter().collect(),
        })
    }

    pub(super) fn servers(&self) -> &[ServerFacts] {
        &self.servers
    }

    /// The server whose copy of an object is being moved.
    pub(super) fn moving_from(&self, id: i64) -> Option<ServerId> {
        self.moving.get(&id).map(|server| ServerId(*server))
    }

    pub(super) fn copies(&self, id: i64) -> Vec<CopyFacts<'_>> {
        let facts = |copy: &ReplicaRow| {
            let server = self.servers.get(*self.index.get(&copy.server)?)?;
            Some(CopyFacts { server, copying: copy.state == ReplicaRow::COPYING })
        };
        self.copies.get(&id).into_iter().flatten().filter_map(facts).collect()
    }

    /// What is wanted of an object; `None` when nobody wants it any more.
    pub(super) fn object(&self, id: i64, rules: &Rules) -> Option<Object> {
        let row = self.objects.get(&id).filter(|row| row.state == ObjectRow::LIVE)?;
        let (copies, size) = (row.copies_wanted as u32, row.size as u64);
        Some(Object { copies, size, allow_same_host: rules.allow_same_host })
    }

    /// What an object needs, and how many of its copies are at hand; `None` when nobody wants it any more.
    pub(super) fn decide(&self, id: i64, rules: &Rules) -> Option<(repair::Step, usize)> {
        let (object, copies) = (self.object(id, rules)?, self.copies(id));
        Some((self.step(id, &object, &copies, &self.servers), repair::at_hand(&copies)))
    }

    /// The same as [`Self::decide`] says, to a server that has room for one more transfer: the best one may have none.
    fn decide_with_room(&self, id: i64, rules: &Rules, room: &Room) -> Option<repair::Step> {
        let free: Vec<ServerFacts> =
            self.servers.iter().filter(|server| room.is_free(server.place.server)).cloned().collect();
        Some(self.step(id, &self.object(id, rules)?, &self.copies(id), &free))
    }

    fn step(&self, id: i64, object: &Object, copies: &[CopyFacts<'_>], servers: &[ServerFacts]) -> repair::Step {
        match self.moving_from(id) {
            Some(from) => moving::decide(object, copies, servers, from, &mut rand::rng()),
            None => repair::decide(object, copies, servers, &mut rand::rng()),
        }
    }

    fn generation(&self, id: i64, server: ServerId) -> Option<Generation> {
        let copy = self.copies.get(&id)?.iter().find(|copy| copy.server == server.0)?;
        Some(Generation(copy.generation))
    }

    fn target(&self, server: ServerId) -> Target {
        Target { server, url: self.urls.get(&server.0).cloned().unwrap_or_default() }
    }
}

/// Notes what has ended, and looks at what is due. `carried` are the transfers under way in this process.
pub fn work_through(
    connection: &mut AnyConnection,
    rules: &Rules,
    ended: &[Ended],
    carried: &[(ObjectId, Generation)],
    mut room: Room,
    paused: bool,
) -> Step<Done> {
    let now = dialect::clock(connection)?;
    let mut done = Done { behind: room.behind, ..Done::default() };
    let stale = stale(connection, carried, ended)?;
    let may_start = !paused && room.transfers > 0;
    let due = if may_start { Due::find(connection, now, room.behind)? } else { Due::default() };
    let just_ended: HashSet<i64> = ended.iter().map(|ended| ended.transfer.object.0).collect();
    let mut ids: Vec<i64> = just_ended.iter().copied().chain(stale.iter().map(|row| row.object)).collect();
    ids.extend(due.rows());
    ids.sort_unstable();
    ids.dedup();
    dialect::lock_objects(connection, &ids)?;
    note_ended(connection, ended, now, &mut done)?;
    drop_stale(connection, &stale, now, &mut done)?;
    if !may_start {
        return Ok(done);
    }
    let mut rows: Vec<RepairRow> = chunks::load(&ids, |piece| {
        repair_queue::table
            .filter(repair_queue::object.eq_any(piece).and(repair_queue::next_attempt.le(now)))
            .select(RepairRow::as_select())
            .load(connection)
    })?;
    // What has just ended is looked at first, so that the queue shows what is really left.
    rows.sort_by_key(|row| (!just_ended.contains(&row.object), Place::of(row)));
    let loaded = Loaded::load(connection, &ids, now, rules)?;
    let mut written = Written::begin(connection, now)?;
    for row in &rows {
        written.apply(&loaded, row, rules, &mut room, &mut done);
    }
    written.write(connection)?;
    if room.transfers > 0 && room.bytes > 0 {
        done.behind = due.end();
    }
    done.servers = loaded.servers;
    let progress = done.healthy + done.trimmed + done.waiting + done.transfers.len() > 0;
    done.more = progress && due.is_more() || done.trimmed > 0;
    Ok(done)
}

/// What one transaction takes out of the queue.
#[derive(Default)]
struct Due {
    /// The most endangered.
    first: Vec<RepairRow>,
    /// Behind those that found no room lately.
    behind: Vec<RepairRow>,
}

impl Due {
    fn find(connection: &mut AnyConnection, now: NaiveDateTime, behind: Option<Place>) -> QueryResult<Self> {
        let first = queue::due(connection, now, None, DUE_ROWS_MAX)?;
        let behind = match (first.last().map(Place::of), behind) {
            (Some(last), Some(behind)) if first.len() == DUE_ROWS_MAX => {
                queue::due(connection, now, Some(last.max(behind)), DUE_ROWS_MAX)?
            }
            _ => Vec::new(),
        };
        Ok(Self { first, behind })
    }

    fn rows(&self) -> impl Iterator<Item = i64> {
        self.first.iter().chain(&self.behind).map(|row| row.object)
    }

    fn is_more(&self) -> bool {
        self.first.len() == DUE_ROWS_MAX
    }

    /// Where to go on when there was room for all of these that could use it; from the start, at the end.
    fn end(&self) -> Option<Place> {
        let page = if self.behind.is_empty() { &self.first } else { &self.behind };
        page.last().filter(|_| page.len() == DUE_ROWS_MAX).map(Place::of)
    }
}

fn last_version(connection: &mut AnyConnection) -> QueryResult<i64> {
    cluster::table.select(cluster::last_version).first(connection)
}

/// Rows of one transaction.
#[derive(Default)]
pub(super) struct Written {
    now: NaiveDateTime,
    last_version: i64,
    finished: Vec<i64>,
    copying: Vec<ReplicaRow>,
    trimmed: Vec<OutboxRow>,
    later: Vec<RepairRow>,
    events: Vec<EventRow>,
    /// Objects of which nothing is moved any more, and how many copies were moved, with their bytes.
    moves_over: Vec<i64>,
    moved: (usize, i64),
}

impl Written {
    pub(super) fn begin(connection: &mut AnyConnection, now: NaiveDateTime) -> QueryResult<Self> {
        Ok(Self { now, last_version: last_version(connection)?, ..Self::default() })
    }

    fn apply(&mut self, loaded: &Loaded, row: &RepairRow, rules: &Rules, room: &mut Room, done: &mut Done) {
        let is_moving = loaded.moving_from(row.object).is_some();
        let Some((step, at_hand)) = loaded.decide(row.object, rules) else {
            self.finished.push(row.object);
            self.moves_over.extend(is_moving.then_some(row.object));
            return;
        };
        let mut row = RepairRow { copies: at_hand as i32, ..row.clone() };
        match step {
            repair::Step::Nothing => {
                done.healthy += 1;
                self.finished.push(row.object);
                let is_over = is_moving && !loaded.copies(row.object).iter().any(|copy| copy.copying);
                self.moves_over.extend(is_over.then_some(row.object));
                return;
            }
            repair::Step::Copy { source, mut target } => {
                if room.is_free(source)
                    && !room.is_free(target)
                    && let Some(repair::Step::Copy { target: other, .. }) =
                        loaded.decide_with_room(row.object, rules, room)
                {
                    target = other;
                }
                let Some(transfer) = self.start(loaded, row.object, source, target, room) else {
                    return;
                };
                done.transfers.push(transfer);
                row.next_attempt = self.now + IN_FLIGHT;
            }
            repair::Step::Trim { server, why } => {
                done.trimmed += 1;
                self.trim(loaded, row.object, server, why, rules);
                row.next_attempt = self.now;
            }
            repair::Step::Wait { why } if loaded.copies(row.object).iter().any(|copy| copy.copying) => {
                row.last_error = Some(why.into());
                row.next_attempt = self.now + IN_FLIGHT;
            }
            repair::Step::Wait { why } => {
                done.waiting += 1;
                // Only another state of the servers helps: whoever sees that wakes it.
                row.next_attempt = queue::waits();
                row.attempts += 1;
                row.last_error = Some(why.into());
            }
        }
        self.later.push(row);
    }

    pub(super) fn start(
        &mut self,
        loaded: &Loaded,
        id: i64,
        source: ServerId,
        target: ServerId,
        room: &mut Room,
    ) -> Option<Transfer> {
        let object = loaded.objects.get(&id)?;
        let source_generation = loaded.generation(id, source)?;
        let sha256 = object.digest().ok()?;
        if !room.take(source, target, object.size as u64) {
            return None;
        }
        let generation = Generation::generate();
        self.copying.push(ReplicaRow {
            object: id,
            server: target.0,
            generation: generation.0,
            state: ReplicaRow::COPYING.into(),
            created: self.now,
            verified: None,
        });
        Some(Transfer {
            object: ObjectId(id),
            size: object.size as u64,
            sha256,
            label: object.label.clone(),
            source: loaded.target(source),
            source_generation,
            target: loaded.target(target),
            generation,
            cause: repair::cause_of_copy(object.copies_wanted as u32, &loaded.copies(id)),
        })
    }

    fn trim(&mut self, loaded: &Loaded, id: i64, server: ServerId, why: CauseWord, rules: &Rules) {
        let Some(generation) = loaded.generation(id, server) else { return };
        let row = OutboxRow::new(server.0, (id, generation.0), self.last_version, why, self.now);
        self.trimmed.push(row.after(rules.read_ttl));
        if why == CauseWord::Rebalanced {
            self.moves_over.push(id);
            self.moved.0 += 1;
            self.moved.1 += loaded.objects.get(&id).map_or(0, |row| row.size);
        }
        let cause = if why == CauseWord::Draining { why.of(server) } else { why.into() };
        let detail = format!("this copy is given up: {}", why.meaning());
        self.events.push(events::of_copy(self.now, EventKind::ReplicaTrimmed, (id, server.0), cause, detail));
    }

    pub(super) fn write(self, connection: &mut AnyConnection) -> Step<()> {
        moves::moved(connection, self.moved.0, self.moved.1)?;
        moves::over(connection, &self.moves_over)?;
        queue::remove(connection, &self.finished)?;
        dialect::insert_replicas_if_absent(connection, &self.copying)?;
        self.copying.first().inspect(|_| crate::types::failpoint::REPAIR_ROW_WRITTEN.passed());
        for row in &self.trimmed {
            diesel::delete(
                replicas::table.find((row.object, row.server)).filter(replicas::generation.eq(row.generation)),
            )
            .execute(connection)?;
            crate::types::failpoint::TRIM_WRITTEN.passed();
        }
        dialect::insert_outbox(connection, &self.trimmed)?;
        for row in &self.later {
            queue::save(connection, row)?;
        }
        events::tell(connection, self.events)
    }
}

fn note_ended(connection: &mut AnyConnection, ended: &[Ended], now: NaiveDateTime, done: &mut Done) -> Step<()> {
    // A copy of its directory may have taken the place of a target that was silent: what was sent there is not on it.
    let standings = if ended.is_empty() { HashMap::new() } else { super::server::standings(connection)? };
    let elsewhere = Error::unavailable("the target is somewhere else now");
    let (mut happened, mut moved, mut moves_over) = (Vec::new(), Vec::new(), Vec::new());
    for Ended { transfer, outcome } in ended {
        let id = transfer.object.0;
        let is_move = transfer.cause.word == CauseWord::Rebalanced;
        let is_there = standings.get(&transfer.target.server.0).is_none_or(|now| now.url == transfer.target.url);
        let outcome = outcome.as_ref().and(if is_there { Ok(()) } else { Err(&elsewhere) });
        let row = replicas::table
            .find((id, transfer.target.server.0))
            .filter(replicas::generation.eq(transfer.generation.0).and(replicas::state.eq(ReplicaRow::COPYING)));
        match outcome {
            Ok(()) => {
                let present = (replicas::state.eq(ReplicaRow::PRESENT), replicas::verified.eq(now));
                // Without the row the object was deleted meanwhile, and the outbox names this copy already.
                if diesel::update(row).set(present).execute(connection)? > 0 {
                    crate::types::failpoint::REPAIR_PRESENT.passed();
                    done.copied += 1;
                    let detail = format!("a new copy was made and verified: {}", transfer.cause.word.meaning());
                    let copy = (id, transfer.target.server.0);
                    let event = events::of_copy(now, EventKind::ReplicaCopied, copy, transfer.cause, detail);
                    happened.push(EventRow { path: Some(transfer.label.clone()), ..event });
                    moved.extend(is_move.then_some(id));
                } else {
                    moves_over.extend(is_move.then_some(id));
                }
                diesel::update(repair_queue::table.find(id))
                    .set((repair_queue::next_attempt.eq(now), repair_queue::attempts.eq(0)))
                    .execute(connection)?;
            }
            Err(error) => {
                done.failed += 1;
                moves_over.extend(is_move.then_some(id));
                give_up_copy(connection, id, transfer.target.server.0, transfer.generation.0, now)?;
                put_off(connection, id, &error.chain(), now)?;
                use crate::types::ErrorCode::{ChecksumMismatch, NotFound};
                if matches!(error.code(), NotFound | ChecksumMismatch) {
                    done.doubted.push(transfer.source.server);
                }
            }
        }
    }
    moves::over(connection, &moves_over)?;
    queue::look_again(connection, &moved, now)?;
    for server in &done.doubted {
        super::sync::again(connection, server.0)?;
    }
    events::tell(connection, happened)
}

/// Forgets a copy that was on its way; should it have arrived after all, the outbox removes it.
fn give_up_copy(
    connection: &mut AnyConnection,
    object: i64,
    server: i64,
    generation: i64,
    now: NaiveDateTime,
) -> Step<()> {
    let row = replicas::table
        .find((object, server))
        .filter(replicas::generation.eq(generation).and(replicas::state.eq(ReplicaRow::COPYING)));
    if diesel::delete(row).execute(connection)? > 0 {
        let version = last_version(connection)?;
        let row = OutboxRow::new(server, (object, generation), version, CauseWord::CopyFailed, now);
        dialect::insert_outbox(connection, &[row])?;
    }
    Ok(())
}

fn put_off(connection: &mut AnyConnection, object: i64, why: &str, now: NaiveDateTime) -> Step<()> {
    let row: Option<RepairRow> =
        repair_queue::table.find(object).select(RepairRow::as_select()).first(connection).optional()?;
    if let Some(mut row) = row {
        row.next_attempt = now + TimeDelta::seconds(repair::back_off_seconds(row.attempts));
        row.attempts += 1;
        row.last_error = Some(why.into());
        queue::save(connection, &row)?;
    }
    Ok(())
}

/// Copies on their way that this process does not carry: whoever did is dead or no longer acts.
fn stale(
    connection: &mut AnyConnection,
    carried: &[(ObjectId, Generation)],
    ended: &[Ended],
) -> QueryResult<Vec<ReplicaRow>> {
    let mut known: HashSet<(i64, i64)> = carried.iter().map(|(object, generation)| (object.0, generation.0)).collect();
    known.extend(ended.iter().map(|ended| (ended.transfer.object.0, ended.transfer.generation.0)));
    let rows: Vec<ReplicaRow> = replicas::table
        .filter(super::counts::is_copying())
        .limit(STALE_ROWS_MAX + known.len() as i64)
        .select(ReplicaRow::as_select())
        .load(connection)?;
    Ok(rows.into_iter().filter(|row| !known.contains(&(row.object, row.generation))).collect())
}

fn drop_stale(connection: &mut AnyConnection, stale: &[ReplicaRow], now: NaiveDateTime, done: &mut Done) -> Step<()> {
    for row in stale {
        done.failed += 1;
        give_up_copy(connection, row.object, row.server, row.generation, now)?;
    }
    let ids: Vec<i64> = stale.iter().map(|row| row.object).collect();
    queue::look_again(connection, &ids, now)?;
    Ok(())
}

/// Puts objects into the queue, to be looked at now; those in it already keep their time, and come further in front when
/// they are more endangered than they were.
pub fn enqueue(connection: &mut AnyConnection, needy: &[(i64, i32)]) -> Step<usize> {
    let now = dialect::clock(connection)?;
    let mut ids: Vec<i64> = needy.iter().map(|(object, _)| *object).collect();
    ids.sort_unstable();
    ids.dedup();
    dialect::lock_objects(connection, &ids)?;
    // An object may have been forgotten since it was looked at.
    let there: Vec<i64> = chunks::load(&ids, |piece| {
        objects::table
            .filter(objects::id.eq_any(piece).and(objects::state.eq(ObjectRow::LIVE)))
            .select(objects::id)
            .load(connection)
    })?;
    let there: HashSet<i64> = there.into_iter().collect();
    let places: Vec<(i64, i32)> = needy.iter().filter(|(object, _)| there.contains(object)).copied().collect();
    Ok(queue::add(connection, &places, now)?)
}

/// A transfer's failure, when the transfer was lost with its task.
pub fn lost_transfer() -> Error {
    Error::unavailable("the transfer was lost with its task")
}
