//! Databases that are lost or set back, and what is looked at afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cluster::Cluster;
use super::{postgres, wait_for};

/// A tree with everything that a journal has to tell: moved directories, copies, overwrites, deletions, empty
/// directories, a token, copies wanted.
pub fn fill(cluster: &Cluster, files: usize) {
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
pub fn tree(cluster: &Cluster) -> Vec<(String, Value, Value)> {
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

pub fn settle(cluster: &Cluster) {
    wait_for("the journal's copies have everything", 30, || {
        let report = cluster.get("/api/v1/report");
        (report["journal"]["copied_version"] == report["version"]).then_some(())
    });
}

/// The servers have heard of the journal's head, with their health checks.
pub fn wait_until_heard(cluster: &Cluster, servers: &[usize]) {
    let version = cluster.get("/api/v1/report")["version"].as_i64().unwrap();
    wait_for("the servers have heard of the journal's head", 20, || {
        let heard = |number: &usize| Some(cluster.storage_status(*number)?.heard_version);
        servers.iter().all(|number| heard(number) >= Some(version)).then_some(())
    });
}

pub fn restore(cluster: &Cluster, body: &str) -> Value {
    let answer = cluster.http().post("/api/v1/restore", body);
    assert_eq!(answer.status, 202, "{}", answer.body);
    wait_for("the restore ends", 120, || {
        let status = cluster.get("/api/v1/restore");
        (status["state"] != "running").then_some(status)
    })
}

pub fn restored(cluster: &Cluster, body: &str) -> Value {
    let status = restore_when_all_are_there(cluster, body);
    assert_eq!(status["state"], "done", "{status:#}");
    status
}

/// Stops everything, takes the database away, and starts the name server without `--initialize`.
pub fn lose_database(cluster: &mut Cluster, database: &Option<String>) {
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
pub fn restore_when_all_are_there(cluster: &Cluster, body: &str) -> Value {
    wait_for("the restore goes through", 60, || {
        let status = restore(cluster, body);
        // Servers that have not come up yet, or that a busy machine keeps from answering.
        let later = ["announced", "do not answer", "cannot be reached", "did not answer"];
        let incomplete = status["error"].as_str().is_some_and(|error| later.iter().any(|word| error.contains(word)));
        (!incomplete).then_some(status)
    })
}

/// Whether nothing is wrong but that the tests have started servers again and again.
pub fn is_well(report: &Value) -> bool {
    let Some(troubles) = report["troubles"].as_array() else { return false };
    let restless = |trouble: &Value| matches!(trouble["code"].as_str(), Some("server_restarts" | "server_flaps"));
    troubles.iter().all(|trouble| trouble["severity"] == "notice" || restless(trouble))
}

pub fn wait_until_healthy(cluster: &Cluster) {
    wait_for("the cluster is healthy", 60, || {
        let report = cluster.get("/api/v1/report");
        let synced = !report["troubles"].to_string().contains("server_syncing");
        (is_well(&report) && synced && report["repair"]["queued"] == 0).then_some(())
    });
}

/// A copy of the database of a cluster whose processes have ended.
pub struct Backup {
    database: Option<String>,
    copy: String,
}

const SUFFIXES: [&str; 2] = ["", "-wal"];

pub fn back_up(cluster: &Cluster, database: &Option<String>) -> Backup {
    let copy = match database {
        Some(url) => postgres::shared().copy(url),
        None => {
            let (from, to) = (cluster.path("metadata.sqlite"), cluster.path("backup.sqlite"));
            copy_sqlite(&from, &to);
            to.to_str().unwrap().into()
        }
    };
    Backup { database: database.clone(), copy }
}

impl Backup {
    /// Sets the database back to it. The cluster's processes have ended.
    pub fn put_back(&self, cluster: &Cluster) {
        match &self.database {
            Some(url) => postgres::shared().replace(url, &self.copy),
            None => {
                let path = cluster.path("metadata.sqlite");
                remove_sqlite(&path);
                copy_sqlite(Path::new(&self.copy), &path);
            }
        }
    }
}

fn copy_sqlite(from: &Path, to: &Path) {
    for suffix in SUFFIXES {
        let part = format!("{}{suffix}", from.display());
        if Path::new(&part).exists() {
            fs::copy(part, format!("{}{suffix}", to.display())).unwrap();
        }
    }
}
