//! Carrying out a pull. Nothing is written or removed that is not what was seen, and no symbolic link is
//! followed: one that stands in the place of a directory is a conflict, not a path.

use rustix::io::Errno;

use super::decide::Decision;
use super::rows::{Local, Seen};
use super::run::Shared;
use super::state::Known;
use crate::cli::host::{self, Expect, HostPath, folded_error, folded_twin, is_folded, is_meanwhile_changed};
use crate::cli::progress::Meter;
use crate::cli::transfer::{FileTarget, hash_file};
use crate::types::api::{Entry, Kind};
use crate::types::{Error, ErrorCode, Result};

const RACE: &str = "it was changed here meanwhile; it is left as it is";

/// Makes a directory, and all above it. A name that the file system takes for another one's is not made.
fn make_directory(place: &HostPath, is_new: bool) -> Result<()> {
    let (above, name) = place.split_made()?;
    let made = above.make_directory(name)?;
    if is_new
        && !made
        && let Some(twin) = folded_twin(&above, name)?
    {
        return Err(folded_error(&above, name, &twin));
    }
    Ok(())
}

/// Removes a file that is still what was seen.
fn remove(seen: &Seen, place: &HostPath) -> Result<()> {
    let Some(expected) = seen.expected() else { return Ok(()) };
    match place.split() {
        Ok((dir, name)) => host::remove(&dir, name, expected),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Shared {
    fn place(&self, relative: &str) -> HostPath {
        self.dir.at(relative)
    }

    /// Makes a directory, in the place of a file if need be. Whether it is there now, and what is below can come.
    pub(super) async fn make_local_directory(&self, seen: Seen) -> Result<bool> {
        let version = seen.remote.as_ref().map_or(0, |entry| entry.version);
        let place = self.place(&seen.path);
        let made = remove(&seen, &place).and_then(|()| make_directory(&place, seen.local.is_none()));
        match made {
            Ok(()) => {
                self.tally.directory_made();
                self.state.record(&seen.path, Some(Known::directory(version))).await.map(|()| true)
            }
            Err(error) => {
                self.report(&seen.path, error);
                Ok(false)
            }
        }
    }

    /// A place that is not as it was seen is a conflict; a name that cannot be had here is left out; all else is a
    /// failure.
    fn report(&self, relative: &str, error: Error) {
        if is_folded(&error) {
            self.tally.skipped(relative, error.message());
        } else if is_meanwhile_changed(&error) {
            self.tally.conflict(relative, RACE);
        } else if error.code() == ErrorCode::AlreadyExists {
            self.tally.conflict(relative, error.message());
        } else {
            self.tally.failed(relative, &error);
        }
    }

    /// Fetches a file.
    pub(super) async fn pull_file(&self, seen: Seen) -> Result<()> {
        let Some(entry) = seen.remote.clone() else { return Ok(()) };
        let size = entry.size.unwrap_or(0);
        self.tally.progress.expect(size);
        let expect = match seen.local {
            Some(Local::File(_) | Local::Unfit(..)) => seen.expected().map_or(Expect::Absent, Expect::Same),
            _ => Expect::Absent,
        };
        let fetched = self.fetch(&seen.path, entry.clone(), expect).await;
        self.tally.progress.file_over();
        match fetched {
            Err(error) if is_meanwhile_changed(&error) && self.is_the_same_now(&seen.path, &entry).await? => Ok(()),
            Err(error) => {
                self.report(&seen.path, error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether what was changed here meanwhile has become what the cluster has; then that is noted.
    async fn is_the_same_now(&self, relative: &str, entry: &Entry) -> Result<bool> {
        let Ok(facts) = hash_file(self.place(relative)).await else { return Ok(false) };
        if entry.sha256 != Some(facts.sha256) {
            return Ok(false);
        }
        self.tally.unchanged();
        self.state.record(relative, Some(Known::read(entry.version, &facts))).await?;
        Ok(true)
    }

    /// Removes a file here that the cluster certainly has no more.
    pub(super) async fn remove_local_file(&self, seen: Seen) -> Result<()> {
        match remove(&seen, &self.place(&seen.path)) {
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

    async fn fetch(&self, relative: &str, entry: Entry, expect: Expect) -> Result<()> {
        let from = self.remote_path(relative)?;
        let place = self.place(relative);
        let (above, name) = place.split_made()?;
        if expect == Expect::Absent {
            host::check_free(&above, name)?;
        }
        let meter = Meter::new(&self.tally.progress);
        let (entry, stat) = self.cluster.download(&from, entry, FileTarget { place, expect }, &meter).await?;
        let sha256 = entry.sha256.ok_or_else(|| Error::internal("a fetched file has no SHA-256"))?;
        self.tally.transferred(stat.size);
        self.state.record(relative, Some(Known::written(entry.version, stat, sha256))).await
    }

    /// Removes a directory here after all that was below it, and fetches the file that takes its place.
    pub(super) async fn remove_local_directory(&self, seen: Seen) {
        let relative = seen.path.clone();
        let outcome = async {
            let place = self.place(&seen.path);
            let removed = match place.split() {
                Ok((above, name)) => above.remove_directory(name),
                Err(error) if error.code() == ErrorCode::NotFound => Err(Errno::NOENT),
                Err(error) => return Err(error),
            };
            match removed {
                Ok(()) => self.tally.removed(),
                Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    self.tally.conflict(&seen.path, "the directory is kept here: there is more in it");
                    return Ok(());
                }
                Err(error) => {
                    return Err(Error::io(format!("removing {}", place.shown().display()), error.into()));
                }
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

    /// Whether carrying out a row takes something away here on the word that the cluster has it no more.
    pub(super) fn removes_here(seen: &Seen, decision: Decision) -> bool {
        decision == Decision::Incoming && seen.local.is_some() && seen.remote.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::host::HostDir;

    #[test]
    fn directories_above_are_made_and_links_are_not_followed() {
        let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = HostDir::open(directory.path()).unwrap();
        make_directory(&root.at("a/b"), true).unwrap();
        make_directory(&root.at("a/b"), true).unwrap();
        assert!(directory.path().join("a/b").is_dir());
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
        let error = make_directory(&root.at("link/d"), true).unwrap_err();
        assert_eq!(error.code(), ErrorCode::AlreadyExists);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
