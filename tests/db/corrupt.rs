//! What becomes of corrupt copies.

use diesel::prelude::*;
use holdfast::db::rows::{RepairRow, ReplicaRow};
use holdfast::db::{corrupt, schema, timeline};
use holdfast::types::api::{CorruptFate, CorruptReplica, Event};
use holdfast::types::{Generation, ObjectId, ServerId};

use crate::both_backends;
use crate::fixture::*;

type Copy = (ObjectId, Generation);

async fn report(db: &TestDb, server: ServerId, copies: &[Copy], alarm: bool, aside: bool) -> Vec<CorruptFate> {
    let found = |(object, generation): &Copy| CorruptReplica {
        object: *object,
        generation: *generation,
        reason: "a bit".into(),
        aside,
        gone: false,
    };
    let found: Vec<CorruptReplica> = copies.iter().map(found).collect();
    db.db.write(move |connection| corrupt::judge(connection, server, &found, alarm)).await.unwrap()
}

async fn judge(db: &TestDb, server: ServerId, copies: &[Copy], alarm: bool) -> Vec<CorruptFate> {
    report(db, server, copies, alarm, false).await
}

/// Servers whose inventories have been compared.
async fn servers(db: &TestDb, count: u128) -> Vec<ServerId> {
    let servers = db.servers(count).await;
    set_compared(db, true).await;
    for server in &servers {
        set_health(db, *server, "live").await;
    }
    servers
}

async fn set_compared(db: &TestDb, compared: bool) {
    use schema::server_health::dsl;
    db.sql(move |connection| {
        if compared {
            diesel::update(dsl::server_health).set(dsl::synced_boot.eq(dsl::boot_id)).execute(connection)
        } else {
            diesel::update(dsl::server_health).set(dsl::synced_boot.eq("")).execute(connection)
        }
    })
    .await;
}

async fn list(db: &TestDb, server: ServerId, (object, generation): Copy, state: &'static str) {
    db.sql(move |connection| {
        let row = ReplicaRow {
            object: object.0,
            server: server.0,
            generation: generation.0,
            state: state.into(),
            created: now(connection),
            verified: None,
        };
        diesel::insert_into(schema::replicas::table).values(&row).execute(connection)
    })
    .await;
}

/// A committed file with copies on servers 1 and 2.
async fn file(db: &TestDb, path: &str) -> Copy {
    let upload = upload(path, "content");
    let copy = (upload.ticket.object, upload.ticket.generation);
    db.commit_one(upload).await.unwrap();
    copy
}

async fn holders(db: &TestDb, object: ObjectId) -> Vec<i64> {
    use schema::replicas::dsl;
    db.sql(move |connection| dsl::replicas.filter(dsl::object.eq(object.0)).select(dsl::server).load(connection)).await
}

async fn queued(db: &TestDb, object: ObjectId) -> Option<RepairRow> {
    use schema::repair_queue::dsl;
    db.sql(move |connection| {
        dsl::repair_queue.find(object.0).select(RepairRow::as_select()).first(connection).optional()
    })
    .await
}

/// Kind and detail, the oldest first.
async fn happened(db: &TestDb) -> Vec<(String, String)> {
    let mut all: Vec<Event> = {
        let each = timeline::Filter { each_copy: true, ..timeline::Filter::default() };
        db.db.read(move |connection| timeline::page(connection, &each, None, 1_000)).await.unwrap().0
    };
    all.retain(|event| event.kind.contains("corrupt") || event.kind == "scrub_alarm");
    all.into_iter().rev().map(|event| (event.kind, event.detail)).collect()
}

async fn set_health(db: &TestDb, server: ServerId, health: &'static str) {
    use schema::server_health::dsl;
    db.sql(move |connection| {
        diesel::update(dsl::server_health.find(server.0)).set(dsl::health.eq(health)).execute(connection)
    })
    .await;
}

both_backends! {
    async fn a_corrupt_copy_is_counted_out_and_the_last_one_is_kept_for_good(db: TestDb) {
        let servers = servers(&db, 2).await;
        let copy = file(&db, "/f").await;
        assert_eq!(judge(&db, servers[0], &[copy], false).await, [CorruptFate::Quarantine]);
        assert_eq!(holders(&db, copy.0).await, [servers[1].0]);
        assert_eq!(queued(&db, copy.0).await.unwrap().copies, 1);
        // The answer was lost and the server asks again.
        assert_eq!(judge(&db, servers[0], &[copy], false).await, [CorruptFate::Quarantine]);
        for _ in 0..2 {
            assert_eq!(judge(&db, servers[1], &[copy], false).await, [CorruptFate::QuarantineForGood]);
            assert!(holders(&db, copy.0).await.is_empty());
        }
        assert_eq!(queued(&db, copy.0).await.unwrap().copies, 0, "what is queued becomes more urgent");
        let events = happened(&db).await;
        let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["replica_corrupt", "replica_corrupt", "last_copy_corrupt", "last_copy_corrupt"]);
        assert!(events[0].1.contains("/f") && events[0].1.contains("a bit"), "{}", events[0].1);
        assert!(events[1].1.contains("does not list"), "{}", events[1].1);
        assert!(events[2].1.contains("/f") && events[2].1.contains("damaged"), "{}", events[2].1);
    }

    async fn copies_on_servers_that_are_down_do_not_count(db: TestDb) {
        let servers = servers(&db, 2).await;
        let (first, second) = (file(&db, "/f").await, file(&db, "/g").await);
        set_health(&db, servers[1], "down").await;
        assert_eq!(judge(&db, servers[0], &[first], false).await, [CorruptFate::QuarantineForGood]);
        set_health(&db, servers[1], "live").await;
        assert_eq!(judge(&db, servers[0], &[second], false).await, [CorruptFate::Quarantine]);
    }

    async fn a_copy_is_let_go_only_for_one_that_is_certain(db: TestDb) {
        use schema::server_health::dsl;
        let servers = servers(&db, 2).await;
        let other = servers[1].0;
        for case in ["suspect", "syncing", "alarmed", "failing", "draining"] {
            let copy = file(&db, &format!("/{case}")).await;
            db.sql(move |connection| {
                let health = diesel::update(dsl::server_health.find(other));
                match case {
                    "suspect" => health.set(dsl::health.eq("suspect")).execute(connection),
                    "syncing" => health.set(dsl::synced_boot.eq("")).execute(connection),
                    "alarmed" => health.set(dsl::scrub_alarm.eq(true)).execute(connection),
                    "failing" => health.set(dsl::trouble.eq("read_only")).execute(connection),
                    _ => diesel::update(schema::servers::table.find(other)).set(schema::servers::admin_state.eq("draining")).execute(connection),
                }
            }).await;
            assert_eq!(judge(&db, servers[0], &[copy], false).await, [CorruptFate::QuarantineForGood], "{case}");
            assert_eq!(holders(&db, copy.0).await, [other], "{case}");
            let (kind, detail) = happened(&db).await.pop().unwrap();
            assert!(kind == "replica_corrupt" && detail.contains("none of them is certain"), "{case}: {detail}");
            db.sql(move |connection| {
                let trouble = dsl::trouble.eq(None::<String>);
                diesel::update(dsl::server_health.find(other))
                    .set((dsl::health.eq("live"), dsl::synced_boot.eq(dsl::boot_id), dsl::scrub_alarm.eq(false), trouble))
                    .execute(connection)
            }).await;
        }
    }

    async fn what_nobody_wants_is_quarantined_and_copies_in_the_making_wait(db: TestDb) {
        let servers = servers(&db, 3).await;
        let (kept, deleted) = (file(&db, "/f").await, file(&db, "/g").await);
        db.rm("/g", false).await.unwrap();
        let unknown = (ObjectId::generate(), Generation::generate());
        // Of an object with good copies, but another copy than the one that is listed.
        let outdated = (kept.0, Generation::generate());
        let fates = judge(&db, servers[0], &[deleted, unknown, outdated], false).await;
        assert_eq!(fates, [CorruptFate::Quarantine; 3]);
        assert_eq!(holders(&db, kept.0).await.len(), 2);
        assert!(queued(&db, kept.0).await.is_none());
        let (object, server) = (kept.0, servers[2]);
        let copying = (object, Generation::generate());
        list(&db, server, copying, ReplicaRow::COPYING).await;
        assert_eq!(judge(&db, server, &[copying], false).await, [CorruptFate::Wait]);
        assert_eq!(holders(&db, object).await.len(), 3);
        // A copy in the making is nothing to count on.
        let both = [judge(&db, servers[0], &[kept], false).await, judge(&db, servers[1], &[kept], false).await].concat();
        assert_eq!(both, [CorruptFate::Quarantine, CorruptFate::QuarantineForGood]);
    }

    async fn a_cluster_that_takes_no_changes_decides_nothing(db: TestDb) {
        let servers = servers(&db, 2).await;
        let copy = file(&db, "/f").await;
        db.sql(|connection| {
            diesel::update(schema::cluster::table).set(schema::cluster::mode.eq("read_only")).execute(connection)
        })
        .await;
        let unknown = (ObjectId::generate(), Generation::generate());
        assert_eq!(judge(&db, servers[0], &[copy, unknown], false).await, [CorruptFate::Wait; 2]);
        assert_eq!(holders(&db, copy.0).await.len(), 2);
        assert!(happened(&db).await.is_empty());
    }

    async fn while_an_inventory_is_compared_nothing_is_decided_and_a_copy_listed_again_is_counted_out(db: TestDb) {
        let servers = servers(&db, 2).await;
        let copy = file(&db, "/f").await;
        set_compared(&db, false).await;
        assert_eq!(judge(&db, servers[0], &[copy], false).await, [CorruptFate::Wait]);
        set_compared(&db, true).await;
        assert_eq!(judge(&db, servers[0], &[copy], false).await, [CorruptFate::Quarantine]);
        // A comparison begins, reads the copy before it is moved, and lists it after it was.
        set_compared(&db, false).await;
        assert_eq!(report(&db, servers[0], &[copy], false, true).await, [CorruptFate::Wait]);
        list(&db, servers[0], copy, ReplicaRow::PRESENT).await;
        set_compared(&db, true).await;
        for _ in 0..2 {
            assert_eq!(report(&db, servers[0], &[copy], false, true).await, [CorruptFate::Quarantine]);
            assert_eq!(holders(&db, copy.0).await, [servers[1].0]);
        }
        assert_eq!(happened(&db).await.len(), 2, "what is known is not told again");
    }

    async fn a_server_in_alarm_moves_nothing_and_last_copies_stay_listed(db: TestDb) {
        let servers = servers(&db, 2).await;
        let (shared, last) = (file(&db, "/f").await, file(&db, "/g").await);
        assert_eq!(judge(&db, servers[1], &[last], false).await, [CorruptFate::Quarantine]);
        assert_eq!(judge(&db, servers[0], &[shared, last], true).await, [CorruptFate::Leave; 2]);
        assert_eq!(holders(&db, shared.0).await, [servers[1].0]);
        assert_eq!(holders(&db, last.0).await, [servers[0].0]);
        // It tells the same each minute.
        judge(&db, servers[0], &[shared, last], true).await;
        let kinds: Vec<String> = happened(&db).await.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["replica_corrupt", "replica_corrupt", "last_copy_corrupt", "scrub_alarm"]);
    }

    async fn two_servers_that_report_at_once_do_not_both_count_on_the_other(db: TestDb) {
        let servers = servers(&db, 2).await;
        let mut copies = Vec::new();
        for number in 0..10 {
            copies.push(file(&db, &format!("/f{number}")).await);
        }
        let (one, other) = tokio::join!(judge(&db, servers[0], &copies, false), judge(&db, servers[1], &copies, false));
        for (one, other) in one.into_iter().zip(other) {
            let mut fates = [one, other];
            fates.sort_by_key(|fate| *fate == CorruptFate::QuarantineForGood);
            assert_eq!(fates, [CorruptFate::Quarantine, CorruptFate::QuarantineForGood]);
        }
    }
}
