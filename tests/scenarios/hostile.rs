//! Many who are slow on purpose: heads, JSON, uploads, downloads that nobody reads. Others must not notice.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use holdfast::types::limits::JSON_BODY_TIMEOUT;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::common::cluster::{Cluster, Plan, Process, peak_memory_mib};
use crate::common::wait_for;
use crate::trees::walk_files;

/// What memory may grow by.
const GROWTH_MIB_MAX: u64 = 64;

/// Makes the peak of a process's memory begin anew, and answers what it has.
fn reset_peak_mib(process: &Process) -> u64 {
    fs::write(format!("/proc/{}/clear_refs", process.pid()), "5").unwrap();
    process.peak_memory_mib()
}

fn open_files(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count()
}

/// How long things take for somebody who does nothing wrong.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn p99_ms(&mut self) -> u128 {
        self.0.sort_unstable();
        self.0[(self.0.len() * 99 / 100).min(self.0.len() - 1)].as_millis()
    }
}

/// Writes, reads and lists for a while. Everything must go well.
async fn work(base: &str, token: &str, round: &str, time: Duration) -> Times {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let http = &http;
    let (started, mut times) = (Instant::now(), Times::default());
    let mut number = 0;
    while started.elapsed() < time {
        number += 1;
        // Connections of its own, as newcomers have them.
        let fresh = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let (url, before) = (format!("{base}/files/work/{round}-{number}"), Instant::now());
        let place =
            fresh.put(&url).bearer_auth(token).header("Content-Length", "5").body("bytes").send().await.unwrap();
        assert_eq!(place.status(), 307, "{}", place.text().await.unwrap());
        let location = place.headers()["location"].to_str().unwrap().to_string();
        let written = http.put(location).body("bytes").send().await.unwrap();
        assert_eq!(written.status(), 201, "{}", written.text().await.unwrap());
        let read = http.get(&url).bearer_auth(token).send().await.unwrap();
        assert_eq!((read.status().as_u16(), read.text().await.unwrap().as_str()), (200, "bytes"));
        let listed = http.get(format!("{base}/api/v1/ls?path=/work&limit=10")).bearer_auth(token).send().await.unwrap();
        assert_eq!(listed.status(), 200);
        times.0.push(before.elapsed());
    }
    times
}

/// Sends a start, then a byte a second, until the other side ends it or it is told to stop. Answers after how long the
/// other side did.
async fn trickle(address: String, start: String, stop: Arc<AtomicBool>) -> Option<Duration> {
    let begun = Instant::now();
    let Ok(mut stream) = TcpStream::connect(address).await else { return Some(Duration::ZERO) };
    if stream.write_all(start.as_bytes()).await.is_err() {
        return Some(begun.elapsed());
    }
    let mut answer = [0; 1024];
    while !stop.load(Ordering::Relaxed) {
        let said = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await;
        match said {
            // An answer is read like any program would; the end of the connection ends it.
            Ok(Ok(0) | Err(_)) => return Some(begun.elapsed()),
            Ok(Ok(_)) => {}
            Err(_) if stream.write_all(b"x").await.is_err() => return Some(begun.elapsed()),
            Err(_) => {}
        }
    }
    None
}

/// Sends a part of a body and nothing more.
async fn half(address: String, start: String, stop: Arc<AtomicBool>) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let _ = stream.write_all(start.as_bytes()).await;
    let _ = stream.write_all(&[7; 40_000]).await;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Asks for a file and takes nothing of it.
async fn unread(address: String, start: String, stop: Arc<AtomicBool>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let Ok(mut stream) = socket.connect(address.parse().unwrap()).await else { return };
    let _ = stream.write_all(start.as_bytes()).await;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn host(url: &str) -> String {
    url.trim_start_matches("http://").to_string()
}

/// Tickets to upload, with the server that each goes to.
fn uploads(cluster: &Cluster, size: u64, count: usize) -> Vec<(String, String)> {
    let mut tickets = Vec::new();
    while tickets.len() < count {
        let answer = cluster.http().get(&format!("/api/v1/available?path=/hostile&size={size}&count=256"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        for placement in answer.json()["placements"].as_array().unwrap() {
            let url = placement["servers"][0]["url"].as_str().unwrap();
            tickets.push((host(url), placement["ticket"].as_str().unwrap().to_string()));
        }
    }
    tickets.truncate(count);
    tickets
}

/// The path and query of a copy of a file on a server.
fn copy_on(cluster: &Cluster, server: usize) -> Option<String> {
    let entry = cluster.get("/api/v1/file?path=/large");
    let name = format!("storage-{server}");
    let replica = entry["replicas"].as_array()?.iter().find(|replica| replica["name"] == name.as_str())?.clone();
    Some(replica["url"].as_str()?.strip_prefix(&cluster.storage[server].url())?.to_string())
}

#[test]
fn the_slow_take_nothing_from_others_and_are_let_go() {
    let args = ["--repair-delay", "1", "--down-after", "2", "--health-interval", "0.5"].map(String::from).to_vec();
    let mut cluster = Cluster::start(&Plan { name_server_args: args, ..Plan::default() });
    let body = cluster.path("body");
    fs::write(&body, vec![1; 6 << 20]).unwrap();
    // Somewhere a copy must be on the server that most of them come to.
    while copy_on(&cluster, 0).is_none() {
        cluster.http().curl(&["-X", "DELETE", &format!("{}/files/large", cluster.name_server.url())]);
        assert_eq!(cluster.http().put("/large", &body, &[]).status, 201);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (base, token) = (cluster.name_server.url(), cluster.token.clone());
    holdfast::security::tls::install_crypto_provider();
    runtime.block_on(work(&base, &token, "warm", Duration::from_millis(500)));
    let mut before = runtime.block_on(work(&base, &token, "before", Duration::from_secs(2)));
    let all: Vec<&Process> = [&cluster.name_server].into_iter().chain(&cluster.storage[..2]).collect();
    let memory: Vec<u64> = all.iter().map(|process| reset_peak_mib(process)).collect();
    let files: Vec<usize> = all.iter().map(|process| open_files(process)).collect();

    // They come: a byte a second in heads, JSON and uploads, uploads that stop half-way, downloads that nobody reads.
    let stop = Arc::new(AtomicBool::new(false));
    let (name_server, storage) = (host(&base), host(&cluster.storage[0].url()));
    let (mut heads, mut json, mut slow, mut rest) = (JoinSet::new(), JoinSet::new(), JoinSet::new(), JoinSet::new());
    let _inside = runtime.enter();
    for to in [&name_server, &storage] {
        for _ in 0..100 {
            heads.spawn(trickle(to.clone(), "GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ".into(), stop.clone()));
        }
    }
    let json_head = |auth: &str| {
        format!(
            "POST /api/v1/mkdir HTTP/1.1\r\nHost: h\r\n{auth}Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n{{"
        )
    };
    for _ in 0..100 {
        let auth = format!("Authorization: Bearer {token}\r\n");
        json.spawn(trickle(name_server.clone(), json_head(&auth), stop.clone()));
    }
    let upload_head = |ticket: &str, size: u64| {
        format!("POST /file?ticket={ticket} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n")
    };
    for (to, ticket) in uploads(&cluster, 1_000_000, 400) {
        slow.spawn(trickle(to, upload_head(&ticket, 1_000_000), stop.clone()));
    }
    for (to, ticket) in uploads(&cluster, 80_000, 200) {
        rest.spawn(half(to, upload_head(&ticket, 80_000), stop.clone()));
    }
    let copy = copy_on(&cluster, 0).unwrap();
    for _ in 0..100 {
        rest.spawn(unread(storage.clone(), format!("GET {copy} HTTP/1.1\r\nHost: h\r\n\r\n"), stop.clone()));
    }
    let come = Instant::now();
    wait_for("places are short", 20, || {
        let full = |number| cluster.storage_status(number).is_some_and(|status| status.uploads >= 100);
        (full(0) && full(1)).then_some(())
    });
    // Meanwhile a server dies, and what it had is copied, also to those that are full of uploads.
    cluster.storage[2].kill();
    wait_for("its copies are missed", 20, || {
        let report = cluster.get("/api/v1/report");
        (report["servers_down"] == 1).then_some(())
    });
    let mut during = runtime.block_on(work(&base, &token, "during", Duration::from_secs(6)));
    wait_for("repair goes on", 20, || {
        let report = cluster.get("/api/v1/report");
        report["under_replicated"].as_array().filter(|rows| rows.is_empty()).map(|_| ())
    });
    println!("repaired {:.1} s after they came", come.elapsed().as_secs_f64());
    println!("p99 of others: {} ms before, {} ms during", before.p99_ms(), during.p99_ms());

    // They are let go although they go on.
    let ended = |set: &mut JoinSet<Option<Duration>>| {
        let mut times = Vec::new();
        runtime.block_on(async {
            while let Some(time) = set.join_next().await {
                times.push(time.unwrap().expect("it was ended by the server"));
            }
        });
        times.into_iter().max().unwrap()
    };
    let longest = ended(&mut json);
    assert!(longest >= JSON_BODY_TIMEOUT && longest < JSON_BODY_TIMEOUT * 2, "JSON went on for {longest:?}");
    println!("heads went on for {:?} at most, JSON for {longest:?}", ended(&mut heads));
    println!("slow uploads went on for {:?} at most", ended(&mut slow));
    let all: Vec<&Process> = [&cluster.name_server].into_iter().chain(&cluster.storage[..2]).collect();
    for (process, (memory, files)) in all.iter().zip(memory.iter().zip(&files)) {
        let peak = peak_memory_mib(process.pid());
        println!("memory: {memory} MiB before, {peak} MiB at most; {files} files before, {} now", open_files(process));
        assert!(peak <= memory + GROWTH_MIB_MAX, "memory grew from {memory} to {peak} MiB");
    }
    wait_for("nobody holds a connection any more", 30, || {
        all.iter().zip(&files).all(|(process, files)| open_files(process) <= files + 40).then_some(())
    });
    println!("all are gone {:.1} s after they came", come.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    for number in 0..2 {
        assert_eq!(cluster.storage_status(number).unwrap().uploads, 0);
        wait_for("incoming/ is empty", 10, || {
            (walk_files(&cluster.storage_dir(number).join("incoming")) == 0).then_some(())
        });
    }
    drop((heads, json, slow, rest));
    let Value::Array(left) = cluster.get("/api/v1/ls?path=/")["entries"].clone() else { panic!("no listing") };
    assert!(!left.iter().any(|entry| entry["path"] == "hostile"), "{left:?}");
}

#[test]
fn strangers_without_end_leave_room_when_files_are_few() {
    // As in a shell with a small limit that cannot be raised.
    let plan = Plan {
        wrapper: ["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"].map(String::from).to_vec(),
        ..Plan::default()
    };
    let cluster = Cluster::start(&plan);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let stop = Arc::new(AtomicBool::new(false));
    let open = Arc::new(AtomicUsize::new(0));
    let mut strangers = JoinSet::new();
    for process in [&cluster.name_server, &cluster.storage[0]] {
        for _ in 0..300 {
            let (address, stop, open) = (host(&process.url()), stop.clone(), open.clone());
            strangers.spawn(async move {
                // Whoever is closed comes again at once.
                while !stop.load(Ordering::Relaxed) {
                    open.fetch_add(1, Ordering::Relaxed);
                    trickle(address.clone(), "POST /api/v1/mkdir HTTP/1.1\r\nX: ".into(), stop.clone()).await;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
        }
    }
    wait_for("they are many", 20, || (open.load(Ordering::Relaxed) >= 600).then_some(()));
    let body = cluster.path("body");
    fs::write(&body, vec![1; 100_000]).unwrap();
    let started = Instant::now();
    // With so few files nobody is spared who has not said yet who he is; whoever comes again, as our clients do, gets in.
    let again = ["--retry", "8", "--retry-delay", "1", "--retry-all-errors"];
    for number in 0..10 {
        let written = cluster.http().put(&format!("/f{number}"), &body, &again);
        assert_eq!(written.status, 201, "{}", written.body);
        let url = format!("{}/files/f{number}", cluster.http().base);
        let read = cluster.http().curl(&[&again[..], &[&url]].concat()).unwrap();
        assert_eq!((read.status, read.body.len()), (200, 100_000));
    }
    println!("10 writes and reads took {:?}", started.elapsed());
    stop.store(true, Ordering::Relaxed);
    for process in [&cluster.name_server, &cluster.storage[0]] {
        assert!(!process.log().contains("Too many open files"), "{}", process.log());
        assert!(open_files(process) < 256);
    }
    assert_eq!(cluster.get("/api/v1/report")["verdict"], "healthy");
    runtime.block_on(async { while strangers.join_next().await.is_some() {} });
}

#[test]
fn a_server_without_a_free_file_is_busy_and_not_broken() {
    use std::io::{Read, Write};
    let args = ["--replicas", "1"].map(String::from).to_vec();
    let soft_limit = ["sh", "-c", "ulimit -Sn 256; exec \"$@\"", "sh"].map(String::from).to_vec();
    let plan = Plan { storage_servers: 1, name_server_args: args, wrapper: soft_limit, ..Plan::default() };
    let cluster = Cluster::start(&plan);
    // Both have taken as many files as they may have, whatever the shell said.
    for process in [&cluster.name_server, &cluster.storage[0]] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let files: Vec<&str> = files.split_whitespace().collect();
        assert!(files[0] == files[1] && files[0] != "256", "{files:?}");
    }
    let (to, ticket) = uploads(&cluster, 100_000, 1).remove(0);
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    let ask = |stream: &mut std::net::TcpStream, text: &str, body: &[u8]| -> String {
        stream.write_all(text.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = [0; 4_096];
        let read = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    // The connection is there before the last file is taken.
    assert!(ask(&mut stream, "GET /status HTTP/1.1\r\nHost: h\r\n\r\n", b"").starts_with("HTTP/1.1 200"));
    let storage = &cluster.storage[0];
    let pid = rustix::process::Pid::from_raw(storage.pid() as i32);
    let limit = |files: u64| rustix::process::Rlimit { current: Some(files), maximum: Some(20_000) };
    // Those that are open stay so, and no further number is to be had.
    let before = rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit(3)).unwrap();
    let upload = format!("POST /file?ticket={ticket} HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    let refused = ask(&mut stream, &upload, &[7; 100_000]);
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("\"busy\""), "{refused}");
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, before).unwrap();
    let mut again = std::net::TcpStream::connect(host(&storage.url())).unwrap();
    let stored = ask(&mut again, &upload, &[7; 100_000]);
    assert!(stored.starts_with("HTTP/1.1 201"), "{stored}");
}
