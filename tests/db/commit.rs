//! Commits of uploads: each succeeds or fails on its own, and an object id commits at most once.

use chrono::TimeDelta;
use holdfast::db::commit::Upload;
use holdfast::db::rows::OutboxRow;
use holdfast::types::ErrorCode::*;
use holdfast::types::api::Condition;
use holdfast::types::{Generation, Sha256};

use crate::both_backends;
use crate::fixture::*;

both_backends! {
    async fn a_set_succeeds_and_fails_file_by_file(db: TestDb) {
        db.servers(2).await;
        db.mkdir("/d").await.unwrap();
        let mut lonely = upload("/lonely", "x");
        lonely.holders.truncate(1);
        let mut late = upload("/late", "x");
        late.ticket.expires = chrono::Utc::now() - TimeDelta::hours(1);
        let mut old_epoch = upload("/old", "x");
        old_epoch.epoch = 0;
        let mut with_parents = upload("/p/q/r", "x");
        with_parents.ticket.make_parents = true;
        let mut with_parents_too = upload("/p/q/s", "x");
        with_parents_too.ticket.make_parents = true;
        let set = vec![upload("/f", "1"), upload("/d", "2"), upload("/no/f", "3"), lonely, late, old_epoch, with_parents, with_parents_too, upload("/d/g", "4")];
        let outcomes: Vec<_> = commit_all(&db.db, set).await.into_iter().map(|outcome| outcome.map_err(|e| e.code()).err()).collect();
        assert_eq!(outcomes, [None, Some(IsADirectory), Some(NotFound), Some(NotEnoughServers), Some(TicketExpired), Some(TicketExpired), None, None, None]);
        assert_eq!(db.tree().await, ["d/", "d/g", "f", "p/", "p/q/", "p/q/r", "p/q/s"]);
    }

    async fn an_id_commits_at_most_once(db: TestDb) {
        let servers = db.servers(3).await;
        let first = upload("/f", "1");
        let committed = db.commit_one(first.clone()).await.unwrap();
        assert_eq!(committed.listed, [servers[0], servers[1]]);
        assert_eq!(db.commit_one(first.clone()).await.unwrap(), committed);
        let mut other_bytes = first.clone();
        other_bytes.sha256 = Sha256::of(b"2");
        assert_eq!(code(db.commit_one(other_bytes).await), AlreadyExists);
        let mut other_path = first.clone();
        other_path.ticket.path = p("/g");
        assert_eq!(code(db.commit_one(other_path).await), AlreadyExists);
        // Another try of the same id may add a holder, under its own generation, and moves none.
        let mut more = first.clone();
        more.ticket.generation = Generation::generate();
        more.holders = vec![servers[0], servers[2]];
        more.ticket.targets.push(target(servers[2]));
        let again = db.commit_one(more.clone()).await.unwrap();
        assert_eq!((again.version, again.listed), (committed.version, vec![servers[2]]), "the first one has another copy");
        let mut copies = db.sql(|connection| {
            use diesel::prelude::*;
            use holdfast::db::schema::replicas::dsl;
            dsl::replicas.select((dsl::server, dsl::generation)).load::<(i64, i64)>(connection)
        }).await;
        let mut want = vec![(servers[0].0, first.ticket.generation.0), (servers[1].0, first.ticket.generation.0), (servers[2].0, more.ticket.generation.0)];
        copies.sort();
        want.sort();
        assert_eq!(copies, want);
        // Of a deleted object the first result comes back, and nothing comes back with it.
        db.rm("/f", false).await.unwrap();
        for upload in [first, more] {
            let again = db.commit_one(upload).await.unwrap();
            assert_eq!((again.version, again.listed), (committed.version, vec![]), "no copy of it is to stay");
        }
        assert!(db.tree().await.is_empty());
        assert_eq!(db.outbox().await.len(), 3);
    }

    async fn a_late_repeat_lists_no_copy_that_was_given_up(db: TestDb) {
        use diesel::prelude::*;
        use holdfast::db::schema::{outbox, replicas, server_health};
        use holdfast::db::{corrupt, outbox as deletions};
        use holdfast::types::api::CorruptReplica;
        let servers = db.servers(2).await;
        db.sql(|connection| {
            diesel::update(server_health::table)
                .set((server_health::health.eq("live"), server_health::synced_boot.eq(server_health::boot_id)))
                .execute(connection)
        }).await;
        let (trimmed, counted_out) = (upload("/trimmed", "1"), upload("/corrupt", "2"));
        for upload in [&trimmed, &counted_out] {
            db.commit_one(upload.clone()).await.unwrap();
        }
        // One copy too many: its deletion is ordered, as by trim.
        let (object, generation, server) = (trimmed.ticket.object.0, trimmed.ticket.generation.0, servers[0].0);
        db.sql(move |connection| {
            diesel::delete(replicas::table.find((object, server))).execute(connection)?;
            let row = OutboxRow {
                server, object, generation, version: 1, queued: now(connection), not_before: now(connection), reason: "surplus".into(), by_token: None,
            };
            diesel::insert_into(outbox::table).values(&row).execute(connection)
        }).await;
        let found = CorruptReplica {
            object: counted_out.ticket.object, generation: counted_out.ticket.generation, reason: "a bit".into(), aside: false, gone: false,
        };
        let server = servers[0];
        db.db.write(move |connection| corrupt::judge(connection, server, &[found], false)).await.unwrap();
        let repeat = async |upload: &Upload| db.commit_one(upload.clone()).await.unwrap().listed;
        assert_eq!(repeat(&trimmed).await, servers[1..], "its deletion waits");
        assert_eq!(repeat(&counted_out).await, servers[1..], "its bytes are bad");
        let rows = db.outbox().await;
        db.db.write(move |connection| deletions::complete(connection, &rows)).await.unwrap();
        assert_eq!(repeat(&trimmed).await, servers[1..], "it is deleted");
        let listed: Vec<i64> = db.sql(|connection| replicas::table.select(replicas::server).load(connection)).await;
        assert_eq!(listed, [servers[1].0; 2]);
    }

    async fn an_overwrite_replaces_whole_and_releases_the_old_bytes(db: TestDb) {
        db.servers(2).await;
        let old = db.write("/f", "old").await;
        let created = db.entry("/f").await.unwrap();
        let new = db.write("/f", "new").await;
        let entry = db.entry("/f").await.unwrap();
        assert_eq!((entry.id, entry.object, entry.version), (created.id, Some(new.object.0), new.version));
        assert!(new.version > old.version);
        assert_eq!(db.object(old.object).await.unwrap().state, "deleted");
        assert!(db.outbox().await.iter().all(|row| row.object == old.object.0));
    }

    async fn conditions(db: TestDb) {
        db.servers(2).await;
        let with = |condition| { let mut upload = upload("/f", "x"); upload.ticket.condition = condition; db.commit_one(upload) };
        assert_eq!(code(with(Condition::Version(1)).await), PreconditionFailed);
        let first = with(Condition::Absent).await.unwrap();
        assert_eq!(code(with(Condition::Absent).await), PreconditionFailed);
        assert_eq!(code(with(Condition::Version(first.version + 1)).await), PreconditionFailed);
        with(Condition::Version(first.version)).await.unwrap();
        let mut no_such = upload("/new/dir/f", "x");
        no_such.ticket.make_parents = true;
        no_such.ticket.condition = Condition::Version(7);
        assert_eq!(code(db.commit_one(no_such).await), PreconditionFailed);
        assert_eq!(db.tree().await, ["f"], "a refused write leaves no directories");
    }

    async fn what_was_sent_to_a_former_place_of_a_server_does_not_count(db: TestDb) {
        let servers = db.servers(2).await;
        let [early, late, with_two] = ["/early", "/late", "/with-two"].map(|path| upload(path, "x"));
        let first = db.commit_one(early.clone()).await.unwrap();
        // A copy of its directory is taken for the first server; whatever answers at the old place is not it.
        db.sql(|connection| {
            use diesel::prelude::*;
            use holdfast::db::schema::servers::dsl;
            diesel::update(dsl::servers.filter(dsl::name.eq("s1"))).set(dsl::url.eq("http://clone:1")).execute(connection)
        }).await;
        assert_eq!(code(db.commit_one(late.clone()).await), NotEnoughServers);
        let mut short = late;
        short.ticket.min_write_copies = 1;
        assert_eq!(db.commit_one(short).await.unwrap().listed, [servers[1]]);
        // A report that is repeated has the first result, and does not add the copy that went elsewhere.
        let again = db.commit_one(early).await.unwrap();
        assert_eq!((again.version, again.listed), (first.version, vec![servers[1]]));
        // Tickets of now name the new place.
        let mut now = with_two;
        now.ticket.targets[0].url = "http://clone:1".into();
        assert_eq!(db.commit_one(now).await.unwrap().listed, servers);
    }

    async fn a_file_short_of_copies_is_queued(db: TestDb) {
        db.servers(2).await;
        let mut short = upload("/f", "x");
        short.holders.truncate(1);
        short.ticket.min_write_copies = 1;
        db.commit_one(short).await.unwrap();
        let queued: Vec<(i64, i32)> = db.sql(|connection| {
            use diesel::prelude::*;
            use holdfast::db::schema::repair_queue::dsl;
            dsl::repair_queue.select((dsl::object, dsl::copies)).load(connection)
        }).await;
        assert_eq!(queued.len(), 1);
        assert_eq!(queued[0].1, 1);
    }
}
