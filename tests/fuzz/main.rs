//! Everything that comes from outside as bytes, under inputs that nobody wrote down.
//!
//! Each target runs here for a moment: over its seeds, over inputs that once failed, and over some thousand changed
//! seeds. `scripts/fuzz TARGET|all SECONDS` runs the same targets for as long as one likes under libFuzzer, which
//! follows the coverage. `docs/decisions/0041-fuzzing-on-stable.md` says why it is done so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod edits;
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::test_runner::{Config, TestRunner};

use targets::{ALL, Target};

/// Changed seeds of each target, unless `HOLDFAST_FUZZ_CASES` says how many.
const CASES: u32 = 1_000;

fn short_run(name: &str) {
    let target = ALL.iter().find(|target| target.name == name).expect("a target of that name");
    let seeds = (target.seeds)();
    seeds.iter().chain(&found(target)).for_each(|input| (target.run)(input));
    let cases = std::env::var("HOLDFAST_FUZZ_CASES").ok().map_or(CASES, |cases| cases.parse().expect("a number"));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&edits::changed(seeds), |input| {
        (target.run)(&input.0);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}\nkeep the input in tests/fuzz/found/{name}/, so that it is tried again for ever");
    }
}

/// Inputs that once failed.
fn found(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/found").join(target.name);
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            short_run(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_test() {
            let tested = BTreeSet::from([$(stringify!($name)),*]);
            assert_eq!(tested, ALL.iter().map(|target| target.name).collect());
        }
    };
}

tests! {
    authorization bodies command_lines conditions configs database_urls globs identity_files ids inventories
    journal_files journal_merges journal_trees paths queries ranges tickets typed workspace_states
}
