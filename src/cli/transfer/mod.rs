//! Moving the bytes of one file, in or out.
//!
//! Both directions run the disk and the hashing on a thread of their own, joined to the network by a channel
//! of a few chunks, so that memory depends neither on the size of a file nor on who is slower. Small files
//! are handled in one piece. Everything is verified by SHA-256, and whatever another server could cure is
//! tried again there, a bounded number of times.

mod download;
mod source;
mod upload;

pub(crate) use download::{FileTarget, StreamTarget};
pub(crate) use source::{Facts, Source, hash_file};
pub(crate) use upload::Uploaded;

/// Bytes that are read or written at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks between disk and network.
const CHUNKS_MAX: usize = 2;
/// Files up to this size are handled in one piece.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// A task of blocking work, whose only failure besides its own is a defect.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> crate::types::Result<T> + Send + 'static,
) -> crate::types::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(crate::types::Error::internal("work on a file was broken off").with_source(error)),
    }
}
