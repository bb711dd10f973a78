//! Storage servers that a person takes out of service, back, or away. Whether that hurts is decided inside of the
//! transaction that does it: two operators, or two name servers, cannot each take one of the last two.

use std::collections::HashSet;

use diesel::prelude::*;

use super::change::Changes;
use super::connection::AnyConnection;
use super::error::{Failure, Step};
use super::rows::*;
use super::schema::{entries, outbox, repair_queue, replicas, server_health, servers};
use super::server::{find, set_admin_state};
use super::server_view::{ServerView, server_views};
use super::{counts, dialect, events, queue, removed, tree};
use crate::decisions::leaving::{Place, Rules, Wanted, objection, objection_to_copies};
use crate::types::api::{AdminState, Health};
use crate::types::{CauseWord, DfsPath, Error, ErrorCode, EventKind, ObjectId, ServerId, Version};

/// Copies whose loss is looked for before a server is removed, in pages.
const LOOKED_ROWS_MAX: i64 = 20_000;
const PAGE_ROWS: i64 = 1_000;
/// Copies that are given up in one transaction.
const GIVEN_UP_ROWS: i64 = 200;
/// Objects of a draining server that are looked at for what they wait for.
const WAITING_ROWS_MAX: i64 = 1_000;

/// What came of an attempt to remove a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is removed.
    Done,
    /// It gets nothing new any more, and its copies are to be given up before it can go.
    CopiesLeft,
}

fn refuse<T>(message: String) -> Step<T> {
    let all = format!("{message}. With --force (force=true) it is done all the same");
    Err(Error::new(ErrorCode::PreconditionFailed, all).into())
}

fn require(changes: &mut Changes<'_>, id: ServerId) -> Step<ServerRow> {
    find(changes.connection, id)?
        .ok_or_else(|| Failure::Refused(Error::not_found(format!("no storage server has the id {id}"))))
}

fn places(views: &[ServerView]) -> Vec<Place> {
    let place = |view: &ServerView| Place {
        name: view.row.name.clone(),
        host: view.row.host.clone(),
        takes_copies: view.admin_state == AdminState::InService
            && view.health != Health::Down
            && view.trouble().is_none(),
    };
    views.iter().map(place).collect()
}

/// Refuses when the cluster would be hurt without a server.
fn refuse_what_hurts(changes: &mut Changes<'_>, row: &ServerRow, rules: Rules, what: &str) -> Step<()> {
    let views = server_views(changes.connection)?;
    let Some(leaves) = views.iter().position(|view| view.row.id == row.id) else { return Ok(()) };
    // A cluster without a root waits for its restore and takes no changes.
    let root = tree::walk(changes.connection, &DfsPath::root())?.copies_wanted() as u32;
    let most: Option<i32> = entries::table
        .filter(entries::replication.is_not_null())
        .select(diesel::dsl::max(entries::replication))
        .first(changes.connection)?;
    let wanted = Wanted { root, most: most.map_or(root, |most| root.max(most as u32)) };
    match objection(&places(&views), leaves, wanted, rules) {
        Some(why) => refuse(format!("{} is not {what}: {why}", row.name)),
        None => Ok(()),
    }
}

/// Refuses a number of copies for a directory in which nothing could be written then.
pub fn refuse_unwritable(changes: &mut Changes<'_>, path: &DfsPath, copies: u32, rules: Rules) -> Step<()> {
    // A file's next content follows its directory.
    if !tree::walk(changes.connection, path)?.require()?.is_directory() {
        return Ok(());
    }
    let views = server_views(changes.connection)?;
    match objection_to_copies(&places(&views), copies, rules) {
        Some(why) => refuse(format!("the number of copies is not changed: {why}")),
        None => Ok(()),
    }
}

fn tell(changes: &mut Changes<'_>, kind: EventKind, server: &ServerRow, detail: String) -> Step<()> {
    let event = events::row(changes.now, kind, detail);
    let by_token = changes.by().map(String::from);
    dialect::insert_events(changes.connection, &[EventRow { server: Some(server.id), by_token, ..event }])?;
    Ok(())
}

/// Takes a server out of service.
pub fn drain(changes: &mut Changes<'_>, id: ServerId, rules: Rules, force: bool) -> Step<()> {
    let row = require(changes, id)?;
    if row.admin_state != AdminState::InService {
        // It drains already, or is drained; a drained one may have been given something since.
        return set_admin_state(changes, id, AdminState::Draining);
    }
    if !force {
        refuse_what_hurts(changes, &row, rules, "drained")?;
    }
    set_admin_state(changes, id, AdminState::Draining)?;
    let detail = format!("{} gets no new files from now on, and its files are copied away", row.name);
    tell(changes, EventKind::ServerDraining, &row, detail)
}

/// Puts a server back into service.
pub fn undrain(changes: &mut Changes<'_>, id: ServerId) -> Step<()> {
    let row = require(changes, id)?;
    if row.admin_state == AdminState::InService {
        return Ok(());
    }
    set_admin_state(changes, id, AdminState::InService)?;
    tell(changes, EventKind::ServerInService, &row, format!("{} is in service again", row.name))
}

/// Removes a server that nothing needs: it holds no replicas and does not run any more. With `force` also one that runs,
/// which is refused from then on, and one that holds copies, when they have been given up.
pub fn remove(changes: &mut Changes<'_>, id: ServerId, rules: Rules, force: bool) -> Step<Removal> {
    let row = require(changes, id)?;
    let held = match counts::has_copies(changes.connection, id.0)? {
        true => (counts::listed(changes.connection)?.get(&id.0).copied().unwrap_or(1) as i64).max(1),
        false => 0,
    };
    if !force {
        refuse_removal(changes, &row, held)?;
        refuse_what_hurts(changes, &row, rules, "removed")?;
    }
    if held > 0 {
        if row.admin_state == AdminState::InService {
            set_admin_state(changes, id, AdminState::Draining)?;
        }
        return Ok(Removal::CopiesLeft);
    }
    diesel::delete(outbox::table.filter(outbox::server.eq(id.0))).execute(changes.connection)?;
    diesel::delete(server_health::table.find(id.0)).execute(changes.connection)?;
    diesel::delete(servers::table.find(id.0)).execute(changes.connection)?;
    changes.record::<ServerRow>("servers", id.0, None)?;
    removed::note(changes, &row)?;
    let detail = format!("{} is removed: should it start again, it is refused", row.name);
    tell(changes, EventKind::ServerRemoved, &row, detail)?;
    Ok(Removal::Done)
}

fn refuse_removal(changes: &mut Changes<'_>, row: &ServerRow, held: i64) -> Step<()> {
    let name = &row.name;
    if held > 0 {
        let Alone { count, looked, example } = alone(changes.connection, row.id)?;
        let of = if looked < held { format!("the first {looked}") } else { format!("these {held}") };
        let lost = match example {
            None => format!("All of {of} have another copy elsewhere"),
            Some(path) => {
                format!("{count} of {of} are the only copy that is known (for instance of {path}): those would be lost")
            }
        };
        let is = if row.admin_state == AdminState::InService {
            "drain it first (also one that is dead)"
        } else {
            "it is draining"
        };
        return refuse(format!("{name} still has {held} copies; {is}, and wait until it has none. {lost}"));
    }
    let health: Option<Health> =
        server_health::table.find(row.id).select(server_health::health).first(changes.connection).optional()?;
    if health == Some(Health::Live) {
        return refuse(format!("{name} is still running; stop its daemon first"));
    }
    Ok(())
}

/// Copies without another one.
struct Alone {
    count: usize,
    looked: i64,
    example: Option<String>,
}

/// Looks for copies on a server that are the only ones.
fn alone(connection: &mut AnyConnection, server: i64) -> Step<Alone> {
    let (mut found, mut after) = (Alone { count: 0, looked: 0, example: None }, i64::MIN);
    while found.looked < LOOKED_ROWS_MAX {
        let ids: Vec<i64> = replicas::table
            .filter(replicas::server.eq(server).and(replicas::object.gt(after)))
            .order(replicas::object)
            .limit(PAGE_ROWS)
            .select(replicas::object)
            .load(connection)?;
        let Some(last) = ids.last() else { break };
        after = *last;
        let others: Vec<i64> = replicas::table
            .filter(replicas::object.eq_any(&ids).and(replicas::server.ne(server)))
            .filter(replicas::state.eq(ReplicaRow::PRESENT))
            .select(replicas::object)
            .load(connection)?;
        let others: HashSet<i64> = others.into_iter().collect();
        let alone: Vec<i64> = ids.iter().copied().filter(|id| !others.contains(id)).collect();
        if found.example.is_none()
            && let Some(first) = alone.first()
        {
            let path = events::paths(connection, &[*first])?.remove(first);
            found.example = Some(path.unwrap_or_else(|| ObjectId(*first).to_string()));
        }
        found.count += alone.len();
        found.looked += ids.len() as i64;
    }
    Ok(found)
}

/// Gives up some of the copies on a server that a person removes with them. Answers how many there were.
pub fn give_up_copies(connection: &mut AnyConnection, id: ServerId, by: Option<&str>) -> Step<usize> {
    super::cluster::require_normal(connection)?;
    let ids: Vec<i64> = replicas::table
        .filter(replicas::server.eq(id.0))
        .order(replicas::object)
        .limit(GIVEN_UP_ROWS)
        .select(replicas::object)
        .load(connection)?;
    dialect::lock_objects(connection, &ids)?;
    let now = dialect::clock(connection)?;
    let mut happened = Vec::with_capacity(ids.len());
    for object in &ids {
        diesel::delete(replicas::table.find((*object, id.0))).execute(connection)?;
        let cause = CauseWord::ServerRemoved;
        let detail = format!("this copy is given up: {}", cause.meaning());
        let event = events::of_copy(now, EventKind::ReplicaTrimmed, (*object, id.0), cause.of(id), detail);
        happened.push(EventRow { by_token: by.map(String::from), ..event });
    }
    queue::look_again(connection, &ids, now)?;
    events::tell(connection, happened)?;
    Ok(ids.len())
}

/// What a draining server still waits for.
#[derive(Debug, Clone, Default)]
pub struct DrainWait {
    /// Copies on it that must be made elsewhere first.
    pub copies: i64,
    /// Deletions that it still has to carry out.
    pub deletions: i64,
    /// Until when readers may use the last of these copies.
    pub readable_until: Option<chrono::NaiveDateTime>,
    /// The journal's copies must know of this change before its bytes are deleted, and do not yet.
    pub not_copied: Option<Version>,
    /// Why copies cannot be made elsewhere, with how many of those looked at wait for it; the most frequent reason.
    pub hindered: Option<(String, usize)>,
}

/// Looks at what a draining server waits for.
pub fn drain_wait(connection: &mut AnyConnection, id: i64) -> QueryResult<DrainWait> {
    let copies = counts::listed(connection)?.get(&id).copied().unwrap_or(0) as i64;
    let deletions = counts::read(connection)?.outbox.get(&id).copied().unwrap_or(0) as i64;
    let mut wait = DrainWait { copies, deletions, ..DrainWait::default() };
    if deletions > 0 {
        let (until, newest): (Option<chrono::NaiveDateTime>, Option<i64>) = outbox::table
            .filter(outbox::server.eq(id))
            .select((diesel::dsl::max(outbox::not_before), diesel::dsl::max(outbox::version)))
            .first(connection)?;
        let copied: i64 =
            super::schema::cluster::table.select(super::schema::cluster::journal_copied).first(connection)?;
        let now = dialect::clock(connection)?;
        wait.readable_until = until.filter(|until| *until > now);
        wait.not_copied = newest.filter(|newest| *newest > copied);
    }
    let told: Vec<(i64, String)> = {
        let ids: Vec<i64> = replicas::table
            .filter(replicas::server.eq(id))
            .order(replicas::object)
            .limit(WAITING_ROWS_MAX)
            .select(replicas::object)
            .load(connection)?;
        repair_queue::table
            .filter(repair_queue::object.eq_any(ids).and(repair_queue::attempts.gt(0)))
            .filter(repair_queue::last_error.is_not_null())
            .select((repair_queue::object, repair_queue::last_error.assume_not_null()))
            .load(connection)?
    };
    let mut reasons: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    told.into_iter().for_each(|(_, why)| *reasons.entry(why).or_default() += 1);
    wait.hindered = reasons.into_iter().max_by_key(|(_, count)| *count);
    Ok(wait)
}
