//! What is known of a file without reading it, and when that is enough.
//!
//! A file whose size, times and inode are as they were has the bytes that it had, with one exception: a change that
//! comes within the same tick of the file system's clock as the change before leaves no trace. So it matters when the
//! file was looked at: only what had been at rest for longer than a tick is [`settled`](Look::settled). Times that a
//! program sets back (`cp -p`, `touch -d`, `tar x`) do not deceive, because nobody can set the time of the change of
//! status.

use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::path::Arg;

/// The coarsest clock that file systems have (that of FAT ticks each 2 s), and how far a kernel's clock for files
/// may lag behind the one that programs read.
const TICK_NS: i64 = 2_000_000_000 + 50_000_000;

/// By what a file's content is taken to be unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStat {
    pub(crate) size: u64,
    /// Time of the last modification, in nanoseconds since 1970; programs can set it.
    pub(crate) mtime_ns: i64,
    /// Time of the last change of anything about the file; nobody can set it.
    pub(crate) ctime_ns: i64,
    pub(crate) inode: u64,
}

impl FileStat {
    /// Whether this may be the same file after it was renamed, which changes the time of its status.
    pub(crate) fn is_renamed(&self, before: &Self) -> bool {
        Self { ctime_ns: before.ctime_ns, ..*self } == *before
    }

    /// Of something that is no file: standard input.
    pub(crate) fn of_stream(size: u64) -> Self {
        Self { size, mtime_ns: 0, ctime_ns: 0, inode: 0 }
    }
}

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookKind {
    Directory,
    File,
    /// The text says what it is.
    Other(&'static str),
}

/// One look at a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) kind: LookKind,
    pub(crate) stat: FileStat,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    /// The file system that it is on.
    pub(crate) device: (u32, u32),
    pub(crate) links: u32,
    /// When it was looked at, by this machine's clock.
    at_ns: i64,
}

impl Look {
    /// Looks at a name in a directory, or with an empty name at the open file itself. A link is not followed.
    pub(super) fn at(dir: impl AsFd, name: impl Arg) -> rustix::io::Result<Self> {
        let at_ns = now_ns();
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        statx(dir, name, flags, StatxFlags::BASIC_STATS).map(|found| Self::of(&found, at_ns))
    }

    /// Looks at an open file.
    pub(crate) fn of_file(file: impl AsFd) -> rustix::io::Result<Self> {
        Self::at(file, "")
    }

    fn of(found: &Statx, at_ns: i64) -> Self {
        let kind = match FileType::from_raw_mode(u32::from(found.stx_mode)) {
            FileType::Directory => LookKind::Directory,
            FileType::RegularFile => LookKind::File,
            FileType::Symlink => LookKind::Other("a symbolic link"),
            FileType::Socket => LookKind::Other("a socket"),
            FileType::Fifo => LookKind::Other("a named pipe"),
            FileType::BlockDevice | FileType::CharacterDevice => LookKind::Other("a device"),
            FileType::Unknown => LookKind::Other("neither a file nor a directory"),
        };
        let stat = FileStat {
            size: found.stx_size,
            mtime_ns: nanoseconds(found.stx_mtime),
            ctime_ns: nanoseconds(found.stx_ctime),
            inode: found.stx_ino,
        };
        Self {
            kind,
            stat,
            mode: u32::from(found.stx_mode) & 0o7777,
            owner: found.stx_uid,
            device: (found.stx_dev_major, found.stx_dev_minor),
            links: found.stx_nlink,
            at_ns,
        }
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind == LookKind::File
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == LookKind::Directory
    }

    /// What it is, in words.
    pub(crate) fn what(&self) -> &'static str {
        match self.kind {
            LookKind::Directory => "a directory",
            LookKind::File => "a file",
            LookKind::Other(what) => what,
        }
    }

    /// Whether any later change will show, because the file had been at rest for a while when it was looked at.
    /// `ahead_ns` is by how much the file system's clock is ahead of this machine's.
    pub(crate) fn settled(&self, ahead_ns: i64) -> bool {
        is_settled(&self.stat, self.at_ns.saturating_add(ahead_ns))
    }

    /// By how much the clock of the file system is ahead of this machine's, of a file that was made just now.
    pub(crate) fn clock_ahead_ns(&self) -> i64 {
        self.stat.mtime_ns.saturating_sub(self.at_ns)
    }

    /// Whether both are the same thing on the disk.
    pub(crate) fn is_same_thing(&self, other: &Self) -> bool {
        (self.device, self.stat.inode) == (other.device, other.stat.inode)
    }
}

fn is_settled(stat: &FileStat, at_ns: i64) -> bool {
    stat.mtime_ns.max(stat.ctime_ns).saturating_add(TICK_NS) < at_ns
}

fn nanoseconds(time: StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_shortly_before_it_was_looked_at_is_not_settled() {
        let second = 1_000_000_000;
        let stat = |mtime_ns, ctime_ns| FileStat { size: 1, mtime_ns, ctime_ns, inode: 1 };
        for (stat, at_ns, want) in [
            (stat(10 * second, 10 * second), 13 * second, true),
            // Within the tick of the coarsest clock.
            (stat(10 * second, 10 * second), 12 * second, false),
            // An old time of modification that was set just now.
            (stat(second, 12 * second), 13 * second, false),
            // A time in the future says nothing.
            (stat(90 * second, 10 * second), 13 * second, false),
        ] {
            assert_eq!(is_settled(&stat, at_ns), want, "{stat:?} at {at_ns}");
        }
    }

    #[test]
    fn a_look_tells_kinds_apart_and_follows_no_link() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("f"), "abc").unwrap();
        std::os::unix::fs::symlink("f", directory.path().join("l")).unwrap();
        let open = std::fs::File::open(directory.path()).unwrap();
        let look = |name: &str| Look::at(&open, name).unwrap();
        assert!(look("f").is_file() && look("f").stat.size == 3);
        assert_eq!(look("l").kind, LookKind::Other("a symbolic link"));
        assert!(Look::of_file(&open).unwrap().is_directory());
        assert!(!look("f").settled(0) && look("f").settled(10_000_000_000));
        assert!(look("f").is_same_thing(&look("f")) && !look("f").is_same_thing(&look("l")));
    }
}
