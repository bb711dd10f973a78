//! Moving the bytes of one file, in or out.
//!
//! Both directions run the disk and the hashing on a thread of their own, joined to the network by a channel
//! of a few chunks, so that memory depends neither on the size of a file nor on who is slower. Small files
//! are handled in one piece. Everything is verified by SHA-256, and whatever another server could cure is
//! tried again there, a bounded number of times.

mod download;
mod source;
mod upload;

use crate::client::is_unreached;
use crate::types::{Error, Result};

pub(crate) use download::{FileTarget, StreamTarget};
pub(crate) use source::{Facts, Source, hash_file};
pub(crate) use upload::Uploaded;

/// Bytes that are read or written at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks between disk and network.
const CHUNKS_MAX: usize = 2;
/// Files up to this size are handled in one piece.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// A storage server's failure, with its name. When nobody could be reached where the cluster says that clients reach it,
/// the cluster runs and the address is what is wrong.
fn of_storage_server(error: Error, name: &str) -> Error {
    if !is_unreached(&error) {
        return error;
    }
    let error = error.hint("clients are told this address by that server's `--public-url`, or else its `--url`");
    if name.is_empty() { error } else { error.context(format!("storage server {name}")) }
}

/// A task of blocking work, whose only failure besides its own is a defect.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("work on a file was broken off").with_source(error)),
    }
}
