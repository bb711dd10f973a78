//! Versions are dense, tips chain, and the journal alone gives the tables back.

use std::collections::BTreeMap;

use diesel::prelude::*;
use holdfast::db::reap::{empty_detached, forget_objects};
use holdfast::db::rows::*;
use holdfast::db::{journal, namespace, schema};
use holdfast::journal::{ENTRIES, GENESIS_TIP, JournalLine, OBJECTS, SERVERS, TOKENS};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::both_backends;
use crate::fixture::*;

/// Rows by table and key.
type Tables = BTreeMap<(String, String), Value>;

async fn tables(db: &TestDb) -> Tables {
    db.sql(|connection| {
        let mut tables = Tables::new();
        let mut add = |table: &str, key: String, row: Value| drop(tables.insert((table.into(), key), row));
        for row in schema::entries::table.select(EntryRow::as_select()).load(connection)? {
            add("entries", row.id.to_string(), serde_json::to_value(&row).unwrap());
        }
        for row in schema::objects::table.select(ObjectRow::as_select()).load(connection)? {
            if row.state != ObjectRow::ABORTED {
                add("objects", row.id.to_string(), serde_json::to_value(&row).unwrap());
            }
        }
        for row in schema::tokens::table.select(TokenRow::as_select()).load(connection)? {
            add("tokens", row.name.clone(), serde_json::to_value(&row).unwrap());
        }
        for row in schema::servers::table.select(ServerRow::as_select()).load(connection)? {
            add("servers", row.id.to_string(), serde_json::to_value(&row).unwrap());
        }
        Ok(tables)
    })
    .await
}

fn replay(journal: &[JournalRow]) -> Tables {
    let mut tables = Tables::new();
    for row in journal {
        let key = (row.table_name.clone(), row.row_key.clone());
        match &row.content {
            Some(content) => drop(tables.insert(key, serde_json::from_str(content).unwrap())),
            None => drop(tables.remove(&key)),
        }
    }
    tables
}

fn check_chain(journal: &[JournalRow], last_version: i64) {
    let (mut tip, mut expected) = (GENESIS_TIP, (1, 0));
    for row in journal {
        if row.version != expected.0 {
            expected = (expected.0 + 1, 0);
        }
        assert_eq!((row.version, row.seq), expected, "versions and rows are dense");
        tip = JournalLine::from(row.clone()).next_tip(tip);
        assert_eq!(row.tip, tip.0, "the tip of version {}", row.version);
        expected.1 += 1;
    }
    assert_eq!(expected.0, last_version);
}

/// Times lose their nanoseconds in Postgres and keep them in the journal's text.
fn to_microseconds(tables: Tables) -> Tables {
    let cut = |row: Value| match row {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| match (&value, name.as_str()) {
                    (Value::String(text), "created" | "modified" | "registered" | "expires" | "forget_after") => {
                        let time: chrono::NaiveDateTime = text.parse().unwrap();
                        (name, Value::from(time.and_utc().timestamp_micros()))
                    }
                    _ => (name, value),
                })
                .collect(),
        ),
        other => other,
    };
    tables.into_iter().map(|(key, row)| (key, cut(row))).collect()
}

both_backends! {
    async fn replaying_the_journal_gives_the_tables(db: TestDb) {
        db.servers(3).await;
        let mut random = StdRng::seed_from_u64(42);
        let names = ["a", "b", "c"];
        for round in 0..800 {
            let mut path = || (0..random.random_range(1..4)).map(|_| format!("/{}", names[random.random_range(0..3)])).collect::<String>();
            let (from, to) = (path(), path());
            // Refusals are as welcome as successes: neither may break the chain.
            let _ = match random.random_range(0..9) {
                0 | 1 => db.mkdir(&from).await,
                2 | 3 => db.commit_one(upload(&from, &round.to_string())).await.map(drop),
                4 => db.mv(&from, &to).await,
                5 => db.cp(&from, &to).await,
                6 => db.rm(&from, true).await,
                7 => db.change(move |changes| namespace::touch_existing(changes, &p(&from)).map(drop)).await,
                _ => db.change(|changes| { empty_detached(changes, &TIMES)?; forget_objects(changes).map(drop) }).await,
            };
        }
        let journal = db.journal().await;
        assert!(journal.len() > 200, "{} rows", journal.len());
        check_chain(&journal, db.last_version().await);
        assert_eq!(to_microseconds(replay(&journal)), to_microseconds(tables(&db).await));
    }
    // As the `SnapshotSender` reads one: in short pages while changes go on.
    async fn a_snapshot_that_is_read_while_changes_go_on_is_right_with_the_lines_since(db: TestDb) {
        db.servers(3).await;
        for number in 0..4 {
            db.mkdirs(&format!("/{number}")).await;
        }
        for number in 0..40 {
            db.commit_one(upload(&format!("/{}/{number}", number % 4), "x")).await.unwrap();
        }
        let begin = db.last_version().await;
        let (mut read, mut number) = (Tables::new(), 0);
        for table in [SERVERS, TOKENS, OBJECTS, ENTRIES] {
            let mut after: Option<String> = None;
            loop {
                let from = after.take();
                let rows = db.sql(move |connection| Ok(journal::page(connection, table, from.as_deref(), 3).unwrap())).await;
                for (key, content) in &rows {
                    read.insert((table.into(), key.clone()), serde_json::from_str(content).unwrap());
                }
                // Rows that were read go and change, others come before and behind.
                number += 1;
                let _ = match number % 4 {
                    0 => db.rm(&format!("/0/{number}"), true).await,
                    1 => db.mv(&format!("/1/{number}"), &format!("/m{number}")).await,
                    2 => db.commit_one(upload(&format!("/2/{number}"), "y")).await.map(drop),
                    _ => db.cp(&format!("/3/{number}"), &format!("/c{number}")).await,
                };
                match rows.into_iter().last() {
                    Some((key, _)) => after = Some(key),
                    None => break,
                }
            }
        }
        let since: Vec<_> = db.journal().await.into_iter().filter(|row| row.version > begin).collect();
        assert!(since.len() > 20, "{} rows", since.len());
        for row in since {
            let key = (row.table_name, row.row_key);
            match row.content {
                Some(content) => drop(read.insert(key, serde_json::from_str(&content).unwrap())),
                None => drop(read.remove(&key)),
            }
        }
        assert_eq!(to_microseconds(read), to_microseconds(tables(&db).await));
    }

    async fn what_a_snapshot_under_way_needs_is_not_trimmed(db: TestDb) {
        for number in 0..6 {
            db.mkdir(&format!("/{number}")).await.unwrap();
        }
        let last = db.last_version().await;
        let later = chrono::Utc::now().naive_utc() + chrono::TimeDelta::hours(1);
        db.sql(move |connection| {
            diesel::update(schema::cluster::table).set(schema::cluster::journal_copied.eq(last)).execute(connection)
        })
        .await;
        for (needed, first) in [(Some(0), 1), (Some(last - 3), last - 3), (Some(last - 3), last - 3), (None, last)] {
            db.sql(move |connection| journal::trim(connection, later, needed, 100)).await;
            let kept = db.sql(journal::first_version).await;
            assert_eq!(kept, Some(first), "needed from {needed:?} on");
        }
    }
}
