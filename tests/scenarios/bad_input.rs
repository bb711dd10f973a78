//! What strangers and broken programs send, and what everybody is told without having asked.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use holdfast::types::ErrorCode;
use holdfast::types::api::RegisterRequest;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::cluster::{Cluster, Http, Plan};
use crate::common::wait_for;

fn nobody(base: String) -> Http {
    Http { token: None, base }
}

/// Status and headers of an answer, by curl.
fn head_of(args: &[&str]) -> (u16, String) {
    let output = Command::new("curl").args(["-s", "-D", "-", "-o", "/dev/null"]).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let last = text.trim_end().rsplit("\r\n\r\n").next().unwrap().to_string();
    (last.split_whitespace().nth(1).unwrap().parse().unwrap(), last)
}

#[test]
fn broken_requests_are_answered_by_the_letter_and_leave_no_trace() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    bodies(&cluster);
    announcements(&cluster);
    event_ids(&cluster);
    headers(&cluster);
    logs(&cluster);
}

fn bodies(cluster: &Cluster) {
    let http = cluster.http();
    let large = cluster.path("large.json");
    fs::write(&large, format!(r#"{{"path": "/a", "x": "{}"}}"#, "x".repeat(5 << 20))).unwrap();
    let file = format!("@{}", large.display());
    let url = format!("{}/api/v1/mkdir", http.base);
    for more in [vec![], vec!["-H", "Transfer-Encoding: chunked"]] {
        let mut args = vec!["-H", "Content-Type: application/json", "-H", "Expect:", "--data-binary", &file, &url];
        args.extend(more);
        let answer = http.curl(&args).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"), "{}", answer.body);
    }
    for (path, body) in [
        ("mkdir", r#"["/a"]"#),
        ("fsck", "[]"),
        ("fsck", "[false]"),
        ("restore", "[]"),
        ("tokens", r#"["x", "reader", null, null]"#),
        ("mv", r#"["/a", "/b", false]"#),
    ] {
        let answer = http.post(&format!("/api/v1/{path}"), body);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{path} {body}");
        assert!(answer.body.contains("JSON object"), "{}", answer.body);
    }
}

fn announcements(cluster: &Cluster) {
    let identity = Uuid::new_v4();
    let id = cluster.id();
    let client = cluster.as_storage(identity, 1);
    let good = RegisterRequest {
        identity,
        name: "store".into(),
        host: "h".into(),
        url: "http://127.0.0.1:1".into(),
        public_url: "http://127.0.0.1:1".into(),
        zone: String::new(),
        boot_id: Uuid::new_v4(),
        cluster: Some(id),
        epoch: 1,
        index_changes: 0,
        boots: Vec::new(),
        replace_newer: false,
        capacity_bytes: 10,
        free_bytes: 1,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for wrong in [
        RegisterRequest { name: String::new(), ..good.clone() },
        RegisterRequest { name: "x".repeat(60_000), ..good.clone() },
        RegisterRequest { name: "\u{1b}[31mred".into(), ..good.clone() },
        RegisterRequest { host: "two\nlines".into(), ..good.clone() },
        RegisterRequest { url: "javascript:alert(1)".into(), ..good.clone() },
        RegisterRequest { public_url: "file:///etc/passwd".into(), ..good.clone() },
        RegisterRequest { capacity_bytes: u64::MAX, ..good.clone() },
        RegisterRequest { free_bytes: 11, ..good },
    ] {
        let refused = runtime.block_on(client.register(&wrong)).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{refused}");
    }
    assert_eq!(cluster.get("/api/v1/servers")["servers"].as_array().unwrap().len(), 2);
}

fn event_ids(cluster: &Cluster) {
    let page = cluster.get("/api/v1/events?limit=2");
    let (ids, next) = (&page["events"], page["next"].as_str().expect("the cursor is a text"));
    assert_eq!(ids[1]["id"].as_str(), Some(next), "{page}");
    assert_eq!(next.len(), 16);
    let older = cluster.get(&format!("/api/v1/events?limit=2&before={next}"));
    assert!(!older["events"].as_array().unwrap().is_empty());
    // As programs have it that were made before.
    let number = i64::from_str_radix(next, 16).unwrap();
    assert_eq!(cluster.get(&format!("/api/v1/events?limit=2&before={number}")), older);
}

fn headers(cluster: &Cluster) {
    let always =
        ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "cross-origin-resource-policy: same-"];
    let (body, bearer) = (cluster.path("page"), format!("Authorization: Bearer {}", cluster.token));
    fs::write(&body, "<script>alert(1)</script>").unwrap();
    assert_eq!(cluster.http().put("/page.html", &body, &[]).status, 201);
    let entry = cluster.get("/api/v1/file?path=/page.html");
    let copy = entry["replicas"][0]["url"].as_str().unwrap();
    let tag = format!("If-None-Match: \"{}\"", entry["version"]);
    let base = cluster.name_server.url();
    let token = json!({ "name": "of-headers", "role": "reader" }).to_string();
    let storage = cluster.storage[0].url();
    let (redirect, stat) = (format!("{base}/files/page.html"), format!("{base}/api/v1/file?path=/page.html"));
    let (missing, tokens) = (format!("{base}/nothing"), format!("{base}/api/v1/tokens"));
    let (inventory, status) = (format!("{storage}/dump_tree"), format!("{storage}/status"));
    let json = "Content-Type: application/json";
    for (args, want, cache) in [
        (vec![copy], 200, "private, no-cache"),
        (vec!["-r", "0-3", copy], 206, "private, no-cache"),
        (vec!["-H", &tag, copy], 304, "private, no-cache"),
        (vec!["-r", "999-", copy], 416, "no-store"),
        (vec!["-I", copy], 200, "private, no-cache"),
        (vec!["-H", &bearer, &redirect], 307, "no-store"),
        (vec!["-H", &bearer, &stat], 200, "no-store"),
        (vec!["-H", &bearer, "-H", json, "-d", &token, &tokens], 201, "no-store"),
        (vec![&stat], 401, "no-store"),
        (vec![&missing], 404, "no-store"),
        (vec!["-X", "PATCH", &stat], 405, "no-store"),
        (vec![&inventory], 401, "no-store"),
        (vec![&status], 200, "no-store"),
    ] {
        let (code, head) = head_of(&args);
        assert_eq!(code, want, "{args:?}");
        for line in always.into_iter().chain([format!("cache-control: {cache}").as_str()]) {
            assert!(head.contains(line), "{line} is not in the answer to {args:?}:\n{head}");
        }
    }
}

fn logs(cluster: &Cluster) {
    let long = "x".repeat(60_000);
    let before = [cluster.name_server.log().len(), cluster.storage[0].log().len()];
    for process in [&cluster.name_server, &cluster.storage[0]] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(("127.0.0.1", process.port)).unwrap();
            write!(stream, "GET /files/{long} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 40"), "{answer}");
        }
        for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
            let mut stream = TcpStream::connect(("127.0.0.1", process.port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(garbage).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    let grown = |process: &crate::common::cluster::Process, before: usize| process.log()[before..].to_string();
    let (name_server, storage) = (grown(&cluster.name_server, before[0]), grown(&cluster.storage[0], before[1]));
    assert!(!name_server.contains("xxxx") && !name_server.contains("stream error"), "{name_server:.1000}");
    assert!(!storage.contains("xxxx") && !storage.contains("stream error"), "{storage:.1000}");
    // Whoever shows a token is written down, but not at any length.
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.name_server.port)).unwrap();
    let token = &cluster.token;
    write!(
        stream,
        "GET /files/{long} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
    let line = wait_for("the line is written", 10, || {
        let log = grown(&cluster.name_server, before[0]);
        log.lines().find(|line| line.contains("xxxx")).map(String::from)
    });
    assert!(line.len() < 1_000 && line.contains("(60007 bytes)"), "{line:.2000}");
}

#[test]
fn strangers_are_told_alive_or_ready_and_nothing_else() {
    let open = vec!["--open-metrics".to_string()];
    let mut cluster = Cluster::start(&Plan { storage_servers: 1, storage_args: open, ..Plan::default() });
    let keys = |answer: &Value| answer.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    // With two copies wanted, one server is not enough.
    let http = nobody(cluster.name_server.url());
    let told = http.get("/status");
    assert_eq!((told.status, keys(&told.json())), (200, ["mode", "ready", "status"].map(String::from).to_vec()));
    assert_eq!(told.json(), json!({ "mode": "normal", "ready": false, "status": "ok" }));
    let wrong = Http { token: Some("hf_wrong".into()), base: http.base.clone() };
    assert_eq!(keys(&wrong.get("/status").json()), keys(&told.json()));
    let whole = cluster.get("/status");
    assert!(whole["cluster"].is_string() && whole["servers_live"] == 1 && whole["mode"] == "normal", "{whole}");
    // Metrics: by a token, unless they were opened.
    assert_eq!(http.get("/metrics").status, 401);
    assert_eq!(cluster.http().get("/metrics").status, 200);
    let storage = nobody(cluster.storage[0].url());
    assert!(storage.get("/metrics").body.contains("holdfast_store_objects"));
    // A storage server: one word.
    assert_eq!(storage.get("/status").json(), json!({ "status": "ok" }));
    let whole = cluster.storage_status(0).unwrap();
    assert!(whole.server.is_some() && whole.cluster.is_some());
    cluster.name_server.kill();
    cluster.storage[0].kill();
    cluster.storage[0].start();
    let told = storage.get("/status");
    assert_eq!((told.status, told.json()["status"].as_str()), (503, Some("unregistered")), "{}", told.body);
    assert_eq!(told.code(), "unavailable");
    assert!(cluster.storage_status(0).unwrap().server.is_none(), "a name server is told all the same");
    cluster.name_server.start();
    wait_for("it is ready again", 30, || (storage.get("/status").status == 200).then_some(()));
}
