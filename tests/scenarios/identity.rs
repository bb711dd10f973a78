//! Who belongs to a cluster: credentials that are old, used, or meant for others; copies of a data directory.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast::security::credential::CREDENTIAL_TTL;
use holdfast::security::{Recipient, Sender, ServerCredential};
use holdfast::types::api::{CommitRequest, CorruptRequest, PendingRequest, RegisterRequest};
use holdfast::types::{ErrorCode, ServerId, Sha256};
use uuid::Uuid;

use crate::common::cluster::{Cluster, Plan};
use crate::common::{clock, servers, wait_for};

const TIMEOUT: Duration = Duration::from_secs(5);

fn announcement(identity: Uuid, url: &str) -> RegisterRequest {
    RegisterRequest {
        identity,
        name: "stranger".into(),
        host: "stranger".into(),
        url: url.into(),
        public_url: url.into(),
        zone: String::new(),
        boot_id: Uuid::new_v4(),
        cluster: None,
        epoch: 0,
        index_changes: i64::MAX,
        boots: Vec::new(),
        replace_newer: true,
        capacity_bytes: 1,
        free_bytes: 1,
    }
}

/// The text of a credential for one request, under a cluster and epoch, changed as a thief might find it.
fn signed(
    cluster: Option<Uuid>,
    epoch: i64,
    (method, target, body): (&str, &str, &str),
    change: impl FnOnce(&mut ServerCredential),
) -> String {
    let mut credential = ServerCredential {
        sender: Sender::NameServer { term: 1 },
        recipient: Recipient::NameServer,
        method: method.into(),
        target: target.into(),
        body: Some(Sha256::of(body.as_bytes())),
        nonce: rand::random(),
        expires: chrono::Utc::now() + CREDENTIAL_TTL,
    };
    change(&mut credential);
    format!("Authorization: Holdfast {}", servers::signer().sign(cluster, epoch, &credential).unwrap())
}

#[test]
fn a_credential_opens_one_request_to_one_server_for_minutes() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let (id, peers) = (cluster.id(), [cluster.peer(0), cluster.peer(1)]);
    let http = crate::common::cluster::Http { token: None, base: cluster.name_server.url() };
    let ask = |base: &str, method: &str, target: &str, body: &str, header: &str| {
        let url = format!("{base}{target}");
        let mut args = vec!["-X", method, "-H", header, "-H", "Content-Type: application/json"];
        if !body.is_empty() {
            args.extend(["-d", body]);
        }
        args.push(&url);
        http.curl(&args).unwrap()
    };
    // At the name server: what every storage server may ask, and the times, epochs and clusters that are not right.
    let server = ServerId::of_identity(peers[0].identity);
    let json = |value: serde_json::Value| value.to_string();
    let register = announcement(peers[0].identity, "http://127.0.0.1:1");
    let register = serde_json::to_string(&RegisterRequest { cluster: Some(id), epoch: 1, ..register }).unwrap();
    let pending = json(serde_json::to_value(PendingRequest { server, replicas: Vec::new() }).unwrap());
    let corrupt = json(
        serde_json::to_value(CorruptRequest { server, replicas: Vec::new(), alarm: false, journal: Vec::new() })
            .unwrap(),
    );
    let commit = json(serde_json::to_value(CommitRequest { reports: Vec::new() }).unwrap());
    let old = [-365 * 24 * 60, -24 * 60, -5, 10, 365 * 24 * 60];
    for (target, body) in [
        ("/api/v1/register", &register),
        ("/api/v1/pending", &pending),
        ("/api/v1/corrupt", &corrupt),
        ("/api/v1/file", &commit),
    ] {
        let from = |credential: &mut ServerCredential| {
            credential.sender = Sender::Storage { identity: peers[0].identity };
        };
        let post = |header: &str| ask(&cluster.name_server.url(), "POST", target, body, header);
        for minutes in old {
            let header = signed(Some(id), 1, ("POST", target, body), |credential| {
                from(credential);
                credential.expires = chrono::Utc::now() + chrono::TimeDelta::minutes(minutes);
            });
            let answer = post(&header);
            assert_eq!((answer.status, answer.code().as_str()), (401, "ticket_expired"), "{target} {minutes}");
        }
        let meant_for = |change: fn(&mut ServerCredential)| {
            signed(Some(id), 1, ("POST", target, body), |credential| {
                from(credential);
                change(credential);
            })
        };
        for (header, status) in [
            (meant_for(|credential| credential.recipient = Recipient::Storage(Uuid::new_v4())), 403),
            (meant_for(|credential| credential.target.push('x')), 401),
            (meant_for(|credential| credential.method = "PUT".into()), 401),
            (meant_for(|credential| credential.body = Some(Sha256::of(b"{}"))), 401),
            (meant_for(|credential| credential.sender = Sender::NameServer { term: 9 }), 403),
        ] {
            let answer = post(&header);
            assert_eq!(answer.status, status, "{target}: {}", answer.body);
        }
        if target != "/api/v1/register" {
            for (cluster_id, epoch, status) in
                [(None, 1, 403), (Some(Uuid::new_v4()), 1, 403), (Some(id), 0, 401), (Some(id), 99, 401)]
            {
                let answer = post(&signed(cluster_id, epoch, ("POST", target, body), from));
                assert_eq!(answer.status, status, "{target} {cluster_id:?} {epoch}: {}", answer.body);
            }
            // The right one is taken, once.
            let right = signed(Some(id), 1, ("POST", target, body), from);
            assert_eq!(post(&right).status, 200, "{target}");
            assert_eq!(post(&right).status, 401, "{target} again");
        }
    }
    // At a storage server: what a name server asks.
    for (method, target, body) in [
        ("GET", "/dump_tree", ""),
        ("GET", "/journal", ""),
        ("GET", "/status", ""),
        ("DELETE", "/file", r#"{"replicas": []}"#),
    ] {
        let to = |peer: usize| {
            let recipient = Recipient::Storage(peers[peer].identity);
            signed(Some(id), 1, (method, target, body), |credential| credential.recipient = recipient)
        };
        let right = to(0);
        let stranger = ask(&peers[1].url, method, target, body, &right);
        assert_eq!(stranger.status, 403, "{target} at another server: {}", stranger.body);
        assert_eq!(ask(&peers[0].url, method, target, body, &right).status, 200, "{target}");
        assert_eq!(ask(&peers[0].url, method, target, body, &right).status, 401, "{target} again");
        assert_eq!(ask(&peers[0].url, method, &format!("{target}?limit=1"), body, &to(0)).status, 401, "{target}?");
        if !body.is_empty() {
            let other = ask(&peers[0].url, method, target, r#"{"replicas":[]}"#, &to(0));
            assert_eq!(other.status, 401, "{target} with another body: {}", other.body);
        }
    }
}

/// Takes connections and answers nothing of use; everything that was sent to it.
fn listener() -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(String::new()));
    let into = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut piece = [0; 65_536];
            let read = stream.read(&mut piece).unwrap_or(0);
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..read]));
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{\"proof\": \"x\"}");
        }
    });
    (url, heard)
}

#[test]
fn nothing_is_shown_to_a_url_that_has_not_proven_to_hold_the_secret() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let (url, heard) = listener();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let peer = cluster.peer(0);
    runtime.block_on(async {
        // Somebody holds the secret and announces a known server, or a new one, where somebody else listens.
        for identity in [peer.identity, Uuid::new_v4()] {
            let refused = cluster.as_storage(identity, 1).register(&announcement(identity, &url)).await.unwrap_err();
            assert_eq!(refused.code(), ErrorCode::Unavailable, "{refused}");
            assert!(refused.message().contains(&url), "{refused}");
        }
        // Where another server of the cluster listens, that one is not taken for it either.
        let other = cluster.peer(1);
        let refused =
            cluster.as_storage(peer.identity, 1).register(&announcement(peer.identity, &other.url)).await.unwrap_err();
        assert!(refused.message().contains("another storage server"), "{refused}");
        // A process that is none: the real one answers at that URL.
        let refused =
            cluster.as_storage(peer.identity, 1).register(&announcement(peer.identity, &peer.url)).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Forbidden, "{refused}");
        assert!(cluster.as_name_server(1, 1).status(&peer, TIMEOUT).await.is_ok());
    });
    // Some rounds of checks later still nothing but the questions has come to the listener.
    let before = cluster.get("/api/v1/servers")["servers"][0]["last_seen"].clone();
    wait_for("the servers are checked", 30, || {
        let servers = cluster.get("/api/v1/servers");
        (servers["servers"][0]["last_seen"] != before && servers["servers"][0]["health"] == "live").then_some(())
    });
    let heard = heard.lock().unwrap().clone();
    assert!(heard.contains("GET /identity?challenge="), "{heard}");
    assert!(!heard.to_lowercase().contains("authorization"), "{heard}");
    assert_eq!(cluster.get("/api/v1/servers")["servers"].as_array().unwrap().len(), 2);
}

fn copy_directory(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn twins_are_refused_for_good_and_who_moves_is_taken_at_once() {
    let mut cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    std::fs::write(&body, "x").unwrap();
    assert_eq!(cluster.http().put("/before", &body, &[]).status, 201);
    cluster.storage[0].kill();
    let copy = cluster.path("copy-of-0");
    copy_directory(&cluster.storage_dir(0), &copy);
    cluster.storage[0].start();
    cluster.wait_for_live(2);
    // It counts as live all the time, and takes files once it has registered anew.
    wait_for("a file is taken", 20, || (cluster.http().put("/after", &body, &[]).status == 201).then_some(()));
    let original = cluster.storage[0].url();

    // A clone with a URL of its own, and one that gives itself out for the original.
    for args in [vec![], vec!["--url".to_string(), original.clone()]] {
        let mut clone = cluster.another_storage_server(&copy, "clone", &args);
        let status = wait_for("the clone ends", 30, || clone.ended());
        assert_eq!(status.code(), Some(5), "{}", clone.log());
        assert!(clone.log().contains(&original), "{}", clone.log());
    }
    let events = cluster.get("/api/v1/events?kind=server_twin")["events"].to_string();
    assert!(events.contains(&original) && events.contains("storage-0"), "{events}");
    let servers = cluster.get("/api/v1/servers")["servers"].clone();
    assert_eq!((servers[0]["url"].as_str().unwrap(), servers[0]["health"].as_str().unwrap()), (&*original, "live"));

    // The original is gone, and the older copy does not take its place but by a person's word.
    let seen = || cluster.get("/api/v1/servers")["servers"][0]["last_seen"].as_str().unwrap().to_string();
    let before = seen();
    wait_for("the original was seen with its newer index", 20, || (seen() != before).then_some(()));
    cluster.storage[0].kill();
    let mut clone = cluster.another_storage_server(&copy, "clone", &[]);
    let status = wait_for("the older copy ends", 30, || clone.ended());
    assert_eq!(status.code(), Some(5), "{}", clone.log());
    assert!(clone.log().contains("older copy") && clone.log().contains("--replace-newer"), "{}", clone.log());

    // The original comes back under another URL, at once, while it still counts as live or suspect.
    let moved = original.replace("127.0.0.1", "localhost");
    cluster.storage[0].add_args(&["--url", &moved]);
    cluster.storage[0].launch();
    wait_for("it is live where it is now", 30, || {
        let servers = cluster.get("/api/v1/servers")["servers"].clone();
        (servers[0]["url"] == moved.as_str() && servers[0]["health"] == "live" && servers[0]["syncing"] == false)
            .then_some(())
    });
    let events = cluster.get("/api/v1/events?kind=server_moved")["events"].to_string();
    assert!(events.contains(&original) && events.contains(&moved) && events.contains("copy of its data"), "{events}");
    assert_eq!(cluster.http().put("/moved", &body, &[]).status, 201);
    // It moves back while it runs on: the URL that is known reaches the new process.
    cluster.storage[0].kill();
    cluster.storage[0].drop_arg("--url");
    cluster.storage[0].drop_arg(&moved);
    cluster.storage[0].start();
    cluster.wait_for_live(2);

    // By a person's word the older copy takes the place of the lost one, and gets what it lacks.
    cluster.storage[0].kill();
    let mut clone = cluster.another_storage_server(&copy, "clone", &["--replace-newer".to_string()]);
    wait_for("every file has its copies", 60, || {
        let report = cluster.get("/api/v1/report");
        let at_rest = !report["troubles"].to_string().contains("server_syncing");
        (report["servers_live"] == 2 && at_rest && report["verdict"] == "healthy").then_some(())
    });
    let events = cluster.get("/api/v1/events?kind=server_older_copy")["events"].to_string();
    assert!(events.contains("came back with an older copy"), "{events}");
    for name in ["/before", "/after", "/moved"] {
        let entry = cluster.get(&format!("/api/v1/file?path={name}"));
        assert_eq!(entry["copies"], 2, "{name}");
    }
    clone.kill();
}

/// An upload that was allowed, to storage server 1 first, which sends it on to storage server 0.
fn ticket_by_way_of_1(cluster: &Cluster, path: &str) -> String {
    let url = cluster.storage[1].url();
    wait_for("a placement that begins with storage-1", 20, || {
        let placement = cluster.get(&format!("/api/v1/available?path={path}"))["placements"][0].clone();
        let begins = placement["servers"][0]["url"] == url.as_str();
        begins.then(|| format!("{url}/file?ticket={}", placement["ticket"].as_str().unwrap()))
    })
}

#[test]
fn a_copy_takes_the_place_of_a_silent_server_which_is_sent_away_when_it_returns() {
    let mut cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    std::fs::write(&body, "x").unwrap();
    assert_eq!(cluster.http().put("/before", &body, &[]).status, 201);
    let first = |cluster: &Cluster| cluster.get("/api/v1/servers")["servers"][0].clone();
    let seen = |cluster: &Cluster| first(cluster)["last_seen"].as_str().unwrap().to_string();
    let before = seen(&cluster);
    wait_for("it was seen with what it has", 20, || (seen(&cluster) != before).then_some(()));
    let late = ticket_by_way_of_1(&cluster, "/late");

    // It stands still, and its machine's copy starts elsewhere with the same data: nobody can tell them apart.
    let original = cluster.storage[0].url();
    cluster.storage[0].signal(rustix::process::Signal::STOP);
    let copy = cluster.path("copy-of-0");
    copy_directory(&cluster.storage_dir(0), &copy);
    let mut clone = cluster.another_storage_server(&copy, "clone", &[]);
    let place = wait_for("the copy is taken for it", 30, || {
        let server = first(&cluster);
        let well = server["health"] == "live" && server["syncing"] == false;
        (well && server["url"] != original.as_str()).then(|| server["url"].as_str().unwrap().to_string())
    });
    let told = cluster.get("/api/v1/events?kind=server_moved")["events"].to_string();
    assert!(told.contains(&original) && told.contains(&place) && told.contains("copy of its data"), "{told}");

    // It goes on. What is sent to it by an old permission does not count as a copy on the one that took its place.
    let (code, log) = std::thread::scope(|scope| {
        let upload = scope.spawn(|| {
            let (http, body) = (cluster.http(), body.to_str().unwrap());
            http.curl(&["-T", body, &late]).unwrap()
        });
        // The bytes wait at the socket of the one that stands still.
        wait_for("the upload has begun", 20, || (cluster.storage_status(1)?.uploads > 0).then_some(()));
        cluster.storage[0].signal(rustix::process::Signal::CONT);
        let answer = upload.join().unwrap();
        (answer.code(), answer.body)
    });
    assert_eq!(code, "not_enough_servers", "{log}");
    assert_eq!(cluster.http().get("/api/v1/file?path=/late").status, 404);
    // It is sent away, and both are named.
    let status = wait_for("the original ends", 60, || cluster.storage[0].ended());
    let log = cluster.storage[0].log();
    assert_eq!(status.code(), Some(5), "{log}");
    for named in ["two processes are", &original, &place] {
        assert!(log.contains(named), "{named} is not in {log}");
    }
    let events = cluster.get("/api/v1/events?kind=server_twin")["events"].to_string();
    assert!(events.contains(&original) && events.contains(&place), "{events}");
    // The copy stays, whatever the original tries, and every file has its copies.
    cluster.storage[0].launch();
    let status = wait_for("the original ends again", 30, || cluster.storage[0].ended());
    assert_eq!(status.code(), Some(5), "{}", cluster.storage[0].log());
    assert_eq!((first(&cluster)["url"].as_str(), first(&cluster)["health"].as_str()), (Some(&*place), Some("live")));
    assert_eq!(cluster.http().put("/after", &body, &[]).status, 201);
    assert_eq!(cluster.ok(&["cat", "/before"]) + &cluster.ok(&["cat", "/after"]), "xx");
    let (code, report, errors) = cluster.run(&["fsck"]);
    assert_eq!(code, 0, "{report}{errors}");

    // When the copy is gone in its turn, the original is the older one by what was written meanwhile.
    let before = seen(&cluster);
    wait_for("the copy was seen with its newer index", 20, || (seen(&cluster) != before).then_some(()));
    clone.kill();
    cluster.storage[0].launch();
    let status = wait_for("the original ends as the older one", 30, || cluster.storage[0].ended());
    let log = cluster.storage[0].log();
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains("older copy") && log.contains(&place) && log.contains("--replace-newer"), "{log}");
}

#[test]
fn a_server_whose_clock_is_a_day_off_works_by_the_clusters_time() {
    let mut cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    std::fs::write(&body, "x").unwrap();
    for (number, days) in [-1, 1].into_iter().enumerate() {
        cluster.storage[number].kill();
        let dir = cluster.path(&format!("clock-{number}"));
        std::fs::create_dir_all(&dir).unwrap();
        cluster.storage[number].env = clock::environment(&dir, days * 86_400_000);
        cluster.storage[number].start();
        cluster.wait_for_live(2);
        wait_for("writes are taken", 20, || {
            (cluster.http().put(&format!("/f{number}"), &body, &[]).status == 201).then_some(())
        });
        assert!(cluster.storage[number].log().contains("off the cluster's"), "{}", cluster.storage[number].log());
        wait_for("the report tells of it", 20, || {
            let report = cluster.get("/api/v1/report");
            let told = |one: &&serde_json::Value| one["code"] == "clocks_apart";
            let apart = report["troubles"].as_array()?.iter().find(told)?["what"].to_string();
            (number == 1 || apart.contains("storage-0 is 24 h behind") || apart.contains("23 h behind")).then_some(())
        });
    }
}
