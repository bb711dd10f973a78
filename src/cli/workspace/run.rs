//! What the parts of a push or pull share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::future::{BoxFuture, Shared as SharedFuture};

use super::decide::{Decider, Direction, conflict_reason};
use super::rows::{Local, Rows, Seen, What};
use super::standing::Standing;
use super::state::StateWriter;
use crate::cli::args::SyncArgs;
use crate::cli::context::Cluster;
use crate::cli::host::HostDir;
use crate::cli::parallel::Pool;
use crate::cli::progress::Tally;
use crate::types::{DfsPath, Error, Result, Version};

/// Said of a name that a folding file system shows under another one, or not at all.
pub(super) const TWIN: &str = "this file system takes it and another name for one; it is neither sent nor deleted";

/// Resolves when a remote directory is there, with its version.
pub(super) type Ready = SharedFuture<BoxFuture<'static, Result<Version>>>;

/// What the transfers of a run share.
pub(super) struct Shared {
    pub(super) cluster: Cluster,
    /// The workspace's host directory.
    pub(super) dir: HostDir,
    pub(super) remote: DfsPath,
    pub(super) direction: Direction,
    pub(super) state: StateWriter,
    pub(super) tally: Arc<Tally>,
    /// Changes that only the other direction can carry out.
    pub(super) left: AtomicU64,
}

/// One push or pull.
pub(super) struct Sync {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    pub(super) standing: Standing,
    pub(super) decider: Decider,
    /// Directories that go, or give way to a file, when the rest is done.
    pub(super) deferred: Vec<Seen>,
    /// Files that go here because the cluster has them no more.
    pub(super) removals: Vec<Seen>,
    /// A directory that could not be made here, or is not to be touched: what is below it is left alone.
    pub(super) blocked: Option<String>,
    /// Directories that are gone through again, because force decides for all of them.
    pub(super) again: Vec<String>,
    /// Directories that are being made in the cluster and that the walk is in, outermost first.
    pub(super) open: Vec<(String, Ready)>,
}

/// What a run goes through.
pub(super) fn what(args: &SyncArgs, direction: Direction, scope: &str) -> What {
    What {
        checksum: args.checksum,
        through_unfit: args.force && direction == Direction::Pull,
        sweeps: !args.dry_run,
        ..What::within(scope)
    }
}

/// A path that was typed and is nowhere.
pub(super) fn check_met(rows: &Rows, scope: &str) -> Result<()> {
    if scope.is_empty() || rows.met_something() {
        return Ok(());
    }
    Err(Error::not_found(format!("{scope} is neither here nor in the cluster")))
}

/// Why a row is a conflict.
pub(super) fn reason(seen: &Seen) -> String {
    let [base, local, remote] = seen.contents();
    let why = conflict_reason(base, local, remote);
    match seen.local {
        Some(Local::Unfit(what, _)) => format!(
            "it is {what} here: {why}; `holdfast pull --force` puts the cluster's in its place, a push never sends it"
        ),
        _ => why.into(),
    }
}

/// Why a path below another one is a conflict.
pub(super) fn conflict_below(above: &str) -> String {
    format!("it was changed on the one side, and on the other {above} is a file now")
}
