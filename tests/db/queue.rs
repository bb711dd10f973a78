//! The repair queue at size: what waits is not written again, what is blocked hides nobody, and the most endangered come
//! first.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::commit::Upload;
use holdfast::db::dialect;
use holdfast::db::queue::{self, Place};
use holdfast::db::repair::{self, DUE_ROWS_MAX, Done, Room, Rules};
use holdfast::db::rows::RepairRow;
use holdfast::db::scan::{self, Cursor, Range};
use holdfast::db::schema::{objects, repair_queue, replicas, server_health};
use holdfast::types::{ObjectId, ServerId};

use crate::both_backends;
use crate::fixture::*;

const RULES: Rules = Rules { allow_same_host: false, repair_delay: TimeDelta::zero(), read_ttl: TimeDelta::zero() };

/// Servers that are live and compared.
async fn servers(db: &TestDb, count: u128) -> Vec<ServerId> {
    let servers = db.servers(count).await;
    db.sql(|connection| {
        diesel::update(server_health::table)
            .set((server_health::health.eq("live"), server_health::synced_boot.eq(server_health::boot_id)))
            .execute(connection)
    })
    .await;
    servers
}

async fn set_health(db: &TestDb, server: ServerId, health: &'static str) {
    db.sql(move |connection| {
        diesel::update(server_health::table.find(server.0)).set(server_health::health.eq(health)).execute(connection)
    })
    .await;
}

/// Files that want two copies and have these.
async fn files(db: &TestDb, name: &str, count: usize, on: &[ServerId]) -> Vec<ObjectId> {
    let mut ids = Vec::new();
    for first in (0..count).step_by(100) {
        let uploads = (first..count.min(first + 100)).map(|number| {
            let mut upload: Upload = upload(&format!("/{name}{number}"), "x");
            upload.ticket.targets = on.iter().copied().map(target).collect();
            upload.ticket.min_write_copies = 1;
            upload.holders = on.to_vec();
            upload
        });
        let written = commit_all(&db.db, uploads.collect()).await;
        ids.extend(written.into_iter().map(|file| file.unwrap().object));
    }
    ids
}

async fn enqueue(db: &TestDb, ids: &[ObjectId], copies: i32) -> usize {
    let needy: Vec<(i64, i32)> = ids.iter().map(|id| (id.0, copies)).collect();
    db.db.write(move |connection| repair::enqueue(connection, &needy)).await.unwrap()
}

fn room() -> Room {
    Room { transfers: 64, per_server: 64, bytes: u64::MAX, ..Room::default() }
}

async fn work(db: &TestDb, room: Room) -> Done {
    let work = move |connection: &mut _| repair::work_through(connection, &RULES, &[], &[], room, false);
    db.db.write(work).await.unwrap()
}

async fn rows(db: &TestDb) -> Vec<RepairRow> {
    db.sql(|connection| repair_queue::table.order(repair_queue::object).select(RepairRow::as_select()).load(connection))
        .await
}

async fn clear(db: &TestDb) {
    db.sql(|connection| diesel::delete(repair_queue::table).execute(connection)).await;
}

both_backends! {
    async fn what_is_blocked_by_a_busy_server_hides_nobody_behind_it(db: TestDb) {
        let servers = servers(&db, 4).await;
        let blocked = files(&db, "blocked", 2 * DUE_ROWS_MAX + 50, &servers[..1]).await;
        let behind = files(&db, "behind", 1, &servers[1..2]).await;
        clear(&db).await;
        enqueue(&db, &blocked, 1).await;
        enqueue(&db, &behind, 1).await;
        let mut busy = Room { per_server: 1, busy: [(servers[0].0, 1)].into(), ..room() };
        let mut passes = 0;
        let done = loop {
            let done = work(&db, busy.clone()).await;
            passes += 1;
            if !done.transfers.is_empty() {
                break done;
            }
            assert!(!done.more, "nothing can be done, so nobody hurries");
            assert!(passes < 5, "the one behind them is never reached");
            busy.behind = done.behind;
        };
        assert_eq!(done.transfers[0].object, behind[0]);
        assert_eq!(done.behind, None, "from the start again");
        let queued = rows(&db).await;
        assert!(queued.iter().filter(|row| row.object != behind[0].0).all(|row| row.attempts == 0), "none was put off");
        // As soon as there is room, the most endangered are next.
        assert_eq!(work(&db, Room { behind: done.behind, ..room() }).await.transfers.len(), 64);
    }

    async fn what_waits_for_a_server_is_written_once_and_woken_by_one(db: TestDb) {
        let servers = servers(&db, 3).await;
        set_health(&db, servers[2], "down").await;
        let ids = files(&db, "f", 30, &servers[..1]).await;
        let short = files(&db, "g", 5, &servers[..1]).await;
        set_health(&db, servers[1], "down").await;
        clear(&db).await;
        enqueue(&db, &ids, 1).await;
        enqueue(&db, &short, 1).await;
        let done = work(&db, room()).await;
        assert_eq!(done.waiting, 35);
        let down = done.servers.iter().filter(|facts| facts.gone).count();
        assert_eq!((done.servers.len(), down), (3, 2), "whoever wakes them knows what they wait for");
        let before = rows(&db).await;
        assert!(before.iter().all(|row| row.next_attempt == queue::waits() && row.attempts == 1 && row.last_error.is_some()));
        for _ in 0..3 {
            let done = work(&db, room()).await;
            assert_eq!((done.waiting, done.more), (0, false));
            let read = |connection: &mut _| scan::scan(connection, Range::Waiting, Cursor::START, &RULES);
            let scanned = db.db.read(read).await.unwrap();
            assert_eq!((scanned.seen, scanned.ready.len()), (35, 0), "nothing has changed for them");
            db.db.write(move |connection| scan::note_scanned(connection, &scanned)).await.unwrap();
        }
        assert_eq!(rows(&db).await, before, "nothing is written while nothing changes");
        set_health(&db, servers[2], "live").await;
        let scanned = db.db.read(|connection| scan::scan(connection, Range::Waiting, Cursor::START, &RULES)).await.unwrap();
        assert_eq!(scanned.ready.len(), 35);
        db.db.write(move |connection| scan::note_scanned(connection, &scanned)).await.unwrap();
        let done = work(&db, room()).await;
        assert_eq!(done.transfers.len(), 35);
        assert!(done.transfers.iter().all(|transfer| transfer.target.server == servers[2]));
    }

    async fn those_that_wait_are_read_in_pages_the_most_endangered_first(db: TestDb) {
        let servers = servers(&db, 2).await;
        let ids = files(&db, "f", 9, &servers).await;
        for (index, id) in ids.iter().enumerate() {
            enqueue(&db, &[*id], (index % 3) as i32).await;
        }
        db.sql(|connection| {
            diesel::update(repair_queue::table).set(repair_queue::next_attempt.eq(queue::waits())).execute(connection)
        }).await;
        let (mut seen, mut behind) = (Vec::new(), None);
        loop {
            let page = db.sql(move |connection| queue::waiting(connection, behind, 2)).await;
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            behind = Some(*last);
            seen.extend(page);
        }
        let mut want: Vec<(i32, i64)> = ids.iter().enumerate().map(|(index, id)| ((index % 3) as i32, id.0)).collect();
        want.sort_unstable();
        assert_eq!(seen, want);
        let start = db.sql(|connection| Ok(now(connection))).await;
        assert!(db.sql(move |connection| queue::due(connection, start, None, 9)).await.is_empty(), "none is due");
    }

    async fn due_rows_are_read_in_pages_the_most_endangered_first(db: TestDb) {
        let servers = servers(&db, 2).await;
        let ids = files(&db, "f", 12, &servers).await;
        let start = db.sql(|connection| Ok(now(connection))).await;
        for (index, id) in ids.iter().enumerate() {
            enqueue(&db, &[*id], (index % 3) as i32).await;
            // Some are due at the same time, and some not yet.
            let at = start + TimeDelta::seconds([-60, -60, -30, 3_600][index / 3]);
            let id = id.0;
            db.sql(move |connection| {
                diesel::update(repair_queue::table.find(id)).set(repair_queue::next_attempt.eq(at)).execute(connection)
            }).await;
        }
        let mut want: Vec<Place> = rows(&db).await.iter().map(Place::of).filter(|place| place.next_attempt <= start).collect();
        want.sort_unstable();
        let (mut seen, mut behind) = (Vec::new(), None);
        loop {
            let page = db.sql(move |connection| queue::due(connection, start, behind, 2)).await;
            let Some(last) = page.last() else { break };
            behind = Some(Place::of(last));
            seen.extend(page.iter().map(Place::of));
        }
        assert_eq!((seen.len(), seen), (9, want));
    }

    async fn what_gets_worse_comes_further_in_front(db: TestDb) {
        let servers = servers(&db, 3).await;
        let id = files(&db, "f", 1, &servers[..2]).await[0];
        let place = async || rows(&db).await.iter().map(|row| row.copies).collect::<Vec<_>>();
        assert_eq!(enqueue(&db, &[id], 2).await, 1);
        assert_eq!((enqueue(&db, &[id], 1).await, place().await), (0, vec![1]));
        assert_eq!((enqueue(&db, &[id], 2).await, place().await), (0, vec![1]), "whoever looks at it says that it is better");
        // By whomever it is queued, its place is the number of copies on servers in service that are not down.
        clear(&db).await;
        let again = async |health| {
            set_health(&db, servers[1], health).await;
            let start = db.sql(|connection| Ok(now(connection))).await;
            db.sql(move |connection| queue::look_again(connection, &[id.0], start)).await;
        };
        again("live").await;
        assert_eq!(place().await, [2]);
        again("down").await;
        assert_eq!(place().await, [1]);
        let second = servers[1].0;
        db.sql(move |connection| diesel::update(replicas::table.find((id.0, second))).set(replicas::state.eq("copying")).execute(connection)).await;
        again("live").await;
        assert_eq!(place().await, [1], "what is on its way is not at hand");
    }

    async fn what_is_put_off_before_its_first_try_stays_so(db: TestDb) {
        let servers = servers(&db, 3).await;
        let ids = files(&db, "f", 2, &servers[..1]).await;
        let later = db.sql(|connection| Ok(now(connection))).await + TimeDelta::hours(1);
        let tried = ids[1].0;
        db.sql(move |connection| {
            diesel::update(repair_queue::table).set(repair_queue::next_attempt.eq(later)).execute(connection)?;
            diesel::update(repair_queue::table.find(tried)).set(repair_queue::attempts.eq(3)).execute(connection)
        }).await;
        let scanned = db.db.read(|connection| scan::scan(connection, Range::All, Cursor::START, &RULES)).await.unwrap();
        assert_eq!(scanned.ready.len(), 2);
        db.db.write(move |connection| scan::note_scanned(connection, &scanned)).await.unwrap();
        let put_off: Vec<bool> = {
            let rows = rows(&db).await;
            ids.iter().map(|id| rows.iter().any(|row| row.object == id.0 && row.next_attempt == later)).collect()
        };
        assert_eq!(put_off, [true, false]);
    }

    async fn more_objects_than_a_statement_can_bind_are_queued(db: TestDb) {
        let servers = servers(&db, 2).await;
        let ids = many(&db, &servers, 40_000).await;
        let needy: Vec<(i64, i32)> = ids.iter().map(|id| (*id, 1)).collect();
        let lower: Vec<(i64, i32)> = ids.iter().map(|id| (*id, 0)).collect();
        assert_eq!(db.db.write(move |connection| repair::enqueue(connection, &needy)).await.unwrap(), 40_000);
        assert_eq!(db.db.write(move |connection| repair::enqueue(connection, &lower)).await.unwrap(), 0);
        let queued: i64 = db.sql(|connection| repair_queue::table.filter(repair_queue::copies.eq(0)).count().get_result(connection)).await;
        assert_eq!(queued, 40_000);
    }
}

/// Live objects with copies on all of these servers, made by a few statements.
pub async fn many(db: &TestDb, servers: &[ServerId], count: i64) -> Vec<i64> {
    let file = db.write("/first", "x").await;
    let servers: Vec<i64> = servers.iter().map(|id| id.0).collect();
    db.sql(move |connection| {
        dialect::take_time(connection)?;
        let n = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})");
        let object = format!(
            "INSERT INTO objects (id, state, size, sha256, copies_wanted, label, version, created) {n} \
             SELECT o.id + i, o.state, o.size, o.sha256, o.copies_wanted, o.label, o.version, o.created FROM n, objects o \
             WHERE o.id = {}",
            file.object.0
        );
        diesel::sql_query(object).execute(connection)?;
        for server in servers {
            let copies = format!(
                "INSERT INTO replicas (object, server, generation, state, created) \
                 SELECT o.id, {server}, o.id, 'present', o.created FROM objects o WHERE o.id > {}",
                file.object.0
            );
            diesel::sql_query(copies).execute(connection)?;
        }
        objects::table.filter(objects::id.gt(file.object.0)).order(objects::id).select(objects::id).load(connection)
    })
    .await
}
