//! The runner in a room of its own: a network, a process tree and mounts that nobody else sees and that vanish with
//! it, even if it is killed.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::geteuid;

/// Says to the runner that it is inside; its value is a number that names on the machine may be made of.
const INSIDE: &str = "HOLDFAST_CHAOS_INSIDE";

/// Whether this process has networks and mounts of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The beginning of names, different for each run.
pub fn prefix() -> String {
    let outside = std::env::var(INSIDE).unwrap_or_else(|_| std::process::id().to_string());
    format!("hf{outside}")
}

/// Becomes this program inside, where that can be done; else goes on outside.
pub fn enter() {
    if is_inside() || !geteuid().is_root() {
        return;
    }
    let room = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
    let works = Command::new("unshare").args(room).args(["ip", "link", "set", "lo", "up"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        return;
    }
    let program: PathBuf = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(room).args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(program);
    command.args(std::env::args_os().skip(1)).env(INSIDE, std::process::id().to_string());
    // `unshare` takes this process's place, so that whoever kills this process kills everything inside.
    let error = command.exec();
    panic!("unshare: {error}");
}
