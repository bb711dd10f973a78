//! What a workspace knows of its cluster, and when the cluster's word is not taken.
//!
//! That a file is not in the cluster means that somebody deleted it only if the answer comes from the cluster that
//! the workspace is a copy of, in a state that is not older than what the workspace has seen of it. Another cluster,
//! an empty database that waits for a restore, or a backup that was put back know nothing of that kind. So
//! `cluster.json` remembers the cluster's id, the branch of its history, its epoch and the highest version that was
//! seen; a restore begins a new branch with a higher epoch and higher versions, and is accepted.
//!
//! A workspace of an earlier version has no such file. It is bound to the cluster that it meets first, when that is
//! the one that its own configuration names and knows the versions that its state has.

use std::path::PathBuf;

use super::decide::Direction;
use super::place::Workspace;
use super::sighting::{Sighting, read, write};
use super::state;
use crate::cli::context::Cluster;
use crate::client::url::normal_base_url;
use crate::types::api::NameServerStatus;
use crate::types::{Error, ErrorCode, Result, Version};

impl Sighting {
    /// Whoever shows no valid token is not told which cluster it is; nor is anybody while tokens cannot be looked up.
    fn of(status: &NameServerStatus) -> Result<Self> {
        match &status.details {
            Some(details) => Ok(Self {
                cluster: details.cluster,
                history: details.history,
                epoch: details.epoch,
                version: details.version,
            }),
            None if matches!(status.mode.as_str(), "restoring" | "damaged") => Err(waits_for_restore()),
            None => Err(Error::new(
                ErrorCode::Unauthorized,
                "the token is not valid: it is unknown, was revoked or has ended; nothing was changed",
            )),
        }
    }
}

fn waits_for_restore() -> Error {
    Error::unavailable(
        "the cluster waits for a restore, or is being restored, and does not know all of its files; nothing was \
         changed. `holdfast restore` brings them back, `holdfast restore --status` shows how far that is",
    )
}

/// Why the cluster's word is not taken, if it is not. `None` as direction: it is only looked at.
fn judge(seen: &Sighting, now: &Sighting, mode: &str, direction: Option<Direction>) -> Result<()> {
    // First: an empty database has an id of its own.
    if mode == "restoring" {
        return Err(waits_for_restore());
    }
    if seen.cluster != now.cluster {
        return Err(Error::new(
            ErrorCode::PreconditionFailed,
            format!(
                "this workspace is a copy of cluster {}, and this is cluster {}; nothing was changed. Leave out what \
                 names the other one (--config, --name-server, HOLDFAST_CONFIG, HOLDFAST_NAME_SERVER), or \
                 `holdfast init` another directory for it",
                seen.cluster, now.cluster
            ),
        ));
    }
    if now.epoch < seen.epoch || now.version < seen.version {
        return Err(Error::unavailable(format!(
            "the cluster knows changes up to version {} (epoch {}), and this workspace has seen version {} (epoch {}): \
             its database was set back; nothing was changed. `holdfast restore` brings it forward",
            now.version, now.epoch, seen.version, seen.epoch
        )));
    }
    if now.epoch == seen.epoch
        && let (Some(known), Some(other)) = (seen.history, now.history)
        && known != other
    {
        return Err(Error::unavailable(format!(
            "the cluster is on another branch of its history ({other}) than this workspace has seen ({known}), without \
             a restore between them; nothing was changed. `holdfast report` says how it is"
        )));
    }
    if mode != "normal" && direction.is_some() {
        let way_out = match direction {
            Some(Direction::Pull) => "`holdfast export` copies files out all the same",
            _ => "`holdfast report` says why",
        };
        return Err(Error::new(
            ErrorCode::ReadOnly,
            format!("the cluster is {}; nothing was changed. {way_out}", mode.replace('_', "-")),
        ));
    }
    Ok(())
}

/// The cluster's standing with a workspace, during one command.
pub(super) struct Standing {
    control: PathBuf,
    seen: Sighting,
    direction: Option<Direction>,
}

impl Standing {
    /// Asks the cluster how it is, and refuses when its word cannot be taken.
    pub(super) async fn check(workspace: &Workspace, cluster: &Cluster, direction: Option<Direction>) -> Result<Self> {
        let status = cluster.names.status().await?;
        let now = Sighting::of(&status)?;
        let control = workspace.control();
        let seen = match read(&control)? {
            Some(seen) => seen,
            None => Sighting { version: first_version(workspace, cluster).await?, ..now.clone() },
        };
        judge(&seen, &now, &status.mode, direction)?;
        if status.mode != "normal" {
            let mode = status.mode.replace('_', "-");
            crate::cli::progress::say(&format!("holdfast: the cluster is {mode}; `holdfast report` says why"));
        }
        Ok(Self { control, seen: Sighting { version: now.version.max(seen.version), ..now }, direction })
    }

    /// Binds a new workspace.
    pub(super) async fn bind(workspace: &Workspace, cluster: &Cluster) -> Result<()> {
        write(&workspace.control(), &Sighting::of(&cluster.names.status().await?)?)
    }

    /// Asks again, after something was found missing there: only then it may be removed here.
    pub(super) async fn confirm(&self, cluster: &Cluster) -> Result<()> {
        let status = cluster.names.status().await?;
        judge(&self.seen, &Sighting::of(&status)?, &status.mode, self.direction)
            .and_then(|()| {
                // A restore in the middle of a listing: its parts are of two states.
                if status.details.is_some_and(|details| details.epoch == self.seen.epoch) {
                    Ok(())
                } else {
                    Err(Error::unavailable("it was restored"))
                }
            })
            .map_err(|error| error.context("the cluster changed while it was read, and nothing is removed here"))
    }

    /// Notes what was seen.
    pub(super) fn remember(&self) -> Result<()> {
        match read(&self.control)? {
            Some(known) if known == self.seen => Ok(()),
            _ => write(&self.control, &self.seen),
        }
    }
}

/// The highest version that the state of a workspace of an earlier version has.
async fn first_version(workspace: &Workspace, cluster: &Cluster) -> Result<Version> {
    let control = workspace.control();
    if state::is_empty(&control) {
        return Ok(0);
    }
    let known: Vec<_> = workspace.config.client.name_servers.iter().flat_map(|url| normal_base_url(url)).collect();
    if !cluster.names.urls().iter().any(|url| known.contains(url)) {
        return Err(Error::new(
            ErrorCode::PreconditionFailed,
            format!(
                "this workspace does not know yet which cluster it is a copy of, and these name servers are not those \
                 that {} names; nothing was changed. Run it once without --config, --name-server, HOLDFAST_CONFIG and \
                 HOLDFAST_NAME_SERVER, or `holdfast init` another directory",
                workspace.config_file().display()
            ),
        ));
    }
    let mut records = state::read(&control, "")?;
    let mut highest = 0;
    while let Some(record) = records.next().await? {
        highest = highest.max(record.is.map_or(0, |known| known.version));
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::workspace::sighting::{FILE, raise};

    const CLUSTER: uuid::Uuid = uuid::Uuid::from_u128(1);
    const OTHER: uuid::Uuid = uuid::Uuid::from_u128(2);

    fn sighting(cluster: uuid::Uuid, history: u128, epoch: i64, version: Version) -> Sighting {
        Sighting { cluster, history: Some(uuid::Uuid::from_u128(history)), epoch, version }
    }

    #[test]
    fn whose_word_is_taken() {
        let seen = sighting(CLUSTER, 10, 3, 100);
        let unknown = Sighting { history: None, ..seen.clone() };
        let (push, pull) = (Some(Direction::Push), Some(Direction::Pull));
        for (seen, now, mode, direction, refused) in [
            (&seen, sighting(CLUSTER, 10, 3, 100), "normal", pull, None),
            (&seen, sighting(CLUSTER, 10, 3, 999), "normal", push, None),
            // After a restore.
            (&seen, sighting(CLUSTER, 11, 4, 9_000), "normal", pull, None),
            (&unknown, sighting(CLUSTER, 11, 3, 100), "normal", pull, None),
            (&seen, sighting(OTHER, 10, 3, 999), "normal", pull, Some(ErrorCode::PreconditionFailed)),
            (&seen, sighting(OTHER, 10, 3, 999), "normal", None, Some(ErrorCode::PreconditionFailed)),
            // A backup that was put back.
            (&seen, sighting(CLUSTER, 10, 3, 99), "normal", pull, Some(ErrorCode::Unavailable)),
            (&seen, sighting(CLUSTER, 10, 2, 999), "normal", push, Some(ErrorCode::Unavailable)),
            (&seen, sighting(CLUSTER, 10, 3, 99), "read_only", None, Some(ErrorCode::Unavailable)),
            // Another branch, without a restore.
            (&seen, sighting(CLUSTER, 11, 3, 999), "normal", pull, Some(ErrorCode::Unavailable)),
            (&seen, sighting(CLUSTER, 10, 3, 100), "restoring", None, Some(ErrorCode::Unavailable)),
            (&seen, sighting(CLUSTER, 11, 4, 0), "restoring", push, Some(ErrorCode::Unavailable)),
            (&seen, sighting(CLUSTER, 10, 3, 100), "read_only", pull, Some(ErrorCode::ReadOnly)),
            (&seen, sighting(CLUSTER, 10, 3, 100), "read_only", None, None),
        ] {
            let judged = judge(seen, &now, mode, direction);
            assert_eq!(judged.as_ref().err().map(Error::code), refused, "{now:?} {mode} {direction:?}: {judged:?}");
            assert!(judged.err().is_none_or(|error| error.message().contains("nothing was changed")));
        }
    }

    #[test]
    fn the_highest_version_only_rises() {
        let directory = tempfile::tempdir().unwrap();
        raise(directory.path(), 7).unwrap();
        assert_eq!(read(directory.path()).unwrap(), None, "an unbound workspace is not bound by a number");
        write(directory.path(), &sighting(CLUSTER, 10, 3, 100)).unwrap();
        for (version, want) in [(50, 100), (200, 200), (150, 200)] {
            raise(directory.path(), version).unwrap();
            assert_eq!(read(directory.path()).unwrap().unwrap().version, want);
        }
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(read(directory.path()).unwrap_err().message().contains("remove it"));
    }
}
