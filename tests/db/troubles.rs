//! Servers that answer and cannot keep: what is written down of them, and what repair makes of it.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::health::{Seen, save};
use holdfast::db::repair::{self, Done, Ended, Room, Rules, server_facts};
use holdfast::db::rows::ServerHealthRow;
use holdfast::db::schema::{events, replicas, server_health, servers};
use holdfast::db::server::{ServerView, server_views};
use holdfast::types::api::{CorruptFate, CorruptReplica, RegisterRequest};
use holdfast::types::storage_api::TroubleCode;
use holdfast::types::{ObjectId, ServerId};

use crate::both_backends;
use crate::fixture::*;

const DELAY: TimeDelta = TimeDelta::minutes(10);
const RULES: Rules = Rules { allow_same_host: false, repair_delay: DELAY, read_ttl: TimeDelta::zero() };

/// Makes all servers live and compared.
async fn all_live(db: &TestDb) {
    db.sql(|connection| {
        diesel::update(server_health::table)
            .set((server_health::health.eq("live"), server_health::synced_boot.eq(server_health::boot_id)))
            .execute(connection)
    })
    .await;
}

async fn view(db: &TestDb, server: ServerId) -> ServerView {
    let views = db.sql(server_views).await;
    views.into_iter().find(|view| view.row.id == server.0).unwrap()
}

/// A check that found this.
async fn checked(db: &TestDb, server: ServerId, trouble: Option<TroubleCode>) {
    let row = view(db, server).await.checked.unwrap();
    let row = ServerHealthRow { trouble: trouble.map(|code| code.word().into()), ..row };
    let seen = vec![Seen { row, health_changed: false, begins_anew: false, events: Vec::new() }];
    db.db.write(move |connection| save(connection, &seen)).await.unwrap();
}

/// As if its trouble had begun earlier.
async fn long_ago(db: &TestDb, server: ServerId) {
    let since = now_of(db).await - DELAY * 2;
    db.sql(move |connection| {
        diesel::update(server_health::table.find(server.0)).set(server_health::troubled.eq(since)).execute(connection)
    })
    .await;
}

async fn now_of(db: &TestDb) -> chrono::NaiveDateTime {
    db.sql(|connection| Ok(now(connection))).await
}

/// Copies that each server is listed with.
async fn listed(db: &TestDb) -> Vec<i64> {
    let by_server = |connection: &mut holdfast::db::AnyConnection| {
        replicas::table.group_by(replicas::server).select(diesel::dsl::count_star()).load(connection)
    };
    db.sql(by_server).await
}

/// Puts an object into the queue and works through it.
async fn repaired(db: &TestDb, object: ObjectId) -> Done {
    db.db.write(move |connection| repair::enqueue(connection, &[(object.0, 0)])).await.unwrap();
    let room = || Room { transfers: 9, per_server: 9, bytes: u64::MAX, ..Room::default() };
    let work = move |connection: &mut _| repair::work_through(connection, &RULES, &[], &[], room(), false);
    db.db.write(work).await.unwrap()
}

both_backends! {
    async fn troubles_are_known_with_their_beginning(db: TestDb) {
        let server = db.servers(1).await[0];
        all_live(&db).await;
        assert!(view(&db, server).await.can_keep());
        checked(&db, server, Some(TroubleCode::Quota)).await;
        let first = view(&db, server).await;
        assert_eq!((first.trouble(), first.is_failing(), first.can_keep()), (Some(TroubleCode::Quota), false, false));
        let since = first.troubled().unwrap();
        checked(&db, server, Some(TroubleCode::Quota)).await;
        assert_eq!(view(&db, server).await.troubled(), Some(since), "it is the same one");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        checked(&db, server, Some(TroubleCode::ReadOnly)).await;
        let second = view(&db, server).await;
        assert!(second.is_failing() && second.troubled().unwrap() > since, "another one begins now");
        checked(&db, server, None).await;
        let well = view(&db, server).await;
        assert_eq!((well.trouble(), well.troubled(), well.can_keep()), (None, None, true));
    }

    async fn copies_on_a_failing_disk_are_made_anew_after_the_delay_and_stay_where_they_are(db: TestDb) {
        let servers = db.servers(3).await;
        all_live(&db).await;
        let object = db.write("/f", "x").await.object;
        for (code, failing) in [(TroubleCode::OutOfInodes, false), (TroubleCode::ReadOnly, true)] {
            checked(&db, servers[0], Some(code)).await;
            assert_eq!(repaired(&db, object).await.transfers.len(), 0, "{code:?} may be over in a moment");
            long_ago(&db, servers[0]).await;
            let facts = server_facts(&db.sql(server_views).await, now_of(&db).await, DELAY);
            let gone = facts.iter().filter(|facts| facts.gone).count();
            assert_eq!(gone, usize::from(failing), "{code:?}");
            let done = repaired(&db, object).await;
            assert_eq!(done.transfers.len(), usize::from(failing), "{code:?}");
            if let Some(transfer) = done.transfers.first() {
                assert_eq!((transfer.source.server, transfer.target.server), (servers[1], servers[2]));
            }
        }
        let listed: i64 =
            db.sql(move |connection| replicas::table.filter(replicas::object.eq(object.0)).count().get_result(connection)).await;
        assert_eq!(listed, 3, "the failing one's copy is listed: it can be read");
    }

    async fn a_server_without_room_for_files_is_no_target(db: TestDb) {
        let servers = db.servers(3).await;
        all_live(&db).await;
        let object = db.write("/f", "x").await.object;
        checked(&db, servers[2], Some(TroubleCode::OutOfInodes)).await;
        let second = servers[1].0;
        db.sql(move |connection| {
            diesel::delete(replicas::table.find((object.0, second))).execute(connection)
        }).await;
        let done = repaired(&db, object).await;
        assert_eq!(done.transfers[0].target.server, servers[1]);
    }

    async fn a_copy_that_was_made_at_a_former_place_of_its_target_does_not_count(db: TestDb) {
        let servers = db.servers(2).await;
        all_live(&db).await;
        let second = servers[1].0;
        for moves in [false, true] {
            let object = db.write(&format!("/moves-{moves}"), "x").await.object;
            db.sql(move |connection| diesel::delete(replicas::table.find((object.0, second))).execute(connection)).await;
            let transfer = repaired(&db, object).await.transfers.remove(0);
            assert_eq!(transfer.target.server.0, second);
            if moves {
                // While it is carried, a copy of the target's directory takes its place.
                db.sql(move |connection| {
                    diesel::update(servers::table.find(second)).set(servers::url.eq("http://clone:1")).execute(connection)
                }).await;
            }
            let ended = vec![Ended { transfer, outcome: Ok(()) }];
            let work = move |connection: &mut _| repair::work_through(connection, &RULES, &ended, &[], Room::default(), true);
            let done = db.db.write(work).await.unwrap();
            assert_eq!((done.copied, done.failed), (usize::from(!moves), usize::from(moves)));
            let listed = db.sql(move |connection| {
                replicas::table.filter(replicas::object.eq(object.0)).count().get_result::<i64>(connection)
            }).await;
            assert_eq!(listed, if moves { 1 } else { 2 });
        }
    }

    async fn a_burst_of_trimming_empties_no_server(db: TestDb) {
        const FILES: i64 = 800;
        let servers = db.servers(4).await;
        all_live(&db).await;
        let uploads = (0..FILES as usize).map(|number| {
            let others = (0..4).filter(|index| *index != number % 4).map(|index| servers[index]).collect::<Vec<_>>();
            let mut upload = upload(&format!("/f{number}"), "x");
            upload.ticket.targets = others.iter().copied().map(target).collect();
            upload.holders = others;
            upload
        });
        let written = commit_all(&db.db, uploads.collect()).await;
        let objects: Vec<(i64, i32)> = written.into_iter().map(|file| (file.unwrap().object.0, 3)).collect();
        assert_eq!(listed(&db).await, [FILES * 3 / 4; 4], "three copies of each, and two are wanted");
        // One of them is told to have a little less room than the others.
        let first = servers[0].0;
        db.sql(move |connection| {
            let less = server_health::free_bytes.eq((1i64 << 39) - (1 << 30));
            diesel::update(server_health::table.find(first)).set(less).execute(connection)
        })
        .await;
        db.db.write(move |connection| repair::enqueue(connection, &objects)).await.unwrap();
        let room = || Room { transfers: 9, per_server: 9, bytes: u64::MAX, ..Room::default() };
        let mut rounds = 0;
        loop {
            let work = move |connection: &mut _| repair::work_through(connection, &RULES, &[], &[], room(), false);
            let done = db.db.write(work).await.unwrap();
            rounds += 1;
            assert!(rounds < 20, "it never ends");
            if done.trimmed == 0 && !done.more {
                break;
            }
        }
        let left = listed(&db).await;
        assert_eq!(left.iter().sum::<i64>(), FILES * 2);
        let mean = FILES / 2;
        assert!(left.iter().all(|left| (left - mean).abs() < mean / 4), "{left:?}");
    }

    async fn a_failing_disk_can_be_drained_without_its_deletions(db: TestDb) {
        let server = db.servers(2).await[0];
        all_live(&db).await;
        db.write("/f", "x").await;
        db.rm("/f", false).await.unwrap();
        use holdfast::db::server::{drained, set_admin_state};
        use holdfast::types::api::AdminState::Draining;
        db.change(move |changes| set_admin_state(changes, server, Draining)).await.unwrap();
        let is_drained = move |changes: &mut holdfast::db::change::Changes<'_>| drained(changes, server.0);
        checked(&db, server, Some(TroubleCode::Quota)).await;
        assert!(!db.change(is_drained).await.unwrap(), "it can delete");
        checked(&db, server, Some(TroubleCode::IoError)).await;
        assert!(db.change(is_drained).await.unwrap());
    }

    async fn a_new_identity_where_another_one_is_known_is_told_once(db: TestDb) {
        let old = db.servers(2).await[0];
        db.write("/f", "x").await;
        let told = async || -> Vec<String> {
            db.sql(|connection| {
                events::table.filter(events::kind.eq("server_new_identity")).select(events::detail).load(connection)
            }).await
        };
        assert!(told().await.is_empty(), "servers of their own urls and names are nothing to tell");
        let request = |identity: u128, name: &str, url: &str| RegisterRequest {
            identity: uuid::Uuid::from_u128(identity << 100),
            name: name.into(),
            host: "h".into(),
            url: url.into(),
            public_url: url.into(),
            zone: String::new(),
            boot_id: uuid::Uuid::new_v4(),
            cluster: None,
            epoch: 0,
            index_changes: 0,
            boots: Vec::new(),
            replace_newer: false,
            capacity_bytes: 1,
            free_bytes: 1,
        };
        let register = async |request: RegisterRequest| {
            db.change(move |changes| crate::fixture::register(changes, &request)).await.unwrap()
        };
        register(request(7, "other", "http://h1:1")).await;
        register(request(7, "other", "http://h1:1")).await;
        let of_url = told().await;
        assert_eq!(of_url.len(), 1, "{of_url:?}");
        for part in ["at the url of s1", &old.to_string(), "The 1 copies", "its data directory was empty"] {
            assert!(of_url[0].contains(part), "{part} in {of_url:?}");
        }
        register(request(8, "s2", "http://elsewhere:1")).await;
        assert!(told().await.iter().any(|detail| detail.contains("under the name of s2")));
        register(request(9, "new", "http://new:1")).await;
        assert_eq!(told().await.len(), 2);
    }

    async fn a_copy_whose_file_is_gone_is_counted_out_and_its_last_one_is_told(db: TestDb) {
        let servers = db.servers(2).await;
        all_live(&db).await;
        let upload = upload("/f", "x");
        let (object, generation) = (upload.ticket.object, upload.ticket.generation);
        db.commit_one(upload).await.unwrap();
        let gone = CorruptReplica { object, generation, reason: "its file is missing".into(), aside: true, gone: true };
        for (server, fate, says) in [
            (servers[0], CorruptFate::Quarantine, "is lost (its file is missing): it counts no longer; 1 others are left"),
            (servers[1], CorruptFate::QuarantineForGood, "cannot be read before one of its copies is back"),
        ] {
            let copies = [gone.clone()];
            let judge = move |connection: &mut _| holdfast::db::corrupt::judge(connection, server, &copies, false);
            assert_eq!(db.db.write(judge).await.unwrap(), [fate]);
            let details: Vec<String> =
                db.sql(move |connection| events::table.filter(events::server.eq(server.0)).select(events::detail).load(connection)).await;
            assert!(details.iter().any(|detail| detail.contains(says)), "{says} in {details:?}");
        }
        let left: i64 =
            db.sql(move |connection| replicas::table.filter(replicas::object.eq(object.0)).count().get_result(connection)).await;
        assert_eq!(left, 0);
    }
}
