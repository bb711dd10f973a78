//! Receiving a body: hashed as it comes, small ones in memory, larger ones in a file under `incoming/`.
//!
//! Hashing and writing happen on a thread of the blocking pool, fed through a short queue, so that an
//! arbiter's thread never waits for a disk and a slow disk slows the sender down. What is dropped before
//! [`Incoming::finish`] removes its file.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::dir::{Dir, TempFile};
use crate::types::hash::Hasher;
use crate::types::limits::{INLINE_BYTES_MAX, OBJECT_BYTES_MAX};
use crate::types::{Error, ErrorCode, Result, Sha256};

/// Pieces that wait for the disk.
const QUEUE_PIECES_MAX: usize = 8;

/// A large file is synced each time that as many bytes have come, so that the last sync is short and those who
/// wait for the answer need not wait for gigabytes.
const SYNC_BYTES: usize = 64 << 20;

/// A body on its way in.
pub struct Incoming {
    dir: Dir,
    size: u64,
    announced: Option<u64>,
    body: Body,
}

enum Body {
    Memory(BytesMut),
    File { pieces: mpsc::Sender<Piece>, writer: JoinHandle<Result<(TempFile, Sha256)>> },
}

enum Piece {
    Bytes(Bytes),
    Finish,
}

/// A body that has come whole; a file is fdatasynced.
pub struct Received {
    /// Bytes.
    pub size: u64,
    /// Their digest.
    pub sha256: Sha256,
    /// Where they are.
    pub content: Content,
}

/// Where a body's bytes are.
pub enum Content {
    /// In memory, to be stored in the index.
    Small(Bytes),
    /// In a file under `incoming/`.
    File(TempFile),
}

impl Incoming {
    /// Starts to receive a body into `dir`.
    pub fn new(dir: &Dir, announced: Option<u64>) -> Self {
        Self { dir: dir.clone(), size: 0, announced, body: Body::Memory(BytesMut::new()) }
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next piece.
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.size += piece.len() as u64;
        let most = self.announced.unwrap_or(OBJECT_BYTES_MAX);
        if self.size > most {
            let message = format!(
                "the body has more than {most} bytes, which were {}",
                if self.announced.is_some() { "announced" } else { "the most" }
            );
            let code = if self.announced.is_some() { ErrorCode::InvalidRequest } else { ErrorCode::TooLarge };
            return Err(Error::new(code, message));
        }
        if let Body::Memory(memory) = &mut self.body {
            memory.extend_from_slice(&piece);
            if self.size <= INLINE_BYTES_MAX {
                return Ok(());
            }
            let start = std::mem::take(memory).freeze();
            self.body = start_file(&self.dir);
            return self.send(Piece::Bytes(start)).await;
        }
        self.send(Piece::Bytes(piece)).await
    }

    async fn send(&mut self, piece: Piece) -> Result<()> {
        let Body::File { pieces, writer } = &mut self.body else { return Ok(()) };
        if pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        // The writer has ended, so it has failed.
        match writer.await {
            Ok(Err(error)) => Err(error),
            _ => Err(Error::internal("the writer of an upload has ended")),
        }
    }

    /// Ends the body: checks the announced size, and makes a file durable.
    pub async fn finish(mut self) -> Result<Received> {
        if let Some(announced) = self.announced.filter(|announced| *announced != self.size) {
            let message = format!("the body ended after {} of {announced} announced bytes", self.size);
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        self.send(Piece::Finish).await?;
        let size = self.size;
        match self.body {
            Body::Memory(memory) => {
                let bytes = memory.freeze();
                Ok(Received { size, sha256: Sha256::of(&bytes), content: Content::Small(bytes) })
            }
            Body::File { writer, .. } => {
                let (path, sha256) = writer
                    .await
                    .map_err(|error| Error::internal("the writer of an upload panicked").with_source(error))??;
                Ok(Received { size, sha256, content: Content::File(path) })
            }
        }
    }
}

fn start_file(dir: &Dir) -> Body {
    let (pieces, queue) = mpsc::channel(QUEUE_PIECES_MAX);
    let dir = dir.clone();
    let writer = tokio::task::spawn_blocking(move || write_file(&dir, queue));
    Body::File { pieces, writer }
}

fn write_file(dir: &Dir, mut queue: mpsc::Receiver<Piece>) -> Result<(TempFile, Sha256)> {
    let failed = |error| not_stored("storing an upload", error);
    let (mut file, temporary) = TempFile::new_in(dir, "upload-").map_err(failed)?;
    let mut hasher = Hasher::default();
    let mut unsynced = 0;
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => {
                hasher.update(&bytes);
                file.write_all(&bytes).map_err(failed)?;
                crate::types::failpoint::UPLOAD_PIECE_WRITTEN.passed();
                unsynced += bytes.len();
                if unsynced >= SYNC_BYTES {
                    file.sync_data().map_err(failed)?;
                    unsynced = 0;
                }
            }
            Piece::Finish => {
                crate::types::failpoint::UPLOAD_BODY_RECEIVED.passed();
                file.sync_data().map_err(failed)?;
                crate::types::failpoint::UPLOAD_FSYNCED.passed();
                return Ok((temporary, hasher.finish()));
            }
        }
    }
    Err(Error::new(ErrorCode::InvalidRequest, "the upload was given up"))
}

/// A disk that does not take bytes is this server's trouble and not a defect: another one may take them. A server that
/// has no file left for it is busy.
pub fn not_stored(what: &str, error: std::io::Error) -> Error {
    match Error::io(what, error) {
        error if matches!(error.code(), ErrorCode::OutOfSpace | ErrorCode::Busy) => error,
        error => {
            Error::unavailable(format!("this storage server cannot keep it: {}", error.message())).with_source(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn temporary() -> (tempfile::TempDir, Dir) {
        let path = tempfile::tempdir().unwrap();
        let dir = Dir::open(path.path()).unwrap();
        (path, dir)
    }

    fn files(dir: &Dir) -> usize {
        dir.names().unwrap().len()
    }

    #[tokio::test]
    async fn small_bodies_stay_in_memory_and_large_ones_go_to_a_file() {
        let (_path, dir) = temporary();
        for (size, small) in [(0, true), (INLINE_BYTES_MAX, true), (INLINE_BYTES_MAX + 1, false), (3 << 20, false)] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut incoming = Incoming::new(&dir, Some(size));
            for piece in bytes.chunks(50_000) {
                incoming.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            let received = incoming.finish().await.unwrap();
            assert_eq!((received.size, received.sha256), (size, Sha256::of(&bytes)));
            match &received.content {
                Content::Small(stored) => assert!(small && stored[..] == bytes[..]),
                Content::File(file) => {
                    let mut stored = Vec::new();
                    file.open().unwrap().read_to_end(&mut stored).unwrap();
                    assert!(!small && stored == bytes);
                }
            }
        }
        // It goes on a thread that may wait for the disk.
        let gone = async {
            while files(&dir) > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let gone = tokio::time::timeout(std::time::Duration::from_secs(20), gone).await;
        assert!(gone.is_ok(), "a dropped body leaves no file");
    }

    #[tokio::test]
    async fn bodies_of_another_length_are_refused_and_leave_nothing() {
        let (_path, dir) = temporary();
        let piece = Bytes::from(vec![7; 100_000]);
        let mut short = Incoming::new(&dir, Some(100_001));
        short.write(piece.clone()).await.unwrap();
        assert_eq!(short.finish().await.err().unwrap().code(), ErrorCode::InvalidRequest);
        let mut long = Incoming::new(&dir, Some(99_999));
        assert_eq!(long.write(piece).await.unwrap_err().code(), ErrorCode::InvalidRequest);
        drop(long);
        for _ in 0..200 {
            if files(&dir) == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the file of a body that was given up stays");
    }
}
