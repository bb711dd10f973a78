//! What runs under `cargo test`: tests of the checker, and short runs. The output is that of other tests.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

use structopt::StructOpt;

use crate::check::tests::TESTS;
use crate::inside;
use crate::options::Options;
use crate::run::{HealCheck, run};
use crate::summary;

const RUNS: [(&str, fn()); 4] = [
    ("storage_servers_are_killed_and_paused_on_sqlite", storage_servers_are_killed_and_paused_on_sqlite),
    ("name_server_and_database_are_killed_on_postgres", name_server_and_database_are_killed_on_postgres),
    ("disks_go_away_and_take_no_writes", disks_go_away_and_take_no_writes),
    ("clients_that_lie_are_found_out", clients_that_lie_are_found_out),
];

/// Runs the tests that the arguments select, as the usual harness does.
pub fn run_tests(args: &[String]) -> ExitCode {
    let (mut filters, mut skipped, mut exact, mut list) = (Vec::new(), Vec::new(), false, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--exact" => exact = true,
            "--list" => list = true,
            "--skip" => skipped.extend(args.next()),
            "--test-threads" | "--format" | "--color" | "-Z" => drop(args.next()),
            flag if flag.starts_with('-') => {}
            _ => filters.push(arg),
        }
    }
    let matches =
        |name: &str, pattern: &&String| if exact { name == *pattern } else { name.contains(pattern.as_str()) };
    let all = TESTS.into_iter().chain(RUNS);
    let selected: Vec<(&str, fn())> = all
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|pattern| matches(name, pattern)))
        .filter(|(name, _)| !skipped.iter().any(|pattern| matches(name, pattern)))
        .collect();
    if list {
        selected.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    let started = Instant::now();
    let failed: Vec<&str> = selected
        .iter()
        .filter(|(name, test)| {
            let passed = catch_unwind(test).is_ok();
            println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
            !passed
        })
        .map(|(name, _)| *name)
        .collect();
    let (verdict, passed) = (if failed.is_empty() { "ok" } else { "FAILED" }, selected.len() - failed.len());
    let seconds = started.elapsed().as_secs_f64();
    println!("\ntest result: {verdict}. {passed} passed; {} failed; finished in {seconds:.2}s\n", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A short run with these options.
fn short(words: &str) -> crate::run::Summary {
    let options = Options::from_iter(["chaos"].into_iter().chain(words.split_whitespace()));
    let kinds = options.kinds().unwrap();
    let summary = run(&options, &kinds, HealCheck::Required);
    println!("{}", summary::line(&summary));
    summary
}

fn storage_servers_are_killed_and_paused_on_sqlite() {
    assert!(short("--seed 1 --seconds 8 --nemesis kill-storage,pause --preload 600").is_good());
}

fn name_server_and_database_are_killed_on_postgres() {
    assert!(short("--seed 2 --seconds 8 --nemesis kill-name,database --database postgres").is_good());
}

/// In a room of its own: it mounts. Where that cannot be made, there is nothing to see.
fn disks_go_away_and_take_no_writes() {
    if !inside::can_enter() {
        eprintln!("skipped: it needs root and namespaces");
        return;
    }
    let mut run = std::process::Command::new(std::env::current_exe().unwrap());
    run.args("run --seed 4 --seconds 12 --nemesis unmount,readonly".split_whitespace());
    let output = run.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The whole way from a broken promise to a failed run.
fn clients_that_lie_are_found_out() {
    let summary = short("--seed 3 --seconds 3 --nemesis none --lie");
    let judgement = &summary.judgement;
    assert!(!judgement.not_linearizable.is_empty() && judgement.undecided.is_empty() && !summary.is_good());
    if let Some(dir) = summary.kept {
        std::fs::remove_dir_all(dir).unwrap();
    }
}
