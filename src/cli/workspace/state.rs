//! What a workspace remembers of its last push or pull.
//!
//! `state.ndjson` holds one line per file and directory, in the order of a walk. While a run works, what it has
//! done is appended to `journal.ndjson`, in batches that are fsynced (for a pull after the fetched files
//! themselves); a reader lays the journal over the state. At the end, and whenever the journal has become
//! long, both are written into a new state, which replaces the old one by a rename. A journal that was written
//! into a state already changes nothing when it is laid over it again, so every moment is a good one to be
//! interrupted.
//!
//! Records of earlier versions lack the time of the last change of status and the inode. They vouch for nothing: the
//! file is read once more, and then noted as now.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::sighting;
use crate::cli::config::sync_directory_of;
use crate::cli::host::{FileStat, HostDir};
use crate::cli::merge::{HasPath, Sorted, is_within};
use crate::cli::transfer::Facts;
use crate::types::api::Kind;
use crate::types::error::IoContext;
use crate::types::path::walk_order;
use crate::types::{Error, ErrorCode, Result, Sha256, Version};

const STATE: &str = "state.ndjson";
const JOURNAL: &str = "journal.ndjson";
const LOCK: &str = "lock";
/// What is done about a file that cannot be read.
const REMEDY: &str = "remove it, and the next push or pull compares everything anew";
/// Records that wait in memory before they are written.
const BATCH_RECORDS_MAX: usize = 4_096;
/// How long they wait.
const BATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Records in the journal before it is written into the state.
const JOURNAL_RECORDS_MAX: usize = 100_000;

/// What a file or directory was when both sides were the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) kind: Kind,
    /// The remote version.
    pub(crate) version: Version,
    #[serde(default)]
    pub(crate) size: u64,
    /// The local file's time of modification.
    #[serde(default)]
    pub(crate) mtime_ns: i64,
    /// And of the last change of its status.
    #[serde(default)]
    pub(crate) ctime_ns: i64,
    #[serde(default)]
    pub(crate) inode: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<Sha256>,
    /// The times say nothing: they were too new when the file was looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) racy: bool,
}

impl Known {
    pub(crate) fn directory(version: Version) -> Self {
        let none = FileStat::of_stream(0);
        Self { kind: Kind::Directory, sha256: None, racy: false, ..Self::of(version, none) }
    }

    /// A file that was read, with the remote version that has the same bytes.
    pub(crate) fn read(version: Version, facts: &Facts) -> Self {
        Self { sha256: Some(facts.sha256), racy: !facts.settled, ..Self::of(version, facts.stat) }
    }

    /// A file that was written just now.
    pub(crate) fn written(version: Version, stat: FileStat, sha256: Sha256) -> Self {
        Self { sha256: Some(sha256), ..Self::of(version, stat) }
    }

    fn of(version: Version, stat: FileStat) -> Self {
        let FileStat { size, mtime_ns, ctime_ns, inode } = stat;
        Self { kind: Kind::File, version, size, mtime_ns, ctime_ns, inode, sha256: None, racy: true }
    }

    /// The bytes that a file which looks like this has for certain.
    pub(crate) fn vouches_for(&self, stat: FileStat) -> Option<Sha256> {
        let known = (self.size, self.mtime_ns, self.ctime_ns, self.inode);
        let same = known == (stat.size, stat.mtime_ns, stat.ctime_ns, stat.inode);
        // No file has inode 0: the record is of an earlier version.
        if self.kind == Kind::File && !self.racy && self.inode != 0 && same { self.sha256 } else { None }
    }
}

/// One line of the state, or of the journal, where `is` may be nothing: forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) path: String,
    pub(crate) is: Option<Known>,
}

impl HasPath for Record {
    fn path(&self) -> &str {
        &self.path
    }
}

/// A path in the order of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WalkKey(String);

impl Ord for WalkKey {
    fn cmp(&self, other: &Self) -> Ordering {
        walk_order(&self.0, &other.0)
    }
}

impl PartialOrd for WalkKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

type Overlay = BTreeMap<WalkKey, Option<Known>>;

/// Reads the remembered state of all that is within `scope`. Nobody needs the lock for that.
pub(crate) fn read(control: &Path, scope: &str) -> Result<Sorted<Record>> {
    let (sender, sorted) = Sorted::channel("the workspace's state");
    // Opened here, in this order: a run that ends meanwhile replaces the state before it removes the journal.
    let overlay = read_journal(control)?;
    let base = open_if_there(&control.join(STATE))?;
    let (scope, path) = (scope.to_string(), control.join(STATE));
    tokio::task::spawn_blocking(move || {
        let sent = for_each(&path, base, overlay, |record| {
            if !is_within(&record.path, &scope) || record.path.is_empty() {
                return Ok(true);
            }
            Ok(sender.blocking_send(Ok(record)).is_ok())
        });
        if let Err(error) = sent {
            // Whoever stopped listening does not want the error either.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Ok(sorted)
}

/// Whether there is anything to remember.
pub(crate) fn is_empty(control: &Path) -> bool {
    let empty = |name| std::fs::metadata(control.join(name)).map_or(true, |metadata| metadata.len() == 0);
    empty(STATE) && empty(JOURNAL)
}

fn open_if_there(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unread(path, error)),
    }
}

fn unread(path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("reading {}", path.display()), error).hint(REMEDY)
}

fn read_journal(control: &Path) -> Result<Overlay> {
    let path = control.join(JOURNAL);
    let mut overlay = Overlay::new();
    let Some(file) = open_if_there(&path)? else { return Ok(overlay) };
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| unread(&path, error))?;
        // A line that was cut off says nothing; its file is compared anew.
        match serde_json::from_slice::<Record>(&line) {
            Ok(record) => drop(overlay.insert(WalkKey(record.path), record.is)),
            Err(_) => log::warn!("{}: a damaged line is left out", path.display()),
        }
    }
    Ok(overlay)
}

/// Goes through the state with the journal laid over it, until `visit` says no.
fn for_each(
    path: &Path,
    base: Option<File>,
    overlay: Overlay,
    mut visit: impl FnMut(Record) -> Result<bool>,
) -> Result<()> {
    let mut news = overlay.into_iter().peekable();
    let mut visit_new = |(key, is): (WalkKey, Option<Known>)| match is {
        Some(known) => visit(Record { path: key.0, is: Some(known) }),
        None => Ok(true),
    };
    if let Some(base) = base {
        let mut last: Option<WalkKey> = None;
        for line in BufReader::with_capacity(64 << 10, base).split(b'\n') {
            let line = line.map_err(|error| unread(path, error))?;
            let record = base_record(&line, last.as_ref()).map_err(|error| {
                Error::internal(format!("{} is damaged: {REMEDY}", path.display())).with_source(error)
            })?;
            last = Some(WalkKey(record.path.clone()));
            while let Some(new) = news.next_if(|(key, _)| walk_order(&key.0, &record.path) == Ordering::Less) {
                if !visit_new(new)? {
                    return Ok(());
                }
            }
            let old = (WalkKey(record.path), record.is);
            let next = news.next_if(|(key, _)| *key == old.0).unwrap_or(old);
            if !visit_new(next)? {
                return Ok(());
            }
        }
    }
    for new in news {
        if !visit_new(new)? {
            return Ok(());
        }
    }
    Ok(())
}

/// A line of the state, which names each path once, in the order of a walk, and nothing that is forgotten.
fn base_record(line: &[u8], last: Option<&WalkKey>) -> Result<Record> {
    let record: Record =
        serde_json::from_slice(line).map_err(|error| Error::internal("a line is no record").with_source(error))?;
    if record.is.is_none() || last.is_some_and(|last| walk_order(&last.0, &record.path) != Ordering::Less) {
        return Err(Error::internal(format!("{:?} does not belong where it stands", record.path)));
    }
    Ok(record)
}

/// Lines that wait to be written together.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    records: usize,
    /// The highest version in them.
    highest: Version,
}

struct Journal {
    waiting: Batch,
    since: Instant,
}

/// The state while a run changes it. Holds the workspace's lock.
pub(crate) struct StateWriter {
    control: PathBuf,
    /// The directory whose file system is synced before a batch is written: what the journal says is on the
    /// disk must be there.
    synced: Option<HostDir>,
    journal: Mutex<Journal>,
    /// Records in the journal file; held while it is written.
    written: Arc<Mutex<usize>>,
    _lock: File,
}

impl StateWriter {
    /// Takes the lock, and finishes what an interrupted run has left.
    pub(crate) fn open(control: &Path, synced: Option<HostDir>) -> Result<Self> {
        let path = control.join(LOCK);
        let mut options = File::options();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.io_context(|| format!("opening {}", path.display()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => Error::new(
                ErrorCode::PreconditionFailed,
                "another push or pull is running in this workspace; wait until it has ended",
            ),
            error => Error::io("locking the workspace", error.into()),
        })?;
        compact(control)?;
        Ok(Self {
            control: control.into(),
            synced,
            journal: Mutex::new(Journal { waiting: Batch::default(), since: Instant::now() }),
            written: Arc::default(),
            _lock: lock,
        })
    }

    /// Notes what a path is now on both sides, or that nothing is left of it.
    pub(crate) async fn record(&self, path: &str, is: Option<Known>) -> Result<()> {
        let version = is.as_ref().map_or(0, |known| known.version);
        let line = serde_json::to_string(&Record { path: path.into(), is })
            .map_err(|error| Error::internal("the state cannot be written").with_source(error))?;
        let batch = {
            let mut journal = self.journal.lock();
            if journal.waiting.records == 0 {
                journal.since = Instant::now();
            }
            journal.waiting.lines.extend_from_slice(line.as_bytes());
            journal.waiting.lines.push(b'\n');
            journal.waiting.records += 1;
            journal.waiting.highest = journal.waiting.highest.max(version);
            let due = journal.waiting.records >= BATCH_RECORDS_MAX || journal.since.elapsed() >= BATCH_INTERVAL;
            if !due {
                return Ok(());
            }
            std::mem::take(&mut journal.waiting)
        };
        self.write(batch).await
    }

    async fn write(&self, batch: Batch) -> Result<()> {
        let (control, synced, written) = (self.control.clone(), self.synced.clone(), self.written.clone());
        let task = tokio::task::spawn_blocking(move || {
            let mut written = written.lock();
            sighting::raise(&control, batch.highest)?;
            append(&control, synced.as_ref(), &batch.lines)?;
            *written += batch.records;
            if *written >= JOURNAL_RECORDS_MAX {
                compact(&control)?;
                *written = 0;
            }
            Ok(())
        });
        task.await.unwrap_or_else(|error| Err(Error::internal("writing the state was broken off").with_source(error)))
    }

    /// Writes everything into the state.
    pub(crate) async fn finish(&self) -> Result<()> {
        let batch = std::mem::take(&mut self.journal.lock().waiting);
        self.write(batch).await?;
        let control = self.control.clone();
        let task = tokio::task::spawn_blocking(move || compact(&control));
        task.await.unwrap_or_else(|error| Err(Error::internal("writing the state was broken off").with_source(error)))
    }
}

fn append(control: &Path, synced: Option<&HostDir>, batch: &[u8]) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    if let Some(directory) = synced {
        directory.sync_file_system()?;
    }
    let path = control.join(JOURNAL);
    let mut file = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .io_context(|| format!("opening {}", path.display()))?;
    file.write_all(batch).and_then(|()| file.sync_data()).io_context(|| format!("writing {}", path.display()))
}

/// Writes the journal into a new state.
fn compact(control: &Path) -> Result<()> {
    let journal = control.join(JOURNAL);
    let overlay = read_journal(control)?;
    if !overlay.is_empty() {
        let (path, new) = (control.join(STATE), control.join("state.ndjson.new"));
        let context = || format!("writing {}", new.display());
        // What a killed run has left there goes; whatever it is, nothing is written through it.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(context(), error)),
            _ => {}
        }
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(&new).io_context(context)?;
        let mut writer = BufWriter::with_capacity(256 << 10, file);
        for_each(&path, open_if_there(&path)?, overlay, |record| {
            serde_json::to_writer(&mut writer, &record)
                .map_err(|error| Error::io(context(), error.into()))
                .and_then(|()| writer.write_all(b"\n").io_context(context))?;
            Ok(true)
        })?;
        let file = writer.into_inner().map_err(|error| Error::io(context(), error.into_error()))?;
        file.sync_all().io_context(context)?;
        std::fs::rename(&new, &path).io_context(context)?;
        sync_directory_of(&path)?;
    }
    match std::fs::remove_file(&journal) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", journal.display()), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(version: Version) -> Known {
        Known::written(version, FileStat::of_stream(1), Sha256::of(b"x"))
    }

    async fn all(control: &Path) -> Vec<(String, Version)> {
        let mut sorted = read(control, "").unwrap();
        let mut seen = Vec::new();
        while let Some(record) = sorted.next().await.unwrap() {
            seen.push((record.path, record.is.unwrap().version));
        }
        seen
    }

    #[tokio::test]
    async fn what_a_killed_run_has_written_is_there_and_a_torn_line_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path();
        let state = StateWriter::open(control, None).unwrap();
        for path in ["b", "a", "a/x", "a-b"] {
            state.record(path, Some(known(1))).await.unwrap();
        }
        state.finish().await.unwrap();
        drop(state);
        let lines =
            "{\"path\":\"a/x\",\"is\":null}\n{\"path\":\"c\",\"is\":{\"kind\":\"file\",\"version\":7}}\n{\"path\":\"d";
        std::fs::write(control.join(JOURNAL), lines).unwrap();
        let want: Vec<(String, Version)> =
            [("a", 1), ("a-b", 1), ("b", 1), ("c", 7)].map(|(path, version)| (path.into(), version)).into();
        assert_eq!(all(control).await, want, "laid over");
        let state = StateWriter::open(control, None).unwrap();
        assert!(!control.join(JOURNAL).exists());
        assert_eq!(all(control).await, want, "written into");
        assert_eq!(
            StateWriter::open(control, None).err().map(|error| error.code()),
            Some(ErrorCode::PreconditionFailed)
        );
        drop(state);
        let mut scoped = read(control, "a").unwrap();
        assert_eq!(scoped.next().await.unwrap().unwrap().path, "a");
        assert!(scoped.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_damaged_state_is_an_error_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(STATE), "{\n").unwrap();
        let error = read(directory.path(), "").unwrap().next().await.unwrap_err();
        assert!(error.message().contains("remove it"), "{error}");
    }

    #[test]
    fn only_what_was_at_rest_and_looks_the_same_in_every_way_is_vouched_for() {
        let stat = FileStat { size: 1, mtime_ns: 2, ctime_ns: 3, inode: 4 };
        let sha256 = Sha256::of(b"x");
        let known = |settled| Known::read(1, &Facts { stat, settled, sha256 });
        assert_eq!(known(true).vouches_for(stat), Some(sha256));
        assert_eq!(known(false).vouches_for(stat), None);
        assert_eq!(Known::written(1, stat, sha256).vouches_for(stat), None);
        for other in [
            FileStat { size: 2, ..stat },
            FileStat { mtime_ns: 1, ..stat },
            FileStat { ctime_ns: 1, ..stat },
            FileStat { inode: 1, ..stat },
        ] {
            assert_eq!(known(true).vouches_for(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read_and_vouches_for_nothing() {
        let line = format!(
            r#"{{"path":"f","is":{{"kind":"file","version":7,"size":1,"mtime_ns":2,"sha256":"{}"}}}}"#,
            Sha256::of(b"x")
        );
        let record: Record = serde_json::from_str(&line).unwrap();
        let known = record.is.unwrap();
        assert_eq!((known.version, known.size, known.sha256), (7, 1, Some(Sha256::of(b"x"))));
        let stat = FileStat { size: 1, mtime_ns: 2, ctime_ns: 0, inode: 0 };
        assert_eq!(known.vouches_for(stat), None);
    }

    proptest! {
        #[test]
        fn the_state_is_what_a_map_would_be(
            changes in proptest::collection::vec(("[ab](/[ab.-]{1,2}){0,2}", proptest::option::of(1_i64..9)), 0..40),
            cut in 0_usize..40,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut map = BTreeMap::new();
            let (seen, want) = runtime.block_on(async {
                let mut state = StateWriter::open(directory.path(), None).unwrap();
                for (index, (path, version)) in changes.iter().enumerate() {
                    if index == cut {
                        state.finish().await.unwrap();
                        drop(state);
                        state = StateWriter::open(directory.path(), None).unwrap();
                    }
                    state.record(path, version.map(known)).await.unwrap();
                    match version {
                        Some(version) => drop(map.insert(WalkKey(path.clone()), *version)),
                        None => drop(map.remove(&WalkKey(path.clone()))),
                    }
                }
                state.finish().await.unwrap();
                (all(directory.path()).await, map.into_iter().map(|(key, version)| (key.0, version)).collect::<Vec<_>>())
            });
            prop_assert_eq!(seen, want);
        }
    }
}
