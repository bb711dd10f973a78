//! Ways between clients and servers: proxies that the environment names, and addresses that lead nowhere.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast::types::ErrorCode;
use holdfast::types::api::RegisterRequest;

use crate::common::cluster::{Cluster, Plan, SECRET, ended};
use crate::common::wait_for;

/// Takes connections and keeps what is sent.
struct Recorder {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let kept = heard.clone();
        let take = move |mut stream: TcpStream, kept: Arc<Mutex<Vec<u8>>>| {
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut bytes = [0; 4_096];
            while let Ok(count) = stream.read(&mut bytes) {
                kept.lock().unwrap().extend_from_slice(&bytes[..count]);
                if count == 0 || kept.lock().unwrap().len() > 1 << 20 {
                    break;
                }
            }
        };
        // It ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || take(stream, kept));
            }
        });
        Self { port, heard }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }

    /// Every variable that may name a proxy.
    fn variables(&self) -> Vec<(String, String)> {
        variables(self.port)
    }
}

fn variables(port: u16) -> Vec<(String, String)> {
    let url = format!("http://127.0.0.1:{port}");
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        .map(|name| (name.to_string(), url.clone()))
        .to_vec()
}

/// A port at which nobody listens.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn nothing_goes_to_a_proxy_between_servers_and_on_this_machine() {
    let recorder = Recorder::start();
    let cluster = Cluster::start(&Plan { env: recorder.variables(), ..Plan::default() });
    let body = cluster.path("body");
    fs::write(&body, vec![3; 300_000]).unwrap();
    let holdfast = |variables: Vec<(String, String)>, args: &[&str]| {
        ended(cluster.command(args).envs(variables).output().unwrap())
    };
    for (number, variables) in [recorder.variables(), variables(dead_port())].into_iter().enumerate() {
        for args in [
            &["import", body.to_str().unwrap(), &format!("/f{number}")][..],
            &["cat", &format!("/f{number}")],
            &["servers"],
            &["fsck"],
        ] {
            let (code, _, errors) = holdfast(variables.clone(), args);
            assert_eq!(code, 0, "{args:?}: {errors}");
        }
    }
    // Repair: servers that send to each other.
    cluster.ok(&["setrep", "3", "/f0"]);
    wait_for("there are three copies", 30, || (cluster.try_get("/api/v1/file?path=/f0")?["copies"] == 3).then_some(()));
    assert_eq!(recorder.heard(), "", "something went to the proxy");
}

#[test]
fn a_proxy_is_obeyed_elsewhere_and_named_when_it_fails() {
    let recorder = Recorder::start();
    let home = tempfile::tempdir().unwrap();
    let run = |url: &str, variables: &[(&str, String)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(["ls", "/", "--name-server", url, "--token", "hf_x"])
            .current_dir(home.path())
            .env("HOME", home.path());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        ended(command.output().unwrap())
    };
    let dead = dead_port();
    let (code, _, errors) =
        run("http://ns.invalid:7400", &[("http_proxy", format!("http://me:geheim@127.0.0.1:{dead}"))]);
    assert_eq!(code, 6);
    for words in
        [&format!("the proxy http://127.0.0.1:{dead} that http_proxy names"), "http://ns.invalid:7400", "NO_PROXY"]
    {
        assert!(errors.contains(words), "{words:?} is not in {errors}");
    }
    assert!(!errors.contains("geheim"), "{errors}");
    let (code, _, errors) = run("https://ns.invalid:7400", &[("ALL_PROXY", format!("http://127.0.0.1:{dead}"))]);
    assert!(code == 6 && errors.contains("that ALL_PROXY names"), "{errors}");
    // As curl would, it asks the proxy that is named.
    run("http://ns.invalid:7400", &[("http_proxy", format!("http://127.0.0.1:{}", recorder.port))]);
    assert!(recorder.heard().contains("GET http://ns.invalid:7400/"), "{}", recorder.heard());
    let none = [("http_proxy", format!("http://127.0.0.1:{dead}")), ("no_proxy", "ns.invalid".to_string())];
    let (_, _, errors) = run("http://ns.invalid:7400", &none);
    assert!(!errors.contains("proxy"), "{errors}");
}

/// Starts a storage server by hand, which must end by itself.
fn refused_start(home: &Path, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-storage-server"));
    command.args(["--name-server", "http://127.0.0.1:1", "--data-dir"]).arg(home.join("data")).args(args);
    let (code, _, errors) = ended(command.env("HOLDFAST_CLUSTER_SECRET", SECRET).output().unwrap());
    (code, errors)
}

#[test]
fn an_address_that_leads_nowhere_is_never_announced() {
    let home = tempfile::tempdir().unwrap();
    for (args, words) in [
        (&["--listen", "0.0.0.0:0", "--insecure-http"][..], "--url is missing"),
        (&["--listen", "[::]:0", "--insecure-http"], "--url is missing"),
        (&["--listen", "127.0.0.1:0", "--url", "http://0.0.0.0:7401"], "--url: http://0.0.0.0:7401 leads nowhere"),
        (&["--listen", "127.0.0.1:0", "--url", "http://a:1", "--public-url", "http://[::]:1"], "--public-url: "),
        (&["--listen", "127.0.0.1:0", "--url", "http://me:geheim@a:1"], "has a user or a password"),
    ] {
        let (code, errors) = refused_start(home.path(), args);
        assert!(code == 2 && errors.contains(words) && !errors.contains("geheim"), "{args:?}: {code} {errors}");
        assert!(!home.path().join("data").exists(), "nothing is made: {args:?}");
    }
    // An older storage server does not know that; then the name server refuses it.
    let cluster = Cluster::start(&Plan { storage_servers: 1, ..Plan::default() });
    let identity = uuid::Uuid::new_v4();
    let client = cluster.as_storage(identity, 1);
    let request = |url: &str, public_url: &str| RegisterRequest {
        identity,
        name: "old".into(),
        host: "h".into(),
        url: url.into(),
        public_url: public_url.into(),
        zone: String::new(),
        boot_id: uuid::Uuid::new_v4(),
        cluster: None,
        epoch: 0,
        index_changes: 0,
        boots: Vec::new(),
        replace_newer: false,
        capacity_bytes: 1,
        free_bytes: 1,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let good = "http://store.example:7401";
    for (url, public_url) in [("http://0.0.0.0:7401", good), (good, "https://[::]:7401"), ("nonsense", good)] {
        let error = runtime.block_on(client.register(&request(url, public_url))).unwrap_err();
        assert!(error.code() == ErrorCode::InvalidRequest && error.message().contains("old"), "{error}");
    }
    // What is announced must be reached too, before the server is taken.
    let error = runtime.block_on(client.register(&request(good, good))).unwrap_err();
    assert!(error.code() == ErrorCode::Unavailable && error.message().contains(good), "{error}");
    // Both addresses are shown.
    let (mut cluster, outside) = (cluster, "http://outside.example:9");
    let inside = cluster.storage[0].url();
    cluster.storage[0].kill();
    cluster.storage[0].add_args(&["--public-url", outside]);
    cluster.storage[0].start();
    wait_for("the new address is known", 20, || cluster.ok(&["servers"]).contains(outside).then_some(()));
    let shown = cluster.ok(&["servers"]);
    assert!(shown.contains(&inside), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&cluster.ok(&["servers", "--json"])).unwrap();
    assert_eq!((json[0]["url"].as_str(), json[0]["public_url"].as_str()), (Some(inside.as_str()), Some(outside)));
}

#[test]
fn a_storage_server_that_clients_cannot_reach_is_named_with_the_remedy() {
    let mut cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    fs::write(&body, vec![3; 100_000]).unwrap();
    cluster.ok(&["import", body.to_str().unwrap(), "/f"]);
    let dead = format!("http://127.0.0.1:{}", dead_port());
    for storage in &mut cluster.storage {
        storage.kill();
        storage.add_args(&["--public-url", &dead]);
        storage.start();
    }
    cluster.wait_for_live(2);
    wait_for("the new address is known", 20, || {
        let servers = cluster.get("/api/v1/servers");
        servers["servers"].as_array()?.iter().all(|server| server["public_url"] == dead.as_str()).then_some(())
    });
    cluster.wait_for_live(2);
    let imported = ["import", body.to_str().unwrap(), "/g"];
    std::thread::scope(|scope| {
        for args in [&["cat", "/f"][..], &imported] {
            let cluster = &cluster;
            let dead = &dead;
            scope.spawn(move || {
                let (code, _, errors) = cluster.run(args);
                assert_eq!(code, 6, "{errors}");
                for words in ["storage server storage-", dead, "Connection refused", "`--public-url`", "`--url`"] {
                    assert!(errors.contains(words), "{words:?} is not in {errors}");
                }
                assert!(!errors.contains("is the cluster running"), "{errors}");
            });
        }
    });
}

/// Answers whatever it is asked with this. Tells how often it was asked.
fn answers_always(answer: &'static str) -> (String, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, asked) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(Mutex::new(0)));
    let count = asked.clone();
    // It ends with the test program.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 65_536];
            let _ = stream.read(&mut bytes);
            *count.lock().unwrap() += 1;
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, asked)
}

#[test]
fn a_daemon_ends_only_when_its_cluster_refuses_it() {
    let mut cluster = Cluster::start(&Plan { storage_servers: 1, ..Plan::default() });
    cluster.name_server.kill();
    // A proxy or another program on a port that is named too, and a name server of others.
    let bare = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let body = r#"{"code":"forbidden","message":"no","request_id":"12345678"}"#;
    let of_others: &'static str = format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .leak();
    let mut late = Vec::new();
    for (name, answer) in [("late-1", bare), ("late-2", of_others)] {
        let (url, asked) = answers_always(answer);
        let data = cluster.path(name);
        late.push(cluster.another_storage_server(&data, name, &["--name-server".into(), url]));
        wait_for("it asks there", 30, || (*asked.lock().unwrap() > 1).then_some(()));
    }
    cluster.name_server.start();
    cluster.wait_for_live(3);
    for process in &mut late {
        assert!(process.ended().is_none(), "{}", process.log());
    }
    assert!(late[0].log().contains("not as a server of Holdfast does"), "{}", late[0].log());

    // When all say so it is true.
    let (url, _) = answers_always(of_others);
    let data = cluster.path("foreign");
    let args = ["--data-dir", data.to_str().unwrap(), "--name-server", &url, "--listen", "127.0.0.1:0"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-storage-server"));
    let (code, _, errors) = ended(command.args(args).env("HOLDFAST_CLUSTER_SECRET", SECRET).output().unwrap());
    assert!(code == 5 && errors.contains("refuses this storage server: no"), "{code}: {errors}");
}
