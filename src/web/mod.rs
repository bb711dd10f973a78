//! What both servers' HTTP sides share: listening and TLS, errors, request ids, the access log, metrics.

pub mod auth;
pub mod error;
pub mod listen;
pub mod metrics;
pub mod request;

pub use listen::ListenOptions;
pub use metrics::Metrics;
