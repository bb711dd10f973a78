//! Scenarios against real processes: clusters on free ports, the command-line client, curl.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod between_servers;
mod client_chaos;
mod crash;
mod damage;
mod damaged_directory;
mod demo;
mod errors;
mod files_door;
mod followed;
mod fsck;
mod full_database;
mod host_files;
mod hostile;
mod http_api;
mod identity;
mod journal_copy;
mod name_servers;
mod network;
mod other_file_systems;
mod overwrite;
mod rebalance;
mod refused_starts;
mod repair;
mod restore;
mod rights;
mod scrub;
mod secrets;
mod sick_disks;
mod silences;
mod slow_statements;
mod storage_directory;
mod tls;
mod trees;
mod up;
mod workspace;
mod workspace_changes;
mod workspace_standing;
