//! Members' processes as they are noted: recognised after a restart of `up`, and ended.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A member's process as it is noted in `run/`. Process ids are used again by the system; together with the
/// time of its start one names a process for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Recorded {
    pub(super) name: String,
    pub(super) pid: i32,
    started: u64,
}

impl Recorded {
    pub(super) fn of(name: &str, pid: i32) -> Self {
        Self { name: name.into(), pid, started: start_time(pid).unwrap_or(0) }
    }

    /// Whether this very process still runs.
    pub(super) fn is_alive(&self) -> bool {
        start_time(self.pid).is_some_and(|started| started == self.started)
    }

    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // First: no process that lives has a number that means several of them.
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }
}

/// When a process was started, in ticks since the system's start (field 22 of proc(5)'s stat); `None` when it
/// has ended, also as a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field is in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}
