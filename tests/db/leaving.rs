//! Servers that a person takes away: what would hurt is refused, by whom it was done is told, and one that was removed
//! does not come back by itself.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::leaving::{self, Removal};
use holdfast::db::rows::ReplicaRow;
use holdfast::db::schema::{repair_queue, replicas, server_health, servers};
use holdfast::db::timeline::{self, Filter};
use holdfast::db::{outbox, removed, server};
use holdfast::decisions::leaving::Rules;
use holdfast::types::ErrorCode::{Forbidden, NotFound, PreconditionFailed};
use holdfast::types::api::{AdminState, RegisterRequest};
use holdfast::types::{Result, ServerId};

use crate::both_backends;
use crate::fixture::*;

const RULES: Rules = Rules { min_write_copies: None, allow_same_host: false };

async fn drain(db: &holdfast::db::Db, id: ServerId, force: bool) -> Result<()> {
    change(db, move |changes| {
        changes.asked_by(Some("op".into()));
        leaving::drain(changes, id, RULES, force)
    })
    .await
}

async fn remove(db: &TestDb, id: ServerId, force: bool) -> Result<Removal> {
    db.change(move |changes| {
        changes.asked_by(Some("op".into()));
        leaving::remove(changes, id, RULES, force)
    })
    .await
}

async fn set_health(db: &TestDb, id: ServerId, health: &'static str) {
    db.sql(move |connection| {
        diesel::update(server_health::table.find(id.0)).set(server_health::health.eq(health)).execute(connection)
    })
    .await;
}

async fn state(db: &TestDb, id: ServerId) -> AdminState {
    db.sql(server::standings).await[&id.0].admin_state
}

async fn told(db: &TestDb) -> Vec<(String, Option<String>)> {
    let page = |connection: &mut _| timeline::page(connection, &Filter::default(), None, 100);
    let (events, _) = db.db.read(page).await.unwrap();
    events
        .into_iter()
        .rev()
        .filter(|event| !["server_joined", "token_created"].contains(&event.kind.as_str()))
        .map(|event| (event.kind, event.by))
        .collect()
}

fn announcement(number: u128) -> RegisterRequest {
    RegisterRequest {
        identity: uuid::Uuid::from_u128(number << 100),
        name: format!("s{number}"),
        host: format!("h{number}"),
        url: format!("http://h{number}:1"),
        public_url: format!("http://h{number}:1"),
        zone: String::new(),
        boot_id: uuid::Uuid::new_v4(),
        cluster: None,
        epoch: 0,
        index_changes: 0,
        boots: Vec::new(),
        replace_newer: false,
        capacity_bytes: 1 << 40,
        free_bytes: 1 << 39,
    }
}

both_backends! {
    async fn a_drain_that_leaves_too_few_is_refused(db: TestDb) {
        let ids = db.servers(3).await;
        drain(&db.db, ids[0], false).await.unwrap();
        let refused = drain(&db.db, ids[1], false).await.unwrap_err();
        assert_eq!(refused.code(), PreconditionFailed);
        for part in ["s2 is not drained", "only 1 storage server (s3)", "a write needs 2", "--force"] {
            assert!(refused.message().contains(part), "{part} in {refused}");
        }
        assert_eq!(state(&db, ids[1]).await, AdminState::InService);
        drain(&db.db, ids[1], true).await.unwrap();
        db.change({ let id = ids[1]; move |changes| leaving::undrain(changes, id) }).await.unwrap();
        // One that is dead takes nothing by leaving, and one that is missed cannot be counted on.
        set_health(&db, ids[2], "down").await;
        drain(&db.db, ids[2], false).await.unwrap();
        assert_eq!(code(drain(&db.db, ids[1], false).await), PreconditionFailed);
        let op = Some("op".to_string());
        let expected = [("server_draining", op.clone()), ("server_draining", op.clone()), ("server_in_service", None), ("server_draining", op)];
        assert_eq!(told(&db).await, expected.map(|(kind, by)| (kind.to_string(), by)), "who did it, and what was refused is not there");
    }

    async fn a_directory_that_wants_more_is_counted(db: TestDb) {
        let ids = db.servers(3).await;
        db.mkdir("/precious").await.unwrap();
        db.change(|changes| holdfast::db::replication::begin(changes, &p("/precious"), 3)).await.unwrap();
        let refused = drain(&db.db, ids[0], false).await.unwrap_err();
        assert!(refused.message().contains("files that want 3"), "{refused}");
    }

    async fn of_two_operators_at_once_one_is_refused(db: TestDb) {
        let ids = db.servers(3).await;
        let (one, other) = tokio::join!(drain(&db.db, ids[0], false), drain(&db.other, ids[1], false));
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    }

    async fn more_copies_than_a_write_finds_servers_for_are_refused(db: TestDb) {
        db.servers(1).await;
        db.mkdir("/d").await.unwrap();
        let refuse = |path: &'static str, copies: u32| db.change(move |changes| leaving::refuse_unwritable(changes, &p(path), copies, RULES));
        assert_eq!(code(refuse("/d", 2).await), PreconditionFailed);
        refuse("/d", 1).await.unwrap();
        assert_eq!(code(refuse("/nothing", 2).await), NotFound);
    }

    async fn a_server_with_copies_goes_only_by_force_and_what_is_lost_is_said(db: TestDb) {
        let ids = db.servers(3).await;
        let shared = db.write("/shared", "1").await;
        let lonely = db.write("/lonely", "2").await;
        let (id, other) = (ids[0], ids[1]);
        db.sql(move |connection| diesel::delete(replicas::table.find((lonely.object.0, other.0))).execute(connection)).await;
        let refused = remove(&db, id, false).await.unwrap_err();
        assert_eq!(refused.code(), PreconditionFailed);
        for part in ["2 copies", "1 of these 2 are the only copy", "/lonely", "--force"] {
            assert!(refused.message().contains(part), "{part} in {refused}");
        }
        assert_eq!(remove(&db, id, true).await.unwrap(), Removal::CopiesLeft);
        assert_eq!(state(&db, id).await, AdminState::Draining, "it gets nothing new meanwhile");
        let given_up = db.db.write(move |connection| leaving::give_up_copies(connection, id, Some("op"))).await.unwrap();
        assert_eq!(given_up, 2);
        assert_eq!(remove(&db, id, true).await.unwrap(), Removal::Done);
        let queued: i64 = db.sql(|connection| repair_queue::table.count().get_result(connection)).await;
        assert_eq!(queued, 2, "what is left of them is repaired");
        let kept: i64 = db.sql(move |connection| replicas::table.filter(replicas::object.eq(shared.object.0)).count().get_result(connection)).await;
        assert_eq!(kept, 1);
        let events = told(&db).await;
        assert!(events.contains(&("server_removed".into(), Some("op".into()))), "{events:?}");
        assert!(events.contains(&("replica_trimmed".into(), Some("op".into()))), "{events:?}");
    }

    async fn a_running_server_is_not_removed_without_force(db: TestDb) {
        let ids = db.servers(3).await;
        set_health(&db, ids[0], "live").await;
        let refused = remove(&db, ids[0], false).await.unwrap_err();
        assert!(refused.message().contains("still running"), "{refused}");
        assert_eq!(remove(&db, ids[0], true).await.unwrap(), Removal::Done);
    }

    async fn a_removed_server_comes_back_by_a_persons_word_only(db: TestDb) {
        let ids = db.servers(3).await;
        remove(&db, ids[0], false).await.unwrap();
        let request = announcement(1);
        let again = { let request = request.clone(); move |changes: &mut holdfast::db::change::Changes<'_>| register(changes, &request) };
        let refused = db.change(again.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Forbidden);
        for part in ["was removed", "s1", "by op", "holdfast undrain", &ids[0].to_string(), "empty directory"] {
            assert!(refused.message().contains(part), "{part} in {refused}");
        }
        let row = db.db.read(|connection| removed::resolve(connection, "s1")).await.unwrap().unwrap();
        for _ in 0..2 {
            let row = row.clone();
            db.db.write(move |connection| removed::note_return(connection, &row, "http://h1:1")).await.unwrap();
        }
        let events = told(&db).await;
        assert_eq!(events.iter().filter(|(kind, _)| kind == "removed_server_returned").count(), 1, "told once an hour");
        // Its name is still known to whoever reads what was.
        let of_it = Filter { server: Some(ids[0].0), ..Filter::default() };
        let (of_it, _) = db.db.read(move |connection| timeline::page(connection, &of_it, None, 10)).await.unwrap();
        assert!(of_it.iter().all(|event| event.server_name.as_deref() == Some("s1")), "{of_it:?}");
        db.change({ let row = row.clone(); move |changes| removed::readmit(changes, &row) }).await.unwrap();
        assert_eq!(code(db.change(move |changes| removed::readmit(changes, &row)).await), NotFound);
        assert_eq!(db.change(again).await.unwrap(), ids[0]);
        let there: i64 = db.sql(|connection| servers::table.count().get_result(connection)).await;
        assert_eq!(there, 3);
    }

    async fn what_a_drain_waits_for_is_known(db: TestDb) {
        let ids = db.servers(2).await;
        let id = ids[0].0;
        let file = db.write("/f", "1").await;
        db.write("/g", "2").await;
        db.sql(move |connection| {
            let now = now(connection);
            use repair_queue::dsl;
            diesel::insert_into(dsl::repair_queue)
                .values((dsl::object.eq(file.object.0), dsl::copies.eq(1), dsl::queued.eq(now), dsl::next_attempt.eq(now),
                    dsl::attempts.eq(3), dsl::last_error.eq("no other live server")))
                .execute(connection)
        }).await;
        db.rm("/g", false).await.unwrap();
        let wait = db.sql(move |connection| leaving::drain_wait(connection, id)).await;
        assert_eq!((wait.copies, wait.deletions, wait.hindered), (1, 1, Some(("no other live server".into(), 1))));
        assert!(wait.not_copied.is_some(), "no copy of the journal has it");
        db.sql(|connection| {
            use holdfast::db::schema::outbox::dsl;
            let later = now(connection) + TimeDelta::hours(1);
            diesel::update(dsl::outbox).set(dsl::not_before.eq(later)).execute(connection)
        }).await;
        assert!(db.sql(move |connection| leaving::drain_wait(connection, id)).await.readable_until.is_some());
        let states: Vec<String> = db.sql(move |connection| replicas::table.select(replicas::state).load(connection)).await;
        assert!(states.iter().all(|state| state == ReplicaRow::PRESENT));
        let object = db.outbox().await[0].object;
        let waiting = db.sql(move |connection| outbox::waiting(connection, object)).await;
        assert_eq!(waiting.iter().map(|(name, why)| (name.as_str(), why.word())).collect::<Vec<_>>(), [("s1", "removed"), ("s2", "removed")]);
    }
}
