//! Downloading one file, from other replicas when some fail.
//!
//! Bytes count only when size and SHA-256 are those of the metadata. A transfer that breaks off goes on at the
//! same place with the next replica; bytes that turn out wrong are fetched again from another. When every
//! replica has failed, the name server is asked once more: the file may have been replaced or moved, or the
//! tickets may have expired.

use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{CHUNKS_MAX, SMALL_BYTES_MAX, blocking, of_storage_server};
use crate::cli::context::Cluster;
use crate::cli::host::{Expect, FileStat, HostPath, Temporary, place};
use crate::cli::output::Output;
use crate::cli::progress::Meter;
use crate::client::http::backoff;
use crate::types::api::{Entry, Health, Kind};
use crate::types::error::IoContext;
use crate::types::hash::Hasher;
use crate::types::{DfsPath, Error, ErrorCode, Result, Sha256};

/// How often the name server is asked again when all replicas have failed.
const ROUNDS_MAX: usize = 6;
/// For how long, when every server that has a copy is down.
const NO_COPY_PATIENCE: Duration = Duration::from_secs(1);

/// Why a replica did not do.
enum Fault {
    /// This side failed; no replica can help.
    Local(Error),
    /// The bytes broke off; the next replica may go on.
    Broken(Error),
    /// The bytes are wrong; they must be fetched from the beginning.
    Corrupt(Error),
}

/// Where verified bytes go.
trait Sink: Send {
    /// Bytes taken so far.
    fn taken(&self) -> u64;
    /// Takes the next bytes.
    async fn take(&mut self, bytes: Bytes) -> Result<()>;
    /// The digest of all that was taken.
    async fn digest(&mut self) -> Result<Sha256>;
    /// Forgets all that was taken; fails when it has been handed on.
    async fn restart(&mut self) -> Result<()>;
}

/// A file to be written.
pub(crate) struct FileTarget {
    /// Its place.
    pub(crate) place: HostPath,
    /// What may be there.
    pub(crate) expect: Expect,
}

impl Cluster {
    /// Fetches a file to a place on this machine. `entry` may come from a listing, with or without locations.
    /// The answer is what was fetched (perhaps a newer version) and what now stands at the place.
    pub(crate) async fn download(
        &self,
        path: &DfsPath,
        entry: Entry,
        target: FileTarget,
        meter: &Arc<Meter>,
    ) -> Result<(Entry, FileStat)> {
        let mut sink = FileSink::new(&target, entry.size.unwrap_or(0));
        let entry = self.fetch(path, entry, &mut sink, meter).await?;
        let stat = sink.place(target).await?;
        Ok((entry, stat))
    }

    /// Fetches a file onto standard output. Wrong bytes may have been handed on when this fails.
    pub(crate) async fn download_to(&self, path: &DfsPath, target: &mut StreamTarget<'_>) -> Result<Entry> {
        let entry = self.names.stat(path).await?;
        let meter = Meter::new(&crate::cli::progress::Progress::hidden());
        target.hasher = Hasher::default();
        target.taken = 0;
        self.fetch(path, entry, target, &meter).await
    }

    async fn fetch(&self, path: &DfsPath, mut entry: Entry, sink: &mut impl Sink, meter: &Meter) -> Result<Entry> {
        let (mut waits, started) = (backoff(ROUNDS_MAX), Instant::now());
        let mut fresh = !entry.replicas.is_empty();
        let mut resumes = true;
        loop {
            if !fresh && needs_locations(&entry) {
                let now = self.names.stat(path).await?;
                if now.object != entry.object {
                    meter.restart();
                    sink.restart().await?;
                }
                entry = now;
            }
            if entry.kind != Kind::File {
                return Err(Error::new(ErrorCode::IsADirectory, format!("{path} is a directory")));
            }
            let error = match self.fetch_round(path, &entry, sink, meter, &mut resumes).await? {
                None => return Ok(entry),
                Some(error) => error,
            };
            let hopeless = entry.replicas.iter().all(|replica| replica.health == Health::Down);
            match waits.next() {
                Some(wait) if !hopeless || started.elapsed() < NO_COPY_PATIENCE => tokio::time::sleep(wait).await,
                _ => return Err(error),
            }
            fresh = false;
            entry.replicas.clear();
        }
    }

    /// Tries every replica once; the last one's failure if all fail. A server breaks off a copy that it finds
    /// corrupt at its end, and going on with another copy then gives wrong bytes: after the first wrong digest
    /// every copy is taken from its start (`resumes`).
    async fn fetch_round(
        &self,
        path: &DfsPath,
        entry: &Entry,
        sink: &mut impl Sink,
        meter: &Meter,
        resumes: &mut bool,
    ) -> Result<Option<Error>> {
        let mut last = Error::unavailable(format!("{path} has no copy that can be read now"));
        if entry.size == Some(0) {
            return match check(path, entry, sink).await {
                Ok(()) => Ok(None),
                Err(Fault::Local(error) | Fault::Broken(error) | Fault::Corrupt(error)) => Err(error),
            };
        }
        let places = entry.replicas.iter().filter_map(|replica| Some((replica.url.as_deref()?, replica)));
        let mut places: Vec<_> = places.collect();
        places.sort_by_key(|(url, replica)| (replica.health != Health::Live, self.storage.has_hung(url)));
        for (url, server) in places.into_iter().map(|(url, replica)| (url, replica.name.as_str())) {
            self.storage.call(url, server);
            match self.fetch_from(path, url, entry, sink, meter).await {
                Ok(()) => return Ok(None),
                Err(Fault::Local(error)) => return Err(error),
                Err(Fault::Broken(error)) => {
                    let error = of_storage_server(error, server);
                    log::info!("{path}: {}; trying the next copy", error.chain());
                    if !*resumes && sink.taken() > 0 {
                        meter.restart();
                        sink.restart().await?;
                    }
                    last = error;
                }
                Err(Fault::Corrupt(error)) => {
                    log::warn!("{}; trying the next copy", error.chain());
                    *resumes = false;
                    meter.restart();
                    if sink.restart().await.is_err() {
                        return Err(error);
                    }
                    last = error;
                }
            }
        }
        Ok(Some(last))
    }

    async fn fetch_from(
        &self,
        path: &DfsPath,
        url: &str,
        entry: &Entry,
        sink: &mut impl Sink,
        meter: &Meter,
    ) -> Result<(), Fault> {
        let size = entry.size.unwrap_or(0);
        if sink.taken() < size {
            let mut download = self.storage.download(url, sink.taken()).await.map_err(Fault::Broken)?;
            while let Some(bytes) = download.chunk().await.map_err(Fault::Broken)? {
                if sink.taken() + bytes.len() as u64 > size {
                    return Err(Fault::Corrupt(wrong_bytes(path, "more bytes than it has")));
                }
                meter.add(bytes.len());
                sink.take(bytes).await.map_err(Fault::Local)?;
            }
        }
        if sink.taken() < size {
            return Err(Fault::Broken(Error::unavailable(format!("the transfer of {path} ended early"))));
        }
        check(path, entry, sink).await
    }
}

/// Whether there is nothing yet to fetch the file by.
fn needs_locations(entry: &Entry) -> bool {
    entry.kind == Kind::File && entry.size != Some(0) && entry.replicas.is_empty()
}

async fn check(path: &DfsPath, entry: &Entry, sink: &mut impl Sink) -> Result<(), Fault> {
    let digest = sink.digest().await.map_err(Fault::Local)?;
    match entry.sha256 {
        Some(sha256) if sha256 == digest => Ok(()),
        Some(_) => Err(Fault::Corrupt(wrong_bytes(path, "bytes of another SHA-256"))),
        None => Err(Fault::Local(Error::internal(format!("the name server knows no SHA-256 of {path}")))),
    }
}

fn wrong_bytes(path: &DfsPath, what: &str) -> Error {
    Error::new(ErrorCode::ChecksumMismatch, format!("a copy of {path} gave {what}"))
}

/// Collects a small file in memory, and writes a large one on a thread.
enum FileSink {
    Small { content: Vec<u8>, place: HostPath },
    Large(Writer),
}

impl FileSink {
    fn new(target: &FileTarget, size: u64) -> Self {
        if size <= SMALL_BYTES_MAX {
            return Self::Small { content: Vec::with_capacity(size as usize), place: target.place.clone() };
        }
        Self::Large(Writer::start(target.place.clone()))
    }

    /// Gives the file its name.
    async fn place(self, target: FileTarget) -> Result<FileStat> {
        let FileTarget { place: at, expect } = target;
        match self {
            Self::Small { content, .. } => {
                blocking(move || {
                    let (directory, name) = at.split()?;
                    let mut file = Temporary::create(&directory)?;
                    let written = file.file_mut().write_all(&content);
                    written.io_context(|| format!("writing {}", at.shown().display()))?;
                    place(file, name, expect)
                })
                .await
            }
            Self::Large(writer) => {
                let file = writer.finish().await?;
                blocking(move || place(file, at.name()?, expect)).await
            }
        }
    }
}

impl Sink for FileSink {
    fn taken(&self) -> u64 {
        match self {
            Self::Small { content, .. } => content.len() as u64,
            Self::Large(writer) => writer.taken,
        }
    }

    async fn take(&mut self, bytes: Bytes) -> Result<()> {
        match self {
            Self::Small { content, .. } if (content.len() + bytes.len()) as u64 <= SMALL_BYTES_MAX => {
                content.extend_from_slice(&bytes);
                Ok(())
            }
            // The file was replaced by a larger one since it was listed.
            Self::Small { content, place } => {
                let mut writer = Writer::start(place.clone());
                let content = std::mem::take(content);
                writer.write(content.into()).await?;
                writer.write(bytes).await?;
                *self = Self::Large(writer);
                Ok(())
            }
            Self::Large(writer) => writer.write(bytes).await,
        }
    }

    async fn digest(&mut self) -> Result<Sha256> {
        match self {
            Self::Small { content, .. } => Ok(Sha256::of(content)),
            Self::Large(writer) => {
                let (tell, answer) = oneshot::channel();
                writer.send(Order::Digest(tell)).await?;
                match answer.await {
                    Ok(digest) => Ok(digest),
                    Err(_) => Err(writer.failure().await),
                }
            }
        }
    }

    async fn restart(&mut self) -> Result<()> {
        match self {
            Self::Small { content, .. } => {
                content.clear();
                Ok(())
            }
            Self::Large(writer) => {
                writer.taken = 0;
                writer.send(Order::Restart).await
            }
        }
    }
}

/// What the writing thread is told.
enum Order {
    Write(Bytes),
    Digest(oneshot::Sender<Sha256>),
    Restart,
}

/// A thread that writes and hashes.
struct Writer {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<Result<Temporary>>>,
    taken: u64,
}

impl Writer {
    fn start(place: HostPath) -> Self {
        let (orders, receiver) = mpsc::channel(CHUNKS_MAX);
        let thread = tokio::task::spawn_blocking(move || write_all(&place, receiver));
        Self { orders: Some(orders), thread: Some(thread), taken: 0 }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.taken += bytes.len() as u64;
        self.send(Order::Write(bytes)).await
    }

    async fn send(&mut self, order: Order) -> Result<()> {
        let sent = match &self.orders {
            Some(orders) => orders.send(order).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(self.failure().await) }
    }

    /// Why the thread ended.
    async fn failure(&mut self) -> Error {
        self.orders = None;
        match self.thread.take() {
            Some(thread) => match thread.await {
                Ok(Err(error)) => error,
                _ => Error::internal("the writing of a file was broken off"),
            },
            None => Error::internal("the writing of a file has failed before"),
        }
    }

    async fn finish(mut self) -> Result<Temporary> {
        self.orders = None;
        match self.thread.take() {
            Some(thread) => match thread.await {
                Ok(result) => result,
                Err(error) => Err(Error::internal("the writing of a file was broken off").with_source(error)),
            },
            None => Err(Error::internal("the writing of a file has failed before")),
        }
    }
}

fn write_all(place: &HostPath, mut orders: mpsc::Receiver<Order>) -> Result<Temporary> {
    let mut file = Temporary::create(&place.split()?.0)?;
    let context = || format!("writing {}", place.shown().display());
    let mut hasher = Hasher::default();
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Write(bytes) => {
                hasher.update(&bytes);
                file.file_mut().write_all(&bytes).io_context(context)?;
            }
            Order::Digest(tell) => {
                // Whoever asked may have gone.
                let _ = tell.send(hasher.clone().finish());
            }
            Order::Restart => {
                hasher = Hasher::default();
                file.file().set_len(0).io_context(context)?;
                file.file_mut().seek(SeekFrom::Start(0)).io_context(context)?;
            }
        }
    }
    Ok(file)
}

/// Standard output as a place for files, one after the other.
pub(crate) struct StreamTarget<'a> {
    output: &'a mut Output,
    hasher: Hasher,
    taken: u64,
}

impl<'a> StreamTarget<'a> {
    pub(crate) fn new(output: &'a mut Output) -> Self {
        Self { output, hasher: Hasher::default(), taken: 0 }
    }
}

impl Sink for StreamTarget<'_> {
    fn taken(&self) -> u64 {
        self.taken
    }

    async fn take(&mut self, bytes: Bytes) -> Result<()> {
        self.hasher.update(&bytes);
        self.taken += bytes.len() as u64;
        self.output.bytes(&bytes)
    }

    async fn digest(&mut self) -> Result<Sha256> {
        Ok(self.hasher.clone().finish())
    }

    async fn restart(&mut self) -> Result<()> {
        if self.taken > 0 {
            return Err(Error::new(
                ErrorCode::ChecksumMismatch,
                "the file changed, or a copy was wrong, after bytes had been handed on; throw them away and try again",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::host::HostDir;

    #[tokio::test]
    async fn a_large_file_is_written_hashed_and_started_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let target = FileTarget { place: HostDir::open(directory.path()).unwrap().at("f"), expect: Expect::Absent };
        let mut sink = FileSink::new(&target, SMALL_BYTES_MAX + 1);
        let content = vec![7; SMALL_BYTES_MAX as usize + 1];
        sink.take(Bytes::from_static(b"wrong")).await.unwrap();
        sink.restart().await.unwrap();
        sink.take(content.clone().into()).await.unwrap();
        assert_eq!((sink.taken(), sink.digest().await.unwrap()), (content.len() as u64, Sha256::of(&content)));
        sink.place(target).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == content);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_written_says_so() {
        let place = HostDir::open(std::path::Path::new("/")).unwrap().at("nonexistent/f");
        let target = FileTarget { place, expect: Expect::AnyFile };
        let mut sink = FileSink::new(&target, 1 << 30);
        let mut failed = None;
        while failed.is_none() {
            failed = sink.take(Bytes::from_static(b"x")).await.err();
        }
        assert!(failed.unwrap().message().contains("/nonexistent"));
    }
}
