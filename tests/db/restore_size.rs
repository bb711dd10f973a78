//! A restore costs the same for each file, however many there are: it makes no statement for a single one, and reads no table
//! again for each row of another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::InstrumentationEvent;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use holdfast::db::AnyConnection;
use holdfast::db::restore::progress::Progress;
use holdfast::db::restore::settle::{COUNT_WITHOUT_COPIES, RELEASE, REVIVE, WITHOUT_COPIES};
use holdfast::db::restore::{Known, Plan, rebuild};
use holdfast::db::restores::begin;
use holdfast::db::rows::{EntryRow, ObjectRow, ServerRow, TokenRow};
use holdfast::db::schema::servers;
use holdfast::journal::{ENTRIES, OBJECTS, Staging};
use holdfast::types::api::RestoreStatus;
use holdfast::types::id::ROOT;
use holdfast::types::{ServerId, Sha256};

use crate::both_backends;
use crate::fixture::*;
use crate::restore::{copy, stage};

/// Files of a directory.
const FILES_EACH: i64 = 100;

/// Who tells of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The journal's rows, and two copies of each.
    ByRows,
    /// Only two copies of each.
    ByCopies,
}

/// What a restore has cost.
struct Cost {
    statements: usize,
    /// Rows that Postgres has read.
    rows_read: i64,
    elapsed: Duration,
}

fn fill(staging: &mut Staging, files: i64, told: Told, servers: &[ServerId]) {
    let now = chrono::Utc::now().naive_utc();
    for number in 0..files {
        let (directory, file, object) = (1_000 + number / FILES_EACH, 10_000_000 + number, 20_000_000 + number);
        let label = format!("/d{}/f{number}", number / FILES_EACH);
        copy(staging, servers[0], object, &label, Some(100 + number));
        copy(staging, servers[1], object, &label, Some(100 + number));
        if told == Told::ByCopies {
            continue;
        }
        let mut entry = EntryRow {
            id: directory,
            parent: Some(ROOT.0),
            name: format!("d{}", number / FILES_EACH),
            kind: EntryRow::DIRECTORY.into(),
            object: None,
            replication: None,
            version: 1,
            created: now,
            modified: now,
        };
        if number % FILES_EACH == 0 {
            stage(staging, ENTRIES, directory.to_string(), &entry);
        }
        entry.parent = Some(directory);
        (entry.id, entry.name, entry.kind) = (file, format!("f{number}"), EntryRow::FILE.into());
        entry.object = Some(object);
        stage(staging, ENTRIES, file.to_string(), &entry);
        let row = ObjectRow {
            id: object,
            state: ObjectRow::LIVE.into(),
            size: label.len() as i64,
            sha256: Sha256::of(label.as_bytes()).0.to_vec(),
            copies_wanted: 2,
            label,
            version: 100 + number,
            created: now,
            forget_after: None,
        };
        stage(staging, OBJECTS, object.to_string(), &row);
    }
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// What this transaction has read.
fn rows_read(connection: &mut AnyConnection) -> QueryResult<i64> {
    if matches!(connection, AnyConnection::Sqlite(_)) {
        return Ok(0);
    }
    let sum = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint AS count FROM pg_stat_xact_user_tables";
    Ok(diesel::sql_query(sum).get_result::<Count>(connection)?.count)
}

/// Restores so many files into a database that has had a few before.
async fn restored(db: &TestDb, files: i64, told: Told) -> Cost {
    let members = db.servers(2).await;
    let servers: Vec<ServerRow> =
        db.sql(|connection| servers::table.select(ServerRow::as_select()).load(connection)).await;
    let created = chrono::Utc::now().naive_utc();
    let (name, role) = ("superuser".into(), "superuser".into());
    let superuser = TokenRow { name, sha256: vec![1; 32], role, prefix: None, created, expires: None };
    let cluster = db.db.read(holdfast::db::cluster::state).await.unwrap().cluster;
    let epoch = db.db.write(move |connection| begin(connection, files, cluster, 1)).await.unwrap();
    let mut staging = Staging::create(None).unwrap();
    fill(&mut staging, files, told, &members);
    let (head, source) = match told {
        Told::ByRows => (10_000_000, "journal"),
        Told::ByCopies => (0, "labels"),
    };
    let known = Known { version: head, by: "a test".into(), rows: Vec::new() };
    let progress = Arc::new(Progress::default());
    let by_first_token = true;
    let heard = progress.clone();
    let plan =
        Plan { cluster, epoch, head, told: head, known, servers, superuser, by_first_token, copies: 2, progress };
    let statements = Arc::new(AtomicUsize::new(0));
    let counted = statements.clone();
    let began = Instant::now();
    let (status, rows_read) = db
        .db
        .write(move |connection| {
            connection.set_instrumentation(move |event: InstrumentationEvent<'_>| {
                if matches!(event, InstrumentationEvent::StartQuery { .. }) {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
            let status = RestoreStatus { source: source.into(), ..RestoreStatus::default() };
            let status = rebuild(connection, &mut staging, &plan, status);
            connection.set_instrumentation(|_: InstrumentationEvent<'_>| {});
            Ok((status?, rows_read(connection)?))
        })
        .await
        .unwrap();
    let progress = heard.view().unwrap();
    assert_eq!((progress.done, progress.unit.as_str()), (progress.total, "rows"), "it says how far it is");
    assert!(progress.total >= 2 * files as u64, "{progress:?}");
    assert_eq!((status.files, status.replicas), (files as u64, 2 * files as u64), "{status:?}");
    assert_eq!((status.conflicts_total, status.doubts_total), (0, 0));
    assert_eq!(status.losses_total, u64::from(told == Told::ByCopies), "{:?}", status.losses);
    Cost { statements: statements.load(Ordering::SeqCst), rows_read, elapsed: began.elapsed() }
}

both_backends! {
    async fn each_file_costs_the_same(db: TestDb) {
        // A few rows that Postgres has looked at: plans that are made for them must not be kept for many.
        db.servers(2).await;
        db.write("/before", "x").await;
        for told in [Told::ByRows, Told::ByCopies] {
            let few = restored(&db, 1_000, told).await;
            let many = restored(&db, 4_000, told).await;
            let more = many.statements.saturating_sub(few.statements);
            assert!(more * 10 <= 3_000, "{told:?}: {} statements for 1,000 files, {} for 4,000", few.statements, many.statements);
            assert!(
                many.rows_read <= 6 * few.rows_read.max(10_000),
                "{told:?}: {} rows are read for 1,000 files, {} for 4,000", few.rows_read, many.rows_read
            );
        }
    }

    async fn no_table_is_read_for_each_row_of_another(db: TestDb) {
        restored(&db, 3_000, Told::ByRows).await;
        for statement in [REVIVE, RELEASE, COUNT_WITHOUT_COPIES, WITHOUT_COPIES] {
            let statement = statement.replace("LIMIT $1", "LIMIT 1000").replace("$1", "'2030-01-01 00:00:00'");
            let explained = statement.clone();
            let plan = db.sql(move |connection| explain(connection, &explained)).await;
            assert!(!plan.is_empty());
            for step in &plan {
                // SQLite looks into the other table by its index; Postgres joins both.
                let reads_all = ["SCAN entries", "SCAN replicas", "SubPlan", "Materialize"];
                assert!(!reads_all.iter().any(|word| step.contains(word)), "{statement}: {plan:#?}");
            }
        }
    }
}

#[derive(QueryableByName)]
struct PostgresStep {
    #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
    line: String,
}

#[derive(QueryableByName)]
struct SqliteStep {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// The steps of a statement's plan.
fn explain(connection: &mut AnyConnection, statement: &str) -> QueryResult<Vec<String>> {
    match connection {
        AnyConnection::Sqlite(_) => {
            let steps = diesel::sql_query(format!("EXPLAIN QUERY PLAN {statement}")).load(connection)?;
            Ok(steps.into_iter().map(|step: SqliteStep| step.detail).collect())
        }
        AnyConnection::Postgres(_) => {
            diesel::sql_query("ANALYZE objects, entries, replicas").execute(connection)?;
            let steps = diesel::sql_query(format!("EXPLAIN {statement}")).load(connection)?;
            Ok(steps.into_iter().map(|step: PostgresStep| step.line).collect())
        }
    }
}

/// Figures, by hand: `cargo test --test db restore_size -- --ignored --nocapture --test-threads 1`.
async fn figures(make: fn() -> TestDb) {
    for told in [Told::ByRows, Told::ByCopies] {
        for files in [10_000, 100_000] {
            let Cost { statements, rows_read, elapsed } = restored(&make(), files, told).await;
            println!("{told:?}, {files} files: {elapsed:.1?}, {statements} statements, {rows_read} rows read");
        }
    }
}

#[tokio::test]
#[ignore = "figures, by hand"]
async fn figures_on_sqlite() {
    figures(TestDb::sqlite).await;
}

#[tokio::test]
#[ignore = "figures, by hand"]
async fn figures_on_postgres() {
    figures(TestDb::postgres).await;
}
