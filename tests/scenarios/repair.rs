//! Servers die, pause, return and leave; the cluster brings everything back to its copies by itself.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

const DELAY_SECONDS: u64 = 3;

/// A cluster that notices and repairs within seconds.
fn impatient(storage_servers: usize, repair_delay_seconds: u64) -> Cluster {
    let delay = repair_delay_seconds.to_string();
    let args = ["--health-interval", "0.3", "--down-after", "1", "--repair-delay", &delay, "--read-ttl", "1"];
    let name_server_args = args.map(String::from).to_vec();
    Cluster::start(&Plan { storage_servers, name_server_args, ..Plan::default() })
}

fn fill(cluster: &Cluster, files: usize) {
    let dir = cluster.path("in");
    fs::create_dir_all(&dir).unwrap();
    for number in 0..files {
        let size = if number % 10 == 0 { 150_000 } else { 700 };
        fs::write(dir.join(format!("f{number}")), vec![number as u8; size]).unwrap();
    }
    cluster.ok(&["import", dir.to_str().unwrap(), "/d"]);
}

fn report(cluster: &Cluster) -> Value {
    cluster.get("/api/v1/report")
}

/// The trouble with this code, if the report has it.
fn trouble(report: &Value, code: &str) -> Option<Value> {
    report["troubles"].as_array().unwrap().iter().find(|told| told["code"] == code).cloned()
}

/// What a monitor is told.
fn check(cluster: &Cluster) -> (i32, String) {
    let (code, line, errors) = cluster.run(&["report", "--check"]);
    // Who is waited for goes to standard error.
    let waits = errors.lines().all(|line| line.starts_with("holdfast: waiting for"));
    assert!(line.lines().count() == 1 && waits, "{line}{errors}");
    (code, line)
}

fn replicas(cluster: &Cluster, server: &str) -> u64 {
    let servers = cluster.get("/api/v1/servers");
    let found = servers["servers"].as_array().unwrap().iter().find(|other| other["name"] == server);
    found.map_or(0, |server| server["replicas"].as_u64().unwrap())
}

fn total_replicas(cluster: &Cluster) -> u64 {
    let servers = cluster.get("/api/v1/servers");
    servers["servers"].as_array().unwrap().iter().map(|server| server["replicas"].as_u64().unwrap()).sum()
}

fn events(cluster: &Cluster, kind: &str) -> usize {
    let events = cluster.get("/api/v1/events?limit=1000");
    events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == kind).count()
}

/// Everything has its copies on servers that answer, and nothing is in the queue.
fn wait_until_whole(cluster: &Cluster, seconds: u64) {
    wait_for("everything has its copies again", seconds, || {
        let report = report(cluster);
        let whole = report["under_replicated"].as_array()?.is_empty() && report["repair"]["queued"] == 0;
        whole.then_some(())
    });
}

fn check_all(cluster: &Cluster) {
    let out = cluster.path("out");
    cluster.ok(&["export", "/d", out.to_str().unwrap()]);
    let (left, right) = (cluster.path("in"), out.clone());
    let diff = std::process::Command::new("diff").arg("-r").arg(left).arg(right).status().unwrap();
    assert!(diff.success());
    fs::remove_dir_all(out).unwrap();
}

#[test]
fn a_dead_server_is_replaced_and_its_return_brings_nothing_back() {
    let mut cluster = impatient(4, DELAY_SECONDS);
    fill(&cluster, 300);
    let victim = 0;
    cluster.storage[victim].kill();
    let killed = Instant::now();
    check_all(&cluster);
    wait_for("the server is down", 20, || (report(&cluster)["servers_down"] == 1).then_some(()));
    // Nothing is done yet, and it says what will be done, and when.
    let told = report(&cluster);
    if let Some(single) = trouble(&told, "single_copy").filter(|_| told["repair"]["queued"] == 0) {
        assert_eq!((&told["verdict"], &single["severity"]), (&"danger".into(), &"danger".into()), "{told:#}");
        assert!(
            told["repair"]["waiting"].as_u64() > Some(0) && told["repair"]["begins_seconds"].is_number(),
            "{told:#}"
        );
        assert!(single["remedy"].as_str().unwrap().contains("begin to be copied in"), "{told:#}");
    }
    assert_eq!(trouble(&told, "server_down").unwrap()["severity"], "degraded");
    let (code, line) = check(&cluster);
    // A machine that was busy for longer than the delay has repaired some by now, or all.
    if trouble(&report(&cluster), "single_copy").is_some() {
        assert!(code == 2 && line.starts_with("DANGER: "), "{line} after {told:#}");
    }
    assert!(code == 2 || code == 1 && line.starts_with("DEGRADED: server_down"), "{line} after {told:#}");
    wait_for("repair begins after the delay", 30, || (events(&cluster, "replica_copied") > 0).then_some(()));
    assert!(killed.elapsed() >= Duration::from_secs(DELAY_SECONDS), "it began too early");
    wait_until_whole(&cluster, 60);
    // What it misses: a deletion, an overwrite, a move.
    cluster.ok(&["rm", "/d/f0", "/d/f1"]);
    fs::remove_file(cluster.path("in/f0")).unwrap();
    fs::remove_file(cluster.path("in/f1")).unwrap();
    fs::write(cluster.path("in/f2"), "new").unwrap();
    cluster.ok(&["import", cluster.path("in/f2").to_str().unwrap(), "/d/f2"]);
    cluster.ok(&["mv", "/d/f3", "/d/moved"]);
    fs::rename(cluster.path("in/f3"), cluster.path("in/moved")).unwrap();
    cluster.storage[victim].start();
    cluster.wait_for_live(4);
    wait_until_whole(&cluster, 30);
    wait_for("the copies too many are gone", 30, || (total_replicas(&cluster) == 2 * 298).then_some(()));
    wait_for("the deletions are carried out", 30, || (report(&cluster)["outbox"] == 0).then_some(()));
    check_all(&cluster);
    let why = cluster.ok(&["why", "/d/f5"]);
    assert!(why.contains("all 2 copies wanted are there"), "{why}");
    // Nobody reads of a file that was removed, where a copy too many was.
    let of_living = cluster.ok(&["events", "--path", "/d/f5", "--verbose"]);
    assert!(!of_living.contains("was removed") && !of_living.contains("removed the last"), "{of_living}");
    let told = cluster.ok(&["events", "-n", "100"]);
    let repaired: Vec<&str> = told.lines().filter(|line| line.contains("after storage-0 went down: ")).collect();
    assert!(repaired.len() == 1 && repaired[0].contains("copies made on storage-"), "one line for the repair: {told}");
    assert!(told.lines().any(|line| line.contains("server_down") && line.contains("storage-0")), "{told}");
    let deleted = told.lines().filter(|line| line.contains("deleted on")).collect::<Vec<_>>();
    for reason in ["more copies than wanted: ", "files removed by superuser: "] {
        assert!(deleted.iter().any(|line| line.contains(reason)), "{reason} in {told}");
    }
    assert_eq!(report(&cluster)["verdict"], "healthy");
    let (code, line) = check(&cluster);
    assert!(code == 0 && line.starts_with("HEALTHY: 4 servers live, 0 down, 298 objects"), "{line}");
    let metrics = cluster.metrics(&cluster.name_server.url()).unwrap();
    for code in ["single_copy", "database_unreachable", "drain_stuck"] {
        assert!(metrics.contains(&format!("holdfast_trouble{{code=\"{code}\"}} 0")), "{metrics}");
    }
    // A row of the table, what it leaves out, and the room.
    let servers = cluster.ok(&["servers"]);
    assert!(
        servers.lines().all(|line| line.len() <= 110) && servers.contains("s ago") && servers.contains("4 live, "),
        "{servers}"
    );
    let room: Value = serde_json::from_str(&cluster.ok(&["df", "--json"])).unwrap();
    assert!(room["copies"] == 2 && room["usable_bytes"].as_u64() > Some(0), "{room}");
    assert!(cluster.ok(&["df"]).contains("of them fit"));
}

#[test]
fn writes_that_are_refused_are_the_first_thing_that_is_said() {
    let mut cluster = impatient(2, 60);
    fill(&cluster, 10);
    for server in ["storage-0", "storage-1"] {
        // It may be refused without a word that it is meant.
        if cluster.run(&["drain", server]).0 != 0 {
            cluster.ok(&["drain", "--force", server]);
        }
    }
    let told = wait_for("the report says so", 10, || {
        let report = report(&cluster);
        trouble(&report, "drain_stuck").is_some().then_some(report)
    });
    let first = &told["troubles"][0];
    assert_eq!((&first["code"], &told["verdict"]), (&"writes_refused".into(), &"danger".into()), "{told:#}");
    assert_eq!(first["remedy"], "`holdfast undrain storage-0` and `holdfast undrain storage-1`");
    let (code, line) = check(&cluster);
    assert!(code == 2 && line.starts_with("DANGER: writes_refused: writes are refused: 0 storage servers"), "{line}");
    let why = cluster.ok(&["why", "/d/f1"]);
    for part in ["is to leave it: it is draining", "there are 2 storage servers, and 2 copies are wanted"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    for server in ["storage-0", "storage-1"] {
        cluster.ok(&["undrain", server]);
    }
    wait_for("it is healthy", 20, || (check(&cluster).0 == 0).then_some(()));
    // A copy that is missing for a while: it is said when it will be made anew.
    cluster.storage[0].kill();
    wait_for("the server is down", 20, || (report(&cluster)["servers_down"] == 1).then_some(()));
    let why = cluster.ok(&["why", "/d/f1"]);
    assert!(why.contains("it hangs on a single copy") && why.contains("unless the server is well before"), "{why}");
    // Nobody answers: that is not known, and no danger.
    cluster.name_server.kill();
    let (code, line) = check(&cluster);
    assert!(code == 3 && line.starts_with("UNKNOWN: "), "{line}");
}

#[test]
fn a_pause_shorter_than_the_delay_copies_nothing() {
    let cluster = impatient(3, 20);
    fill(&cluster, 60);
    for _ in 0..2 {
        cluster.storage[1].signal(Signal::STOP);
        wait_for("it is down", 20, || (report(&cluster)["servers_down"] == 1).then_some(()));
        cluster.storage[1].signal(Signal::CONT);
        cluster.wait_for_live(3);
    }
    wait_until_whole(&cluster, 30);
    assert_eq!((events(&cluster, "replica_copied"), events(&cluster, "replica_trimmed")), (0, 0));
    assert_eq!(total_replicas(&cluster), 120);
    check_all(&cluster);
}

#[test]
fn a_drained_server_can_be_switched_off_and_removed() {
    let mut cluster = impatient(3, DELAY_SECONDS);
    fill(&cluster, 100);
    assert!(replicas(&cluster, "storage-2") > 0);
    let (code, _, notes) = cluster.run(&["drain", "storage-2"]);
    assert!(code == 0 && notes.contains("draining, "), "{notes}");
    wait_for("it is drained", 60, || {
        // Never short, at no moment.
        assert!(report(&cluster)["under_replicated"].as_array().unwrap().is_empty());
        cluster.ok(&["servers", "--json"]).contains("drained").then_some(())
    });
    let (code, _, notes) = cluster.run(&["drain", "--wait", "storage-2"]);
    assert!(code == 0 && notes.contains("is drained"), "{notes}");
    assert_eq!(replicas(&cluster, "storage-2"), 0);
    let (code, _, errors) = cluster.run(&["remove", "storage-2"]);
    assert_eq!(code, 4, "it still runs: {errors}");
    cluster.storage[2].kill();
    wait_for("it is down", 20, || (report(&cluster)["servers_down"] == 1).then_some(()));
    cluster.ok(&["remove", "storage-2"]);
    check_all(&cluster);
    wait_until_whole(&cluster, 10);
    assert_eq!(report(&cluster)["verdict"], "healthy");
    let told = cluster.ok(&["events"]);
    let lines: Vec<&str> = told.lines().filter(|line| line.contains("for the drain of storage-2: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("made on") && lines[0].contains("deleted on storage-2"), "{told}");
    for (kind, text) in [
        ("server_draining", "storage-2 gets no new files from now on, and its files are copied away, by superuser"),
        ("server_drained", "storage-2 is drained"),
        ("server_removed", "storage-2 is removed"),
    ] {
        assert!(told.lines().any(|line| line.contains(kind) && line.contains(text)), "{kind} {text} in {told}");
    }
    // Of those left none may go, and the refusal says why; nothing is changed by it.
    let (code, _, errors) = cluster.run(&["drain", "storage-0"]);
    assert!(
        code == 4 && errors.contains("only 1 storage server (storage-1)") && errors.contains("--force"),
        "{errors}"
    );
    assert!(!cluster.ok(&["servers", "--json"]).contains("draining"));
    // The one that was removed does not come back by itself, and is told how it can.
    cluster.storage[2].launch();
    let ended = wait_for("the removed server is refused", 20, || cluster.storage[2].ended());
    let log = cluster.storage[2].log();
    assert!(ended.code() == Some(5) && log.contains("was removed from the cluster, as storage-2"), "{log}");
    let returned = cluster.ok(&["events", "--kind", "removed_server_returned"]);
    assert!(returned.lines().count() == 1 && returned.contains("storage-2 was removed"), "{returned}");
    let id = log.split("`holdfast undrain ").nth(1).and_then(|rest| rest.split('`').next()).expect("the way back");
    let (code, _, notes) = cluster.run(&["undrain", id]);
    assert!(code == 0 && notes.contains("may come back"), "{notes}");
    cluster.storage[2].start();
    cluster.wait_for_live(3);
    wait_until_whole(&cluster, 20);
    check_all(&cluster);
    assert!(cluster.ok(&["events", "--server", "storage-2"]).contains("server_readmitted"));
}

#[test]
fn mass_trouble_pauses_until_a_person_drains_the_dead() {
    let mut cluster = impatient(5, DELAY_SECONDS);
    fill(&cluster, 40);
    for victim in 2..5 {
        cluster.storage[victim].kill();
    }
    let paused = wait_for("repair is paused", 30, || report(&cluster)["repair"]["paused"].as_str().map(String::from));
    assert!(paused.contains("3 of 5"), "{paused}");
    std::thread::sleep(Duration::from_secs(DELAY_SECONDS + 2));
    assert_eq!(events(&cluster, "replica_copied"), 0);
    cluster.storage[4].start();
    for dead in ["storage-2", "storage-3"] {
        cluster.ok(&["drain", dead]);
    }
    wait_for("what has a copy left is repaired", 60, || {
        let short = report(&cluster)["under_replicated"]
            .as_array()?
            .iter()
            .map(|row| row["copies"].as_u64())
            .collect::<Vec<_>>();
        (short.is_empty() || short == [Some(0)]).then_some(())
    });
    for dead in [2, 3] {
        cluster.storage[dead].start();
    }
    wait_for("the others come back and are emptied", 60, || {
        (cluster.ok(&["servers", "--json"]).matches("\"drained\"").count() == 2).then_some(())
    });
    wait_until_whole(&cluster, 30);
    check_all(&cluster);
}

#[test]
fn the_number_of_copies_can_be_raised_and_lowered() {
    let cluster = impatient(4, DELAY_SECONDS);
    fill(&cluster, 60);
    assert_eq!(total_replicas(&cluster), 120);
    let (code, _, notes) = cluster.run(&["setrep", "3", "/d"]);
    assert!(code == 0 && notes.contains("60 files follow"), "{notes}");
    wait_for("there are three copies", 60, || (total_replicas(&cluster) == 180).then_some(()));
    wait_until_whole(&cluster, 30);
    assert!(cluster.ok(&["why", "/d/f1"]).contains("all 3 copies wanted are there"));
    cluster.ok(&["setrep", "2", "/d"]);
    wait_for("there are two again", 60, || (total_replicas(&cluster) == 120).then_some(()));
    wait_for("the deletions are carried out", 30, || (report(&cluster)["outbox"] == 0).then_some(()));
    wait_until_whole(&cluster, 30);
    check_all(&cluster);
    assert_eq!(report(&cluster)["verdict"], "healthy");
    let (code, _, notes) = cluster.run(&["setrep", "5", "/d/f1"]);
    assert!(code == 0 && notes.contains("storage servers in service: 4"), "{notes}");
    let (code, _, notes) = cluster.run(&["setrep", "1", "/d/f1"]);
    assert!(code == 0 && notes.contains("dead disk"), "{notes}");
    assert_eq!(cluster.run(&["setrep", "0", "/d"]).0, 2);
    assert_eq!(cluster.run(&["setrep", "2", "/nothing"]).0, 3);
    let reader = cluster.ok(&["token", "create", "r", "--role", "writer"]);
    let output = cluster.command(&["setrep", "3", "/d"]).env("HOLDFAST_TOKEN", reader.trim()).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "writers may not");
}
