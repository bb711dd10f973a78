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

/// What the room has of its own.
const ROOM: [&str; 7] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];

/// Whether a room can be made here.
pub fn can_enter() -> bool {
    let works = || Command::new("unshare").args(ROOM).args(["ip", "link", "set", "lo", "up"]).output();
    geteuid().is_root() && works().is_ok_and(|output| output.status.success())
}

/// Becomes this program inside, where that can be done; else goes on outside.
pub fn enter() {
    if is_inside() || !can_enter() {
        return;
    }
    let program: PathBuf = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(ROOM).args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(program);
    command.args(std::env::args_os().skip(1)).env(INSIDE, std::process::id().to_string());
    // `unshare` takes this process's place, so that whoever kills this process kills everything inside.
    let error = command.exec();
    panic!("unshare: {error}");
}
