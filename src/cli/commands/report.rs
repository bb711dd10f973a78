//! `report`: whether data is in danger, the verdict first.

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_bytes, human_count, human_span, human_time};
use crate::types::Result;
use crate::types::api::{JournalHealth, LossIfDied, RepairProgress, Report, StuckObject};

/// `holdfast report`.
pub(crate) async fn run(context: &Context) -> Result<Exit> {
    let report = context.cluster()?.names.report().await?;
    let mut output = context.output();
    if context.json() {
        output.json(&report)?;
    } else {
        print(&mut output, &report)?;
    }
    output.flush()?;
    Ok(Exit::Done)
}

fn print(output: &mut Output, report: &Report) -> Result<()> {
    output.line(format_args!(
        "The cluster is {}.",
        match report.verdict.as_str() {
            "danger" => "in danger",
            other => other,
        }
    ))?;
    for problem in &report.problems {
        let problem = output.name(problem).into_owned();
        output.line(format_args!("- {problem}"))?;
    }
    let servers = [(report.servers_live, "live"), (report.servers_suspect, "suspect"), (report.servers_down, "down")];
    let servers: Vec<_> = servers.iter().map(|(count, what)| format!("{count} {what}")).collect();
    let short: Vec<_> =
        report.under_replicated.iter().map(|row| format!("{} with {}", human_count(row.objects), row.copies)).collect();
    let short = if short.is_empty() { "none".to_string() } else { short.join(", ") };
    for (name, value) in [
        ("servers", servers.join(", ")),
        ("objects", format!("{}, {}", human_count(report.objects), human_bytes(report.bytes))),
        ("short of copies", short),
        ("missing", human_count(report.missing_objects)),
        ("repair", repair(&report.repair)),
        ("deletions due", human_count(report.outbox)),
        ("journal", journal(&report.journal)),
        ("mode", report.mode.clone()),
        ("version", report.version.to_string()),
    ] {
        output.line(format_args!("{name:<16} {value}"))?;
    }
    print_losses(output, &report.lost_if_died)?;
    print_stuck(output, &report.repair.stuck)
}

/// How repair goes on, in one line.
fn repair(repair: &RepairProgress) -> String {
    if repair.queued == 0 && repair.in_flight == 0 {
        return "nothing to do".into();
    }
    let mut text = format!("{} objects ({})", human_count(repair.queued), human_bytes(repair.bytes));
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
    if journal.lag_seconds == 0.0 {
        return format!("on its copies up to version {version}, the last one");
    }
    format!("on its copies up to version {version}, {} behind", human_span(journal.lag_seconds))
}

fn print_losses(output: &mut Output, losses: &[LossIfDied]) -> Result<()> {
    if losses.is_empty() {
        return Ok(());
    }
    output.line("")?;
    for loss in losses {
        let name = output.name(&loss.name).into_owned();
        let (objects, bytes) = (human_count(loss.objects), human_bytes(loss.bytes));
        output.line(format_args!("if {name} died now: {objects} objects, {bytes} would be lost"))?;
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
            human_time(&stuck.next_attempt),
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
}
