//! Damage on disks: it is found without a reader, told to the name server, put aside, and hidden from readers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

/// About 1.7 seconds, and what such a short one needs.
const SHORT_PERIOD: [&str; 4] = ["--scrub-period", "0.00002", "--scrub-rate", "64"];
const LARGE: usize = 200_000;

fn plan() -> Plan {
    Plan { storage_args: SHORT_PERIOD.map(String::from).to_vec(), ..Plan::default() }
}

fn content(number: usize, size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + number) as u8).collect()
}

/// Writes files of one size with two copies each; object ids and the numbers of the holders, by path.
fn write(cluster: &Cluster, prefix: &str, count: usize, size: usize) -> BTreeMap<String, (String, Vec<usize>)> {
    let body = cluster.path("body");
    let one = |number: usize| {
        fs::write(&body, content(number, size)).unwrap();
        let path = format!("/{prefix}{number}");
        assert_eq!(cluster.http().put(&path, &body, &[]).status, 201);
        let entry = cluster.get(&format!("/api/v1/file?path={path}"));
        let number = |replica: &serde_json::Value| {
            replica["name"].as_str().unwrap().trim_start_matches("storage-").parse().unwrap()
        };
        let holders = entry["replicas"].as_array().unwrap().iter().map(number).collect();
        (path, (entry["object"].as_str().unwrap().to_string(), holders))
    };
    (0..count).map(one).collect()
}

/// Objects of a server among files.
fn on(files: &BTreeMap<String, (String, Vec<usize>)>, server: usize) -> Vec<String> {
    files.values().filter(|(_, holders)| holders.contains(&server)).map(|(object, _)| object.clone()).collect()
}

/// The file of an object below a directory.
fn file_of(dir: &Path, object: &str) -> Option<PathBuf> {
    let is_it = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        name.starts_with(object) && !name.ends_with(".reason") && !name.ends_with(".keep")
    };
    let mut files = walkdir::WalkDir::new(dir).into_iter().flatten();
    files.find(|entry| entry.file_type().is_file() && is_it(entry)).map(|entry| entry.into_path())
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[LARGE / 2] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// Objects that events of a kind are about.
fn told(cluster: &Cluster, kind: &str) -> Vec<String> {
    let events = cluster.get("/api/v1/events?limit=1000&each_copy=true");
    let of_kind = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == kind);
    let mut objects: Vec<String> = of_kind.map(|event| event["object"].as_str().unwrap_or("").to_string()).collect();
    objects.sort();
    objects.dedup();
    objects
}

fn metric(cluster: &Cluster, server: usize, name: &str) -> f64 {
    let text = cluster.metrics(&cluster.storage[server].url()).unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
}

fn in_quarantine(cluster: &Cluster, server: usize, end: &str) -> usize {
    let names = fs::read_dir(cluster.storage_dir(server).join("quarantine")).unwrap();
    names.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(end)).count()
}

#[test]
fn every_kind_of_damage_is_found_told_and_put_aside_and_reads_take_the_other_copy() {
    let mut cluster = Cluster::start(&plan());
    let mut files = write(&cluster, "large", 16, LARGE);
    files.extend(write(&cluster, "small", 10, 1_000));
    let large: Vec<String> =
        on(&files, 0).into_iter().filter(|object| file_of(&cluster.storage_dir(0), object).is_some()).collect();
    let small = on(&files, 0).into_iter().find(|object| !large.contains(object)).unwrap();
    // Copies are known to be committed a moment after they were written; before, they wait for that.
    let dir = cluster.storage_dir(0);
    cluster.storage[0].kill();
    let objects = dir.join("objects");
    flip_a_byte(&file_of(&objects, &large[0]).unwrap());
    fs::OpenOptions::new().write(true).open(file_of(&objects, &large[1]).unwrap()).unwrap().set_len(100).unwrap();
    fs::remove_file(file_of(&objects, &large[2]).unwrap()).unwrap();
    let mut index = SqliteConnection::establish(dir.join("index.sqlite").to_str().unwrap()).unwrap();
    let changed = diesel::sql_query("UPDATE small_bytes SET bytes = zeroblob(1000) WHERE object = ?")
        .bind::<BigInt, _>(i64::from_str_radix(&small, 16).unwrap())
        .execute(&mut index)
        .unwrap();
    assert_eq!(changed, 1);
    drop(index);
    cluster.storage[0].start();
    // A file that nobody knows, from long ago; what is there at the start is found without the scrubber.
    let stray = objects.join("ab/cd/00000000000000ab.00000000000000cd");
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, "stray").unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(7_200);
    fs::File::options().write(true).open(&stray).unwrap().set_modified(long_ago).unwrap();
    cluster.wait_for_live(3);
    // The one whose file is gone is not corrupt but missing: it is found at the start, and counts no longer.
    wait_for("the missing one is told", 30, || {
        cluster.storage[0].log().contains("1 copies have lost their files").then_some(())
    });
    let mut damaged = [&large[..2], std::slice::from_ref(&small)].concat();
    damaged.sort();
    wait_for("all damage is told", 30, || (told(&cluster, "replica_corrupt") == damaged).then_some(()));
    wait_for("it is put aside", 10, || (metric(&cluster, 0, "holdfast_scrub_corrupt_total ") == 3.0).then_some(()));
    let quarantine = dir.join("quarantine");
    wait_for("notes tell why", 10, || (in_quarantine(&cluster, 0, ".reason") == 4).then_some(()));
    assert_eq!(fs::read(file_of(&quarantine, &small).unwrap()).unwrap(), [0; 1_000]);
    assert_eq!(fs::metadata(file_of(&quarantine, &large[0]).unwrap()).unwrap().len(), LARGE as u64);
    assert_eq!(fs::metadata(file_of(&quarantine, &large[1]).unwrap()).unwrap().len(), 100);
    assert!(file_of(&quarantine, &large[2]).is_none() && file_of(&quarantine, "00000000000000ab").is_some());
    assert_eq!(in_quarantine(&cluster, 0, ".keep"), 0);
    assert!(!cluster.storage_status(0).unwrap().scrub_alarm);
    let expected = |path: &str| match path.strip_prefix("/large") {
        Some(number) => content(number.parse().unwrap(), LARGE),
        None => content(path.trim_start_matches("/small").parse().unwrap(), 1_000),
    };
    let back = cluster.path("back");
    for path in files.keys() {
        cluster.ok(&["export", path, back.to_str().unwrap()]);
        assert_eq!(fs::read(&back).unwrap(), expected(path), "{path}");
        fs::remove_file(&back).unwrap();
    }
    wait_for("everything has its copies again", 60, || {
        let report = cluster.get("/api/v1/report");
        (report["under_replicated"].as_array()?.is_empty() && report["repair"]["queued"] == 0).then_some(())
    });
    // Every copy that the metadata lists is there and right.
    for path in files.keys() {
        let entry = cluster.get(&format!("/api/v1/file?path={path}"));
        assert_eq!(entry["copies"], 2, "{path}");
        for replica in entry["replicas"].as_array().unwrap() {
            cluster.http().curl(&["-o", back.to_str().unwrap(), replica["url"].as_str().unwrap()]).unwrap();
            assert_eq!(fs::read(&back).unwrap(), expected(path), "{path} on {}", replica["name"]);
        }
    }
    // What is right was checked again and again.
    wait_for("everything was checked", 20, || (metric(&cluster, 0, "holdfast_scrub_age_seconds ") < 4.0).then_some(()));
}

#[test]
fn the_last_copy_stays_in_quarantine_and_the_event_names_the_file() {
    let mut cluster = Cluster::start(&plan());
    let files = write(&cluster, "f", 1, LARGE);
    let (object, holders) = &files["/f0"];
    wait_for("the copies are known to be committed", 20, || {
        (cluster.storage_status(holders[1])?.objects == 1).then_some(())
    });
    cluster.storage[holders[0]].kill();
    flip_a_byte(&file_of(&cluster.storage_dir(holders[0]).join("objects"), object).unwrap());
    flip_a_byte(&file_of(&cluster.storage_dir(holders[1]).join("objects"), object).unwrap());
    cluster.storage[holders[0]].start();
    wait_for("the last copy is told", 30, || (told(&cluster, "last_copy_corrupt") == [object.as_str()]).then_some(()));
    let kept = || holders.iter().map(|holder| in_quarantine(&cluster, *holder, ".keep")).sum::<usize>();
    wait_for("both copies are aside, the last one for good", 20, || {
        let aside = holders.iter().filter(|holder| in_quarantine(&cluster, **holder, ".reason") == 1).count();
        (kept() > 0 && aside == 2).then_some(())
    });
    assert!(cluster.ok(&["events", "--verbose"]).contains("/f0"));
    let (code, _, errors) = cluster.run(&["cat", "/f0"]);
    assert_ne!(code, 0, "wrong bytes are never shown: {errors}");
}

#[test]
fn nothing_is_moved_before_the_name_server_has_decided() {
    let mut cluster = Cluster::start(&plan());
    let files = write(&cluster, "f", 1, LARGE);
    let (object, holders) = &files["/f0"];
    cluster.name_server.kill();
    let file = file_of(&cluster.storage_dir(holders[0]).join("objects"), object).unwrap();
    flip_a_byte(&file);
    let found = || metric(&cluster, holders[0], "holdfast_scrub_corrupt_total ") == 1.0;
    wait_for("it is found", 20, || found().then_some(()));
    let complaints = || cluster.storage[holders[0]].log().matches("the pass failed").count();
    wait_for("the name server was asked in vain, twice", 40, || (complaints() >= 2).then_some(()));
    assert!(file.exists() && in_quarantine(&cluster, holders[0], "") == 0);
    assert!(found(), "one copy is counted once");
    cluster.name_server.start();
    wait_for("it is put aside", 40, || (in_quarantine(&cluster, holders[0], ".reason") == 1).then_some(()));
    assert!(!file.exists());
}

#[test]
fn many_corrupt_copies_at_once_raise_an_alarm_and_nothing_is_moved_any_more() {
    let mut cluster = Cluster::start(&plan());
    let files = write(&cluster, "f", 36, LARGE);
    let here = on(&files, 0);
    assert!(here.len() > 11, "{} of 36 files are here", here.len());
    cluster.storage[0].kill();
    let objects = cluster.storage_dir(0).join("objects");
    here.iter().for_each(|object| flip_a_byte(&file_of(&objects, object).unwrap()));
    cluster.storage[0].start();
    wait_for("an alarm", 30, || cluster.storage_status(0)?.scrub_alarm.then_some(()));
    assert!(cluster.storage[0].log().contains("more than 10 copies were found corrupt"));
    wait_for("the name server knows", 30, || {
        (!told(&cluster, "scrub_alarm").is_empty() && told(&cluster, "replica_corrupt").len() == here.len())
            .then_some(())
    });
    let aside = in_quarantine(&cluster, 0, ".reason");
    assert!(aside <= 10, "{aside} copies were moved before the alarm");
    wait_for("everything has its copies again", 60, || {
        let report = cluster.get("/api/v1/report");
        (report["under_replicated"].as_array()?.is_empty() && report["repair"]["queued"] == 0).then_some(())
    });
    assert_eq!(in_quarantine(&cluster, 0, ".reason"), aside, "nothing more was moved");
    // It gets nothing new, and whoever looks sees why.
    wait_for("the report tells of it", 20, || {
        cluster.get("/api/v1/report")["problems"].to_string().contains("no longer trusts its disk").then_some(())
    });
    assert!(cluster.ok(&["servers"]).contains("CORRUPTION ALARM"));
    let later = write(&cluster, "later", 8, LARGE);
    assert!(on(&later, 0).is_empty(), "the server in alarm got new files");
    assert_eq!(cluster.get("/api/v1/report")["verdict"], "degraded");
    for path in files.keys() {
        assert!(!cluster.ok(&["cat", path]).is_empty());
    }
}

#[test]
fn a_reader_that_meets_a_corrupt_copy_makes_it_known_at_once() {
    // The round takes a month: only the reader can have told.
    let cluster = Cluster::start(&Plan::default());
    let files = write(&cluster, "f", 2, LARGE);
    let (object, holders) = &files["/f0"];
    let objects = cluster.storage_dir(holders[0]).join("objects");
    flip_a_byte(&file_of(&objects, object).unwrap());
    wait_for("the reader's suspicion is told", 40, || {
        let entry = cluster.get("/api/v1/file?path=/f0");
        for replica in entry["replicas"].as_array().unwrap() {
            cluster.http().curl(&["-o", "/dev/null", replica["url"].as_str().unwrap()]);
        }
        (told(&cluster, "replica_corrupt") == [object.as_str()]).then_some(())
    });
    wait_for("it is aside", 10, || file_of(&objects, object).is_none().then_some(()));
    assert!(!cluster.storage_status(holders[0]).unwrap().scrub_alarm);
}
