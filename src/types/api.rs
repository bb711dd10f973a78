//! What travels to and from the name server, as JSON: one name for all of it.

pub use super::file_api::*;
pub use super::jobs_api::*;
pub use super::operation_api::*;
pub use super::server_api::*;
pub use super::token_api::*;
