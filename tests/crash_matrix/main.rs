//! Servers die at every named step (`holdfast::types::failpoint`), and nothing that was promised is broken.
//!
//! Each point is a case: a real cluster does what leads past the point, one of its servers dies there as by
//! `kill -9`, is started again, and when all is at rest the namespace, the bytes, the stores and the metadata are
//! compared with what was acknowledged. A new point in the list is a new case. `docs/crash-matrix.md` has more.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod actors;
mod arena;
mod model;
mod restores;
mod snapshots;
mod workloads;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use holdfast::types::failpoint::{self, ALL, Area, Point};

use arena::Arena;
use common::postgres;

/// Clusters at the same time.
const CLUSTERS: usize = 3;

/// A point, what leads past it, and which time it is passed the server dies.
#[derive(Debug, Clone, Copy)]
struct Case {
    point: Point,
    area: Area,
    times: u32,
}

impl Case {
    fn of(point: &Point) -> Self {
        Self { point: *point, area: point.area, times: 1 }
    }
}

/// Points that other work leads past, too.
fn more_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for area in [Area::Move, Area::Remove, Area::Copy] {
        cases.push(Case { point: failpoint::CHANGE_JOURNALED, area, times: 8 });
        cases.push(Case { point: failpoint::CHANGE_COMMITTED, area, times: 9 });
    }
    for (point, area, times) in [
        (failpoint::UPLOAD_RENAMED, Area::Transfer, 1),
        (failpoint::INDEX_COMMITTED, Area::Transfer, 2),
        (failpoint::INDEX_WRITTEN, Area::Delete, 9),
        (failpoint::COMMIT_WRITTEN, Area::Remove, 6),
    ] {
        cases.push(Case { point, area, times });
    }
    cases
}

/// Only those that `HOLDFAST_CRASH_POINTS` is a part of, when it is set.
fn wanted(cases: Vec<Case>) -> Vec<Case> {
    let part = std::env::var("HOLDFAST_CRASH_POINTS").unwrap_or_default();
    cases.into_iter().filter(|case| format!("{} {:?}", case.point.name, case.area).contains(&part)).collect()
}

/// Runs all cases on a few clusters; each goes on with what the case before has left. Fails with all failures.
fn run_all(cases: Vec<Case>, clusters: usize, database: impl Fn() -> Option<String> + Sync) {
    let (queue, failures) = (Mutex::new(VecDeque::from(wanted(cases))), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..clusters {
            scope.spawn(|| {
                let mut arena: Option<Arena> = None;
                let next = || queue.lock().unwrap().pop_front();
                while let Some(case) = next() {
                    let started = Instant::now();
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        let arena = arena.get_or_insert_with(|| Arena::start(database()));
                        workloads::run(arena, case.area, case.point.name, case.times);
                        arena.wait_for_rest();
                        arena.check_everything();
                    }));
                    let seconds = started.elapsed().as_secs_f32();
                    eprintln!("{} ({:?}): {} in {seconds:.1} s", case.point.name, case.area, word(outcome.is_ok()));
                    if let Err(panic) = outcome {
                        failures.lock().unwrap().push(told(&case, panic, arena.take()));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} points failed:\n\n{}", failures.len(), failures.join("\n\n"));
}

fn word(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}

fn told(case: &Case, panic: Box<dyn std::any::Any + Send>, arena: Option<Arena>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
    let logs = arena.map(|arena| arena.cluster.logs(25)).unwrap_or_default();
    format!("=== {} ({:?}, time {}) ===\n{text}\n{logs}", case.point.name, case.area, case.times)
}

#[test]
fn every_point_on_sqlite() {
    let cases = ALL.iter().map(Case::of).chain(more_cases()).collect();
    run_all(cases, CLUSTERS, || None);
}

#[test]
fn points_in_transactions_on_postgres() {
    use failpoint::*;
    let points = [
        CHANGE_LOCKED,
        CHANGE_JOURNALED,
        CHANGE_COMMITTED,
        COMMIT_WRITTEN,
        MOVE_WRITTEN,
        RELEASE_QUEUED,
        REAP_NOTED,
        REPAIR_PRESENT,
        LEASE_WRITTEN,
        RESTORE_BEGUN_ANEW,
        RESTORE_WRITTEN,
        RESTORE_DONE,
    ];
    run_all(points.iter().map(Case::of).collect(), 1, || Some(postgres::shared().database()));
}
