//! Several name servers on one Postgres, and a Postgres that goes away.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::Connection;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;

use crate::common::cluster::{Cluster, Http, Plan, Process};
use crate::common::postgres::{self, Postgres};
use crate::common::restore::{restored, settle, wait_until_healthy};
use crate::common::wait_for;

fn plan(database: String, name_servers: usize) -> Plan {
    let args = ["--health-interval", "0.3", "--down-after", "1", "--repair-delay", "3", "--read-ttl", "1"];
    let name_server_args = args.map(String::from).to_vec();
    Plan { database: Some(database), name_servers, name_server_args, ..Plan::default() }
}

/// Writes files one after the other until it is told to stop; answers the names of those that were acknowledged and
/// the longest time between two acknowledgements.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(Vec<String>, Duration)>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, dir) = (stop.clone(), cluster.path("writer"));
        fs::create_dir_all(&dir).unwrap();
        let servers: Vec<Http> =
            cluster.urls().into_iter().map(|base| Http { token: Some(cluster.token.clone()), base }).collect();
        let thread = std::thread::spawn(move || {
            let (mut acknowledged, mut last, mut longest) = (Vec::new(), Instant::now(), Duration::ZERO);
            for number in 0.. {
                if told.load(Ordering::SeqCst) {
                    break;
                }
                let name = format!("w{number}");
                fs::write(dir.join(&name), &name).unwrap();
                let took = servers.iter().any(|server| {
                    let url = format!("{}/files/{name}", server.base);
                    let file = dir.join(&name);
                    let args = ["--max-time", "5", "-T", file.to_str().unwrap(), &url];
                    server.curl(&args).is_some_and(|answer| answer.status == 201)
                });
                if took {
                    acknowledged.push(name);
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            (acknowledged, longest)
        });
        Self { stop, thread }
    }

    fn stop(self) -> (Vec<String>, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn check_written(cluster: &Cluster, acknowledged: &[String]) {
    let out = cluster.path("written");
    cluster.ok(&["export", "/", out.to_str().unwrap()]);
    for name in acknowledged {
        assert_eq!(&fs::read_to_string(out.join(name)).unwrap(), name, "an acknowledged file is lost");
    }
}

/// Whether a name server holds the lease.
fn leads(cluster: &Cluster, server: &Process) -> bool {
    let http = Http { token: Some(cluster.token.clone()), base: server.url() };
    let Some(answer) = http.curl(&["--max-time", "2", &format!("{}/api/v1/actors", server.url())]) else {
        return false;
    };
    let Ok(actors) = serde_json::from_str::<serde_json::Value>(&answer.body) else { return false };
    actors["actors"].as_array().into_iter().flatten().any(|actor| {
        actor["name"] == "LeaseKeeper"
            && actor["last_report"].as_str().is_some_and(|report| report.contains("holds the lease"))
    })
}

#[test]
fn when_the_leader_dies_another_name_server_acts() {
    let mut cluster = Cluster::start(&plan(postgres::shared().database(), 2));
    assert!(leads(&cluster, &cluster.name_server) && !leads(&cluster, &cluster.other_name_servers[0]));
    let writer = Writer::start(&cluster);
    std::thread::sleep(Duration::from_secs(2));
    cluster.name_server.kill();
    let killed = Instant::now();
    wait_for("the other one acts", 15, || leads(&cluster, &cluster.other_name_servers[0]).then_some(()));
    let took = killed.elapsed();
    // It really acts: a server that dies is noticed, and its files are copied.
    cluster.storage[0].kill();
    let base = cluster.other_name_servers[0].url();
    let other = Http { token: Some(cluster.token.clone()), base };
    wait_for("a dead server is noticed and repaired", 60, || {
        let report = other.get("/api/v1/report").json();
        let whole = report["under_replicated"].as_array()?.is_empty();
        (report["servers_down"] == 1 && whole && report["repair"]["queued"] == 0).then_some(())
    });
    let (acknowledged, longest) = writer.stop();
    println!("another name server acted after {took:?}; the longest time without a write was {longest:?}");
    assert!(acknowledged.len() > 20, "{} writes", acknowledged.len());
    assert!(longest < Duration::from_secs(15), "{longest:?}");
    check_written(&cluster, &acknowledged);
    // The first one comes back and stands by.
    cluster.name_server.start();
    std::thread::sleep(Duration::from_secs(2));
    assert!(!leads(&cluster, &cluster.name_server) && leads(&cluster, &cluster.other_name_servers[0]));
}

#[test]
fn a_leader_that_was_frozen_cannot_act_any_more() {
    let database = postgres::shared().database();
    let cluster = Cluster::start(&plan(database.clone(), 2));
    cluster.name_server.signal(rustix::process::Signal::STOP);
    wait_for("the other one acts", 15, || leads(&cluster, &cluster.other_name_servers[0]).then_some(()));
    cluster.name_server.signal(rustix::process::Signal::CONT);
    wait_for("the first one stands by", 10, || (!leads(&cluster, &cluster.name_server)).then_some(()));
    // Its term is over for the storage servers too: they have seen the newer one.
    cluster.ok(&["mkdir", "/d"]);
    let file = cluster.path("file");
    fs::write(&file, "content").unwrap();
    cluster.ok(&["import", file.to_str().unwrap(), "/d/f"]);
    cluster.ok(&["rm", "-r", "/d"]);
    wait_for("deletions are carried out by the new leader", 30, || {
        (cluster.get("/api/v1/report")["outbox"] == 0).then_some(())
    });
    a_restore_through_the_other_one_is_the_same(&cluster, &database);
}

/// Two restores at once are one, also through two name servers.
fn a_restore_through_the_other_one_is_the_same(cluster: &Cluster, database: &str) {
    let of = |base: String| Http { token: Some(cluster.token.clone()), base };
    let [first, second] = [0, 1].map(|number| of(cluster.urls()[number].clone()));
    // It cannot write yet.
    let mut session = PgConnection::establish(database).unwrap();
    session.batch_execute("BEGIN; LOCK TABLE entries IN SHARE MODE").unwrap();
    let begun = first.post("/api/v1/restore", "{\"force\":true}");
    assert_eq!(begun.status, 202, "{}", begun.body);
    let seen = wait_for("the other one tells of it", 30, || {
        let status = second.get("/api/v1/restore").json();
        (status["step"] == "another name server does it").then_some(status)
    });
    assert_eq!(seen["state"], "running");
    let refused = second.post("/api/v1/restore", "{\"force\":true}");
    assert!(refused.code() == "busy" && refused.body.contains("another name server"), "{}", refused.body);
    let again = first.post("/api/v1/restore", "{\"force\":true}");
    assert!(again.code() == "busy" && !again.body.contains("another name server"), "{}", again.body);
    session.batch_execute("ROLLBACK").unwrap();
    for http in [&first, &second] {
        let done = wait_for("it ends", 60, || {
            let status = http.get("/api/v1/restore").json();
            (status["state"] != "running").then_some(status)
        });
        assert_eq!(
            (&done["state"], &done["epoch"], &done["losses_total"]),
            (&"done".into(), &seen["epoch"], &0.into())
        );
    }
}

#[test]
fn a_database_that_restarts_loses_nothing_and_service_resumes() {
    let postgres = Postgres::start(true);
    let cluster = Cluster::start(&plan(postgres.database(), 1));
    let writer = Writer::start(&cluster);
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..2 {
        postgres.kill();
        let asked = Instant::now();
        let answer = cluster.http().get("/api/v1/ls?path=/");
        assert_eq!(answer.code(), "unavailable", "{}", answer.body);
        assert!(asked.elapsed() < Duration::from_secs(12), "an answer took {:?}", asked.elapsed());
        let (code, line, _) = cluster.run(&["report", "--check"]);
        assert!(code == 2 && line.starts_with("DANGER: database_unreachable: "), "{code}: {line}");
        postgres.run();
        wait_for("service resumes by itself", 20, || {
            (cluster.http().get("/api/v1/ls?path=/").status == 200).then_some(())
        });
        std::thread::sleep(Duration::from_secs(1));
    }
    let (acknowledged, longest) = writer.stop();
    println!("{} writes; the longest time without one was {longest:?}", acknowledged.len());
    assert!(acknowledged.len() > 10, "{} writes", acknowledged.len());
    check_written(&cluster, &acknowledged);
    wait_for("the cluster is healthy", 60, || (cluster.get("/api/v1/report")["verdict"] == "healthy").then_some(()));
}

#[test]
fn a_fail_over_to_a_synchronous_standby_loses_nothing_and_service_resumes() {
    let primary = Postgres::start(true);
    let database = primary.database();
    let standby = primary.standby();
    primary.wait_for_standbys();
    let cluster = Cluster::start(&plan(primary.url_of_either(&database, &standby), 2));
    let writer = Writer::start(&cluster);
    std::thread::sleep(Duration::from_secs(2));
    primary.kill();
    let killed = Instant::now();
    standby.promote();
    wait_for("service resumes by itself", 30, || (cluster.http().get("/api/v1/ls?path=/").status == 200).then_some(()));
    let resumed = killed.elapsed();
    cluster.ok(&["mkdir", "/after"]);
    wait_for("somebody acts", 30, || {
        cluster
            .other_name_servers
            .iter()
            .chain([&cluster.name_server])
            .any(|server| leads(&cluster, server))
            .then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    let (acknowledged, longest) = writer.stop();
    println!(
        "{} writes; reads resumed {resumed:?} after the primary's death; the longest time without a write was {longest:?}",
        acknowledged.len()
    );
    assert!(acknowledged.len() > 10, "{} writes", acknowledged.len());
    check_written(&cluster, &acknowledged);
    assert_eq!(cluster.get("/status")["mode"], "normal");
    wait_for("the cluster is healthy", 60, || (cluster.get("/api/v1/report")["verdict"] == "healthy").then_some(()));
}

#[test]
fn a_fail_over_that_forgot_the_last_changes_is_noticed_and_brought_forward() {
    let primary = Postgres::start(true);
    let database = primary.database();
    let standby = primary.standby();
    let cluster = Cluster::start(&plan(primary.url_of_either(&database, &standby), 1));
    cluster.ok(&["mkdir", "/early"]);
    let url = standby.url(database.rsplit('/').next().unwrap());
    wait_for("the standby has it", 20, || {
        use diesel::prelude::*;
        let mut connection = diesel::PgConnection::establish(&url).ok()?;
        let found = diesel::sql_query("SELECT 1 FROM entries WHERE name = 'early'").execute(&mut connection).ok()?;
        (found == 1).then_some(())
    });
    standby.kill();
    let writer = Writer::start(&cluster);
    std::thread::sleep(Duration::from_secs(3));
    let (acknowledged, _) = writer.stop();
    assert!(acknowledged.len() > 10, "{} writes", acknowledged.len());
    settle(&cluster);
    primary.kill();
    standby.run();
    standby.promote();
    wait_for("the cluster protects itself", 60, || {
        let status = cluster.http().curl(&["--max-time", "5", &format!("{}/status", cluster.name_server.url())])?;
        (status.json()["mode"] == "read_only").then_some(())
    });
    let status = restored(&cluster, "{}");
    assert_eq!((&status["source"], &status["losses_total"]), (&"forward".into(), &0.into()), "{status:#}");
    cluster.wait_for_live(3);
    check_written(&cluster, &acknowledged);
    wait_until_healthy(&cluster);
}
