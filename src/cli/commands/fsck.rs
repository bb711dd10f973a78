//! `fsck`: what is not as it should be.

use serde::Serialize;

use super::scrub;
use crate::cli::args::FsckArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_count, human_counted, human_time_and_ago};
use crate::cli::progress::{StatusLine, say};
use crate::client::NameServerClient;
use crate::types::Result;
use crate::types::api::{Finding, FsckReport, FsckRequest, JobStatus, ScrubResponse};

/// What `--json` prints: with `--deep` also what the servers found.
#[derive(Serialize)]
struct Whole<'w> {
    #[serde(flatten)]
    report: &'w FsckReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub: Option<&'w ScrubResponse>,
}

/// `holdfast fsck`.
pub(crate) async fn run(context: &Context, args: &FsckArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    if args.status {
        return status(context, &names).await;
    }
    let read = if args.deep { Some(scrub::follow(context, &names, None).await?) } else { None };
    let mut line = StatusLine::new(context.args.quiet || context.json());
    let report = follow(&names, &FsckRequest { repair: args.repair }, &mut line).await?;
    drop(line);
    let mut output = context.output();
    if context.json() {
        output.json(&Whole { report: &report, scrub: read.as_ref() })?;
    } else {
        if let Some(read) = &read {
            scrub::print(&mut output, read)?;
            output.line("")?;
        }
        print(&mut output, &report, args.repair)?;
    }
    output.flush()?;
    match read.as_ref().map(scrub::verdict) {
        Some(Exit::Partly) => return Ok(Exit::Partly),
        Some(Exit::Unavailable) => return Ok(Exit::Failed),
        _ => {}
    }
    Ok(if report.clean { Exit::Done } else { Exit::Failed })
}

/// Follows it to its end, and shows how far it is.
pub(crate) async fn follow(
    names: &NameServerClient,
    request: &FsckRequest,
    line: &mut StatusLine,
) -> Result<FsckReport> {
    let mut is_told = false;
    let tell = |job: &JobStatus| {
        if job.joined && !std::mem::replace(&mut is_told, true) {
            let by = job.by.as_deref().unwrap_or("somebody");
            say(&format!("an fsck that was begun by {by} is under way; it is followed"));
        }
        let step = if job.step.is_empty() { "…".into() } else { format!("{} …", job.step) };
        line.show(&format!("comparing the metadata with itself and with what the storage servers have: {step}"));
    };
    names.fsck(request, tell).await
}

/// What the last one found, and when.
async fn status(context: &Context, names: &NameServerClient) -> Result<Exit> {
    let job = names.fsck_status().await?;
    let mut output = context.output();
    if context.json() {
        output.json(&job)?;
        output.flush()?;
        return Ok(Exit::Done);
    }
    let repair = job.request["repair"].as_bool().unwrap_or(false);
    if let Ok(report) = job.report_as() {
        print(&mut output, &report, repair)?;
        output.line("")?;
    }
    let line = output.name(&sentence(&job)).into_owned();
    output.line(line)?;
    output.flush()?;
    Ok(Exit::Done)
}

/// When it was, and what became of it.
fn sentence(job: &JobStatus) -> String {
    let time = |time: &Option<_>| time.as_ref().map_or_else(|| "-".into(), human_time_and_ago);
    let by = job.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let begun = format!("begun {}{by}", time(&job.started));
    match job.state.as_str() {
        "none" => "No fsck was ever begun.".into(),
        "running" => format!("An fsck is under way, {begun}: {}.", job.step),
        "done" => format!("This is what the last fsck found, {begun}, ended {}.", time(&job.ended)),
        "failed" => {
            format!("The last fsck, {begun}, has failed: {}.", job.error.as_deref().unwrap_or("no reason was told"))
        }
        _ => format!(
            "The last fsck, {begun}, was interrupted: the name server that did it has ended{}. Run it again.",
            if job.step.is_empty() { String::new() } else { format!(" ({})", job.step) }
        ),
    }
}

fn print(output: &mut Output, report: &FsckReport, repair: bool) -> Result<()> {
    if !report.findings.is_empty() {
        let row = |finding: &Finding| {
            vec![
                finding.kind.clone(),
                finding.object.map_or_else(|| "-".into(), |object| object.to_string()),
                finding.server.clone().unwrap_or_else(|| "-".into()),
                finding.detail.clone(),
            ]
        };
        output.table(&["KIND", "OBJECT", "SERVER", "WHAT"], report.findings.iter().map(row).collect())?;
        output.line("")?;
    }
    for skipped in &report.servers_skipped {
        let skipped = output.name(skipped).into_owned();
        output.line(format_args!("not compared: {skipped}"))?;
    }
    output.line(format_args!(
        "{}, {}; {} on {} compared",
        human_counted(report.entries, "entry"),
        human_counted(report.objects, "object"),
        human_counted(report.replicas, "copy"),
        human_counted(report.servers_checked, "server"),
    ))?;
    output.line(verdict(report, repair))
}

/// The last line: what it all means.
fn verdict(report: &FsckReport, repair: bool) -> String {
    let findings = human_counted(report.findings_total, "finding");
    let more = report.findings_total.saturating_sub(report.findings.len() as u64);
    let more = if more > 0 { format!(" ({} more than are listed)", human_count(more)) } else { String::new() };
    match (report.findings_total, repair) {
        (0, _) if report.clean => "Nothing is wrong.".into(),
        (0, _) => "Nothing is wrong with what could be compared.".into(),
        (_, false) => format!("{findings}{more}; `holdfast fsck --repair` puts right what it can."),
        (_, true) => format!(
            "{findings}{more}; {} were put right or queued. Run it again when `holdfast report` has nothing \
             left to repair.",
            human_count(report.repaired)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_tells_what_to_do() {
        let clean = FsckReport { clean: true, ..FsckReport::default() };
        assert_eq!(verdict(&clean, false), "Nothing is wrong.");
        let skipped = FsckReport { clean: false, servers_skipped: vec!["s: down".into()], ..FsckReport::default() };
        assert!(verdict(&skipped, false).contains("could be compared"));
        let found = FsckReport { findings_total: 3, repaired: 2, ..FsckReport::default() };
        assert!(verdict(&found, false).contains("--repair") && verdict(&found, true).contains("2 were put right"));
    }
}
