//! Files that no row knows: found at start, kept in quarantine for a while, then removed.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::index::{self, Index};
use super::layout::Layout;
use crate::types::error::IoContext;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, Result};

/// Walks `objects/` and moves every file that has no row into `quarantine/`, with a note that says why.
/// Only files older than `started` are looked at: newer ones may be waiting for their row. Answers how many.
pub async fn quarantine_unknown(
    layout: &Layout,
    index: &Index,
    started: SystemTime,
    in_flight: impl Fn(ReplicaKey) -> bool,
) -> Result<usize> {
    let mut moved = 0;
    let objects = layout.objects_dir();
    let walk = walkdir::WalkDir::new(&objects).min_depth(3).max_depth(3);
    for entry in walk {
        let entry =
            entry.map_err(|error| Error::internal(format!("reading {}", objects.display())).with_source(error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let old = entry.metadata().ok().and_then(|meta| meta.modified().ok()).is_some_and(|time| time < started);
        if !old {
            continue;
        }
        let known = match name.parse::<ReplicaKey>() {
            // Its row comes in a moment.
            Ok(key) if in_flight(key) => true,
            Ok(key) => {
                index.read(move |connection| index::find(connection, key)).await?.is_some_and(|row| !row.in_index)
            }
            Err(_) => false,
        };
        if !known {
            put_aside(
                layout,
                entry.path(),
                &name,
                "no row of the index knows this file: its upload or its deletion was interrupted",
            )?;
            moved += 1;
        }
    }
    Ok(moved)
}

fn put_aside(layout: &Layout, path: &Path, name: &str, reason: &str) -> Result<()> {
    let target = layout.quarantine_dir().join(name);
    let note = layout.quarantine_dir().join(format!("{name}.reason"));
    fs::write(&note, format!("{reason}\n")).io_context(|| format!("writing {}", note.display()))?;
    fs::rename(path, &target).io_context(|| format!("moving {} into quarantine", path.display()))?;
    log::warn!("{} was moved into quarantine: {reason}", path.display());
    Ok(())
}

/// Removes what has been in quarantine for longer than `keep`. Answers how many files.
pub fn empty_quarantine(layout: &Layout, keep: Duration) -> Result<usize> {
    let dir = layout.quarantine_dir();
    let reading = || format!("reading {}", dir.display());
    let mut removed = 0;
    for entry in fs::read_dir(&dir).io_context(reading)? {
        let path = entry.io_context(reading)?.path();
        let Ok(meta) = fs::metadata(&path) else { continue };
        // The note's time is that of the move; a file without one counts by its own.
        let note = path.with_file_name(format!("{}.reason", path.file_name().unwrap_or_default().to_string_lossy()));
        let since = fs::metadata(&note).and_then(|meta| meta.modified()).or_else(|_| meta.modified());
        if since.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > keep)) {
            fs::remove_file(&path).io_context(|| format!("removing {}", path.display()))?;
            removed += 1;
        }
    }
    Ok(removed)
}
