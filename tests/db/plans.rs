//! No statement that stands on a clock or in a request reads a whole table that grows.
//!
//! The real functions run over a filled database while a recorder notes every statement; then the database explains each
//! one, and the test fails on a plan that goes through a growing table from one end to the other. On Postgres the plans
//! are those for any values (`force_generic_plan`), and sequential scans are taken only where nothing else is possible, so
//! the size of the tables does not matter. What asks about events and changes is explained elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use chrono::{TimeDelta, Utc};
use diesel::connection::{Connection, Instrumentation, InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use diesel::sql_types::Text;
use holdfast::db::change::{Changes, ReleaseTimes};
use holdfast::db::commit::commit;
use holdfast::db::repair::{self, Ended, Room, Rules};
use holdfast::db::scan::{Cursor, Range};
use holdfast::db::*;
use holdfast::decisions::leaving as may_leave;
use holdfast::decisions::rebalance::{Level, Levels};
use holdfast::journal::{ENTRIES, OBJECTS, SERVERS, TOKENS};
use holdfast::types::api::{CorruptReplica, PendingReplica, RegisterRequest, Role};
use holdfast::types::storage_api::ReplicaKey;
use holdfast::types::{EntryId, Error, ErrorCode, Generation, ObjectId, ServerId, Sha256};

use crate::both_backends;
use crate::fixture::*;

/// Tables that have a row for each server, token or the like, or that are kept small.
const SMALL: [&str; 15] = [
    "cluster",
    "servers",
    "server_health",
    "leases",
    "tokens",
    "tallies",
    "counts",
    "building",
    "restores",
    "removed_servers",
    "rebalances",
    "moves",
    "jobs",
    "names",
    "walk",
];

/// Partial indexes of a few rows, whatever the size of their table: reading one whole is no scan.
const FEW: [&str; 3] = ["replicas_copying", "repair_queue_stuck", "entries_replication"];

/// Statements that may go through an index from its beginning, and why that ends soon. Each must be met.
const ALLOWED: [(&str, &str); 1] =
    [("FROM `entries` WHERE (`entries`.`id` != ", "any row but the root's will do: the second one ends it")];

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<BTreeSet<String>>>);

impl Instrumentation for Recorder {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let text = query.to_string();
            let sql = text.split(" -- binds: ").next().unwrap_or_default();
            self.0.lock().unwrap().insert(sql.trim().to_string());
        }
    }
}

/// Runs `work` and answers the statements that it sent.
fn recorded(connection: &mut AnyConnection, work: impl FnOnce(&mut AnyConnection)) -> BTreeSet<String> {
    let recorder = Recorder::default();
    connection.set_instrumentation(recorder.clone());
    work(connection);
    connection.set_instrumentation(|_: InstrumentationEvent<'_>| {});
    let statements = recorder.0.lock().unwrap().clone();
    let kinds = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
    statements.into_iter().filter(|sql| kinds.iter().any(|kind| sql.starts_with(kind))).collect()
}

/// As SQLite's dialect writes it, so that one list is enough.
fn plain(sql: &str) -> String {
    sql.replace('"', "`")
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    detail: String,
}

fn wrong_on_sqlite(connection: &mut AnyConnection, sql: &str) -> Vec<String> {
    let plan: Vec<Line> = diesel::sql_query(format!("EXPLAIN QUERY PLAN {sql}")).load(connection).expect(sql);
    let lines: Vec<String> = plan.into_iter().map(|line| line.detail).collect();
    // Of an empty list diesel makes a condition that is never true, which ends the statement before it begins.
    let is_never = sql.contains("WHERE (1=0)") || sql.contains("WHERE ((1=0) AND");
    // Rows as they come, or in the order of an index, up to a limit.
    let in_full = [" WHERE ", " GROUP BY ", "SELECT DISTINCT", "COUNT("].iter().any(|word| sql.contains(word));
    let ends_soon = !in_full && sql.contains(" LIMIT ") && !lines.iter().any(|line| line.contains("TEMP B-TREE"));
    if is_never || ends_soon {
        return Vec::new();
    }
    lines.into_iter().filter(|line| is_scan_of_what_grows(line, sql)).collect()
}

/// `SCAN name`, `SCAN name USING INDEX index`: the name may be an alias.
fn is_scan_of_what_grows(line: &str, sql: &str) -> bool {
    let mut words = line.split_whitespace();
    let (Some("SCAN"), Some(name)) = (words.next(), words.next()) else { return false };
    let alias_of = |table: &str| {
        [format!("FROM {table} {name}"), format!("JOIN {table} {name}"), format!(", {table} {name}")]
            .iter()
            .any(|text| sql.split_whitespace().collect::<Vec<_>>().join(" ").contains(text))
    };
    let is_small = SMALL.iter().any(|small| *small == name || alias_of(small));
    let is_no_table = name.starts_with('(')
        || line.ends_with("VALUES CLAUSE")
        || ["CONSTANT", "json_each", "held", "e", "w", "n"].contains(&name);
    let by_few = FEW.iter().any(|index| line.ends_with(index));
    !is_small && !is_no_table && !by_few
}

#[derive(QueryableByName)]
struct Explained {
    #[diesel(sql_type = Text)]
    plan: String,
}

fn wrong_on_postgres(connection: &mut AnyConnection, sql: &str) -> Vec<String> {
    let places = (1..10_000).take_while(|number| sql.contains(&format!("${number}"))).count();
    let values = if places == 0 { String::new() } else { format!("({})", vec!["NULL"; places].join(", ")) };
    connection.batch_execute(&format!("PREPARE explained AS {sql}")).expect(sql);
    let explain = format!("SELECT pg_temp.explained('EXPLAIN (FORMAT JSON) EXECUTE explained{values}') AS plan");
    let told: Explained = diesel::sql_query(explain).get_result(connection).expect(sql);
    connection.batch_execute("DEALLOCATE explained").unwrap();
    let plan: serde_json::Value = serde_json::from_str(&told.plan).unwrap();
    let mut found = Vec::new();
    walk(&plan[0]["Plan"], "", false, &mut found);
    found
}

/// Goes down a plan; `above` is the table that the node above reads, `ends_soon` says that it is below a limit that takes
/// rows as they come.
fn walk(node: &serde_json::Value, above: &str, ends_soon: bool, found: &mut Vec<String>) {
    let text = |key: &str| node[key].as_str().unwrap_or_default();
    let (kind, index) = (text("Node Type"), text("Index Name"));
    let table = if kind == "Bitmap Index Scan" { above } else { text("Relation Name") };
    let reads_all = match kind {
        "Seq Scan" => true,
        "Index Scan" | "Index Only Scan" => text("Index Cond").is_empty() && (!ends_soon || !text("Filter").is_empty()),
        "Bitmap Index Scan" => text("Index Cond").is_empty(),
        _ => false,
    };
    if reads_all && !SMALL.contains(&table) && !FEW.contains(&index) {
        found.push(format!("{kind} of {table} {index} {}", text("Filter")));
    }
    let ends_soon = match kind {
        "Limit" => true,
        "Sort" | "Incremental Sort" | "Aggregate" | "Hash" | "WindowAgg" | "Unique" => false,
        _ => ends_soon,
    };
    for below in node["Plans"].as_array().into_iter().flatten() {
        walk(below, table, ends_soon, found);
    }
}

/// What Postgres needs for [`wrong_on_postgres`].
const PREPARE_POSTGRES: &str = "
    SET LOCAL plan_cache_mode = force_generic_plan;
    SET LOCAL enable_seqscan = off;
    CREATE FUNCTION pg_temp.explained(question TEXT) RETURNS TEXT LANGUAGE plpgsql AS $$
    DECLARE plan TEXT;
    BEGIN EXECUTE question INTO plan; RETURN plan; END $$";

/// Explains statements; answers those that read a growing table whole, with the plan's line.
fn explained(connection: &mut AnyConnection, statements: &BTreeSet<String>) -> BTreeMap<String, Vec<String>> {
    if let AnyConnection::Postgres(connection) = connection {
        connection.batch_execute(PREPARE_POSTGRES).unwrap();
    }
    let mut all = BTreeMap::new();
    for sql in statements {
        let found = match connection {
            AnyConnection::Postgres(_) => wrong_on_postgres(connection, sql),
            AnyConnection::Sqlite(_) => wrong_on_sqlite(connection, sql),
        };
        if !found.is_empty() {
            all.insert(plain(sql), found);
        }
    }
    all
}

/// What a step answers when it is not refused; a failed database fails the test.
fn ran<T>(step: Step<T>) -> Option<T> {
    match step {
        Ok(answer) => Some(answer),
        Err(Failure::Refused(_)) => None,
        Err(Failure::Database(error)) => panic!("{}", error.chain()),
    }
}

fn change<T>(connection: &mut AnyConnection, work: impl FnOnce(&mut Changes<'_>) -> Step<T>) -> Option<T> {
    let mut changes = ran(Changes::begin(connection))?;
    let answer = work(&mut changes);
    let answer = ran(answer);
    ran(changes.finish());
    answer
}

const RULES: Rules = Rules { allow_same_host: false, repair_delay: TimeDelta::zero(), read_ttl: TimeDelta::zero() };
const LEAVING: may_leave::Rules = may_leave::Rules { min_write_copies: Some(1), allow_same_host: false };
const AT_ONCE: ReleaseTimes = ReleaseTimes { read_ticket: TimeDelta::zero(), write_ticket: TimeDelta::zero() };

/// What is asked and changed in a request of a client or a person.
fn requests(connection: &mut AnyConnection, ids: &[ServerId], object: i64) {
    let one = ids[0];
    cluster::state(connection).unwrap();
    lately::lately(connection).unwrap();
    lately::lost_labels(connection).unwrap();
    report::counts(connection).unwrap();
    report::repair_rate(connection).unwrap();
    counts::listed(connection).unwrap();
    server::server_views(connection).unwrap();
    server::standings(connection).unwrap();
    server::known(connection, one).unwrap();
    server::resolve(connection, "s1").unwrap();
    removed::find(connection, one).unwrap();
    removed::resolve(connection, "s9").unwrap();
    restores::has_files(connection).unwrap();
    restores::is_new(connection).unwrap();
    restores::last_report(connection).unwrap();
    restores::root_copies(connection).unwrap();
    leaving::drain_wait(connection, one.0).unwrap();
    outbox::waiting(connection, object).unwrap();
    why::explained(connection, object, &RULES).unwrap();
    for recursive in [false, true] {
        for after in [None, Some("/d/f3"), Some("f3")] {
            ran(listing::page(connection, &p("/d"), after, 5, recursive));
        }
    }
    listing::object_views(connection, &[object]).unwrap();
    ran(tree::walk(connection, &p("/d/f1")));
    tree::child(connection, 1, "d").unwrap();
    tree::has_children(connection, 1).unwrap();
    token::find(connection, Sha256::of(b"t")).unwrap();
    token::list(connection).unwrap();
    let ticket = Utc::now() - TimeDelta::hours(1);
    let asked = [object, 77].map(|object| PendingReplica {
        object: ObjectId(object),
        generation: Generation(1),
        ticket_expires: ticket,
        epoch: 1,
    });
    pending::known(connection, one, &asked).unwrap();
    ran(pending::decide(connection, one, &asked, TimeDelta::hours(1)));
    let corrupt = CorruptReplica {
        object: ObjectId(object),
        generation: Generation(1),
        reason: "wrong".into(),
        aside: false,
        gone: false,
    };
    ran(corrupt::judge(connection, one, &[corrupt], true));
}

/// Filling servers evenly, and long work.
fn rebalance_and_jobs(connection: &mut AnyConnection, ids: &[ServerId], object: i64) {
    let run = ran(rebalance::begin(connection, 5, "op")).unwrap();
    rebalance::last(connection).unwrap();
    rebalance::repair_first(connection).unwrap();
    moves::is_moving(connection).unwrap();
    moves::repairs_in_flight(connection).unwrap();
    let bytes = rebalance::bytes_by_server(connection).unwrap();
    let level =
        |id: &ServerId| Level { server: *id, bytes: bytes.get(&id.0).copied().unwrap_or(0), room_bytes: 1 << 39 };
    let levels = Levels::new(ids.iter().map(level), 5);
    let from = levels.givers()[0];
    let room = Room { transfers: 4, per_server: 4, bytes: 1 << 30, ..Room::default() };
    let (planned, _) = ran(rebalance::plan(connection, &RULES, from, -1, levels, room.clone())).unwrap();
    assert!(!planned.transfers.is_empty());
    let ended = planned.transfers.into_iter().map(|transfer| Ended { transfer, outcome: Ok(()) });
    ran(repair::work_through(connection, &RULES, &ended.collect::<Vec<_>>(), &[], room, false));
    ran(rebalance::progress(connection, run.id, Some(1), "it goes on"));
    ran(rebalance::finish(connection, run.id, "done", "even"));
    let asked = jobs::Asked { kind: "fsck", holder: "a".into(), by: "op".into(), request: "{}".into(), alone: false };
    let Some(jobs::Begun::Here(job)) = ran(jobs::begin(connection, &asked)) else { panic!("it was not begun") };
    ran(jobs::tell(connection, job.id, "it goes on", "null", None));
    jobs::last(connection, "fsck").unwrap();
    for path in ["/d", "/d/f7"] {
        verify::page(connection, &p(path), None).unwrap();
    }
    let key = ReplicaKey { object: ObjectId(object), generation: Generation(1) };
    let copy = verify::ListedCopy { key, server: ids[0].0, size: 5, path: "/d/f11".into() };
    verify::found_bad(connection, &[copy], std::time::Duration::from_secs(60)).unwrap();
}

/// The changes that people and programs ask for.
fn namespace_changes(connection: &mut AnyConnection, ids: &[ServerId]) {
    let uploads = [upload("/d/new", "1"), upload("/d/f2", "2"), upload("/q/new", "3")];
    let again = uploads.to_vec();
    change(connection, |c| commit(c, &uploads, &AT_ONCE, TimeDelta::zero()));
    change(connection, |c| commit(c, &again, &AT_ONCE, TimeDelta::zero()));
    change(connection, |c| namespace::mkdir(c, &p("/m/n"), true));
    change(connection, |c| namespace::rmdir(c, &p("/m/n")));
    change(connection, |c| namespace::mv(c, &p("/d/f3"), &p("/m/f3"), &AT_ONCE));
    change(connection, |c| namespace::mv(c, &p("/m"), &p("/q/m"), &AT_ONCE));
    change(connection, |c| namespace::cp_file(c, &p("/d/f4"), &p("/d/f5"), &AT_ONCE));
    change(connection, |c| namespace::touch_existing(c, &p("/d/f4")));
    change(connection, |c| namespace::set_replication(c, &p("/d"), Some(3)));
    change(connection, |c| namespace::remove(c, &p("/d/f6"), false, None, &AT_ONCE));
    change(connection, |c| namespace::remove(c, &p("/old"), true, None, &AT_ONCE));
    if let Some(adjustment) = change(connection, |c| replication::begin(c, &p("/d"), 4)) {
        change(connection, |c| replication::step(c, adjustment));
    }
    if let Some(copy) = change(connection, |c| copy_tree::begin(c, &p("/d"), &p("/e")))
        && let Some((copy, _)) = change(connection, |c| copy_tree::step(c, copy))
    {
        change(connection, |c| copy_tree::attach(c, &copy, &p("/d"), &p("/e")));
    }
    change(connection, |c| token::insert(c, "t", Sha256::of(b"t"), Role::Reader, None, None));
    change(connection, |c| token::revoke(c, "t", false));
    change(connection, |c| register(c, &announcement(7)));
    change(connection, |c| leaving::drain(c, ids[1], LEAVING, false));
    change(connection, |c| server::drained(c, ids[1].0));
    change(connection, |c| leaving::undrain(c, ids[1]));
    change(connection, |c| leaving::remove(c, ids[1], LEAVING, false));
    change(connection, |c| leaving::drain(c, ids[1], LEAVING, true));
    leaving::drain_wait(connection, ids[1].0).unwrap();
    lately::lately(connection).unwrap();
    ran(leaving::give_up_copies(connection, ids[1], Some("op")));
    change(connection, |c| leaving::remove(c, ids[1], LEAVING, true));
}

fn announcement(number: u128) -> RegisterRequest {
    RegisterRequest {
        identity: uuid::Uuid::from_u128(number << 100),
        name: "s1".into(),
        host: "h".into(),
        url: "http://h:1".into(),
        public_url: "http://h:1".into(),
        zone: String::new(),
        boot_id: uuid::Uuid::new_v4(),
        cluster: None,
        epoch: 0,
        index_changes: 0,
        boots: Vec::new(),
        replace_newer: false,
        capacity_bytes: 1 << 40,
        free_bytes: 1 << 39,
    }
}

/// What the actors do on their clocks.
fn passes(connection: &mut AnyConnection, ids: &[ServerId]) {
    let one = ids[0].0;
    let state = cluster::state(connection).unwrap();
    ran(lease::acquire(connection, "a", TimeDelta::seconds(5)));
    ran(lease::hold(connection, "a", 1));
    check::end_fits(connection).unwrap();
    // Repair.
    for range in [Range::All, Range::Server(one), Range::Waiting] {
        let scanned = scan::scan(connection, range, Cursor::START, &RULES).unwrap();
        ran(scan::note_scanned(connection, &scanned));
    }
    let room = Room { transfers: 99, per_server: 99, bytes: 1 << 30, ..Room::default() };
    let begun = ran(repair::work_through(connection, &RULES, &[], &[], room.clone(), false)).unwrap();
    let outcome = |number: usize| match number % 2 {
        0 => Ok(()),
        _ => Err(Error::new(ErrorCode::NotFound, "gone")),
    };
    let ended = begun.transfers.into_iter().enumerate();
    let ended: Vec<Ended> = ended.map(|(number, transfer)| Ended { transfer, outcome: outcome(number) }).collect();
    ran(repair::work_through(connection, &RULES, &ended[..ended.len() / 2], &[], room, false));
    // Deletions, and what is emptied and forgotten.
    let _ = reap::has_work(connection, TimeDelta::days(9), TimeDelta::days(9)).unwrap();
    for _ in 0..3 {
        change(connection, |c| reap::empty_detached(c, &AT_ONCE));
    }
    change(connection, reap::forget_objects);
    let last = state.version + 1_000;
    journal::note_copied(connection, &state.history.to_string(), last).unwrap();
    for id in ids {
        let due = outbox::due(connection, id.0, 50).unwrap();
        ran(outbox::complete(connection, &due));
    }
    // The journal.
    journal::tip_at(connection, 3).unwrap();
    journal::lines_after(connection, 3, 2).unwrap();
    journal::was_not_committed_by(connection, 3, ObjectId(3)).unwrap();
    journal::told_version(connection).unwrap();
    for table in [ENTRIES, OBJECTS, SERVERS, TOKENS] {
        let after = journal::page(connection, table, None, 1).unwrap().pop();
        journal::page(connection, table, after.as_ref().map(|(key, _)| key.as_str()), 1).unwrap();
    }
    journal::trim(connection, Utc::now().naive_utc(), Some(1), 5).unwrap();
    // A server that is back.
    let page = sync::Page { after: None, last: None, lines: Vec::new() };
    let (_, differences) = sync::compare(connection, one, page).unwrap();
    let missing: Vec<ReplicaKey> = differences.missing.into_iter().take(3).collect();
    ran(sync::apply(connection, one, &[], &missing, TimeDelta::zero()));
    ran(sync::complete(connection, one, "", 1, "compared".into()));
    // The kept numbers.
    ran(counts::fold(connection));
    for _ in 0..4 {
        ran(counts::audit_page(connection, 5));
    }
    // fsck.
    let looked = ran(fsck::objects_after(connection, i64::MIN)).is_some();
    assert!(looked && ran(fsck::entries_after(connection, i64::MIN)).is_some());
    let objects: Vec<i64> = schema::objects::table.select(schema::objects::id).limit(3).load(connection).unwrap();
    ran(fsck::look_at_objects(connection, &objects));
    ran(fsck::drop_stale(connection, &objects, TimeDelta::zero()));
    let entries: Vec<i64> = schema::entries::table.select(schema::entries::id).limit(3).load(connection).unwrap();
    ran(fsck::look_at_entries(connection, &entries));
    fsck::path_of(connection, EntryId(entries[0])).ok();
    let key = ReplicaKey { object: ObjectId(objects[0]), generation: Generation(1) };
    fsck::unlisted(connection, one, &[key]).unwrap();
    change(connection, |c| fsck::release(c, &objects, &AT_ONCE));
    ran(lease::release(connection, "a"));
}

async fn fill(db: &TestDb) -> (Vec<ServerId>, i64) {
    let ids = db.servers(4).await;
    for directory in ["/d", "/old/below", "/q"] {
        db.mkdirs(directory).await;
    }
    let mut object = 0;
    for number in 0..12 {
        object = db.write(&format!("/d/f{number}"), "12345").await.object.0;
        db.write(&format!("/old/below/f{number}"), "123").await;
    }
    for number in 0..3 {
        db.rm(&format!("/old/below/f{number}"), false).await.unwrap();
    }
    db.sql(|connection| {
        use schema::server_health::dsl;
        diesel::update(dsl::server_health)
            .set((dsl::health.eq("live"), dsl::boot_id.eq("b"), dsl::synced_boot.eq("b")))
            .execute(connection)
    })
    .await;
    (ids, object)
}

both_backends! {
    async fn no_statement_reads_a_growing_table_whole(db: TestDb) {
        let (ids, object) = fill(&db).await;
        let (statements, found) = db
            .db
            .write(move |connection| {
                let statements = recorded(connection, |connection| {
                    requests(connection, &ids, object);
                    rebalance_and_jobs(connection, &ids, object);
                    namespace_changes(connection, &ids);
                    passes(connection, &ids);
                });
                let found = explained(connection, &statements);
                Ok((statements, found))
            })
            .await
            .unwrap();
        assert!(statements.len() > 150, "only {} statements were seen", statements.len());
        let allowed = |sql: &str| ALLOWED.iter().any(|(part, _)| sql.contains(part));
        let bad: Vec<_> = found.iter().filter(|(sql, _)| !allowed(sql)).collect();
        assert!(bad.is_empty(), "{} of {} statements read what grows: {bad:#?}", bad.len(), statements.len());
        for (part, why) in ALLOWED {
            assert!(statements.iter().any(|sql| plain(sql).contains(part)), "nothing like this is sent any more: {part} ({why})");
        }
    }

    async fn a_statement_that_does_is_found(db: TestDb) {
        let (ids, _) = fill(&db).await;
        let found = db
            .db
            .write(move |connection| {
                let statements = recorded(connection, |connection| {
                    use schema::{objects, outbox, replicas};
                    let count = diesel::dsl::count_star();
                    replicas::table.group_by(replicas::server).select((replicas::server, count)).load::<(i64, i64)>(connection).unwrap();
                    replicas::table.filter(replicas::state.eq("copying")).count().get_result::<i64>(connection).unwrap();
                    objects::table.filter(objects::state.eq("live")).count().get_result::<i64>(connection).unwrap();
                    objects::table.filter(objects::label.eq("/f")).select(objects::id).first::<i64>(connection).optional().unwrap();
                    outbox::table.count().get_result::<i64>(connection).unwrap();
                    diesel::delete(objects::table.filter(objects::label.eq("/none"))).execute(connection).unwrap();
                    // These two go by an index.
                    replicas::table.filter(replicas::server.eq(ids[0].0)).select(replicas::object).first::<i64>(connection).unwrap();
                    objects::table.filter(objects::id.gt(5)).order(objects::id).limit(3).select(objects::id).load::<i64>(connection).unwrap();
                });
                assert_eq!(statements.len(), 8);
                Ok(explained(connection, &statements))
            })
            .await
            .unwrap();
        assert_eq!(found.len(), 6, "{found:#?}");
    }
}
