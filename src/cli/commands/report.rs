//! `report`: whether data is in danger, the verdict first; as an exit code for monitors; and followed.

use std::time::Duration;

use crate::cli::args::ReportArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_bytes, human_count, human_counted, human_span, human_time};
use crate::client::NameServerClient;
use crate::decisions::verdict::of_several;
use crate::types::Result;
use crate::types::api::{JournalHealth, JournalHolder, LossIfDied, RepairProgress, Report, Severity, StuckObject};

/// Moves to the upper left corner and clears what is there.
const REDRAW: &str = "\u{1b}[H\u{1b}[2J";

/// `holdfast report`.
pub(crate) async fn run(context: &Context, args: &ReportArgs) -> Result<Exit> {
    if args.check {
        return check(context).await;
    }
    if args.watch {
        return watch(context, Duration::from_secs(args.every)).await;
    }
    let report = look(&context.cluster()?.names).await?;
    let mut output = context.output();
    if context.json() {
        output.json(&report)?;
    } else {
        print(&mut output, &report)?;
    }
    output.flush()?;
    Ok(Exit::Done)
}

/// What the name servers say, as one.
async fn look(names: &NameServerClient) -> Result<Report> {
    of_several(names.report_of_each().await)
}

/// One line, and an exit code as monitors understand it. Nothing that goes wrong here is anything but unknown.
async fn check(context: &Context) -> Result<Exit> {
    let report = async { look(&context.cluster()?.names).await }.await;
    let mut output = context.output();
    let (line, exit) = match &report {
        Ok(report) => checked(report),
        Err(error) => (format!("UNKNOWN: {}", error.message()), Exit::NotFound),
    };
    match &report {
        Ok(report) if context.json() => output.json(report)?,
        _ => {
            let line = output.name(&line.replace('\n', " ")).into_owned();
            output.line(line)?;
        }
    }
    output.flush()?;
    Ok(exit)
}

/// The line and the code: their numbers, not their names, are those of monitors.
fn checked(report: &Report) -> (String, Exit) {
    let (word, exit) = match report.verdict.as_str() {
        "healthy" => ("HEALTHY", Exit::Done),
        "degraded" => ("DEGRADED", Exit::Failed),
        "danger" => ("DANGER", Exit::Usage),
        _ => ("UNKNOWN", Exit::NotFound),
    };
    let servers = format!("{} servers live, {} down", report.servers_live, report.servers_down);
    let Some(first) = report.troubles.first().filter(|first| first.severity > Severity::Notice) else {
        return (format!("{word}: {servers}, {} objects", human_count(report.objects)), exit);
    };
    let more = report.troubles.iter().skip(1).filter(|told| told.severity > Severity::Notice).count();
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    (format!("{word}: {}: {}{more}; {servers}", first.code, first.what), exit)
}

/// Follows the report: drawn anew on a terminal, a line for each change elsewhere, each report with `--json`.
async fn watch(context: &Context, every: Duration) -> Result<Exit> {
    let names = context.cluster()?.names.with_retries(0);
    let mut output = context.output();
    let mut before = String::new();
    loop {
        let now = human_time(&chrono::Utc::now());
        let report = look(&names).await;
        let line = match &report {
            Ok(report) => checked(report).0,
            Err(error) => format!("UNKNOWN: {}", error.message()),
        };
        match &report {
            Ok(report) if context.json() => {
                output.bytes(serde_json::to_string(report).unwrap_or_default().as_bytes())?;
                output.line("")?;
            }
            Ok(report) if output.is_terminal() => {
                output.line(format_args!("{REDRAW}{now}"))?;
                print(&mut output, report)?;
            }
            _ if output.is_terminal() || line != before => {
                let shown = output.name(&line).into_owned();
                let redraw = if output.is_terminal() { REDRAW } else { "" };
                output.line(format_args!("{redraw}{now}  {shown}"))?;
            }
            _ => {}
        }
        before = line;
        output.flush()?;
        tokio::time::sleep(every).await;
    }
}

fn print(output: &mut Output, report: &Report) -> Result<()> {
    output.line(format_args!(
        "The cluster is {}.",
        match report.verdict.as_str() {
            "danger" => "in danger",
            other => other,
        }
    ))?;
    for trouble in &report.troubles {
        let severity = match trouble.severity {
            Severity::Danger => "DANGER",
            Severity::Degraded => "degraded",
            Severity::Notice => "notice",
        };
        let (what, remedy) = (output.name(&trouble.what).into_owned(), output.name(&trouble.remedy).into_owned());
        output.line(format_args!("- {severity}: {what} [{}]", trouble.code))?;
        output.line(format_args!("  -> {remedy}"))?;
    }
    let servers = [(report.servers_live, "live"), (report.servers_suspect, "suspect"), (report.servers_down, "down")];
    let servers: Vec<_> = servers.iter().map(|(count, what)| format!("{count} {what}")).collect();
    let mut facts = Vec::new();
    if report.mode != "unknown" && report.mode != "damaged" {
        facts.push(("servers", servers.join(", ")));
    }
    if report.counted {
        facts.extend([
            ("objects", format!("{}, {}", human_count(report.objects), human_bytes(report.bytes))),
            ("short of copies", short(report)),
            ("missing", human_count(report.missing_objects)),
            ("repair", repair(&report.repair)),
            ("deletions due", human_count(report.outbox)),
            ("journal", journal(&report.journal)),
        ]);
    } else {
        facts.push(("copies", "nobody can tell now".into()));
    }
    facts.push(("mode", report.mode.clone()));
    if report.counted {
        facts.push(("version", report.version.to_string()));
    }
    for (name, value) in facts {
        output.line(format_args!("{name:<16} {value}"))?;
    }
    print_losses(output, &report.lost_if_died)?;
    print_stuck(output, &report.repair.stuck)
}

fn short(report: &Report) -> String {
    let rows = report.under_replicated.iter();
    let short: Vec<_> = rows
        .map(|row| format!("{} with {} ({})", human_count(row.objects), row.copies, human_bytes(row.bytes)))
        .collect();
    if short.is_empty() { "none".into() } else { short.join(", ") }
}

/// How repair goes on, in one line.
fn repair(repair: &RepairProgress) -> String {
    if repair.queued == 0 && repair.in_flight == 0 {
        let waiting = format!("{} objects ({})", human_count(repair.waiting), human_bytes(repair.waiting_bytes));
        return match (repair.waiting, &repair.paused, repair.begins_seconds) {
            (0, ..) => "nothing to do".into(),
            (_, Some(_), _) => format!("{waiting} wait: it is paused, see above"),
            (_, None, Some(seconds)) => {
                format!("{waiting} begin in {}, unless their servers come back", human_span(seconds))
            }
            (_, None, None) => format!("{waiting} wait: see above"),
        };
    }
    let mut text = format!("{} ({})", human_counted(repair.queued, "object"), human_bytes(repair.bytes));
    if repair.paused.is_some() {
        text.push_str(" wait: it is paused, see above");
        return text;
    }
    text.push_str(&format!(", {} under way", human_count(repair.in_flight)));
    text.push_str(&match repair.seconds_left {
        Some(seconds) => {
            format!(", {:.1} a second, about {} left", repair.objects_per_second, human_span(seconds))
        }
        None => format!(", none done in the last minute; the oldest waits for {}", human_span(repair.oldest_seconds)),
    });
    text
}

fn journal(journal: &JournalHealth) -> String {
    let version = journal.copied_version;
    let under_way = |holder: &JournalHolder| {
        holder.snapshot_seconds.map(|seconds| format!("{} for {}", holder.name, human_span(seconds)))
    };
    let under_way: Vec<String> = journal.holders.iter().filter_map(under_way).collect();
    let snapshots = match under_way.is_empty() {
        true => String::new(),
        false => format!("; snapshots on their way to {}", under_way.join(", ")),
    };
    if journal.lag_seconds == 0.0 {
        return format!("on its copies up to version {version}, the last one{snapshots}");
    }
    format!("on its copies up to version {version}, {} behind{snapshots}", human_span(journal.lag_seconds))
}

fn print_losses(output: &mut Output, losses: &[LossIfDied]) -> Result<()> {
    if losses.is_empty() {
        return Ok(());
    }
    output.line("")?;
    for loss in losses {
        let name = output.name(&loss.name).into_owned();
        let (objects, bytes) = (human_counted(loss.objects, "object"), human_bytes(loss.bytes));
        output.line(format_args!("if {name} died now: {objects}, {bytes} would be lost"))?;
    }
    Ok(())
}

fn print_stuck(output: &mut Output, stuck: &[StuckObject]) -> Result<()> {
    if stuck.is_empty() {
        return Ok(());
    }
    output.line("")?;
    output.line("The repair of these keeps failing (paths are those of their commits):")?;
    let row = |stuck: &StuckObject| {
        vec![
            stuck.label.clone(),
            stuck.object.to_string(),
            stuck.copies.to_string(),
            stuck.attempts.to_string(),
            stuck.next_attempt.as_ref().map_or("when servers change".into(), human_time),
            stuck.last_error.clone(),
        ]
    };
    output.table(&["PATH", "OBJECT", "COPIES", "TRIES", "NEXT TRY", "WHY"], stuck.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repair_is_told_in_one_line() {
        let idle = RepairProgress::default();
        assert_eq!(repair(&idle), "nothing to do");
        let waiting =
            RepairProgress { waiting: 93, waiting_bytes: 1_887_437, begins_seconds: Some(21.2), ..idle.clone() };
        assert_eq!(repair(&waiting), "93 objects (1.8 MiB) begin in 21 s, unless their servers come back");
        assert!(repair(&RepairProgress { begins_seconds: None, ..waiting }).ends_with("wait: see above"));
        let busy = RepairProgress {
            queued: 1_200,
            bytes: 3 << 20,
            in_flight: 16,
            objects_per_second: 10.0,
            seconds_left: Some(120.0),
            ..idle
        };
        assert_eq!(repair(&busy), "1,200 objects (3.0 MiB), 16 under way, 10.0 a second, about 2 min left");
        let stalled = RepairProgress { seconds_left: None, oldest_seconds: 30.0, ..busy.clone() };
        assert!(repair(&stalled).ends_with("none done in the last minute; the oldest waits for 30 s"));
        let paused = RepairProgress { paused: Some("why".into()), ..busy };
        assert!(repair(&paused).contains("paused"));
    }

    #[test]
    fn a_check_is_one_line_with_the_worst() {
        let trouble = |severity, code: &str| crate::types::api::Trouble {
            code: code.into(),
            severity,
            what: format!("{code} is so"),
            remedy: "r".into(),
            due_seconds: None,
        };
        let report = |verdict: &str, troubles| Report { verdict: verdict.into(), troubles, ..Report::default() };
        let notice = vec![trouble(Severity::Notice, "draining")];
        for (report, line, exit) in [
            (report("healthy", notice), "HEALTHY: 0 servers live, 0 down, 0 objects", 0),
            (
                report("degraded", vec![trouble(Severity::Degraded, "a")]),
                "DEGRADED: a: a is so; 0 servers live, 0 down",
                1,
            ),
            (
                report("danger", vec![trouble(Severity::Danger, "a"), trouble(Severity::Degraded, "b")]),
                "DANGER: a: a is so (and 1 more); 0 servers live, 0 down",
                2,
            ),
            (report("of_the_future", Vec::new()), "UNKNOWN: 0 servers live, 0 down, 0 objects", 3),
        ] {
            let (told, code) = checked(&report);
            assert_eq!((told.as_str(), code as u8), (line, exit));
        }
    }
}
