//! Failure and recovery at sizes that people have: ten thousand files, fifty servers. `scripts/scale` runs them at full
//! size with a release build; without `HOLDFAST_SCALE` (in percent) they are a tenth of that.
//!
//! Each test prints what it measured. The bounds that it asserts are promises (docs/reliability.md), far from what an
//! idle machine needs. One runs at a time, so that they do not measure each other.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod dead_server;
mod many_servers;
mod restore;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::cluster::Process;

/// How many of something there are, of so many at full size.
fn scaled(full: usize) -> usize {
    let percent = std::env::var("HOLDFAST_SCALE").map_or(10, |text| text.parse().unwrap());
    (full * percent / 100).max(1)
}

/// Linux counts processor time for its users in hundredths of a second.
const TICKS_PER_SECOND: u64 = 100;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processor time that a process has used, its threads together.
fn cpu(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|field| fields[*field].parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

/// The share of one core that processes use during some seconds.
fn share_of_a_core(processes: &[&Process], over: Duration) -> f64 {
    let used = |processes: &[&Process]| processes.iter().map(|process| cpu(process)).sum::<Duration>();
    let before = used(processes);
    std::thread::sleep(over);
    (used(processes) - before).as_secs_f64() / over.as_secs_f64()
}
