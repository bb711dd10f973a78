//! Changes at the same moment, from two name servers where the backend allows it: each ends in a legal outcome.

use std::collections::HashSet;

use holdfast::types::ErrorCode::*;

use crate::both_backends;
use crate::fixture::*;

/// How often each race is run.
const ROUNDS: usize = 25;

both_backends! {
    async fn crossing_moves(db: TestDb) {
        for round in 0..ROUNDS {
            let (a, b) = (format!("/a{round}"), format!("/b{round}"));
            db.mkdir(&a).await.unwrap();
            db.mkdir(&b).await.unwrap();
            let (into_b, into_a) = (format!("{b}/x"), format!("{a}/x"));
            let (first, second) = tokio::join!(mv(&db.db, &a, &into_b), mv(&db.other, &b, &into_a));
            // One of them moves; the other finds its target gone or inside itself.
            assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
            let failed = first.err().or(second.err()).unwrap().code();
            assert!(matches!(failed, NotFound | InvalidRequest), "{failed}");
        }
        let reachable = db.tree().await.len();
        assert_eq!(reachable, ROUNDS * 2, "no directory fell out of the tree");
    }

    async fn a_file_created_under_a_directory_that_is_being_removed(db: TestDb) {
        db.servers(2).await;
        for round in 0..ROUNDS {
            let dir = format!("/d{round}");
            db.mkdir(&dir).await.unwrap();
            let file = format!("{dir}/f");
            let (removed, written) = tokio::join!(rm(&db.db, &dir, true), commit_all(&db.other, vec![upload(&file, "x")]));
            removed.unwrap();
            let refused = written.into_iter().next().unwrap().map_err(|error| error.code());
            assert!(matches!(refused, Ok(_) | Err(NotFound)), "{refused:?}");
            assert!(db.entry(&file).await.is_none() && db.entry(&dir).await.is_none());
        }
    }

    async fn a_copy_of_a_file_that_is_being_deleted(db: TestDb) {
        db.servers(2).await;
        for round in 0..ROUNDS {
            let (file, copy) = (format!("/f{round}"), format!("/c{round}"));
            let object = db.write(&file, "x").await.object;
            let (from, to) = (p(&file), p(&copy));
            let (removed, copied) = tokio::join!(
                rm(&db.db, &file, false),
                change(&db.other, move |changes| holdfast::db::namespace::cp_file(changes, &from, &to, &TIMES))
            );
            removed.unwrap();
            let state = db.object(object).await.unwrap().state;
            match copied {
                Ok(()) => assert_eq!((state.as_str(), db.entry(&copy).await.unwrap().object), ("live", Some(object.0))),
                Err(error) => assert_eq!((state.as_str(), error.code()), ("deleted", NotFound)),
            }
        }
    }

    async fn the_same_change_from_two_name_servers(db: TestDb) {
        db.servers(2).await;
        for round in 0..ROUNDS {
            let (path, other_path) = (p(&format!("/d{round}")), p(&format!("/d{round}")));
            let (first, second) = tokio::join!(
                change(&db.db, move |changes| holdfast::db::namespace::mkdir(changes, &path, false)),
                change(&db.other, move |changes| holdfast::db::namespace::mkdir(changes, &other_path, false))
            );
            assert!(first.is_ok() != second.is_ok());
            let report = upload(&format!("/f{round}"), "x");
            let (one, two) = tokio::join!(commit_all(&db.db, vec![report.clone()]), commit_all(&db.other, vec![report]));
            assert_eq!(one[0].as_ref().unwrap().version, two[0].as_ref().unwrap().version);
        }
        assert_eq!(db.tree().await.len(), ROUNDS * 2);
    }

    async fn overwrites_of_one_path_from_all_sides(db: TestDb) {
        db.servers(2).await;
        let tasks: Vec<_> = (0..24).map(|number| {
            let db = if number % 2 == 0 { db.db.clone() } else { db.other.clone() };
            tokio::spawn(async move { commit_all(&db, vec![upload("/f", &number.to_string())]).await.pop().unwrap().unwrap() })
        }).collect();
        let mut versions = HashSet::new();
        let mut last = None;
        for task in tasks {
            let committed = task.await.unwrap();
            assert!(versions.insert(committed.version), "each commit has a version of its own");
            last = last.max(Some((committed.version, committed.object.0)));
        }
        let entry = db.entry("/f").await.unwrap();
        assert_eq!(Some((entry.version, entry.object.unwrap())), last, "the last commit wins");
        assert_eq!(db.outbox().await.len(), 23 * 2, "the others' bytes go");
    }
}
