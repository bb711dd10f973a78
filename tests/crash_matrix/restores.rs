//! A restore that is ended or killed in its middle leaves the cluster as it was, and one that is repeated ends the same.

use crate::common::cluster::{Cluster, Plan};
use crate::common::restore::*;
use crate::common::{postgres, wait_for};

/// Where a restore is held, and what it says there.
const MIDDLES: [(&str, &str); 2] = [
    // The servers are fenced, nothing is read.
    ("restore-reading=return", "fencing"),
    // Some tables are written anew, nothing is committed.
    ("restore-batch=sleep(6000)", "writing the tables"),
];

fn restart(cluster: &mut Cluster, failpoints: Option<&str>) {
    cluster.name_server.kill();
    cluster.name_server.env = failpoints.map(|text| ("FAILPOINTS".into(), text.into())).into_iter().collect();
    cluster.name_server.start();
}

fn mode(cluster: &Cluster) -> Option<String> {
    cluster.try_get("/status")?["mode"].as_str().map(String::from)
}

/// Begins a restore and waits until it is held.
fn begin(cluster: &mut Cluster, (failpoint, step): (&str, &str)) {
    restart(cluster, Some(failpoint));
    cluster.wait_for_live(3);
    let answer = cluster.http().post("/api/v1/restore", r#"{"force":true}"#);
    assert_eq!(answer.status, 202, "{}", answer.body);
    wait_for("the restore is in its middle", 60, || {
        let status = cluster.try_get("/api/v1/restore")?;
        assert_eq!(status["state"], "running", "{status:#}");
        (status["step"].as_str()?.contains(step) && mode(cluster)? == "restoring").then_some(())
    });
}

fn abort(cluster: &Cluster) -> String {
    wait_for("the restore is aborted", 60, || {
        let (code, told, errors) = cluster.run(&["restore", "--abort"]);
        // It is in the middle of a statement.
        assert!(code == 0 || errors.contains("ask again"), "{code} {told}{errors}");
        (code == 0).then_some(told)
    })
}

fn interrupted(database: Option<String>) {
    let args = ["--health-interval", "0.3", "--down-after", "1", "--repair-delay", "3", "--read-ttl", "1"];
    let name_server_args = args.map(String::from).to_vec();
    let mut cluster = Cluster::start(&Plan { database, name_server_args, ..Plan::default() });
    fill(&cluster, 60);
    settle(&cluster);
    let before = tree(&cluster);
    for (round, middle) in MIDDLES.into_iter().enumerate() {
        let goes_on = |cluster: &Cluster, what: &str| {
            assert_eq!(mode(cluster).unwrap(), "normal");
            assert!(tree(cluster) == before, "{middle:?} {what}: the tree is another one");
            wait_for("changes are taken", 30, || (cluster.run(&["mkdir", "-p", "/new"]).0 == 0).then_some(()));
            cluster.ok(&["rmdir", "/new"]);
            wait_until_healthy(cluster);
        };
        begin(&mut cluster, middle);
        // A second one is the first one.
        let second = cluster.http().post("/api/v1/restore", r#"{"force":true}"#);
        assert_eq!(second.code(), "busy", "{}", second.body);
        // Aborted.
        assert!(abort(&cluster).contains("mode is normal again"));
        let status = cluster.get("/api/v1/restore");
        assert_eq!((&status["state"], &status["before"]["mode"]), (&"failed".into(), &"normal".into()), "{status:#}");
        assert!(status["error"].as_str().unwrap().contains("aborted"), "{status:#}");
        assert_eq!(cluster.run(&["restore", "--abort"]).0, 4, "there is none any more");
        goes_on(&cluster, "aborted");
        let aborted = cluster.get("/api/v1/events?kind=restore_aborted");
        assert_eq!(aborted["events"].as_array().unwrap().len(), 2 * round + 1, "{aborted:#}");
        // Killed and taken back.
        begin(&mut cluster, middle);
        restart(&mut cluster, None);
        assert_eq!(mode(&cluster).unwrap(), "restoring");
        assert_eq!(cluster.run(&["mkdir", "/x"]).0, 6, "no changes");
        assert!(abort(&cluster).contains("mode is normal again"));
        cluster.wait_for_live(3);
        goes_on(&cluster, "killed and aborted");
        // Killed and repeated.
        begin(&mut cluster, middle);
        restart(&mut cluster, None);
        let status = restored(&cluster, "{}");
        assert_eq!((&status["losses_total"], &status["doubts_total"]), (&0.into(), &0.into()), "{status:#}");
        cluster.wait_for_live(3);
        goes_on(&cluster, "killed and repeated");
        settle(&cluster);
    }
    let aborted = cluster.get("/api/v1/events?kind=restore_failed");
    assert_eq!(aborted["events"].as_array().unwrap().len(), 0, "{aborted:#}");
    let left = std::fs::read_dir(cluster.dir.path()).unwrap().flatten();
    let left: Vec<_> =
        left.filter(|entry| entry.file_name().to_string_lossy().starts_with("holdfast-restore")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_restore_on_sqlite_is_ended_at_any_moment() {
    interrupted(None);
}

#[test]
fn a_restore_on_postgres_is_ended_at_any_moment() {
    interrupted(Some(postgres::shared().database()));
}
