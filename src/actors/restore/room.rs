//! Where a restore keeps its files meanwhile, and whether there is room for them.

use std::path::Path;

use super::Run;
use crate::db::DatabaseUrl;
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

/// What the directory of a restore is called, and a few random letters.
const WORK_PREFIX: &str = "holdfast-restore-";
/// Bytes that a restore needs for each byte of the journal's copies: the copy itself, and the rows with their indexes.
const ROOM_FACTOR: u64 = 3;

impl Run {
    /// Where the journal's copies and the rows that are made of them are kept meanwhile: beside the database, whose disk has
    /// to have room for them anyway; with Postgres, where temporary files are. It goes when the restore ends.
    pub(super) fn work_directory(&self) -> Result<tempfile::TempDir> {
        let place = match self.context.db.url() {
            DatabaseUrl::Sqlite(path) => path.parent().map(Path::to_path_buf).filter(|dir| !dir.as_os_str().is_empty()),
            DatabaseUrl::Postgres(_) => Some(std::env::temp_dir()),
        };
        let place = place.unwrap_or_else(|| ".".into());
        remove_left_behind(&place);
        let made = tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(&place);
        made.io_context(|| format!("making a directory for the restore in {}", place.display()))
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

/// What a restore has left behind whose process was killed. Only one name server works on a SQLite database; where
/// temporary files are, those of another one may be in use.
fn remove_left_behind(place: &Path) {
    if place == std::env::temp_dir() {
        return;
    }
    let Ok(entries) = std::fs::read_dir(place) else { return };
    let left = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(WORK_PREFIX));
    for entry in left {
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            log::warn!("{} of an earlier restore cannot be removed: {error}", entry.path().display());
        }
    }
}
