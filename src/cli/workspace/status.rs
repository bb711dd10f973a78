//! `holdfast status`: what changed here, there and on both sides.

use super::decide::{Content, Decider, Decision, Verdict, status_word};
use super::rows::{Rows, What};
use super::run::{check_met, conflict_below, reason};
use super::standing::Standing;
use crate::cli::args::StatusArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::progress::{Progress, Tally};
use crate::types::Result;

/// `holdfast status`.
pub(crate) async fn run(context: &Context, args: &StatusArgs) -> Result<Exit> {
    let workspace = context.need_workspace()?;
    let cluster = context.cluster()?;
    Standing::check(workspace, &cluster, None).await?;
    let tally = Tally::new(Progress::hidden());
    let mut output = context.output();
    let mut clean = true;
    for scope in workspace.scopes(&args.paths)? {
        let what = What { checksum: args.checksum, ..What::within(&scope) };
        let mut rows = Rows::open(workspace, &cluster, what, tally.clone()).await?;
        let mut decider = Decider::new(None, false);
        while let Some(row) = rows.next().await? {
            let path = row.path.clone();
            let seen = match row.look(&workspace.dir).await {
                Ok(seen) => seen,
                Err(error) => {
                    tally.failed(&path, &error);
                    continue;
                }
            };
            let [base, local, remote] = seen.contents();
            let word = match decider.decide(&path, [base, local, remote]) {
                Verdict::ConflictBelow(above) => {
                    tally.conflict(&path, &conflict_below(&above));
                    Some("conflict")
                }
                Verdict::Said | Verdict::Again(_) => None,
                Verdict::Is(Decision::Same) if seen.is_lost(&cluster, &workspace.config.remote).await? => {
                    Some("lost in the cluster")
                }
                Verdict::Is(_) => status_word(base, local, remote),
            };
            let Some(word) = word else { continue };
            clean = false;
            if local == Some(Content::Unfit) {
                tally.conflict(&path, &reason(&seen));
            }
            if context.json() {
                output.array_item(&serde_json::json!({ "path": path, "status": word }))?;
            } else {
                let name = output.name(&path).into_owned();
                output.line(format_args!("{word:<16} {name}"))?;
            }
        }
        check_met(&rows, &scope)?;
    }
    if context.json() {
        output.array_end()?;
    }
    output.flush()?;
    let counts = tally.counts();
    if clean && counts.failed == 0 {
        let remote = &workspace.config.remote;
        let but = if counts.skipped > 0 { ", but for what was skipped" } else { "" };
        Progress::new("", context.args.quiet || context.json()).mention(&format!("the same as {remote}{but}"));
    }
    Ok(if counts.failed > 0 { Exit::Partly } else { Exit::Done })
}
