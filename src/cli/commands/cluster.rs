//! `actors`: what the cluster does.

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::human_ago_or;
use crate::types::Result;

/// `holdfast actors`.
pub(crate) async fn actors(context: &Context) -> Result<Exit> {
    let answer = context.cluster()?.names.actors().await?;
    let mut output = context.output();
    if context.json() {
        output.json(&answer.actors)?;
    } else {
        let rows = answer.actors.into_iter().map(|actor| {
            let took = actor.last_pass_seconds.map_or_else(|| "-".into(), |seconds| format!("{seconds:.3} s"));
            let trouble = actor.last_panic.map(|panic| format!("panic: {panic}")).or(actor.last_error);
            vec![
                actor.name,
                actor.state,
                human_ago_or(actor.last_pass.as_ref(), "never"),
                took,
                actor.restarts.to_string(),
                actor.last_report.unwrap_or_default(),
                trouble.unwrap_or_default(),
            ]
        });
        let rows = rows.collect();
        output.table(&["ACTOR", "STATE", "LAST PASS", "TOOK", "RESTARTS", "DID", "TROUBLE"], rows)?;
    }
    output.flush()?;
    Ok(Exit::Done)
}
