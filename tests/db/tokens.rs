//! Tokens: the last one that may do everything is not revoked by accident.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::migrate::FIRST_TOKEN;
use holdfast::db::{schema, token};
use holdfast::types::ErrorCode::{NotFound, PreconditionFailed};
use holdfast::types::api::Role;
use holdfast::types::{Result, Sha256};

use crate::both_backends;
use crate::fixture::*;

async fn create(db: &TestDb, name: &'static str, role: Role, prefix: Option<&'static str>, ttl: Option<TimeDelta>) {
    db.change(move |changes| {
        let expires = ttl.map(|ttl| changes.now + ttl);
        let prefix = prefix.map(p);
        token::insert(changes, name, Sha256::of(name.as_bytes()), role, prefix.as_ref(), expires)
    })
    .await
    .unwrap();
}

async fn revoke(db: &TestDb, name: &'static str, force: bool) -> Result<()> {
    db.change(move |changes| token::revoke(changes, name, force)).await
}

both_backends! {
    async fn the_last_superuser_goes_only_by_force(db: TestDb) {
        // Others that are no superusers of everything do not count.
        create(&db, "writer", Role::Writer, None, None).await;
        create(&db, "lab", Role::Superuser, Some("/lab"), None).await;
        create(&db, "ended", Role::Superuser, None, Some(TimeDelta::hours(1))).await;
        db.sql(|connection| {
            use schema::tokens::dsl;
            let past = now(connection) - TimeDelta::seconds(1);
            diesel::update(dsl::tokens.find("ended")).set(dsl::expires.eq(past)).execute(connection)
        }).await;
        let refused = revoke(&db, FIRST_TOKEN, false).await.unwrap_err();
        assert_eq!(refused.code(), PreconditionFailed);
        assert!(refused.message().contains("last superuser") && refused.message().contains("--force"), "{refused}");
        // Those that are not the last go at once.
        for name in ["writer", "lab", "ended"] {
            revoke(&db, name, false).await.unwrap();
        }
        assert_eq!(code(revoke(&db, "writer", false).await), NotFound);
        // A second superuser, one whose prefix is everything or whose end is to come, takes the first one's place.
        for (name, prefix, ttl) in [("all", Some("/"), None), ("passing", None, Some(TimeDelta::hours(1)))] {
            create(&db, name, Role::Superuser, prefix, ttl).await;
            revoke(&db, FIRST_TOKEN, false).await.unwrap();
            assert_eq!(code(revoke(&db, name, false).await), PreconditionFailed);
            create(&db, FIRST_TOKEN, Role::Superuser, None, None).await;
            revoke(&db, name, false).await.unwrap();
        }
        revoke(&db, FIRST_TOKEN, true).await.unwrap();
        assert!(db.db.read(token::list).await.unwrap().is_empty());
        assert_eq!(code(revoke(&db, FIRST_TOKEN, true).await), NotFound);
    }

    async fn two_that_revoke_each_other_at_once_do_not_both_succeed(db: TestDb) {
        create(&db, "second", Role::Superuser, None, None).await;
        let (one, other) = (db.db.clone(), db.other.clone());
        let (one, other) = tokio::join!(
            change(&one, |changes| token::revoke(changes, FIRST_TOKEN, false)),
            change(&other, |changes| token::revoke(changes, "second", false)),
        );
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        assert_eq!(db.db.read(token::list).await.unwrap().len(), 1);
    }

    async fn names_that_urls_lose_can_still_be_revoked(db: TestDb) {
        for name in [".", "..", "a/b"] {
            create(&db, name, Role::Reader, None, None).await;
            revoke(&db, name, false).await.unwrap();
        }
    }
}
