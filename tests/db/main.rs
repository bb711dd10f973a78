//! The metadata store, on both backends: the same tests run on embedded SQLite and on a private Postgres.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod commit;
mod concurrency;
mod copy_and_reap;
mod corrupt;
mod counts;
mod damage;
mod events;
mod fixture;
mod fsck;
mod jobs;
mod journal;
mod leaving;
mod listing;
mod moves;
mod namespace;
mod pending;
mod plans;
mod plans_events;
mod protection;
mod queue;
mod rebalance;
mod replication;
mod restore;
mod restore_size;
mod schema;
mod sync;
mod tokens;
mod troubles;
mod turns;
