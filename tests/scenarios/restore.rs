//! The database is lost, or set back: the storage servers bring the metadata back.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::cluster::{Cluster, Plan};
use crate::common::{postgres, wait_for};

fn plan(database: Option<String>) -> Plan {
    let args = ["--health-interval", "0.3", "--down-after", "1", "--repair-delay", "3", "--read-ttl", "1"];
    Plan { database, name_server_args: args.map(String::from).to_vec(), ..Plan::default() }
}

fn databases() -> [Option<String>; 2] {
    [None, Some(postgres::shared().database())]
}

/// A tree with everything that a journal has to tell: moved directories, copies, overwrites, deletions, empty
/// directories, a token, copies wanted.
fn fill(cluster: &Cluster, files: usize) {
    let dir = cluster.path("in");
    for number in 0..files {
        let path = dir.join(format!("d{}/e{}", number % 7, number % 3));
        fs::create_dir_all(&path).unwrap();
        let size = if number % 20 == 0 { 90_000 } else { 300 };
        fs::write(path.join(format!("f{number}")), vec![number as u8; size]).unwrap();
    }
    cluster.ok(&["import", dir.to_str().unwrap(), "/a"]);
    cluster.ok(&["mkdir", "-p", "/empty/deep"]);
    cluster.ok(&["mv", "/a/d1", "/moved"]);
    cluster.ok(&["mv", "/moved/e1", "/a/d2/inner"]);
    cluster.ok(&["cp", "-r", "/a/d3", "/copy"]);
    cluster.ok(&["rm", "-r", "/a/d4"]);
    cluster.ok(&["rm", "/a/d0/e0/f0"]);
    let new = cluster.path("new");
    fs::write(&new, "overwritten").unwrap();
    cluster.ok(&["import", new.to_str().unwrap(), "/a/d5/e2/f5"]);
    cluster.ok(&["token", "create", "reader-of-a", "--prefix", "/a"]);
}

/// Path, size and digest of every entry.
fn tree(cluster: &Cluster) -> Vec<(String, Value, Value)> {
    let mut rows = Vec::new();
    let mut after = String::new();
    loop {
        let page = cluster.get(&format!("/api/v1/ls?path=/&recursive=true&after={after}"));
        for entry in page["entries"].as_array().unwrap() {
            let name = entry["path"].as_str().or(entry["name"].as_str()).unwrap().to_string();
            rows.push((name, entry["size"].clone(), entry["sha256"].clone()));
        }
        match page["next"].as_str() {
            Some(next) => after = next.replace('/', "%2F"),
            None => return rows,
        }
    }
}

fn settle(cluster: &Cluster) {
    wait_for("the journal's copies have everything", 30, || {
        let report = cluster.get("/api/v1/report");
        (report["journal"]["copied_version"] == report["version"]).then_some(())
    });
}

fn restore(cluster: &Cluster, body: &str) -> Value {
    let answer = cluster.http().post("/api/v1/restore", body);
    assert_eq!(answer.status, 202, "{}", answer.body);
    wait_for("the restore ends", 120, || {
        let status = cluster.get("/api/v1/restore");
        (status["state"] != "running").then_some(status)
    })
}

fn restored(cluster: &Cluster, body: &str) -> Value {
    let status = restore_when_all_are_there(cluster, body);
    assert_eq!(status["state"], "done", "{status:#}");
    status
}

/// Stops everything, takes the database away, and starts the name server without `--initialize`.
fn lose_database(cluster: &mut Cluster, database: &Option<String>) {
    cluster.kill_all();
    match database {
        None => remove_sqlite(&cluster.path("metadata.sqlite")),
        Some(url) => postgres::shared().recreate(url),
    }
    cluster.name_server.drop_arg("--initialize");
}

fn remove_sqlite(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(PathBuf::from(format!("{}{suffix}", path.display())));
    }
}

/// A restore that waits until all servers have announced themselves.
fn restore_when_all_are_there(cluster: &Cluster, body: &str) -> Value {
    wait_for("the restore goes through", 60, || {
        let status = restore(cluster, body);
        // Servers that have not come up yet, or that a busy machine keeps from answering.
        let later = ["announced", "do not answer", "cannot be reached", "did not answer"];
        let incomplete = status["error"].as_str().is_some_and(|error| later.iter().any(|word| error.contains(word)));
        (!incomplete).then_some(status)
    })
}

fn wait_until_healthy(cluster: &Cluster) {
    wait_for("the cluster is healthy", 60, || {
        let report = cluster.get("/api/v1/report");
        (report["verdict"] == "healthy" && report["repair"]["queued"] == 0).then_some(())
    });
}

#[test]
fn a_lost_database_comes_back_whole() {
    for database in databases() {
        let mut cluster = Cluster::start(&plan(database.clone()));
        fill(&cluster, 120);
        settle(&cluster);
        let before = tree(&cluster);
        lose_database(&mut cluster, &database);
        cluster.name_server.start();
        let status = cluster.get("/status");
        assert_eq!(status["mode"], "restoring");
        cluster.storage.iter_mut().for_each(|server| server.start());
        let status = restore_when_all_are_there(&cluster, "{}");
        assert_eq!((&status["state"], &status["source"]), (&"done".into(), &"journal".into()), "{status:#}");
        assert_eq!((&status["losses_total"], &status["conflicts_total"]), (&0.into(), &0.into()), "{status:#}");
        cluster.wait_for_live(3);
        assert_eq!(tree(&cluster), before);
        assert!(cluster.ok(&["token", "list"]).contains("reader-of-a"));
        wait_until_healthy(&cluster);
        // Its bytes are there, new ones are taken, and a second restore finds the new history.
        assert_eq!(cluster.ok(&["cat", "/a/d5/e2/f5"]), "overwritten");
        let new = cluster.path("new");
        fs::write(&new, "after").unwrap();
        cluster.ok(&["import", new.to_str().unwrap(), "/after"]);
        settle(&cluster);
        let before = tree(&cluster);
        lose_database(&mut cluster, &database);
        cluster.name_server.start();
        cluster.storage.iter_mut().for_each(|server| server.start());
        let status = restore_when_all_are_there(&cluster, "{}");
        assert_eq!(status["state"], "done", "{status:#}");
        assert_eq!(status["epoch"], 3);
        cluster.wait_for_live(3);
        assert_eq!(tree(&cluster), before);
    }
}

#[test]
fn a_database_that_was_set_back_is_noticed_and_brought_forward() {
    let mut cluster = Cluster::start(&plan(None));
    fill(&cluster, 60);
    settle(&cluster);
    cluster.kill_all();
    let (backup, path) = (cluster.path("backup.sqlite"), cluster.path("metadata.sqlite"));
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", path.display());
        if Path::new(&from).exists() {
            fs::copy(from, format!("{}{suffix}", backup.display())).unwrap();
        }
    }
    cluster.start_all();
    cluster.ok(&["mv", "/moved", "/moved-again"]);
    cluster.ok(&["rm", "-r", "/copy"]);
    let new = cluster.path("new");
    fs::write(&new, "written after the backup").unwrap();
    cluster.ok(&["import", new.to_str().unwrap(), "/late"]);
    settle(&cluster);
    let before = tree(&cluster);
    // The servers hear of the journal's head with their health checks.
    std::thread::sleep(std::time::Duration::from_secs(1));
    cluster.kill_all();
    remove_sqlite(&path);
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", backup.display());
        if Path::new(&from).exists() {
            fs::copy(from, format!("{}{suffix}", path.display())).unwrap();
        }
    }
    cluster.name_server.start();
    cluster.storage.iter_mut().for_each(|server| server.start());
    wait_for("the cluster protects itself", 30, || (cluster.get("/status")["mode"] == "read_only").then_some(()));
    assert_eq!(cluster.run(&["mkdir", "/x"]).0, 6, "no changes");
    let status = restored(&cluster, "{}");
    assert_eq!(status["source"], "forward", "{status:#}");
    cluster.wait_for_live(3);
    assert_eq!(tree(&cluster), before);
    assert_eq!(cluster.ok(&["cat", "/late"]), "written after the backup");
    wait_until_healthy(&cluster);
}

#[test]
fn without_any_journal_the_labels_bring_the_files_back() {
    let mut cluster = Cluster::start(&plan(None));
    fill(&cluster, 60);
    settle(&cluster);
    let labels = cluster.path("labels");
    lose_database(&mut cluster, &None);
    for number in 0..3 {
        fs::remove_dir_all(cluster.storage_dir(number).join("journal")).unwrap();
    }
    cluster.name_server.start();
    cluster.storage.iter_mut().for_each(|server| server.start());
    std::thread::sleep(std::time::Duration::from_secs(2));
    let status = restored(&cluster, "{\"accept_gap\": true}");
    assert_eq!(status["source"], "labels", "{status:#}");
    assert_eq!(status["losses_total"], 0);
    cluster.wait_for_live(3);
    wait_until_healthy(&cluster);
    // Each file at the path of its commit; f5 was overwritten, and its newest content counts.
    cluster.ok(&["export", "/a", labels.to_str().unwrap()]);
    for number in (0..60).filter(|number| number % 7 != 4 && *number != 0 && *number != 5) {
        let path = format!("d{}/e{}/f{number}", number % 7, number % 3);
        assert!(fs::read(labels.join(&path)).unwrap() == fs::read(cluster.path("in").join(&path)).unwrap(), "{path}");
    }
    assert_eq!(fs::read_to_string(labels.join("d5/e2/f5")).unwrap(), "overwritten");
}

#[test]
fn a_server_that_was_absent_brings_nothing_back_when_it_joins() {
    let mut cluster = Cluster::start(&plan(None));
    fill(&cluster, 60);
    settle(&cluster);
    cluster.storage[2].kill();
    wait_for("it is down", 20, || (cluster.get("/api/v1/report")["servers_down"] == 1).then_some(()));
    cluster.ok(&["rm", "/a/d0/e2/f14", "/a/d0/e1/f7"]);
    cluster.ok(&["mv", "/a/d6", "/six"]);
    settle(&cluster);
    wait_until_repaired(&cluster);
    let before = tree(&cluster);
    lose_database(&mut cluster, &None);
    cluster.name_server.start();
    cluster.storage[0].start();
    cluster.storage[1].start();
    let refused = wait_for("two have announced themselves", 30, || {
        let status = restore(&cluster, "{}");
        status["error"].as_str().filter(|error| error.contains("storage-2")).map(String::from)
    });
    assert!(refused.contains("--without"), "{refused}");
    let status = wait_for("the restore goes through", 60, || {
        let status = restore(&cluster, "{\"without\": [\"storage-2\"]}");
        (status["state"] == "done").then_some(status)
    });
    assert_eq!(status["losses_total"], 0, "{status:#}");
    cluster.wait_for_live(2);
    assert_eq!(tree(&cluster), before);
    cluster.storage[2].start();
    cluster.wait_for_live(3);
    assert_eq!(tree(&cluster), before);
    wait_until_healthy(&cluster);
    assert_eq!(tree(&cluster), before);
}

fn wait_until_repaired(cluster: &Cluster) {
    wait_for("everything has its copies", 60, || {
        let report = cluster.get("/api/v1/report");
        report["under_replicated"].as_array()?.is_empty().then_some(())
    });
}
