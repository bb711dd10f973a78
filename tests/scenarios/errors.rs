//! What goes wrong gets the right code and message, and leaves no trace in the namespace.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;
use crate::trees::{pending_replicas, walk_files};

/// A placement for a path: the first server's address without its scheme, and the ticket.
fn placement(cluster: &Cluster, query: &str) -> (String, String) {
    let answer = cluster.http().get(&format!("/api/v1/available?{query}"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let placement = answer.json()["placements"][0].clone();
    let url = placement["servers"][0]["url"].as_str().unwrap().to_string();
    (url, placement["ticket"].as_str().unwrap().to_string())
}

fn no_trace(cluster: &Cluster) {
    assert_eq!(cluster.ok(&["ls", "-R", "/"]), "");
    for number in 0..cluster.storage.len() {
        wait_for("incoming/ is empty", 10, || {
            (walk_files(&cluster.storage_dir(number).join("incoming")) == 0).then_some(())
        });
        assert_eq!(walk_files(&cluster.storage_dir(number).join("objects")), 0);
    }
}

#[test]
fn bodies_that_are_not_what_was_announced() {
    let cluster = Cluster::start(&Plan::default());
    let http = cluster.http();
    let body = cluster.path("body");
    for size in [1_000, 300_000] {
        fs::write(&body, vec![7; size]).unwrap();
        let url = |query: String| {
            let (url, ticket) = placement(&cluster, &query);
            format!("{url}/file?ticket={ticket}")
        };
        // Another size than the ticket's, with and without a length that is told first.
        let larger = url(format!("path=/f&size={}", size + 1));
        let file = body.to_str().unwrap();
        assert_eq!(http.curl(&["-T", file, &larger]).unwrap().code(), "invalid_request");
        let chunked = http.curl(&["-H", "Transfer-Encoding: chunked", "-T", file, &larger]).unwrap();
        assert_eq!((chunked.status, chunked.code().as_str()), (400, "invalid_request"));
        assert!(chunked.body.contains("ended after"), "{}", chunked.body);
        // A wrong checksum.
        let wrong = http
            .curl(&["-H", &format!("Holdfast-Sha256: {}", "0".repeat(64)), "-T", file, &url("path=/f".into())])
            .unwrap();
        assert_eq!((wrong.status, wrong.code().as_str()), (422, "checksum_mismatch"));
        // A sender that goes away in the middle.
        let (server, ticket) = placement(&cluster, "path=/f");
        let mut stream = TcpStream::connect(server.trim_start_matches("http://")).unwrap();
        write!(stream, "POST /file?ticket={ticket} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n").unwrap();
        stream.write_all(&vec![7; size / 2]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(!answer.contains("201"), "{answer}");
    }
    no_trace(&cluster);
    for number in 0..3 {
        assert_eq!(pending_replicas(&cluster, number), 0, "a copy of a body that was refused is kept nowhere");
    }
}

#[test]
fn tickets_and_tokens_open_only_what_they_are_for() {
    let cluster = Cluster::start(&Plan::default());
    let body = cluster.path("body");
    fs::write(&body, "x").unwrap();
    let http = cluster.http();
    assert_eq!(http.put("/lab/f", &body, &[]).status, 201);
    assert_eq!(http.put("/other/f", &body, &[]).status, 201);
    let (server, ticket) = placement(&cluster, "path=/g");
    // A write ticket reads nothing, a changed one writes nothing.
    assert_eq!(http.curl(&[&format!("{server}/file?ticket={ticket}")]).unwrap().status, 401);
    let forged = format!("{server}/file?ticket={}A{}", &ticket[..20], &ticket[21..]);
    assert_eq!(http.curl(&["-T", body.to_str().unwrap(), &forged]).unwrap().status, 401);
    // What servers ask each other is not for people.
    assert_eq!(http.curl(&[&format!("{server}/dump_tree")]).unwrap().status, 401);
    assert_eq!(http.post("/api/v1/file", r#"{"reports": []}"#).status, 401);
    let nobody = crate::common::cluster::Http { token: None, base: http.base.clone() };
    assert_eq!(nobody.get("/files/lab/f").code(), "unauthorized");
    let created = http.post("/api/v1/tokens", r#"{"name": "lab", "role": "reader", "prefix": "/lab"}"#);
    assert_eq!(created.status, 201);
    let lab = crate::common::cluster::Http {
        token: Some(created.json()["token"].as_str().unwrap().into()),
        base: http.base.clone(),
    };
    assert_eq!(lab.get("/files/lab/f").status, 200);
    assert_eq!(lab.get("/files/other/f").code(), "forbidden");
    assert_eq!(lab.put("/lab/g", &body, &[]).code(), "forbidden");
    assert_eq!(lab.get("/api/v1/servers").code(), "forbidden");
    assert_eq!(http.curl(&["-X", "DELETE", &format!("{}/api/v1/tokens/lab", http.base)]).unwrap().status, 200);
    wait_for("a revoked token is refused", 10, || (lab.get("/files/lab/f").code() == "unauthorized").then_some(()));
    let log = cluster.name_server.log();
    assert!(!log.contains(&cluster.token) && !log.contains(&ticket), "secrets are in the log");
}

#[test]
fn a_dead_target_is_replaced_and_too_few_servers_are_named() {
    let mut cluster =
        Cluster::start(&Plan { name_server_args: vec!["--upload-ttl".into(), "3".into()], ..Plan::default() });
    let body = cluster.path("body");
    fs::write(&body, vec![1; 100_000]).unwrap();
    // Before the checks notice: the client tries other servers under the same object id.
    cluster.storage[2].kill();
    for number in 0..6 {
        cluster.ok(&["import", body.to_str().unwrap(), &format!("/f{number}")]);
    }
    wait_for("it is down", 30, || (cluster.get("/api/v1/report")["servers_down"] == 1).then_some(()));
    cluster.storage[1].kill();
    wait_for("they are down", 30, || (cluster.get("/api/v1/report")["servers_down"] == 2).then_some(()));
    let answer = cluster.http().put("/g", &body, &[]);
    assert_eq!((answer.status, answer.code().as_str()), (503, "not_enough_servers"));
    assert!(
        answer.body.contains("1 storage server is live and takes files") && answer.body.contains("2 are needed"),
        "{}",
        answer.body
    );
    let (code, _, errors) = cluster.run(&["import", body.to_str().unwrap(), "/g"]);
    assert_eq!(code, 6, "{errors}");
    cluster.storage[1].start();
    cluster.storage[2].start();
    cluster.wait_for_live(3);
    for number in 0..6 {
        assert_eq!(cluster.ok(&["cat", &format!("/f{number}")]).len(), 100_000);
    }
    assert_eq!(cluster.ok(&["ls", "/"]).lines().count(), 6);
    // Copies of tries that failed are collected when their tickets have expired.
    wait_for("only what is listed is stored", 60, || {
        (0..3).all(|number| pending_replicas(&cluster, number) == 0).then_some(())
    });
    let stored: u64 = (0..3).map(|number| cluster.storage_status(number).unwrap().objects).sum();
    assert_eq!(stored, 12);
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let plan = Plan {
        storage_servers: 1,
        small_disk_mb: Some(24),
        name_server_args: vec!["--replicas".into(), "1".into()],
        ..Plan::default()
    };
    let cluster = Cluster::start(&plan);
    let body = cluster.path("body");
    fs::write(&body, vec![5; 3 << 20]).unwrap();
    let mut stored = Vec::new();
    let refused = loop {
        let path = format!("/f{}", stored.len());
        // By size, the placement would refuse before the disk does; without it the disk has to.
        let answer = cluster.http().put(&path, &body, &["-H", "Transfer-Encoding: chunked", "-H", "Content-Length:"]);
        match answer.status {
            201 => stored.push(path),
            _ => break answer,
        }
        assert!(stored.len() < 10);
    };
    assert_eq!((refused.status, refused.code().as_str()), (507, "out_of_space"), "{}", refused.body);
    fs::write(&body, vec![6; 20 << 20]).unwrap();
    let announced = cluster.http().put("/large", &body, &[]);
    assert_eq!(announced.code(), "out_of_space", "{}", announced.body);
    assert_eq!(cluster.ok(&["ls", "/"]).lines().count(), stored.len());
    for path in &stored {
        assert_eq!(
            cluster
                .http()
                .curl(&["-o", "/dev/null", &format!("{}/files{path}", cluster.name_server.url())])
                .unwrap()
                .status,
            200
        );
    }
    // Deletes have room.
    cluster.ok(&["rm", &stored[0]]);
}

#[test]
fn corrupt_copies_are_never_handed_out_as_right() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    fs::write(&body, vec![9; 1 << 20]).unwrap();
    assert_eq!(cluster.http().put("/f", &body, &[]).status, 201);
    let damaged = walkdir::WalkDir::new(cluster.storage_dir(0).join("objects"))
        .into_iter()
        .flatten()
        .find(|entry| entry.file_type().is_file())
        .unwrap();
    let mut bytes = fs::read(damaged.path()).unwrap();
    bytes[700_000] ^= 1;
    fs::write(damaged.path(), bytes).unwrap();
    // A server that reads a damaged copy breaks off before the last byte.
    let entry = cluster.get("/api/v1/file?path=/f");
    let url = entry["replicas"].as_array().unwrap().iter().find(|r| r["name"] == "storage-0").unwrap()["url"]
        .as_str()
        .unwrap()
        .to_string();
    let output = std::process::Command::new("curl").args(["-sS", &url]).output().unwrap();
    assert!(!output.status.success() && output.stdout.len() < 1 << 20);
    // The client verifies and takes the other copy, whichever it tries first.
    for number in 0..4 {
        let back = cluster.path(&format!("back{number}"));
        cluster.ok(&["export", "/f", back.to_str().unwrap()]);
        assert_eq!(fs::read(&back).unwrap(), fs::read(&body).unwrap());
    }
    // What is handed on piece by piece cannot be taken back: it ends with an error when it was wrong.
    for _ in 0..4 {
        let (code, output, errors) = cluster.run(&["cat", "/f"]);
        let right = output.as_bytes() == fs::read(&body).unwrap();
        assert!(code == 0 && right || code == 1 && errors.contains("SHA-256"), "{code} {errors}");
    }
    // Whoever met it has told: it is put aside.
    wait_for("the damaged copy is put aside", 20, || (!damaged.path().exists()).then_some(()));
    assert_eq!(cluster.ok(&["cat", "/f"]).len(), 1 << 20);
}
