//! Breaks a real cluster while clients work, and checks that it keeps its promises.
//!
//! `scripts/chaos` runs it with options (`run --help`). Under `cargo test` it runs a short selection: the checks of
//! the checker itself, and some seconds of faults.
//!
//! - `world`, `server`, `network`, `disks`, `inside`: the cluster, in a room of its own
//! - `workload`, `client`, `content`, `history`: what clients do, and what is written down of it
//! - `nemesis`: the faults, one file each
//! - `check`: the judgement
//! - `preload`: files that nobody touches
//! - `run`, `summary`, `options`: a run from its start to its last line
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod check;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod content;
mod disks;
mod history;
mod inside;
mod nemesis;
mod network;
mod options;
mod preload;
mod run;
mod selection;
mod server;
mod summary;
mod workload;
mod world;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use options::Options;
use run::HealCheck;
use structopt::StructOpt;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_none_or(|word| word != "run") {
        return selection::run_tests(&args[1..]);
    }
    let options = Options::from_iter(args.iter().take(1).chain(&args[2..]));
    if let Some(history) = &options.judge {
        return judge(history);
    }
    inside::enter();
    let kinds = match options.kinds() {
        Ok(kinds) => kinds,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    if options.name_servers > 1 && options.database == "sqlite" {
        eprintln!("several name servers need --database postgres");
        return ExitCode::from(2);
    }
    let heal_check = if options.no_heal_check { HealCheck::Off } else { HealCheck::Required };
    let mut summaries = Vec::new();
    for seed in options.seed..options.seed + options.runs {
        let summary = run::run(&Options { seed, ..options.clone() }, &kinds, heal_check);
        println!("{}", summary::line(&summary));
        summaries.push(summary);
        if run::INTERRUPTED.load(Ordering::Relaxed) {
            break;
        }
    }
    println!("\n{}", summary::table(&summaries));
    for dir in summaries.iter().filter_map(|summary| summary.kept.as_ref()) {
        println!("kept: {}", dir.display());
    }
    if summaries.iter().all(run::Summary::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Judges a history that was kept.
fn judge(path: &std::path::Path) -> ExitCode {
    let ops = history::load(path);
    let judgement = check::judge(&ops);
    judgement.findings().for_each(|(kind, finding)| run::print_finding(kind, finding, &ops, &[]));
    println!("{} operations, {} findings", ops.len(), judgement.findings().count());
    if judgement.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
