//! `holdfast up`, `--detach`, `--only`, `down`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::cluster::ended;
use crate::common::wait_for;

/// Four neighbouring ports that are free now.
pub fn free_ports() -> u16 {
    loop {
        // Below those that the system gives to connections, which would take them while the cluster is down.
        let port: u16 = rand::random_range(20_000..32_000);
        let all: Vec<_> =
            (0..4).map(|offset| TcpListener::bind(("127.0.0.1", port.checked_add(offset)?)).ok()).collect();
        if all.iter().all(Option::is_some) {
            return port;
        }
    }
}

/// A directory for clusters; what still runs in it ends with it, also when a test fails.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
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

pub fn holdfast(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(args).current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    for name in ["HOLDFAST_CONFIG", "HOLDFAST_NAME_SERVER", "HOLDFAST_TOKEN", "HOLDFAST_DATABASE"] {
        command.env_remove(name);
    }
    command
}

pub fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    ended(holdfast(dir, args).output().unwrap())
}

pub fn members(dir: &Path) -> Vec<i32> {
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
    let running = members(dir);
    let (code, table, errors) = run(dir, &["up", "--detach"]);
    assert!(code == 0 && table.contains("storage-3"), "what runs is shown: {code} {table}{errors}");
    assert_eq!(members(dir), running);
    let (code, _, errors) = run(dir, &["up", "--detach", "--port", &free_ports().to_string()]);
    assert!(code == 4 && errors.contains("running already") && errors.contains("holdfast down"), "{errors}");
    let note = std::fs::read_to_string(dir.join("holdfast-data/run/storage-2.json")).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&note).unwrap()["pid"].as_i64().unwrap() as i32;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_for("it is dead", 10, || (!alive(pid)).then_some(()));
    let (code, _, errors) = run(dir, &["up", "--only", "storage-9"]);
    assert_eq!(code, 3, "{errors}");
    assert_eq!(run(dir, &["up", "--only", "storage-2"]).0, 0);
    assert_eq!(members(dir).len(), 4);
    // A complete database is not restored without a word.
    let (code, _, errors) = run(dir, &["restore"]);
    assert!(code == 4 && errors.contains("--force") && errors.contains("complete"), "{code} {errors}");
    assert_eq!(run(dir, &["restore", "--abort"]).0, 4, "there is none");
    assert_eq!(run(dir, &["mkdir", "/goes-on"]).0, 0);
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
        wait_for("it has ended", 30, || up.try_wait().unwrap());
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
        // An empty cluster would turn nobody away.
        std::fs::write(dir.join("photo"), "p").unwrap();
        assert_eq!(run(dir, &["import", "photo", "/photo"]).0, 0);
        assert_eq!(run(dir, &["down"]).0, 0);
    }
    // A storage server's directory of one cluster under the other one.
    let (mine, theirs) = (first.join("holdfast-data/storage-1"), second.join("holdfast-data/storage-1"));
    let aside = first.join("aside");
    std::fs::rename(&mine, &aside).unwrap();
    std::fs::rename(&theirs, &mine).unwrap();
    // The others serve; it is left out, and the reason is said within seconds.
    let (code, _, errors) = run(&first, &["up", "--detach"]);
    assert_eq!(code, 7, "{errors}");
    assert!(errors.contains("storage-1 is left out") && errors.contains("another cluster"), "{errors}");
    assert_eq!(run(&first, &["cat", "/photo"]).1, "p");
    assert_eq!(run(&first, &["down"]).0, 0);
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
    assert!(code == 6 && errors.contains("holdfast restore"), "nobody knows what exists: {code} {errors}");
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
    // A member is started again also while there is no name server.
    for member in ["name-server", "storage-2"] {
        let note = std::fs::read_to_string(dir.join(format!("holdfast-data/run/{member}.json"))).unwrap();
        let pid = serde_json::from_str::<serde_json::Value>(&note).unwrap()["pid"].as_i64().unwrap() as i32;
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        wait_for("it is dead", 10, || (!alive(pid)).then_some(()));
    }
    let (code, told, errors) = run(dir, &["up", "--only", "storage-2"]);
    assert_eq!((code, members(dir).len()), (0, 3), "{told}{errors}");
    let (code, told, errors) = run(dir, &["up", "--only", "name-server"]);
    assert_eq!((code, members(dir).len()), (0, 4), "{told}{errors}");
    wait_for("its bytes are there", 30, || (run(dir, &["cat", "/photo"]).1 == "p").then_some(()));
    assert_eq!(run(dir, &["down"]).0, 0);
}

/// The file by which clients find the cluster.
fn client_toml(dir: &Path) -> std::path::PathBuf {
    dir.join("holdfast-data/client.toml")
}

fn restart(dir: &Path) -> (i32, String) {
    assert_eq!(run(dir, &["down"]).0, 0);
    let (code, _, notes) = run(dir, &["up", "--detach"]);
    (code, notes)
}

#[test]
fn a_cluster_starts_whatever_tokens_there_are() {
    let home = Home::new();
    let dir = home.path();
    let port = free_ports().to_string();
    assert_eq!(run(dir, &["up", "--detach", "--port", &port]).0, 0);
    let path = client_toml(dir);
    let first = std::fs::read_to_string(&path).unwrap();
    let mut text = first.clone();
    // As SECURITY.md recommends: an own superuser, and the first one is revoked.
    let token = run(dir, &["token", "create", "su2", "--role", "superuser"]).1.trim().to_string();
    let first_token =
        first.lines().find_map(|line| line.strip_prefix("token = ")).unwrap().trim_matches('"').to_string();
    text = text.replace(&first_token, &token);
    let own = format!("# mine\n{text}");
    std::fs::write(&path, &own).unwrap();
    assert_eq!(run(dir, &["token", "revoke", "superuser"]).0, 0);
    let (code, notes) = restart(dir);
    assert_eq!((code, notes.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), own, "a file whose token works is not touched");
    assert_eq!(run(dir, &["ls", "/"]).0, 0);
    assert_eq!(run(dir, &["up", "--only", "storage-1"]).0, 4, "it runs");
    // The last superuser stays, unless somebody insists.
    let (code, _, errors) = run(dir, &["token", "revoke", "su2"]);
    assert!(code == 4 && errors.contains("last superuser") && errors.contains("--force"), "{code} {errors}");
    assert_eq!(run(dir, &["token", "create", "reader", "--role", "reader", "--prefix", "/lab"]).0, 0);
    assert_eq!(run(dir, &["token", "revoke", "su2", "--force"]).0, 0);
    // Nobody can do anything any more, and it starts all the same, and says so.
    let (code, notes) = restart(dir);
    assert!(code == 0 && notes.contains("not valid") && notes.contains("revoked"), "{code} {notes}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), own, "there is no better one");
    let (code, _, errors) = run(dir, &["ls", "/"]);
    assert!(code == 5 && errors.contains("revoked"), "{code} {errors}");
    // Without a file there is one that names the servers.
    std::fs::remove_file(&path).unwrap();
    let (code, notes) = restart(dir);
    assert!(code == 0 && notes.contains("no token"), "{code} {notes}");
    assert!(!std::fs::read_to_string(&path).unwrap().contains("hf_"));
    assert_eq!(run(dir, &["down"]).0, 0);
}

#[test]
fn a_worthless_token_is_replaced_by_the_first_and_what_cannot_be_judged_stays() {
    let home = Home::new();
    let dir = home.path();
    let port = free_ports();
    assert_eq!(run(dir, &["up", "--detach", "--port", &port.to_string()]).0, 0);
    let path = client_toml(dir);
    let first = std::fs::read_to_string(&path).unwrap();
    let with = |token: &str| {
        let line = first.lines().find(|line| line.starts_with("token = ")).unwrap();
        first.replace(line, &format!("token = \"{token}\""))
    };
    std::fs::write(&path, with("hf_old")).unwrap();
    let (code, notes) = restart(dir);
    assert!(code == 0 && notes.contains("client.toml.old"), "{code} {notes}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
    assert_eq!(std::fs::read_to_string(path.with_extension("toml.old")).unwrap(), with("hf_old"));
    // A token for a part of the namespace works.
    let part = run(dir, &["token", "create", "part", "--prefix", "/lab"]).1.trim().to_string();
    std::fs::write(&path, with(&part)).unwrap();
    let (code, notes) = restart(dir);
    assert_eq!((code, notes.as_str(), std::fs::read_to_string(&path).unwrap()), (0, "", with(&part)));
    // Damaged, or of another cluster: a person's business.
    for strange in ["no toml [".to_string(), first.replace("127.0.0.1", "elsewhere.example")] {
        std::fs::write(&path, &strange).unwrap();
        let (code, notes) = restart(dir);
        let told = strange.lines().find_map(|line| line.strip_prefix("token = ")).map(|token| token.trim_matches('"'));
        let is_told = told.is_some_and(|token| notes.contains(token));
        assert!(code == 0 && notes.contains("left as it is") && !is_told, "{code} {notes}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), strange);
    }
    // A database that is gone knows no token; it may again after a restore.
    std::fs::write(&path, with(&part)).unwrap();
    assert_eq!(run(dir, &["down"]).0, 0);
    std::fs::remove_dir_all(dir.join("holdfast-data/name-server")).unwrap();
    let (code, _, notes) = run(dir, &["up", "--detach"]);
    assert!(code == 0 && notes.contains("holdfast restore") && notes.contains("token first"), "{notes}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), with(&part));
    assert_eq!(run(dir, &["down"]).0, 0);
    // On another port the token is kept.
    let other = free_ports();
    assert_eq!(run(dir, &["up", "--detach", "--port", &other.to_string()]).0, 0);
    let moved = with(&part).replace(&port.to_string(), &other.to_string());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), moved);
    assert_eq!(run(dir, &["down"]).0, 0);
}

#[test]
fn names_that_urls_lose_are_refused_and_can_be_revoked() {
    let home = Home::new();
    let dir = home.path();
    assert_eq!(run(dir, &["up", "--detach", "--port", &free_ports().to_string(), "--storage-servers", "2"]).0, 0);
    for name in [".", "..", "a/b", "%2e%2e"] {
        let (code, _, errors) = run(dir, &["token", "create", name]);
        assert!(code == 2 && errors.contains("cannot be a token's name"), "{name}: {code} {errors}");
        // One that an older program made: the command reaches it.
        let (code, _, errors) = run(dir, &["token", "revoke", name]);
        assert!(code == 3 && errors.contains(&format!("no token named {name:?}")), "{name}: {code} {errors}");
    }
    for name in ["a b", "50%", "Ärzte", "...", "a?b#c&d=e+f"] {
        assert_eq!(run(dir, &["token", "create", name]).0, 0, "{name}");
        assert_eq!(run(dir, &["token", "revoke", name]).0, 0, "{name}");
    }
    assert_eq!(run(dir, &["down"]).0, 0);
}

#[test]
fn without_its_secret_nothing_of_a_cluster_is_changed() {
    let home = Home::new();
    let dir = home.path();
    assert_eq!(run(dir, &["up", "--detach", "--port", &free_ports().to_string(), "--storage-servers", "2"]).0, 0);
    assert_eq!(run(dir, &["down"]).0, 0);
    let data = dir.join("holdfast-data");
    let aside = dir.join("secret-aside");
    std::fs::rename(data.join("secret"), &aside).unwrap();
    let files = || {
        let mut all: Vec<_> = walkdir::WalkDir::new(&data)
            .into_iter()
            .flatten()
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| (entry.path().to_path_buf(), std::fs::read(entry.path()).unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = files();
    for args in [&["up", "--detach"][..], &["up", "--detach", "--port", "9000"], &["up", "--only", "storage-1"]] {
        let (code, _, errors) = run(dir, args);
        assert!(
            code == 2 && errors.contains("secret is missing") && errors.contains("backup"),
            "{args:?}: {code} {errors}"
        );
        assert!(files() == before, "{args:?} changed something");
    }
    std::fs::rename(&aside, data.join("secret")).unwrap();
    assert_eq!(run(dir, &["up", "--detach"]).0, 0);
    assert_eq!(run(dir, &["down"]).0, 0);
}

#[test]
fn all_that_is_written_is_private_and_logs_are_bounded() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let dir = home.path();
    let port = free_ports().to_string();
    // Whatever the umask.
    let script = "umask 000; exec \"$@\"";
    let mut up = Command::new("sh");
    up.args(["-c", script, "sh", env!("CARGO_BIN_EXE_holdfast"), "up", "--detach", "--log-size", "1", "--port", &port]);
    up.args(["--storage-servers", "2"]).current_dir(dir).env("HOME", dir).env("RUST_LOG", "trace").stdin(Stdio::null());
    let (code, _, errors) = ended(up.output().unwrap());
    assert_eq!(code, 0, "{errors}");
    let log = dir.join("holdfast-data/logs/name-server.log");
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    // Each request is logged, whoever sends it.
    wait_for("the log was begun anew three times", 60, || {
        let mut stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        let request = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(900));
        for _ in 0..200 {
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 4_096];
            assert!(stream.read(&mut answer).unwrap() > 0);
        }
        log.with_extension("log.3").exists().then_some(())
    });
    let pid_before = members(dir);
    std::fs::write(dir.join("photo"), "p").unwrap();
    assert_eq!(run(dir, &["import", "photo", "/photo"]).0, 0);
    wait_for("the new log is written to", 10, || (size(&log) > 0).then_some(()));
    assert_eq!(members(dir), pid_before, "the same processes go on");
    let logs: Vec<_> =
        std::fs::read_dir(dir.join("holdfast-data/logs")).unwrap().flatten().map(|file| file.path()).collect();
    let of_name_server = logs.iter().filter(|path| path.to_string_lossy().contains("name-server")).count();
    assert!(of_name_server <= 4, "{logs:?}");
    for path in &logs {
        assert!(size(path) <= 1 << 20, "{} has {} bytes", path.display(), size(path));
    }
    for entry in walkdir::WalkDir::new(dir.join("holdfast-data")).into_iter().flatten() {
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{} can be read by others", entry.path().display());
    }
    assert_eq!(run(dir, &["down"]).0, 0);
}
