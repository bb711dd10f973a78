//! The tree of the tour: made, changed, and compared byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use walkdir::WalkDir;

use crate::types::error::IoContext;
use crate::types::{Error, Result};

/// The same tree at each run.
const SEED: u64 = 7400;
/// Differences that are listed.
const DIFFERENCES_MAX: usize = 20;
/// Bytes that are compared at once.
const PIECE_BYTES: usize = 64 << 10;

/// What of the tree is changed while the tour goes on; all of it is in the tree that [`make`] makes.
pub(super) const DELETED_FILE: &str = "photos/2023/may/image-03.jpg";
/// A directory that is removed.
pub(super) const DELETED_DIRECTORY: &str = "notes/old";
/// A file that gets other bytes.
pub(super) const OVERWRITTEN_FILE: &str = "notes/today.txt";
/// A large file that gets other bytes.
pub(super) const OVERWRITTEN_LARGE: &str = "music/concert.flac";
/// A directory that gets another name.
pub(super) const MOVED_DIRECTORY: &str = "Übersicht/файлы";
/// Its other name.
pub(super) const MOVED_TO: &str = "日本語/資料 2024";
/// A directory that is copied.
pub(super) const COPIED_DIRECTORY: &str = "photos/2024";
/// Where to.
pub(super) const COPIED_TO: &str = "albums";

/// Directories with their number of files, the files' names and their largest size in bytes.
const PLAN: [(&str, usize, &str, usize); 13] = [
    ("photos/2023/may", 24, "image-##.jpg", 60_000),
    ("photos/2023/june", 24, "image-##.jpg", 60_000),
    ("photos/2024", 24, "holiday ##.jpg", 90_000),
    ("photos/2024/raw", 4, "##.raw", 2 << 20),
    ("notes/old", 20, "note ##.txt", 900),
    ("notes/a/b/c/d/e/f/g/h", 16, "deep-##", 2_000),
    ("Übersicht/файлы", 20, "отчёт №##.txt", 5_000),
    ("Übersicht/äöü ß", 16, "größe ## %20.txt", 5_000),
    ("日本語", 16, "ノート ##.md", 5_000),
    ("emoji 🦀", 8, "🎉 ##", 200),
    ("source/src", 16, "module_##.rs", 20_000),
    ("source/tests", 6, "-dash ##.rs", 20_000),
    ("source/empty files", 4, "empty ##", 0),
];

/// Files of a size that small ones do not have.
const SINGLE: [(&str, usize); 4] =
    [("music/concert.flac", 16 << 20), ("music/live.flac", 12 << 20), ("notes/today.txt", 300), ("README", 1)];

/// How much it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) bytes: u64,
}

/// Makes the tree.
pub(super) fn make(root: &Path) -> Result<Size> {
    let mut random = StdRng::seed_from_u64(SEED);
    for (directory, files, name, bytes_max) in PLAN {
        for number in 0..files {
            let name = name.replace("##", &format!("{number:02}"));
            let bytes = random.random_range(0..=bytes_max);
            write(&root.join(directory).join(name), bytes, &mut random)?;
        }
    }
    for (path, bytes) in SINGLE {
        write(&root.join(path), bytes, &mut random)?;
    }
    make_dirs(&root.join("an empty directory/in an empty directory"))?;
    size(root)
}

fn make_dirs(path: &Path) -> Result<()> {
    fs::create_dir_all(path).io_context(|| format!("making {}", path.display()))
}

/// Writes a file of random bytes.
fn write(path: &Path, bytes: usize, random: &mut StdRng) -> Result<()> {
    path.parent().map_or(Ok(()), make_dirs)?;
    let mut content = vec![0; bytes];
    random.fill_bytes(&mut content);
    fs::write(path, content).io_context(|| format!("writing {}", path.display()))
}

/// Gives a file other bytes than it had.
pub(super) fn overwrite(path: &Path, bytes: usize) -> Result<()> {
    write(path, bytes, &mut StdRng::seed_from_u64(SEED + 1))
}

/// Moves a file or directory, making the directories above its new place.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    to.parent().map_or(Ok(()), make_dirs)?;
    fs::rename(from, to).io_context(|| format!("moving {}", from.display()))
}

/// Copies a directory.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in entries(from)?.into_iter().filter(|(_, entry)| entry.is_some()) {
        let (source, target) = (from.join(&entry.0), to.join(&entry.0));
        target.parent().map_or(Ok(()), make_dirs)?;
        fs::copy(&source, &target).io_context(|| format!("copying {}", source.display()))?;
    }
    Ok(())
}

/// Everything below a directory: a file's size, nothing for a directory.
fn entries(root: &Path) -> Result<BTreeMap<PathBuf, Option<u64>>> {
    let failed = |error: walkdir::Error| Error::io(format!("reading {}", root.display()), error.into());
    let mut entries = BTreeMap::new();
    for entry in WalkDir::new(root).min_depth(1) {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_path_buf();
        entries.insert(path, metadata.is_file().then_some(metadata.len()));
    }
    Ok(entries)
}

/// Counts a tree.
pub(super) fn size(root: &Path) -> Result<Size> {
    let mut size = Size::default();
    for bytes in entries(root)?.into_values() {
        match bytes {
            Some(bytes) => (size.files, size.bytes) = (size.files + 1, size.bytes + bytes),
            None => size.directories += 1,
        }
    }
    Ok(size)
}

/// What differs between two trees, byte for byte; the first of it.
pub(super) fn differences(want: &Path, have: &Path) -> Result<Vec<String>> {
    let (wanted, had) = (entries(want)?, entries(have)?);
    let mut found = Vec::new();
    for (path, size) in &wanted {
        let shown = path.display();
        match had.get(path) {
            None => found.push(format!("{shown} is missing")),
            Some(other) if other != size => found.push(format!("{shown} has another size or kind")),
            Some(Some(_)) if !same_bytes(&want.join(path), &have.join(path))? => {
                found.push(format!("{shown} has other bytes"));
            }
            Some(_) => {}
        }
    }
    found.extend(had.keys().filter(|path| !wanted.contains_key(*path)).map(|path| {
        let shown = path.display();
        format!("{shown} should not be there")
    }));
    found.truncate(DIFFERENCES_MAX);
    Ok(found)
}

fn same_bytes(one: &Path, other: &Path) -> Result<bool> {
    let open = |path: &Path| File::open(path).io_context(|| format!("opening {}", path.display()));
    let (mut one_file, mut other_file) = (open(one)?, open(other)?);
    let (mut piece, mut counterpart) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let read = one_file.read(&mut piece).io_context(|| format!("reading {}", one.display()))?;
        if read == 0 {
            return Ok(true);
        }
        // A shorter file is a difference, not a failure.
        if other_file.read_exact(&mut counterpart[..read]).is_err() || piece[..read] != counterpart[..read] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_made_and_every_difference_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let size = make(&one).unwrap();
        assert!((190..=220).contains(&size.files), "{size:?}");
        assert!(size.bytes > 28 << 20, "{size:?}");
        assert_eq!(make(&other).unwrap(), size, "it is the same each time");
        assert!(differences(&one, &other).unwrap().is_empty());
        for path in
            [DELETED_FILE, DELETED_DIRECTORY, OVERWRITTEN_FILE, OVERWRITTEN_LARGE, MOVED_DIRECTORY, COPIED_DIRECTORY]
        {
            assert!(one.join(path).exists(), "{path}");
        }
        assert!(!one.join(MOVED_TO).exists() && !one.join(COPIED_TO).exists());
        overwrite(&other.join(OVERWRITTEN_FILE), 300).unwrap();
        assert_eq!(differences(&one, &other).unwrap(), [format!("{OVERWRITTEN_FILE} has other bytes")]);
        fs::remove_file(other.join(OVERWRITTEN_FILE)).unwrap();
        fs::create_dir(other.join("more")).unwrap();
        fs::write(other.join("README"), "longer").unwrap();
        let found = differences(&one, &other).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        copy(&one.join(COPIED_DIRECTORY), &one.join(COPIED_TO)).unwrap();
        assert!(differences(&one.join(COPIED_DIRECTORY), &one.join(COPIED_TO)).unwrap().is_empty());
    }
}
