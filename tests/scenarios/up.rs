//! `holdfast up`, `--detach`, `--only`, `down`.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::cluster::ended;
use crate::common::wait_for;

/// Four neighbouring ports that are free now.
fn free_ports() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let all: Vec<_> =
            (0..4).map(|offset| TcpListener::bind(("127.0.0.1", port.checked_add(offset)?)).ok()).collect();
        if port < 60_000 && all.iter().all(Option::is_some) {
            return port;
        }
    }
}

/// A directory for clusters; what still runs in it ends with it, also when a test fails.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for dir in ["", "first", "second"] {
            members(&self.path().join(dir)).into_iter().filter_map(Pid::from_raw).for_each(|pid| {
                // It may have ended just now.
                let _ = kill_process(pid, Signal::KILL);
            });
        }
    }
}

fn holdfast(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(args).current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    for name in ["HOLDFAST_CONFIG", "HOLDFAST_NAME_SERVER", "HOLDFAST_TOKEN"] {
        command.env_remove(name);
    }
    command
}

fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    ended(holdfast(dir, args).output().unwrap())
}

fn members(dir: &Path) -> Vec<i32> {
    let Ok(notes) = std::fs::read_dir(dir.join("holdfast-data/run")) else { return Vec::new() };
    let pid = |note: std::fs::DirEntry| {
        let note: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(note.path()).ok()?).ok()?;
        Some(note["pid"].as_i64()? as i32)
    };
    notes.flatten().filter_map(pid).filter(|pid| alive(*pid)).collect()
}

fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_detached_cluster_lives_on_loses_a_member_and_stops() {
    let dir = Home::new();
    let dir = dir.path();
    let port = free_ports().to_string();
    let (code, table, errors) = run(dir, &["up", "--detach", "--port", &port]);
    assert_eq!(code, 0, "{errors}");
    for what in ["name-server", "storage-1", "storage-2", "storage-3", &port, "holdfast-data"] {
        assert!(table.contains(what), "{what} is not in {table}");
    }
    let config = dir.join("holdfast-data/client.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&config).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(members(dir).len(), 4);
    // The client finds the cluster by ./holdfast-data/client.toml.
    std::fs::write(dir.join("photo"), "p").unwrap();
    assert_eq!(run(dir, &["import", "photo", "/photo"]).0, 0);
    let (code, _, errors) = run(dir, &["up", "--detach"]);
    assert_eq!(code, 4, "{errors}");
    assert!(errors.contains("running already") && errors.contains("holdfast down"), "{errors}");
    let note = std::fs::read_to_string(dir.join("holdfast-data/run/storage-2.json")).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&note).unwrap()["pid"].as_i64().unwrap() as i32;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_for("it is dead", 10, || (!alive(pid)).then_some(()));
    let (code, _, errors) = run(dir, &["up", "--only", "storage-9"]);
    assert_eq!(code, 3, "{errors}");
    assert_eq!(run(dir, &["up", "--only", "storage-2"]).0, 0);
    assert_eq!(members(dir).len(), 4);
    assert_eq!(run(dir, &["down"]).0, 0);
    assert!(members(dir).is_empty());
    // Again on the same directory: the same data, on the same ports.
    assert_eq!(run(dir, &["up", "--detach"]).0, 0);
    assert_eq!(run(dir, &["cat", "/photo"]).1, "p");
    assert_eq!(run(dir, &["down"]).0, 0);
    assert_eq!(run(dir, &["ls"]).0, 6);
}

#[test]
fn ctrl_c_leaves_no_process_behind_and_neither_does_a_killed_parent() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let dir = Home::new();
        let port = free_ports().to_string();
        let mut up =
            holdfast(dir.path(), &["up", "--port", &port]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pids = wait_for("the cluster runs", 60, || {
            let pids = members(dir.path());
            (pids.len() == 4 && run(dir.path(), &["servers", "--json"]).1.matches("\"live\"").count() == 3)
                .then_some(pids)
        });
        kill_process(Pid::from_raw(up.id() as i32).unwrap(), signal).unwrap();
        up.wait().unwrap();
        wait_for("all members have ended", 20, || pids.iter().all(|pid| !alive(*pid)).then_some(()));
    }
}

#[test]
fn what_cannot_work_is_said_before_anything_starts() {
    let dir = Home::new();
    let dir = dir.path();
    let port = free_ports();
    let taken = TcpListener::bind(("127.0.0.1", port + 2)).unwrap();
    let (code, _, errors) = run(dir, &["up", "--detach", "--port", &port.to_string()]);
    assert_eq!(code, 4);
    assert!(errors.contains(&(port + 2).to_string()) && errors.contains("--port"), "{errors}");
    assert!(members(dir).is_empty());
    drop(taken);
    assert_eq!(run(dir, &["up", "--detach", "--storage-servers", "1"]).0, 2);
    assert_eq!(run(dir, &["up", "--detach", "--database", "mysql://h/d"]).0, 2);
    let (code, _, errors) = run(dir, &["down", "--data-dir", "nothing"]);
    assert_eq!(code, 3, "{errors}");
}

#[test]
fn a_directory_of_another_cluster_or_a_newer_program_is_refused() {
    let dir = Home::new();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    for dir in [&first, &second] {
        std::fs::create_dir(dir).unwrap();
        let port = free_ports().to_string();
        assert_eq!(run(dir, &["up", "--detach", "--port", &port]).0, 0);
        assert_eq!(run(dir, &["down"]).0, 0);
    }
    // A storage server's directory of one cluster under the other one.
    let (mine, theirs) = (first.join("holdfast-data/storage-1"), second.join("holdfast-data/storage-1"));
    let aside = first.join("aside");
    std::fs::rename(&mine, &aside).unwrap();
    std::fs::rename(&theirs, &mine).unwrap();
    let (code, _, errors) = run(&first, &["up", "--detach"]);
    assert_ne!(code, 0);
    assert!(errors.contains("another cluster"), "{errors}");
    assert!(members(&first).is_empty());
    // A format that a later program wrote.
    let server_file = aside.join("server.json");
    let newer =
        std::fs::read_to_string(&server_file).unwrap().replace("\"format_version\": 1", "\"format_version\": 9");
    std::fs::write(&server_file, newer).unwrap();
    std::fs::remove_dir_all(&mine).unwrap();
    std::fs::rename(&aside, &mine).unwrap();
    let (code, _, errors) = run(&first, &["up", "--detach"]);
    assert_ne!(code, 0);
    assert!(errors.contains("newer program"), "{errors}");
}

#[test]
fn a_lost_database_is_not_made_anew_but_waits_for_a_restore() {
    let dir = Home::new();
    let dir = dir.path();
    let port = free_ports().to_string();
    assert_eq!(run(dir, &["up", "--detach", "--port", &port]).0, 0);
    std::fs::write(dir.join("photo"), "p").unwrap();
    assert_eq!(run(dir, &["import", "photo", "/photo"]).0, 0);
    wait_for("the journal's copies have everything", 30, || {
        let report: serde_json::Value = serde_json::from_str(&run(dir, &["report", "--json"]).1).ok()?;
        (report["journal"]["copied_version"] == report["version"]).then_some(())
    });
    assert_eq!(run(dir, &["down"]).0, 0);
    std::fs::remove_dir_all(dir.join("holdfast-data/name-server")).unwrap();
    let (code, table, notes) = run(dir, &["up", "--detach"]);
    assert!(code == 0 && table.contains("storage-3"), "{table}{notes}");
    assert!(notes.contains("holdfast restore"), "{notes}");
    let (code, _, errors) = run(dir, &["ls"]);
    assert_ne!(code, 0, "{errors}");
    let restored = wait_for("the restore goes through", 60, || {
        let (code, told, _) = run(dir, &["restore"]);
        (code == 0).then_some(told)
    });
    assert!(restored.contains("from the copies of the journal"), "{restored}");
    wait_for("its bytes are there", 30, || (run(dir, &["cat", "/photo"]).1 == "p").then_some(()));
    assert!(run(dir, &["restore", "--status"]).1.contains("The metadata is restored"));
    assert_eq!(run(dir, &["down"]).0, 0);
    // Nor is one that is damaged: it stays where it is until somebody restores.
    let database = dir.join("holdfast-data/name-server/metadata.sqlite");
    let bytes = std::fs::read(&database).unwrap();
    let damaged: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| if at < 4096 { *byte } else { 0x5a }).collect();
    std::fs::write(&database, &damaged).unwrap();
    let (code, _, notes) = run(dir, &["up", "--detach"]);
    assert!(code == 0 && notes.contains("gone or damaged") && notes.contains("holdfast restore"), "{notes}");
    assert_eq!(std::fs::read(&database).unwrap(), damaged);
    let (_, report, _) = run(dir, &["report"]);
    assert!(report.contains("The cluster is in danger") && report.contains("metadata.sqlite is damaged"), "{report}");
    wait_for("the restore goes through", 60, || {
        let (code, told, errors) = run(dir, &["restore"]);
        assert!(code == 0 || errors.contains("announced"), "{told}{errors}");
        (code == 0).then_some(())
    });
    wait_for("its bytes are there", 30, || (run(dir, &["cat", "/photo"]).1 == "p").then_some(()));
    assert_eq!(run(dir, &["down"]).0, 0);
}
