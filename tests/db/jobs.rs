//! Long work that somebody asked for: one of a kind at a time, with what came of it, and told as interrupted when nobody
//! does it any more.

use diesel::prelude::*;
use holdfast::db::jobs::{self, Asked, Begun};
use holdfast::db::rows::JobRow;
use holdfast::db::schema::jobs as table;
use holdfast::types::Result;

use crate::both_backends;
use crate::fixture::*;

fn asked(holder: &str, alone: bool) -> Asked {
    Asked { kind: "fsck", holder: holder.into(), by: "op".into(), request: "{}".into(), alone }
}

async fn begin(db: &TestDb, asked: Asked) -> Begun {
    db.db.write(move |connection| jobs::begin(connection, &asked)).await.unwrap()
}

async fn last(db: &TestDb) -> (JobRow, bool) {
    let (row, now) = db.other.read(|connection| jobs::last(connection, "fsck")).await.unwrap().unwrap();
    let is_interrupted = row.is_interrupted(now, "c", false);
    (row, is_interrupted)
}

async fn tell(db: &TestDb, id: i64, step: &'static str, ended: Option<&'static str>) -> Result<bool> {
    db.db.write(move |connection| jobs::tell(connection, id, step, "[1]", ended)).await
}

both_backends! {
    async fn one_runs_at_a_time_and_what_came_of_it_stays(db: TestDb) {
        assert!(db.db.read(|connection| jobs::last(connection, "fsck")).await.unwrap().is_none());
        let Begun::Here(first) = begin(&db, asked("a", false)).await else { panic!("it is the first") };
        assert_eq!(begin(&db, asked("b", false)).await, Begun::Already(first.clone()));
        assert!(tell(&db, first.id, "half", None).await.unwrap());
        let (row, is_interrupted) = last(&db).await;
        assert_eq!((row.step.as_str(), row.report.as_str(), is_interrupted), ("half", "[1]", false));
        assert!(tell(&db, first.id, "", Some(JobRow::DONE)).await.unwrap());
        assert!(!tell(&db, first.id, "late", None).await.unwrap(), "it has ended");
        let (row, is_interrupted) = last(&db).await;
        assert_eq!((row.state.as_str(), row.ended.is_some(), is_interrupted), ("done", true, false));
        let Begun::Here(second) = begin(&db, asked("b", false)).await else { panic!("nothing runs") };
        assert_ne!(second.id, first.id);
    }

    async fn one_that_nobody_does_any_more_was_interrupted(db: TestDb) {
        let Begun::Here(first) = begin(&db, asked("a", false)).await else { panic!("it is the first") };
        // Nobody else can work on an embedded database; and what this process does not know of it does not do.
        let (row, time) = db.db.read(|connection| jobs::last(connection, "fsck")).await.unwrap().unwrap();
        assert!(row.is_interrupted(time, "b", true) && row.is_interrupted(time, "a", false));
        assert!(!row.is_interrupted(time, "b", false));
        db.sql(|connection| {
            let long_ago = now(connection) - chrono::TimeDelta::minutes(1);
            diesel::update(table::table).set(table::beat.eq(long_ago)).execute(connection)
        })
        .await;
        assert!(last(&db).await.1);
        let Begun::Here(second) = begin(&db, asked("b", false)).await else { panic!("nobody does the first") };
        assert!(!tell(&db, first.id, "still here", None).await.unwrap(), "it is another one's now");
        assert_eq!(last(&db).await.0.id, second.id);
    }
}
