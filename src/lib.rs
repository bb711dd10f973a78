//! Holdfast: fault-tolerant distributed file storage.
//!
//! # The map
//!
//! | module | what is in it | may import |
//! |---|---|---|
//! | [`types`] | domain types, the error, what travels on the wire | nothing |
//! | [`security`] | the cluster secret, tickets, tokens | `types` |
//! | [`decisions`] | pure decisions: placement, health, … without I/O | `types` |
//! | [`journal`] | the metadata's journal as files: format, merging of copies, replay | `types` |
//! | [`client`] | typed HTTP clients of both kinds of servers | `journal`, `security`, `types` |
//! | [`web`] | what both servers' HTTP sides share: listening, errors, request ids, access log | `security`, `types` |
//! | [`db`] | the metadata store over Postgres or SQLite | `decisions`, `journal`, `security`, `types` |
//! | [`actors`] | the supervisor and the name server's actors | `db`, `client` and below |
//! | [`http`] | the name server's endpoints | `actors`, `web` and below |
//! | [`storage`] | the storage server: object store, endpoints, its actors | `actors` (the supervisor), `web`, `client`, `journal` and below |
//! | [`cli`] | the commands, workspaces, progress, `up` | everything |
//!
//! `src/bin` holds the three programs; they parse arguments and call this library. `tests/house.rs` fails
//! when a module imports upward, when diesel is used outside `db`, the storage index and the journal's staging, and
//! when actix is used outside the servers.
//!
//! To follow one file through the code, read `docs/architecture.md`.

pub mod actors;
pub mod cli;
pub mod client;
pub mod db;
pub mod decisions;
pub mod http;
pub mod journal;
pub mod security;
pub mod storage;
pub mod types;
pub mod web;
