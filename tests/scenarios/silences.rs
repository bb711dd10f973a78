//! Servers that hang: whoever waits is told for whom, and not for long.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::cluster::{Cluster, Plan, ended};
use crate::common::wait_for;

/// Runs a command; its exit code, what it said on standard error, and how long it took.
fn timed(cluster: &Cluster, args: &[&str]) -> (i32, String, Duration) {
    let started = Instant::now();
    let (code, _, errors) = cluster.run(args);
    (code, errors, started.elapsed())
}

#[test]
fn a_server_that_hangs_costs_seconds_and_is_named() {
    let name_server_args = ["--replicas", "1"].map(String::from).to_vec();
    let cluster = Cluster::start(&Plan { storage_servers: 2, name_server_args, ..Plan::default() });
    let tree = cluster.path("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..16 {
        fs::write(tree.join(number.to_string()), vec![number as u8; 1 << 20]).unwrap();
    }
    let (tree, back) = (tree.to_str().unwrap(), cluster.path("back"));
    // Before the checks notice: one of two servers takes no byte, or takes them and says nothing.
    cluster.storage[0].signal(Signal::STOP);
    let (code, errors, took) = timed(&cluster, &["import", tree, "/tree"]);
    assert_eq!(code, 0, "{errors}");
    assert!(took < Duration::from_secs(35), "it took {took:?}: {errors}");
    assert!(errors.contains("waiting for storage server storage-0 at http"), "{errors}");
    // What only it has cannot be read meanwhile, which does not take long either.
    cluster.storage[0].signal(Signal::CONT);
    cluster.wait_for_live(2);
    cluster.ok(&["import", tree, "/again"]);
    cluster.storage[0].signal(Signal::STOP);
    let down = |count: u64| move |cluster: &Cluster| cluster.get("/api/v1/report")["servers_down"] == count;
    wait_for("it is down", 30, || down(1)(&cluster).then_some(()));
    let (code, errors, took) = timed(&cluster, &["export", "/again", back.to_str().unwrap()]);
    assert_eq!(code, 7, "{errors}");
    assert!(took < Duration::from_secs(30), "it took {took:?}: {errors}");
    // A write that no server can take.
    cluster.storage[1].signal(Signal::STOP);
    wait_for("both are down", 30, || down(2)(&cluster).then_some(()));
    let (code, errors, took) = timed(&cluster, &["import", &format!("{tree}/1"), "/one"]);
    assert!(code == 6 && errors.contains("0 storage servers are live"), "{code} {errors}");
    assert!(took < Duration::from_secs(20), "it took {took:?}");
    // The name server.
    cluster.name_server.signal(Signal::STOP);
    let (code, errors, took) = timed(&cluster, &["ls", "/"]);
    assert!(code == 6 && took < Duration::from_secs(25), "{code} after {took:?}: {errors}");
    let url = cluster.name_server.url();
    assert_eq!(errors.matches(&format!("waiting for the name server at {url}")).count(), 1, "{errors}");
    assert!(errors.contains(&format!("{url} hangs")), "{errors}");
    let (_, errors, _) = timed(&cluster, &["--quiet", "mkdir", "/more"]);
    assert!(!errors.contains("waiting"), "{errors}");
    requests_that_may_take_hours_are_given_up_too(&cluster);
    cluster.name_server.signal(Signal::CONT);
    cluster.storage.iter().for_each(|server| server.signal(Signal::CONT));
    cluster.wait_for_live(2);
    assert_eq!(timed(&cluster, &["export", "/again", back.to_str().unwrap()]).0, 0);
}

/// To a name server that does not answer how it is. One that does is waited for: the request is answered when it is done.
fn requests_that_may_take_hours_are_given_up_too(cluster: &Cluster) {
    let url = cluster.name_server.url();
    let hung = format!("{url} hangs");
    std::thread::scope(|scope| {
        for args in
            [&["cp", "-r", "/tree", "/copy"][..], &["setrep", "2", "/tree"], &["fsck"], &["remove", "--force", "x"]]
        {
            let (hung, url) = (&hung, &url);
            scope.spawn(move || {
                let (code, errors, took) = timed(cluster, args);
                assert!(code == 6 && took < Duration::from_secs(40), "{args:?}: {code} after {took:?}: {errors}");
                assert!(errors.contains(hung) && errors.contains("start the server again"), "{args:?}: {errors}");
                assert_eq!(
                    errors.matches(&format!("waiting for the name server at {url}")).count(),
                    1,
                    "{args:?}: {errors}"
                );
            });
        }
    });
}

/// A name server that answers only how it is, and takes its time for everything else.
struct Slow {
    url: String,
}

impl Slow {
    /// Everything else is answered with `answer` after so long.
    fn start(takes: Duration, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // It ends with the test program.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut head = vec![0; 8_192];
                    let count = stream.read(&mut head).unwrap_or(0);
                    let is_question = head[..count].starts_with(b"GET /status ");
                    if !is_question {
                        std::thread::sleep(takes);
                    }
                    let body = if is_question { "{\"status\":\"ok\"}" } else { answer };
                    let _ = write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                });
            }
        });
        Self { url }
    }
}

#[test]
fn a_name_server_that_lives_and_works_long_is_waited_for() {
    // Longer than four questions without an answer would take.
    let takes = Duration::from_secs(18);
    let slow = Slow::start(takes, "{\"version\":1,\"files\":7}");
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["--json", "--quiet", "setrep", "2", "/tree", "--name-server", &slow.url, "--token", "hf_x"]);
    command.current_dir(home.path()).env("HOME", home.path());
    let started = Instant::now();
    let (code, printed, errors) = ended(command.output().unwrap());
    let answer: serde_json::Value = serde_json::from_str(&printed).unwrap_or_default();
    assert!(code == 0 && answer["files"] == 7, "{code} {printed}{errors}");
    assert!(started.elapsed() >= takes);
}
