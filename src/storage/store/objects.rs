//! Files of larger objects: putting them in place, opening, removing.

use std::fs::File;

use super::dir::{Dir, TempFile, is_absent};
use super::incoming::not_stored;
use super::layout::{Layout, Shelf, object_name};
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, Result};

/// Gives a durable file its place and makes the name durable too, with the directories above it.
pub fn put(layout: &Layout, key: ReplicaKey, file: TempFile) -> Result<()> {
    let place = || -> std::io::Result<()> {
        let (inner, new_from) = make_dirs(layout.objects(), Shelf::of(key))?;
        file.put(&inner, key.to_string())?;
        crate::types::failpoint::UPLOAD_RENAMED.passed();
        inner.sync()?;
        for parent in new_from {
            parent.sync()?;
        }
        crate::types::failpoint::UPLOAD_PLACED.passed();
        Ok(())
    };
    place().map_err(|error| not_stored(&format!("putting {key} in its place"), error))
}

/// Makes the two levels of directories; answers the lower one, and those whose list of names has changed.
fn make_dirs(objects: &Dir, shelf: Shelf) -> std::io::Result<(Dir, Vec<Dir>)> {
    let mut changed = Vec::new();
    let mut dir = objects.clone();
    for name in [shelf.outer(), shelf.inner()] {
        let is_new = dir.make_dir(&name)?;
        let below = dir.sub(&name)?;
        // Another upload may have made it a moment ago and not synced it yet. A time in the future counts as new:
        // clocks jump.
        let is_old =
            || Ok::<_, std::io::Error>(below.look_at_self()?.modified.elapsed().is_ok_and(|age| age.as_secs() >= 60));
        if is_new || !is_old()? {
            changed.push(dir);
        }
        dir = below;
    }
    Ok((dir, changed))
}

/// Opens an object's file; `None` when it is not there.
pub fn open(layout: &Layout, key: ReplicaKey) -> Result<Option<File>> {
    match layout.objects().open_file(object_name(key)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("opening the file of {key}"), error)),
    }
}

/// Whether an object's file is there for certain, or gone for certain.
pub fn is_there(layout: &Layout, key: ReplicaKey) -> Result<bool> {
    match layout.objects().look(object_name(key)) {
        Ok(look) => Ok(look.is_some()),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(Error::io(format!("looking for the file of {key}"), error)),
    }
}

/// Files from this size on lose their name first and their blocks later: that takes a file system long.
const SLOW_BYTES_MIN: u64 = 16 << 20;

/// Removes an object's file of so many bytes, if it is there. Its row is gone already; should the power fail now, the next
/// start finds a file that no row knows. What is large is only moved to `incoming/`, and goes when the answer is dropped or
/// at the next start: whoever waits for the index does not wait for that.
pub fn remove(layout: &Layout, key: ReplicaKey, size: u64) -> Result<Option<TempFile>> {
    let name = object_name(key);
    if size >= SLOW_BYTES_MIN
        && let Ok(file) = TempFile::take(layout.objects(), &name, layout.incoming(), "removed-")
    {
        return Ok(Some(file));
    }
    match layout.objects().remove(name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing the file of {key}"), error))
        }
        _ => Ok(None),
    }
}
