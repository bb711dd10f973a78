//! A host tree as a sorted stream.
//!
//! The walk runs on a thread of its own, never follows links below its root, and keeps no more than the
//! names of the directories that it is in. What cannot be stored in the cluster stands in the stream with the
//! reason, so that nobody mistakes it for absent. A directory that cannot be read does too: its contents are
//! unknown, not gone.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc::Sender;
use walkdir::{DirEntry, WalkDir};

use super::merge::{HasPath, Sorted};
use super::progress::Tally;
use crate::types::error::IoContext;
use crate::types::{Error, Result};

/// By what a file's content is taken to be unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStat {
    pub(crate) size: u64,
    /// Time of the last modification, in nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
}

impl FileStat {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Self { size: metadata.len(), mtime_ns }
    }

    /// The file at `path` itself, not what a link points to; nothing if there is none.
    pub(crate) fn look(path: &Path) -> Result<Option<Self>> {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(Self::of(&metadata))),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::io(format!("looking at {}", path.display()), error)),
        }
    }
}

/// Whether the operating system says that nothing is there.
pub(crate) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// What stands at a path of a host tree.
#[derive(Debug, Clone)]
pub(crate) enum LocalKind {
    Directory,
    File(FileStat),
    /// It cannot be stored; the text says what it is.
    Unfit(String),
    /// It, or what is below it, cannot be examined.
    Unreadable(Error),
}

/// One element of a walk.
#[derive(Debug, Clone)]
pub(crate) struct LocalEntry {
    /// Relative to the walk's root; empty for the root itself.
    pub(crate) path: String,
    pub(crate) kind: LocalKind,
}

impl HasPath for LocalEntry {
    fn path(&self) -> &str {
        &self.path
    }
}

/// What to walk.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    /// The host directory.
    pub(crate) root: PathBuf,
    /// Goes in front of the paths in the stream.
    pub(crate) prefix: String,
    /// Whether the root itself comes first.
    pub(crate) with_root: bool,
    /// Levels to descend.
    pub(crate) depth: usize,
    /// A path that is left out with all below it.
    pub(crate) leave_out: Option<PathBuf>,
}

impl Walk {
    /// All below a directory.
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.into(), prefix: String::new(), with_root: false, depth: usize::MAX, leave_out: None }
    }

    /// Starts the walk. Names that are not UTF-8 have no place in the order; they are reported to `tally`.
    pub(crate) fn start(self, tally: Arc<Tally>) -> Sorted<LocalEntry> {
        let (sender, sorted) = Sorted::channel("the local files");
        tokio::task::spawn_blocking(move || {
            if let Err(error) = self.run(&sender, &tally) {
                // Whoever stopped listening does not want the error either.
                let _ = sender.blocking_send(Err(error));
            }
        });
        sorted
    }

    fn run(&self, sender: &Sender<Result<LocalEntry>>, tally: &Tally) -> Result<()> {
        let walk = WalkDir::new(&self.root)
            .min_depth(usize::from(!self.with_root))
            .max_depth(self.depth)
            .follow_root_links(!self.with_root)
            .sort_by(|a, b| a.file_name().cmp(b.file_name()));
        let mut walk = walk.into_iter();
        // A directory waits here for the next step, which tells whether it can be read.
        let mut pending: Option<(PathBuf, LocalEntry)> = None;
        while let Some(step) = walk.next() {
            match step {
                Err(error) => self.fault(error, &mut pending)?,
                Ok(entry) => {
                    if let Some((_, before)) = pending.take()
                        && sender.blocking_send(Ok(before)).is_err()
                    {
                        return Ok(());
                    }
                    if self.leave_out.as_deref() == Some(entry.path()) {
                        if entry.file_type().is_dir() {
                            walk.skip_current_dir();
                        }
                        continue;
                    }
                    match self.entry_of(&entry) {
                        Ok(found) => pending = found.map(|found| (entry.path().to_path_buf(), found)),
                        Err(name) => {
                            tally.skipped(&name, "its name is not UTF-8");
                            if entry.file_type().is_dir() {
                                walk.skip_current_dir();
                            }
                        }
                    }
                }
            }
        }
        if let Some((_, last)) = pending {
            let _ = sender.blocking_send(Ok(last));
        }
        Ok(())
    }

    /// An error of the walk concerns the directory that came just before, or the root.
    fn fault(&self, error: walkdir::Error, pending: &mut Option<(PathBuf, LocalEntry)>) -> Result<()> {
        let path = error.path().map(Path::to_path_buf).unwrap_or_default();
        if error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound) && path != self.root {
            // It went away after its name was read.
            return Ok(());
        }
        let io = error.into_io_error().unwrap_or_else(|| std::io::Error::other("the walk met a loop"));
        let error = Error::io(format!("reading {}", path.display()), io);
        match pending {
            Some((directory, entry)) if *directory == path => {
                entry.kind = LocalKind::Unreadable(error);
                Ok(())
            }
            // Without knowing whose contents are unknown, nothing that follows can be trusted.
            _ => Err(error),
        }
    }

    /// What the walk met; nothing when it is gone already; the shown name when it is not UTF-8.
    fn entry_of(&self, entry: &DirEntry) -> Result<Option<LocalEntry>, String> {
        let relative = entry.path().strip_prefix(&self.root).unwrap_or(entry.path());
        let Some(relative) = relative.to_str() else {
            return Err(relative.to_string_lossy().into_owned());
        };
        let path = match (self.prefix.as_str(), relative) {
            (prefix, "") => prefix.to_string(),
            (prefix, relative) => super::merge::join(prefix, relative),
        };
        let kind = match entry.metadata() {
            Ok(metadata) => kind_of(&metadata),
            Err(error) if error.io_error().is_some_and(is_absent) => return Ok(None),
            Err(error) => {
                let io = error.into_io_error().unwrap_or_else(|| std::io::Error::other("unknown"));
                LocalKind::Unreadable(Error::io(format!("looking at {path}"), io))
            }
        };
        Ok(Some(LocalEntry { path, kind }))
    }
}

fn kind_of(metadata: &Metadata) -> LocalKind {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return LocalKind::Directory;
    }
    if kind.is_file() {
        return LocalKind::File(FileStat::of(metadata));
    }
    let what = if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "neither a file nor a directory"
    };
    LocalKind::Unfit(format!("it is {what}"))
}

/// Makes a directory of a host tree; one that is there already is fine, anything else in its place is not.
pub(crate) fn make_directory(path: &Path) -> Result<bool> {
    match std::fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let metadata = std::fs::symlink_metadata(path).io_context(|| format!("looking at {}", path.display()))?;
            match kind_of(&metadata) {
                LocalKind::Directory => Ok(false),
                _ => Err(Error::new(
                    crate::types::ErrorCode::AlreadyExists,
                    format!("{} is in the way of a directory", path.display()),
                )),
            }
        }
        Err(error) => Err(Error::io(format!("making the directory {}", path.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::progress::Progress;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    async fn walk(walk: Walk) -> (Vec<String>, u64) {
        let tally = Tally::new(Progress::hidden());
        let mut sorted = walk.start(tally.clone());
        let mut seen = Vec::new();
        while let Some(entry) = sorted.next().await.unwrap() {
            let kind = match entry.kind {
                LocalKind::Directory => "/".into(),
                LocalKind::File(stat) => format!(":{}", stat.size),
                LocalKind::Unfit(what) => format!(" {what}"),
                LocalKind::Unreadable(_) => " unreadable".into(),
            };
            seen.push(format!("{}{kind}", entry.path));
        }
        (seen, tally.counts().skipped)
    }

    #[tokio::test]
    async fn siblings_come_by_their_bytes_and_what_cannot_be_stored_with_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["a", "a/empty", ".holdfast"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        for (name, text) in
            [("a/z", "1"), ("a-b", "22"), ("a.b", ""), ("-rf", ""), ("new\nline", ""), (".holdfast/x", "")]
        {
            std::fs::write(root.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        std::fs::create_dir(root.join(OsStr::from_bytes(b"\xff"))).unwrap();
        std::fs::write(root.join(OsStr::from_bytes(b"\xff")).join("below"), "").unwrap();
        let mut what = Walk::below(root);
        what.leave_out = Some(root.join(".holdfast"));
        let (seen, skipped) = walk(what).await;
        let want = [
            "-rf:0",
            "a/",
            "a/empty/",
            "a/z:1",
            "a-b:2",
            "a.b:0",
            "link it is a symbolic link",
            "new\nline:0",
            "socket it is a socket",
        ];
        assert_eq!(seen, want);
        assert_eq!(skipped, 1, "the name that is not UTF-8, without what is below it");
    }

    #[tokio::test]
    async fn a_subtree_can_be_walked_with_its_root_and_a_missing_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("d")).unwrap();
        std::fs::write(directory.path().join("d/f"), "x").unwrap();
        let mut what = Walk::below(&directory.path().join("d"));
        what.with_root = true;
        what.prefix = "p/d".into();
        assert_eq!(walk(what.clone()).await.0, ["p/d/", "p/d/f:1"]);
        what.root = directory.path().join("gone");
        let mut sorted = what.start(Tally::new(Progress::hidden()));
        assert!(sorted.next().await.is_err());
    }
}
