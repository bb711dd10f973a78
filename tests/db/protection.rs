//! A database that has forgotten something takes no changes; one that was restored since does.

use diesel::prelude::*;
use holdfast::db::cluster::{self, ClusterState, state as cluster_state};
use holdfast::db::connection::AnyConnection;
use holdfast::db::schema::cluster::dsl;
use holdfast::db::schema::leases;
use holdfast::db::{journal, lease, restores};
use holdfast::types::ErrorCode::ReadOnly;
use holdfast::types::storage_api::JournalPosition;
use holdfast::types::{Sha256, bounds};

use crate::both_backends;
use crate::fixture::*;

async fn protect(db: &TestDb, judged: ClusterState) -> bool {
    db.db.write(move |connection| cluster::protect(connection, &judged, "a reason")).await.unwrap()
}

both_backends! {
    async fn what_was_judged_before_a_restore_stops_nothing(db: TestDb) {
        let before = db.db.read(cluster::state).await.unwrap();
        db.sql(|connection| {
            diesel::update(dsl::cluster).set(dsl::history_id.eq(uuid::Uuid::new_v4().to_string())).execute(connection)
        }).await;
        assert!(!protect(&db, before.clone()).await, "another history");
        let now = db.db.read(cluster::state).await.unwrap();
        assert!(!protect(&db, ClusterState { epoch: now.epoch - 1, ..now.clone() }).await, "another epoch");
        db.mkdir("/d").await.unwrap();
        assert!(protect(&db, now.clone()).await, "it may have gone on since");
        assert!(!protect(&db, now).await, "that is known already");
        assert_eq!(code(db.mkdir("/e").await), ReadOnly);
        assert_eq!(db.db.read(cluster::state).await.unwrap().mode_reason.as_deref(), Some("a reason"));
    }

    async fn numbers_that_nobody_has_counted_up_to_are_refused_and_overflow_nothing(db: TestDb) {
        let cluster = uuid::Uuid::new_v4();
        for seen in [i64::MAX, bounds::EPOCH_MAX, -5] {
            let begun = db.db.write(move |connection| restores::begin(connection, 7, cluster, seen)).await;
            // What is lower than the database's own epoch counts for nothing.
            assert_eq!(begun.is_ok(), seen < 0, "{seen}: {begun:?}");
            if let Err(error) = begun {
                assert!(error.message().contains("cannot be followed"), "{error}");
            }
        }
        db.sql(|connection| diesel::update(dsl::cluster).set(dsl::mode.eq("normal")).execute(connection)).await;
        db.mkdir("/before").await.unwrap();
        type Damage = fn(&mut AnyConnection) -> QueryResult<usize>;
        let damages: [(Damage, &str); 4] = [
            (|c| diesel::update(dsl::cluster).set(dsl::epoch.eq(i64::MAX)).execute(c), "epoch"),
            (|c| diesel::update(dsl::cluster).set(dsl::last_version.eq(i64::MAX)).execute(c), "version"),
            (|c| diesel::update(dsl::cluster).set(dsl::journal_copied.eq(i64::MIN)).execute(c), "version"),
            (|c| diesel::update(dsl::cluster).set(dsl::epoch.eq(-1)).execute(c), "epoch"),
        ];
        for (damage, word) in damages {
            let (epoch, last, copied): (i64, i64, i64) =
                db.sql(|c| dsl::cluster.select((dsl::epoch, dsl::last_version, dsl::journal_copied)).first(c)).await;
            db.sql(damage).await;
            let read = db.db.read(cluster_state).await.unwrap_err();
            let written = db.mkdir("/after").await.unwrap_err();
            for error in [read, written] {
                assert!(error.message().contains("damaged") && error.message().contains(word), "{error}");
            }
            db.sql(move |c| {
                let right = (dsl::epoch.eq(epoch), dsl::last_version.eq(last), dsl::journal_copied.eq(copied));
                diesel::update(dsl::cluster).set(right).execute(c)
            })
            .await;
        }
        db.mkdir("/after").await.unwrap();
        let ttl = chrono::TimeDelta::seconds(8);
        db.db.write(move |connection| lease::seize(connection, "a", ttl)).await.unwrap();
        db.sql(|c| diesel::update(leases::table).set(leases::term.eq(i64::MAX)).execute(c)).await;
        let seized = db.db.write(move |connection| lease::seize(connection, "b", ttl)).await.unwrap_err();
        assert!(seized.message().contains("term"), "{seized}");
    }

    async fn a_copy_of_the_journal_and_a_commit_of_another_branch_are_told(db: TestDb) {
        db.servers(2).await;
        let early = db.write("/early", "x").await;
        let late = db.write("/late", "y").await;
        let state = db.db.read(cluster::state).await.unwrap();
        let mut tips = db.journal().await.into_iter().filter(|row| row.version == early.version).map(|row| row.tip);
        let of_early = Sha256::from_slice(&tips.next_back().unwrap()).unwrap();
        let of_last = Sha256::from_slice(&state.tip).unwrap();
        let other = Sha256::of(b"another branch");
        let history = state.history;
        let cases = [
            (history, early.version, of_early, false),
            (history, early.version, other, true),
            (history, state.version, of_last, false),
            (history, state.version, other, true),
            (uuid::Uuid::new_v4(), early.version, other, false),
            (history, state.version + 1, other, false),
        ];
        for (history, version, tip, want) in cases {
            let (state, position) = (state.clone(), JournalPosition { history, epoch: 1, version, tip });
            let parted = db.sql(move |connection| journal::has_parted(connection, &state, &position)).await;
            assert_eq!(parted, want, "version {version}");
        }
        for (version, object, want) in [
            (early.version, early.object, false),
            (early.version, late.object, true),
            // Trimmed, or of another history: nobody can tell.
            (state.version + 5, early.object, false),
        ] {
            assert_eq!(db.sql(move |connection| journal::was_not_committed_by(connection, version, object)).await, want);
        }
    }
}
