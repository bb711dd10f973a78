//! `fsck` on a cluster that works, on one that was damaged behind its back, and on one that takes no changes.

use std::fs;

use diesel::prelude::*;
use rustix::process::Signal;
use serde_json::Value;

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

fn start() -> Cluster {
    let args = ["--health-interval", "0.3", "--down-after", "1", "--repair-delay", "2", "--read-ttl", "1"];
    let name_server_args = args.map(String::from).to_vec();
    let cluster = Cluster::start(&Plan { name_server_args, ..Plan::default() });
    let dir = cluster.path("in");
    fs::create_dir_all(&dir).unwrap();
    for number in 0..40 {
        let size = if number % 4 == 0 { 150_000 } else { 700 };
        fs::write(dir.join(format!("f{number}")), vec![number as u8; size]).unwrap();
    }
    cluster.ok(&["import", dir.to_str().unwrap(), "/d"]);
    cluster
}

fn fsck(cluster: &Cluster, args: &[&str]) -> (i32, Value) {
    let line: Vec<&str> = ["fsck", "--json"].into_iter().chain(args.iter().copied()).collect();
    let (code, report, errors) = cluster.run(&line);
    (code, serde_json::from_str(&report).unwrap_or_else(|_| panic!("no report: {report}{errors}")))
}

fn kinds(report: &Value) -> Vec<&str> {
    let mut kinds: Vec<&str> =
        report["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

fn sql(path: &std::path::Path, statement: &str) -> usize {
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    diesel::sql_query("PRAGMA busy_timeout = 5000").execute(&mut connection).unwrap();
    diesel::sql_query(statement).execute(&mut connection).unwrap()
}

#[test]
fn damage_behind_the_back_is_found_and_put_right() {
    let cluster = start();
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, &report["clean"], kinds(&report)), (0, &Value::Bool(true), vec![]), "{report}");
    assert_eq!((&report["objects"], &report["replicas"]), (&Value::from(40), &Value::from(80)));
    assert!(cluster.ok(&["fsck"]).contains("Nothing is wrong."));
    let last = cluster.ok(&["fsck", "--status"]);
    assert!(last.contains("Nothing is wrong.") && last.contains("the last fsck found"), "{last}");
    // A storage server forgets three of its copies, and the metadata a file.
    let index = cluster.storage_dir(0).join("index.sqlite");
    let forgotten = sql(
        &index,
        "DELETE FROM replicas WHERE object IN (SELECT object FROM replicas WHERE label NOT LIKE '%/f1' LIMIT 3)",
    );
    assert_eq!(forgotten, 3);
    assert_eq!(sql(&cluster.path("metadata.sqlite"), "DELETE FROM entries WHERE name = 'f1'"), 1);
    fs::remove_file(cluster.path("in/f1")).unwrap();
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, kinds(&report)), (1, vec!["missing", "missing", "missing", "unreferenced"]), "{report}");
    assert_eq!(report["repaired"], 0);
    assert!(report["findings"].as_array().unwrap().iter().any(|finding| finding["server"] == "storage-0"));
    let (code, report) = fsck(&cluster, &["--repair"]);
    assert_eq!((code, &report["repaired"]), (1, &Value::from(4)), "{report}");
    wait_for("everything is put right", 60, || (fsck(&cluster, &[]).0 == 0).then_some(()));
    let out = cluster.path("out");
    cluster.ok(&["export", "/d", out.to_str().unwrap()]);
    let diff = std::process::Command::new("diff").arg("-r").arg(cluster.path("in")).arg(out).status().unwrap();
    assert!(diff.success());
}

#[test]
fn a_server_that_cannot_be_asked_and_a_cluster_that_takes_no_changes() {
    let mut cluster = start();
    cluster.storage[2].kill();
    wait_for("it is down", 20, || (cluster.get("/api/v1/report")["servers_down"] == 1).then_some(()));
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!(code, 1);
    assert_eq!((&report["clean"], &report["servers_checked"]), (&Value::Bool(false), &Value::from(2)));
    assert!(report["servers_skipped"][0].as_str().unwrap().starts_with("storage-2: it is down"), "{report}");
    cluster.storage[2].start();
    cluster.wait_for_live(3);
    wait_for("nothing is wrong", 60, || (fsck(&cluster, &[]).0 == 0).then_some(()));
    sql(&cluster.path("metadata.sqlite"), "UPDATE cluster SET mode = 'read_only', mode_reason = 'a test'");
    assert_eq!(fsck(&cluster, &[]).0, 0, "looking is always allowed");
    let (code, _, errors) = cluster.run(&["fsck", "--repair"]);
    assert!(code == 6 && errors.contains("a test"), "{errors}");
    let token = cluster.ok(&["token", "list"]);
    assert!(token.contains("superuser"));
}

/// It is the name server's work: asked for twice it is one, it goes on without a client, and a name server that ends in the
/// middle of it says so when it is back.
#[test]
fn it_is_a_job_of_the_name_server() {
    let mut cluster = start();
    let (code, status) = fsck(&cluster, &["--status"]);
    assert_eq!((code, &status["state"]), (0, &"none".into()));
    wait_for("one is interrupted", 120, || {
        // It waits for a server that hangs.
        cluster.storage[0].signal(Signal::STOP);
        let begun = cluster.http().post("/api/v1/fsck", "{}");
        let again = cluster.http().post("/api/v1/fsck", "{}");
        let other = cluster.http().post("/api/v1/fsck", r#"{"repair": true}"#);
        assert_eq!((begun.status, again.status), (202, 202), "{}", begun.body);
        let running = cluster.get("/api/v1/fsck");
        cluster.name_server.kill();
        cluster.storage[0].signal(Signal::CONT);
        cluster.name_server.start();
        cluster.wait_for_live(3);
        if running["state"] != "running" {
            return None;
        }
        assert_eq!((&again.json()["id"], &again.json()["joined"]), (&begun.json()["id"], &true.into()));
        assert!(other.code() == "busy" && other.body.contains("fsck --status"), "{}", other.body);
        let (_, status) = fsck(&cluster, &["--status"]);
        assert_eq!(status["id"], begun.json()["id"]);
        assert!(cluster.ok(&["fsck", "--status"]).contains("was interrupted"));
        (status["state"] == "interrupted").then_some(())
    });
    wait_for("nothing is wrong", 60, || (fsck(&cluster, &[]).0 == 0).then_some(()));
    // Nobody follows it, and it comes to its end; what it found stays over restarts.
    let begun = cluster.http().post("/api/v1/fsck", "{}").json();
    let done = wait_for("it ends", 60, || {
        let job = cluster.get("/api/v1/fsck");
        (job["state"] == "done").then_some(job)
    });
    assert_eq!((&done["id"], &done["report"]["objects"], &done["by"]), (&begun["id"], &40.into(), &"superuser".into()));
    cluster.name_server.kill();
    cluster.name_server.start();
    assert_eq!(cluster.get("/api/v1/fsck"), done);
}

#[test]
fn events_can_be_filtered() {
    let cluster = start();
    cluster.ok(&["setrep", "3", "/d/f3"]);
    wait_for("a copy is made", 30, || {
        cluster.ok(&["events", "--kind", "replica_copied"]).contains("new copy").then_some(())
    });
    let stat: Value = serde_json::from_str(&cluster.ok(&["stat", "--json", "/d/f3"])).unwrap();
    let events = |args: &[&str]| -> Vec<Value> {
        let line: Vec<&str> = ["events", "--json"].into_iter().chain(args.iter().copied()).collect();
        serde_json::from_str(&cluster.ok(&line)).unwrap()
    };
    let object = stat[0]["object"].as_str().unwrap();
    assert!(events(&["--object", object]).iter().all(|event| event["object"] == object));
    assert_eq!(events(&["--object", object, "--kind", "replica_copied"]).len(), 1);
    assert!(!events(&["--server", "storage-0"]).is_empty());
    let (code, _, errors) = cluster.run(&["events", "--kind", "nothing_of_the_kind"]);
    assert!(code == 2 && errors.contains("server_down") && errors.contains("replica_deleted"), "{code} {errors}");
    let refused = cluster.http().get("/api/v1/events?kind=nothing_of_the_kind");
    assert!(refused.status == 400 && refused.body.contains("server_down"), "{}", refused.body);
    // Who did what, and where.
    let writer = cluster.ok(&["token", "create", "anna", "--role", "writer"]);
    let as_anna = |args: &[&str]| {
        let output = cluster.command(args).env("HOLDFAST_TOKEN", writer.trim()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    as_anna(&["mkdir", "/of-anna"]);
    as_anna(&["import", cluster.path("in").join("f1").to_str().unwrap(), "/of-anna/f"]);
    as_anna(&["mv", "/of-anna/f", "/of-anna/g"]);
    as_anna(&["rm", "/of-anna/g"]);
    cluster.ok(&["token", "revoke", "anna"]);
    let kinds = |args: &[&str]| -> Vec<String> {
        events(args).iter().map(|event| event["kind"].as_str().unwrap().to_string()).collect()
    };
    wait_for("the copies are deleted, by whom and why", 60, || {
        let kinds = kinds(&["--by", "anna", "--kind", "replica_deleted"]);
        (!kinds.is_empty()).then_some(())
    });
    let by_anna = kinds(&["--by", "anna"]);
    let changes = ["file_removed", "moved", "file_written", "directory_made"];
    assert_eq!(by_anna.iter().filter(|kind| changes.contains(&kind.as_str())).cloned().collect::<Vec<_>>(), changes);
    let there = kinds(&["--path", "/of-anna", "--verbose"]);
    assert!(changes.iter().all(|kind| there.iter().any(|other| other == kind)), "{there:?}");
    assert!(there.iter().any(|kind| kind == "replica_deleted"), "the deletion has the path: {there:?}");
    assert!(cluster.ok(&["events", "--by", "anna"]).contains("removed by anna"));
    assert_eq!(kinds(&["--since", "1h", "--kind", "token_revoked"]), ["token_revoked"]);
    assert!(kinds(&["--until", "1h"]).is_empty() && kinds(&["--since", "2099-01-01 00:00"]).is_empty());
    assert_eq!(cluster.run(&["events", "--since", "yesterday"]).0, 2);
    let revoked = &events(&["--kind", "token_revoked"])[0];
    assert!(revoked["by"] == "superuser" && revoked["detail"].as_str().unwrap().contains("anna"), "{revoked}");
    assert_eq!(cluster.run(&["events", "--server", "nobody"]).0, 3);
    assert_eq!(cluster.run(&["events", "--object", "nonsense"]).0, 2);
    let why = cluster.ok(&["why", "/d/f3"]);
    for what in ["SINCE", "What happened to these bytes", "all 3 copies wanted are there"] {
        assert!(why.contains(what), "{what} is not in {why}");
    }
}
