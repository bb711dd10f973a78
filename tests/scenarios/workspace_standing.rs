//! A workspace knows its cluster: another one's word, or that of an older database, removes nothing.

use std::fs;
use std::path::Path;

use crate::common::cluster::{Cluster, Plan, ended};
use crate::common::restore::{lose_database, restore_when_all_are_there, settle, wait_until_heard};
use crate::common::tree;

fn plan() -> Plan {
    Plan { storage_servers: 2, ..Plan::default() }
}

/// What a workspace must not do: its files are there and its state is as it was.
fn unchanged(dir: &Path, reference: &Path, work: impl FnOnce()) {
    let state = || fs::read(dir.join(".holdfast/state.ndjson")).unwrap();
    let before = state();
    work();
    tree::assert_equal(dir, reference);
    assert_eq!(state(), before, "the state has changed");
}

fn refused(cluster: &Cluster, dir: &Path, code: i32, words: &str) {
    for args in [&["pull"][..], &["push"], &["pull", "--force"], &["pull", "-n"], &["status"]] {
        let (got, output, errors) = cluster.run_in(dir, args);
        assert_eq!(got, code, "{args:?}: {errors}");
        assert!(output.is_empty() && errors.contains(words), "{args:?}: {output} {errors}");
        assert!(errors.contains("nothing was changed"), "{args:?}: {errors}");
    }
}

#[test]
fn another_cluster_is_not_believed() {
    let (own, other) = (Cluster::start(&plan()), Cluster::start(&plan()));
    let (dir, reference) = (own.path("ws"), own.path("reference"));
    for at in [&dir, &reference] {
        fs::create_dir_all(at.join("d")).unwrap();
        fs::write(at.join("d/f"), "f").unwrap();
        fs::write(at.join("g"), "g").unwrap();
    }
    own.ok(&["init", dir.to_str().unwrap(), "--remote", "/ws"]);
    assert_eq!(own.run_in(&dir, &["push"]).0, 0);
    other.ok(&["mkdir", "/ws"]);
    unchanged(&dir, &reference, || refused(&other, &dir, 4, "this is cluster"));
    // By the configuration that the environment names, too.
    let config = other.path("client.toml");
    let text = format!("name_servers = [\"{}\"]\ntoken = \"{}\"\n", other.name_server.url(), other.token);
    fs::write(&config, text).unwrap();
    unchanged(&dir, &reference, || {
        let mut command = own.command(&["pull"]);
        command.current_dir(&dir).env_remove("HOLDFAST_NAME_SERVER").env("HOLDFAST_CONFIG", &config);
        assert_eq!(ended(command.output().unwrap()).0, 4);
    });
    // A workspace of an earlier version is bound by its own configuration only.
    fs::remove_file(dir.join(".holdfast/cluster.json")).unwrap();
    unchanged(&dir, &reference, || refused(&other, &dir, 4, "does not know yet"));
    assert_eq!(own.run_in(&dir, &["status"]).0, 0);
    assert_eq!(own.run_in(&dir, &["pull"]).0, 0);
    assert!(dir.join(".holdfast/cluster.json").exists());
    tree::assert_equal(&dir, &reference);
}

#[test]
fn a_database_that_has_forgotten_something_is_not_believed() {
    let mut cluster = Cluster::start(&plan());
    let (dir, reference) = (cluster.path("ws"), cluster.path("reference"));
    cluster.ok(&["init", dir.to_str().unwrap(), "--remote", "/"]);
    for at in [&dir, &reference] {
        fs::create_dir_all(at.join("d")).unwrap();
        fs::write(at.join("d/old"), "old").unwrap();
    }
    assert_eq!(cluster.run_in(&dir, &["push"]).0, 0);
    settle(&cluster);
    cluster.kill_all();
    let backup = cluster.path("backup");
    fs::create_dir(&backup).unwrap();
    let names = ["metadata.sqlite", "metadata.sqlite-wal", "metadata.sqlite-shm"];
    let copy = |from: &Path, to: &Path| {
        for name in names {
            let _ = fs::remove_file(to.join(name));
            let _ = fs::copy(from.join(name), to.join(name));
        }
    };
    copy(cluster.dir.path(), &backup);
    cluster.name_server.drop_arg("--initialize");
    cluster.start_all();
    for at in [&dir, &reference] {
        fs::write(at.join("d/new"), "new").unwrap();
    }
    assert_eq!(cluster.run_in(&dir, &["push"]).0, 0);
    settle(&cluster);
    wait_until_heard(&cluster, &[0, 1]);
    // A backup is put back, and the name server is alone: nobody tells it that it has forgotten something.
    cluster.kill_all();
    copy(&backup, cluster.dir.path());
    cluster.name_server.start();
    unchanged(&dir, &reference, || refused(&cluster, &dir, 6, "its database was set back"));
    // The database is gone altogether.
    lose_database(&mut cluster, &None);
    cluster.name_server.start();
    assert_eq!(cluster.get("/status")["mode"], "restoring");
    unchanged(&dir, &reference, || refused(&cluster, &dir, 6, "waits for a restore"));
    // After the restore it is the same cluster, on a new branch, and all is well.
    cluster.storage.iter_mut().for_each(|server| server.start());
    let status = restore_when_all_are_there(&cluster, "{}");
    assert_eq!(status["state"], "done", "{status:#}");
    cluster.wait_for_live(2);
    for args in ["status", "pull", "push"] {
        let (code, output, errors) = cluster.run_in(&dir, &[args]);
        assert_eq!((code, output.as_str()), (0, ""), "{args}: {errors}");
    }
    tree::assert_equal(&dir, &reference);
    assert_eq!(cluster.ok(&["cat", "/d/new"]), "new");
}
