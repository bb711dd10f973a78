//! The inventory of a server that has returned, against the metadata.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::AnyConnection;
use holdfast::db::commit::Upload;
use holdfast::db::health::{Seen, save};
use holdfast::db::rows::ServerHealthRow;
use holdfast::db::schema::{outbox, repair_queue, replicas, server_health};
use holdfast::db::sync::{self, Differences, Page};
use holdfast::decisions::sync::Verdict;
use holdfast::types::storage_api::{InventoryLine, ReplicaKey};
use holdfast::types::{Generation, ObjectId, ServerId, Sha256, Version};

use crate::both_backends;
use crate::fixture::*;
use crate::queue::many;

/// How the server tells of a copy that an upload brought.
fn line(upload: &Upload, version: Option<Version>) -> InventoryLine {
    InventoryLine {
        replica: ReplicaKey { object: upload.ticket.object, generation: upload.ticket.generation },
        size: upload.size,
        sha256: upload.sha256,
        label: upload.ticket.path.to_string(),
        epoch: 1,
        version,
        ticket_expires: upload.ticket.expires,
        verified: chrono::Utc::now(),
        gone: false,
    }
}

async fn compare(db: &TestDb, server: ServerId, mut lines: Vec<InventoryLine>) -> Differences {
    lines.sort_by_key(|line| line.replica);
    let page = Page { after: None, last: None, lines };
    db.db.read(move |connection| sync::compare(connection, server.0, page)).await.unwrap().1
}

async fn apply(db: &TestDb, server: ServerId, found: Differences) -> sync::Applied {
    let lines: Vec<InventoryLine> = found.lines.into_iter().map(|(line, _)| line).collect();
    let apply = move |connection: &mut _| sync::apply(connection, server.0, &lines, &found.missing, TimeDelta::zero());
    db.db.write(apply).await.unwrap()
}

async fn listed(db: &TestDb, server: ServerId) -> i64 {
    db.sql(move |connection| replicas::table.filter(replicas::server.eq(server.0)).count().get_result(connection)).await
}

both_backends! {
    async fn the_metadata_wins(db: TestDb) {
        let server = db.servers(2).await[0];
        let uploads: Vec<Upload> = ["kept", "lost", "removed", "other bytes", "dropped"].map(|name| upload(&format!("/{name}"), name)).to_vec();
        for upload in &uploads {
            db.commit_one(upload.clone()).await.unwrap();
        }
        let [kept, lost, removed, other, dropped] = &uploads[..] else { panic!() };
        db.rm("/removed", false).await.unwrap();
        // Its deletion is not known any more, as after a restore.
        db.sql(|connection| diesel::delete(outbox::table).execute(connection)).await;
        let object = dropped.ticket.object.0;
        db.sql(move |connection| diesel::delete(replicas::table.filter(replicas::object.eq(object))).execute(connection)).await;
        let unknown = upload("/unknown", "nobody knows it");
        let pending = upload("/pending", "its own rule decides");
        let mut second = kept.clone();
        second.ticket.generation = Generation::generate();
        let mut wrong = line(other, Some(4));
        wrong.sha256 = Sha256::of(b"another");
        let lines = vec![
            line(kept, Some(1)), line(removed, Some(3)), wrong, line(dropped, Some(5)), line(&unknown, Some(9)), line(&pending, None), line(&second, Some(1)),
        ];
        let found = compare(&db, server, lines.clone()).await;
        assert_eq!(found.missing, [line(lost, None).replica]);
        assert_eq!(found.kept, 2, "the listed one, and the pending one");
        let verdict = |upload: &Upload| {
            found.lines.iter().find(|(line, _)| line.replica.generation == upload.ticket.generation).map(|(_, verdict)| *verdict)
        };
        assert!(matches!(verdict(removed), Some(Verdict::Delete(_))));
        assert!(matches!(verdict(&second), Some(Verdict::Delete(_))));
        assert!(matches!(verdict(other), Some(Verdict::Quarantine(_))));
        assert!(matches!(verdict(&unknown), Some(Verdict::Quarantine(_))));
        assert_eq!(verdict(dropped), Some(Verdict::Adopt));
        let applied = apply(&db, server, found).await;
        assert_eq!((applied.adopted, applied.deleted, applied.missing, applied.quarantine.len()), (1, 2, 1, 2));
        assert_eq!(listed(&db, server).await, 2, "the one that was kept, and the one that is counted again");
        let mut deletions: Vec<i64> = db.outbox().await.iter().map(|row| row.generation).collect();
        let mut want = vec![removed.ticket.generation.0, second.ticket.generation.0];
        deletions.sort();
        want.sort();
        assert_eq!(deletions, want);
        // Once more: what is under way is left alone.
        let again: Vec<InventoryLine> = lines.into_iter().filter(|line| ![other, &unknown].iter().any(|upload| upload.ticket.object == line.replica.object)).collect();
        let found = compare(&db, server, again).await;
        assert!(found.lines.is_empty() && found.missing.is_empty(), "{found:?}");
    }

    async fn what_changed_since_the_page_is_decided_again(db: TestDb) {
        let server = db.servers(2).await[0];
        let file = upload("/f", "x");
        db.commit_one(file.clone()).await.unwrap();
        let found = compare(&db, server, vec![]).await;
        assert_eq!(found.missing.len(), 1);
        let object = file.ticket.object.0;
        let moved = move |connection: &mut _| {
            diesel::update(replicas::table.filter(replicas::object.eq(object))).set(replicas::generation.eq(7)).execute(connection)
        };
        db.sql(moved).await;
        assert_eq!(apply(&db, server, found).await.missing, 0, "another copy is listed by now");
        assert_eq!(listed(&db, server).await, 1);
    }

    async fn a_comparison_counts_for_one_start_and_one_epoch(db: TestDb) {
        let server = db.servers(1).await[0];
        let boot: String = db.sql(move |connection| server_health::table.find(server.0).select(server_health::boot_id).first(connection)).await;
        let complete = |boot: &str, epoch| {
            let boot = boot.to_string();
            db.db.write(move |connection| sync::complete(connection, server.0, &boot, epoch, "compared".into()))
        };
        let set_health = async |health: &'static str| {
            db.sql(move |connection| diesel::update(server_health::table).set(server_health::health.eq(health)).execute(connection)).await
        };
        set_health("live").await;
        assert!(!complete("another start", 1).await.unwrap());
        assert!(!complete(&boot, 0).await.unwrap(), "it was compared with the metadata of before a restore");
        set_health("down").await;
        assert!(!complete(&boot, 1).await.unwrap(), "it is down meanwhile, and compared again when it is back");
        set_health("live").await;
        assert!(complete(&boot, 1).await.unwrap());
        // A round of health checks that began before looks at the row as it was: nothing of the comparison is undone.
        let checked = |boot: &str, begins_anew| {
            let boot = boot.to_string();
            let save = move |connection: &mut _| {
                let row: ServerHealthRow = server_health::table.find(server.0).select(ServerHealthRow::as_select()).first(connection)?;
                let row = ServerHealthRow { synced_boot: String::new(), boot_id: boot, ..row };
                save(connection, &[Seen { row, health_changed: false, begins_anew, events: Vec::new() }])
            };
            db.db.write(save)
        };
        let is_compared = async || {
            let synced: String = db.sql(move |connection| server_health::table.find(server.0).select(server_health::synced_boot).first(connection)).await;
            synced == boot
        };
        checked(&boot, false).await.unwrap();
        assert!(is_compared().await);
        checked("an earlier start", true).await.unwrap();
        assert!(is_compared().await, "what was checked is another process");
        checked(&boot, true).await.unwrap();
        assert!(!is_compared().await);
    }

    async fn a_server_that_lost_everything_is_compared_in_bounded_steps(db: TestDb) {
        const FILES: i64 = 40_000;
        let servers = db.servers(2).await;
        db.sql(|connection| diesel::update(server_health::table).set(server_health::health.eq("live")).execute(connection)).await;
        let ids = many(&db, &servers, FILES).await;
        db.rm("/first", false).await.unwrap();
        let server = servers[0];
        let short = |connection: &mut AnyConnection| {
            let single = replicas::table.group_by(replicas::object).having(diesel::dsl::count_star().eq(1)).select(replicas::object);
            Ok(single.load::<i64>(connection)?.len() as i64)
        };
        let (mut after, mut pages, mut missing) = (None, 0, 0);
        loop {
            let page = Page { after, last: None, lines: Vec::new() };
            let (page, found) = db.db.read(move |connection| sync::compare(connection, server.0, page)).await.unwrap();
            assert!(found.missing.len() <= 2_000, "{} at once", found.missing.len());
            missing += apply(&db, server, found).await.missing as i64;
            pages += 1;
            assert_eq!(db.sql(short).await, missing, "what is lost is known at each moment, as far as it was compared");
            after = page.last;
            if after.is_none() {
                break;
            }
            assert!(pages < 100, "it never ends");
        }
        assert_eq!((missing, listed(&db, server).await), (FILES, 0));
        let queued: Vec<(i64, i32)> = db.sql(|connection| {
            repair_queue::table.order(repair_queue::object).select((repair_queue::object, repair_queue::copies)).load(connection)
        }).await;
        assert_eq!(queued, ids.into_iter().map(|id| (id, 1)).collect::<Vec<_>>(), "each hangs on a single copy");
    }

    async fn a_page_is_cut_where_many_are_missing_and_nothing_is_passed_over(db: TestDb) {
        let servers = db.servers(2).await;
        let ids = many(&db, &servers, 5_000).await;
        db.rm("/first", false).await.unwrap();
        let server = servers[0];
        // It has a few at the end, and one in the middle.
        let there: Vec<i64> = ids[4_990..].iter().chain(&ids[2_500..2_501]).copied().collect();
        let template = line(&upload("/f", "x"), Some(1));
        let lines = there.iter().map(|id| {
            let replica = ReplicaKey { object: ObjectId(*id), generation: Generation(*id) };
            InventoryLine { replica, ..template.clone() }
        });
        let mut lines: Vec<InventoryLine> = lines.collect();
        lines.sort_by_key(|line| line.replica);
        let (mut after, mut missing, mut kept) = (None, Vec::new(), 0);
        loop {
            let rest = lines.iter().filter(|line| after.is_none_or(|after| line.replica > after)).cloned().collect();
            let page = Page { after, last: None, lines: rest };
            let (page, found) = db.db.read(move |connection| sync::compare(connection, server.0, page)).await.unwrap();
            assert!(found.lines.is_empty(), "{:?}", found.lines);
            kept += found.kept;
            missing.extend(found.missing.iter().map(|key| key.object.0));
            after = page.last;
            if after.is_none() {
                break;
            }
        }
        let want: Vec<i64> = ids.into_iter().filter(|id| !there.contains(id)).collect();
        assert_eq!((kept, missing.len()), (there.len(), want.len()));
        assert_eq!(missing, want);
    }
}
