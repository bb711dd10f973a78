//! The database is lost, or set back: the storage servers bring the metadata back.

use std::fs;

use diesel::prelude::*;

use crate::common::cluster::{Cluster, Plan, Process};
use crate::common::restore::*;
use crate::common::{postgres, wait_for};

fn plan(database: Option<String>) -> Plan {
    let args = ["--health-interval", "0.3", "--down-after", "1", "--repair-delay", "3", "--read-ttl", "1"];
    Plan { database, name_server_args: args.map(String::from).to_vec(), ..Plan::default() }
}

fn databases() -> [Option<String>; 2] {
    [None, Some(postgres::shared().database())]
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
        settle_truthfully(&cluster);
        cluster.wait_for_live(3);
        assert_eq!(tree(&cluster), before);
        assert!(cluster.ok(&["token", "list"]).contains("reader-of-a"));
        wait_until_healthy(&cluster);
        // Its bytes are there, new ones are taken, and a second restore finds the new history.
        assert_eq!(cluster.ok(&["cat", "/a/d5/e2/f5"]), "overwritten");
        write(&cluster, "/after", "after");
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
    for database in databases() {
        let mut cluster = Cluster::start(&plan(database.clone()));
        fill(&cluster, 60);
        settle(&cluster);
        cluster.kill_all();
        let backup = back_up(&cluster, &database);
        cluster.start_all();
        cluster.ok(&["mv", "/moved", "/moved-again"]);
        cluster.ok(&["rm", "-r", "/copy"]);
        write(&cluster, "/late", "written after the backup");
        settle(&cluster);
        let before = tree(&cluster);
        wait_until_heard(&cluster, &[0, 1, 2]);
        cluster.kill_all();
        backup.put_back(&cluster);
        cluster.name_server.start();
        cluster.storage.iter_mut().for_each(|server| server.start());
        wait_for("the cluster protects itself", 30, || (cluster.get("/status")["mode"] == "read_only").then_some(()));
        assert_eq!(cluster.run(&["mkdir", "/x"]).0, 6, "no changes");
        // Reads go on, also after the storage servers' restart.
        let file = cluster.ok(&["find", "/", "--type", "f"]).lines().next().unwrap().to_string();
        cluster.storage.iter_mut().for_each(|server| server.kill());
        cluster.storage.iter_mut().for_each(|server| server.start());
        wait_for("a file is read", 30, || (cluster.run(&["cat", &file]).0 == 0).then_some(()));
        let status = restored(&cluster, "{}");
        assert_eq!(status["source"], "forward", "{status:#}");
        cluster.wait_for_live(3);
        assert_eq!(tree(&cluster), before);
        assert_eq!(cluster.ok(&["cat", "/late"]), "written after the backup");
        wait_until_healthy(&cluster);
        assert_eq!(compared_since_the_restore(&cluster), 3, "also servers that had registered before it");
    }
}

/// What the report says of the journal's copies is so at each moment: right after a restore they have nothing of the new
/// history yet.
fn settle_truthfully(cluster: &Cluster) {
    wait_for("the journal's copies have everything", 30, || {
        let report = cluster.get("/api/v1/report");
        let (version, copied) = (report["version"].as_i64()?, report["journal"]["copied_version"].as_i64()?);
        let held = (0..cluster.storage.len()).filter_map(|number| cluster.storage_status(number)?.journal);
        let newest = held.map(|position| position.version).max().unwrap_or(0);
        assert!(copied < version || newest >= version, "the report says {copied}, and the copies end at {newest}");
        (copied == version).then_some(())
    });
}

#[test]
fn a_restore_waits_for_servers_and_not_for_room() {
    let database = postgres::shared().database();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().to_str().unwrap();
    // Where the name server puts large files there is hardly any room.
    let user = if rustix::process::geteuid().is_root() { "--mount" } else { "--map-root-user" };
    let script = format!("mount -t tmpfs -o size=16k none '{dir}' && exec \"$@\"");
    let wrapper = ["unshare", user, "--mount", "sh", "-c", &script, "sh"].map(String::from).to_vec();
    let env = vec![("TMPDIR".to_string(), dir.to_string())];
    let mut cluster = Cluster::start(&Plan { wrapper, env, ..plan(Some(database.clone())) });
    fill(&cluster, 120);
    settle(&cluster);
    let before = tree(&cluster);
    let status = restore(&cluster, r#"{"force":true}"#);
    let error = status["error"].as_str().unwrap_or_default();
    assert!(error.contains(dir) && error.contains("make room and run it again"), "{status:#}");
    assert_eq!(cluster.get("/status")["mode"], "normal", "nothing is in the way of the cluster");
    write(&cluster, "/goes-on", "x");
    cluster.ok(&["rm", "/goes-on"]);
    settle(&cluster);
    // Without a disk of its own there is room. Nobody is there yet, and somebody asks for the restore.
    lose_database(&mut cluster, &Some(database));
    cluster.name_server.unwrap_it();
    cluster.name_server.start();
    let mut asked = cluster.command(&["restore"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_for("it waits", 20, || {
        let status = cluster.try_get("/api/v1/restore")?;
        status["step"].as_str()?.contains("for storage servers").then_some(())
    });
    cluster.storage.iter_mut().for_each(|server| server.start());
    let code = wait_for("the restore ends", 60, || asked.try_wait().unwrap()).code();
    let status = match code {
        Some(0) => cluster.get("/api/v1/restore"),
        // On a slow machine they have come too late for it.
        _ => restored(&cluster, "{}"),
    };
    assert_eq!((&status["state"], &status["losses_total"]), (&"done".into(), &0.into()), "{status:#}");
    settle_truthfully(&cluster);
    cluster.wait_for_live(3);
    assert_eq!(tree(&cluster), before);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "nothing is left behind");
}

/// Servers whose inventories were compared after the restore.
fn compared_since_the_restore(cluster: &Cluster) -> usize {
    let events = cluster.get("/api/v1/events?limit=1000");
    let since = events["events"].as_array().unwrap().iter().take_while(|event| event["kind"] != "restored");
    let compared = since.filter(|event| event["kind"] == "server_synced").map(|event| event["server"].to_string());
    compared.collect::<std::collections::HashSet<_>>().len()
}

fn write(cluster: &Cluster, path: &str, content: &str) {
    let new = cluster.path("new");
    fs::write(&new, content).unwrap();
    cluster.ok(&["import", new.to_str().unwrap(), path]);
}

/// A database is set back while those servers that know better are away, and goes its own way with the others.
fn histories_that_parted(database: Option<String>, changes_before: usize, changes_after: usize) {
    let mut cluster = Cluster::start(&Plan { storage_servers: 4, ..plan(database.clone()) });
    fill(&cluster, 20);
    cluster.ok(&["mkdir", "/d"]);
    write(&cluster, "/both", "from before");
    write(&cluster, "/d/old", "from before, too");
    settle(&cluster);
    cluster.kill_all();
    let backup = back_up(&cluster, &database);
    cluster.start_all();
    let leave = |cluster: &mut Cluster, leaving: [usize; 2]| {
        leaving.iter().for_each(|number| cluster.storage[*number].kill());
        wait_for("they are down", 20, || (cluster.get("/api/v1/report")["servers_down"] == 2).then_some(()));
    };
    leave(&mut cluster, [2, 3]);
    write(&cluster, "/both", "of the first branch");
    write(&cluster, "/d/new", "only in the first branch");
    write(&cluster, "/first", "the first branch's own");
    write(&cluster, "/gone", "removed again on the first branch");
    cluster.ok(&["rm", "/gone"]);
    (0..changes_before).for_each(|number| drop(cluster.ok(&["mkdir", &format!("/first-{number}")])));
    settle(&cluster);
    cluster.kill_all();
    backup.put_back(&cluster);
    cluster.name_server.start();
    cluster.storage[2].start();
    cluster.storage[3].start();
    cluster.wait_for_live(2);
    write(&cluster, "/both", "of the second branch");
    cluster.ok(&["rm", "-r", "/d"]);
    write(&cluster, "/second", "the second branch's own");
    (0..changes_after).for_each(|number| drop(cluster.ok(&["mkdir", &format!("/second-{number}")])));
    settle(&cluster);
    cluster.storage[0].start();
    cluster.storage[1].start();
    wait_for("the cluster protects itself", 30, || (cluster.get("/status")["mode"] == "read_only").then_some(()));
    let status = restored(&cluster, "{}");
    cluster.wait_for_live(4);
    wait_until_healthy(&cluster);
    assert_eq!(cluster.ok(&["cat", "/both"]), "of the second branch", "{status:#}");
    assert_eq!(cluster.ok(&["cat", "/second"]), "the second branch's own");
    assert_eq!(cluster.run(&["stat", "/d"]).0, 3, "it was removed in the database's own branch");
    let found = cluster.ok(&["find", "/", "--type", "f"]);
    let contents: Vec<String> = found.lines().map(|path| cluster.ok(&["cat", path])).collect();
    for content in ["of the first branch", "only in the first branch", "the first branch's own"] {
        assert!(contents.iter().any(|found| found == content), "{content}: {found}\n{status:#}");
    }
    assert!(!contents.iter().any(|found| found.contains("removed again")), "{found}");
    assert!(status["conflicts"].to_string().contains("kept aside by the restore of epoch 2"), "{status:#}");
}

#[test]
fn of_two_branches_the_databases_own_wins_and_the_longer_other_one_loses_no_file() {
    histories_that_parted(None, 12, 0);
}

#[test]
fn of_two_branches_the_databases_own_wins_and_the_shorter_other_one_loses_no_file() {
    histories_that_parted(Some(postgres::shared().database()), 0, 12);
}

#[test]
fn without_any_journal_the_labels_bring_the_files_back() {
    databases().into_iter().for_each(by_labels);
}

fn by_labels(database: Option<String>) {
    let mut cluster = Cluster::start(&plan(database.clone()));
    fill(&cluster, 60);
    settle(&cluster);
    let labels = cluster.path("labels");
    lose_database(&mut cluster, &database);
    for number in 0..3 {
        fs::remove_dir_all(cluster.storage_dir(number).join("journal")).unwrap();
    }
    cluster.name_server.start();
    cluster.storage.iter_mut().for_each(|server| server.start());
    let status = restored(&cluster, "{\"accept_gap\": true}");
    assert_eq!(status["source"], "labels", "{status:#}");
    // No file is lost, and what only the journal had told is.
    assert_eq!(status["losses_total"], 1, "{status:#}");
    assert!(status["losses"][0].as_str().unwrap().starts_with("no copy of the journal is left"), "{status:#}");
    assert!(status["notes"].to_string().contains("No journal tells which tokens there were"), "{status:#}");
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
    databases().into_iter().for_each(with_one_absent);
}

fn with_one_absent(database: Option<String>) {
    let mut cluster = Cluster::start(&plan(database.clone()));
    fill(&cluster, 60);
    settle(&cluster);
    cluster.storage[2].kill();
    wait_for("it is down", 20, || (cluster.get("/api/v1/report")["servers_down"] == 1).then_some(()));
    cluster.ok(&["rm", "/a/d0/e2/f14", "/a/d0/e1/f7"]);
    cluster.ok(&["mv", "/a/d6", "/six"]);
    settle(&cluster);
    wait_until_repaired(&cluster);
    let before = tree(&cluster);
    lose_database(&mut cluster, &database);
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

#[derive(QueryableByName)]
struct Row {}

#[test]
fn one_server_without_the_journal_is_not_taken_for_the_whole_cluster() {
    let mut cluster = Cluster::start(&Plan { storage_servers: 4, ..plan(None) });
    fill(&cluster, 40);
    settle(&cluster);
    let before = tree(&cluster);
    let without = wait_for("one of four has no copy of the journal, and knows how many they are", 20, || {
        (0..4).find(|number| {
            let status = cluster.storage_status(*number).unwrap();
            status.journal.is_none() && status.heard_servers == 4
        })
    });
    wait_for("it is written down", 20, || {
        let index = cluster.storage_dir(without).join("index.sqlite");
        let mut connection = SqliteConnection::establish(index.to_str().unwrap()).unwrap();
        let query = "SELECT 1 FROM settings WHERE name = 'heard_servers' AND value = 4";
        (!diesel::sql_query(query).load::<Row>(&mut connection).ok()?.is_empty()).then_some(())
    });
    lose_database(&mut cluster, &None);
    cluster.name_server.start();
    cluster.storage[without].start();
    let refused = wait_for("it has announced itself", 30, || {
        let status = restore(&cluster, "{\"accept_gap\": true}");
        status["error"].as_str().filter(|error| !error.contains("has announced itself yet")).map(String::from)
    });
    assert!(refused.contains("4 storage servers belonged to the cluster, and only 1 have announced"), "{refused}");
    let others: Vec<usize> = (0..4).filter(|number| *number != without).collect();
    others.iter().for_each(|number| cluster.storage[*number].start());
    let status = restored(&cluster, "{}");
    assert_eq!((&status["source"], &status["losses_total"]), (&"journal".into(), &0.into()), "{status:#}");
    cluster.wait_for_live(4);
    assert_eq!(tree(&cluster), before);
    wait_until_healthy(&cluster);
}

#[test]
fn a_restore_keeps_revocations_of_the_first_token_too() {
    let mut cluster = Cluster::start(&plan(None));
    cluster.ok(&["mkdir", "/kept"]);
    let other = cluster.ok(&["token", "create", "other", "--role", "superuser"]).trim().to_string();
    let first = std::mem::replace(&mut cluster.token, other.clone());
    cluster.ok(&["token", "revoke", "superuser"]);
    settle(&cluster);
    lose_database(&mut cluster, &None);
    cluster.name_server.start();
    cluster.storage.iter_mut().for_each(|server| server.start());
    assert_eq!(cluster.run(&["report"]).0, 5, "nobody knows this token now");
    cluster.token = first.clone();
    assert_eq!(cluster.run(&["fsck"]).0, 6, "there is nothing to compare");
    let (code, told, errors) = wait_for("the restore goes through", 60, || {
        let outcome = cluster.run(&["restore"]);
        (outcome.0 != 1).then_some(outcome)
    });
    assert_eq!(code, 0, "{errors}");
    assert!(told.contains("had been revoked") && told.contains("it is revoked again"), "{told}");
    // It may see what came of what it has started, and nothing else.
    assert!(cluster.run(&["restore", "--status"]).1.contains("it is revoked again"));
    for command in [vec!["ls", "/"], vec!["report"], vec!["restore"], vec!["token", "list"]] {
        assert_eq!(cluster.run(&command).0, 5, "{command:?}");
    }
    cluster.token = other;
    // That it was unknown a moment ago is believed for two seconds.
    let tokens = wait_for("the other token is known again", 10, || {
        let (code, tokens, _) = cluster.run(&["token", "list"]);
        (code == 0).then_some(tokens)
    });
    assert!(tokens.contains("other") && !tokens.lines().any(|line| line.starts_with("superuser")), "{tokens}");
    cluster.ok(&["stat", "/kept"]);
    let events = cluster.get("/api/v1/events?kind=restore_note");
    assert!(events.to_string().contains("it is revoked again"), "{events:#}");
}

#[test]
fn an_empty_new_cluster_does_not_turn_away_those_who_have_the_files() {
    let mut cluster = Cluster::start(&plan(None));
    fill(&cluster, 40);
    settle(&cluster);
    let before = tree(&cluster);
    lose_database(&mut cluster, &None);
    // A unit file that has --initialize for ever, and a machine that is new.
    cluster.name_server.add_arg("--initialize");
    cluster.name_server.start();
    cluster.add_storage();
    cluster.wait_for_live(1);
    cluster.storage[..3].iter_mut().for_each(|server| server.start());
    wait_for("the report tells of them", 20, || {
        let report = cluster.get("/api/v1/report");
        let told = report["troubles"].to_string();
        let all = ["storage-0", "storage-1", "storage-2", "`holdfast restore`"].iter().all(|word| told.contains(word));
        (report["verdict"] == "danger" && all).then_some(())
    });
    assert!((0..3).all(|number| cluster.storage[number].ended().is_none()), "they go on asking");
    // One of a third cluster knocks, too: nobody can say which of both is to be restored.
    let mut third = Cluster::start(&Plan { storage_servers: 1, ..plan(None) });
    third.kill_all();
    let mut foreign = cluster.another_storage_server(&third.storage_dir(0), "third-0", &[]);
    wait_for("the report tells of it", 20, || {
        cluster.get("/api/v1/report")["troubles"].to_string().contains("third-0").then_some(())
    });
    let status = restore(&cluster, "{}");
    let error = status["error"].as_str().unwrap_or_default();
    assert!(error.contains("2 clusters answer") && error.contains("third-0 of"), "{status:#}");
    assert_eq!(cluster.get("/status")["mode"], "normal", "nothing was begun");
    foreign.kill();
    let logs: String = cluster.storage.iter().map(Process::log).collect();
    assert!(logs.contains("`holdfast restore` brings its files back") && !logs.contains("with an empty"), "{logs}");
    let status = restored(&cluster, r#"{"without":["third-0"]}"#);
    assert_eq!((&status["source"], &status["losses_total"]), (&"journal".into(), &0.into()), "{status:#}");
    assert!(status["notes"].to_string().contains("storage-3 holds nothing of this cluster"), "{status:#}");
    cluster.wait_for_live(3);
    assert_eq!(tree(&cluster), before);
    let code = wait_for("the new one is refused now", 30, || cluster.storage[3].ended()).code();
    assert_eq!(code, Some(5));
    assert!(cluster.storage[3].log().contains("Keep its directory"), "{}", cluster.storage[3].log());
    wait_until_healthy(&cluster);
}
