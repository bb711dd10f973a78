//! A damaged database: what is seen of it, what it stops, how it is put aside, and what it still tells afterwards.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use holdfast::db::change::Changes;
use holdfast::db::damage::Damage;
use holdfast::db::reap::empty_detached;
use holdfast::db::rows::ClusterRow;
use holdfast::db::{Failure, check, cluster, former, namespace, replication, server, token};
use holdfast::journal::{ENTRIES, Staging};
use holdfast::types::api::{AdminState, Role};
use holdfast::types::storage_api::JournalPosition;
use holdfast::types::{ErrorCode, Sha256};

use crate::both_backends;
use crate::fixture::*;

/// Changes of every kind that is journaled.
async fn changes_of_every_kind(db: &TestDb) {
    let servers = db.servers(3).await;
    for path in ["/a", "/a/b", "/gone", "/gone/too"] {
        db.mkdir(path).await.unwrap();
    }
    for path in ["/a/f", "/a/b/g", "/gone/f", "/h"] {
        db.write(path, path).await;
    }
    db.write("/a/f", "overwritten").await;
    db.mv("/a/b", "/moved").await.unwrap();
    db.cp("/h", "/copy").await.unwrap();
    db.rm("/h", false).await.unwrap();
    db.rm("/gone", true).await.unwrap();
    while db.change(|changes| empty_detached(changes, &TIMES)).await.unwrap() > 0 {}
    db.change(|changes| namespace::set_replication(changes, &p("/moved"), Some(3))).await.unwrap();
    db.change(|changes| {
        let mut adjustment = replication::begin(changes, &p("/a"), 3)?;
        loop {
            let (next, more) = replication::step(changes, adjustment)?;
            adjustment = next;
            if !more {
                return Ok(());
            }
        }
    })
    .await
    .unwrap();
    for name in ["kept", "revoked"] {
        let hash = Sha256::of(name.as_bytes());
        db.change(move |changes| token::insert(changes, name, hash, Role::Reader, Some(&p("/a")), None)).await.unwrap();
    }
    db.change(|changes| token::revoke(changes, "revoked", true)).await.unwrap();
    let server = servers[2];
    db.change(move |changes| server::set_admin_state(changes, server, AdminState::Draining)).await.unwrap();
}

/// What the look at the journal's end says after a statement, which is taken back.
async fn seen_after(db: &TestDb, statement: &str) -> String {
    let statement = statement.to_string();
    let outcome = db
        .db
        .write(move |connection| {
            connection.batch_execute(&statement)?;
            let seen = match check::end_fits(connection) {
                Ok(()) => String::new(),
                Err(error) => Damage::in_chain(&error).map_or_else(|| error.chain(), |damage| damage.what),
            };
            Err::<(), _>(Failure::Refused(holdfast::types::Error::not_found(seen)))
        })
        .await;
    outcome.unwrap_err().message().to_string()
}

both_backends! {
    async fn what_belongs_together_is_told_from_what_does_not(db: TestDb) {
        changes_of_every_kind(&db).await;
        assert_eq!(seen_after(&db, "UPDATE entries SET id = id").await, "", "all is well");
        let version = db.last_version().await;
        for (statement, seen) in [
            (format!("UPDATE cluster SET last_version = {}", version + 1), "its journal ends with another version"),
            (format!("UPDATE cluster SET last_version = {}", version - 1), "its journal ends with another version"),
            (format!("DELETE FROM journal WHERE version = {version}"), "its journal ends with another version"),
            (format!("DELETE FROM journal WHERE version = {}", version - 3), "changes are missing in its journal"),
            ("DELETE FROM journal".into(), "its journal is empty"),
            (format!("UPDATE journal SET content = '{{}}' WHERE version = {}", version - 4), "does not follow from what"),
            ("UPDATE entries SET name = 'other' WHERE name = 'copy'".into(), "its table entries does not have"),
            ("UPDATE entries SET replication = 5 WHERE name = 'moved'".into(), "its table entries does not have"),
            ("DELETE FROM entries WHERE name = 'copy'".into(), "its table entries does not have"),
            ("UPDATE objects SET label = '/other' WHERE label = '/a/f'".into(), "its table objects does not have"),
            ("UPDATE objects SET state = 'live' WHERE state = 'deleted'".into(), "its table objects does not have"),
            ("DELETE FROM tokens WHERE name = 'kept'".into(), "its table tokens does not have"),
            ("UPDATE tokens SET prefix = NULL WHERE name = 'kept'".into(), "its table tokens does not have"),
            ("UPDATE servers SET url = 'http://elsewhere' WHERE name = 's1'".into(), "its table servers does not have"),
        ] {
            let found = seen_after(&db, &statement).await;
            assert!(found.contains(seen), "{statement}: {found}");
        }
    }

    async fn the_first_sign_stops_what_is_under_way_and_what_comes(db: TestDb) {
        db.mkdir("/before").await.unwrap();
        let soundness = db.db.soundness().clone();
        let under_way = db.db.write(move |connection| {
            let mut changes = Changes::begin(connection)?;
            namespace::mkdir(&mut changes, &p("/under-way"), false)?;
            changes.finish()?;
            soundness.declare(&Damage::of_content("seen by somebody else"), false);
            Ok(())
        });
        let refused = under_way.await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::ReadOnly);
        assert!(refused.message().contains("seen by somebody else") && refused.message().contains("`holdfast restore`"));
        assert_eq!(code(db.mkdir("/later").await), ErrorCode::ReadOnly);
        assert!(db.entry("/before").await.is_some(), "what is there is read");
        let absent = db.db.read(|_| Err::<(), _>(holdfast::types::Error::not_found("/x"))).await;
        assert_eq!(code(absent), ErrorCode::ReadOnly, "nothing is absent for certain");
        db.db.soundness().clear();
        assert_eq!(db.tree().await, ["before/"]);
        // The database's own words, and whatever hides them.
        let hidden = db.db.read(|_| {
            let error: holdfast::types::Error = Damage::of_content("malformed").into();
            Err::<(), _>(holdfast::types::Error::internal("a step").with_source(error))
        });
        assert_eq!(code(hidden.await), ErrorCode::ReadOnly);
        assert!(db.db.soundness().trouble().unwrap().sentence.contains("malformed"));
    }

    async fn a_damaged_database_is_put_aside_and_tells_what_it_proves(db: TestDb) {
        changes_of_every_kind(&db).await;
        let head = head(&db).await;
        for path in ["/one", "/two", "/three"] {
            db.mkdir(path).await.unwrap();
        }
        let last = head.version + 3;
        db.db.soundness().declare(&Damage::of_content("for a test"), false);
        let place = db.db.begin_anew(&secret()).await.unwrap().unwrap();
        assert!(db.db.soundness().trouble().is_none());
        let state = db.db.read(cluster::state).await.unwrap();
        assert_eq!((state.mode.word(), state.version), ("restoring", 0), "an empty one waits");
        let find = |head: JournalPosition| former::find(db.db.url(), &head);
        let former = find(head.clone()).unwrap();
        assert_eq!((&former.place, former.reach, former.knows), (&place, last, last));
        let mut staging = Staging::create(None).unwrap();
        former::bring_back(db.db.url(), &former, &head, &mut staging).unwrap();
        assert_eq!(staging.count(ENTRIES).unwrap(), 3);
        // From an end of which it knows another tip nothing follows, and the loss is told.
        let parted = find(JournalPosition { tip: Sha256([7; 32]), ..head.clone() }).unwrap();
        assert_eq!((parted.reach, parted.knows, parted.lost_rows.len()), (head.version, last, 3));
        assert!(parted.lost_rows[0].contains("\"one\""), "{:?}", parted.lost_rows);
        // Of another history it tells nothing, unless that is an earlier one: then all of its changes are lost.
        let other = JournalPosition { tip: Sha256([7; 32]), history: uuid::Uuid::new_v4(), ..head.clone() };
        assert_eq!(find(other.clone()), None);
        let earlier = find(JournalPosition { epoch: 0, ..other }).unwrap();
        assert_eq!((earlier.reach, earlier.knows, earlier.later_changes), (head.version, head.version, last as u64));
        // And again: each is kept.
        let again = db.db.begin_anew(&secret()).await.unwrap().unwrap();
        assert_ne!(again, place);
        assert_eq!(holdfast::db::aside::all(db.db.url()).unwrap(), [again, place]);
    }

    async fn servers_are_told_of_versions_that_copies_have(db: TestDb) {
        db.mkdir("/a").await.unwrap();
        let copied = |version: i64| {
            db.sql(move |connection| {
                use holdfast::db::schema::cluster::dsl;
                diesel::update(dsl::cluster).set(dsl::journal_copied.eq(version)).execute(connection)
            })
        };
        let version = db.last_version().await;
        for (noted, told_of) in [(0, 0), (version, version)] {
            copied(noted).await;
            assert_eq!(told(&db).await, told_of);
        }
        // As a restore leaves it: nothing of the new history is anywhere.
        db.sql(|connection| connection.batch_execute("DELETE FROM journal; UPDATE cluster SET last_version = 1000007")).await;
        copied(1_000_006).await;
        assert_eq!(told(&db).await, 0);
        copied(1_000_007).await;
        assert_eq!(told(&db).await, 1_000_007);
    }

    async fn a_change_that_is_there_in_part_is_not_brought_back(db: TestDb) {
        db.servers(2).await;
        let head = head(&db).await;
        db.mkdir("/whole").await.unwrap();
        db.write("/f", "two rows").await;
        let last = head.version + 2;
        db.sql(move |connection| connection.batch_execute(&format!("DELETE FROM journal WHERE version = {last} AND seq = 1")))
            .await;
        db.db.begin_anew(&secret()).await.unwrap().unwrap();
        let former = former::find(db.db.url(), &head).unwrap();
        assert_eq!((former.reach, former.knows), (last - 1, last));
    }
}

/// What storage servers are told is what a restore looks for: never a version that no copy has.
async fn told(db: &TestDb) -> i64 {
    db.db.read(holdfast::db::journal::told_version).await.unwrap()
}

async fn head(db: &TestDb) -> JournalPosition {
    let row: ClusterRow = db
        .sql(|connection| holdfast::db::schema::cluster::table.select(ClusterRow::as_select()).first(connection))
        .await;
    JournalPosition {
        history: row.history_id.parse().unwrap(),
        epoch: row.epoch,
        version: row.last_version,
        tip: Sha256::from_slice(&row.tip).unwrap(),
    }
}
