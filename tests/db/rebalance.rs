//! Filling servers evenly, as the database has it: moves are copies more first and one less then, and what a run is
//! stays over restarts.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::rebalance::{self, Planned};
use holdfast::db::repair::{self, Ended, Room, Rules, Transfer};
use holdfast::db::rows::{RebalanceRow, ReplicaRow};
use holdfast::db::scan::{Cursor, Range};
use holdfast::db::schema::{moves, outbox, repair_queue, replicas, server_health};
use holdfast::db::{queue, report, scan};
use holdfast::decisions::rebalance::{Level, Levels};
use holdfast::types::{Error, ErrorCode, ObjectId, ServerId};

use crate::both_backends;
use crate::fixture::*;

const RULES: Rules =
    Rules { allow_same_host: false, repair_delay: TimeDelta::seconds(30), read_ttl: TimeDelta::zero() };
const ROOM_BYTES: u64 = 1 << 39;
const FILES: usize = 30;

fn room(transfers: usize) -> Room {
    Room { transfers, per_server: transfers, bytes: u64::MAX, ..Room::default() }
}

/// Four servers that are well, the last one empty: all files are on the first two.
async fn prepare(db: &TestDb) -> Vec<ServerId> {
    let ids = db.servers(4).await;
    db.sql(|connection| {
        use server_health::dsl;
        diesel::update(dsl::server_health)
            .set((dsl::health.eq("live"), dsl::synced_boot.eq(dsl::boot_id), dsl::free_bytes.eq(ROOM_BYTES as i64)))
            .execute(connection)
    })
    .await;
    for number in 0..FILES {
        db.write(&format!("/f{number}"), &"x".repeat(100)).await;
    }
    ids
}

async fn levels(db: &TestDb, ids: &[ServerId]) -> Levels {
    let mut all = Vec::new();
    let bytes = db.db.read(rebalance::bytes_by_server).await.unwrap();
    for id in ids.iter().copied() {
        let bytes = bytes.get(&id.0).copied().unwrap_or(0);
        all.push(Level { server: id, bytes, room_bytes: ROOM_BYTES });
    }
    Levels::new(all, 5)
}

async fn plan(db: &TestDb, ids: &[ServerId], from: ServerId, transfers: usize) -> (Planned, Levels) {
    let levels = levels(db, ids).await;
    db.db.write(move |connection| rebalance::plan(connection, &RULES, from, -1, levels, room(transfers))).await.unwrap()
}

async fn end(db: &TestDb, transfers: &[Transfer], fails: bool) -> repair::Done {
    end_beside(db, transfers, &[], fails).await
}

/// Others are still on their way.
async fn end_beside(db: &TestDb, transfers: &[Transfer], others: &[Transfer], fails: bool) -> repair::Done {
    let outcome = |transfer: &Transfer| {
        let outcome = if fails { Err(Error::unavailable("it broke")) } else { Ok(()) };
        Ended { transfer: transfer.clone(), outcome }
    };
    let ended: Vec<Ended> = transfers.iter().map(outcome).collect();
    let carried: Vec<_> = others.iter().map(|transfer| (transfer.object, transfer.generation)).collect();
    let work = move |connection: &mut _| repair::work_through(connection, &RULES, &ended, &carried, room(64), false);
    db.db.write(work).await.unwrap()
}

async fn holders(db: &TestDb, object: ObjectId) -> Vec<i64> {
    db.sql(move |connection| {
        replicas::table
            .filter(replicas::object.eq(object.0).and(replicas::state.eq(ReplicaRow::PRESENT)))
            .select(replicas::server)
            .load(connection)
    })
    .await
}

async fn left(db: &TestDb) -> (i64, i64, i64) {
    db.sql(|connection| {
        Ok((
            moves::table.count().get_result(connection)?,
            repair_queue::table.count().get_result(connection)?,
            replicas::table.filter(replicas::state.eq(ReplicaRow::COPYING)).count().get_result(connection)?,
        ))
    })
    .await
}

async fn begin(db: &TestDb, within: i32) -> RebalanceRow {
    db.db.write(move |connection| rebalance::begin(connection, within, "op")).await.unwrap()
}

async fn last(db: &TestDb) -> RebalanceRow {
    db.other.read(rebalance::last).await.unwrap().unwrap()
}

both_backends! {
    async fn a_move_is_a_copy_more_and_then_one_less(db: TestDb) {
        let ids = prepare(&db).await;
        begin(&db, 5).await;
        let (planned, after) = plan(&db, &ids, ids[0], 4).await;
        assert_eq!((planned.transfers.len(), planned.full), (4, true), "as many as there is room for");
        assert_eq!(after.of(ids[0]).unwrap().bytes, (FILES as u64 - 4) * 100);
        for transfer in &planned.transfers {
            assert_eq!(holders(&db, transfer.object).await.len(), 2, "it is short at no time");
            assert!(transfer.target.server == ids[2] || transfer.target.server == ids[3]);
            assert_eq!(transfer.cause.word.word(), "rebalanced");
        }
        // Whoever looks at the objects meanwhile finds nothing to do, and so finds repair.
        let needy = db.db.read(|connection| scan::scan(connection, Range::All, Cursor::START, &RULES)).await.unwrap().needy;
        assert_eq!(needy, []);
        assert_eq!(db.db.read(report::counts).await.unwrap().repair.in_flight, 0, "a move is no repair");
        assert_eq!(db.db.read(rebalance::repair_first).await.unwrap(), None);
        let done = end_beside(&db, &planned.transfers[..3], &planned.transfers[3..], false).await;
        assert_eq!((done.copied, done.trimmed), (3, 3));
        for transfer in &planned.transfers[..3] {
            let mut on = holders(&db, transfer.object).await;
            on.sort_unstable();
            let mut want = vec![ids[1].0, transfer.target.server.0];
            want.sort_unstable();
            assert_eq!(on, want, "the copy that moves is the one that goes");
        }
        let doomed: Vec<(i64, String)> =
            db.sql(|connection| outbox::table.select((outbox::server, outbox::reason)).load(connection)).await;
        assert_eq!(doomed, vec![(ids[0].0, "rebalanced".to_string()); 3]);
        let row = last(&db).await;
        assert_eq!((row.moved, row.moved_bytes), (3, 300));
        // What was trimmed is looked at once more.
        assert_eq!(left(&db).await, (1, 3, 1), "one is on its way");
        // Whoever takes over carries nothing.
        end(&db, &[], false).await;
        assert_eq!(left(&db).await, (0, 0, 0), "it leaves nothing behind");
    }

    async fn what_fails_stays_where_it_is(db: TestDb) {
        let ids = prepare(&db).await;
        begin(&db, 5).await;
        let (planned, _) = plan(&db, &ids, ids[0], 5).await;
        end(&db, &planned.transfers, true).await;
        assert_eq!(left(&db).await, (0, 0, 0));
        for transfer in &planned.transfers {
            assert_eq!(holders(&db, transfer.object).await.len(), 2);
        }
        assert_eq!(last(&db).await.moved, 0);
        // A file that is removed while its copy moves takes everything with it.
        let (planned, _) = plan(&db, &ids, ids[0], 1).await;
        for number in 0..FILES {
            db.rm(&format!("/f{number}"), false).await.unwrap();
        }
        end(&db, &planned.transfers, false).await;
        assert_eq!((left(&db).await, last(&db).await.moved), ((0, 0, 0), 0));
    }

    async fn servers_come_within_the_percent_and_repair_goes_first(db: TestDb) {
        let ids = prepare(&db).await;
        begin(&db, 10).await;
        for _ in 0..20 {
            let levels = levels(&db, &ids).await;
            let Some(from) = levels.givers().first().copied() else { break };
            let (planned, _) = plan(&db, &ids, from, 64).await;
            end(&db, &planned.transfers, false).await;
        }
        let even = levels(&db, &ids).await;
        assert!(even.is_even() || even.difference() <= 0.1, "{even:?}");
        let copies: i64 = db.sql(|connection| replicas::table.count().get_result(connection)).await;
        assert_eq!(copies, 2 * FILES as i64);
        let object = db.entry("/f0").await.unwrap().object.unwrap();
        db.db.write(move |connection| repair::enqueue(connection, &[(object, 1)])).await.unwrap();
        let why = |db: &TestDb| {
            let db = db.db.clone();
            async move { db.read(rebalance::repair_first).await.unwrap() }
        };
        assert!(why(&db).await.unwrap().ends_with("can be done now"));
        // What can only wait for other servers, maybe for ever, does not keep them from being filled evenly.
        let put_off = |db: &TestDb, until| {
            let db = db.db.clone();
            async move {
                db.write(move |connection| {
                    let row = (repair_queue::next_attempt.eq(until), repair_queue::attempts.eq(3));
                    Ok(diesel::update(repair_queue::table).set(row).execute(connection)?)
                })
                .await
                .unwrap()
            }
        };
        put_off(&db, queue::waits()).await;
        assert_eq!(why(&db).await, None);
        // What has failed is tried again, and comes first.
        put_off(&db, chrono::Utc::now().naive_utc() + TimeDelta::hours(1)).await;
        assert!(why(&db).await.unwrap().contains("holdfast report"));
    }

    async fn a_run_is_one_and_stays(db: TestDb) {
        assert_eq!(db.db.read(rebalance::last).await.unwrap(), None);
        let stop = |db: &TestDb| {
            let db = db.db.clone();
            async move { db.write(|connection| rebalance::stop(connection, "op")).await }
        };
        assert_eq!(stop(&db).await.unwrap_err().code(), ErrorCode::PreconditionFailed);
        let first = begin(&db, 5).await;
        let again = begin(&db, 20).await;
        assert_eq!((again.id, last(&db).await.within_percent), (first.id, 20), "one at a time");
        db.db.write(move |connection| rebalance::progress(connection, first.id, Some(7), "busy")).await.unwrap();
        assert_eq!((last(&db).await.left_bytes, last(&db).await.note.as_str()), (Some(7), "busy"));
        assert!(!stop(&db).await.unwrap().is_running());
        // An actor that has not heard of that ends nothing.
        db.db.write(move |connection| rebalance::finish(connection, first.id, "done", "x")).await.unwrap();
        assert_eq!(last(&db).await.state, "stopped");
        let next = begin(&db, 5).await;
        db.db.write(move |connection| rebalance::finish(connection, next.id, "done", "even")).await.unwrap();
        assert_eq!((last(&db).await.state.as_str(), last(&db).await.left_bytes), ("done", Some(0)));
    }
}
