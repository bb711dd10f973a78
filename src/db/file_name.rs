//! The names of a SQLite database's files: as people find them, and of those beside it.

use std::path::{Path, PathBuf};

/// The path as a person finds the file, from whatever directory.
pub(super) fn full_name(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string()
}

/// The name of a file beside a SQLite database.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
