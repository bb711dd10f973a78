//! Temporary files beside their later place, and what killed runs have left of them.
//!
//! A file that is being fetched has a name of its own (`.holdfast-XXXXXX.part`) and is locked by the run that makes
//! it, so that another run can tell a living one from a leftover. All of them are listed in this process: a run that
//! is told to end removes them even when the threads that write them do not get to it.

use std::collections::BTreeMap;
use std::fs::File;

use parking_lot::{Mutex, MutexGuard};
use rand::distr::{Alphanumeric, SampleString};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::own::{Own, fingerprint_of, old_name, own_name, part_name};
use super::stat::{FileStat, Look};
use super::tree::HostDir;
use crate::types::error::IoContext;
use crate::types::{Error, Result, Sha256};

/// Permissions of a fetched file, less what the umask takes away: it becomes an ordinary one.
const FILE_MODE: u32 = 0o666;
/// Names that are tried.
const TRIES_MAX: usize = 100;

/// The temporary files of this process.
struct Registry {
    next: u64,
    files: BTreeMap<u64, (HostDir, String)>,
    /// The process is ending; no more are made.
    closed: bool,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { next: 0, files: BTreeMap::new(), closed: false });

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock()
}

/// Removes all temporary files of this process, which makes no more of them.
pub(crate) fn remove_all() {
    let mut registry = registry();
    registry.closed = true;
    for (dir, name) in std::mem::take(&mut registry.files).into_values() {
        // One that is gone already has got its name.
        let _ = unlinkat(&dir, name.as_str(), AtFlags::empty());
    }
}

/// A file that is being written. It goes away if it is not given a name.
#[derive(Debug)]
pub(crate) struct Temporary {
    id: u64,
    dir: HostDir,
    name: String,
    file: File,
    done: bool,
}

impl Temporary {
    /// Makes an empty file in a directory.
    pub(crate) fn create(dir: &HostDir) -> Result<Self> {
        let context = || format!("making a temporary file in {}", dir.shown().display());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut registry = registry();
        if registry.closed {
            return Err(Error::internal("interrupted"));
        }
        for _ in 0..TRIES_MAX {
            let name = part_name(&tag());
            let fd = match openat(dir, name.as_str(), flags, Mode::from_raw_mode(FILE_MODE)) {
                Ok(fd) => fd,
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(Error::io(context(), error.into())),
            };
            // Another run may take it for a leftover before it is locked; then it has lost its name. A file system
            // without locks has no other runs that could tell either.
            let _ = flock(&fd, FlockOperation::NonBlockingLockExclusive);
            if Look::of_file(&fd).is_ok_and(|look| look.links == 0) {
                continue;
            }
            let id = registry.next;
            registry.next += 1;
            registry.files.insert(id, (dir.clone(), name.clone()));
            return Ok(Self { id, dir: dir.clone(), name, file: fd.into(), done: false });
        }
        Err(Error::io(context(), Errno::EXIST.into()))
    }

    pub(crate) fn dir(&self) -> &HostDir {
        &self.dir
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// It has got its name, or goes on under another temporary one: nothing of this name is to be removed any more.
    pub(super) fn done(&mut self) {
        self.done = true;
        registry().files.remove(&self.id);
    }

    /// Takes the name of a file that is being replaced, for whatever has it from now on may not be ours.
    pub(super) fn become_old(&mut self, expected: Option<&FileStat>) -> Result<String> {
        let old = name_for_old(expected);
        let renamed = renameat(&self.dir, self.name.as_str(), &self.dir, old.as_str()).map_err(std::io::Error::from);
        renamed.io_context(|| format!("renaming a temporary file in {}", self.dir.shown().display()))?;
        self.done();
        Ok(old)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.done {
            registry().files.remove(&self.id);
            let _ = unlinkat(&self.dir, self.name.as_str(), AtFlags::empty());
        }
    }
}

fn tag() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 6)
}

/// A name for a file that is taken away. When it is not certain what it must be, no later run can know either.
pub(super) fn name_for_old(expected: Option<&FileStat>) -> String {
    let fingerprint = expected.map_or_else(|| hex::encode(rand::random::<[u8; 8]>()), fingerprint);
    old_name(&tag(), &fingerprint)
}

/// What does not change when a file is renamed, in a few digits.
fn fingerprint(stat: &FileStat) -> String {
    let text = format!("{} {} {}", stat.size, stat.mtime_ns, stat.inode);
    hex::encode(&Sha256::of(text.as_bytes()).0[..8])
}

/// What became of a temporary file that a run has met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Swept {
    /// It was a leftover, or went away by itself.
    Gone,
    /// A run is still at it.
    InUse,
    /// It stays, because it may be the only copy of a version, or nobody knows.
    Kept(Own),
}

/// Removes a leftover of a killed run: a part of a fetched file, or a file that was to be replaced or removed and is
/// still the one that was meant. Whatever else is under such a name stays.
pub(super) fn sweep(dir: &HostDir, name: &str) -> Swept {
    let Some(own @ (Own::Part | Own::Old)) = own_name(name) else { return Swept::Kept(Own::Control) };
    // This process's own need no lock to be known, and some file systems have none.
    if registry().files.values().any(|(_, living)| living == name) {
        return Swept::InUse;
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |access| openat(dir, name, access | flags, Mode::empty());
    let fd = match open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY)) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Swept::Gone,
        Err(_) => return Swept::Kept(own),
    };
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Swept::InUse,
        Err(_) => return Swept::Kept(own),
    }
    let Ok(look) = Look::of_file(&fd) else { return Swept::Kept(own) };
    if look.links == 0 {
        return Swept::Gone;
    }
    let is_meant = fingerprint_of(name) == Some(fingerprint(&look.stat).as_str());
    if !look.is_file() || (own == Own::Old && !is_meant) {
        return Swept::Kept(own);
    }
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {
            log::info!("{}: a leftover of a killed run was removed", dir.shown().join(name).display());
            Swept::Gone
        }
        Err(_) => Swept::Kept(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_file_is_left_alone_and_a_leftover_goes() {
        let directory = tempfile::tempdir().unwrap();
        let dir = HostDir::open(directory.path()).unwrap();
        let temporary = Temporary::create(&dir).unwrap();
        assert_eq!(sweep(&dir, temporary.name()), Swept::InUse);
        let name = temporary.name().to_string();
        drop(temporary);
        assert_eq!(sweep(&dir, &name), Swept::Gone);
        let leftover = part_name("abcdef");
        std::fs::write(directory.path().join(&leftover), "part").unwrap();
        assert_eq!(sweep(&dir, &leftover), Swept::Gone);
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn what_was_set_aside_goes_only_if_it_is_what_was_meant() {
        let directory = tempfile::tempdir().unwrap();
        let dir = HostDir::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("f"), "seen").unwrap();
        let stat = dir.look("f".as_ref()).unwrap().unwrap().stat;
        let old = name_for_old(Some(&stat));
        std::fs::rename(directory.path().join("f"), directory.path().join(&old)).unwrap();
        assert_eq!(sweep(&dir, &old), Swept::Gone);
        std::fs::write(directory.path().join(&old), "changed meanwhile").unwrap();
        assert_eq!(sweep(&dir, &old), Swept::Kept(Own::Old));
        assert_eq!(dir.names().unwrap(), [old.as_str()]);
    }

    #[test]
    fn something_else_under_such_a_name_stays() {
        let directory = tempfile::tempdir().unwrap();
        let dir = HostDir::open(directory.path()).unwrap();
        let (link, folder) = (part_name("link00"), part_name("dir000"));
        std::os::unix::fs::symlink("/etc/hostname", directory.path().join(&link)).unwrap();
        std::fs::create_dir(directory.path().join(&folder)).unwrap();
        assert_eq!(sweep(&dir, &link), Swept::Kept(Own::Part));
        assert_eq!(sweep(&dir, &folder), Swept::Kept(Own::Part));
        assert_eq!(dir.names().unwrap().len(), 2);
    }
}
