//! Where the bytes of an upload come from: a file, or standard input.
//!
//! A file is read and hashed at the same time. Just before its last chunk leaves it is looked at again: when
//! size, times or inode have changed since it was opened, the body breaks off and nothing is committed, because
//! what was read may be neither the old content nor the new.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{CHUNK_BYTES, CHUNKS_MAX, SMALL_BYTES_MAX, blocking};
use crate::cli::host::{Expected, FileStat, HostPath, Look};
use crate::cli::progress::Meter;
use crate::client::storage::BodyFacts;
use crate::types::error::IoContext;
use crate::types::hash::Hasher;
use crate::types::{Error, ErrorCode, Result, Sha256};

/// What was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) stat: FileStat,
    /// Any later change will show in the stat.
    pub(crate) settled: bool,
    pub(crate) sha256: Sha256,
}

impl Facts {
    /// What may be replaced or removed on the strength of this reading.
    pub(crate) fn expected(&self) -> Expected {
        Expected { stat: self.stat, unsettled: (!self.settled).then_some(self.sha256) }
    }
}

type Body = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;
type Chunks = mpsc::Receiver<std::io::Result<Bytes>>;
type Verdict = oneshot::Receiver<Result<Facts>>;

/// Where bytes come from.
pub(crate) enum Source {
    /// A file on this machine; a symbolic link at the path's end is refused.
    File(HostPath),
    /// Standard input.
    Stdin(Stdin),
}

/// One reading of a source, ready to be sent.
pub(super) struct Reading {
    /// What is known before the first byte.
    pub(super) facts: BodyFacts,
    /// When the file was last modified.
    pub(super) stat: Option<FileStat>,
    pub(super) body: Body,
    /// Comes when the source has been read to its end, or failed.
    pub(super) verdict: Verdict,
}

impl Source {
    /// Standard input, which is read from now on.
    pub(crate) fn stdin() -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let (tell, verdict) = oneshot::channel();
        // A plain thread: a task of blocking work would keep the program from ending while a terminal waits.
        std::thread::spawn(move || {
            let _ = tell.send(read_stream(std::io::stdin().lock(), &sender));
        });
        Self::Stdin(Stdin {
            chunks: Arc::new(Mutex::new(receiver)),
            verdict: Some(verdict),
            begun: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Starts to read from the beginning.
    pub(super) async fn read(&mut self, meter: &Arc<Meter>) -> Result<Reading> {
        match self {
            Self::File(path) => read_file(path.clone(), meter.clone()).await,
            Self::Stdin(stdin) => stdin.read(meter.clone()),
        }
    }

    /// Whether it can be read from the beginning (again).
    pub(super) fn can_repeat(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Stdin(stdin) => !stdin.begun.load(Ordering::Relaxed),
        }
    }

    /// Facts about the whole of it when an answer came before it was read to its end.
    pub(super) async fn facts_anew(&self) -> Result<Facts> {
        match self {
            Self::File(path) => hash_file(path.clone()).await,
            Self::Stdin(_) => Err(Error::unavailable("the server answered before standard input had ended")),
        }
    }
}

/// Standard input. What a failed try has not taken yet is there for the next one.
pub(crate) struct Stdin {
    chunks: Arc<Mutex<Chunks>>,
    verdict: Option<Verdict>,
    begun: Arc<AtomicBool>,
}

impl Stdin {
    fn read(&mut self, meter: Arc<Meter>) -> Result<Reading> {
        let verdict = match self.verdict.take() {
            Some(verdict) => verdict,
            None => return Err(Error::unavailable("standard input cannot be read a second time")),
        };
        let state = (self.chunks.clone(), self.begun.clone(), meter);
        let body = stream::unfold(state, |(chunks, begun, meter)| async move {
            let chunk = chunks.lock().await.recv().await?;
            begun.store(true, Ordering::Relaxed);
            if let Ok(bytes) = &chunk {
                meter.add(bytes.len());
            }
            Some((chunk, (chunks, begun, meter)))
        });
        Ok(Reading { facts: BodyFacts::default(), stat: None, body: Box::pin(body), verdict })
    }

    /// Gives the verdict back after a try that took nothing.
    pub(super) fn take_back(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

fn read_stream(mut input: impl Read, sender: &mpsc::Sender<std::io::Result<Bytes>>) -> Result<Facts> {
    let (mut hasher, mut size) = (Hasher::default(), 0);
    loop {
        let mut buffer = vec![0; CHUNK_BYTES];
        match read_full(&mut input, &mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                buffer.truncate(length);
                hasher.update(&buffer);
                size += length as u64;
                if sender.blocking_send(Ok(buffer.into())).is_err() {
                    return Err(Error::unavailable("the upload was broken off"));
                }
            }
            Err(error) => {
                let copy = std::io::Error::new(error.kind(), error.to_string());
                // Breaks the body off, so that nothing is committed.
                let _ = sender.blocking_send(Err(copy));
                return Err(Error::io("reading standard input", error));
            }
        }
    }
    Ok(Facts { stat: FileStat::of_stream(size), settled: false, sha256: hasher.finish() })
}

/// Reads until the buffer is full or the input ends.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A file that is being read, as it was when it was opened.
struct Opened {
    file: File,
    shown: PathBuf,
    stat: FileStat,
    settled: bool,
}

fn open(place: &HostPath) -> Result<Opened> {
    let (file, look) = place.open_file()?;
    let settled = look.settled(place.clock_ahead_ns());
    Ok(Opened { file, shown: place.shown(), stat: look.stat, settled })
}

/// What a file's reading says when the file did not hold still.
fn changed(path: &Path) -> Error {
    Error::new(ErrorCode::Internal, format!("{} changed while it was being read", path.display()))
}

/// Reads all of a file, handing on chunk after chunk, and checks that it held still.
fn read_checked(opened: &mut Opened, mut hand_on: impl FnMut(Bytes) -> Result<()>) -> Result<Facts> {
    let Opened { file, shown, stat, settled } = opened;
    let (mut hasher, mut size) = (Hasher::default(), 0);
    let context = || format!("reading {}", shown.display());
    loop {
        let mut buffer = vec![0; CHUNK_BYTES.min((stat.size - size) as usize + 1)];
        let length = read_full(file, &mut buffer).io_context(context)?;
        size += length as u64;
        let at_end = size >= stat.size || length == 0;
        let now = || Look::of_file(&*file).map_err(std::io::Error::from).io_context(context);
        if at_end && (size != stat.size || now()?.stat != *stat) {
            return Err(changed(shown));
        }
        if length > 0 {
            buffer.truncate(length);
            hasher.update(&buffer);
            hand_on(buffer.into())?;
        }
        if at_end {
            return Ok(Facts { stat: *stat, settled: *settled, sha256: hasher.finish() });
        }
    }
}

/// A file's digest.
pub(crate) async fn hash_file(place: HostPath) -> Result<Facts> {
    blocking(move || read_checked(&mut open(&place)?, |_| Ok(()))).await
}

async fn read_file(place: HostPath, meter: Arc<Meter>) -> Result<Reading> {
    let opened = blocking(move || {
        let mut opened = open(&place)?;
        if opened.stat.size > SMALL_BYTES_MAX {
            return Ok((opened, None));
        }
        let mut content = Bytes::new();
        let facts = read_checked(&mut opened, |bytes| {
            content = bytes;
            Ok(())
        })?;
        Ok((opened, Some((content, facts))))
    });
    let (opened, small) = opened.await?;
    let stat = opened.stat;
    let (tell, verdict) = oneshot::channel();
    let (body, sha256): (Body, _) = match small {
        Some((content, facts)) => {
            meter.add(content.len());
            let _ = tell.send(Ok(facts));
            let pieces = (!content.is_empty()).then_some(Ok(content));
            (Box::pin(stream::iter(pieces)), Some(facts.sha256))
        }
        None => (read_large(opened, meter, tell), None),
    };
    Ok(Reading { facts: BodyFacts { size: Some(stat.size), sha256 }, stat: Some(stat), body, verdict })
}

fn read_large(mut opened: Opened, meter: Arc<Meter>, tell: oneshot::Sender<Result<Facts>>) -> Body {
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || {
        let mut gone = false;
        let result = read_checked(&mut opened, |bytes| {
            meter.add(bytes.len());
            sender.blocking_send(Ok(bytes)).map_err(|_| {
                gone = true;
                Error::unavailable("the upload was broken off")
            })
        });
        // When the upload ended first, its error says why; the reading has no opinion.
        if gone {
            return;
        }
        let fault = result.as_ref().err().map(|error| std::io::Error::other(error.message().to_string()));
        // The verdict before the fault: whoever sees the body fail finds the reason.
        let _ = tell.send(result);
        if let Some(fault) = fault {
            let _ = sender.blocking_send(Err(fault));
        }
    });
    Box::pin(stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::host::HostDir;
    use crate::cli::progress::Progress;
    use futures_util::StreamExt;

    fn place(path: &Path) -> HostPath {
        HostDir::open(path.parent().unwrap()).unwrap().at(path.file_name().unwrap())
    }

    async fn all(path: &Path) -> Result<(Vec<u8>, Facts, BodyFacts)> {
        let meter = Meter::new(&Progress::hidden());
        let mut reading = read_file(place(path), meter).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = reading.body.next().await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(_) => break,
            }
        }
        Ok((bytes, reading.verdict.await.unwrap()?, reading.facts))
    }

    #[tokio::test]
    async fn files_of_every_size_are_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let small = SMALL_BYTES_MAX as usize;
        for size in [0, 1, small, small + 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let content: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            std::fs::write(&path, &content).unwrap();
            let (bytes, facts, before) = all(&path).await.unwrap();
            assert!(bytes == content, "{size}");
            assert_eq!((facts.sha256, facts.stat.size), (Sha256::of(&content), size as u64));
            assert_eq!(before.size, Some(size as u64));
            assert_eq!(before.sha256.is_some(), size <= small);
        }
    }

    #[tokio::test]
    async fn a_file_that_grows_or_shrinks_meanwhile_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("restless");
        for new_size in [10, 4 << 20] {
            std::fs::write(&path, vec![1; 2 << 20]).unwrap();
            let meter = Meter::new(&Progress::hidden());
            let mut reading = read_file(place(&path), meter).await.unwrap();
            reading.body.next().await.unwrap().unwrap();
            File::options().write(true).open(&path).unwrap().set_len(new_size).unwrap();
            while reading.body.next().await.is_some_and(|chunk| chunk.is_ok()) {}
            let error = reading.verdict.await.unwrap().unwrap_err();
            assert!(error.message().contains("restless"), "{error}");
        }
    }

    #[tokio::test]
    async fn links_and_pipes_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("f"), "x").unwrap();
        std::os::unix::fs::symlink("f", directory.path().join("link")).unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(all(&directory.path().join("link")).await.is_err());
        assert!(all(&pipe).await.is_err());
    }
}
