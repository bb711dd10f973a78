//! A storage server's directory that is damaged: what is refused stays as it is, and every byte can be looked at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::cluster::{Cluster, Plan, SECRET};
use crate::common::wait_for;

fn storage_server(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-storage-server")).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Everything below a directory: names, and bytes of files.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let bytes = |entry: walkdir::DirEntry| {
        let bytes = entry.file_type().is_file().then(|| fs::read(entry.path()).unwrap());
        (entry.into_path(), bytes)
    };
    walkdir::WalkDir::new(dir).into_iter().map(|entry| bytes(entry.unwrap())).collect()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").args(["-a"]).args([from, to]).status().unwrap().success());
}

fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

fn files_in(dir: &Path, start: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file() && entry.file_name().to_string_lossy().starts_with(start))
        .map(walkdir::DirEntry::into_path)
        .collect();
    files.sort();
    files
}

/// Files large and small on two servers, which end without any goodbye.
fn killed() -> Cluster {
    let mut cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    for size in [10usize, 200_000, 300_000] {
        fs::write(&body, vec![3; size]).unwrap();
        assert_eq!(cluster.http().put(&format!("/f{size}"), &body, &[]).status, 201);
    }
    wait_for("the journal is there", 20, || {
        let there = |number| !files_in(&cluster.storage_dir(number).join("journal"), "s").is_empty();
        (there(0) && there(1)).then_some(())
    });
    cluster.kill_all();
    cluster
}

type Damage = fn(&Path);

/// What is done to a directory, and what must be said.
const REFUSED: &[(&str, Damage, &[&str])] = &[
    ("an empty index", |dir| fs::write(dir.join("index.sqlite"), "").unwrap(), &["index.sqlite", "rebuild"]),
    ("an index of a byte", |dir| fs::write(dir.join("index.sqlite"), "S").unwrap(), &["index.sqlite", "rebuild"]),
    (
        "rubbish",
        |dir| fs::write(dir.join("index.sqlite"), "rubbish".repeat(999)).unwrap(),
        &["index.sqlite", "rebuild"],
    ),
    ("no index", |dir| fs::remove_file(dir.join("index.sqlite")).unwrap(), &["index.sqlite", "rebuild"]),
    ("a directory in the index's place", in_the_place_of_the_index, &["index.sqlite", "rebuild"]),
    ("a half index", half_an_index, &["index.sqlite", "rebuild"]),
    ("a flipped byte in a page", a_flipped_page, &["index.sqlite", "rebuild"]),
    ("a log whose first frame is wrong", a_flipped_log, &["index.sqlite", "rebuild"]),
    ("half a rebuild", |dir| fs::write(dir.join("index.sqlite.new"), "x").unwrap(), &["index.sqlite", "rebuild"]),
    ("an empty server.json", |dir| fs::write(dir.join("server.json"), "").unwrap(), &["server.json", "salvage"]),
    (
        "server.json of rubbish",
        |dir| fs::write(dir.join("server.json"), [255; 9]).unwrap(),
        &["server.json", "salvage"],
    ),
    ("no server.json", |dir| fs::remove_file(dir.join("server.json")).unwrap(), &["server.json", "salvage"]),
    ("a directory in its place", in_the_place_of_server_json, &["server.json", "salvage"]),
    (
        "a newer directory",
        |dir| edit(&dir.join("server.json"), "\"format_version\": 1", "\"format_version\": 9"),
        &["server.json", "newer program"],
    ),
    ("a newer journal", a_newer_journal, &["segment-", "newer program"]),
];

fn in_the_place_of_the_index(dir: &Path) {
    fs::remove_file(dir.join("index.sqlite")).unwrap();
    fs::create_dir(dir.join("index.sqlite")).unwrap();
}

fn in_the_place_of_server_json(dir: &Path) {
    fs::remove_file(dir.join("server.json")).unwrap();
    fs::create_dir(dir.join("server.json")).unwrap();
}

/// Has SQLite merge its log, so that the pages are in the index itself.
fn merged(dir: &Path) -> PathBuf {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    let index = dir.join("index.sqlite");
    let mut connection = SqliteConnection::establish(index.to_str().unwrap()).unwrap();
    connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    index
}

fn half_an_index(dir: &Path) {
    let index = merged(dir);
    let half = fs::metadata(&index).unwrap().len() / 2;
    fs::File::options().write(true).open(index).unwrap().set_len(half).unwrap();
}

fn a_flipped_page(dir: &Path) {
    // The kind of the second page.
    flip(&merged(dir), 4_096);
}

/// Everything is in the log, as on a server that has just begun; without the log there are no tables.
fn a_flipped_log(dir: &Path) {
    let log = dir.join("index.sqlite-wal");
    assert!(fs::metadata(&log).unwrap().len() > 4_096, "the server was killed");
    assert_eq!(fs::metadata(dir.join("index.sqlite")).unwrap().len(), 4_096);
    flip(&log, 32 + 24 + 100);
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn a_newer_journal(dir: &Path) {
    let segments = files_in(&dir.join("journal"), "segment-");
    edit(segments.last().unwrap(), "\"format\":1", "\"format\":9");
    // What comes before it in the directory must not be put aside either.
    fs::write(dir.join("journal/segment-0000000000000000000-0000000000000000000.jsonl"), "rubbish").unwrap();
}

/// Starts the daemon with a name server that does not answer: it must refuse before it asks.
fn start(dir: &Path, more: &[&str]) -> Output {
    let dir = dir.to_str().unwrap();
    let mut args = vec!["--data-dir", dir, "--name-server", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"];
    args.extend(more);
    storage_server(&args)
}

#[test]
fn a_refused_start_changes_no_byte_and_says_what_and_what_to_do() {
    let cluster = killed();
    let (whole, dir) = (cluster.storage_dir(0), cluster.path("damaged"));
    let refused = |what: &str, more: &[&str], says: &[&str]| {
        let before = everything(&dir);
        let output = start(&dir, more);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{what}: {:?} {}", output.status, said(&output));
        for word in says {
            assert!(said(&output).contains(word), "{what}: {word} is not in {}", said(&output));
        }
        let after = everything(&dir);
        let names = |all: &BTreeMap<PathBuf, Option<Vec<u8>>>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "{what}");
        assert!(before == after, "{what}: bytes have changed");
    };
    for (what, damage, says) in REFUSED {
        copy(&whole, &dir);
        damage(&dir);
        refused(what, &["--cluster-secret", SECRET], says);
    }
    copy(&whole, &dir);
    let nowhere = cluster.path("nowhere").to_str().unwrap().to_string();
    let rubbish = cluster.path("rubbish").to_str().unwrap().to_string();
    fs::write(&rubbish, "rubbish").unwrap();
    refused("no secret", &["--cluster-secret-file", &nowhere], &[&nowhere]);
    refused("no authority", &["--cluster-secret", SECRET, "--ca-cert", &nowhere], &[&nowhere]);
    refused("a wrong authority", &["--cluster-secret", SECRET, "--ca-cert", &rubbish], &[&rubbish]);
    let certificate = ["--cluster-secret", SECRET, "--tls-cert", &rubbish, "--tls-key", &rubbish];
    refused("a wrong certificate", &certificate, &[&rubbish]);
    let lock = fs::File::open(dir.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    refused("in use", &["--cluster-secret", SECRET], &["in use", "damaged"]);
}

/// Reads a segment as `docs/formats.md` describes it, with nothing of the program. Answers its versions.
fn read_by_the_document(path: &Path) -> (i64, i64) {
    use sha2::{Digest, Sha256};
    let bytes = fs::read(path).unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (header, trailer) = (&lines[0], &lines[lines.len() - 1]);
    assert_eq!((&header["kind"], &header["format"]), (&"segment".into(), &1.into()));
    let place = text.rfind(",\"sha256\":").unwrap();
    assert_eq!(trailer["sha256"].as_str().unwrap(), hex::encode(Sha256::digest(&bytes[..place])));
    assert_eq!(trailer["lines"].as_u64().unwrap() as usize, lines.len() - 2);
    let mut tip = hex::decode(header["tip_before"].as_str().unwrap()).unwrap();
    for line in &lines[1..lines.len() - 1] {
        let mut hasher = Sha256::new();
        hasher.update(&tip);
        hasher.update(line["version"].as_i64().unwrap().to_be_bytes());
        hasher.update((line["seq"].as_i64().unwrap() as i32).to_be_bytes());
        for name in ["table", "key", "content"] {
            match line[name].as_str() {
                Some(text) => {
                    hasher.update((text.len() as u64).to_be_bytes());
                    hasher.update(text);
                }
                None => hasher.update([0xff; 8]),
            }
        }
        tip = hasher.finalize().to_vec();
    }
    assert_eq!(header["tip_after"].as_str().unwrap(), hex::encode(tip));
    let (first, last) = (header["first"].as_i64().unwrap(), header["last"].as_i64().unwrap());
    assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("segment-{first:019}-{last:019}.jsonl"));
    (first, last)
}

#[test]
fn a_directory_is_verified_without_a_server_and_stays_as_it_is() {
    let cluster = killed();
    let (whole, dir) = (cluster.storage_dir(0), cluster.path("verified"));
    let verify = |args: &[&str], code: i32| {
        let before = everything(&dir);
        let output = storage_server(&[args, &[dir.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?} {}", said(&output));
        assert!(before == everything(&dir), "{args:?}");
        said(&output)
    };
    copy(&whole, &dir);
    let clean = verify(&["verify"], 0);
    assert!(clean.contains("3 copies (500010 bytes)") && clean.contains("0 are damaged"), "{clean}");
    verify(&["journal", "verify"], 0);
    // The document tells enough to read it without the program.
    let segments = files_in(&dir.join("journal"), "segment-");
    let read: Vec<(i64, i64)> = segments.iter().map(|segment| read_by_the_document(segment)).collect();
    assert!(read[0].0 == 1 && read.windows(2).all(|pair| pair[1].0 == pair[0].1 + 1), "{read:?}");
    for file in files_in(&dir.join("objects"), "") {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(
            file.strip_prefix(dir.join("objects")).unwrap().to_str().unwrap(),
            [&name[12..14], &name[14..16], name].join("/")
        );
    }
    // Each kind of damage is named, and the journal's alone where only the journal is asked for.
    let large = files_in(&dir.join("objects"), "");
    flip(&large[0], 1_000);
    fs::remove_file(&large[1]).unwrap();
    let segment = files_in(&dir.join("journal"), "segment-").remove(0);
    let middle = fs::metadata(&segment).unwrap().len() as usize / 2;
    flip(&segment, middle);
    let found = verify(&["verify"], 7);
    for name in [&large[0], &large[1], &segment] {
        assert!(found.contains(name.to_str().unwrap()), "{name:?} is not in {found}");
    }
    assert!(found.contains("SHA-256") && found.contains("missing"), "{found}");
    let found = verify(&["journal", "verify"], 7);
    assert!(found.contains(segment.to_str().unwrap()) && !found.contains("SHA-256"), "{found}");
    let output = storage_server(&["verify", "--json", dir.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kinds = |kind: &str| json["damaged"].as_array().unwrap().iter().filter(|one| one["kind"] == kind).count();
    assert_eq!((kinds("copy"), json["clean"].as_bool()), (2, Some(false)), "{json}");
    assert!(kinds("journal") >= 1);
    // A damaged index.
    copy(&whole, &dir);
    a_flipped_page(&dir);
    assert!(verify(&["verify"], 7).contains("index.sqlite"));
    // A daemon has it, and a directory of something else.
    copy(&whole, &dir);
    let lock = fs::File::open(dir.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(verify(&["verify"], 2).contains("in use"));
    drop(lock);
    let output = storage_server(&["verify", cluster.path("").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
}

#[test]
fn a_damaged_file_of_the_journal_is_found_told_and_replaced() {
    let short = ["--scrub-period", "0.00002", "--scrub-rate", "64"].map(String::from).to_vec();
    let cluster = Cluster::start(&Plan { storage_servers: 2, storage_args: short, ..Plan::default() });
    let mut version = 0;
    for number in 0..3 {
        cluster.ok(&["mkdir", &format!("/d{number}")]);
        wait_for("the change is in the journal", 20, || {
            let reached = cluster.storage_status(0)?.journal?.version;
            (std::mem::replace(&mut version, reached) < reached).then_some(())
        });
    }
    let journal = cluster.storage_dir(0).join("journal");
    let segment = files_in(&journal, "segment-").remove(0);
    flip(&segment, fs::metadata(&segment).unwrap().len() as usize / 2);
    wait_for("it is told", 30, || {
        let events = cluster.get("/api/v1/events?limit=1000");
        let mut events = events["events"].as_array()?.clone().into_iter();
        let event = events.find(|event| event["kind"] == "journal_corrupt")?;
        assert!(event["detail"].as_str()?.contains(segment.file_name()?.to_str()?), "{event}");
        Some(())
    });
    assert!(!files_in(&cluster.storage_dir(0).join("quarantine"), "journal-segment-").is_empty());
    wait_for("the name server has sent it anew", 30, || {
        (cluster.storage_status(0)?.journal?.version >= version).then_some(())
    });
    wait_for("all files are right", 30, || {
        let mut collection = holdfast::journal::collection::Collection::new(None);
        let right = files_in(&journal, "s").iter().all(|file| collection.add(file).is_ok());
        (right && collection.merge().chain?.head.version >= version).then_some(())
    });
}

#[test]
fn a_scrub_now_finds_a_wrong_byte_and_what_it_found_stays() {
    let mut cluster = Cluster::start(&Plan::default());
    let body = cluster.path("body");
    fs::write(&body, vec![7; 300_000]).unwrap();
    for number in 0..6 {
        assert_eq!(cluster.http().put(&format!("/f{number}"), &body, &[]).status, 201);
    }
    let (code, out, errors) = cluster.run(&["scrub", "now"]);
    assert_eq!(code, 0, "{out}{errors}");
    // A copy is judged when its commit is known.
    let damaged = (0..3).find_map(|number| {
        let file = files_in(&cluster.storage_dir(number).join("objects"), "").into_iter().next()?;
        Some((number, file))
    });
    let (number, file) = damaged.unwrap();
    flip(&file, 150_000);
    let (code, out, errors) = cluster.run(&["--json", "fsck", "--deep"]);
    assert_eq!(code, 7, "{out}{errors}");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let of = |value: &serde_json::Value, number: usize| {
        let servers = value["scrub"]["servers"].as_array().or(value["servers"].as_array()).unwrap();
        let name = format!("storage-{number}");
        servers.iter().find(|server| server["name"] == name.as_str()).unwrap()["status"]["last"].clone()
    };
    for server in 0..3 {
        assert_eq!(of(&found, server)["corrupt"], i32::from(server == number), "{found}");
        assert!(of(&found, server)["bytes"].as_u64().unwrap() > 0, "{found}");
    }
    // It stays, over a restart as well. What is found is told to the name server at once, and a server that dies before that
    // finds it again.
    wait_for("the name server has heard of it", 20, || {
        cluster.get("/api/v1/events?kind=replica_corrupt")["events"].as_array()?.first().map(|_| ())
    });
    cluster.storage[number].kill();
    cluster.storage[number].start();
    cluster.wait_for_live(3);
    let shown = cluster.ok(&["--json", "scrub", "--status"]);
    let status: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(of(&status, number), of(&found, number), "{shown}");
    wait_for("the copy is replaced", 60, || {
        let whole = |number: usize| {
            let entry = cluster.get(&format!("/api/v1/file?path=/f{number}"));
            entry["replicas"].as_array().is_some_and(|copies| copies.len() == 2)
        };
        ((0..6).all(whole) && !file.exists() || fs::read(&file).is_ok_and(|now| now == vec![7; 300_000])).then_some(())
    });
    let (code, out, errors) = cluster.run(&["fsck", "--deep"]);
    assert_eq!(code, 0, "{out}{errors}");
    // One server alone; and what is no server.
    let (code, out, errors) = cluster.run(&["scrub", "now", &format!("storage-{number}")]);
    assert!(code == 0 && out.contains(&format!("storage-{number}")) && out.lines().count() == 2, "{out}{errors}");
    assert_eq!(cluster.run(&["scrub", "now", "nobody"]).0, 3);
    assert!(cluster.ok(&["servers", "-l"]).contains("LAST WHOLE PASS"));
    // The copies of a file, and of all files below a directory.
    let scrub = |cluster: &Cluster, path: &str| {
        let (code, out, errors) = cluster.run(&["--json", "scrub", "now", path]);
        let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{errors}"));
        (code, report)
    };
    let (code, report) = scrub(&cluster, "/f1");
    assert_eq!((code, &report["files"], &report["copies"]), (0, &1.into(), &2.into()), "{report}");
    let entry = cluster.get("/api/v1/file?path=/f2");
    let holder = entry["replicas"][0]["name"].as_str().unwrap().to_string();
    let objects = cluster.path(&holder).join("objects");
    let file = files_in(&objects, entry["object"].as_str().unwrap()).remove(0);
    flip(&file, 7);
    let (code, report) = scrub(&cluster, "/f1");
    assert_eq!((code, &report["corrupt"]), (0, &0.into()), "what is elsewhere is not read: {report}");
    let (code, report) = scrub(&cluster, "/");
    assert_eq!(
        (code, &report["files"], &report["copies"], &report["corrupt"]),
        (7, &6.into(), &12.into(), &1.into()),
        "{report}"
    );
    let finding = &report["findings"][0];
    assert_eq!((&finding["path"], &finding["server"]), (&"/f2".into(), &holder.clone().into()), "{report}");
    assert_eq!(cluster.run(&["scrub", "now", "/nothing"]).0, 3);
    let stays = cluster.ok(&["scrub", "--status"]);
    assert!(stays.contains("1 corrupt or missing") && stays.contains("It ended"), "{stays}");
    let down = holder.trim_start_matches("storage-").parse::<usize>().unwrap();
    cluster.storage[down].kill();
    wait_for("it is down", 60, || (cluster.get("/api/v1/report")["servers_down"] == 1).then_some(()));
    let (code, report) = scrub(&cluster, "/");
    assert!(code == 6 && report["unread"].as_u64() > Some(0), "{report}");
    assert!(report["skipped"][0].as_str().unwrap().starts_with(&holder), "{report}");
}
