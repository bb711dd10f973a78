//! A server joins that has nothing, and copies move there until all are filled evenly.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

const FILES: usize = 240;
const WITHIN: u64 = 10;

fn rebalance(cluster: &Cluster, args: &[&str]) -> Value {
    let line: Vec<&str> = ["rebalance", "--json"].into_iter().chain(args.iter().copied()).collect();
    serde_json::from_str(&cluster.ok(&line)).unwrap()
}

/// Bytes of the copies that the metadata lists on each server. Each file has two, on two servers.
fn bytes_by_server(cluster: &Cluster) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    let page = cluster.get("/api/v1/ls?path=/d&locations=true&limit=1000");
    let entries = page["entries"].as_array().unwrap();
    assert_eq!(entries.len(), FILES, "{page:#}");
    for entry in entries {
        let replicas = entry["replicas"].as_array().unwrap();
        let names: Vec<&str> = replicas.iter().map(|replica| replica["name"].as_str().unwrap()).collect();
        assert!(names.len() == 2 && names[0] != names[1], "{entry:#}");
        for name in names {
            *bytes.entry(name.to_string()).or_default() += entry["size"].as_u64().unwrap();
        }
    }
    bytes
}

#[test]
fn an_empty_server_is_filled_until_all_are_even() {
    let args = ["--health-interval", "0.3", "--read-ttl", "1", "--repair-transfers", "6"];
    let name_server_args = args.map(String::from).to_vec();
    let mut cluster = Cluster::start(&Plan { name_server_args, ..Plan::default() });
    let dir = cluster.path("in");
    fs::create_dir_all(&dir).unwrap();
    for number in 0..FILES {
        fs::write(dir.join(format!("f{number}")), vec![number as u8; 4_000 + number * 100]).unwrap();
    }
    cluster.ok(&["import", dir.to_str().unwrap(), "/d"]);
    assert_eq!(rebalance(&cluster, &["--status"])["state"], "none");
    let (code, _, errors) = cluster.run(&["rebalance", "--stop"]);
    assert!(code == 4 && errors.contains("--status"), "{code} {errors}");
    cluster.add_storage();
    cluster.wait_for_live(4);
    wait_for("what would be moved is known", 30, || {
        let would = rebalance(&cluster, &["--dry-run", "--within", "10"]);
        let servers =
            would["servers"].as_array()?.iter().filter(|server| server["room_bytes"].as_u64() > Some(0)).count();
        (servers == 4 && would["left_bytes"].as_u64() > Some(0)).then_some(())
    });
    assert!(cluster.ok(&["rebalance", "--dry-run"]).contains("would be moved"));
    assert_eq!(rebalance(&cluster, &["--status"])["state"], "none", "nothing was begun");
    assert_eq!(bytes_by_server(&cluster).len(), 3);
    // It goes on over a restart of the name server.
    let begun = rebalance(&cluster, &["--within", &WITHIN.to_string()]);
    assert_eq!((&begun["state"], &begun["within_percent"]), (&"running".into(), &WITHIN.into()), "{begun:#}");
    wait_for("copies move", 60, || {
        let status = rebalance(&cluster, &["--status"]);
        (status["moved"].as_u64() > Some(0)).then_some(())
    });
    cluster.name_server.kill();
    cluster.name_server.start();
    let report = cluster.get("/api/v1/report");
    let told = report["troubles"].as_array().unwrap().iter().find(|told| told["code"] == "rebalancing").cloned();
    let status = rebalance(&cluster, &["--status"]);
    assert!(
        told.is_some_and(|told| told["severity"] == "notice") || status["state"] == "done",
        "{report:#} {status:#}"
    );
    let status = rebalance(&cluster, &["--status", "--wait"]);
    assert_eq!((&status["state"], &status["id"]), (&"done".into(), &begun["id"]), "{status:#}");
    let even = bytes_by_server(&cluster);
    let (least, most) = (even.values().min().unwrap(), even.values().max().unwrap());
    let mean = even.values().sum::<u64>() as f64 / 4.0;
    assert_eq!(even.len(), 4, "{even:?}");
    assert!((most - least) as f64 <= mean * WITHIN as f64 / 100.0, "{even:?} after {status:#}");
    // About what was too much, and not more: nothing went to and fro.
    let moved = status["moved_bytes"].as_u64().unwrap() as f64;
    assert!(moved > mean * 0.7 && moved < mean * 1.5, "{moved} of {even:?}");
    let out = cluster.path("out");
    cluster.ok(&["export", "/d", out.to_str().unwrap()]);
    assert!(std::process::Command::new("diff").arg("-r").args([&dir, &out]).status().unwrap().success());
    wait_for("what has moved is deleted", 60, || {
        let report = cluster.get("/api/v1/report");
        (report["outbox"] == 0 && report["repair"]["queued"] == 0).then_some(())
    });
    assert_eq!(cluster.run(&["fsck"]).0, 0);
    let events: Value = serde_json::from_str(&cluster.ok(&["events", "--json"])).unwrap();
    let events = events.as_array().unwrap();
    let of = |kind: &str| events.iter().filter(|event| event["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of("rebalance_started").len(), of("rebalance_ended").len()), (1, 1), "{events:#?}");
    assert_eq!(of("rebalance_started")[0]["by"], "superuser");
    for kind in ["replica_copied", "replica_trimmed", "replica_deleted"] {
        assert!(of(kind).iter().any(|event| event["cause"] == "rebalanced"), "{kind}: {events:#?}");
    }
    assert!(cluster.ok(&["rebalance", "--status"]).contains("is done: "));
    let metrics = cluster.metrics(&cluster.name_server.url()).unwrap();
    assert!(metrics.contains(&format!("holdfast_rebalance_moved_bytes {}", status["moved_bytes"])), "{metrics}");
}
