//! Copies of directories, and what the reaper takes away.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::copy_tree::{self, attach, begin, step};
use holdfast::db::reap::{self, empty_detached, forget_objects};
use holdfast::db::schema;
use holdfast::db::{AnyConnection, events, timeline};
use holdfast::types::ErrorCode::*;
use holdfast::types::EventKind;
use holdfast::types::Result;

use crate::both_backends;
use crate::fixture::*;

async fn build(db: &TestDb, from: &'static str, to: &'static str) -> Result<copy_tree::Copy> {
    let mut copy = db.change(move |changes| begin(changes, &p(from), &p(to))).await?;
    loop {
        let (next, more) = db.change(move |changes| step(changes, copy)).await?;
        copy = next;
        if !more {
            return Ok(copy);
        }
    }
}

async fn reap_all(db: &TestDb) {
    while db.db.read(has_work).await.unwrap() {
        let handled =
            db.change(|changes| Ok(empty_detached(changes, &TIMES)? + forget_objects(changes)?)).await.unwrap();
        assert!(handled > 0, "the reaper says that it has work and finds none");
    }
}

fn has_work(connection: &mut AnyConnection) -> holdfast::types::Result<bool> {
    reap::has_work(connection, TimeDelta::days(365), TimeDelta::days(365))
}

both_backends! {
    async fn a_directory_is_copied_out_of_sight_and_attached_in_one_row(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/d/e/f").await;
        db.mkdirs("/d/empty").await;
        let uploads = (0..1_200).map(|n| upload(&format!("/d/e/{n:04}"), "x")).collect();
        commit_all(&db.db, uploads).await;
        let before = db.tree().await;
        let copy = build(&db, "/d", "/copy").await.unwrap();
        assert_eq!(db.tree().await, before, "nobody sees a copy that is being built");
        let version = db.last_version().await;
        db.change(move |changes| attach(changes, &copy, &p("/d"), &p("/copy"))).await.unwrap();
        assert_eq!(db.last_version().await, version + 1);
        let after = db.tree().await;
        let strip = |prefix: &str| -> Vec<String> { after.iter().filter_map(|path| path.strip_prefix(prefix)).map(String::from).collect() };
        assert_eq!(strip("copy/"), strip("d/"));
        assert_eq!(strip("copy/").len(), 1_204);
    }

    async fn a_copy_never_goes_into_itself_or_over_something(db: TestDb) {
        db.mkdirs("/d/e").await;
        db.mkdirs("/taken").await;
        assert_eq!(code(build(&db, "/d", "/d/e/x").await), InvalidRequest);
        assert_eq!(code(build(&db, "/d", "/taken").await), AlreadyExists);
        assert_eq!(code(build(&db, "/", "/x").await), InvalidRequest);
        let copy = build(&db, "/d", "/copy").await.unwrap();
        db.mkdir("/copy").await.unwrap();
        assert_eq!(code(db.change(move |changes| attach(changes, &copy, &p("/d"), &p("/copy"))).await), AlreadyExists);
    }

    async fn a_copy_whose_builder_died_is_removed_after_its_deadline(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/d/e").await;
        let file = db.write("/d/f", "x").await;
        let copy = build(&db, "/d", "/copy").await.unwrap();
        assert!(!db.db.read(has_work).await.unwrap(), "it is not touched before its deadline");
        db.sql(|connection| {
            use schema::building::dsl;
            let past = now(connection) - TimeDelta::hours(1);
            diesel::update(dsl::building).set(dsl::deadline.eq(past)).execute(connection)
        }).await;
        // Neither before nor after the reaper has been there may it be attached.
        let again = copy_tree::Copy::clone(&copy);
        assert_eq!(code(db.change(move |changes| attach(changes, &again, &p("/d"), &p("/copy"))).await), Unavailable);
        reap_all(&db).await;
        assert_eq!(code(db.change(move |changes| attach(changes, &copy, &p("/d"), &p("/copy"))).await), Unavailable);
        assert_eq!(db.object(file.object).await.unwrap().state, "live");
        assert_eq!(db.tree().await, ["d/", "d/e/", "d/f"]);
    }

    async fn a_removed_directory_is_emptied_in_batches_and_its_bytes_go(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/d/e/f/g").await;
        let uploads = (0..450).map(|n| upload(&format!("/d/e/{n}"), "x")).collect();
        commit_all(&db.db, uploads).await;
        let kept = db.write("/d/shared", "s").await;
        db.cp("/d/shared", "/kept").await.unwrap();
        db.rm("/d", true).await.unwrap();
        reap_all(&db).await;
        let entries: i64 = db.sql(|connection| schema::entries::table.count().get_result(connection)).await;
        assert_eq!(entries, 2, "the root and the copied file");
        assert_eq!(db.outbox().await.len(), 450 * 2);
        assert_eq!(db.object(kept.object).await.unwrap().state, "live");
    }

    async fn a_tree_of_many_directories_is_emptied_in_few_batches(db: TestDb) {
        const DIRECTORIES: usize = 300;
        for number in 0..DIRECTORIES {
            db.mkdirs(&format!("/d/{}/{number}/x", number % 10)).await;
        }
        db.rm("/d", true).await.unwrap();
        let mut batches = 0;
        while db.db.read(has_work).await.unwrap() {
            assert!(db.change(|changes| empty_detached(changes, &TIMES)).await.unwrap() > 0);
            batches += 1;
            assert!(batches <= 40, "each directory costs a batch of its own");
        }
        let entries: i64 = db.sql(|connection| schema::entries::table.count().get_result(connection)).await;
        assert_eq!(entries, 1, "the root");
    }

    async fn dead_objects_are_forgotten_when_no_ticket_can_name_them_and_the_clock_stays_behind_them(db: TestDb) {
        db.servers(2).await;
        let file = db.write("/f", "x").await;
        db.rm("/f", false).await.unwrap();
        assert!(!db.db.read(has_work).await.unwrap());
        let past = db.sql(move |connection| {
            use schema::objects::dsl;
            let past = now(connection) - TimeDelta::minutes(1);
            diesel::update(dsl::objects.find(file.object.0)).set(dsl::forget_after.eq(past)).execute(connection)?;
            Ok(past)
        }).await;
        reap_all(&db).await;
        assert!(db.object(file.object).await.is_none());
        let floor: chrono::NaiveDateTime = db.sql(|connection| schema::cluster::table.select(schema::cluster::clock_floor).first(connection)).await;
        assert!(floor >= past - TimeDelta::milliseconds(1));
    }

    async fn events_go_when_they_are_old(db: TestDb) {
        let now = chrono::Utc::now();
        db.sql(move |connection| {
            use holdfast::db::rows::EventRow;
            use holdfast::types::id::floor_at;
            let event = |days: i64| {
                let time = now - TimeDelta::days(days);
                EventRow { id: floor_at(time), ..events::row(time.naive_utc(), EventKind::ReadOnly, format!("{days} days old")) }
            };
            holdfast::db::dialect::insert_events(connection, &[50, 40, 30, 2].map(event))
        }).await;
        let before = (now - TimeDelta::days(10)).naive_utc();
        assert!(db.sql(move |connection| events::has_older(connection, before)).await);
        assert!(db.db.read(|connection| reap::has_work(connection, TimeDelta::days(10), TimeDelta::days(365))).await.unwrap());
        assert_eq!(db.sql(move |connection| events::trim(connection, before, 2)).await, 2, "a bounded batch");
        let of_kind = timeline::Filter { kind: Some(EventKind::ReadOnly), ..timeline::Filter::default() };
        let (page, _) = db.db.read(move |connection| timeline::page(connection, &of_kind, None, 10)).await.unwrap();
        assert_eq!(page.iter().map(|event| event.detail.as_str()).collect::<Vec<_>>(), ["2 days old", "30 days old"]);
        assert_eq!(db.sql(move |connection| events::trim(connection, before, 2)).await, 1);
        assert_eq!(db.sql(move |connection| events::trim(connection, before, 2)).await, 0);
        assert!(!db.sql(move |connection| events::has_older(connection, before)).await);
    }
}
