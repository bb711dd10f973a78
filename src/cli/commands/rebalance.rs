//! `rebalance`: copies are moved until servers are filled evenly.

use std::time::Duration;

use crate::cli::args::RebalanceArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_bytes, human_counted, human_span, human_time_and_ago, percent};
use crate::cli::progress::StatusLine;
use crate::client::NameServerClient;
use crate::types::Result;
use crate::types::api::{RebalanceRequest, RebalanceServer, RebalanceStatus, WITHIN_PERCENT};

/// How often `--wait` looks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// `holdfast rebalance`.
pub(crate) async fn run(context: &Context, args: &RebalanceArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    let mut status = if args.status {
        names.rebalance_status().await?
    } else if args.stop {
        names.rebalance_stop().await?
    } else {
        let within_percent = args.within.unwrap_or(WITHIN_PERCENT);
        names.rebalance_start(&RebalanceRequest { within_percent, dry_run: args.dry_run }).await?
    };
    if args.wait {
        status = follow(context, &names, status).await?;
    }
    let mut output = context.output();
    if context.json() {
        output.json(&status)?;
    } else {
        print(&mut output, &status)?;
    }
    output.flush()?;
    // Somebody who waits for the end wants to know whether it was reached.
    Ok(if args.wait && status.state == "stopped" { Exit::Failed } else { Exit::Done })
}

async fn follow(context: &Context, names: &NameServerClient, mut status: RebalanceStatus) -> Result<RebalanceStatus> {
    let mut line = StatusLine::new(context.args.quiet || context.json());
    while status.state == "running" {
        line.show(&format!("{}: {} …", progress(&status), status.note));
        tokio::time::sleep(POLL_INTERVAL).await;
        status = names.rebalance_status().await?;
    }
    Ok(status)
}

/// How far it is.
fn progress(status: &RebalanceStatus) -> String {
    let mut text = format!("{} ({}) moved", human_counted(status.moved, "copy"), human_bytes(status.moved_bytes));
    if let Some(left) = status.left_bytes.filter(|_| status.state == "running") {
        text.push_str(&format!(", about {} left", human_bytes(left)));
    }
    if let Some(seconds) = status.seconds_left {
        text.push_str(&format!(", about {}", human_span(seconds)));
    }
    text
}

fn print(output: &mut Output, status: &RebalanceStatus) -> Result<()> {
    let row = |server: &RebalanceServer| {
        vec![
            server.name.clone(),
            human_bytes(server.bytes),
            percent(server.bytes, server.room_bytes),
            human_bytes(server.even_bytes),
        ]
    };
    output.table(&["SERVER", "HOLDFAST", "OF ITS ROOM", "IF EVEN"], status.servers.iter().map(row).collect())?;
    output.line("")?;
    for line in sentences(status) {
        let line = output.name(&line).into_owned();
        output.line(line)?;
    }
    Ok(())
}

fn sentences(status: &RebalanceStatus) -> Vec<String> {
    let within = status.within_percent;
    let by = status.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let time = |time: &Option<_>| time.as_ref().map_or_else(|| "-".into(), human_time_and_ago);
    let note = |lines: &mut Vec<String>| lines.extend((!status.note.is_empty()).then(|| format!("{}.", status.note)));
    let mut lines = Vec::new();
    match status.state.as_str() {
        "none" => lines.push("Nothing was ever rebalanced; `holdfast rebalance --dry-run` says what would be moved.".into()),
        "dry_run" => lines.push(match status.left_bytes.unwrap_or(0) {
            0 => format!("Nothing would be moved: servers are filled within {within} % of each other."),
            left => format!(
                "About {} would be moved, until servers are filled within {within} % of each other; as far as copies stay \
                 spread over hosts and zones.",
                human_bytes(left)
            ),
        }),
        "running" => {
            lines.push(format!("Copies are moved until servers are filled within {within} % of each other."));
            lines.push(format!("Begun {}{by}: {}", time(&status.started), progress(status)));
            note(&mut lines);
            lines.push("`holdfast rebalance --status` shows how far it is, `holdfast rebalance --stop` ends it.".into());
        }
        state => {
            let word = if state == "stopped" { "stopped" } else { "done" };
            lines.push(format!("The last rebalancing, begun {}{by}, is {word}: {}.", time(&status.started), progress(status)));
            lines.push(format!("It ended {}.", time(&status.ended)));
            note(&mut lines);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_would_be_moved_what_is_and_what_was() {
        let told = |state: &str, left| {
            let status = RebalanceStatus {
                state: state.into(),
                within_percent: 5,
                moved: 3,
                moved_bytes: 3 << 20,
                left_bytes: Some(left),
                note: "because".into(),
                ..RebalanceStatus::default()
            };
            sentences(&status).join("\n")
        };
        assert!(told("none", 0).contains("--dry-run"));
        assert!(
            told("dry_run", 0).contains("within 5 %") && told("dry_run", 1 << 30).contains("1.0 GiB would be moved")
        );
        assert!(told("running", 1 << 20).contains("3 copies (3.0 MiB) moved, about 1.0 MiB left"));
        assert!(told("stopped", 1).contains("is stopped") && told("done", 0).contains("because."));
    }
}
