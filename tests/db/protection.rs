//! A database that has forgotten something takes no changes; one that was restored since does.

use diesel::prelude::*;
use holdfast::db::cluster::{self, ClusterState};
use holdfast::db::schema::cluster::dsl;
use holdfast::types::ErrorCode::ReadOnly;

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
}
