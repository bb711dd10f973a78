//! Carrying out a pull. Nothing is written or removed that is not what was seen, and no symbolic link is
//! followed: one that stands in the place of a directory is a conflict, not a path.

use std::path::{Path, PathBuf};

use super::rows::{Local, Seen};
use super::state::Known;
use super::sync::Shared;
use crate::cli::local::{is_absent, make_directory};
use crate::cli::progress::Meter;
use crate::cli::transfer::{Expect, FileTarget, Retired, is_meanwhile_changed};
use crate::types::api::{Entry, Kind};
use crate::types::{Error, ErrorCode, Result};

const RACE: &str = "it was changed here meanwhile; it is left as it is";

/// The host path of a row, with all directories above it: they are there, or made, and none is a link.
fn safe_path(root: &Path, relative: &str) -> Result<PathBuf> {
    let mut path = root.to_path_buf();
    let mut names = relative.split('/').peekable();
    while let Some(name) = names.next() {
        path.push(name);
        if names.peek().is_some() {
            make_directory(&path)?;
        }
    }
    Ok(path)
}

impl Shared {
    /// Makes a directory, in the place of a file if need be.
    pub(super) async fn make_local_directory(&self, seen: Seen) -> Result<()> {
        let version = seen.remote.as_ref().map_or(0, |entry| entry.version);
        let made = safe_path(&self.root, &seen.path).and_then(|path| {
            if let Some(Local::File(stat)) = seen.local {
                Retired::remove(&path, stat, &self.aside)?;
            }
            make_directory(&path)
        });
        match made {
            Ok(_) => {
                self.tally.directory_made();
                self.state.record(&seen.path, Some(Known::directory(version))).await
            }
            Err(error) => {
                self.report(&seen.path, error);
                Ok(())
            }
        }
    }

    /// A place that is not as it was seen is a conflict; all else is a failure.
    fn report(&self, relative: &str, error: Error) {
        if is_meanwhile_changed(&error) {
            self.tally.conflict(relative, RACE);
        } else if error.code() == ErrorCode::AlreadyExists {
            self.tally.conflict(relative, error.message());
        } else {
            self.tally.failed(relative, &error);
        }
    }

    /// Fetches a file, or removes one here.
    pub(super) async fn pull_file(&self, seen: Seen) -> Result<()> {
        match (seen.local, seen.remote) {
            (local, Some(entry)) => {
                let size = entry.size.unwrap_or(0);
                self.tally.progress.expect(size);
                let expect = match local {
                    Some(Local::File(stat)) => Expect::Same(stat),
                    _ => Expect::Absent,
                };
                let fetched = self.fetch(&seen.path, entry, expect).await;
                self.tally.progress.file_over();
                if let Err(error) = fetched {
                    self.report(&seen.path, error);
                }
                Ok(())
            }
            (Some(Local::File(stat)), None) => {
                let removed =
                    safe_path(&self.root, &seen.path).and_then(|path| Retired::remove(&path, stat, &self.aside));
                match removed {
                    Ok(()) => {
                        self.tally.removed();
                        self.state.record(&seen.path, None).await
                    }
                    Err(error) => {
                        self.report(&seen.path, error);
                        Ok(())
                    }
                }
            }
            _ => Ok(()),
        }
    }

    async fn fetch(&self, relative: &str, entry: Entry, expect: Expect) -> Result<()> {
        let from = self.remote_path(relative)?;
        let target = FileTarget { path: safe_path(&self.root, relative)?, expect };
        let meter = Meter::new(&self.tally.progress);
        let (entry, stat) = self.cluster.download(&from, entry, target, &meter).await?;
        let sha256 = entry.sha256.ok_or_else(|| Error::internal("a fetched file has no SHA-256"))?;
        self.tally.transferred(stat.size);
        self.state.record(relative, Some(Known::file(entry.version, stat, sha256))).await
    }

    /// Removes a directory here after all that was below it, and fetches the file that takes its place.
    pub(super) async fn remove_local_directory(&self, seen: Seen) {
        let relative = seen.path.clone();
        let outcome = async {
            let path = safe_path(&self.root, &seen.path)?;
            match std::fs::remove_dir(&path) {
                Ok(()) => self.tally.removed(),
                Err(error) if is_absent(&error) => {}
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                    self.tally.conflict(&seen.path, "the directory is kept here: there is more in it");
                    return Ok(());
                }
                Err(error) => return Err(Error::io(format!("removing {}", path.display()), error)),
            }
            self.state.record(&seen.path, None).await?;
            if seen.remote.as_ref().is_some_and(|entry| entry.kind == Kind::File) {
                return self.pull_file(Seen { local: None, ..seen }).await;
            }
            Ok(())
        };
        if let Err(error) = outcome.await {
            self.report(&relative, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_above_are_made_and_links_are_not_followed() {
        let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = directory.path();
        assert_eq!(safe_path(root, "a/b/f").unwrap(), root.join("a/b/f"));
        assert!(root.join("a/b").is_dir() && !root.join("a/b/f").exists());
        std::os::unix::fs::symlink(outside.path(), root.join("link")).unwrap();
        let error = safe_path(root, "link/f").unwrap_err();
        assert_eq!(error.code(), ErrorCode::AlreadyExists);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
