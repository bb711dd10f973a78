//! The database of ten thousand files is set back, lost, and lost together with all copies of its journal.

use std::fs;
use std::time::Instant;

use crate::common::cluster::{Cluster, Plan};
use crate::common::restore::*;
use crate::common::{postgres, wait_for};

const FILES_FULL: usize = 10_000;

fn started(database: &Option<String>) -> Cluster {
    let args = ["--health-interval", "0.5", "--down-after", "2", "--repair-delay", "600", "--read-ttl", "1"];
    let name_server_args = args.map(String::from).to_vec();
    Cluster::start(&Plan { database: database.clone(), name_server_args, ..Plan::default() })
}

fn start_servers(cluster: &mut Cluster) {
    cluster.name_server.start();
    cluster.storage.iter_mut().for_each(|server| server.start());
}

/// What happened between the backup and the loss: one storage server misses a part of it.
fn changes_that_one_server_misses(cluster: &mut Cluster) {
    cluster.storage[2].kill();
    wait_for("it is down", 20, || (cluster.get("/api/v1/report")["servers_down"] == 1).then_some(()));
    cluster.ok(&["rm", "-r", "/a/d6/e0"]);
    cluster.ok(&["mv", "/a/d6", "/six"]);
    cluster.ok(&["cp", "-r", "/six", "/six-again"]);
    cluster.ok(&["rm", "/a/d5/e0/f12", "/a/d5/e1/f19", "/a/d5/e2/f26"]);
    let new = cluster.path("new");
    fs::write(&new, "written while one was away").unwrap();
    cluster.ok(&["import", new.to_str().unwrap(), "/a/d5/e0/f33"]);
    cluster.ok(&["mkdir", "-p", "/empty/deeper"]);
    settle(cluster);
}

fn timed(cluster: &Cluster, what: &str, body: &str) -> serde_json::Value {
    let started = Instant::now();
    let status = restored(cluster, body);
    println!(
        "{what}: {} files and {} copies in {:.1?}, from {}",
        status["files"],
        status["replicas"],
        started.elapsed(),
        status["source"]
    );
    // Without a journal, what only it had told is lost; no file is.
    let without_journal = u64::from(status["source"] == "labels");
    assert_eq!(status["losses_total"], without_journal, "{status:#}");
    status
}

fn set_back_then_lost_then_without_journal(kind: &str, database: Option<String>) {
    let files = crate::scaled(FILES_FULL);
    let mut cluster = started(&database);
    let began = Instant::now();
    fill(&cluster, files);
    println!("{kind}: filled with {files} files in {:.1?}", began.elapsed());
    settle(&cluster);
    cluster.kill_all();
    let backup = back_up(&cluster, &database);
    cluster.start_all();
    changes_that_one_server_misses(&mut cluster);
    let before = tree(&cluster);
    wait_until_heard(&cluster, &[0, 1]);

    cluster.kill_all();
    backup.put_back(&cluster);
    start_servers(&mut cluster);
    wait_for("the cluster protects itself", 30, || (cluster.get("/status")["mode"] == "read_only").then_some(()));
    let status = timed(&cluster, &format!("{kind}, set back"), "{}");
    assert_eq!(status["source"], "forward");
    cluster.wait_for_live(3);
    assert!(tree(&cluster) == before, "the tree is another one");
    wait_until_healthy(&cluster);
    settle(&cluster);

    lose_database(&mut cluster, &database);
    start_servers(&mut cluster);
    let status = timed(&cluster, &format!("{kind}, lost"), "{}");
    assert_eq!(status["source"], "journal");
    cluster.wait_for_live(3);
    assert!(tree(&cluster) == before, "the tree is another one");
    assert!(cluster.ok(&["token", "list"]).contains("reader-of-a"));
    wait_until_healthy(&cluster);
    assert_eq!(cluster.ok(&["cat", "/a/d5/e0/f33"]), "written while one was away");

    // Every committed file is at the path of its commit again; those whose bytes were deleted are not.
    wait_for("deletions are carried out", 60, || (cluster.get("/api/v1/report")["outbox"] == 0).then_some(()));
    lose_database(&mut cluster, &database);
    for number in 0..3 {
        fs::remove_dir_all(cluster.storage_dir(number).join("journal")).unwrap();
    }
    start_servers(&mut cluster);
    let status = timed(&cluster, &format!("{kind}, lost with all journals"), "{\"accept_gap\": true}");
    assert_eq!(status["source"], "labels");
    cluster.wait_for_live(3);
    wait_until_healthy(&cluster);
    let labels = cluster.path("labels");
    cluster.ok(&["export", "/a", labels.to_str().unwrap()]);
    let mut compared = 0;
    for number in 0..files {
        let path = format!("d{}/e{}/f{number}", number % 7, number % 3);
        let removed = number % 7 == 4 || [0, 12, 19, 26].contains(&number) || (number % 7 == 6 && number % 3 == 0);
        let overwritten = match number {
            5 => Some("overwritten"),
            33 => Some("written while one was away"),
            _ => None,
        };
        if removed {
            assert!(!labels.join(&path).exists(), "{path} was deleted");
            continue;
        }
        let content = fs::read(labels.join(&path)).unwrap();
        match overwritten {
            Some(text) => assert!(content == text.as_bytes(), "{path}"),
            None => assert!(content == fs::read(cluster.path("in").join(&path)).unwrap(), "{path}"),
        }
        compared += 1;
    }
    println!("{kind}: {compared} files are at the paths of their commits, with their bytes");
}

#[test]
fn ten_thousand_files_come_back_on_sqlite() {
    let _alone = crate::alone();
    set_back_then_lost_then_without_journal("SQLite", None);
}

#[test]
fn ten_thousand_files_come_back_on_postgres() {
    let _alone = crate::alone();
    set_back_then_lost_then_without_journal("Postgres", Some(postgres::shared().database()));
}
