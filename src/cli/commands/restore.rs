//! `restore`: the metadata brought back from the storage servers.

use std::time::Duration;

use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_bytes, human_count, human_span, human_time_or};
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
        let mode = status.before.map_or_else(|| "as before".into(), |before| before.mode.word().replace('_', "-"));
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
            line.show(&format!("restoring: {}", how_far(&status)));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        status = names.restore_status().await?;
    }
    Ok(status)
}

/// The step, how much of it is done and how long it will take.
fn how_far(status: &RestoreStatus) -> String {
    let step = &status.step;
    let Some(progress) = status.progress.as_ref().filter(|progress| progress.total > 0) else { return step.clone() };
    let (done, total) = match progress.unit.as_str() {
        "bytes" => (human_bytes(progress.done), human_bytes(progress.total)),
        unit => (human_count(progress.done), format!("{} {unit}", human_count(progress.total))),
    };
    let left =
        progress.seconds_left.map_or_else(String::new, |left| format!(", about {} left", human_span(left as f64)));
    format!("{step}: {done} of {total}{left}")
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
        "running" => format!("A restore is running: {}", how_far(status)),
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
    use crate::types::api::RestoreProgress;

    #[test]
    fn it_says_how_far_it_is() {
        let at = |unit: &str, done, total, seconds_left| RestoreStatus {
            step: "writing".into(),
            progress: Some(RestoreProgress { unit: unit.into(), done, total, seconds_left }),
            ..RestoreStatus::default()
        };
        for (status, want) in [
            (RestoreStatus { progress: None, ..at("rows", 0, 0, None) }, "writing"),
            (at("rows", 0, 0, None), "writing"),
            (at("rows", 120_000, 300_000, Some(75)), "writing: 120,000 of 300,000 rows, about 75 s left"),
            (at("rows", 0, 7, None), "writing: 0 of 7 rows"),
            (at("bytes", 1_024, 2_048, Some(3)), "writing: 1.0 KiB of 2.0 KiB, about 3 s left"),
        ] {
            assert_eq!(how_far(&status), want);
        }
    }

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
