//! Push and pull: going through the rows and carrying out what one side has to do.
//!
//! Files travel in parallel. Directories are made as the walk meets them. Removing a directory, and replacing
//! one by a file, waits until all that was below it has been dealt with; if anything is left in it then, for
//! instance a conflict, it stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures_util::future::{BoxFuture, Shared as SharedFuture};

use super::Workspace;
use super::decide::{Decision, conflict_reason, decide};
use super::rows::{Local, Row, Rows, Seen, What};
use super::state::{self, Known, StateWriter};
use crate::cli::args::SyncArgs;
use crate::cli::context::{Cluster, Context};
use crate::cli::exit::Exit;
use crate::cli::merge::is_within;
use crate::cli::parallel::Pool;
use crate::cli::progress::Tally;
use crate::types::api::Kind;
use crate::types::{DfsPath, Error, Result, Version};

/// Which way changes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Push,
    Pull,
}

impl Direction {
    fn verb(self) -> &'static str {
        match self {
            Self::Push => "sent",
            Self::Pull => "fetched",
        }
    }

    /// The decision that this direction carries out.
    fn own(self) -> Decision {
        match self {
            Self::Push => Decision::Outgoing,
            Self::Pull => Decision::Incoming,
        }
    }

    /// What is done about a row, in words.
    fn action(self, seen: &Seen) -> &'static str {
        match (self, &seen.local, &seen.remote) {
            (Self::Push, None, _) => "delete in the cluster",
            (Self::Push, ..) => "send",
            (Self::Pull, _, None) => "delete here",
            (Self::Pull, ..) => "fetch",
        }
    }
}

/// Resolves when a remote directory is there, with its version.
pub(super) type Ready = SharedFuture<BoxFuture<'static, Result<Version>>>;

/// What the transfers of a run share.
pub(super) struct Shared {
    pub(super) cluster: Cluster,
    pub(super) root: PathBuf,
    pub(super) aside: PathBuf,
    pub(super) remote: DfsPath,
    pub(super) direction: Direction,
    pub(super) force: bool,
    pub(super) state: StateWriter,
    pub(super) tally: Arc<Tally>,
    /// Changes that only the other direction can carry out.
    left: AtomicU64,
}

/// One push or pull.
pub(super) struct Sync {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    /// Directories that go, or give way to a file, when the rest is done.
    pub(super) deferred: Vec<Seen>,
    /// Directories that are being made in the cluster and that the walk is in, outermost first.
    pub(super) open: Vec<(String, Ready)>,
    /// A directory in conflict with a file, below which one side wins as a whole.
    forced: Option<String>,
}

/// `holdfast push` and `holdfast pull`.
pub(crate) async fn run(context: &Context, args: &SyncArgs, direction: Direction) -> Result<Exit> {
    let workspace = context.need_workspace()?;
    let cluster = context.cluster()?;
    let scopes = workspace.scopes(&args.paths)?;
    prepare_remote(workspace, &cluster, direction, args.dry_run).await?;
    let tally = context.tally(direction.verb());
    if args.dry_run {
        return preview(context, args, direction, &scopes, &tally).await;
    }
    let control = workspace.control();
    // The first pull fetches nearly everything: the listing may bring the tickets along.
    let locations = direction == Direction::Pull && state::is_empty(&control);
    let state = StateWriter::open(&control, (direction == Direction::Pull).then(|| workspace.root.clone()))?;
    let shared = Arc::new(Shared {
        cluster,
        root: workspace.root.clone(),
        aside: workspace.aside(),
        remote: workspace.config.remote.clone(),
        direction,
        force: args.force,
        state,
        tally: tally.clone(),
        left: AtomicU64::new(0),
    });
    let pool = Pool::new(context.jobs(), tally.clone());
    let mut sync = Sync { shared: shared.clone(), pool, deferred: Vec::new(), open: Vec::new(), forced: None };
    let mut done = Ok(());
    for scope in scopes {
        done = sync.scope(workspace, What { locations, ..What::within(&scope) }).await;
        if done.is_err() {
            break;
        }
    }
    sync.pool.drain().await;
    // What was done is remembered even when the rest failed.
    let finished = shared.state.finish().await;
    let counts = tally.summary(direction.verb());
    done.and(finished)?;
    shared.mention_left();
    if context.json() {
        let mut output = context.output();
        output.json(&counts)?;
        output.flush()?;
    }
    Ok(tally.exit())
}

/// A push makes the remote directory; a pull must not take its absence for the deletion of everything.
async fn prepare_remote(workspace: &Workspace, cluster: &Cluster, direction: Direction, dry_run: bool) -> Result<()> {
    let remote = &workspace.config.remote;
    if remote.is_root() || cluster.stat(remote).await?.is_some() {
        return Ok(());
    }
    match direction {
        Direction::Push if dry_run => Ok(()),
        Direction::Push => cluster.names.mkdir(remote, true).await.map(|_| ()),
        Direction::Pull if state::is_empty(&workspace.control()) => {
            Err(Error::not_found(format!("the remote directory {remote} does not exist; `holdfast push` makes it")))
        }
        Direction::Pull => Err(Error::not_found(format!(
            "the remote directory {remote} is gone; nothing is deleted here because of that. If it was moved, `holdfast \
             init` a new workspace for it; `holdfast push` makes it anew"
        ))),
    }
}

/// Says what would be done.
async fn preview(
    context: &Context,
    args: &SyncArgs,
    direction: Direction,
    scopes: &[String],
    tally: &Arc<Tally>,
) -> Result<Exit> {
    let workspace = context.need_workspace()?;
    let cluster = context.cluster()?;
    let mut output = context.output();
    let mut conflicts = false;
    let mut forced = None;
    for scope in scopes {
        let mut rows = Rows::open(workspace, &cluster, What::within(scope), tally.clone()).await?;
        while let Some(row) = rows.next().await? {
            let path = row.path.clone();
            let seen = match row.look(&workspace.root).await {
                Ok(seen) => seen,
                Err(error) => {
                    tally.failed(&path, &error);
                    continue;
                }
            };
            let decision = decided(&seen, direction, args.force, &mut forced);
            let action = if decision == Decision::Conflict {
                conflicts = true;
                "conflict"
            } else if decision == direction.own() {
                direction.action(&seen)
            } else {
                continue;
            };
            if context.json() {
                output.array_item(&serde_json::json!({ "path": seen.path, "action": action }))?;
            } else {
                let name = output.name(&seen.path).into_owned();
                output.line(format_args!("{action}: {name}"))?;
            }
        }
    }
    if context.json() {
        output.array_end()?;
    }
    output.flush()?;
    tally.progress.finish();
    Ok(if conflicts { Exit::Conflict } else { tally.exit() })
}

/// Decides about a row. With force the direction's own side wins every conflict; when a directory and a file
/// were in conflict, it wins below that path too.
fn decided(seen: &Seen, direction: Direction, force: bool, forced: &mut Option<String>) -> Decision {
    let [base, local, remote] = seen.contents();
    let decision = decide(base, local, remote);
    if !force || decision == Decision::Same {
        return decision;
    }
    if forced.as_ref().is_some_and(|forced| is_within(&seen.path, forced)) {
        return direction.own();
    }
    if decision == Decision::Conflict {
        let has_directory = [local, remote].contains(&Some(super::decide::Content::Directory));
        if has_directory {
            *forced = Some(seen.path.clone());
        }
        return direction.own();
    }
    decision
}

impl Sync {
    async fn scope(&mut self, workspace: &Workspace, what: What) -> Result<()> {
        let mut rows = Rows::open(workspace, &self.shared.cluster, what, self.shared.tally.clone()).await?;
        while let Some(row) = rows.next().await? {
            self.step(row).await?;
        }
        self.shared.tally.progress.expect_no_more();
        self.pool.drain().await;
        // Deeper directories come later in a walk, and go first.
        while let Some(seen) = self.deferred.pop() {
            match self.shared.direction {
                Direction::Push => self.shared.remove_remote_directory(seen).await,
                Direction::Pull => self.shared.remove_local_directory(seen).await,
            }
            self.shared.tally.check_hope()?;
        }
        Ok(())
    }

    async fn step(&mut self, row: Row) -> Result<()> {
        while self.open.last().is_some_and(|(directory, _)| !is_within(&row.path, directory)) {
            self.open.pop();
        }
        if row.needs_hash() && !row.has_directory() {
            return self.file_in_parallel(row).await;
        }
        let path = row.path.clone();
        let seen = match row.look(&self.shared.root).await {
            Ok(seen) => seen,
            Err(error) => {
                self.shared.tally.failed(&path, &error);
                return Ok(());
            }
        };
        let decision = decided(&seen, self.shared.direction, self.shared.force, &mut self.forced);
        if decision != self.shared.direction.own() {
            return self.shared.clone().leave(seen, decision).await;
        }
        let ours_is_directory = matches!(seen.local, Some(Local::Directory));
        let theirs_is_directory = seen.remote.as_ref().is_some_and(|entry| entry.kind == Kind::Directory);
        match (self.shared.direction, ours_is_directory, theirs_is_directory) {
            (Direction::Push, true, _) => self.make_remote_directory(seen).await,
            (Direction::Pull, _, true) => self.shared.make_local_directory(seen).await,
            (_, false, false) => {
                let (shared, ready) = (self.shared.clone(), self.ready());
                self.pool.run(async move { shared.carry_out(seen, ready).await }).await
            }
            _ => {
                self.deferred.push(seen);
                Ok(())
            }
        }
    }

    /// A file whose digest decides: it is read, and if need be transferred, beside the others.
    async fn file_in_parallel(&mut self, row: Row) -> Result<()> {
        let (shared, ready) = (self.shared.clone(), self.ready());
        let mut forced = self.forced.clone();
        let task = async move {
            let path = row.path.clone();
            let seen = match row.look(&shared.root).await {
                Ok(seen) => seen,
                Err(error) => return shared.tally.failed(&path, &error),
            };
            let decision = decided(&seen, shared.direction, shared.force, &mut forced);
            if decision == shared.direction.own() {
                shared.carry_out(seen, ready).await;
            } else if let Err(error) = shared.clone().leave(seen, decision).await {
                shared.tally.failed(&path, &error);
            }
        };
        self.pool.run(task).await
    }

    fn ready(&self) -> Option<Ready> {
        self.open.last().map(|(_, ready)| ready.clone())
    }
}

impl Shared {
    /// Does not transfer anything: both sides are the same, or it is for the other direction, or a conflict.
    async fn leave(self: Arc<Self>, seen: Seen, decision: Decision) -> Result<()> {
        match decision {
            Decision::Same => self.remember_same(seen).await,
            Decision::Conflict => {
                let [base, local, remote] = seen.contents();
                self.tally.conflict(&seen.path, conflict_reason(base, local, remote));
                Ok(())
            }
            _ => {
                self.left.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    }

    /// Notes what both sides have, unless that is known.
    async fn remember_same(&self, seen: Seen) -> Result<()> {
        let known = match (&seen.local, &seen.remote, seen.local_sha256) {
            (Some(Local::Directory), Some(entry), _) => Some(Known::directory(entry.version)),
            (Some(Local::File(stat)), Some(entry), Some(sha256)) => {
                self.tally.unchanged();
                Some(Known::file(entry.version, *stat, sha256))
            }
            _ => None,
        };
        let is_directory = known.as_ref().is_some_and(|known| known.kind == Kind::Directory);
        let was_directory = seen.base.as_ref().is_some_and(|base| base.kind == Kind::Directory);
        // A directory's version changes for reasons that do not matter here.
        if known == seen.base || (is_directory && was_directory) {
            return Ok(());
        }
        self.state.record(&seen.path, known).await
    }

    /// Transfers, or removes, one file, and reports the outcome.
    async fn carry_out(&self, seen: Seen, ready: Option<Ready>) {
        let path = seen.path.clone();
        let outcome = match self.direction {
            Direction::Push => self.push_file(seen, ready).await,
            Direction::Pull => self.pull_file(seen).await,
        };
        if let Err(error) = outcome {
            self.tally.failed(&path, &error);
        }
    }

    fn mention_left(&self) {
        let left = self.left.load(Relaxed);
        if left > 0 {
            let (what, other) = match self.direction {
                Direction::Push => ("in the cluster", "pull"),
                Direction::Pull => ("here", "push"),
            };
            let plural = if left == 1 { "change" } else { "changes" };
            self.tally.progress.mention(&format!("{left} {plural} {what} left to `holdfast {other}`"));
        }
    }

    /// The remote path of a row.
    pub(super) fn remote_path(&self, relative: &str) -> Result<DfsPath> {
        self.remote.join_relative(relative)
    }
}
