//! The kept numbers are those of the rows, whatever is done to them, and the audit finds and mends what differs.

use std::collections::{BTreeMap, HashMap};

use chrono::TimeDelta;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use holdfast::db::change::ReleaseTimes;
use holdfast::db::commit::Upload;
use holdfast::db::counts::{self, Audited, audit_page};
use holdfast::db::repair::{self, Ended, Room, Rules};
use holdfast::db::restore::{INVENTORY, Known, Plan, rebuild};
use holdfast::db::rows::*;
use holdfast::db::scan::{self, Cursor, Range};
use holdfast::db::{
    AnyConnection, Db, leaving, namespace, outbox, reap, replication, report, restores, schema, server, sync,
};
use holdfast::decisions::leaving as may_leave;
use holdfast::journal::Staging;
use holdfast::types::api::{CopiesCount, RestoreStatus};
use holdfast::types::storage_api::{InventoryLine, ReplicaKey};
use holdfast::types::{Error, ErrorCode, Generation, ObjectId, ServerId, Sha256};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::both_backends;
use crate::fixture::*;

type Tally = BTreeMap<(String, String, i32), (i64, i64)>;

/// What there is to count, from all rows, in the plainest way.
fn counted(connection: &mut AnyConnection) -> QueryResult<Tally> {
    use schema::{objects, outbox, repair_queue, replicas};
    let all: Vec<ObjectRow> = objects::table.select(ObjectRow::as_select()).load(connection)?;
    let copies: Vec<ReplicaRow> = replicas::table.select(ReplicaRow::as_select()).load(connection)?;
    let mut tally = Tally::new();
    let mut add = |key: (&str, String, i32), bytes: i64| {
        let row = tally.entry((key.0.into(), key.1, key.2)).or_default();
        *row = (row.0 + 1, row.1 + bytes);
    };
    let mut on: HashMap<i64, Vec<i64>> = HashMap::new();
    for copy in copies.iter().filter(|copy| copy.state == "present") {
        on.entry(copy.object).or_default().push(copy.server);
    }
    for object in all.iter().filter(|object| object.state == "live") {
        let mut servers = on.remove(&object.id).unwrap_or_default();
        servers.sort_unstable();
        let servers: Vec<String> = servers.into_iter().map(|id| ServerId(id).to_string()).collect();
        add(("live", servers.join(" "), object.copies_wanted), object.size);
    }
    let sizes: HashMap<i64, i64> = all.iter().map(|object| (object.id, object.size)).collect();
    let queue: Vec<i64> = repair_queue::table.select(repair_queue::object).load(connection)?;
    for object in queue {
        add(("repair", String::new(), 0), sizes[&object]);
    }
    let deletions: Vec<i64> = outbox::table.select(outbox::server).load(connection)?;
    for server in deletions {
        add(("outbox", ServerId(server).to_string(), 0), 0);
    }
    Ok(tally)
}

#[derive(QueryableByName, Debug, PartialEq)]
struct Short {
    #[diesel(sql_type = BigInt)]
    copies: i64,
    #[diesel(sql_type = BigInt)]
    objects: i64,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

#[derive(QueryableByName)]
struct Alone {
    #[diesel(sql_type = BigInt)]
    server: i64,
    #[diesel(sql_type = BigInt)]
    objects: i64,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

/// What is short of copies, by the rows.
const SHORT: &str = "
    SELECT copies, count(*) AS objects, CAST(sum(size) AS BIGINT) AS bytes FROM (
        SELECT o.id, o.copies_wanted, o.size,
               count(CASE WHEN r.state = 'present' AND coalesce(h.health, 'down') <> 'down' THEN 1 END) AS copies
        FROM objects o
        LEFT JOIN replicas r ON r.object = o.id
        LEFT JOIN server_health h ON h.server = r.server
        WHERE o.state = 'live'
        GROUP BY o.id, o.copies_wanted, o.size) AS counted
    WHERE copies < copies_wanted
    GROUP BY copies ORDER BY copies";

/// What a single server that is not down has, by the rows.
const ALONE: &str = "
    SELECT alone.server, count(*) AS objects, CAST(coalesce(sum(alone.size), 0) AS BIGINT) AS bytes FROM (
        SELECT o.id, o.size, min(r.server) AS server
        FROM objects o
        JOIN replicas r ON r.object = o.id AND r.state = 'present'
        JOIN server_health h ON h.server = r.server AND h.health <> 'down'
        WHERE o.state = 'live'
        GROUP BY o.id, o.size
        HAVING count(*) = 1) AS alone
    GROUP BY alone.server";

/// Fails unless every kept number, and each that is worked out from them, is that of the rows.
async fn compare(db: &TestDb, what: &str) {
    db.sql(|connection| {
        assert_eq!(counts::told(connection)?, counted(connection)?);
        assert_eq!(counts::truth(connection, i64::MIN, i64::MAX)?, counted(connection)?, "the audit's own count");
        let said = report::counts(connection).unwrap();
        let short: Vec<Short> = diesel::sql_query(SHORT).load(connection)?;
        let row = |row: &CopiesCount| Short {
            copies: row.copies.into(),
            objects: row.objects as i64,
            bytes: row.bytes as i64,
        };
        assert_eq!(said.under_replicated.iter().map(row).collect::<Vec<_>>(), short);
        let alone: Vec<Alone> = diesel::sql_query(ALONE).load(connection)?;
        let alone: HashMap<i64, (u64, u64)> =
            alone.into_iter().map(|row| (row.server, (row.objects as u64, row.bytes as u64))).collect();
        let losses = said.lost_if_died.iter().map(|loss| (loss.server.0, (loss.objects, loss.bytes)));
        assert_eq!(losses.collect::<HashMap<_, _>>(), alone);
        let queue: i64 = schema::repair_queue::table.count().get_result(connection)?;
        let waiting: i64 = schema::outbox::table.count().get_result(connection)?;
        let copying = schema::replicas::table.filter(schema::replicas::state.eq("copying"));
        let copying: i64 = copying.count().get_result(connection)?;
        let numbers = (said.repair.queued, said.outbox, said.repair.in_flight);
        assert_eq!(numbers, (queue as u64, waiting as u64, copying as u64));
        let by_server: Vec<(i64, i64)> = schema::replicas::table
            .group_by(schema::replicas::server)
            .select((schema::replicas::server, diesel::dsl::count_star()))
            .load(connection)?;
        let by_server: HashMap<i64, u64> = by_server.into_iter().map(|(id, copies)| (id, copies as u64)).collect();
        let listed = counts::listed(connection)?;
        assert_eq!(listed.into_iter().filter(|(_, copies)| *copies > 0).collect::<HashMap<_, _>>(), by_server);
        Ok(())
    })
    .await;
    // Which step it was is on the screen when one of these fails.
    println!("{what}: as the rows");
}

const RULES: Rules = Rules { allow_same_host: false, repair_delay: TimeDelta::zero(), read_ttl: TimeDelta::zero() };
const LEAVING: may_leave::Rules = may_leave::Rules { min_write_copies: Some(1), allow_same_host: false };
/// What is released may be forgotten at once.
const AT_ONCE: ReleaseTimes = ReleaseTimes { read_ticket: TimeDelta::zero(), write_ticket: TimeDelta::zero() };

/// What a random walk has to do with.
struct Walk {
    random: StdRng,
    servers: Vec<ServerId>,
    /// Transfers that were begun.
    under_way: Vec<repair::Transfer>,
}

impl Walk {
    fn path(&mut self) -> String {
        format!("/d{}/f{}", self.random.random_range(0..3), self.random.random_range(0..6))
    }

    fn server(&mut self) -> ServerId {
        *self.servers.choose(&mut self.random).unwrap()
    }

    async fn some_copies(&mut self, db: &TestDb, count: usize) -> Vec<(ServerId, ReplicaKey)> {
        let rows: Vec<(i64, i64, i64)> = db
            .sql(|connection| {
                use schema::replicas::dsl;
                dsl::replicas.select((dsl::server, dsl::object, dsl::generation)).load(connection)
            })
            .await;
        let key = |row: &(i64, i64, i64)| {
            (ServerId(row.0), ReplicaKey { object: ObjectId(row.1), generation: Generation(row.2) })
        };
        rows.choose_multiple(&mut self.random, count).map(key).collect()
    }

    /// Does one thing; what is refused is refused. Answers what it was.
    async fn step(&mut self, db: &TestDb) -> String {
        let number = self.random.random_range(0..100);
        let (one, other) = (self.path(), self.path());
        match number {
            0..24 => self.write(db, &one).await,
            24..30 => format!("cp {one} {other}: {:?}", db.cp(&one, &other).await.is_ok()),
            30..36 => format!("mv {one} {other}: {:?}", db.mv(&one, &other).await.is_ok()),
            36..44 => {
                let path = p(&one);
                let removed = db.change(move |c| namespace::remove(c, &path, false, None, &AT_ONCE)).await;
                format!("rm {one}: {:?}", removed.is_ok())
            }
            44..47 => {
                let directory = format!("/d{}", self.random.random_range(0..3));
                let removed = db.rm(&directory, true).await.is_ok();
                db.mkdirs(&directory).await;
                format!("rm -r {directory}: {removed}")
            }
            47..52 => {
                let emptied = db.change(|changes| reap::empty_detached(changes, &AT_ONCE)).await.unwrap();
                let forgotten = db.change(reap::forget_objects).await.unwrap();
                format!("{emptied} entries emptied, {forgotten} objects forgotten")
            }
            52..57 => self.set_copies(db).await,
            57..72 => self.repair(db).await,
            72..77 => self.lose(db).await,
            77..82 => {
                let (server, health) = (self.server(), *["live", "suspect", "down"].choose(&mut self.random).unwrap());
                set_health(db, server, health).await;
                format!("{server} is {health}")
            }
            82..86 => {
                let id = self.server();
                let drained = self.random.random_bool(0.5);
                let done = db
                    .change(move |changes| match drained {
                        true => leaving::drain(changes, id, LEAVING, true),
                        false => leaving::undrain(changes, id),
                    })
                    .await;
                let done = done.is_ok() && db.change(move |changes| server::drained(changes, id.0)).await.is_ok();
                format!("drain {drained} of {id}: {done}")
            }
            86..90 => {
                let id = self.server();
                let given_up = db.db.write(move |c| leaving::give_up_copies(c, id, None)).await.unwrap();
                let removed = db.change(move |changes| leaving::remove(changes, id, LEAVING, true)).await;
                db.sql(|connection| diesel::delete(schema::removed_servers::table).execute(connection)).await;
                let back = db.servers(self.servers.len() as u128).await.len();
                format!("{given_up} copies of {id} given up, removed: {removed:?}, back: {back}")
            }
            90..94 => {
                let rows = db.outbox().await;
                let rows: Vec<OutboxRow> = rows.into_iter().filter(|_| self.random.random_bool(0.6)).collect();
                let count = rows.len();
                db.db.write(move |connection| outbox::complete(connection, &rows)).await.unwrap();
                format!("{count} deletions carried out")
            }
            94..98 => {
                let rows = self.random.random_range(1..5);
                let audited = db.db.write(move |connection| audit_page(connection, rows)).await.unwrap();
                assert!(!matches!(audited, Audited::Done { differences: 1.. }), "{audited:?}");
                let folded = db.db.write(counts::fold).await.unwrap();
                format!("{audited:?}, {folded} parts")
            }
            _ => self.restore(db).await,
        }
    }

    async fn write(&mut self, db: &TestDb, path: &str) -> String {
        let holders = self.random.random_range(1..=3);
        let holders: Vec<ServerId> = self.servers.choose_multiple(&mut self.random, holders).copied().collect();
        let content = "x".repeat(self.random.random_range(0..50));
        let epoch = db.db.read(holdfast::db::cluster::state).await.unwrap().epoch;
        let mut one = upload(path, &content);
        one.ticket.min_write_copies = 1;
        let one = Upload { holders: holders.clone(), epoch, ..one };
        let again = one.clone();
        let committed = db.commit_one(one).await.is_ok();
        // A late report of the same upload adds a holder.
        let more = Upload { holders: self.servers[..2].to_vec(), ..again };
        let again = self.random.random_bool(0.2) && db.commit_one(more).await.is_ok();
        format!("write {path} on {holders:?}: {committed}, again: {again}")
    }

    async fn set_copies(&mut self, db: &TestDb) -> String {
        let (path, copies) = (format!("/d{}", self.random.random_range(0..3)), self.random.random_range(1..5));
        let of = p(&path);
        let begun = db.change(move |changes| replication::begin(changes, &of, copies)).await;
        if let Ok(mut adjustment) = begun {
            while let (next, true) = db.change(move |changes| replication::step(changes, adjustment)).await.unwrap() {
                adjustment = next;
            }
        }
        format!("setrep {path} {copies}")
    }

    async fn repair(&mut self, db: &TestDb) -> String {
        let scanned = db.db.read(|connection| scan::scan(connection, Range::All, Cursor::START, &RULES)).await.unwrap();
        db.db.write(move |connection| repair::enqueue(connection, &scanned.needy)).await.unwrap();
        let random = &mut self.random;
        let ended: Vec<Ended> = self
            .under_way
            .drain(..)
            .map(|transfer| {
                let outcome = match random.random_bool(0.7) {
                    true => Ok(()),
                    false => Err(Error::new(ErrorCode::Unavailable, "it failed")),
                };
                Ended { transfer, outcome }
            })
            .collect();
        let room = Room { transfers: 6, per_server: 6, bytes: 1 << 30, ..Room::default() };
        let done = db
            .db
            .write(move |connection| repair::work_through(connection, &RULES, &ended, &[], room, false))
            .await
            .unwrap();
        let told = format!(
            "repair: {} begun, {} copied, {} failed, {} trimmed",
            done.transfers.len(),
            done.copied,
            done.failed,
            done.trimmed
        );
        self.under_way = done.transfers;
        told
    }

    async fn lose(&mut self, db: &TestDb) -> String {
        let lost = self.some_copies(db, 3).await;
        for (server, key) in &lost {
            let (server, key) = (server.0, *key);
            db.db
                .write(move |connection| sync::apply(connection, server, &[], &[key], TimeDelta::zero()))
                .await
                .unwrap();
        }
        format!("{} copies lost", lost.len())
    }

    /// All rows are written anew, from the database's own and from what servers would say that they have. Before it is done it
    /// ends early: counting is switched off meanwhile, and must be on again whenever it ends.
    async fn restore(&mut self, db: &TestDb) -> String {
        self.under_way.clear();
        for end in [End::AtTheFirstRow, End::BeforeTheCommit] {
            assert!(write_anew(db, end).await.is_err());
            compare(db, &format!("a restore that ended early, {end:?}")).await;
        }
        write_anew(db, End::Never).await.unwrap();
        db.servers(self.servers.len() as u128).await;
        for server in self.servers.clone() {
            set_health(db, server, "live").await;
        }
        "restore".into()
    }
}

/// When a restore ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Never,
    AtTheFirstRow,
    BeforeTheCommit,
}

/// The one transaction of a restore.
async fn write_anew(db: &TestDb, end: End) -> holdfast::types::Result<()> {
    let state = db.db.read(holdfast::db::cluster::state).await.unwrap();
    let id = ObjectId::generate().0;
    let epoch = db.db.write(move |c| restores::begin(c, id, state.cluster, state.epoch)).await.unwrap();
    db.db
        .write(move |connection| {
            let mut staging = Staging::create(None)?;
            restores::stage_own(connection, &mut staging)?;
            let rows: Vec<(ReplicaRow, ObjectRow)> = schema::replicas::table
                .inner_join(schema::objects::table.on(schema::objects::id.eq(schema::replicas::object)))
                .filter(schema::replicas::state.eq("present"))
                .select((ReplicaRow::as_select(), ObjectRow::as_select()))
                .load(connection)?;
            for (copy, object) in rows {
                let replica = ReplicaKey { object: ObjectId(object.id), generation: Generation(copy.generation) };
                let now = chrono::Utc::now();
                let line = InventoryLine {
                    replica,
                    size: object.size as u64,
                    sha256: Sha256::from_slice(&object.sha256)?,
                    label: object.label,
                    epoch: 1,
                    version: Some(object.version),
                    ticket_expires: now,
                    verified: now,
                    gone: false,
                };
                let key = format!("{}/{replica}", ServerId(copy.server));
                staging.apply(INVENTORY, &key, Some(&serde_json::to_string(&line).unwrap()))?;
            }
            let plan = Plan {
                cluster: state.cluster,
                epoch,
                head: state.version,
                told: state.version,
                known: Known { version: state.version, by: String::new(), rows: Vec::new() },
                servers: schema::servers::table.select(ServerRow::as_select()).load(connection)?,
                superuser: schema::tokens::table.select(TokenRow::as_select()).first(connection)?,
                by_first_token: false,
                copies: 2,
                progress: Default::default(),
            };
            if end == End::AtTheFirstRow {
                plan.progress.stop();
            }
            rebuild(connection, &mut staging, &plan, RestoreStatus::default())?;
            if end == End::BeforeTheCommit {
                return Err(Error::unavailable("it ended before its commit").into());
            }
            Ok(())
        })
        .await
}

async fn set_health(db: &TestDb, server: ServerId, health: &'static str) {
    db.sql(move |connection| {
        use schema::server_health::dsl;
        let boot: Option<String> =
            dsl::server_health.find(server.0).select(dsl::boot_id).first(connection).optional()?;
        diesel::update(dsl::server_health.find(server.0))
            .set((dsl::health.eq(health), dsl::synced_boot.eq(boot.unwrap_or_default())))
            .execute(connection)
    })
    .await;
}

/// Audits until it is through; answers how many numbers differed.
async fn audit(db: &Db, rows: i64) -> usize {
    loop {
        match db.write(move |connection| audit_page(connection, rows)).await.unwrap() {
            Audited::Done { differences } => return differences,
            Audited::Page => {}
            Audited::Busy => tokio::task::yield_now().await,
        }
    }
}

async fn walk(db: &TestDb, seed: u64, steps: usize) {
    let mut walk = Walk { random: StdRng::seed_from_u64(seed), servers: db.servers(4).await, under_way: Vec::new() };
    for server in walk.servers.clone() {
        set_health(db, server, "live").await;
    }
    for directory in ["/d0", "/d1", "/d2"] {
        db.mkdirs(directory).await;
    }
    for step in 0..steps {
        let done = walk.step(db).await;
        println!("seed {seed}, step {step}: {done}");
        compare(db, &done).await;
    }
    assert_eq!(audit(&db.db, 3).await, 0, "seed {seed}");
}

both_backends! {
    async fn they_are_those_of_the_rows_after_each_of_many_random_steps(db: TestDb) {
        // A new walk in each run; its seed is on the screen when it fails.
        walk(&db, rand::random(), 250).await;
    }

    async fn a_falsified_number_is_found_put_right_and_told(db: TestDb) {
        db.servers(3).await;
        for number in 0..25 {
            db.write(&format!("/f{number}"), "12345").await;
        }
        db.rm("/f0", false).await.unwrap();
        for falsify in [
            "UPDATE counts SET objects = objects + 7, bytes = bytes - 3 WHERE what = 'live' AND servers <> ''",
            "UPDATE counts SET objects = 0 WHERE what = 'outbox'",
            "INSERT INTO counts VALUES ('kept', 'live', '00000000000000ff', 9, 3, 5, 5)",
            "INSERT INTO counts VALUES ('kept', 'repair', '', 0, 7, -2, 5)",
            "DELETE FROM counts",
        ] {
            assert_eq!(audit(&db.db, 4).await, 0);
            db.sql(move |connection| diesel::sql_query(falsify).execute(connection)).await;
            let told = db.sql(counts::told).await;
            assert_ne!(told, db.sql(counted).await, "{falsify}");
            // What changes meanwhile is counted on both sides, before the page and behind it.
            assert_eq!(db.db.write(|c| audit_page(c, 4)).await.unwrap(), Audited::Page);
            db.rm(&format!("/f{}", db.tree().await[0].trim_start_matches('f')), false).await.unwrap();
            db.write("/new", "6").await;
            assert!(audit(&db.db, 4).await > 0, "{falsify}");
            compare(&db, falsify).await;
        }
        let told: Vec<String> = db
            .sql(|connection| {
                use schema::events::dsl;
                dsl::events.filter(dsl::kind.eq("counts_mended")).order(dsl::id).select(dsl::detail).load(connection)
            })
            .await;
        assert_eq!(told.len(), 5);
        assert!(told[4].contains("live objects of -5 bytes, which are 20 of 96"), "{told:?}");
        let lately = db.db.read(holdfast::db::lately::lately).await.unwrap();
        assert!(lately.mended.is_some(), "the report tells of it");
    }

    async fn what_is_done_by_many_at_once_is_counted_while_it_is_audited(db: TestDb) {
        db.servers(3).await;
        for directory in ["/a", "/b", "/c"] {
            db.mkdirs(directory).await;
        }
        let work = |store: Db, directory: &'static str| async move {
            for number in 0..40 {
                let path = format!("{directory}/f{}", number % 7);
                commit_all(&store, vec![upload(&path, "1"), upload(&format!("{directory}/g{number}"), "22")]).await;
                if number % 3 == 0 {
                    rm(&store, &path, false).await.unwrap();
                }
                let scanned = store.read(|c| scan::scan(c, Range::All, Cursor::START, &RULES)).await.unwrap();
                store.write(move |c| repair::enqueue(c, &scanned.needy)).await.unwrap();
                let room = Room { transfers: 9, per_server: 9, bytes: 1 << 30, ..Room::default() };
                // Two at once may wait for each other's objects; one of them is told to come again.
                drop(store.write(move |c| repair::work_through(c, &RULES, &[], &[], room, false)).await);
            }
        };
        let audits = async {
            let mut through = 0;
            for _ in 0..60 {
                let page = db.other.write(|connection| audit_page(connection, 9)).await;
                if let Ok(Audited::Done { differences }) = page {
                    assert_eq!(differences, 0);
                    through += 1;
                }
                drop(db.other.write(counts::fold).await);
                tokio::task::yield_now().await;
            }
            through
        };
        let (_, _, _, through) =
            tokio::join!(work(db.db.clone(), "/a"), work(db.other.clone(), "/b"), work(db.db.clone(), "/c"), audits);
        println!("{through} audits were through meanwhile");
        compare(&db, "many at once").await;
        assert_eq!(audit(&db.db, 50).await, 0);
        db.db.write(counts::fold).await.unwrap();
        compare(&db, "folded").await;
        let parts: i64 = db
            .sql(|connection| {
                use schema::counts::dsl;
                dsl::counts.filter(dsl::part.ne(0).or(dsl::objects.eq(0))).count().get_result(connection)
            })
            .await;
        assert_eq!(parts, 0, "summed up");
    }

    async fn rows_that_are_written_in_bulk_are_counted_in_one_statement(db: TestDb) {
        db.servers(3).await;
        for number in 0..9 {
            db.write(&format!("/f{number}"), "12345").await;
        }
        db.rm("/f0", false).await.unwrap();
        db.sql(|connection| diesel::sql_query("DELETE FROM counts").execute(connection)).await;
        db.db.write(counts::recount).await.unwrap();
        compare(&db, "recounted").await;
        db.write("/g", "1").await;
        compare(&db, "and kept").await;
    }
}
