//! What runs have shown, as a line for each and a table of all.

use crate::run::{Fsck, Healed, Summary};

const HEAD: [&str; 19] = [
    "seed",
    "database",
    "nemeses",
    "ok",
    "failed",
    "unknown",
    "faults",
    "gave up",
    "lost",
    "wrong",
    "resurrected",
    "order",
    "odd",
    "not lin.",
    "undecided",
    "outage s",
    "of writes s",
    "full repl. s",
    "fsck",
];

fn cells(summary: &Summary) -> [String; 19] {
    let judgement = &summary.judgement;
    [
        summary.seed.to_string(),
        summary.database.clone(),
        summary.nemeses.clone(),
        summary.ok.to_string(),
        summary.failed.to_string(),
        summary.unknown.to_string(),
        summary.faults.to_string(),
        summary.gave_up.to_string(),
        judgement.lost.len().to_string(),
        judgement.wrong.len().to_string(),
        judgement.resurrected.len().to_string(),
        judgement.out_of_order.len().to_string(),
        judgement.odd.len().to_string(),
        judgement.not_linearizable.len().to_string(),
        judgement.undecided.len().to_string(),
        format!("{:.1}", summary.outages.0),
        format!("{:.1}", summary.outages.1),
        match &summary.healed {
            Healed::After(seconds) => format!("{seconds:.1}"),
            Healed::Not(_) => "NOT".into(),
            Healed::NotAsked => "not asked".into(),
        },
        match &summary.fsck {
            Fsck::Clean => "clean".into(),
            Fsck::Findings(_) => "FINDINGS".into(),
            Fsck::NotAvailable => "not available".into(),
            Fsck::NotAsked => "not asked".into(),
        },
    ]
}

/// One run in one line.
pub fn line(summary: &Summary) -> String {
    let verdict = if summary.is_good() { "good" } else { "BAD " };
    let pairs: Vec<String> = HEAD.iter().zip(cells(summary)).map(|(name, cell)| format!("{name} {cell}")).collect();
    format!("{verdict}  {}", pairs.join(" | "))
}

/// All runs, as Markdown.
pub fn table(summaries: &[Summary]) -> String {
    let row = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let head = HEAD.map(String::from);
    let rule = HEAD.map(|_| "---".to_string());
    let rows = summaries.iter().map(|summary| row(&cells(summary)));
    [row(&head), row(&rule)].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}
