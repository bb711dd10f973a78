//! Typed HTTP clients of both kinds of servers, used by everyone who calls them.

mod body;
pub mod http;
mod hung;
mod jobs;
pub mod name_server;
mod pools;
pub mod proxy;
mod reach;
pub mod storage;
pub mod url;
pub mod waits;
mod watchdog;

pub use http::{Credentials, HttpClient};
pub use name_server::NameServerClient;
pub use reach::{is_of_tls, is_unreached};
pub use storage::StorageClient;
pub use waits::Waits;
