//! The tables that a restore writes, from rows and inventories that a test has made.

use std::collections::HashSet;

use diesel::prelude::*;
use holdfast::db::restore::{INVENTORY, Known, Plan, rebuild};
use holdfast::db::restores::begin;
use holdfast::db::rows::{EntryRow, ObjectRow, ServerRow, TokenRow};
use holdfast::db::schema::{servers, tokens};
use holdfast::journal::{ENTRIES, OBJECTS, Staging, TOKENS};
use holdfast::types::api::RestoreStatus;
use holdfast::types::id::ROOT;
use holdfast::types::storage_api::{InventoryLine, ReplicaKey};
use holdfast::types::{Generation, ObjectId, ServerId, Sha256, Version};

use crate::both_backends;
use crate::fixture::*;

fn stage(staging: &mut Staging, table: &str, key: String, row: &impl serde::Serialize) {
    staging.apply(table, &key, Some(&serde_json::to_string(row).unwrap())).unwrap();
}

/// A copy of an object whose bytes are its label.
fn copy(staging: &mut Staging, server: ServerId, object: i64, label: &str, version: Version) {
    let replica = ReplicaKey { object: ObjectId(object), generation: Generation(1) };
    let (size, sha256, now) = (label.len() as u64, Sha256::of(label.as_bytes()), chrono::Utc::now());
    let label = label.into();
    let line = InventoryLine {
        replica,
        size,
        sha256,
        label,
        epoch: 1,
        version: Some(version),
        ticket_expires: now,
        verified: now,
        gone: false,
    };
    stage(staging, INVENTORY, format!("{server}/{replica}"), &line);
}

/// A database that went its own way up to version 1010 and has `/f` (1008) of its own; the journal's copies ended
/// at 1000, and behind their end `/f` (1003) and `/g` (1004) were committed. The files afterwards, and the report.
async fn restored(db: &TestDb, told: Version, own: bool) -> (Vec<String>, RestoreStatus) {
    restored_with(db, told, own, 1010, |_| {}).await
}

/// As [`restored`], where somebody has heard of version `known`, with rows of its own.
async fn restored_with(
    db: &TestDb,
    told: Version,
    own: bool,
    known: Version,
    more: impl FnOnce(&mut Staging),
) -> (Vec<String>, RestoreStatus) {
    let server = db.servers(2).await[0];
    let (servers, superuser): (Vec<ServerRow>, TokenRow) = db
        .sql(|connection| {
            Ok((
                servers::table.select(ServerRow::as_select()).load(connection)?,
                tokens::table.select(TokenRow::as_select()).first(connection)?,
            ))
        })
        .await;
    let cluster = db.db.read(holdfast::db::cluster::state).await.unwrap().cluster;
    let epoch = db.db.write(move |connection| begin(connection, 7, cluster, 1)).await.unwrap();
    let mut staging = Staging::create(None).unwrap();
    let now = chrono::Utc::now().naive_utc();
    let entry = EntryRow {
        id: 50,
        parent: Some(ROOT.0),
        name: "f".into(),
        kind: EntryRow::FILE.into(),
        object: Some(500),
        replication: None,
        version: if own { 1008 } else { 990 },
        created: now,
        modified: now,
    };
    let object = ObjectRow {
        id: 500,
        state: ObjectRow::LIVE.into(),
        size: 2,
        sha256: Sha256::of(b"/f").0.to_vec(),
        copies_wanted: 2,
        label: "/f".into(),
        version: 1008,
        created: now,
        forget_after: None,
    };
    stage(&mut staging, ENTRIES, "50".into(), &entry);
    stage(&mut staging, OBJECTS, "500".into(), &object);
    copy(&mut staging, server, 500, "/f", 1008);
    copy(&mut staging, server, 600, "/f", 1003);
    copy(&mut staging, server, 700, "/g", 1004);
    let own = if own { HashSet::from([(ENTRIES.to_string(), "50".to_string())]) } else { HashSet::new() };
    more(&mut staging);
    let known = Known { version: known, by: "somebody has heard of it".into(), rows: vec!["a row".into()] };
    let by_first_token = true;
    let plan = Plan { cluster, epoch, head: 1010, told, known, servers, superuser, by_first_token, copies: 2, own };
    let status = db
        .db
        .write(move |connection| {
            let status = RestoreStatus { source: "journal".into(), ..RestoreStatus::default() };
            rebuild(connection, &mut staging, &plan, status)
        })
        .await
        .unwrap();
    (db.tree().await, status)
}

both_backends! {
    async fn what_was_committed_behind_the_journals_end_comes_back_beside_the_databases_own(db: TestDb) {
        let (tree, status) = restored(&db, 1000, true).await;
        let beside = format!("f (restored {})", ObjectId(600));
        assert_eq!(tree, ["f", &beside, "g"]);
        assert_eq!((status.tail, status.losses_total), (2, 0));
        assert!(status.conflicts.iter().any(|sentence| sentence.contains(&beside)), "{:?}", status.conflicts);
        assert_eq!(db.entry("/f").await.unwrap().object, Some(500));
        assert_eq!(db.object(ObjectId(600)).await.unwrap().state, "live");
        assert!(db.last_version().await > 1_000_000, "no version is used twice");
    }

    async fn what_a_newer_commit_replaced_is_replaced(db: TestDb) {
        let (tree, _) = restored(&db, 1000, false).await;
        assert_eq!(tree, ["f", "g"]);
        assert_eq!(db.entry("/f").await.unwrap().object, Some(600));
    }

    async fn changes_that_are_known_and_not_back_are_told(db: TestDb) {
        let server = db.servers(1).await[0];
        let (_, status) = restored_with(&db, 1010, true, 1014, |staging| {
            copy(staging, server, 800, "/behind", 1012);
        })
        .await;
        assert_eq!((status.lost_changes, status.losses_total, status.tail), (3, 1, 1), "{:?}", status.losses);
        assert!(status.losses[0].starts_with("3 changes after version 1010 are not back (1 others are"), "{:?}", status.losses);
        assert!(status.losses[0].ends_with(": somebody has heard of it") && status.losses[1].contains("a row"));
        let told: i64 = db
            .sql(|connection| {
                use holdfast::db::schema::events::dsl;
                dsl::events.filter(dsl::kind.eq("changes_lost")).count().get_result(connection)
            })
            .await;
        assert_eq!(told, 1);
    }

    async fn tokens_are_those_of_the_journal(db: TestDb) {
        let now = chrono::Utc::now().naive_utc();
        let other = TokenRow {
            name: "other".into(),
            sha256: vec![1; 32],
            role: "reader".into(),
            prefix: None,
            created: now,
            expires: None,
        };
        let (_, status) = restored_with(&db, 1010, true, 1010, |staging| {
            stage(staging, TOKENS, "other".into(), &other);
        })
        .await;
        let names: Vec<String> = db.sql(|connection| tokens::table.select(tokens::name).load(connection)).await;
        assert_eq!(names, ["other"], "the first token was revoked");
        for word in ["it is revoked again", "No superuser's token is valid"] {
            assert!(status.notes.iter().any(|note| note.contains(word)), "{word}: {:?}", status.notes);
        }
    }

    async fn what_the_rows_must_tell_of_and_do_not_was_deleted(db: TestDb) {
        let (tree, status) = restored(&db, 1010, true).await;
        assert_eq!((tree, status.tail), (vec!["f".to_string()], 0));
        assert!(db.object(ObjectId(700)).await.is_none());
    }
}
