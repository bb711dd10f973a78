//! The name server's endpoints.
//!
//! All of them stand in one table, [`ROUTES`], from which follows who is let in before a handler sees the request. Handlers
//! check that a token covers the path that is asked for, hand changes to the actors or ask the database, and answer. They
//! hold nothing that the database does not.

pub mod auth;
pub mod files;
pub mod fsck;
pub mod gauges;
pub mod locations;
pub mod namespace;
pub mod openapi;
pub mod operation;
pub mod rebalance;
pub mod redirect;
pub mod registration;
pub mod report;
pub mod restore;
pub mod routes;
pub mod scrub;
pub mod server;
pub mod servers;
pub mod state;
pub mod tokens;
pub mod why;

pub use routes::{ROUTES, routes};
