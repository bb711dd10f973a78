//! Files that are damaged, gone or somebody else's: a program that is refused by them changes no byte, names the file, and says
//! what to do. `damaged_directory` has the same for storage servers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use crate::common::cluster::{Cluster, Plan, SECRET, ended};
use crate::common::wait_for;
use crate::up::{Home, free_ports, holdfast, members, run};

/// Everything below a directory: names, and bytes of files. SQLite makes its index of a log (`-shm`) anew at each look; there is
/// nothing in it that is not in the log.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let bytes = |entry: walkdir::DirEntry| {
        let bytes = entry.file_type().is_file().then(|| fs::read(entry.path()).unwrap());
        (entry.into_path(), bytes)
    };
    let found = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    found.filter(|entry| !entry.file_name().to_string_lossy().ends_with("-shm")).map(bytes).collect()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").args(["-a"]).args([from, to]).status().unwrap().success());
}

/// Nothing has changed, and what was said has all of these words.
fn check_refused(what: &str, dir: &Path, says: &[&str], go: impl FnOnce() -> Output) {
    let before = everything(dir);
    let (code, printed, errors) = ended(go());
    assert!(matches!(code, 1 | 2 | 6), "{what}: {code} {printed}{errors}");
    for word in says {
        assert!(errors.contains(word), "{what}: {word:?} is not in {errors}");
    }
    assert!(!errors.contains("hf_0") && !errors.contains(SECRET), "{what}: {errors}");
    let after = everything(dir);
    let names = |all: &BTreeMap<PathBuf, Option<Vec<u8>>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after), "{what}");
    let changed: Vec<_> = before.iter().filter(|(name, bytes)| after[*name] != **bytes).map(|(name, _)| name).collect();
    assert!(changed.is_empty(), "{what}: bytes have changed of {changed:?}");
}

/// A command line to which a file belongs to somebody else. As root that takes a user namespace in which its owner is unknown.
fn shut_out(file: &Path, command: &[&str]) -> Vec<String> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap();
    let mut line = Vec::new();
    if rustix::process::geteuid().is_root() {
        chown(file, Some(12_345), Some(12_345)).unwrap();
        line.extend(["unshare", "--user", "--map-root-user"].map(String::from));
    }
    line.extend(command.iter().map(ToString::to_string));
    line
}

fn in_its_place(file: &Path) {
    let _ = fs::remove_file(file);
    fs::create_dir(file).unwrap();
}

/// A database as it is after a kill -9: with a log beside it, in which there are `statements` as well.
fn killed_with(whole: &Path, dir: &Path, statements: &str) {
    copy(whole, dir);
    let (file, aside) = (dir.join("metadata.sqlite"), dir.with_extension("aside"));
    let mut connection = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    connection.batch_execute("PRAGMA wal_autocheckpoint = 0").unwrap();
    connection.batch_execute(statements).unwrap();
    copy(dir, &aside);
    drop(connection);
    copy(&aside, dir);
    assert!(fs::metadata(dir.join("metadata.sqlite-wal")).unwrap().len() > 0, "there is a log");
}

const NEWER: &str = "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')";
const NOTHING: &str = "PRAGMA user_version = 0; UPDATE cluster SET epoch = epoch";

type Damage = fn(&Path);

/// What is done to the directory of a SQLite database, and what must be said.
const DATABASES: &[(&str, &str, Damage, &[&str])] = &[
    (
        "not a database",
        NOTHING,
        |dir| fs::write(dir.join("metadata.sqlite"), "rubbish".repeat(99)).unwrap(),
        &["metadata.sqlite", "`holdfast restore`", "Nothing was changed"],
    ),
    (
        "a directory in its place",
        NOTHING,
        |dir| in_its_place(&dir.join("metadata.sqlite")),
        &["metadata.sqlite", "`holdfast restore`", "Nothing was changed"],
    ),
    (
        "of a later program",
        NEWER,
        |_| {},
        &["metadata.sqlite", "newer program", "99990101000000", "Nothing was changed"],
    ),
];

fn name_server(line: &[String], dir: &Path, secret: Option<&str>, more: &[&str]) -> Output {
    let database = format!("sqlite://{}", dir.join("metadata.sqlite").display());
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).args(["--database", &database, "--listen", "127.0.0.1:0"]).args(more);
    command.env_remove("HOLDFAST_CLUSTER_SECRET");
    command.envs(secret.map(|secret| ("HOLDFAST_CLUSTER_SECRET", secret)));
    command.output().unwrap()
}

#[test]
fn a_name_server_that_is_refused_changes_no_byte() {
    let program = env!("CARGO_BIN_EXE_holdfast-name-server");
    let line = [program.to_string()];
    let mut cluster = Cluster::start(&Plan { storage_servers: 1, ..Plan::default() });
    cluster.ok(&["mkdir", "/d"]);
    cluster.kill_all();
    // A directory of its own, as a name server has it.
    let (whole, dir) = (cluster.path("whole"), cluster.path("damaged"));
    fs::create_dir(&whole).unwrap();
    for part in ["", "-wal", "-shm", ".lock", ".ballast"] {
        let name = format!("metadata.sqlite{part}");
        if cluster.path(&name).exists() {
            fs::rename(cluster.path(&name), whole.join(&name)).unwrap();
        }
    }
    for (what, statements, damage, says) in DATABASES {
        killed_with(&whole, &dir, statements);
        damage(&dir);
        check_refused(what, &dir, says, || name_server(&line, &dir, Some(SECRET), &[]));
    }
    killed_with(&whole, &dir, NOTHING);
    let words = ["metadata.sqlite", "another secret", "Nothing was changed"];
    check_refused("another secret", &dir, &words, || name_server(&line, &dir, Some(&"f".repeat(40)), &[]));
    let shut = shut_out(&dir.join("metadata.sqlite"), &[program]);
    let words = ["metadata.sqlite", "ermission denied", "chown", "Nothing was changed"];
    // Bytes of what nobody may read are compared by root, or not at all.
    if rustix::process::geteuid().is_root() {
        check_refused("no rights", &dir, &words, || name_server(&shut, &dir, Some(SECRET), &[]));
    }
    killed_with(&whole, &dir, NOTHING);
    let lock = fs::File::open(dir.join("metadata.sqlite.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    check_refused("in use", &dir, &["metadata.sqlite", "in use"], || name_server(&line, &dir, Some(SECRET), &[]));
    drop(lock);
    secrets(&cluster, &line, &dir);
    // Damage is no refusal: it is looked at, told, and every byte of it stays.
    damaged(&mut cluster, &whole, &dir);
}

/// Files with secrets that cannot be used.
fn secrets(cluster: &Cluster, line: &[String], dir: &Path) {
    let secret = cluster.path("secret");
    let shown = secret.to_str().unwrap();
    let refused = |what: &str, says: &[&str]| {
        let says = [&[shown, "put the file back from a backup or from another one of its servers"], says].concat();
        check_refused(what, dir, &says, || name_server(line, dir, None, &["--cluster-secret-file", shown]));
    };
    refused("no secret", &["No such file"]);
    fs::write(&secret, "").unwrap();
    refused("an empty secret", &["0 characters"]);
    fs::write(&secret, &SECRET[..20]).unwrap();
    refused("half a secret", &["20 characters"]);
    fs::write(&secret, [255; 64]).unwrap();
    refused("rubbish", &["UTF-8"]);
    in_its_place(&secret);
    refused("a directory in its place", &["directory"]);
    fs::remove_dir(&secret).unwrap();
    // One that everybody may read is used, and told; here the start is refused by something else.
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let lock = fs::File::open(dir.join("metadata.sqlite.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    check_refused("an open secret", dir, &["every user of this machine may read", shown, "in use"], || {
        name_server(line, dir, None, &["--cluster-secret-file", shown])
    });
    drop(lock);
    let token = cluster.path("metrics");
    let options = ["--metrics-token-file", token.to_str().unwrap()];
    for (what, text) in [("no token", None), ("a short token", Some("x")), ("two words", Some("a b c d e f g h i j k"))]
    {
        let _ = text.map(|text| fs::write(&token, text).unwrap());
        check_refused(what, dir, &[options[1]], || name_server(line, dir, Some(SECRET), &options));
    }
    let rubbish = cluster.path("rubbish.pem");
    fs::write(&rubbish, "rubbish").unwrap();
    let rubbish = rubbish.to_str().unwrap();
    let certificate = ["--tls-cert", rubbish, "--tls-key", rubbish];
    check_refused("a wrong certificate", dir, &[rubbish], || name_server(line, dir, Some(SECRET), &certificate));
}

fn damaged(cluster: &mut Cluster, whole: &Path, dir: &Path) {
    let parts = ["", "-wal"].map(|part| format!("metadata.sqlite{part}"));
    copy(whole, dir);
    // Everything is in the database itself.
    let file = dir.join("metadata.sqlite");
    SqliteConnection::establish(file.to_str().unwrap())
        .unwrap()
        .batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].chunks_mut(64).for_each(|chunk| chunk[0] ^= 0x5a);
    fs::write(&file, &bytes).unwrap();
    for part in &parts {
        let _ = fs::remove_file(cluster.path(part));
        if dir.join(part).exists() {
            fs::copy(dir.join(part), cluster.path(part)).unwrap();
        }
    }
    cluster.name_server.start();
    wait_for("the damage is told", 30, || (cluster.try_get("/status")?["mode"] == "damaged").then_some(()));
    assert_ne!(cluster.run(&["mkdir", "/more"]).0, 0);
    cluster.name_server.kill();
    assert!(fs::read(cluster.path("metadata.sqlite")).unwrap() == bytes, "a byte of the damaged database has changed");
}

/// What is done to the directory of `up`, and what must be said.
const DIRECTORIES: &[(&str, Damage, &[&str])] = &[
    (
        "an empty cluster.toml",
        |dir| fs::write(dir.join("cluster.toml"), "").unwrap(),
        &["cluster.toml", "storage_servers = 2", "Nothing was changed"],
    ),
    (
        "rubbish",
        |dir| fs::write(dir.join("cluster.toml"), [255; 30]).unwrap(),
        &["cluster.toml", "storage_servers = 2", "Nothing was changed"],
    ),
    (
        "a number that cannot be",
        |dir| edit(&dir.join("cluster.toml"), "replicas = 2", "replicas = 200"),
        &["cluster.toml", "replicas", "Nothing was changed"],
    ),
    (
        "of a later program",
        |dir| edit(&dir.join("cluster.toml"), "format_version = 1", "format_version = 9"),
        &["cluster.toml", "newer program", "Nothing was changed"],
    ),
    (
        "a directory in its place",
        |dir| in_its_place(&dir.join("cluster.toml")),
        &["cluster.toml", "storage_servers = 2", "Nothing was changed"],
    ),
    (
        "no cluster.toml",
        |dir| fs::remove_file(dir.join("cluster.toml")).unwrap(),
        &["cluster.toml is missing", "storage_servers = 2", "Nothing was changed"],
    ),
    ("no secret", |dir| fs::remove_file(dir.join("secret")).unwrap(), &["secret is missing", "Nothing was changed"]),
    ("half a secret", |dir| fs::write(dir.join("secret"), "0123456789").unwrap(), &["secret", "10 characters"]),
    ("a directory in its place", |dir| in_its_place(&dir.join("secret")), &["secret", "directory"]),
];

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn up_that_is_refused_changes_no_byte() {
    let home = Home::new();
    let here = home.path();
    let port = free_ports().to_string();
    let (code, _, errors) = run(here, &["up", "--detach", "--port", &port, "--storage-servers", "2"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(run(here, &["down"]).0, 0);
    let (whole, dir) = (here.join("whole"), here.join("holdfast-data"));
    copy(&dir, &whole);
    for (what, damage, says) in DIRECTORIES {
        copy(&whole, &dir);
        damage(&dir);
        check_refused(what, &dir, says, || holdfast(here, &["up", "--detach"]).output().unwrap());
        assert!(members(here).is_empty(), "{what}: something runs");
    }
    // What is written anew as it says starts the cluster.
    copy(&whole, &dir);
    let lines = format!("format_version = 1\nport = {port}\nstorage_servers = 2\nreplicas = 2\ninitialized = true\n");
    fs::write(dir.join("cluster.toml"), lines).unwrap();
    let (code, _, errors) = run(here, &["up", "--detach"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(run(here, &["down"]).0, 0);
}

/// What is done to a client's file, and what must be said.
const CLIENTS: &[(&str, Damage, &[&str])] = &[
    ("no client.toml", |file| fs::remove_file(file).unwrap(), &["No such file"]),
    ("an empty one", |file| fs::write(file, "").unwrap(), &["name_servers"]),
    ("no TOML", |file| fs::write(file, "name_servers = [\"http://a:1\"\ntoken = \"hf_0\"").unwrap(), &["line "]),
    ("rubbish", |file| fs::write(file, [255; 30]).unwrap(), &["UTF-8"]),
    ("an unknown field", |file| fs::write(file, "name_server = \"http://a:1\"").unwrap(), &["name_server"]),
    ("no URL", |file| fs::write(file, "name_servers = [\"nonsense\"]").unwrap(), &["nonsense"]),
    ("no server", |file| fs::write(file, "name_servers = []").unwrap(), &["names no name server"]),
    ("a directory in its place", in_its_place, &["directory"]),
];

/// What is done to a workspace's directory, the command that notices it, and what must be said.
const WORKSPACES: &[(&str, Damage, &[&str], &[&str])] = &[
    (
        "a damaged configuration",
        |dir| fs::write(dir.join("config.toml"), "rubbish").unwrap(),
        &["pull"],
        &["config.toml is damaged", "`holdfast init`"],
    ),
    (
        "a damaged working directory",
        |dir| fs::write(dir.join("cwd"), "no/path").unwrap(),
        &["pull"],
        &["cwd is damaged", "remove it"],
    ),
    ("a directory in its place", |dir| in_its_place(&dir.join("cwd")), &["pull"], &["cwd is damaged", "remove it"]),
    (
        "damaged state",
        |dir| fs::write(dir.join("state.ndjson"), "rubbish\n").unwrap(),
        &["status"],
        &["state.ndjson is damaged", "remove it"],
    ),
    (
        "a directory in the state's place",
        |dir| in_its_place(&dir.join("state.ndjson")),
        &["status"],
        &["state.ndjson", "remove it"],
    ),
    (
        "a directory in the journal's place",
        |dir| in_its_place(&dir.join("journal.ndjson")),
        &["status"],
        &["journal.ndjson", "remove it"],
    ),
    (
        "the cluster's card is damaged",
        |dir| fs::write(dir.join("cluster.json"), "{").unwrap(),
        &["status"],
        &["cluster.json is damaged", "remove it"],
    ),
    (
        "a directory in its place",
        |dir| in_its_place(&dir.join("cluster.json")),
        &["status"],
        &["cluster.json", "remove it"],
    ),
];

#[test]
fn damaged_files_of_clients_are_named_with_the_way_out() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let home = cluster.path("home");
    fs::create_dir(&home).unwrap();
    let file = home.join("client.toml");
    let program = env!("CARGO_BIN_EXE_holdfast");
    let ask = |line: &[String]| {
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).args(["--config", file.to_str().unwrap(), "ls", "/"]).env("HOME", &home);
        for name in ["HOLDFAST_CONFIG", "HOLDFAST_NAME_SERVER", "HOLDFAST_TOKEN"] {
            command.env_remove(name);
        }
        command.current_dir(&home).output().unwrap()
    };
    for (what, damage, says) in CLIENTS {
        fs::write(&file, "name_servers = [\"http://127.0.0.1:1\"]\n").unwrap();
        damage(&file);
        let says = [says, &[file.to_str().unwrap(), "name_servers = [\"http://"][..]].concat();
        check_refused(what, &home, &says, || ask(&[program.to_string()]));
        let _ = fs::remove_dir(&file);
    }
    if rustix::process::geteuid().is_root() {
        fs::write(&file, "name_servers = [\"http://127.0.0.1:1\"]\n").unwrap();
        let shut = shut_out(&file, &[program]);
        let says = [file.to_str().unwrap(), "ermission denied", "must be readable for you"];
        check_refused("no rights", &home, &says, || ask(&shut));
    }
    let (work, whole) = (cluster.path("work"), cluster.path("whole"));
    cluster.ok(&["mkdir", "/work"]);
    cluster.ok(&["init", work.to_str().unwrap(), "--remote", "/work"]);
    fs::write(work.join("photo"), "p").unwrap();
    let (code, _, errors) = cluster.run_in(&work, &["push"]);
    assert_eq!(code, 0, "{errors}");
    copy(&work, &whole);
    for (what, damage, command, says) in WORKSPACES {
        copy(&whole, &work);
        damage(&work.join(".holdfast"));
        check_refused(what, &work, says, || cluster.command(command).current_dir(&work).output().unwrap());
    }
}
