//! Carrying out a push. Every change names the version that was seen, so that a race with someone else becomes
//! a conflict and never an overwrite.

use futures_util::FutureExt;

use super::rows::{Local, Seen};
use super::run::{Ready, Shared, Sync, TWIN};
use super::state::Known;
use crate::cli::context::Cluster;
use crate::cli::progress::Meter;
use crate::cli::transfer::{Facts, Source, hash_file};
use crate::types::api::{Condition, Entry};
use crate::types::{DfsPath, Error, ErrorCode, Result, Version};

const RACE: &str = "it was changed in the cluster meanwhile";

/// Whether an error means that the cluster is not what it was seen to be.
fn is_race(error: &Error) -> bool {
    use ErrorCode::*;
    matches!(error.code(), PreconditionFailed | AlreadyExists | IsADirectory | NotADirectory)
}

impl Sync {
    /// Makes a directory in the cluster, in the place of a file if need be. What is below waits for it.
    pub(super) async fn make_remote_directory(&mut self, seen: Seen) -> Result<()> {
        let shared = self.shared.clone();
        let path = shared.remote_path(&seen.path)?;
        let (cluster, relative) = (shared.cluster.clone(), seen.path.clone());
        let made = async move { make_directory(&cluster, &path, seen.remote.as_ref()).await };
        let ready = made.boxed().shared();
        self.open.push((relative.clone(), ready.clone()));
        let task = async move {
            let noted = match ready.await {
                Ok(version) => {
                    shared.tally.directory_made();
                    shared.state.record(&relative, Some(Known::directory(version))).await
                }
                Err(error) if is_race(&error) => return shared.tally.conflict(&relative, RACE),
                Err(error) => Err(error),
            };
            if let Err(error) = noted {
                shared.tally.failed(&relative, &error);
            }
        };
        self.pool.run(task).await
    }
}

async fn make_directory(cluster: &Cluster, path: &DfsPath, there: Option<&Entry>) -> Result<Version> {
    if let Some(file) = there {
        cluster.names.delete(path, false, Some(file.version)).await?;
    }
    Ok(cluster.names.mkdir(path, true).await?.version)
}

impl Shared {
    /// Sends a file, or removes one in the cluster.
    pub(super) async fn push_file(&self, seen: Seen, ready: Option<Ready>) -> Result<()> {
        let path = self.remote_path(&seen.path)?;
        if let Some(ready) = ready {
            ready.await.map_err(|error| error.context("its directory could not be made"))?;
        }
        match (seen.local, &seen.remote) {
            (Some(Local::File(stat)), there) => {
                let condition = there.as_ref().map_or(Condition::Absent, |entry| Condition::Version(entry.version));
                self.tally.progress.expect(stat.size);
                let sent = self.send(&seen.path, &path, condition).await;
                self.tally.progress.file_over();
                sent
            }
            (None, Some(entry)) if self.is_gone_here(&seen.path)? => {
                self.delete_remote_file(&seen.path, &path, entry).await
            }
            _ => Ok(()),
        }
    }

    /// Whether a path that the walk has not met is really not there. A file system that takes two names for one
    /// lists only one of them; and something may have come meanwhile.
    fn is_gone_here(&self, relative: &str) -> Result<bool> {
        if self.dir.at(relative).look()?.is_none() {
            return Ok(true);
        }
        self.tally.skipped(relative, TWIN);
        Ok(false)
    }

    async fn send(&self, relative: &str, path: &DfsPath, condition: Condition) -> Result<()> {
        let meter = Meter::new(&self.tally.progress);
        let mut source = Source::File(self.dir.at(relative));
        let mut sent = self.cluster.upload(&mut source, path, condition, &meter).await;
        // Its directory was removed in the cluster; a new file in it brings it back.
        if sent.as_ref().is_err_and(|error| error.code() == ErrorCode::NotFound)
            && self.dir.at(relative).look()?.is_some()
            && let Some((parent, _)) = path.split()
        {
            self.cluster.names.mkdir(&parent, true).await?;
            sent = self.cluster.upload(&mut source, path, condition, &meter).await;
        }
        match sent {
            Ok(uploaded) => {
                self.tally.sent(uploaded.facts.stat.size, uploaded.copies_wanted);
                self.state.record(relative, Some(Known::read(uploaded.version, &uploaded.facts))).await
            }
            Err(error) if is_race(&error) => self.settle_race(relative, path).await,
            Err(error) => Err(error),
        }
    }

    /// Somebody was faster. With the same bytes that is no conflict.
    async fn settle_race(&self, relative: &str, path: &DfsPath) -> Result<()> {
        let facts = hash_file(self.dir.at(relative)).await.ok();
        let there = self.cluster.stat(path).await?;
        let same = |facts: &Facts, entry: &Entry| entry.sha256 == Some(facts.sha256);
        match (facts, there) {
            (Some(facts), Some(entry)) if same(&facts, &entry) => {
                self.tally.unchanged();
                self.state.record(relative, Some(Known::read(entry.version, &facts))).await
            }
            _ => {
                self.tally.conflict(relative, RACE);
                Ok(())
            }
        }
    }

    async fn delete_remote_file(&self, relative: &str, path: &DfsPath, entry: &Entry) -> Result<()> {
        match self.cluster.names.delete(path, false, Some(entry.version)).await {
            Ok(_) => self.tally.removed(),
            Err(error) if error.code() == ErrorCode::NotFound => {}
            // It is there with other bytes, or as a directory; or gone, which is what was wanted.
            Err(error) if is_race(&error) => {
                if self.cluster.stat(path).await?.is_some() {
                    self.tally.conflict(relative, RACE);
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
        self.state.record(relative, None).await
    }

    /// Removes a directory in the cluster after all that was below it, and sends the file that takes its place.
    pub(super) async fn remove_remote_directory(&self, seen: Seen) {
        let relative = seen.path.clone();
        let outcome = async {
            let path = self.remote_path(&seen.path)?;
            if seen.local.is_none() && !self.is_gone_here(&seen.path)? {
                return Ok(());
            }
            match self.cluster.names.rmdir(&path).await {
                Ok(_) => self.tally.removed(),
                Err(error) if error.code() == ErrorCode::NotFound => {}
                Err(error) if error.code() == ErrorCode::DirectoryNotEmpty => {
                    self.tally.conflict(&seen.path, "the directory is kept in the cluster: there is more in it");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            self.state.record(&seen.path, None).await?;
            let file = Seen { remote: None, ..seen };
            self.push_file(file, None).await
        };
        if let Err(error) = outcome.await {
            self.tally.failed(&relative, &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_a_race() {
        for code in [ErrorCode::PreconditionFailed, ErrorCode::AlreadyExists, ErrorCode::IsADirectory] {
            assert!(is_race(&Error::new(code, "x")));
        }
        for code in [ErrorCode::NotFound, ErrorCode::Unavailable, ErrorCode::Forbidden] {
            assert!(!is_race(&Error::new(code, "x")));
        }
    }
}
