//! Copies wanted: what a directory's number does to the files below, and to those that share bytes with them.

use diesel::prelude::*;
use holdfast::db::replication::{begin, step};
use holdfast::db::schema;
use holdfast::db::{copy_tree, repair};
use holdfast::types::ErrorCode::*;
use holdfast::types::{ObjectId, Result};

use crate::both_backends;
use crate::fixture::*;

async fn setrep(db: &TestDb, path: &'static str, copies: u32) -> Result<u64> {
    let mut adjustment = db.change(move |changes| begin(changes, &p(path), copies)).await?;
    loop {
        let (next, more) = db.change(move |changes| step(changes, adjustment)).await?;
        adjustment = next;
        if !more {
            return Ok(adjustment.changed);
        }
    }
}

async fn wants(db: &TestDb, object: ObjectId) -> i32 {
    db.object(object).await.unwrap().copies_wanted
}

async fn queued(db: &TestDb) -> Vec<(i64, i32)> {
    db.sql(|connection| {
        use schema::repair_queue::dsl;
        dsl::repair_queue.order(dsl::object).select((dsl::object, dsl::copies)).load(connection)
    })
    .await
}

both_backends! {
    async fn all_files_below_follow_and_nested_numbers_stay(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/d/deep/er").await;
        db.mkdirs("/d/own/below").await;
        let uploads = (0..700).map(|n| upload(&format!("/d/deep/er/{n:03}"), "x")).collect();
        commit_all(&db.db, uploads).await;
        let (far, near) = (db.write("/far", "1").await, db.write("/d/near", "2").await);
        assert_eq!(setrep(&db, "/d/own", 4).await.unwrap(), 0);
        let nested = db.write("/d/own/below/f", "3").await;
        assert_eq!(wants(&db, nested.object).await, 4);
        db.sql(|connection| diesel::delete(schema::repair_queue::table).execute(connection)).await;
        let version = db.last_version().await;
        assert_eq!(setrep(&db, "/d", 3).await.unwrap(), 701);
        assert!(db.last_version().await > version, "it is journaled");
        assert_eq!((wants(&db, near.object).await, wants(&db, far.object).await), (3, 2));
        assert_eq!(wants(&db, nested.object).await, 4);
        assert_eq!(queued(&db).await.len(), 701, "raised ones are looked at");
        assert!(queued(&db).await.iter().all(|(_, copies)| *copies == 2));
        assert_eq!(setrep(&db, "/d", 3).await.unwrap(), 0, "a second time changes nothing");
        db.sql(|connection| diesel::delete(schema::repair_queue::table).execute(connection)).await;
        assert_eq!(setrep(&db, "/d", 1).await.unwrap(), 701);
        assert_eq!(queued(&db).await.len(), 701, "lowered ones too");
        assert_eq!(wants(&db, db.write("/d/new", "4").await.object).await, 1);
    }

    async fn shared_bytes_want_the_most_of_all_their_places(db: TestDb) {
        db.servers(2).await;
        for dir in ["/a", "/b", "/gone"] {
            db.mkdir(dir).await.unwrap();
        }
        let shared = db.write("/a/f", "x").await;
        db.cp("/a/f", "/b/f").await.unwrap();
        assert_eq!(setrep(&db, "/b", 5).await.unwrap(), 1);
        assert_eq!(setrep(&db, "/a", 3).await.unwrap(), 0, "the other directory wants more");
        assert_eq!(wants(&db, shared.object).await, 5);
        assert_eq!(setrep(&db, "/b", 2).await.unwrap(), 1);
        assert_eq!(wants(&db, shared.object).await, 3, "now this one does");
        // What nobody can see any more wants nothing.
        db.cp("/a/f", "/gone/f").await.unwrap();
        assert_eq!(setrep(&db, "/gone", 9).await.unwrap(), 1);
        db.rm("/gone", true).await.unwrap();
        assert_eq!(setrep(&db, "/a", 2).await.unwrap(), 1);
        assert_eq!(wants(&db, shared.object).await, 2);
    }

    async fn a_file_gets_its_number_but_not_less_than_its_other_places(db: TestDb) {
        db.servers(2).await;
        db.mkdir("/b").await.unwrap();
        let file = db.write("/f", "x").await;
        assert_eq!(setrep(&db, "/f", 3).await.unwrap(), 1);
        assert_eq!(setrep(&db, "/f", 1).await.unwrap(), 1, "less than its directory, if a person says so");
        assert_eq!(queued(&db).await, [(file.object.0, 2)]);
        db.cp("/f", "/b/f").await.unwrap();
        setrep(&db, "/b", 4).await.unwrap();
        assert_eq!(setrep(&db, "/f", 1).await.unwrap(), 0);
        assert_eq!(wants(&db, file.object).await, 4);
        assert_eq!(setrep(&db, "/", 2).await.unwrap(), 0);
        assert_eq!(setrep(&db, "/b/f", 2).await.unwrap(), 1, "the root wants 2 at the other place");
        for (path, copies, want) in [("/f", 0, InvalidRequest), ("/f", 17, InvalidRequest), ("/none", 2, NotFound)] {
            assert_eq!(code(setrep(&db, path, copies).await), want);
        }
    }

    async fn a_copy_that_is_being_built_is_not_lowered(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/cheap").await;
        db.mkdirs("/dear").await;
        setrep(&db, "/dear", 4).await.unwrap();
        let file = db.write("/cheap/f", "x").await;
        let (from, to) = (p("/cheap"), p("/dear/copy"));
        let mut copy = db.change(move |changes| copy_tree::begin(changes, &from, &to)).await.unwrap();
        let mut more = true;
        while more {
            (copy, more) = db.change(move |changes| copy_tree::step(changes, copy)).await.unwrap();
        }
        assert_eq!(wants(&db, file.object).await, 4);
        assert_eq!(setrep(&db, "/cheap", 1).await.unwrap(), 0);
        let (from, to) = (p("/cheap"), p("/dear/copy"));
        db.change(move |changes| copy_tree::attach(changes, &copy, &from, &to)).await.unwrap();
        assert_eq!(wants(&db, file.object).await, 4);
    }

    async fn what_is_in_the_queue_is_looked_at_now(db: TestDb) {
        db.servers(2).await;
        let file = db.write("/f", "x").await;
        db.sql(move |connection| {
            repair::enqueue(connection, &[(file.object.0, 2)]).unwrap();
            let later = now(connection) + chrono::TimeDelta::days(1);
            diesel::update(schema::repair_queue::table).set(schema::repair_queue::next_attempt.eq(later)).execute(connection)
        })
        .await;
        setrep(&db, "/", 3).await.unwrap();
        let due = db
            .sql(|connection| {
                let now = now(connection);
                schema::repair_queue::table.filter(schema::repair_queue::next_attempt.le(now)).count().get_result::<i64>(connection)
            })
            .await;
        assert_eq!(due, 1);
    }
}
