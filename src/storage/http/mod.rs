//! The storage server's endpoints. All of them stand in one table, [`ROUTES`], from which follows who is let in before a
//! handler sees the request.

mod access;
mod admin;
pub mod download;
mod journal;
mod metrics;
mod openapi;
mod routes;
mod scrub;
mod upload;

pub use self::access::{Access, As, Kind};
pub use self::openapi::description;
pub use self::routes::{ROUTES, routes};
