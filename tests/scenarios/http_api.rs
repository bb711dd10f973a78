//! The name server over plain HTTP, as curl and browsers use it.

use std::fs;

use crate::common::cluster::{Cluster, Plan};

#[test]
fn curl_writes_and_reads_with_conditions_ranges_and_encoded_names() {
    let cluster = Cluster::start(&Plan::default());
    let (http, body) = (cluster.http(), cluster.path("body"));
    for (size, name) in [(0usize, "/empty"), (10, "/small"), (2_000_000, "/d/e/large%20file%25.bin")] {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        fs::write(&body, &bytes).unwrap();
        let written = http.put(name, &body, &[]);
        assert_eq!(written.status, 201, "{}", written.body);
        assert_eq!(written.json()["size"], size);
        let back = cluster.path("back");
        let url = format!("{}/files{name}", http.base);
        assert_eq!(http.curl(&["-o", back.to_str().unwrap(), &url]).unwrap().status, 200);
        assert_eq!(fs::read(&back).unwrap(), bytes);
        if size > 20 {
            assert_eq!(http.curl(&["-r", "5-24", "-o", back.to_str().unwrap(), &url]).unwrap().status, 206);
            assert_eq!(fs::read(&back).unwrap(), &bytes[5..25]);
            assert_eq!(http.curl(&["-r", &format!("{size}-"), &url]).unwrap().status, 416);
        }
        let head = http.curl(&["-I", &url]).unwrap();
        assert!(
            head.body.contains(&format!("content-length: {size}")) && head.body.contains("holdfast-sha256: "),
            "{}",
            head.body
        );
    }
    assert_eq!(cluster.ok(&["ls", "/d/e"]), "large file%.bin\n");
    fs::write(&body, "new").unwrap();
    let version = cluster.get("/api/v1/file?path=/small")["version"].as_i64().unwrap();
    let stale = http.put("/small", &body, &["-H", &format!("If-Match: \"{}\"", version + 100)]);
    assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));
    assert_eq!(http.put("/small", &body, &["-H", "If-None-Match: *"]).status, 412);
    assert_eq!(http.put("/small", &body, &["-H", &format!("If-Match: \"{version}\"")]).status, 201);
    let url = format!("{}/files/small", http.base);
    assert_eq!(http.curl(&["-X", "DELETE", &url]).unwrap().status, 200);
    assert_eq!(http.get("/files/small").code(), "not_found");
}

#[test]
fn a_large_upload_follows_the_redirect() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    fs::File::create(&body).unwrap().set_len(300 << 20).unwrap();
    for more in [&[][..], &["-H", "Expect:"][..]] {
        let answer = cluster.http().put("/large", &body, more);
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
}

#[test]
fn errors_have_code_message_and_request_id() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let http = cluster.http();
    for (path, status, code) in [
        ("/api/v1/file?path=relative", 400, "invalid_path"),
        ("/api/v1/file?path=/a//b", 400, "invalid_path"),
        ("/api/v1/file", 400, "invalid_request"),
        ("/api/v1/file?path=/nothing", 404, "not_found"),
        ("/api/v1/ls?path=/nothing", 404, "not_found"),
        ("/api/v1/available?path=/no/parent", 404, "not_found"),
        ("/api/v1/available?path=/", 409, "is_a_directory"),
        ("/api/v1/available?path=/f&size=99999999999999999", 413, "too_large"),
        ("/api/v1/nothing", 404, "not_found"),
        ("/files/a%00b", 400, "invalid_path"),
        ("/files/a%ff", 400, "invalid_path"),
    ] {
        let answer = http.curl(&["-H", "X-Request-Id: my-id", &format!("{}{path}", http.base)]).unwrap();
        let json = answer.json();
        assert_eq!((answer.status, json["code"].as_str().unwrap()), (status, code), "{path}: {}", answer.body);
        assert_eq!(json["request_id"], "my-id");
        assert!(!json["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(http.post("/api/v1/mkdir", "{").code(), "invalid_request");
    let untyped = http.curl(&["-d", "{}", &format!("{}/api/v1/mkdir", http.base)]).unwrap();
    assert!(untyped.body.contains("Content-Type: application/json"), "{}", untyped.body);
    assert_eq!(http.post("/api/v1/mkdir", r#"{"path": "x"}"#).code(), "invalid_path");
    assert_eq!(http.post("/api/v1/mkdir", r#"{"path": "/a"}"#).status, 200);
    assert_eq!(http.post("/api/v1/mkdir", r#"{"path": "/a"}"#).code(), "already_exists");
    assert!(cluster.name_server.log().contains("[my-id]"), "the access log has the id");
}

#[test]
fn operation_endpoints_and_the_description() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    fs::write(&body, "x").unwrap();
    assert_eq!(cluster.http().put("/f", &body, &[]).status, 201);
    let metrics = cluster.http().get("/metrics").body;
    for line in [
        "holdfast_servers{state=\"live\"} 2",
        "holdfast_objects 1",
        "holdfast_missing_objects 0",
        "holdfast_outbox_length 0",
        "holdfast_counted 1",
        "holdfast_under_replicated{copies=\"0\"} 0",
        "holdfast_under_replicated{copies=\"1\"} 0",
        "# TYPE holdfast_actor_restarts_total counter",
        "holdfast_actor_restarts_total{actor=\"Reaper\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(
        metrics.contains(
            "holdfast_http_request_duration_seconds_bucket{method=\"PUT\",route=\"/files/{path:.*}\",status=\"307\""
        ),
        "{metrics}"
    );
    let storage = cluster.metrics(&cluster.storage[0].url()).unwrap();
    assert!(storage.contains("# TYPE holdfast_actor_restarts_total counter"), "{storage}");
    assert!(storage.contains("holdfast_store_objects 1") && storage.contains("holdfast_store_bytes 1"), "{storage}");
    let actors = cluster.get("/api/v1/actors");
    let names: Vec<&str> =
        actors["actors"].as_array().unwrap().iter().map(|actor| actor["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "Auditor",
            "HealthMonitor",
            "JournalKeeper",
            "LeaseKeeper",
            "MetadataWriter",
            "Reaper",
            "ReplicationManager",
            "SnapshotSender",
            "SyncActor"
        ]
    );
    assert!(
        cluster.get("/api/v1/events")["events"].as_array().unwrap().iter().any(|event| event["kind"] == "server_live")
    );
    assert!(cluster.get("/api/v1/why?path=/f")["findings"].to_string().contains("all 2 copies wanted are there"));
    let description = cluster.get("/api/v1/openapi.json");
    assert!(description["paths"]["/api/v1/file"]["get"].is_object());
    assert!(description["components"]["schemas"]["ErrorBody"].is_object());
    let drain = "/api/v1/servers/storage-0/drain";
    assert_eq!(cluster.http().post(drain, "{}").code(), "precondition_failed", "a write needs both");
    let drained = cluster.http().post(&format!("{drain}?force=true"), "{}");
    assert_eq!(drained.json()["admin_state"], "draining");
    assert_eq!(cluster.http().put("/g", &body, &[]).code(), "not_enough_servers");
    assert_eq!(cluster.http().post("/api/v1/servers/storage-0/remove", "{}").code(), "precondition_failed");
    assert_eq!(cluster.http().post("/api/v1/servers/storage-0/undrain", "{}").json()["admin_state"], "in_service");
    assert_eq!(cluster.http().put("/g", &body, &[]).status, 201);
}
