//! What both servers' HTTP sides share: listening and TLS, connections, the table of routes, bodies, errors, request ids,
//! the access log, metrics, what the API's description has in common.

pub mod auth;
pub mod body;
pub mod connections;
pub mod describe;
pub mod error;
pub mod file_body;
pub mod listen;
pub mod metrics;
pub mod preconditions;
pub mod request;
pub mod route;
pub mod serve;

pub use listen::ListenOptions;
pub use metrics::Metrics;
