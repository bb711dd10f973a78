//! Scenarios against real processes: clusters on free ports, the command-line client, curl.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod between_servers;
mod crash;
mod demo;
mod errors;
mod fsck;
mod http_api;
mod journal_copy;
mod name_servers;
mod overwrite;
mod repair;
mod restore;
mod scrub;
mod sick_disks;
mod storage_directory;
mod trees;
mod up;
mod workspace;
