//! Who waits for a connection, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast::db::cluster;
use holdfast::types::ErrorCode;

use crate::both_backends;

both_backends! {
    async fn the_actors_do_not_wait_behind_a_thousand_users(db: TestDb) {
        let done = Arc::new(AtomicUsize::new(0));
        let slow = |is_write: bool| {
            let (db, done) = (db.db.clone(), done.clone());
            tokio::spawn(async move {
                let answer = if is_write {
                    db.write(|connection| { std::thread::sleep(Duration::from_millis(50)); Ok(cluster::state(connection)?) }).await
                } else {
                    db.read(|connection| { std::thread::sleep(Duration::from_millis(50)); cluster::state(connection) }).await
                };
                done.fetch_add(1, Ordering::Relaxed);
                answer.map(drop)
            })
        };
        let users: Vec<_> = (0..200).map(|number| slow(number % 4 == 0)).collect();
        // Some of them hold connections, the others wait.
        while done.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let actors = db.db.for_actors();
        for _ in 0..3 {
            actors.read(cluster::state).await.unwrap();
            actors.write(|connection| Ok(cluster::state(connection)?)).await.unwrap();
        }
        assert!(done.load(Ordering::Relaxed) < 150, "the actors waited for the users");
        for user in users {
            match user.await.unwrap() {
                Ok(()) => {}
                Err(error) => assert_eq!(error.code(), ErrorCode::Busy, "{error}"),
            }
        }
    }
}
