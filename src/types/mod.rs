//! Domain types: the words of the system, with no I/O.
//!
//! Everything else imports from here and this imports from nowhere. What travels between programs is in
//! [`api`] (the name server's endpoints) and [`storage_api`] (the storage servers').

pub mod api;
pub mod bounds;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod file_api;
pub mod hash;
pub mod hidden;
pub mod id;
pub mod jobs_api;
pub mod label;
pub mod limits;
pub mod object;
pub mod operation_api;
pub mod path;
pub mod schema;
pub mod server_api;
pub mod server_state;
pub mod storage_api;
pub mod token_api;
pub mod words;

pub use error::{Error, ErrorCode, Result};
pub use event::{Cause, CauseWord, EventKind};
pub use hash::Sha256;
pub use hidden::Hidden;
pub use id::{EntryId, EventId, Generation, ObjectId, ServerId};
pub use path::DfsPath;
pub use server_state::{AdminState, Health, Mode};

/// A time in UTC. The database stores it without a zone; the wire carries RFC 3339.
pub type Time = chrono::DateTime<chrono::Utc>;

/// The number of a metadata change: dense and rising over the whole cluster, in commit order.
pub type Version = i64;
