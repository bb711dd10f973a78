//! `holdfast status`: what changed here, there and on both sides.

use super::rows::{Rows, What};
use crate::cli::args::StatusArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::progress::{Progress, Tally};
use crate::types::Result;

/// `holdfast status`.
pub(crate) async fn run(context: &Context, args: &StatusArgs) -> Result<Exit> {
    let workspace = context.need_workspace()?;
    let cluster = context.cluster()?;
    let tally = Tally::new(Progress::hidden());
    let mut output = context.output();
    let mut clean = true;
    for scope in workspace.scopes(&args.paths)? {
        let mut rows = Rows::open(workspace, &cluster, What::within(&scope), tally.clone()).await?;
        while let Some(row) = rows.next().await? {
            let path = row.path.clone();
            let seen = match row.look(&workspace.root).await {
                Ok(seen) => seen,
                Err(error) => {
                    tally.failed(&path, &error);
                    continue;
                }
            };
            let Some(status) = seen.status() else { continue };
            clean = false;
            if context.json() {
                output.array_item(&serde_json::json!({ "path": path, "status": status }))?;
            } else {
                let name = output.name(&path).into_owned();
                output.line(format_args!("{status:<16} {name}"))?;
            }
        }
    }
    if context.json() {
        output.array_end()?;
    }
    output.flush()?;
    let counts = tally.counts();
    if clean && counts.failed == 0 {
        let remote = &workspace.config.remote;
        Progress::new("", context.args.quiet || context.json()).mention(&format!("the same as {remote}"));
    }
    Ok(if counts.failed > 0 { Exit::Partly } else { Exit::Done })
}
