//! The targets under libFuzzer. `scripts/fuzz` builds and starts it: `HOLDFAST_FUZZ_TARGET` names the target, and its
//! seeds are written into `HOLDFAST_FUZZ_SEEDS`.
#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target fails by panicking")]

mod targets;

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

use targets::{ALL, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

/// Runs before anything is read.
fn prepare() {
    let name = std::env::var("HOLDFAST_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = ALL.iter().find(|target| target.name == name) else {
        ALL.iter().for_each(|target| println!("{}", target.name));
        std::process::exit(if name == "list" { 0 } else { 2 });
    };
    if let Some(directory) = std::env::var_os("HOLDFAST_FUZZ_SEEDS").map(PathBuf::from) {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{number}")), seed).expect("writing a seed");
        }
    }
    assert!(TARGET.set(target).is_ok());
}

fuzz_target!(init: prepare(), |data: &[u8]| {
    (TARGET.get().expect("it was prepared").run)(data);
});
