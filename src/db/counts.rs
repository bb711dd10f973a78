//! Numbers that are kept, not counted: how many live objects are on which sets of servers, what waits for repair and what
//! waits to be deleted.
//!
//! Triggers keep them in the transaction that changes the rows (`migrations/*/2026-11-25-080000_counts`), whoever changes
//! them. On Postgres each connection counts in rows of its own (`part`), so that no transaction waits for another one's
//! numbers; [`fold`] sums them up now and then. Who asks adds the parts: a few rows, whatever the number of objects.
//!
//! The *audit* counts everything anew, a page of objects at a time, and puts right what differs. It has a tally of its
//! own, to which the triggers add as well what changes of objects that it has passed. So both tallies are of the same
//! rows when it is through, however much was changed meanwhile and however often it was interrupted.
//!
//! A restore, which writes all rows anew in one transaction, switches the triggers off and counts at its end ([`stop`]).

use std::collections::{BTreeMap, HashMap};

use diesel::connection::SimpleConnection;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Text};

use super::connection::AnyConnection;
use super::error::Step;
use super::rows::EventRow;
use super::schema::{counts, objects, outbox, repair_queue, replicas, servers, tallies};
use super::{dialect, events};
use crate::decisions::counts::Held;
use crate::types::{EventKind, ServerId};

/// Objects that the audit counts in one transaction, at most; as many deletions of a server, and of what waits for repair.
pub const AUDIT_ROWS: i64 = 2_000;
/// The tally that is told.
const KEPT: &str = "kept";
/// That of the audit.
const AUDIT: &str = "audit";
/// What each row is about.
const LIVE: &str = "live";
const REPAIR: &str = "repair";
const OUTBOX: &str = "outbox";
/// Between two digits of a set of servers.
const BETWEEN: char = ' ';

/// The numbers as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Live objects, by the servers that have copies and by the copies wanted.
    pub live: Vec<Held>,
    /// Objects in the repair queue.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Deletions that wait, by server.
    pub outbox: HashMap<i64, u64>,
}

/// How many copies the metadata lists on each server, those on their way included.
pub fn listed(connection: &mut AnyConnection) -> QueryResult<HashMap<i64, u64>> {
    let mut listed: HashMap<i64, u64> = HashMap::new();
    for held in read(connection)?.live {
        for server in held.servers {
            *listed.entry(server.0).or_default() += held.objects;
        }
    }
    // Grouped here: for that, SQLite would go through the index of all copies by server.
    let coming: Vec<i64> = replicas::table.filter(is_copying()).select(replicas::server).load(connection)?;
    for server in coming {
        *listed.entry(server).or_default() += 1;
    }
    Ok(listed)
}

/// Copies on their way. The word stands in the statement, so that the index of these few is used.
pub fn is_copying() -> SqlLiteral<Bool> {
    diesel::dsl::sql("replicas.state = 'copying'")
}

/// Whether the metadata lists any copy on a server: for those who decide by it, from the rows themselves.
pub fn has_copies(connection: &mut AnyConnection, server: i64) -> QueryResult<bool> {
    let of_server = replicas::table.filter(replicas::server.eq(server)).select(replicas::object);
    Ok(of_server.first::<i64>(connection).optional()?.is_some())
}

/// Whether a server still has deletions to carry out: from the rows themselves.
pub fn has_deletions(connection: &mut AnyConnection, server: i64) -> QueryResult<bool> {
    let of_server = outbox::table.filter(outbox::server.eq(server)).select(outbox::object);
    Ok(of_server.first::<i64>(connection).optional()?.is_some())
}

/// What a row of a tally is about: what, the servers, the copies wanted.
type Key = (String, String, i32);
/// How many, and how many bytes.
type Numbers = (i64, i64);

#[derive(QueryableByName)]
struct Sum {
    #[diesel(sql_type = Text)]
    what: String,
    #[diesel(sql_type = Text)]
    servers: String,
    #[diesel(sql_type = Integer)]
    copies_wanted: i32,
    #[diesel(sql_type = BigInt)]
    objects: i64,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

/// The tally's rows without the parts; those that come to nothing are left out.
fn sums(connection: &mut AnyConnection, tally: &str) -> QueryResult<BTreeMap<Key, Numbers>> {
    // Both backends read the name, which is one of ours, as it stands here.
    let sql = format!(
        "SELECT what, servers, copies_wanted, CAST(sum(objects) AS BIGINT) AS objects, CAST(sum(bytes) AS BIGINT) AS bytes
         FROM counts WHERE tally = '{tally}' GROUP BY what, servers, copies_wanted"
    );
    let rows: Vec<Sum> = diesel::sql_query(sql).load(connection)?;
    let row = |row: Sum| ((row.what, row.servers, row.copies_wanted), (row.objects, row.bytes));
    Ok(rows.into_iter().map(row).filter(|(_, numbers)| *numbers != (0, 0)).collect())
}

/// Reads the numbers.
pub fn read(connection: &mut AnyConnection) -> QueryResult<Kept> {
    let mut kept = Kept::default();
    for ((what, servers, copies_wanted), (objects, bytes)) in sums(connection, KEPT)? {
        // Less than none is an error that the audit finds.
        let (objects, bytes) = (objects.max(0) as u64, bytes.max(0) as u64);
        let servers: Vec<ServerId> = servers.split(BETWEEN).filter_map(|id| id.parse().ok()).collect();
        match what.as_str() {
            LIVE => kept.live.push(Held { servers, copies_wanted: copies_wanted.max(0) as u32, objects, bytes }),
            REPAIR => (kept.queued, kept.queued_bytes) = (objects, bytes),
            _ => kept.outbox.extend(servers.first().map(|server| (server.0, objects))),
        }
    }
    Ok(kept)
}

/// Sums up the parts and removes what comes to nothing. Nothing, when somebody counts at this moment: there is another time.
pub fn fold(connection: &mut AnyConnection) -> Step<usize> {
    let parts: i64 = counts::table.filter(counts::part.ne(0)).count().get_result(connection)?;
    let empty = counts::table.filter(counts::objects.eq(0).and(counts::bytes.eq(0)));
    let nothing: i64 = empty.count().get_result(connection)?;
    if parts + nothing == 0 || !dialect::count_alone(connection)? {
        return Ok(0);
    }
    dialect::sum_up_counts(connection)?;
    diesel::delete(empty).execute(connection)?;
    Ok((parts + nothing) as usize)
}

fn add(connection: &mut AnyConnection, tally: &str, key: &Key, (objects, bytes): Numbers) -> QueryResult<()> {
    let (what, servers, copies_wanted) = key;
    let row = counts::table.find((tally, what, servers, copies_wanted, 0));
    let sum = (counts::objects.eq(counts::objects + objects), counts::bytes.eq(counts::bytes + bytes));
    if diesel::update(row).set(sum).execute(connection)? == 0 {
        diesel::insert_into(counts::table)
            .values((
                counts::tally.eq(tally),
                counts::what.eq(what),
                counts::servers.eq(servers),
                counts::copies_wanted.eq(copies_wanted),
                counts::part.eq(0),
                counts::objects.eq(objects),
                counts::bytes.eq(bytes),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// What the audit did in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audited {
    /// Others count at this moment; nothing was done.
    Busy,
    /// A page was counted; there are more.
    Page,
    /// It is through; so many numbers differed, and have been put right.
    Done {
        /// How many.
        differences: usize,
    },
}

/// Whether an audit has begun and is not through, in whatever process.
pub fn audit_is_under_way(connection: &mut AnyConnection) -> QueryResult<bool> {
    Ok(passed(connection)? != i64::MIN)
}

fn passed(connection: &mut AnyConnection) -> QueryResult<i64> {
    tallies::table.find(AUDIT).select(tallies::up_to).first(connection)
}

/// Counts the next page anew; behind the last one what differs is put right and told. The whole page is one transaction,
/// in which nobody else counts: a change is either seen by the page, or made behind it and counted in both tallies.
pub fn audit_page(connection: &mut AnyConnection, rows: i64) -> Step<Audited> {
    if !dialect::count_alone(connection)? {
        return Ok(Audited::Busy);
    }
    let after = passed(connection)?;
    if after == i64::MIN {
        diesel::delete(counts::table.filter(counts::tally.eq(AUDIT))).execute(connection)?;
    }
    let up_to = end_of_page(connection, after, rows)?;
    for (key, numbers) in truth(connection, after, up_to)? {
        add(connection, AUDIT, &key, numbers)?;
    }
    if up_to < i64::MAX {
        set_passed(connection, up_to)?;
        return Ok(Audited::Page);
    }
    let differences = settle(connection)?;
    diesel::delete(counts::table.filter(counts::tally.eq(AUDIT))).execute(connection)?;
    set_passed(connection, i64::MIN)?;
    Ok(Audited::Done { differences })
}

fn set_passed(connection: &mut AnyConnection, up_to: i64) -> QueryResult<usize> {
    diesel::update(tallies::table.find(AUDIT)).set(tallies::up_to.eq(up_to)).execute(connection)
}

/// Up to which object there are `rows` objects at most behind `after`, and no more rows of anything else.
fn end_of_page(connection: &mut AnyConnection, after: i64, rows: i64) -> QueryResult<i64> {
    let mut ends: Vec<Option<i64>> = Vec::new();
    let of_objects = objects::table.filter(objects::id.gt(after)).order(objects::id).select(objects::id);
    ends.push(of_objects.offset(rows - 1).limit(1).first(connection).optional()?);
    let queue = repair_queue::table.filter(repair_queue::object.gt(after)).order(repair_queue::object);
    ends.push(queue.select(repair_queue::object).offset(rows - 1).limit(1).first(connection).optional()?);
    let servers: Vec<i64> = servers::table.select(servers::id).load(connection)?;
    for server in servers {
        let deletions = outbox::table.filter(outbox::server.eq(server).and(outbox::object.gt(after)));
        let deletions = deletions.order(outbox::object).select(outbox::object);
        ends.push(deletions.offset(rows - 1).limit(1).first(connection).optional()?);
    }
    Ok(ends.into_iter().flatten().min().unwrap_or(i64::MAX))
}

/// What the rows themselves say of objects with ids behind `after`, up to `up_to`.
pub fn truth(connection: &mut AnyConnection, after: i64, up_to: i64) -> QueryResult<BTreeMap<Key, Numbers>> {
    let rows: Vec<Sum> = diesel::sql_query(dialect::counts_truth(connection, after, up_to)).load(connection)?;
    Ok(rows.into_iter().map(|row| ((row.what, row.servers, row.copies_wanted), (row.objects, row.bytes))).collect())
}

/// The numbers that are told, in the same shape as [`truth`].
pub fn told(connection: &mut AnyConnection) -> QueryResult<BTreeMap<Key, Numbers>> {
    sums(connection, KEPT)
}

/// Brings the tally that is told to what the audit has counted. Answers how many numbers differed.
fn settle(connection: &mut AnyConnection) -> Step<usize> {
    let (kept, audited) = (sums(connection, KEPT)?, sums(connection, AUDIT)?);
    let mut differences = 0;
    for key in kept.keys().chain(audited.keys().filter(|key| !kept.contains_key(*key))) {
        let of = |tally: &BTreeMap<Key, Numbers>| tally.get(key).copied().unwrap_or_default();
        let (told, is) = (of(&kept), of(&audited));
        if told != is {
            differences += 1;
            add(connection, KEPT, key, (is.0 - told.0, is.1 - told.1))?;
        }
    }
    if differences > 0 {
        let detail = sentence(differences, &kept, &audited);
        log::error!("{detail}");
        let now = dialect::clock(connection)?;
        let event: EventRow = events::row(now, EventKind::CountsMended, detail);
        dialect::insert_events(connection, &[event])?;
    }
    Ok(differences)
}

fn sentence(differences: usize, kept: &BTreeMap<Key, Numbers>, audited: &BTreeMap<Key, Numbers>) -> String {
    let total = |tally: &BTreeMap<Key, Numbers>, what: &str| {
        let of = tally.iter().filter(|((of, ..), _)| of == what);
        of.fold((0, 0), |sum, (_, numbers)| (sum.0 + numbers.0, sum.1 + numbers.1))
    };
    let words = [(LIVE, "live objects"), (REPAIR, "objects in the repair queue"), (OUTBOX, "deletions that wait")];
    let parts = words.map(|(what, words)| {
        let (told, is) = (total(kept, what), total(audited, what));
        if told == is {
            return format!("{} {words}, rightly", is.0);
        }
        format!("{} {words} of {} bytes, which are {} of {}", told.0, told.1, is.0, is.1)
    });
    format!(
        "{differences} of the kept numbers differed from the rows that they count, and have been put right; told were {}. The \
         files themselves are not concerned",
        parts.join("; ")
    )
}

/// Counting is switched off in this transaction, which writes all rows anew; a row costs several more with it. If the
/// transaction ends in any other way than by [`Stopped::count`] and its commit, nothing has happened: the triggers and the
/// numbers are those of before.
#[must_use = "the triggers are to be switched on again"]
pub struct Stopped {
    /// Statements.
    resume: Vec<String>,
}

/// Switches counting off. Nobody else writes until the transaction ends.
pub fn stop(connection: &mut AnyConnection) -> Step<Stopped> {
    Ok(Stopped { resume: dialect::stop_counting(connection)? })
}

impl Stopped {
    /// Switches counting on again, and counts what was written.
    pub fn count(self, connection: &mut AnyConnection) -> Step<()> {
        for statement in &self.resume {
            connection.batch_execute(statement)?;
        }
        recount(connection)
    }
}

/// Counts everything anew at once, in one statement: for whoever has written all rows anew. Nobody else writes meanwhile.
pub fn recount(connection: &mut AnyConnection) -> Step<()> {
    diesel::delete(counts::table).execute(connection)?;
    set_passed(connection, i64::MIN)?;
    let truth = dialect::counts_truth(connection, i64::MIN, i64::MAX);
    let sql = format!(
        "INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
         SELECT '{KEPT}', t.what, t.servers, t.copies_wanted, 0, t.objects, t.bytes FROM ({truth}) AS t"
    );
    diesel::sql_query(sql).execute(connection)?;
    Ok(())
}
