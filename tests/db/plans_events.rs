//! The plans of the questions about what happened and of the deletions that wait, on both backends, with tables that have
//! grown: none of them reads, or sorts, a whole table.

use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use diesel::connection::{Instrumentation, InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use diesel::sql_types::Text;
use holdfast::db::rows::OutboxRow;
use holdfast::db::timeline::{self, Filter};
use holdfast::db::{AnyConnection, events, lately, outbox};
use holdfast::types::{Cause, CauseWord, EventKind};

use crate::both_backends;
use crate::fixture::*;

/// Rows of each table.
const ROWS: usize = 20_000;
/// Tables that grow with the cluster, or with what happens in it.
const GROWING: [&str; 7] = ["events", "audit", "outbox", "journal", "objects", "replicas", "entries"];

/// Keeps what is sent to the database.
#[derive(Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Instrumentation for Recorder {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let text = query.to_string();
            let statement = text.split(" -- binds: ").next().unwrap_or_default().to_string();
            if ["SELECT", "DELETE", "UPDATE"].iter().any(|verb| statement.starts_with(verb)) {
                self.0.lock().unwrap().push(statement);
            }
        }
    }
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    detail: String,
}

fn is_postgres(connection: &AnyConnection) -> bool {
    matches!(connection, AnyConnection::Postgres(_))
}

/// Fills the tables as years do: many kinds, servers, tokens and paths, and most events parts of sums.
fn fill(connection: &mut AnyConnection, servers: [i64; 3]) -> QueryResult<()> {
    let [first, second, third] = servers;
    let numbers =
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) INSERT INTO");
    connection.batch_execute(&format!(
        "{numbers} events (id, time, kind, object, server, detail, path, by_token, cause, cause_server, part_of)
         SELECT i * 1000, CURRENT_TIMESTAMP, 'kind_' || (i % 40), i, i % 50, 'a sentence', '/d' || (i % 100) || '/f' || i,
                'token_' || (i % 60), 'down', i % 50, CASE WHEN i % 10 = 0 THEN NULL ELSE 1000 END FROM n;
         {numbers} audit (id, version, time, kind, path, other_path, by_token)
         SELECT i * 1000, i, CURRENT_TIMESTAMP, 'kind_' || (i % 9), '/d' || (i % 100) || '/f' || i,
                CASE WHEN i % 5 = 0 THEN '/e' || (i % 100) || '/f' || i END, 'token_' || (i % 60) FROM n;
         {numbers} outbox (server, object, generation, version, queued, not_before, reason)
         SELECT CASE i % 3 WHEN 0 THEN {first} WHEN 1 THEN {second} ELSE {third} END, i, 1, i, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 'removed' FROM n;"
    ))?;
    if is_postgres(connection) {
        // As autovacuum does it. Statements that are used often are planned without the values, so all are here; and tables
        // that are small in this test as if they were large.
        connection.batch_execute("ANALYZE; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")?;
    }
    Ok(())
}

/// How the backend would carry a statement out.
fn plan(connection: &mut AnyConnection, statement: &str) -> Vec<String> {
    match connection {
        AnyConnection::Sqlite(connection) => {
            let lines: Vec<Line> =
                diesel::sql_query(format!("EXPLAIN QUERY PLAN {statement}")).load(connection).unwrap();
            lines.into_iter().map(|line| line.detail).collect()
        }
        AnyConnection::Postgres(connection) => {
            #[derive(QueryableByName)]
            struct Explained {
                #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
                line: String,
            }
            let values = (1..).take_while(|number| statement.contains(&format!("${number}"))).count();
            let nulls = vec!["NULL"; values].join(", ");
            let arguments = if values == 0 { String::new() } else { format!("({nulls})") };
            connection.batch_execute(&format!("PREPARE asked AS {statement}")).unwrap();
            let lines: Vec<Explained> =
                diesel::sql_query(format!("EXPLAIN (COSTS OFF) EXECUTE asked{arguments}")).load(connection).unwrap();
            connection.batch_execute("DEALLOCATE asked").unwrap();
            lines.into_iter().map(|line| line.line).collect()
        }
    }
}

/// What is wrong with a plan, if anything is.
fn objection(statement: &str, plan: &[String]) -> Option<String> {
    let is_bounded = statement.contains(" LIMIT ");
    for line in plan {
        let grows = line.split([' ', '(', ')', ',']).any(|word| GROWING.contains(&word.trim_matches('"')));
        // SQLite's SCAN is of a whole table or index. Within a limit and without a condition that is the first rows.
        let has_condition = statement.contains(" WHERE ");
        if grows && line.contains("SCAN") && (!is_bounded || has_condition) {
            return Some(line.clone());
        }
        if grows && line.contains("Seq Scan") && (!is_bounded || has_condition) {
            return Some(line.clone());
        }
        // A page must come in the order of its index.
        if is_bounded && line.contains("TEMP B-TREE FOR ORDER BY") {
            return Some(line.clone());
        }
    }
    // Postgres walks along an index without entering it at a place: that is all of it, unless the first rows are enough.
    let walks = |(number, line): (usize, &String)| {
        let enters =
            plan[number + 1..].iter().take_while(|line| !line.contains("->")).any(|line| line.contains("Index Cond"));
        (line.contains("Index Scan") || line.contains("Index Only Scan")) && !enters
    };
    let walk = plan.iter().enumerate().find(|line| walks(*line)).map(|(_, line)| line.clone());
    walk.filter(|_| !is_bounded || statement.contains(" WHERE "))
}

/// Everything that people can ask `events` for, alone and together.
fn filters(now: chrono::NaiveDateTime) -> Vec<(&'static str, Filter)> {
    let all = Filter::default;
    let (by, path) = (Some("token_7".to_string()), Some(p("/d7")));
    let (since, until) = (Some(now - TimeDelta::hours(1)), Some(now + TimeDelta::hours(1)));
    let change = EventKind::of_word("moved");
    vec![
        ("nothing", all()),
        ("--by", Filter { by: by.clone(), ..all() }),
        ("--by --since", Filter { by: by.clone(), since, ..all() }),
        ("--path", Filter { path: path.clone(), ..all() }),
        ("--path of a file", Filter { path: Some(p("/d7/f7")), ..all() }),
        ("--path /", Filter { path: Some(p("/")), ..all() }),
        ("--path --by", Filter { path: path.clone(), by: by.clone(), ..all() }),
        ("--since", Filter { since, ..all() }),
        ("--since --until", Filter { since, until, ..all() }),
        ("--until --path", Filter { until, path, ..all() }),
        ("--kind", Filter { kind: Some(EventKind::ServerDown), ..all() }),
        ("--kind of a change", Filter { kind: change, ..all() }),
        ("--kind of a change --by", Filter { kind: change, by, ..all() }),
        ("--server", Filter { server: Some(7), ..all() }),
        ("--object", Filter { object: Some(7), ..all() }),
        ("--verbose", Filter { each_copy: true, ..all() }),
        ("--verbose --server", Filter { each_copy: true, server: Some(7), ..all() }),
    ]
}

/// Asks everything, and answers the statements that were sent for each question.
fn asked(connection: &mut AnyConnection, server: i64) -> Vec<(&'static str, Vec<String>)> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    connection.set_instrumentation(Recorder(sent.clone()));
    let now = now(connection);
    let mut all = Vec::new();
    let mut note = |what, sent: &Arc<Mutex<Vec<String>>>| all.push((what, std::mem::take(&mut *sent.lock().unwrap())));
    for (what, filter) in filters(now) {
        timeline::page(connection, &filter, None, 50).unwrap();
        note(what, &sent);
    }
    timeline::has_older_changes(connection, now).unwrap();
    timeline::maker_of(connection, 7).unwrap();
    timeline::trim_changes(connection, now, 100).unwrap();
    note("old changes", &sent);
    events::has_older(connection, now).unwrap();
    events::trim(connection, now, 100).unwrap();
    note("old events", &sent);
    for object in [None, Some(7)] {
        events::was_told(connection, EventKind::ServerDown, 7, object, now - TimeDelta::hours(1)).unwrap();
    }
    note("whether something was told", &sent);
    let cause = Cause::from(CauseWord::Removed);
    let event = events::of_copy(now, EventKind::ReplicaDeleted, (7, 7), cause, "a sentence".into());
    events::tell(connection, vec![event]).map_err(holdfast::db::Failure::into_error).unwrap();
    note("telling of a copy", &sent);
    let rows = outbox::due(connection, server, 500).unwrap();
    outbox::waiting(connection, 7).unwrap();
    note("deletions that are due", &sent);
    let row = OutboxRow {
        server,
        object: 7,
        generation: 1,
        version: 7,
        queued: now,
        not_before: now,
        reason: "removed".into(),
        by_token: None,
    };
    let rows = if rows.is_empty() { vec![row] } else { rows };
    outbox::complete(connection, &rows).map_err(holdfast::db::Failure::into_error).unwrap();
    note("deletions that are carried out", &sent);
    lately::lately(connection).unwrap();
    note("what happened lately", &sent);
    connection.set_instrumentation(Recorder::default());
    all
}

both_backends! {
    async fn questions_about_what_happened_read_no_whole_table(db: TestDb) {
        let ids = db.servers(3).await;
        let servers = [ids[0].0, ids[1].0, ids[2].0];
        let objections = db
            .db
            .write(move |connection| {
                fill(connection, servers)?;
                let asked = asked(connection, servers[0]);
                let statements: usize = asked.iter().map(|(_, statements)| statements.len()).sum();
                assert!(asked.iter().all(|(_, statements)| !statements.is_empty()) && statements > 40, "{statements}");
                let mut objections = Vec::new();
                for (what, statements) in asked {
                    for statement in statements {
                        let plan = plan(connection, &statement);
                        if let Some(line) = objection(&statement, &plan) {
                            objections.push(format!("{what}: {line}\n  {statement}\n  {}", plan.join("\n  ")));
                        }
                    }
                }
                Ok(objections)
            })
            .await
            .unwrap();
        assert!(objections.is_empty(), "{}", objections.join("\n\n"));
    }
}

#[test]
fn a_plan_that_reads_everything_is_noticed() {
    let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    for (statement, plan, wrong) in [
        ("SELECT 1 FROM events WHERE detail = ?", "SCAN events", true),
        ("SELECT 1 FROM events WHERE id > ? ORDER BY id", "SEARCH events USING INDEX x (id>?)", false),
        ("SELECT 1 FROM events ORDER BY id LIMIT ?", "SCAN events", false),
        (
            "SELECT 1 FROM events WHERE path = ? ORDER BY id LIMIT ?",
            "SEARCH events (path=?)\nUSE TEMP B-TREE FOR ORDER BY",
            true,
        ),
        (
            "SELECT 1 FROM events WHERE kind = $1 LIMIT $2",
            "Limit\n  ->  Index Scan using p on events\n        Filter: x",
            true,
        ),
        ("SELECT 1 FROM events WHERE kind = $1", "Index Scan using k on events\n  Index Cond: (kind = $1)", false),
        ("SELECT 1 FROM events WHERE kind = $1", "Seq Scan on events\n  Filter: (kind = $1)", true),
        ("SELECT 1 FROM cluster WHERE id = $1", "Seq Scan on cluster", false),
    ] {
        assert_eq!(objection(statement, &lines(plan)).is_some(), wrong, "{statement}");
    }
}
