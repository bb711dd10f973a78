//! The tables that a restore writes, from rows and inventories that a test has made.

use std::sync::Arc;

use diesel::prelude::*;
use holdfast::db::restore::{INVENTORY, Known, OWN, Plan, own_key, rebuild};
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

pub fn stage(staging: &mut Staging, table: &str, key: String, row: &impl serde::Serialize) {
    staging.apply(table, &key, Some(&serde_json::to_string(row).unwrap())).unwrap();
}

/// A copy of an object whose bytes are its label.
pub fn copy(staging: &mut Staging, server: ServerId, object: i64, label: &str, version: impl Into<Option<Version>>) {
    let replica = ReplicaKey { object: ObjectId(object), generation: Generation(1) };
    let (size, sha256, now) = (label.len() as u64, Sha256::of(label.as_bytes()), chrono::Utc::now());
    let label = label.into();
    let line = InventoryLine {
        replica,
        size,
        sha256,
        label,
        epoch: 1,
        version: version.into(),
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
    if own {
        stage(&mut staging, OWN, own_key(ENTRIES, "50"), &());
    }
    more(&mut staging);
    let known = Known { version: known, by: "somebody has heard of it".into(), rows: vec!["a row".into()] };
    let by_first_token = true;
    let progress = Arc::default();
    let plan =
        Plan { cluster, epoch, head: 1010, told, known, servers, superuser, by_first_token, copies: 2, progress };
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

    async fn a_doubt_is_only_where_something_is_in_doubt(db: TestDb) {
        let other = db.servers(2).await[1];
        let third = db.servers(3).await[2];
        let (tree, status) = restored_with(&db, 1000, true, 1010, |staging| {
            // One copy of `/g` is marked (see above), and these are not; one has other bytes.
            copy(staging, other, 700, "/g", None);
            copy(staging, third, 700, "/other bytes", None);
            // The other copy of a known object is not marked either.
            copy(staging, other, 500, "/f", None);
            // Committed before the end of what the rows tell, and not among them.
            copy(staging, other, 800, "/deleted", 900);
            copy(staging, third, 800, "/deleted", None);
            // Nobody has heard of these.
            copy(staging, other, 900, "/doubtful", None);
            copy(staging, third, 900, "/doubtful", None);
        })
        .await;
        assert_eq!(tree.len(), 3, "{tree:?}");
        assert_eq!(status.doubts_total, 2, "{:?}", status.doubts);
        assert!(status.doubts.iter().all(|doubt| doubt.contains("/doubtful")), "{:?}", status.doubts);
        let copies: Vec<(i64, i64)> = db
            .sql(|connection| {
                use holdfast::db::schema::replicas::dsl;
                dsl::replicas.select((dsl::object, dsl::server)).order((dsl::object, dsl::server)).load(connection)
            })
            .await;
        let of = |object: i64| copies.iter().filter(|(id, _)| *id == object).count();
        assert_eq!([500, 600, 700, 800, 900].map(of), [2, 1, 2, 0, 0], "{copies:?}");
    }

    async fn of_entries_with_one_name_each_keeps_its_file(db: TestDb) {
        let now = chrono::Utc::now().naive_utc();
        let (tree, status) = restored_with(&db, 1010, true, 1010, |staging| {
            for number in 0..5i64 {
                let name = match number {
                    // The name that the other one would get.
                    4 => format!("same (restored {})", holdfast::types::EntryId(2_000)),
                    _ => "same".to_string(),
                };
                let entry = EntryRow {
                    id: 2_000 + number,
                    parent: Some(ROOT.0),
                    name,
                    kind: EntryRow::FILE.into(),
                    object: Some(3_000 + number),
                    replication: None,
                    version: 100 + number,
                    created: now,
                    modified: now,
                };
                let object = ObjectRow {
                    id: 3_000 + number,
                    // One has lost its last entry on the branch that was taken.
                    state: if number == 1 { ObjectRow::DELETED } else { ObjectRow::LIVE }.into(),
                    size: 1,
                    sha256: vec![0; 32],
                    copies_wanted: 2,
                    label: format!("/same{number}"),
                    version: 100 + number,
                    created: now,
                    forget_after: (number == 1).then_some(now),
                };
                stage(staging, ENTRIES, entry.id.to_string(), &entry);
                if number != 2 {
                    stage(staging, OBJECTS, object.id.to_string(), &object);
                }
            }
        })
        .await;
        assert_eq!(tree.len(), 5, "{tree:?}");
        assert_eq!(db.entry("/same").await.unwrap().id, 2_003, "the newest");
        assert!(tree.contains(&format!("same (restored {} again)", holdfast::types::EntryId(2_000))), "{tree:?}");
        assert_eq!(db.object(ObjectId(3_001)).await.unwrap().state, "live");
        let told = |list: &[String], word: &str| list.iter().filter(|sentence| sentence.contains(word)).count();
        assert_eq!(told(&status.losses, "does not tell of its object"), 1, "{:?}", status.losses);
        assert_eq!(told(&status.conflicts, "two entries named"), 2, "{:?}", status.conflicts);
        assert_eq!(told(&status.losses, "no copy was found"), 4, "{:?}", status.losses);
        assert_eq!(status.losses_total, 5);
    }
}
