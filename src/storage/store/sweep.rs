//! Files that no row knows: found at start and once in each round of the scrubber, kept in quarantine for a
//! while, then removed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::index::{self, Index};
use super::layout::Layout;
use super::quarantine;
use crate::types::error::IoContext;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, Result};

/// Directories right below `objects/`.
pub const PARTS: u16 = 256;

/// Walks `objects/` and moves every file that has no row into `quarantine/`, with a note that says why.
/// Only files older than `started` are looked at: newer ones may be waiting for their row. Answers how many.
pub async fn quarantine_unknown(
    layout: &Layout,
    index: &Index,
    started: SystemTime,
    in_flight: impl Fn(ReplicaKey) -> bool,
) -> Result<usize> {
    let mut moved = 0;
    for part in 0..PARTS {
        moved += quarantine_unknown_in(layout, index, part, started, &in_flight).await?;
    }
    Ok(moved)
}

/// The same for one of the [`PARTS`] of `objects/`.
pub async fn quarantine_unknown_in(
    layout: &Layout,
    index: &Index,
    part: u16,
    started: SystemTime,
    in_flight: impl Fn(ReplicaKey) -> bool,
) -> Result<usize> {
    let mut moved = 0;
    let outer = layout.objects_dir().join(format!("{part:02x}"));
    for inner in list(outer, None).await? {
        let mut unknown = Vec::new();
        let mut asked = Vec::new();
        for path in list(inner, Some(started)).await? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match name.parse::<ReplicaKey>() {
                // Its row comes in a moment. (Asked before the index is: the other way round, the row could come
                // between the two questions.)
                Ok(key) if in_flight(key) => {}
                Ok(key) => asked.push((key, path, name)),
                Err(_) => unknown.push((path, name)),
            }
        }
        let without_row = index.read(move |connection| {
            let mut without = Vec::new();
            for (key, path, name) in asked {
                if index::find(connection, key)?.is_none_or(|row| row.in_index) {
                    without.push((path, name));
                }
            }
            Ok(without)
        });
        unknown.extend(without_row.await?);
        let reason = "no row of the index knows this file: its upload or its deletion was interrupted";
        for (path, name) in unknown {
            moved += usize::from(quarantine::put_unknown(layout, &path, &name, reason)?);
        }
    }
    Ok(moved)
}

/// What is in a directory: other directories, or what is in them and was last changed before a time. What is no
/// directory, or not there, holds nothing.
async fn list(dir: PathBuf, before: Option<SystemTime>) -> Result<Vec<PathBuf>> {
    let read = move || -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&dir) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let older = |time| entry.metadata().and_then(|meta| meta.modified()).is_ok_and(|changed| changed < time);
            if before.is_none_or(older) {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Error::internal("reading a directory panicked").with_source(error))?
        .io_context(|| "looking for unknown files".into())
}

/// Removes what has been in quarantine for longer than `keep`, except what is there for good. Answers how many
/// files, notes not counted.
pub fn empty_quarantine(layout: &Layout, keep: Duration) -> Result<usize> {
    let dir = layout.quarantine_dir();
    let reading = || format!("reading {}", dir.display());
    let mut removed = 0;
    for entry in fs::read_dir(&dir).io_context(reading)? {
        let path = entry.io_context(reading)?.path();
        let (subject, is_note) = match quarantine::subject(&path) {
            // A note goes together with its file.
            Some(subject) if subject.exists() => continue,
            Some(subject) => (subject, true),
            None => (path.clone(), false),
        };
        if quarantine::is_kept_for_good(&subject) || !is_older(&path, keep) {
            continue;
        }
        remove(&path)?;
        if !is_note {
            remove(&quarantine::note_of(&path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The note's time is that of the move; a file without one counts by its own.
fn is_older(path: &Path, than: Duration) -> bool {
    let modified = |path: PathBuf| fs::metadata(path).and_then(|meta| meta.modified());
    let since = modified(quarantine::note_of(path)).or_else(|_| modified(path.into()));
    since.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > than))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_for_good_stays_and_the_rest_goes_with_its_notes() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let write = |name: &str| fs::write(layout.quarantine_dir().join(name), "x").unwrap();
        let names = || {
            let mut names: Vec<String> = fs::read_dir(layout.quarantine_dir())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        // A copy, one that stays, the note on a missing file, one that stays, and a file without a note.
        for name in ["1.1", "1.1.reason", "2.2", "2.2.reason", "2.2.keep", "3.3.reason", "4.4.reason", "4.4.keep", "5"]
        {
            write(name);
        }
        assert_eq!(empty_quarantine(&layout, Duration::from_secs(3_600)).unwrap(), 0);
        assert_eq!(names().len(), 9);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(empty_quarantine(&layout, Duration::ZERO).unwrap(), 2);
        assert_eq!(names(), ["2.2", "2.2.keep", "2.2.reason", "4.4.keep", "4.4.reason"]);
        // A person has looked at it and takes the mark away.
        fs::remove_file(layout.quarantine_dir().join("2.2.keep")).unwrap();
        assert_eq!(empty_quarantine(&layout, Duration::ZERO).unwrap(), 1);
        assert_eq!(names(), ["4.4.keep", "4.4.reason"]);
    }
}
