//! `--dry-run`: the decisions of a push or pull, without carrying them out.

use std::sync::Arc;

use super::decide::{Decider, Decision, Direction, Verdict};
use super::rows::{Rows, Seen};
use super::run::{TWIN, check_met, what};
use crate::cli::args::SyncArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::host::HostDir;
use crate::cli::output::Output;
use crate::cli::progress::Tally;
use crate::types::Result;

/// What is done about a row, in words.
fn action(direction: Direction, seen: &Seen) -> &'static str {
    match (direction, &seen.local, &seen.remote) {
        (Direction::Push, None, _) => "delete in the cluster",
        (Direction::Push, ..) => "send",
        (Direction::Pull, _, None) => "delete here",
        (Direction::Pull, ..) => "fetch",
    }
}

struct Preview<'a> {
    context: &'a Context,
    dir: &'a HostDir,
    tally: &'a Tally,
    direction: Direction,
    output: Output,
    conflicts: bool,
    /// Directories that force decides for as a whole.
    again: Vec<String>,
}

/// Says what would be done.
pub(super) async fn run(
    context: &Context,
    args: &SyncArgs,
    direction: Direction,
    scopes: &[String],
    tally: &Arc<Tally>,
) -> Result<Exit> {
    let (workspace, cluster) = (context.need_workspace()?, context.cluster()?);
    let output = context.output();
    let dir = &workspace.dir;
    let mut preview = Preview { context, dir, tally, direction, output, conflicts: false, again: Vec::new() };
    let mut waiting: Vec<(String, Decider)> =
        scopes.iter().map(|scope| (scope.clone(), Decider::new(Some(direction), args.force))).collect();
    while !waiting.is_empty() {
        for (scope, mut decider) in std::mem::take(&mut waiting) {
            let mut rows = Rows::open(workspace, &cluster, what(args, direction, &scope), tally.clone()).await?;
            while let Some(row) = rows.next().await? {
                let path = row.path.clone();
                match row.look(&workspace.dir).await {
                    Ok(seen) => {
                        let verdict = match decider.decide(&path, seen.contents()) {
                            Verdict::Is(Decision::Same)
                                if direction == Direction::Push
                                    && seen.is_lost(&cluster, &workspace.config.remote).await? =>
                            {
                                Verdict::Is(Decision::Outgoing)
                            }
                            verdict => verdict,
                        };
                        preview.tell(&seen, verdict)?;
                    }
                    Err(error) => tally.failed(&path, &error),
                }
            }
            check_met(&rows, &scope)?;
        }
        let again = std::mem::take(&mut preview.again);
        waiting.extend(again.into_iter().map(|path| (path.clone(), Decider::forced(direction, &path))));
    }
    if context.json() {
        preview.output.array_end()?;
    }
    preview.output.flush()?;
    tally.progress.finish();
    Ok(if preview.conflicts { Exit::Conflict } else { tally.exit() })
}

impl Preview<'_> {
    fn is_folded(&self, seen: &Seen) -> Result<bool> {
        Ok(seen.has_twin || (seen.local.is_none() && self.dir.at(seen.path.as_str()).look()?.is_some()))
    }

    fn tell(&mut self, seen: &Seen, verdict: Verdict) -> Result<()> {
        let action = match verdict {
            Verdict::Is(Decision::Conflict) | Verdict::ConflictBelow(_) => {
                self.conflicts = true;
                "conflict"
            }
            // The file system here cannot tell it from another name.
            Verdict::Is(Decision::Outgoing) if self.direction == Direction::Push && self.is_folded(seen)? => {
                self.tally.skipped(&seen.path, TWIN);
                return Ok(());
            }
            Verdict::Is(decision) if decision == self.direction.own() => action(self.direction, seen),
            Verdict::Is(_) | Verdict::Said => return Ok(()),
            Verdict::Again(path) => {
                if !self.again.contains(&path) {
                    self.again.push(path);
                }
                return Ok(());
            }
        };
        if self.context.json() {
            return self.output.array_item(&serde_json::json!({ "path": seen.path, "action": action }));
        }
        let name = self.output.name(&seen.path).into_owned();
        self.output.line(format_args!("{action}: {name}"))
    }
}
