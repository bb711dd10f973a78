//! Files that only their owner may read.

use std::path::Path;

use crate::types::{Error, Result};

/// What temporary files are called that a crash may leave behind.
pub(super) const TEMPORARY: &str = ".new-";

/// Writes a file that only its owner may read, whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let write = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        // Temporary files are made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Error::io(format!("writing {}", path.display()), error))
}
