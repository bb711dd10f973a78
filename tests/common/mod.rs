//! What the tests share: a private Postgres, and clusters of real processes.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

pub mod clock;
pub mod cluster;
pub mod postgres;
pub mod relay;
pub mod restore;
pub mod servers;
pub mod tls;
pub mod tree;

use std::time::{Duration, Instant};

/// Waits until `condition` answers something, looking often; fails after `seconds` with `what`.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(seconds), "after {seconds} s still not: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}
