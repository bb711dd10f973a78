//! Push and pull: going through the rows and carrying out what one side has to do.
//!
//! Files travel in parallel. Directories are made as the walk meets them. Removing a directory, and replacing
//! one by a file, waits until all that was below it has been dealt with; if anything is left in it then, for
//! instance a conflict, it stays. What goes here because the cluster has it no more waits too: only a cluster that
//! is still the one that it was, asked after the listing was read, can say that something is gone ([`Standing`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::decide::{Decider, Decision, Direction, Verdict};
use super::place::Workspace;
use super::preview;
use super::rows::{Local, Row, Rows, Seen, What};
use super::run::{Ready, Shared, Sync, TWIN, check_met, conflict_below, reason, what};
use super::standing::Standing;
use super::state::{self, Known, StateWriter};
use crate::cli::args::SyncArgs;
use crate::cli::context::{Cluster, Context};
use crate::cli::exit::Exit;
use crate::cli::merge::is_within;
use crate::cli::output::human_counted;
use crate::cli::parallel::Pool;
use crate::cli::progress::Tally;
use crate::types::api::Kind;
use crate::types::{DfsPath, Error, Result};

/// Files that wait to be removed here.
const REMOVALS_MAX: usize = 512;

impl Direction {
    fn verb(self) -> &'static str {
        match self {
            Self::Push => "sent",
            Self::Pull => "fetched",
        }
    }
}

/// `holdfast push` and `holdfast pull`.
pub(crate) async fn run(context: &Context, args: &SyncArgs, direction: Direction) -> Result<Exit> {
    let workspace = context.need_workspace()?;
    let cluster = context.cluster()?;
    let scopes = workspace.scopes(&args.paths)?;
    let standing = Standing::check(workspace, &cluster, Some(direction)).await?;
    prepare_remote(workspace, &cluster, direction, args.dry_run).await?;
    let tally = context.tally(direction.verb());
    if args.dry_run {
        return preview::run(context, args, direction, &scopes, &tally).await;
    }
    let control = workspace.control();
    // The first pull fetches nearly everything: the listing may bring the tickets along.
    let locations = direction == Direction::Pull && state::is_empty(&control);
    let state = StateWriter::open(&control, (direction == Direction::Pull).then(|| workspace.dir.clone()))?;
    let workspace = &workspace.clone().with_clock();
    standing.remember()?;
    mention_aside(workspace, &tally);
    let shared = Arc::new(Shared {
        cluster,
        dir: workspace.dir.clone(),
        remote: workspace.config.remote.clone(),
        direction,
        state,
        tally: tally.clone(),
        left: AtomicU64::new(0),
    });
    let mut sync = Sync {
        shared: shared.clone(),
        pool: Pool::new(context.jobs(), tally.clone()),
        standing,
        decider: Decider::new(Some(direction), args.force),
        deferred: Vec::new(),
        removals: Vec::new(),
        blocked: None,
        again: Vec::new(),
        open: Vec::new(),
    };
    let mut done = Ok(());
    for scope in scopes {
        done = sync.scope(workspace, What { locations, ..what(args, direction, &scope) }).await;
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
    if counts.conflicts > 0 {
        tally.progress.mention(
            "conflicts: `holdfast push --force PATH` keeps what is here, `holdfast pull --force PATH` takes what the \
             cluster has",
        );
    }
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

/// Earlier versions took files away into the control directory; a killed run may have left one there.
fn mention_aside(workspace: &Workspace, tally: &Tally) {
    let aside = workspace.aside();
    let count = std::fs::read_dir(&aside).map_or(0, Iterator::count);
    if count > 0 {
        let shown = aside.display();
        tally.progress.mention(&format!(
            "holdfast: {shown} holds {} that a killed run of an earlier version was removing or replacing; look whether \
             you need that, and remove it",
            human_counted(count as u64, "file")
        ));
    }
}

impl Sync {
    async fn scope(&mut self, workspace: &Workspace, what: What) -> Result<()> {
        self.pass(workspace, what.clone()).await?;
        for path in std::mem::take(&mut self.again) {
            self.decider = Decider::forced(self.shared.direction, &path);
            self.pass(workspace, What { scope: path, ..what.clone() }).await?;
        }
        Ok(())
    }

    async fn pass(&mut self, workspace: &Workspace, what: What) -> Result<()> {
        let scope = what.scope.clone();
        self.blocked = None;
        let mut rows = Rows::open(workspace, &self.shared.cluster, what, self.shared.tally.clone()).await?;
        while let Some(row) = rows.next().await? {
            self.step(row).await?;
        }
        check_met(&rows, &scope)?;
        self.shared.tally.progress.expect_no_more();
        self.pool.drain().await;
        self.remove_here().await?;
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
        let path = row.path.clone();
        if self.blocked.as_ref().is_some_and(|blocked| is_within(&path, blocked)) {
            return Ok(());
        }
        if row.needs_hash() && !row.has_directory() && !self.decider.is_in_collision(&path) {
            return self.file_in_parallel(row).await;
        }
        let seen = match row.look(&self.shared.dir).await {
            Ok(seen) => seen,
            Err(error) => {
                self.shared.tally.failed(&path, &error);
                return Ok(());
            }
        };
        match self.decider.decide(&path, seen.contents()) {
            Verdict::Is(decision) => self.act(seen, decision).await,
            verdict => {
                self.shared.pass_over(&path, &verdict);
                if let Verdict::Again(path) = verdict
                    && !self.again.contains(&path)
                {
                    self.again.push(path);
                }
                Ok(())
            }
        }
    }

    async fn act(&mut self, seen: Seen, decision: Decision) -> Result<()> {
        if decision != self.shared.direction.own() {
            return self.shared.clone().leave(seen, decision).await;
        }
        if Shared::removes_here(&seen, decision) && !matches!(seen.local, Some(Local::Directory)) {
            self.removals.push(seen);
            return if self.removals.len() < REMOVALS_MAX { Ok(()) } else { self.remove_here().await };
        }
        if self.shared.direction == Direction::Push && seen.has_twin {
            self.shared.tally.skipped(&seen.path, TWIN);
            self.blocked = Some(seen.path);
            return Ok(());
        }
        let ours_is_directory = matches!(seen.local, Some(Local::Directory));
        let theirs_is_directory = seen.remote.as_ref().is_some_and(|entry| entry.kind == Kind::Directory);
        match (self.shared.direction, ours_is_directory, theirs_is_directory) {
            (Direction::Push, true, _) => self.make_remote_directory(seen).await,
            (Direction::Pull, _, true) => {
                let path = seen.path.clone();
                if !self.shared.make_local_directory(seen).await? {
                    self.blocked = Some(path);
                }
                Ok(())
            }
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

    /// Removes the files that wait for it, if the cluster that has them no more is still the one that it was.
    async fn remove_here(&mut self) -> Result<()> {
        let removes_directories =
            self.deferred.iter().any(|seen| Shared::removes_here(seen, self.shared.direction.own()));
        if self.removals.is_empty() && !removes_directories {
            return Ok(());
        }
        self.standing.confirm(&self.shared.cluster).await?;
        for seen in std::mem::take(&mut self.removals) {
            let path = seen.path.clone();
            if let Err(error) = self.shared.remove_local_file(seen).await {
                self.shared.tally.failed(&path, &error);
            }
        }
        Ok(())
    }

    /// A file whose digest decides: it is read, and if need be transferred, beside the others. It stands below no
    /// collision, and is none; so what was decided before does not matter.
    async fn file_in_parallel(&mut self, row: Row) -> Result<()> {
        if self.shared.direction == Direction::Pull && row.remote.is_none() {
            // Whether it goes is for the cluster to confirm.
            let path = row.path.clone();
            return match row.look(&self.shared.dir).await {
                Ok(seen) => match self.decider.decide(&path, seen.contents()) {
                    Verdict::Is(decision) => self.act(seen, decision).await,
                    _ => Ok(()),
                },
                Err(error) => {
                    self.shared.tally.failed(&path, &error);
                    Ok(())
                }
            };
        }
        let (shared, ready) = (self.shared.clone(), self.ready());
        let mut decider = self.decider.beside();
        let task = async move {
            let path = row.path.clone();
            let seen = match row.look(&shared.dir).await {
                Ok(seen) => seen,
                Err(error) => return shared.tally.failed(&path, &error),
            };
            let decision = match decider.decide(&path, seen.contents()) {
                Verdict::Is(decision) => decision,
                verdict => return shared.pass_over(&path, &verdict),
            };
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
    /// Says what has to be said of a path about which nothing is decided here.
    fn pass_over(&self, path: &str, verdict: &Verdict) {
        if let Verdict::ConflictBelow(above) = verdict {
            self.tally.conflict(path, &conflict_below(above));
        }
    }

    /// Does not transfer anything: both sides are the same, or it is for the other direction, or a conflict.
    async fn leave(self: Arc<Self>, seen: Seen, decision: Decision) -> Result<()> {
        match decision {
            // A push sends it again.
            Decision::Same
                if self.direction == Direction::Push && seen.is_lost(&self.cluster, &self.remote).await? =>
            {
                let path = seen.path.clone();
                self.push_file(seen, None)
                    .await
                    .map_err(|error| error.context(format!("{path} is lost in the cluster")))
            }
            Decision::Same => self.remember_same(seen).await,
            Decision::Conflict => {
                self.tally.conflict(&seen.path, &reason(&seen));
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
        let known = match (&seen.local, &seen.remote, &seen.read) {
            (Some(Local::Directory), Some(entry), _) => Some(Known::directory(entry.version)),
            (Some(Local::File(_)), Some(entry), Some(facts)) => {
                self.tally.unchanged();
                Some(Known::read(entry.version, facts))
            }
            (Some(Local::File(_)), Some(entry), None) => {
                self.tally.unchanged();
                seen.base.clone().map(|base| Known { version: entry.version, ..base })
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
        if self.direction == Direction::Push && seen.has_twin {
            return self.tally.skipped(&path, TWIN);
        }
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
