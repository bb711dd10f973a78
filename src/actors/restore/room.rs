//! Where a restore keeps its files meanwhile, and whether there is room for them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::Run;
use crate::db::DatabaseUrl;
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

/// What the directory of a restore is called, and a few random letters.
const WORK_PREFIX: &str = "holdfast-restore-";
/// The file in it that a restore has locked while it runs.
const LOCK: &str = "lock";
/// Where large temporary files belong when nobody says it: elsewhere they may be in memory.
const LARGE_FILES: &str = "/var/tmp";
/// Bytes that a restore needs for each byte of the journal's copies: the copy itself, and the rows with their indexes.
const ROOM_FACTOR: u64 = 3;

/// A directory that goes when the restore ends. When its process was killed, the next restore finds nobody's lock on it
/// and removes it.
pub(super) struct Room {
    dir: TempDir,
    _lock: File,
}

impl Room {
    fn make(place: &Path) -> Result<Self> {
        remove_left_behind(place);
        let context = || format!("making a directory for the restore in {}", place.display());
        let dir = tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(place).io_context(context)?;
        // It gets its name when it is locked: unlocked, it would be left behind.
        let lock = tempfile::NamedTempFile::new_in(dir.path()).io_context(context)?;
        flock(lock.as_file(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| Error::io(context(), error.into()))?;
        let lock = lock.persist(dir.path().join(LOCK)).map_err(|error| Error::io(context(), error.error))?;
        Ok(Self { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Run {
    /// Where the journal's copies and the rows that are made of them are kept meanwhile: beside the database, whose disk has
    /// to have room for them anyway; with Postgres, where large temporary files are.
    pub(super) fn work_directory(&self) -> Result<Room> {
        Room::make(&place(self.context.db.url(), std::env::var_os("TMPDIR").map(PathBuf::from)))
    }
}

fn place(url: &DatabaseUrl, tmpdir: Option<PathBuf>) -> PathBuf {
    match url {
        DatabaseUrl::Sqlite(path) => match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.into(),
            _ => ".".into(),
        },
        DatabaseUrl::Postgres(_) => match tmpdir.filter(|dir| !dir.as_os_str().is_empty()) {
            Some(dir) => dir,
            None if Path::new(LARGE_FILES).is_dir() => LARGE_FILES.into(),
            None => std::env::temp_dir(),
        },
    }
}

/// Refuses what would not fit before any of it is fetched.
pub(super) fn require_room(dir: &Path, journal_bytes: u64) -> Result<()> {
    let stat =
        rustix::fs::statvfs(dir).map_err(|error| Error::io(format!("looking at {}", dir.display()), error.into()))?;
    let (there, needed) = (stat.f_bavail * stat.f_frsize, journal_bytes.saturating_mul(ROOM_FACTOR));
    if there >= needed {
        return Ok(());
    }
    let place = dir.parent().unwrap_or(dir).display();
    Err(Error::new(
        ErrorCode::OutOfSpace,
        format!(
            "the restore needs about {needed} bytes in {place} for the copies of the journal and the rows made of them, and \
             {there} are free there: make room and run it again"
        ),
    ))
}

/// What a restore has left behind whose process was killed. Others' directories are left alone: where temporary files are,
/// anybody may make one.
fn remove_left_behind(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    let ours = rustix::process::geteuid().as_raw();
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(WORK_PREFIX)) {
        let path = entry.path();
        let is_ours = path.symlink_metadata().is_ok_and(|is| is.is_dir() && is.uid() == ours);
        if !is_ours || !is_free(&path.join(LOCK)) {
            continue;
        }
        if let Err(error) = std::fs::remove_dir_all(&path) {
            log::warn!("{} of an earlier restore cannot be removed: {error}", path.display());
        }
    }
}

/// Whether there is a lock that nobody holds.
fn is_free(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_killed_restore_has_left_behind_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let running = Room::make(place.path()).unwrap();
        let left = place.path().join(format!("{WORK_PREFIX}left"));
        let strange = place.path().join(format!("{WORK_PREFIX}strange"));
        for dir in [&left, &strange] {
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("rows.sqlite"), "rows").unwrap();
        }
        std::fs::write(left.join(LOCK), "").unwrap();
        let other = Room::make(place.path()).unwrap();
        assert!(!left.exists(), "nobody holds its lock");
        assert!(running.path().exists() && other.path().exists() && strange.exists());
        let gone = running.path().to_path_buf();
        drop(running);
        assert!(!gone.exists());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_place() {
        let place = tempfile::tempdir().unwrap();
        let room = Room::make(place.path()).unwrap();
        assert!(require_room(room.path(), 1).is_ok());
        let refused = require_room(room.path(), u64::MAX / 2).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::OutOfSpace);
        assert!(refused.message().contains(&place.path().display().to_string()), "{refused}");
    }

    #[test]
    fn large_files_are_beside_the_database_or_not_in_memory() {
        let sqlite = DatabaseUrl::Sqlite("/data/metadata.sqlite".into());
        assert_eq!(place(&sqlite, Some("/elsewhere".into())), Path::new("/data"));
        assert_eq!(place(&DatabaseUrl::Sqlite("metadata.sqlite".into()), None), Path::new("."));
        let postgres = DatabaseUrl::parse("postgres://h/d").unwrap();
        assert_eq!(place(&postgres, Some("/elsewhere".into())), Path::new("/elsewhere"));
        if Path::new(LARGE_FILES).is_dir() {
            assert_eq!(place(&postgres, None), Path::new(LARGE_FILES));
        }
    }
}
