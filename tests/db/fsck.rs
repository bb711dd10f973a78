//! The checks of the metadata itself: each kind of damage is found, what is well is not, and repair puts right
//! what it can.

use diesel::prelude::*;
use holdfast::db::fsck::{self, Looked};
use holdfast::db::rows::ObjectRow;
use holdfast::db::schema::{entries, objects, replicas, server_health};
use holdfast::types::{EntryId, ObjectId};

use crate::both_backends;
use crate::fixture::*;

/// Every kind of finding with the object that it is about.
async fn found(db: &TestDb) -> Vec<(&'static str, i64)> {
    let mut all = Vec::new();
    for look in [fsck::objects_after, fsck::entries_after] {
        let mut after = Some(i64::MIN);
        while let Some(from) = after {
            let Looked { found, next, .. } =
                db.db.read_snapshot(move |connection| look(connection, from)).await.unwrap();
            all.extend(found.into_iter().map(|found| (found.problem.kind(), found.object.map_or(0, |id| id.0))));
            after = next;
        }
    }
    all.sort_unstable();
    all
}

async fn set_state(db: &TestDb, object: ObjectId, state: &'static str) {
    db.sql(move |connection| {
        diesel::update(objects::table.find(object.0)).set(objects::state.eq(state)).execute(connection)
    })
    .await;
}

async fn release(db: &TestDb, ids: Vec<i64>) -> usize {
    db.change(move |changes| fsck::release(changes, &ids, &TIMES)).await.unwrap()
}

both_backends! {
    async fn what_is_well_is_no_finding(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/d/e").await;
        let uploads = (0..1_100).map(|n| upload(&format!("/d/{n}"), "x")).collect();
        commit_all(&db.db, uploads).await;
        db.cp("/d/1", "/d/e/copy").await.unwrap();
        db.mv("/d/2", "/moved").await.unwrap();
        db.rm("/d/3", false).await.unwrap();
        db.rm("/d/e", true).await.unwrap();
        assert_eq!(found(&db).await, []);
        let page = db.db.read_snapshot(|connection| fsck::objects_after(connection, i64::MIN)).await.unwrap();
        assert_eq!(page.seen as i64, fsck::PAGE_ROWS - 1, "of the first page's, one is deleted");
        assert!(page.next.is_some());
    }

    async fn objects_without_a_file_are_found_and_released(db: TestDb) {
        db.servers(2).await;
        let (lonely, kept) = (db.write("/lonely", "1").await.object, db.write("/kept", "2").await.object);
        db.sql(|connection| diesel::delete(entries::table.filter(entries::name.eq("lonely"))).execute(connection)).await;
        assert_eq!(found(&db).await, [("unreferenced", lonely.0)]);
        assert_eq!(release(&db, vec![lonely.0, kept.0]).await, 1);
        assert_eq!(db.object(lonely).await.unwrap().state, ObjectRow::DELETED);
        assert_eq!(db.object(kept).await.unwrap().state, ObjectRow::LIVE);
        assert_eq!(db.outbox().await.len(), 2);
        assert_eq!(release(&db, vec![lonely.0]).await, 0, "a second time there is nothing to do");
        assert_eq!(found(&db).await, []);
    }

    async fn copies_are_counted_as_the_report_counts_them(db: TestDb) {
        let servers = db.servers(2).await;
        let (whole, half) = (db.write("/whole", "1").await.object, db.write("/half", "2").await.object);
        let none = db.write("/none", "3").await.object;
        let first = servers[0].0;
        db.sql(move |connection| {
            diesel::delete(replicas::table.find((half.0, first))).execute(connection)?;
            diesel::delete(replicas::table.filter(replicas::object.eq(none.0))).execute(connection)
        })
        .await;
        assert_eq!(found(&db).await, [("lost", none.0), ("under_replicated", half.0)]);
        db.sql(move |connection| {
            diesel::update(server_health::table.find(first)).set(server_health::health.eq("down")).execute(connection)
        })
        .await;
        assert_eq!(found(&db).await, [("lost", none.0), ("under_replicated", whole.0), ("under_replicated", half.0)]);
    }

    async fn names_without_bytes_are_told_and_left(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/a/b").await;
        let gone = db.write("/a/b/gone", "1").await.object;
        set_state(&db, gone, "deleted").await;
        assert_eq!(found(&db).await, [("dangling", gone.0), ("stale_replica", gone.0), ("stale_replica", gone.0)]);
        let dropped = db.db.write(move |connection| fsck::drop_stale(connection, &[gone.0], TIMES.read_ticket)).await;
        assert_eq!(dropped.unwrap(), 0, "copies of what a file refers to are evidence");
        let id = EntryId(db.entry("/a/b/gone").await.unwrap().id);
        assert_eq!(db.db.read(move |connection| fsck::path_of(connection, id)).await.unwrap(), "/a/b/gone");
        db.sql(|connection| diesel::delete(entries::table.filter(entries::name.eq("gone"))).execute(connection)).await;
        let dropped = db.db.write(move |connection| fsck::drop_stale(connection, &[gone.0], TIMES.read_ticket)).await;
        assert_eq!((dropped.unwrap(), db.outbox().await.len()), (2, 2));
        assert_eq!(found(&db).await, []);
    }

    async fn entries_outside_any_directory_are_found(db: TestDb) {
        db.servers(2).await;
        db.mkdir("/d").await.unwrap();
        let (file, inside) = (db.write("/file", "1").await.object, db.write("/d/inside", "2").await.object);
        let detached = db.write("/detached", "3").await.object;
        let parent = db.entry("/file").await.unwrap().id;
        db.sql(move |connection| {
            diesel::update(entries::table.filter(entries::object.eq(inside.0)))
                .set(entries::parent.eq(parent))
                .execute(connection)?;
            diesel::update(entries::table.filter(entries::object.eq(detached.0)))
                .set(entries::parent.eq(None::<i64>))
                .execute(connection)
        })
        .await;
        let mut want = [("orphan_entry", inside.0), ("orphan_entry", detached.0)];
        want.sort_unstable();
        assert_eq!(found(&db).await, want);
        assert!(db.object(file).await.is_some());
        let path = db
            .sql(move |connection| {
                let id = entries::table.filter(entries::object.eq(detached.0)).select(entries::id).first(connection)?;
                Ok(fsck::path_of(connection, EntryId(id)).unwrap())
            })
            .await;
        assert_eq!(path, "…/detached");
        // A directory that was removed and waits for the reaper is none.
        db.mkdirs("/removed/x").await;
        db.rm("/removed", true).await.unwrap();
        assert_eq!(found(&db).await, want);
    }
}
