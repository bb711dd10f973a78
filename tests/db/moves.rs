//! What a move and a removal of a large directory cost in rows.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use holdfast::db::dialect;
use holdfast::db::schema::{entries, journal};

use crate::both_backends;
use crate::fixture::*;

const FILES: i64 = 100_000;

/// Rows that were changed: of the journal, and of the tree.
async fn changed(db: &TestDb, since: i64) -> (i64, i64) {
    db.sql(move |connection| {
        let lines = journal::table.filter(journal::version.gt(since)).count().get_result(connection)?;
        let rows = entries::table.filter(entries::version.gt(since)).count().get_result(connection)?;
        Ok((lines, rows))
    })
    .await
}

async fn version(db: &TestDb) -> i64 {
    db.db.read(holdfast::db::cluster::state).await.unwrap().version
}

both_backends! {
    async fn a_directory_of_a_hundred_thousand_files_moves_by_one_row(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/from/big").await;
        db.mkdir("/to").await.unwrap();
        let seed = db.write("/from/big/seed", "x").await;
        let big = db.entry("/from/big").await.unwrap().id;
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ";
        let fill = format!(
            "INSERT INTO entries (id, parent, name, kind, object, replication, version, created, modified) \
             {numbers}{FILES}) SELECT 1000000 + n.i, {big}, 'f' || n.i, 'file', {}, NULL, {}, e.created, e.modified \
             FROM n, entries e WHERE e.id = {big}",
            seed.object.0, seed.version
        );
        db.sql(move |connection| {
            dialect::take_time(connection)?;
            connection.batch_execute(&fill)
        })
        .await;
        let there = |parent: i64| db.sql(move |connection| {
            entries::table.filter(entries::parent.eq(parent)).count().get_result::<i64>(connection)
        });
        assert_eq!(there(big).await, FILES + 1);
        let before = version(&db).await;
        db.mv("/from/big", "/to/moved").await.unwrap();
        assert_eq!(changed(&db, before).await, (1, 1), "one journal row, one entry");
        assert_eq!(there(big).await, FILES + 1, "they are where they were: below the directory that moved");
        assert_eq!(db.entry("/to/moved/f77777").await.unwrap().object, Some(seed.object.0));
        assert!(db.entry("/from/big").await.is_none());
        // Its removal is one row, too; the reaper empties it later.
        let before = version(&db).await;
        db.rm("/to/moved", true).await.unwrap();
        assert_eq!(changed(&db, before).await, (1, 1));
        assert!(db.entry("/to/moved/f77777").await.is_none());
        assert_eq!(there(big).await, FILES + 1);
    }
}
