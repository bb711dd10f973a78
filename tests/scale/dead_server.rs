//! A server with ten thousand objects dies for good.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

/// Two copies each on three servers: ten thousand on each server.
const FILES_FULL: usize = 15_000;
const REPAIR_DELAY: Duration = Duration::from_secs(10);

/// Reads one file after the other by a program that is prepared beforehand, until it is told to stop; answers how
/// often, and the longest time from one success to the next.
fn read(stop: &AtomicBool, files: usize, mut cat: impl FnMut(usize) -> Command) -> (usize, Duration) {
    let (mut last, mut longest, mut reads) = (Instant::now(), Duration::ZERO, 0);
    for turn in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let number = turn * 7_919 % files;
        let output = cat(number).output().unwrap();
        if output.status.success() {
            assert_eq!(String::from_utf8(output.stdout).unwrap(), content(number));
            reads += 1;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    (reads, longest.max(last.elapsed()))
}

fn content(number: usize) -> String {
    format!("the content of file {number}").repeat(20)
}

#[test]
fn ten_thousand_objects_of_a_dead_server_are_copied_again_and_reads_go_on() {
    let _alone = crate::alone();
    let files = crate::scaled(FILES_FULL);
    let delay = REPAIR_DELAY.as_secs().to_string();
    let name_server_args = ["--repair-delay", &delay].map(String::from).to_vec();
    // A third of all copies on the server that dies, and somewhere else to put them.
    let mut cluster = Cluster::start(&Plan { name_server_args, ..Plan::default() });
    let dir = cluster.path("in");
    for number in 0..files {
        let below = dir.join(format!("d{}", number % 100));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("f{number}")), content(number)).unwrap();
    }
    let started = Instant::now();
    cluster.ok(&["import", "-j", "64", dir.to_str().unwrap(), "/d"]);
    println!("import of {files} files: {:.1?}", started.elapsed());
    let servers = cluster.get("/api/v1/servers");
    let on_victim = servers["servers"].as_array().unwrap().iter().find(|server| server["name"] == "storage-0").unwrap();
    let on_victim = on_victim["replicas"].as_u64().unwrap();
    assert!(on_victim as usize > files / 2, "{on_victim}");
    let stop = AtomicBool::new(false);
    let (urls, token, home) = (cluster.urls().join(","), cluster.token.clone(), cluster.path(""));
    let cat = |number: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["cat", &format!("/d/d{}/f{number}", number % 100)]).current_dir(&home);
        command.env("HOLDFAST_NAME_SERVER", &urls).env("HOLDFAST_TOKEN", &token).env("HOME", &home);
        command
    };
    let ((reads, longest), whole) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&stop, files, cat));
        std::thread::sleep(Duration::from_secs(2));
        cluster.storage[0].kill();
        let killed = Instant::now();
        wait_for("the server is down", 30, || (cluster.get("/api/v1/report")["servers_down"] == 1).then_some(()));
        println!("noticed after {:.1?}", killed.elapsed());
        wait_for("everything has its copies again", 600, || {
            std::thread::sleep(Duration::from_millis(500));
            let report = cluster.get("/api/v1/report");
            (report["under_replicated"].as_array()?.is_empty() && report["repair"]["queued"] == 0).then_some(())
        });
        let whole = killed.elapsed();
        stop.store(true, Ordering::SeqCst);
        (reader.join().unwrap(), whole)
    });
    println!(
        "{on_victim} copies were lost; all were back {whole:.1?} after the kill with a delay of {REPAIR_DELAY:.0?}; \
         {reads} reads meanwhile, the longest time without one was {longest:.1?}"
    );
    assert!(whole < REPAIR_DELAY + Duration::from_secs(60), "{whole:?}");
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    let running = [&cluster.name_server, &cluster.storage[1], &cluster.storage[2]];
    std::thread::sleep(Duration::from_secs(2));
    let share = crate::share_of_a_core(&running, Duration::from_secs(10));
    println!("afterwards the three processes use {:.1} % of one core together", share * 100.0);
    assert!(share < 0.25, "{share}");
}
