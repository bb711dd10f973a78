//! A database that has forgotten something takes no changes; one that was restored since does.

use diesel::prelude::*;
use holdfast::db::cluster::{self, ClusterState};
use holdfast::db::journal;
use holdfast::db::schema::cluster::dsl;
use holdfast::types::ErrorCode::ReadOnly;
use holdfast::types::Sha256;
use holdfast::types::storage_api::JournalPosition;

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
