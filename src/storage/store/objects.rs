//! Files of larger objects: putting them in place, opening, removing.

use std::fs::{self, File};
use std::path::Path;

use tempfile::TempPath;

use super::layout::{Layout, sync_dir};
use crate::types::error::IoContext;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, Result};

/// Renames a durable file to its place and makes the name durable too, with the directories above it.
pub fn put(layout: &Layout, key: ReplicaKey, file: TempPath) -> Result<()> {
    let path = layout.object_path(key);
    let place = || -> std::io::Result<()> {
        let Some(inner) = path.parent() else { return Ok(()) };
        let new_from = make_dirs(inner, &layout.objects_dir())?;
        file.persist(&path).map_err(|error| error.error)?;
        crate::types::failpoint::UPLOAD_RENAMED.passed();
        sync_dir(inner)?;
        for parent in new_from {
            sync_dir(&parent)?;
        }
        crate::types::failpoint::UPLOAD_PLACED.passed();
        Ok(())
    };
    place().io_context(|| format!("putting {} in its place", path.display()))
}

/// Makes the two levels of directories; answers those whose list of names has changed.
fn make_dirs(inner: &Path, objects: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut changed = Vec::new();
    let Some(outer) = inner.parent() else { return Ok(changed) };
    for (dir, above) in [(outer, objects), (inner, outer)] {
        match fs::create_dir(dir) {
            Ok(()) => changed.push(above.to_path_buf()),
            // Another upload may have made it a moment ago and not synced it yet.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                // A time in the future counts as new: clocks jump.
                let old = fs::metadata(dir)?.modified()?.elapsed().is_ok_and(|age| age.as_secs() >= 60);
                if !old {
                    changed.push(above.to_path_buf());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}

/// Opens an object's file; `None` when it is not there.
pub fn open(layout: &Layout, key: ReplicaKey) -> Result<Option<File>> {
    let path = layout.object_path(key);
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("opening {}", path.display()), error)),
    }
}

/// Removes an object's file, if it is there. Its row is gone already; should the power fail now, the next
/// start finds a file that no row knows.
pub fn remove(layout: &Layout, key: ReplicaKey) -> Result<()> {
    let path = layout.object_path(key);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
