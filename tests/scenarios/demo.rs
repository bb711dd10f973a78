//! The tour runs to its end, and leaves nothing behind when it is interrupted.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::cluster::ended;
use crate::common::wait_for;

fn demo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("demo").current_dir(dir).env("HOME", dir).env("TMPDIR", dir).stdin(Stdio::null());
    for name in ["HOLDFAST_CONFIG", "HOLDFAST_NAME_SERVER", "HOLDFAST_TOKEN"] {
        command.env_remove(name);
    }
    command
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn the_tour_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (code, story, errors) = ended(demo(dir.path()).output().unwrap());
    assert_eq!(code, 0, "{story}{errors}");
    for what in ["was killed with SIGKILL", "copies again", "Nothing came back", "database deleted", "Nothing was lost"]
    {
        assert!(story.contains(what), "{what} is not in {story}");
    }
    assert!(is_empty(dir.path()), "something is left behind");
}

#[test]
fn an_interrupted_tour_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = demo(dir.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut pids: Vec<i32> = Vec::new();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    for line in lines.by_ref() {
        let line = line.unwrap();
        pids.extend(line.split_once("process ").and_then(|(_, pid)| pid.trim().parse::<i32>().ok()));
        if line.contains("Storing a tree") {
            break;
        }
    }
    assert_eq!(pids.len(), 5);
    kill_process(Pid::from_raw(running.id() as i32).unwrap(), Signal::INT).unwrap();
    lines.for_each(drop);
    assert_eq!(running.wait().unwrap().code(), Some(130));
    let alive =
        |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    wait_for("its processes have ended", 10, || (!pids.iter().any(alive)).then_some(()));
    assert!(is_empty(dir.path()), "something is left behind");
}
