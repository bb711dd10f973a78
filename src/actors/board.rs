//! Where actors and their supervisor write down how they are, for `holdfast actors` and the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::pass_report::PassReport;
use crate::types::api::{ActorCount, ActorInfo};
use parking_lot::Mutex;

/// A shared board. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Board {
    actors: Arc<Mutex<BTreeMap<String, ActorInfo>>>,
}

impl Board {
    fn change(&self, name: &str, change: impl FnOnce(&mut ActorInfo)) {
        let mut actors = self.actors.lock();
        let info = actors.entry(name.into()).or_insert_with(|| ActorInfo {
            name: name.into(),
            state: "waiting".into(),
            last_pass: None,
            last_pass_seconds: None,
            last_report: None,
            counts: Vec::new(),
            note: None,
            last_error: None,
            failures: 0,
            failing_since: None,
            restarts: 0,
            last_panic: None,
        });
        change(info);
    }

    /// It works, waits or is being restarted.
    pub fn state(&self, name: &str, state: &str) {
        self.change(name, |info| info.state = state.into());
    }

    /// A pass has ended: what it came to, or its error.
    pub fn pass(&self, name: &str, took: Duration, outcome: Result<&PassReport, String>) {
        self.change(name, |info| {
            info.state = "waiting".into();
            info.last_pass = Some(chrono::Utc::now());
            info.last_pass_seconds = Some(took.as_secs_f64());
            match outcome {
                Ok(report) => {
                    info.last_report = Some(report.to_string());
                    info.note = report.note.map(String::from);
                    let count =
                        |(what, count): &(&str, usize)| ActorCount { what: (*what).into(), count: *count as u64 };
                    info.counts = report.counts.iter().map(count).collect();
                    (info.last_error, info.failures, info.failing_since) = (None, 0, None);
                }
                Err(error) => failed(info, error),
            }
        });
    }

    /// It panicked.
    pub fn panicked(&self, name: &str, message: &str) {
        self.change(name, |info| info.last_panic = Some(message.into()));
    }

    /// It was found dead or stuck, and will be replaced.
    pub fn failing(&self, name: &str, why: &str) {
        self.change(name, |info| {
            info.state = "restarting".into();
            failed(info, why.into());
        });
    }

    /// It was replaced.
    pub fn restarted(&self, name: &str) {
        self.change(name, |info| {
            info.state = "waiting".into();
            info.restarts += 1;
        });
    }

    /// All actors, by name.
    pub fn all(&self) -> Vec<ActorInfo> {
        self.actors.lock().values().cloned().collect()
    }
}

fn failed(info: &mut ActorInfo, error: String) {
    info.last_error = Some(error);
    info.failures = info.failures.saturating_add(1);
    info.failing_since.get_or_insert_with(chrono::Utc::now);
}
