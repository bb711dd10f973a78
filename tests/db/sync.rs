//! The inventory of a server that has returned, against the metadata.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::commit::Upload;
use holdfast::db::schema::{outbox, replicas, server_health};
use holdfast::db::sync::{self, Differences, Page};
use holdfast::decisions::sync::Verdict;
use holdfast::types::storage_api::{InventoryLine, ReplicaKey};
use holdfast::types::{Generation, ServerId, Sha256, Version};

use crate::both_backends;
use crate::fixture::*;

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
    db.db.read(move |connection| sync::compare(connection, server.0, &page)).await.unwrap()
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
        assert!(!complete("another start", 1).await.unwrap());
        assert!(!complete(&boot, 0).await.unwrap(), "it was compared with the metadata of before a restore");
        assert!(complete(&boot, 1).await.unwrap());
    }
}
