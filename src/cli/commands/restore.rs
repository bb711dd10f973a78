//! `restore`: the metadata brought back from the storage servers.

use std::time::Duration;

use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_count, human_time_or};
use crate::cli::progress::StatusLine;
use crate::client::NameServerClient;
use crate::types::api::{RestoreRequest, RestoreStatus};
use crate::types::{Error, ErrorCode, Result};

/// How often it is asked how far it is.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// `holdfast restore`.
pub(crate) async fn run(context: &Context, args: &RestoreArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    let mut output = context.output();
    if args.abort {
        return abort(context, &names).await;
    }
    let status = if args.status {
        names.restore_status().await?
    } else {
        let request = RestoreRequest {
            without: args.without.clone(),
            accept_gap: args.accept_gap,
            replicas: args.replicas,
            force: args.force,
        };
        let mut line = StatusLine::new(context.args.quiet || context.json());
        restore(&names, &request, &mut line).await?
    };
    if context.json() {
        output.json(&status)?;
        output.flush()?;
        return Ok(exit(&status));
    }
    print(&mut output, &status)?;
    output.flush()?;
    match (status.state.as_str(), &status.error) {
        ("failed", Some(error)) => Err(Error::new(ErrorCode::Internal, format!("the restore failed: {error}"))),
        ("failed", None) => Err(Error::new(ErrorCode::Internal, "the restore failed; the name server's log says why")),
        _ => Ok(exit(&status)),
    }
}

async fn abort(context: &Context, names: &NameServerClient) -> Result<Exit> {
    let status = names.restore_abort().await?;
    let mut output = context.output();
    if context.json() {
        output.json(&status)?;
    } else {
        let mode = status.before.map_or_else(|| "as before".into(), |before| before.mode.replace('_', "-"));
        output.line(format_args!("The restore was taken back; the cluster's mode is {mode} again."))?;
    }
    output.flush()?;
    Ok(Exit::Done)
}

/// Starts a restore, unless one is under way already, and follows it to its end.
pub(crate) async fn restore(
    names: &NameServerClient,
    request: &RestoreRequest,
    line: &mut StatusLine,
) -> Result<RestoreStatus> {
    let mut status = match names.restore_start(request).await {
        // One is under way already, most likely because this command was interrupted.
        Err(error) if error.code() == ErrorCode::Busy => names.restore_status().await?,
        outcome => outcome?,
    };
    while status.state == "running" {
        if !status.step.is_empty() {
            line.show(&format!("restoring: {}", status.step));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        status = names.restore_status().await?;
    }
    Ok(status)
}

/// Doubts and conflicts wait for a person and are no failure; a loss is.
pub(crate) fn exit(status: &RestoreStatus) -> Exit {
    match status.state.as_str() {
        "failed" => Exit::Failed,
        _ if status.losses_total > 0 || !status.losses.is_empty() => Exit::Partly,
        _ => Exit::Done,
    }
}

fn print(output: &mut Output, status: &RestoreStatus) -> Result<()> {
    let source = match status.source.as_str() {
        "journal" => format!("from the copies of the journal, up to version {}", status.journal_version),
        "forward" => format!("brought forward by the copies of the journal, up to version {}", status.journal_version),
        "labels" => "from the labels of the copies: no journal was left".to_string(),
        other => other.to_string(),
    };
    output.line(match status.state.as_str() {
        "none" => "No restore was ever started.".to_string(),
        "running" => format!("A restore is running: {}", status.step),
        "failed" => format!("The restore failed at: {}", status.step),
        _ => format!("The metadata is restored, {source}."),
    })?;
    if status.state == "none" {
        return Ok(());
    }
    let without = if status.without.is_empty() { "none".into() } else { status.without.join(", ") };
    for (name, value) in [
        ("started", human_time_or(status.started.as_ref(), "-")),
        ("ended", human_time_or(status.ended.as_ref(), "not yet")),
        ("servers", status.servers.join(", ")),
        ("left out", without),
        ("files", human_count(status.files)),
        ("directories", human_count(status.directories)),
        ("copies", human_count(status.replicas)),
        ("after the journal", human_count(status.tail)),
        ("epoch", status.epoch.to_string()),
    ] {
        let value = output.name(&value).into_owned();
        output.line(format_args!("{name:<17} {value}"))?;
    }
    for note in &status.notes {
        let note = output.name(note).into_owned();
        output.line("")?;
        output.line(note)?;
    }
    for (what, list, total) in [
        ("lost: changes that are not back, and files of which no copy was found", &status.losses, status.losses_total),
        ("in conflict: of these there were several versions", &status.conflicts, status.conflicts_total),
        ("in doubt: copies whose commit nobody has heard of; they are kept aside", &status.doubts, status.doubts_total),
    ] {
        if list.is_empty() {
            continue;
        }
        output.line("")?;
        output.line(format_args!("{} {what}", human_count(total.max(list.len() as u64))))?;
        for item in list {
            let item = output.name(item).into_owned();
            output.line(format_args!("- {item}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_and_failures_show_in_the_exit_code() {
        let with = |state: &str, losses, conflicts, doubts| RestoreStatus {
            state: state.into(),
            losses_total: losses,
            conflicts_total: conflicts,
            doubts_total: doubts,
            ..RestoreStatus::default()
        };
        for (status, want) in [
            (with("done", 0, 0, 0), Exit::Done),
            (with("done", 0, 2, 3), Exit::Done),
            (with("done", 1, 0, 0), Exit::Partly),
            (with("failed", 0, 0, 0), Exit::Failed),
            (with("none", 0, 0, 0), Exit::Done),
        ] {
            assert_eq!(exit(&status), want, "{status:?}");
        }
    }
}
