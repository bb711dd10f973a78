//! What happened, why, and who asked for it: reasons travel from where they are decided, copies are summed up by cause,
//! and every filter finds what it should, in pages.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::change::Changes;
use holdfast::db::rows::EventRow;
use holdfast::db::schema::{audit, entries, events as stored, outbox};
use holdfast::db::timeline::{self, Filter};
use holdfast::db::{copy_tree, events, fsck, namespace, outbox as deletions, pending, reap, token};
use holdfast::types::api::{Event, PendingFate, PendingReplica, Role};
use holdfast::types::{CauseWord, EventId, EventKind, Generation, ObjectId, ServerId, Sha256};

use crate::both_backends;
use crate::fixture::*;

/// A change that the token of this name asks for.
async fn by<T: Send + 'static>(
    db: &TestDb,
    name: &'static str,
    work: impl FnOnce(&mut Changes<'_>) -> holdfast::db::Step<T> + Send + 'static,
) -> T {
    db.change(move |changes| {
        changes.asked_by(Some(name.into()));
        work(changes)
    })
    .await
    .unwrap()
}

/// The outbox's reasons, by the path of the object.
async fn reasons(db: &TestDb) -> BTreeMap<String, (String, Option<String>)> {
    db.sql(|connection| {
        let rows = outbox::table.select((outbox::object, outbox::reason, outbox::by_token));
        let rows: Vec<(i64, String, Option<String>)> = rows.load(connection)?;
        let paths = events::paths(connection, &rows.iter().map(|row| row.0).collect::<Vec<_>>())?;
        Ok(rows.into_iter().map(|(object, reason, by)| (paths[&object].clone(), (reason, by))).collect())
    })
    .await
}

/// All pages of a filter, in pages of `limit`.
async fn all(db: &TestDb, filter: Filter, limit: usize) -> Vec<Event> {
    let (mut found, mut before): (Vec<Event>, Option<EventId>) = (Vec::new(), None);
    for _ in 0..2_000 {
        let asked = filter.clone();
        let (page, next) =
            db.db.read(move |connection| timeline::page(connection, &asked, before, limit)).await.unwrap();
        assert!(page.len() <= limit && page.windows(2).all(|pair| pair[0].id > pair[1].id));
        found.extend(page);
        before = next;
        if before.is_none() {
            let ids: BTreeSet<EventId> = found.iter().map(|event| event.id).collect();
            assert_eq!(ids.len(), found.len(), "nothing comes twice");
            return found;
        }
    }
    panic!("it does not end");
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

/// An event about one copy.
fn copied(now: chrono::NaiveDateTime, object: i64, server: ServerId, cause: holdfast::types::Cause) -> EventRow {
    events::of_copy(now, EventKind::ReplicaCopied, (object, server.0), cause, "a copy".into())
}

async fn tell(db: &TestDb, rows: Vec<EventRow>) {
    db.db.write(move |connection| events::tell(connection, rows)).await.unwrap()
}

both_backends! {
    async fn every_deletion_says_why_and_for_whom(db: TestDb) {
        db.servers(2).await;
        db.mkdirs("/dir/sub").await;
        for path in ["/rm", "/written over", "/moved over", "/copied over", "/other", "/dir/sub/f", "/lonely", "/stale"] {
            db.write(path, path).await;
        }
        let (p1, p2, p3, p4, p5) = (p("/rm"), p("/other"), p("/moved over"), p("/copied over"), p("/dir"));
        by(&db, "alice", move |changes| namespace::remove(changes, &p1, false, None, &TIMES)).await;
        let mut over = upload("/written over", "new");
        over.ticket.by = Some("bob".into());
        db.commit_one(over).await.unwrap();
        by(&db, "carol", { let (from, to) = (p2.clone(), p4); move |changes| namespace::cp_file(changes, &from, &to, &TIMES) }).await;
        by(&db, "dave", move |changes| namespace::mv(changes, &p2, &p3, &TIMES)).await;
        by(&db, "erin", move |changes| namespace::remove(changes, &p5, true, None, &TIMES)).await;
        // The reaper finds out whose removal it carries out, also below.
        while db.change(|changes| reap::empty_detached(changes, &TIMES)).await.unwrap() > 0 {}
        let lonely = db.entry("/lonely").await.unwrap();
        let stale = db.entry("/stale").await.unwrap().object.unwrap();
        db.sql(move |connection| diesel::delete(entries::table.find(lonely.id)).execute(connection)).await;
        db.change(move |changes| fsck::release(changes, &[lonely.object.unwrap()], &TIMES)).await.unwrap();
        db.sql(move |connection| {
            use holdfast::db::schema::objects::dsl;
            diesel::delete(entries::table.filter(entries::object.eq(stale))).execute(connection)?;
            diesel::update(dsl::objects.find(stale)).set(dsl::state.eq("deleted")).execute(connection)
        }).await;
        db.db.write(move |connection| fsck::drop_stale(connection, &[stale], TimeDelta::zero())).await.unwrap();
        let some = |reason: &str, by: Option<&str>| (reason.to_string(), by.map(String::from));
        let expected = BTreeMap::from([
            ("/rm".to_string(), some("removed", Some("alice"))),
            ("/written over".into(), some("replaced", Some("bob"))),
            ("/copied over".into(), some("replaced", Some("carol"))),
            ("/moved over".into(), some("replaced", Some("dave"))),
            ("/dir/sub/f".into(), some("removed", Some("erin"))),
            ("/lonely".into(), some("unreferenced", None)),
            ("/stale".into(), some("unreferenced", None)),
        ]);
        assert_eq!(reasons(&db).await, expected);
        // And so do the events of their ends.
        let rows = db.outbox().await;
        db.db.write(move |connection| deletions::complete(connection, &rows)).await.unwrap();
        let told = all(&db, Filter { kind: Some(EventKind::ReplicaDeleted), each_copy: true, ..Filter::default() }, 3).await;
        assert_eq!(told.len(), 14);
        for event in &told {
            let (reason, by) = &expected[event.path.as_deref().unwrap()];
            assert_eq!((event.cause.as_deref(), &event.by), (Some(reason.as_str()), by), "{event:?}");
            let meaning = CauseWord::of_word(reason).unwrap().meaning();
            assert!(event.detail.contains(meaning) && !event.detail.contains('/'), "{}", event.detail);
        }
    }

    async fn an_upload_that_never_was_committed_is_told_as_that(db: TestDb) {
        let server = db.servers(2).await[0];
        let gone = db.write("/gone", "x").await;
        db.rm("/gone", false).await.unwrap();
        let past = chrono::Utc::now() - TimeDelta::hours(1);
        let asked = |object: ObjectId| PendingReplica { object, generation: Generation(7), ticket_expires: past, epoch: 1 };
        let replicas = vec![asked(ObjectId::generate()), asked(gone.object)];
        let fates = db.db.write(move |connection| pending::decide(connection, server, &replicas, TimeDelta::hours(1))).await.unwrap();
        assert_eq!(fates, [PendingFate::Delete, PendingFate::Delete]);
        let told = all(&db, Filter { kind: Some(EventKind::ReplicaDeleted), each_copy: true, ..Filter::default() }, 10).await;
        let causes: BTreeSet<_> = told.iter().map(|event| (event.cause.clone().unwrap(), event.path.clone())).collect();
        assert_eq!(causes, BTreeSet::from([("removed".into(), Some("/gone".to_string())), ("upload_failed".into(), None)]));
    }

    async fn copies_of_one_cause_are_one_row_that_counts_them(db: TestDb) {
        let servers = db.servers(3).await;
        let objects: Vec<i64> = commit_all(&db.db, (0..40).map(|n| upload(&format!("/f{n}"), "x")).collect()).await
            .into_iter().map(|done| done.unwrap().object.0).collect();
        let now = chrono::Utc::now().naive_utc();
        let (down, drain) = (CauseWord::Down.of(servers[2]), CauseWord::Draining.of(servers[2]));
        let rows = |cause, range: std::ops::Range<usize>, server| objects[range].iter().map(|object| copied(now, *object, server, cause)).collect::<Vec<_>>();
        tell(&db, [rows(down, 0..10, servers[0]), rows(down, 10..25, servers[1])].concat()).await;
        // A later pass goes on with the same sums, another cause begins its own.
        tell(&db, rows(down, 25..30, servers[0])).await;
        tell(&db, rows(drain, 30..31, servers[0])).await;
        let copied_kind = Filter { kind: Some(EventKind::ReplicaCopied), ..Filter::default() };
        let sums = all(&db, copied_kind.clone(), 2).await;
        let shown: BTreeSet<_> = sums.iter().map(|sum| (sum.cause.clone().unwrap(), sum.server_name.clone().unwrap(), sum.copies.unwrap())).collect();
        let row = |cause: &str, server: &str, copies| (cause.to_string(), server.to_string(), copies);
        assert_eq!(shown, BTreeSet::from([row("down", "s1", 15), row("down", "s2", 15), row("draining", "s1", 1)]));
        assert!(sums.iter().all(|sum| sum.cause_server_name.as_deref() == Some("s3") && sum.until.is_some()));
        assert_eq!(all(&db, Filter { each_copy: true, ..copied_kind.clone() }, 7).await.len(), 31);
        assert_eq!(all(&db, Filter { server: Some(servers[1].0), ..copied_kind.clone() }, 7).await.len(), 1);
        assert_eq!(all(&db, Filter { server: Some(servers[1].0), each_copy: true, ..copied_kind.clone() }, 7).await.len(), 15);
        // What is about one object, or a path, is about one copy each.
        let of_object = all(&db, Filter { object: Some(objects[3]), ..Filter::default() }, 7).await;
        assert_eq!((kinds(&of_object), of_object[0].path.as_deref()), (vec!["replica_copied"], Some("/f3")));
        // A pause ends a sum, and so does a server's name for whoever reads later.
        db.sql(|connection| {
            use stored::dsl;
            let past = holdfast::db::dialect::clock(connection)? - TimeDelta::minutes(6);
            diesel::update(dsl::events.filter(dsl::copies.is_not_null())).set(dsl::until.eq(past)).execute(connection)
        }).await;
        tell(&db, rows(down, 31..33, servers[0])).await;
        assert_eq!(all(&db, copied_kind.clone(), 10).await.len(), 4);
        // Whose objects are forgotten keeps its path.
        db.rm("/f3", false).await.unwrap();
        db.sql(move |connection| {
            use holdfast::db::schema::objects::dsl;
            diesel::delete(dsl::objects.find(objects[3])).execute(connection)
        }).await;
        let of_path = all(&db, Filter { path: Some(p("/f3")), kind: Some(EventKind::ReplicaCopied), ..Filter::default() }, 7).await;
        assert_eq!(of_path.len(), 1);
    }

    async fn two_passes_at_once_lose_no_count(db: TestDb) {
        let server = db.servers(1).await[0];
        let now = chrono::Utc::now().naive_utc();
        let pass = |db: holdfast::db::Db| async move {
            for object in 0..20 {
                let row = copied(now, object, server, CauseWord::Surplus.into());
                db.write(move |connection| events::tell(connection, vec![row])).await.unwrap();
            }
        };
        tokio::join!(pass(db.db.clone()), pass(db.other.clone()));
        let sums = all(&db, Filter { kind: Some(EventKind::ReplicaCopied), ..Filter::default() }, 50).await;
        assert_eq!(sums.iter().map(|sum| sum.copies.unwrap()).sum::<u64>(), 40);
        assert!(sums.len() <= 2, "a race makes two of one at most: {}", sums.len());
    }

    async fn each_change_is_asked_for_by_who_and_where(db: TestDb) {
        db.servers(2).await;
        let (a, b, c) = (p("/a"), p("/a/b"), p("/c"));
        by(&db, "alice", { let b = b.clone(); move |changes| namespace::mkdir(changes, &b, true) }).await;
        let mut file = upload("/a/b/f", "1");
        file.ticket.by = Some("bob".into());
        db.commit_one(file).await.unwrap();
        let mut again = upload("/a/b/f", "2");
        again.ticket.by = Some("bob".into());
        db.commit_one(again).await.unwrap();
        db.write("/nobody", "knows").await;
        by(&db, "alice", move |changes| namespace::mv(changes, &b, &c, &TIMES)).await;
        let (from, to) = (p("/c/f"), p("/c/g"));
        by(&db, "alice", move |changes| namespace::cp_file(changes, &from, &to, &TIMES)).await;
        let touched = p("/c/g");
        by(&db, "carol", move |changes| namespace::touch_existing(changes, &touched)).await;
        // Nothing is changed by it, so nobody has changed anything.
        by(&db, "alice", { let a = a.clone(); move |changes| namespace::mkdir(changes, &a, true) }).await;
        assert!(db.change({ let a = a.clone(); move |changes| { changes.asked_by(Some("mallory".into())); namespace::mkdir(changes, &a, false) } }).await.is_err());
        let (source, target) = (p("/c"), p("/tree"));
        let (mut copy, from, to) = (by(&db, "erin", { let (s, t) = (source.clone(), target.clone()); move |changes| copy_tree::begin(changes, &s, &t) }).await, source, target);
        loop {
            let (next, more) = db.change(move |changes| copy_tree::step(changes, copy)).await.unwrap();
            copy = next;
            if !more { break; }
        }
        by(&db, "erin", move |changes| copy_tree::attach(changes, &copy, &from, &to)).await;
        by(&db, "alice", move |changes| namespace::remove(changes, &p("/c"), true, None, &TIMES)).await;
        by(&db, "root", |changes| token::insert(changes, "t", Sha256::of(b"t"), Role::Reader, None, None)).await;
        let of = |name: &str| Filter { by: Some(name.into()), ..Filter::default() };
        for limit in [1, 2, 100] {
            assert_eq!(kinds(&all(&db, of("alice"), limit).await), ["directory_removed", "copied", "moved", "directory_made"]);
            assert_eq!(kinds(&all(&db, of("bob"), limit).await), ["file_replaced", "file_written"]);
            assert_eq!(kinds(&all(&db, of("erin"), limit).await), ["copied"]);
            assert_eq!(kinds(&all(&db, of("root"), limit).await), ["token_created"]);
            assert!(all(&db, of("mallory"), limit).await.is_empty());
            let at = |path: &str| Filter { path: Some(p(path)), ..Filter::default() };
            // Both ends of a move, and what lies below.
            assert_eq!(kinds(&all(&db, at("/a/b"), limit).await), ["moved", "file_replaced", "file_written", "directory_made"]);
            assert_eq!(kinds(&all(&db, at("/c"), limit).await), ["directory_removed", "copied", "touched", "copied", "moved"]);
            assert_eq!(all(&db, at("/a"), limit).await.len(), 4);
            assert!(all(&db, at("/a/b/f/x"), limit).await.is_empty());
            assert_eq!(all(&db, Filter { kind: Some(EventKind::FileWritten), ..Filter::default() }, limit).await.len(), 2);
            assert_eq!(kinds(&all(&db, Filter { kind: Some(EventKind::Moved), ..at("/c") }, limit).await), ["moved"]);
        }
        let written = all(&db, Filter { kind: Some(EventKind::FileWritten), path: Some(p("/nobody")), ..Filter::default() }, 5).await;
        assert!(written[0].detail.contains("not known"), "{}", written[0].detail);
        // The list without a question has no changes.
        assert!(kinds(&all(&db, Filter::default(), 100).await).iter().all(|kind| !EventKind::of_word(kind).unwrap().is_change()));
        // It is no part of what is chained and copied.
        assert!(db.journal().await.iter().all(|row| row.table_name != "audit" && row.content.as_ref().is_none_or(|text| !text.contains("alice"))));
        // Old ones go, in batches.
        let later = (chrono::Utc::now() + TimeDelta::days(1)).naive_utc();
        assert_eq!(db.sql(move |connection| timeline::trim_changes(connection, later, 3)).await, 3);
        let left: i64 = db.sql(|connection| audit::table.count().get_result(connection)).await;
        assert_eq!(left, 6);
    }

    async fn pages_find_everything_however_much_lies_between(db: TestDb) {
        let ids = db.servers(2).await;
        let servers = [ids[0], ids[1]];
        let now = chrono::Utc::now().timestamp_millis();
        let start = chrono::DateTime::from_timestamp_millis(now).unwrap() - TimeDelta::hours(3);
        // 6,000 copies below /big, some of /few far apart, one event a second.
        db.sql(move |connection| {
            let row = |n: i64| {
                let time = start + TimeDelta::seconds(n);
                let path = if n % 1_000 == 7 { format!("/few/{n}") } else { format!("/big/{n}") };
                let server = servers[(n % 2) as usize];
                EventRow {
                    id: holdfast::types::id::floor_at(time),
                    path: Some(path),
                    part_of: Some(1),
                    ..copied(time.naive_utc(), n, server, CauseWord::Short.into())
                }
            };
            holdfast::db::dialect::insert_events(connection, &(0..6_000).map(row).collect::<Vec<_>>())
        }).await;
        let at = |path: &str| Filter { path: Some(p(path)), ..Filter::default() };
        assert_eq!(all(&db, at("/few"), 4).await.len(), 6);
        assert_eq!(all(&db, at("/few/7"), 4).await.len(), 1);
        assert_eq!(all(&db, at("/big"), 1_000).await.len(), 5_994, "too many to read at once, and all are found");
        assert_eq!(all(&db, at("/"), 1_000).await.len(), 6_000);
        assert_eq!(all(&db, Filter { server: Some(servers[0].0), each_copy: true, ..at("/big") }, 700).await.len(), 3_000);
        let (since, until) = ((start + TimeDelta::seconds(100)).naive_utc(), (start + TimeDelta::seconds(200)).naive_utc());
        let span = Filter { since: Some(since), until: Some(until), ..at("/big") };
        let found = all(&db, span.clone(), 30).await;
        assert_eq!(found.len(), 100);
        assert!(found.iter().all(|event| event.time.naive_utc() >= since && event.time.naive_utc() < until));
        assert_eq!(all(&db, Filter { path: Some(p("/few")), ..span }, 30).await.len(), 0);
        // None of it is in the list that people see first.
        assert_eq!(kinds(&all(&db, Filter::default(), 10).await), ["server_joined", "server_joined", "token_created"]);
    }
}
