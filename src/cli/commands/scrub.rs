//! `scrub`: storage servers read everything they have, now.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::cli::args::ScrubArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_bytes, human_count, human_counted, human_time_and_ago};
use crate::cli::progress::StatusLine;
use crate::client::NameServerClient;
use crate::types::api::{JobStatus, ScrubFinding, ScrubPathReport, ScrubPathRequest, ScrubRequest, ScrubResponse};
use crate::types::{Error, Result, ServerId};

/// How often it is asked how far they are.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// As often as that in a row nobody may answer. A name server that comes back has lost nothing.
const POLLS_FAILED_MAX: usize = 240;

/// `holdfast scrub`.
pub(crate) async fn run(context: &Context, args: &ScrubArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    let mut output = context.output();
    let outcome = match (&args.what[..], args.status) {
        ([], true) => names.scrub_status().await?,
        ([now], false) if now == "now" => follow(context, &names, None).await?,
        ([now, path], false) if now == "now" && path.contains('/') => return below(context, &names, path).await,
        ([now, server], false) if now == "now" => follow(context, &names, Some(server.clone())).await?,
        _ => return Err(Error::invalid("say `holdfast scrub now [SERVER|PATH]` or `holdfast scrub --status`")),
    };
    // A token that may not see it sees the servers.
    let path = if args.status { names.scrub_path_status().await.ok().filter(|job| job.state != "none") } else { None };
    if context.json() {
        output.json(&Whole { servers: &outcome, path: path.as_ref() })?;
    } else {
        print(&mut output, &outcome)?;
        if let Some(job) = &path {
            output.line("")?;
            print_job(&mut output, job)?;
        }
    }
    output.flush()?;
    Ok(if args.status { Exit::Done } else { verdict(&outcome) })
}

/// What `--json` prints: with `--status` also the last time that the copies below a path were read.
#[derive(Serialize)]
struct Whole<'w> {
    #[serde(flatten)]
    servers: &'w ScrubResponse,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'w JobStatus>,
}

/// Has everything at and below a path read, and follows that. Who breaks it off stops nothing.
async fn below(context: &Context, names: &NameServerClient, path: &str) -> Result<Exit> {
    let path = context.resolve(path)?;
    let mut line = StatusLine::new(context.args.quiet || context.json());
    let tell = |job: &JobStatus| line.show(&format!("the copies below {path} are read: {} …", job.step));
    let report = names.scrub_path(&ScrubPathRequest { path: path.clone() }, tell).await?;
    drop(line);
    let mut output = context.output();
    if context.json() {
        output.json(&report)?;
    } else {
        print_report(&mut output, &report)?;
    }
    output.flush()?;
    Ok(match (report.corrupt, report.unread) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::Unavailable,
        _ => Exit::Partly,
    })
}

fn print_report(output: &mut Output, report: &ScrubPathReport) -> Result<()> {
    if !report.findings.is_empty() {
        let row = |found: &ScrubFinding| vec![found.path.clone(), found.server.clone(), found.detail.clone()];
        output.table(&["PATH", "SERVER", "WHAT"], report.findings.iter().map(row).collect())?;
        output.line("")?;
    }
    for skipped in &report.skipped {
        let skipped = output.name(skipped).into_owned();
        output.line(skipped)?;
    }
    let path = output.name(&report.path).into_owned();
    output.line(format_args!(
        "{path}: {}, {} read ({}): {}",
        human_counted(report.files, "file"),
        human_counted(report.copies, "copy"),
        human_bytes(report.bytes),
        match (report.corrupt, report.unread) {
            (0, 0) => "all are right.".into(),
            (0, unread) => format!("these are right; {} could not be read.", human_counted(unread, "copy")),
            (corrupt, _) => format!("{} corrupt or missing; other copies replace them.", human_count(corrupt)),
        }
    ))
}

/// The last time that the copies below a path were read.
fn print_job(output: &mut Output, job: &JobStatus) -> Result<()> {
    if let Ok(report) = job.report_as::<ScrubPathReport>() {
        print_report(output, &report)?;
    }
    let begun = job.started.as_ref().map_or_else(|| "-".into(), human_time_and_ago);
    let ended = job.ended.as_ref().map_or_else(|| "-".into(), human_time_and_ago);
    let line = match job.state.as_str() {
        "running" => format!("It is under way, begun {begun}: {}.", job.step),
        "done" => format!("It ended {ended}."),
        "failed" => format!("Begun {begun}, it has failed: {}.", job.error.as_deref().unwrap_or("no reason was told")),
        _ => format!("Begun {begun}, it was interrupted: the name server that did it has ended. Run it again."),
    };
    let line = output.name(&line).into_owned();
    output.line(line)
}

/// Asks, and waits until those that were asked have read everything. Who breaks it off stops nothing.
pub(crate) async fn follow(
    context: &Context,
    names: &NameServerClient,
    server: Option<String>,
) -> Result<ScrubResponse> {
    let mut status = StatusLine::new(context.args.quiet || context.json());
    let mut outcome = names.scrub_start(&ScrubRequest { server }).await?;
    let asked = |outcome: &ScrubResponse| -> BTreeMap<ServerId, i64> {
        let wanted = outcome.servers.iter().filter_map(|one| Some((one.server, one.status.as_ref()?.wanted_ms)));
        wanted.collect()
    };
    let (wanted, unasked) = (asked(&outcome), outcome.servers.iter().filter(|one| one.status.is_none()).cloned());
    let unasked: Vec<_> = unasked.collect();
    let mut failed = 0;
    loop {
        let of_those = outcome.servers.iter().filter(|one| wanted.contains_key(&one.server));
        let states = of_those.filter_map(|one| one.status.as_ref());
        let (done, total) =
            states.clone().fold((0, 0), |(done, total), one| (done + one.done_bytes, total + one.total_bytes));
        let left = outcome.servers.iter().filter(|one| {
            let Some(wanted) = wanted.get(&one.server) else { return false };
            // One that went away meanwhile is not waited for.
            one.status.as_ref().is_some_and(|status| status.last.as_ref().is_none_or(|last| last.asked_ms < *wanted))
        });
        let left = left.count();
        if left == 0 && failed == 0 {
            break;
        }
        let percent = (done.min(total) * 100).checked_div(total).unwrap_or(0).min(99);
        status.show(&format!("{left} storage servers read everything they have: {percent} % …"));
        tokio::time::sleep(POLL_INTERVAL).await;
        match names.scrub_status().await {
            Ok(now) => (outcome, failed) = (now, 0),
            Err(error) if failed >= POLLS_FAILED_MAX => return Err(error),
            Err(_) => failed += 1,
        }
    }
    outcome.servers.retain(|one| wanted.contains_key(&one.server));
    outcome.servers.extend(unasked);
    Ok(outcome)
}

/// Damage is told by 7, a server that did not read by 6.
pub(crate) fn verdict(outcome: &ScrubResponse) -> Exit {
    let results = outcome.servers.iter().map(|one| one.status.as_ref().and_then(|status| status.last.as_ref()));
    if results.clone().flatten().any(|last| last.corrupt > 0) {
        Exit::Partly
    } else if results.into_iter().any(|last| last.is_none()) {
        Exit::Unavailable
    } else {
        Exit::Done
    }
}

/// A line for each server.
pub(crate) fn print(output: &mut Output, outcome: &ScrubResponse) -> Result<()> {
    let rows = outcome.servers.iter().map(|one| {
        let mut row = vec![one.name.clone()];
        let Some(status) = &one.status else {
            let why = one.error.clone().unwrap_or_default();
            row.extend(["-".into(), "-".into(), "-".into(), "-".into(), format!("not read: {why}")]);
            return row;
        };
        match &status.last {
            Some(last) => row.extend([
                last.ended.format("%Y-%m-%d %H:%M:%SZ").to_string(),
                human_count(last.copies),
                last.bytes.to_string(),
                human_count(last.corrupt),
            ]),
            None => row.extend(["never", "-", "-", "-"].map(String::from)),
        }
        let percent = (status.done_bytes * 100).checked_div(status.total_bytes).unwrap_or(0).min(99);
        row.push(if status.is_under_way() { format!("reading now, {percent} %") } else { String::new() });
        row
    });
    output.table(&["SERVER", "LAST READ", "COPIES", "BYTES", "CORRUPT", ""], rows.collect())
}
