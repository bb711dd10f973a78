//! A cluster on TLS: certificates that are renewed while it works, and certificates with which it cannot.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chrono::TimeDelta;
use rustix::process::Signal;

use crate::common::cluster::{Cluster, Plan, Process};
use crate::common::{tls, wait_for};

/// Directory of the certificates beside a cluster's own, which is made later.
fn certs(servers: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("certs");
    tls::init(&dir);
    servers.iter().for_each(|name| tls::server(&dir, name));
    (home, dir)
}

fn plan(certs: PathBuf) -> Plan {
    let name_server_args = ["--health-interval", "0.5", "--down-after", "1.5"].map(String::from).to_vec();
    Plan { storage_servers: 2, certs: Some(certs), name_server_args, ..Plan::default() }
}

/// When the certificate ends that a server shows, by its own metric.
fn ends(cluster: &Cluster, server: &Process) -> Option<f64> {
    let metrics = cluster.metrics(&server.url())?;
    let line = metrics.lines().find(|line| line.starts_with("holdfast_tls_certificate_not_after_timestamp_seconds"))?;
    line.split(' ').nth(1)?.parse().ok()
}

fn servers(cluster: &Cluster) -> [&Process; 3] {
    [&cluster.name_server, &cluster.storage[0], &cluster.storage[1]]
}

const NAMES: [&str; 3] = ["name-server", "storage-0", "storage-1"];

#[test]
fn certificates_are_renewed_while_clients_go_on() {
    let (_home, dir) = certs(&NAMES);
    let cluster = Cluster::start(&plan(dir.clone()));
    let body = cluster.path("body");
    fs::write(&body, vec![7; 200_000]).unwrap();
    // By the client, and by curl through redirects, in both directions.
    cluster.ok(&["import", body.to_str().unwrap(), "/by-client"]);
    let url = |path: &str| format!("{}/files{path}", cluster.name_server.url());
    let put = cluster.curl(&["-T", body.to_str().unwrap(), &url("/by-curl")]).unwrap();
    assert_eq!(put.status, 201, "{}", put.body);
    assert_eq!(cluster.ok(&["cat", "/by-curl"]).len(), 200_000);
    let get = cluster.curl(&[&url("/by-client")]).unwrap();
    assert_eq!((get.status, get.body.len()), (200, 200_000));
    let day = 86_400.0;
    let now = chrono::Utc::now().timestamp() as f64;
    for server in servers(&cluster) {
        let left = ends(&cluster, server).unwrap() - now;
        assert!((396.0 * day..398.0 * day).contains(&left), "{left}");
    }
    assert!(cluster.get("/api/v1/report")["problems"].as_array().unwrap().is_empty());

    // A client that goes on meanwhile: every request opens connections of its own, and none may fail.
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let get = cluster.curl(&[&url("/by-client")]).unwrap();
                assert_eq!((get.status, get.body.len()), (200, 200_000));
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        // It must stop also when something here fails.
        let stopped = scopeguard(&stop);
        NAMES.iter().for_each(|name| tls::renew(&dir, name, 100));
        // Two are told; the third finds it by itself.
        for server in &servers(&cluster)[..2] {
            server.signal(Signal::HUP);
        }
        for server in servers(&cluster) {
            wait_for("the new certificate is in use", 15, || {
                (ends(&cluster, server)? < now + 101.0 * day).then_some(())
            });
            assert!(server.log().contains("is new, and in use from now on"));
        }
        let before = served.load(Ordering::Relaxed);
        wait_for("the client goes on", 20, || (served.load(Ordering::Relaxed) > before + 3).then_some(()));

        // A new file that is none: it is told everywhere, and the one before goes on.
        fs::write(dir.join("storage-0.pem"), "no certificate").unwrap();
        cluster.storage[0].signal(Signal::HUP);
        let report = || cluster.get("/api/v1/report")["problems"].to_string();
        wait_for("it is in the report", 15, || report().contains("cannot be used").then_some(()));
        assert!(report().contains("storage server storage-0") && report().contains("storage-0.pem"), "{}", report());
        assert!(cluster.ok(&["servers"]).contains("cannot be used"));
        assert!(cluster.storage[0].log().contains("goes on"));

        // The authority itself is replaced: first everybody trusts both, then certificates change, then the old one goes.
        let other = dir.join("other");
        tls::init(&other);
        let (old, new) =
            (fs::read_to_string(dir.join("ca.pem")).unwrap(), fs::read_to_string(other.join("ca.pem")).unwrap());
        fs::write(dir.join("ca.pem"), format!("{old}{new}")).unwrap();
        servers(&cluster).iter().for_each(|server| server.signal(Signal::HUP));
        for server in servers(&cluster) {
            wait_for("both are trusted", 15, || server.log().contains("they are trusted from now on").then_some(()));
        }
        for (name, server) in NAMES.iter().zip(servers(&cluster)) {
            tls::server(&other, name);
            for end in ["key", "pem"] {
                fs::rename(other.join(format!("{name}.{end}")), dir.join(format!("{name}.{end}"))).unwrap();
            }
            server.signal(Signal::HUP);
            wait_for("it shows the new authority's", 15, || {
                (ends(&cluster, server)? > now + 300.0 * day).then_some(())
            });
        }
        fs::write(dir.join("ca.pem"), new).unwrap();
        servers(&cluster).iter().for_each(|server| server.signal(Signal::HUP));
        for server in servers(&cluster) {
            let log = || server.log().matches("they are trusted from now on").count();
            wait_for("only the new one is trusted", 15, || (log() == 2).then_some(()));
        }
        drop(stopped);
    });
    cluster.wait_for_live(2);
    wait_for("nothing is left to tell", 15, || {
        cluster.get("/api/v1/report")["problems"].as_array().unwrap().is_empty().then_some(())
    });
    cluster.ok(&["import", body.to_str().unwrap(), "/after"]);
    let never_down = cluster.ok(&["events", "--kind", "server_down", "--json"]);
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&never_down).unwrap().len(), 0, "{never_down}");
}

/// Sets a flag when it goes out of scope.
fn scopeguard(flag: &AtomicBool) -> impl Drop + '_ {
    struct Set<'f>(&'f AtomicBool);
    impl Drop for Set<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    Set(flag)
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_and_whose_it_is() {
    let (_home, dir) = certs(&NAMES);
    let days = |from, until| (TimeDelta::days(from), TimeDelta::days(until));
    // Two that end soon: a problem before anything has failed.
    tls::odd(&dir, "name-server", &["127.0.0.1"], days(-380, 10));
    tls::odd(&dir, "storage-0", &["127.0.0.1"], days(-380, 3));
    let mut cluster = Cluster::start(&plan(dir.clone()));
    wait_for("both are in the report", 15, || {
        let report = cluster.get("/api/v1/report");
        let problems: Vec<&str> =
            report["problems"].as_array()?.iter().filter_map(|problem| problem.as_str()).collect();
        let told = |whose: &str| problems.iter().any(|told| told.contains(whose) && told.contains("ends on"));
        (report["verdict"] == "degraded" && told("this name server") && told("storage server storage-0")).then_some(())
    });
    assert!(cluster.name_server.log().contains("its TLS certificate ends on"));
    assert!(cluster.storage[0].log().contains("its TLS certificate ends on"));
    assert!(!cluster.storage[1].log().contains("its TLS certificate ends on"));
    cluster.ok(&["mkdir", "/still-works"]);

    // A storage server whose certificate has ended: its neighbours say so.
    cluster.storage[1].kill();
    tls::odd(&dir, "storage-1", &["127.0.0.1"], days(-20, -1));
    cluster.storage[1].start();
    let address = format!("127.0.0.1:{}", cluster.storage[1].port);
    wait_for("the name server says why", 15, || {
        let problems = cluster.get("/api/v1/report")["problems"].to_string();
        problems.contains(&format!("the TLS certificate of {address} has ended on")).then_some(())
    });
    assert!(cluster.storage[1].log().contains("has ended on"), "the server itself says it too");

    let restart = |cluster: &mut Cluster, names: &[&str], times| {
        cluster.name_server.kill();
        tls::odd(&dir, "name-server", names, times);
        cluster.name_server.start();
    };
    let refused = |cluster: &Cluster, words: &[&str]| {
        let (code, _, errors) = cluster.run(&["ls", "/"]);
        let whose = format!("the TLS certificate of 127.0.0.1:{}", cluster.name_server.port);
        assert!(code == 6 && errors.contains(&whose), "{errors}");
        words.iter().for_each(|words| assert!(errors.contains(words), "{words:?} is not in {errors}"));
        assert!(!errors.contains("is the cluster running"), "{errors}");
    };
    restart(&mut cluster, &["127.0.0.1"], days(-20, -1));
    refused(&cluster, &["has ended on"]);
    restart(&mut cluster, &["127.0.0.1"], days(5, 30));
    refused(&cluster, &["is not valid before"]);
    restart(&mut cluster, &["ns.example", "10.9.8.7"], days(-1, 30));
    refused(&cluster, &["is not for 127.0.0.1", "ns.example, 10.9.8.7"]);
    restart(&mut cluster, &["127.0.0.1"], days(-1, 30));
    cluster.ok(&["ls", "/"]);
    cluster.ca_cert = None;
    refused(&cluster, &["not trusted here", "--ca-cert"]);
    let stranger = dir.join("stranger");
    tls::init(&stranger);
    cluster.ca_cert = Some(stranger.join("ca.pem"));
    refused(&cluster, &["not trusted here"]);
}

#[test]
fn a_url_that_a_certificate_is_not_for_is_told_at_the_start() {
    let (_home, dir) = certs(&["storage-0"]);
    let mut plan = plan(dir.clone());
    plan.storage_servers = 1;
    tls::odd(&dir, "name-server", &["127.0.0.1"], (TimeDelta::days(-1), TimeDelta::days(300)));
    plan.storage_args = vec!["--public-url".into(), "https://store.example:7401".into()];
    let cluster = Cluster::start(&plan);
    let log = cluster.storage[0].log();
    assert!(log.contains("not for store.example, which stands in --public-url"), "{log}");
    assert!(!log.contains("stands in --url"), "{log}");
}

#[test]
fn a_hangup_ends_no_server() {
    let cluster = Cluster::start(&Plan { storage_servers: 1, ..Plan::default() });
    let pids = [cluster.name_server.pid(), cluster.storage[0].pid()];
    for server in [&cluster.name_server, &cluster.storage[0]] {
        server.signal(Signal::HUP);
        wait_for("it says that it heard", 10, || server.log().contains("SIGHUP").then_some(()));
    }
    cluster.ok(&["ls", "/"]);
    assert!(cluster.curl(&[&format!("{}/status", cluster.storage[0].url())]).unwrap().body.contains("status"));
    assert_eq!(pids, [cluster.name_server.pid(), cluster.storage[0].pid()]);
}
