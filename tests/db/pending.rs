//! The fate of pending replicas.

use chrono::TimeDelta;
use holdfast::db::pending;
use holdfast::types::ErrorCode::TicketExpired;
use holdfast::types::api::{PendingFate, PendingReplica};
use holdfast::types::{Generation, ObjectId, ServerId};

use crate::both_backends;
use crate::fixture::*;

fn asked(object: ObjectId, generation: Generation, expires_in_seconds: i64) -> PendingReplica {
    let ticket_expires = chrono::Utc::now() + TimeDelta::seconds(expires_in_seconds);
    PendingReplica { object, generation, ticket_expires, epoch: 1 }
}

async fn decide(db: &TestDb, server: ServerId, replicas: Vec<PendingReplica>) -> Vec<PendingFate> {
    db.db.write(move |connection| pending::decide(connection, server, &replicas, TimeDelta::hours(1))).await.unwrap()
}

both_backends! {
    async fn a_copy_is_kept_exactly_when_its_row_exists(db: TestDb) {
        let servers = db.servers(3).await;
        let report = upload("/f", "x");
        let (object, generation) = (report.ticket.object, report.ticket.generation);
        assert_eq!(decide(&db, servers[0], vec![asked(object, generation, 60)]).await, [PendingFate::Wait]);
        let committed = db.commit_one(report).await.unwrap();
        let keep = PendingFate::Keep { version: committed.version, label: "/f".into() };
        let other = Generation::generate();
        let questions = vec![asked(object, generation, 60), asked(object, generation, -60), asked(object, other, -60), asked(object, other, 60)];
        assert_eq!(decide(&db, servers[0], questions.clone()).await, [keep.clone(), keep.clone(), PendingFate::Delete, PendingFate::Wait]);
        // The third server is no holder.
        assert_eq!(decide(&db, servers[2], vec![asked(object, generation, -60)]).await, [PendingFate::Delete]);
        let known = db.db.read(move |connection| pending::known(connection, servers[0], &questions)).await.unwrap();
        assert_eq!(known, [Some(keep.clone()), Some(keep), None, Some(PendingFate::Wait)]);
    }

    async fn what_was_collected_can_never_be_committed(db: TestDb) {
        let servers = db.servers(2).await;
        let report = upload("/f", "x");
        let question = asked(report.ticket.object, report.ticket.generation, -1);
        assert_eq!(decide(&db, servers[0], vec![question]).await, [PendingFate::Delete]);
        // Even with a ticket that looks good again, as after a clock that jumped back.
        assert_eq!(code(db.commit_one(report).await), TicketExpired);
        assert!(db.tree().await.is_empty());
    }

    async fn replicas_of_another_epoch_are_never_deleted_by_asking(db: TestDb) {
        let servers = db.servers(1).await;
        let mut question = asked(ObjectId::generate(), Generation::generate(), -60);
        question.epoch = 0;
        assert_eq!(decide(&db, servers[0], vec![question]).await, [PendingFate::Wait]);
    }
}
