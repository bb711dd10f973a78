//! A storage server's directory when it is damaged or full, and a server that hangs.

use std::fs;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

fn storage_server(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-storage-server")).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Starts the daemon of a directory with a name server that does not answer: it must refuse before it asks.
fn refusal(dir: &str) -> String {
    let secret = crate::common::cluster::SECRET;
    let args = [
        "--data-dir",
        dir,
        "--name-server",
        "http://127.0.0.1:1",
        "--cluster-secret",
        secret,
        "--listen",
        "127.0.0.1:0",
    ];
    let output = storage_server(&args);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    said(&output)
}

#[test]
fn a_lost_or_damaged_index_is_refused_and_rebuilt_from_what_can_be_verified() {
    let mut cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    for size in [10usize, 200_000, 300_000] {
        fs::write(&body, vec![3; size]).unwrap();
        assert_eq!(cluster.http().put(&format!("/f{size}"), &body, &[]).status, 201);
    }
    cluster.kill_all();
    let dir = cluster.storage_dir(0);
    let (dir_text, index) = (dir.to_str().unwrap(), dir.join("index.sqlite"));
    // Lost: nothing is started empty over replicas.
    let aside = cluster.path("aside");
    fs::create_dir(&aside).unwrap();
    let files = ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"];
    let move_all = |from: &std::path::Path, to: &std::path::Path| {
        files
            .iter()
            .filter(|name| from.join(name).exists())
            .for_each(|name| fs::rename(from.join(name), to.join(name)).unwrap());
    };
    move_all(&dir, &aside);
    assert!(refusal(dir_text).contains("does not exist"));
    assert!(!storage_server(&["rebuild", "--data-dir", dir_text]).status.success(), "there is nothing to rebuild from");
    move_all(&aside, &dir);
    // One large object is damaged; the others are kept by a rebuild.
    let damaged =
        walkdir::WalkDir::new(dir.join("objects")).into_iter().flatten().find(|e| e.file_type().is_file()).unwrap();
    fs::write(damaged.path(), "rubbish").unwrap();
    // As if a rebuild had been interrupted: its part is never taken for the whole.
    fs::write(dir.join("index.sqlite.new"), "a part").unwrap();
    assert!(refusal(dir_text).contains("interrupted"));
    let rebuilt = storage_server(&["rebuild", "--data-dir", dir_text]);
    assert!(rebuilt.status.success() && said(&rebuilt).contains("2 copies kept, 1 copy dropped"), "{}", said(&rebuilt));
    cluster.start_all();
    for size in [10usize, 200_000, 300_000] {
        let back = cluster.path(&format!("back{size}"));
        cluster.ok(&["export", &format!("/f{size}"), back.to_str().unwrap()]);
        assert_eq!(fs::read(back).unwrap(), vec![3; size]);
    }
    cluster.kill_all();
    // Rubbish in the place of an index.
    fs::remove_file(dir.join("index.sqlite-wal")).ok();
    fs::write(&index, "this is no database, but it is long enough to be looked at as one, surely".repeat(100)).unwrap();
    assert!(refusal(dir_text).contains("rebuild"));
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_takes_deletes() {
    let name_server_args = ["--replicas", "1", "--read-ttl", "1"].map(String::from).to_vec();
    let cluster =
        Cluster::start(&Plan { storage_servers: 1, small_disk_mb: Some(48), name_server_args, ..Plan::default() });
    let body = cluster.path("body");
    fs::write(&body, vec![5; 2 << 20]).unwrap();
    for number in 0..4 {
        assert_eq!(cluster.http().put(&format!("/f{number}"), &body, &[]).status, 201);
    }
    // Somebody else fills the disk. (The file system is seen through the server's own view.)
    let inside = format!("/proc/{}/root{}", cluster.storage[0].pid(), cluster.storage_dir(0).display());
    let filler = Command::new("dd").args(["if=/dev/zero", &format!("of={inside}/filler"), "bs=4096"]).output().unwrap();
    assert!(said(&filler).contains("No space left"), "{}", said(&filler));
    let refused = cluster.http().put("/more", &body, &[]);
    assert_eq!(refused.code(), "out_of_space", "{}", refused.body);
    wait_for("the report names it", 30, || {
        let report = cluster.get("/api/v1/report");
        let told = |trouble: &serde_json::Value| trouble.to_string().contains("storage-0");
        let full = report["troubles"].as_array()?.iter().any(|one| one["code"] == "disk_full" && told(one));
        (full && report["verdict"] != "healthy").then_some(())
    });
    cluster.ok(&["rm", "/f0", "/f1"]);
    wait_for("the deleted bytes are gone", 30, || (cluster.storage_status(0)?.objects == 2).then_some(()));
    assert_eq!(
        cluster.http().curl(&["-o", "/dev/null", &format!("{}/files/f3", cluster.name_server.url())]).unwrap().status,
        200
    );
}

#[test]
fn a_server_that_hangs_is_noticed_and_its_files_are_read_from_others() {
    let cluster = Cluster::start(&Plan::default());
    let body = cluster.path("body");
    fs::write(&body, vec![8; 100_000]).unwrap();
    for number in 0..6 {
        assert_eq!(cluster.http().put(&format!("/f{number}"), &body, &[]).status, 201);
    }
    cluster.storage[1].signal(Signal::STOP);
    let started = std::time::Instant::now();
    wait_for("it is suspect", 8, || (cluster.get("/api/v1/report")["servers_live"] == 2).then_some(()));
    assert_eq!(cluster.http().put("/g", &body, &[]).status, 201, "placement picks live servers");
    wait_for("it is down", 15, || (cluster.get("/api/v1/report")["servers_down"] == 1).then_some(()));
    assert!(started.elapsed().as_secs() < 16);
    for number in 0..6 {
        assert_eq!(cluster.ok(&["cat", &format!("/f{number}")]).len(), 100_000);
    }
    cluster.storage[1].signal(Signal::CONT);
    cluster.wait_for_live(3);
    assert_eq!(cluster.get("/api/v1/report")["verdict"], "healthy");
}
