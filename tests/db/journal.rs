//! Versions are dense, tips chain, and the journal alone gives the tables back.

use std::collections::BTreeMap;

use diesel::prelude::*;
use holdfast::db::reap::{empty_detached, forget_objects};
use holdfast::db::rows::*;
use holdfast::db::{namespace, schema};
use holdfast::journal::{GENESIS_TIP, JournalLine};
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
}
