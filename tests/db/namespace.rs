//! What each change does, and what it refuses.

use holdfast::db::copy_tree::{begin, step};
use holdfast::db::namespace;
use holdfast::types::ErrorCode::*;

use crate::both_backends;
use crate::fixture::*;

both_backends! {
    async fn no_move_and_no_copy_makes_a_path_too_long(db: TestDb) {
        // A file whose path has 4,090 bytes.
        let above = format!("/deep{}", format!("/{}", "n".repeat(199)).repeat(20));
        db.mkdirs(&above).await;
        let name = "f".repeat(4_090 - above.len() - 1);
        db.mkdir(&format!("{above}/{name}")).await.unwrap();
        db.mkdir("/taken2").await.unwrap();
        let before = db.tree().await;
        for to in ["/deeper-by-7".to_string(), format!("/{}", "L".repeat(200))] {
            let refused = db.mv("/deep", &to).await.unwrap_err();
            assert_eq!(refused.code(), InvalidPath, "{to}");
            assert!(refused.message().contains("4096 are the most"), "{refused}");
            let to: &'static str = Box::leak(to.into_boxed_str());
            let copied = async {
                let mut copy = db.change(move |changes| begin(changes, &p("/deep"), &p(to))).await?;
                loop {
                    let (next, more) = db.change(move |changes| step(changes, copy)).await?;
                    if !more {
                        return Ok(());
                    }
                    copy = next;
                }
            };
            let copied: holdfast::types::Result<()> = copied.await;
            assert_eq!(code(copied), InvalidPath, "{to}");
            assert_eq!(db.tree().await, before);
        }
        assert_eq!(code(db.mv("/deep", "/taken2/deep").await), InvalidPath);
        db.mv("/deep", "/deep-by-six").await.unwrap_err();
        db.mv("/deep", "/deep-plus-6").await.unwrap_err();
        db.mv("/deep", "/deep123456").await.unwrap();
        db.mv("/deep123456", "/s").await.unwrap();
        let moved = db.entry(&format!("/s{}/{name}", &above["/deep".len()..])).await;
        assert!(moved.is_some());
    }

    async fn directories(db: TestDb) {
        db.mkdir("/a").await.unwrap();
        assert_eq!(code(db.mkdir("/a").await), AlreadyExists);
        assert_eq!(code(db.mkdir("/x/y").await), NotFound);
        db.mkdirs("/x/y/z").await;
        db.mkdirs("/x/y/z").await;
        assert_eq!(db.tree().await, ["a/", "x/", "x/y/", "x/y/z/"]);
        let rmdir = |path: &str| { let path = p(path); db.change(move |changes| namespace::rmdir(changes, &path)) };
        assert_eq!(code(rmdir("/x").await), DirectoryNotEmpty);
        assert_eq!(code(rmdir("/").await), InvalidRequest);
        assert_eq!(code(rmdir("/nothing").await), NotFound);
        rmdir("/x/y/z").await.unwrap();
        assert_eq!(db.tree().await, ["a/", "x/", "x/y/"]);
    }

    async fn files_in_the_way(db: TestDb) {
        db.servers(2).await;
        db.write("/f", "1").await;
        assert_eq!(code(db.mkdir("/f").await), AlreadyExists);
        assert_eq!(code(db.mkdir("/f/d").await), NotADirectory);
        assert_eq!(code(db.rm("/f/d", true).await), NotADirectory);
        let path = p("/f");
        assert_eq!(code(db.change(move |changes| namespace::rmdir(changes, &path)).await), NotADirectory);
    }

    async fn moves_follow_rename(db: TestDb) {
        db.servers(2).await;
        for dir in ["/d/sub", "/empty", "/full/x"] { db.mkdirs(dir).await; }
        db.write("/f", "f").await;
        let replaced = db.write("/g", "g").await;
        assert_eq!(code(db.mv("/d", "/d/sub/inside").await), InvalidRequest);
        assert_eq!(code(db.mv("/d", "/d").await.map(|()| Err::<(), _>(holdfast::types::Error::invalid("no change"))).unwrap()), InvalidRequest);
        assert_eq!(code(db.mv("/", "/r").await), InvalidRequest);
        assert_eq!(code(db.mv("/f", "/d").await), IsADirectory);
        assert_eq!(code(db.mv("/d", "/f").await), NotADirectory);
        assert_eq!(code(db.mv("/d", "/full").await), DirectoryNotEmpty);
        assert_eq!(code(db.mv("/nothing", "/n").await), NotFound);
        assert_eq!(code(db.mv("/f", "/nothing/f").await), NotFound);
        db.mv("/d", "/empty").await.unwrap();
        db.mv("/f", "/g").await.unwrap();
        assert_eq!(db.tree().await, ["empty/", "empty/sub/", "full/", "full/x/", "g"]);
        assert_eq!(db.object(replaced.object).await.unwrap().state, "deleted");
        assert_eq!(db.outbox().await.len(), 2);
    }

    async fn a_copy_shares_its_object_until_the_last_file_goes(db: TestDb) {
        db.servers(2).await;
        let file = db.write("/f", "1").await;
        db.cp("/f", "/g").await.unwrap();
        assert_eq!(code(db.cp("/f", "/f").await), InvalidRequest);
        db.mkdir("/d").await.unwrap();
        assert_eq!(code(db.cp("/f", "/d").await), IsADirectory);
        assert_eq!(code(db.cp("/d", "/e").await), IsADirectory);
        db.rm("/f", false).await.unwrap();
        assert_eq!(db.object(file.object).await.unwrap().state, "live");
        assert!(db.outbox().await.is_empty());
        db.rm("/g", false).await.unwrap();
        assert_eq!(db.object(file.object).await.unwrap().state, "deleted");
        let outbox = db.outbox().await;
        assert_eq!(outbox.len(), 2);
        assert!(outbox.iter().all(|row| row.version == outbox[0].version && row.object == file.object.0));
    }

    async fn a_copy_into_a_directory_with_more_copies_raises_and_queues(db: TestDb) {
        db.servers(2).await;
        let file = db.write("/f", "1").await;
        db.mkdir("/safe").await.unwrap();
        let path = p("/safe");
        db.change(move |changes| namespace::set_replication(changes, &path, Some(3))).await.unwrap();
        db.cp("/f", "/safe/f").await.unwrap();
        assert_eq!(db.object(file.object).await.unwrap().copies_wanted, 3);
        let queued: i64 = db.sql(|connection| {
            use diesel::prelude::*;
            holdfast::db::schema::repair_queue::table.count().get_result(connection)
        }).await;
        assert_eq!(queued, 1);
    }

    async fn removal_has_conditions(db: TestDb) {
        db.servers(2).await;
        let file = db.write("/f", "1").await;
        let path = p("/f");
        let stale = db.change(move |changes| namespace::remove(changes, &path, false, Some(file.version + 7), &TIMES)).await;
        assert_eq!(code(stale), PreconditionFailed);
        db.mkdirs("/d/e").await;
        assert_eq!(code(db.rm("/d", false).await), IsADirectory);
        assert_eq!(code(db.rm("/", true).await), InvalidRequest);
        db.rm("/d", true).await.unwrap();
        db.rm("/f", false).await.unwrap();
        assert!(db.tree().await.is_empty());
    }

    async fn a_directory_of_any_size_moves_by_one_row(db: TestDb) {
        db.servers(2).await;
        db.mkdir("/big").await.unwrap();
        let uploads = (0..2_000).map(|n| upload(&format!("/big/{n}"), "x")).collect();
        assert!(commit_all(&db.db, uploads).await.iter().all(Result::is_ok));
        let before = db.last_version().await;
        db.mv("/big", "/moved").await.unwrap();
        db.rm("/moved", true).await.unwrap();
        let rows: Vec<_> = db.journal().await.into_iter().filter(|row| row.version > before).collect();
        assert_eq!(rows.len(), 2, "a move and a removal write one row each");
        assert!(db.tree().await.is_empty());
    }

    async fn a_read_only_cluster_takes_no_changes(db: TestDb) {
        db.sql(|connection| {
            use diesel::prelude::*;
            use holdfast::db::schema::cluster::dsl;
            diesel::update(dsl::cluster).set((dsl::mode.eq("read_only"), dsl::mode_reason.eq("for a test"))).execute(connection)
        }).await;
        let error = db.mkdir("/a").await.unwrap_err();
        assert_eq!(error.code(), ReadOnly);
        assert!(error.message().contains("for a test"));
    }
}
