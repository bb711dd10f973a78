//! Directories that are kept open, and files below them by their handles.
//!
//! Everything that is written goes through such a handle and not by a path from the root: bytes come to the file
//! system that the directory was opened on, or nowhere. When its disk is unmounted under the daemon, a path means
//! whatever lies below the mount point; a handle goes on meaning the disk (`umount -l`), or fails. So bytes cannot
//! come to the root file system by mistake, whatever is checked before and after.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use uuid::Uuid;

/// Files are their owner's alone.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Directories, less what the umask takes away.
const DIR_MODE: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// A directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dir {
    /// `None` stands for a directory that is not there: nothing is found in it.
    handle: Option<Arc<OwnedFd>>,
    path: PathBuf,
}

/// What is known of a file without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Which file of which file system it is.
    pub id: FileId,
    /// Its bytes.
    pub size: u64,
    /// When it was last written to.
    pub modified: SystemTime,
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file. It is not given to another one as long as somebody has it open.
    pub inode: u64,
}

impl From<fs::Stat> for Look {
    #[allow(clippy::unnecessary_cast, reason = "other systems have other widths")]
    fn from(stat: fs::Stat) -> Self {
        let (seconds, nanos) =
            (Duration::from_secs(stat.st_mtime.unsigned_abs()), Duration::from_nanos(stat.st_mtime_nsec as u64));
        let whole = if stat.st_mtime < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
        Self {
            id: FileId { device: stat.st_dev as u64, inode: stat.st_ino as u64 },
            size: stat.st_size as u64,
            modified: whole.and_then(|time| time.checked_add(nanos)).unwrap_or(UNIX_EPOCH),
        }
    }
}

impl Dir {
    /// Opens a directory by its path, once.
    pub fn open(path: &Path) -> Result<Self> {
        let handle = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { handle: Some(Arc::new(handle)), path: path.into() })
    }

    /// As [`Dir::open`]; one that is not there is empty.
    pub fn open_if_there(path: &Path) -> Result<Self> {
        match Self::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self { handle: None, path: path.into() }),
            opened => opened,
        }
    }

    /// Where it was when it was opened; for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fd(&self) -> Result<BorrowedFd<'_>> {
        self.handle.as_ref().map(|handle| handle.as_fd()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// A directory below.
    pub fn sub(&self, name: impl AsRef<Path>) -> Result<Self> {
        let name = name.as_ref();
        let handle = fs::openat(self.fd()?, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { handle: Some(Arc::new(handle)), path: self.path.join(name) })
    }

    /// Opens a file to read it.
    pub fn open_file(&self, name: impl AsRef<Path>) -> Result<File> {
        Ok(fs::openat(self.fd()?, name.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Opens a file to write it, made if it is not there.
    pub fn open_or_create(&self, name: impl AsRef<Path>) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        Ok(fs::openat(self.fd()?, name.as_ref(), flags, FILE_MODE | Mode::RGRP | Mode::ROTH)?.into())
    }

    fn create_new(&self, name: &str) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(fs::openat(self.fd()?, name, flags, FILE_MODE)?.into())
    }

    /// Makes a directory. Answers whether it is new.
    pub fn make_dir(&self, name: impl AsRef<Path>) -> Result<bool> {
        match fs::mkdirat(self.fd()?, name.as_ref(), DIR_MODE) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file another name, here or in another directory of the same file system, in the place of what was there.
    pub fn rename(&self, from: impl AsRef<Path>, target: &Self, to: impl AsRef<Path>) -> Result<()> {
        Ok(fs::renameat(self.fd()?, from.as_ref(), target.fd()?, to.as_ref())?)
    }

    /// Removes a file.
    pub fn remove(&self, name: impl AsRef<Path>) -> Result<()> {
        Ok(fs::unlinkat(self.fd()?, name.as_ref(), AtFlags::empty())?)
    }

    /// Looks at what has a name here; `None` when nothing has.
    pub fn look(&self, name: impl AsRef<Path>) -> Result<Option<Look>> {
        let look = self.fd().and_then(|fd| Ok(fs::statat(fd, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW)?.into()));
        match look {
            Ok(look) => Ok(Some(look)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at the directory itself.
    pub fn look_at_self(&self) -> Result<Look> {
        Ok(fs::fstat(self.fd()?)?.into())
    }

    /// The names in it, in no order.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let Some(handle) = &self.handle else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(handle.as_fd())? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Makes its names durable.
    pub fn sync(&self) -> Result<()> {
        Ok(fs::fsync(self.fd()?)?)
    }

    /// Makes everything durable that was ever written to its file system.
    pub fn sync_all(&self) -> Result<()> {
        Ok(fs::syncfs(self.fd()?)?)
    }

    /// The room in its file system.
    pub fn room(&self) -> Result<fs::StatVfs> {
        Ok(fs::fstatvfs(self.fd()?)?)
    }
}

/// A file under a name that nobody else has, which goes away unless it gets another one.
#[derive(Debug)]
pub struct TempFile {
    dir: Dir,
    name: String,
    placed: bool,
}

impl TempFile {
    /// Makes an empty one, and opens it to write it.
    pub fn new_in(dir: &Dir, prefix: &str) -> Result<(File, Self)> {
        let name = format!("{prefix}{}", Uuid::new_v4().simple());
        let file = dir.create_new(&name)?;
        Ok((file, Self { dir: dir.clone(), name, placed: false }))
    }

    /// Takes a file from another directory of the same file system, under a name that nobody else has.
    pub fn take(from: &Dir, name: impl AsRef<Path>, dir: &Dir, prefix: &str) -> Result<Self> {
        let taken = format!("{prefix}{}", Uuid::new_v4().simple());
        from.rename(name, dir, &taken)?;
        Ok(Self { dir: dir.clone(), name: taken, placed: false })
    }

    /// Opens it to read it.
    pub fn open(&self) -> Result<File> {
        self.dir.open_file(&self.name)
    }

    /// Gives it its name, in the place of what was there.
    pub fn put(mut self, target: &Dir, name: impl AsRef<Path>) -> Result<()> {
        self.dir.rename(&self.name, target, name)?;
        self.placed = true;
        Ok(())
    }

    /// Removes it.
    pub fn remove(mut self) -> Result<()> {
        self.placed = true;
        self.dir.remove(&self.name)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        let (dir, name) = (self.dir.clone(), std::mem::take(&mut self.name));
        let remove = move || match dir.remove(&name) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("removing {} failed: {error}; the next start does it", dir.path.join(&name).display());
            }
            _ => {}
        };
        // To give the blocks of a large file back takes long, and whoever drops it may be a thread that serves others.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Whether an error says that there is nothing of that name.
pub fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn files_are_made_moved_read_and_removed_by_handles_whatever_the_path_means_by_then() {
        let outside = tempfile::tempdir().unwrap();
        let (path, aside) = (outside.path().join("d"), outside.path().join("aside"));
        std::fs::create_dir(&path).unwrap();
        let dir = Dir::open(&path).unwrap();
        assert!(dir.make_dir("sub").unwrap() && !dir.make_dir("sub").unwrap());
        let sub = dir.sub("sub").unwrap();
        let id = dir.look_at_self().unwrap().id;
        // From here on the path is another directory.
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir_all(path.join("sub")).unwrap();
        let (mut file, temporary) = TempFile::new_in(&dir, "t-").unwrap();
        file.write_all(b"bytes").unwrap();
        temporary.put(&sub, "f").unwrap();
        sub.sync().unwrap();
        assert_eq!(std::fs::read(aside.join("sub/f")).unwrap(), b"bytes");
        assert_eq!(std::fs::read_dir(path.join("sub")).unwrap().count(), 0, "nothing came to the other one");
        assert_eq!(std::io::read_to_string(dir.open_file("sub/f").unwrap()).unwrap(), "bytes");
        assert_eq!((sub.names().unwrap(), dir.look_at_self().unwrap().id), (vec!["f".into()], id));
        assert_ne!(Dir::open(&path).unwrap().look_at_self().unwrap().id, id);
        let look = dir.look("sub/f").unwrap().unwrap();
        assert!(look.size == 5 && look.modified.elapsed().unwrap() < Duration::from_secs(60));
        dir.remove("sub/f").unwrap();
        assert_eq!(dir.look("sub/f").unwrap(), None);
        assert!(is_absent(&dir.remove("sub/f").unwrap_err()));
    }

    #[test]
    fn a_temporary_file_goes_away_and_a_directory_that_is_not_there_is_empty() {
        let outside = tempfile::tempdir().unwrap();
        let dir = Dir::open(outside.path()).unwrap();
        let (_, temporary) = TempFile::new_in(&dir, "t-").unwrap();
        assert_eq!(dir.names().unwrap().len(), 1);
        drop(temporary);
        TempFile::new_in(&dir, "t-").unwrap().1.remove().unwrap();
        assert!(dir.names().unwrap().is_empty());
        let absent = Dir::open_if_there(&outside.path().join("nowhere")).unwrap();
        assert!(absent.names().unwrap().is_empty() && absent.look("x").unwrap().is_none());
        assert!(is_absent(&absent.open_file("x").unwrap_err()) && is_absent(&absent.sub("x").unwrap_err()));
    }
}
