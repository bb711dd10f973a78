//! Passwords and secrets stay where they belong: in no command line, log, event, table or error.

use std::fs;
use std::path::Path;

use crate::common::cluster::{Cluster, Plan, SECRET, ended};
use crate::common::{postgres, wait_for};
use crate::up::{Home, free_ports, holdfast, members, run};

/// With a character that must be escaped, as people's passwords have. Tests run at the same time and look at all
/// processes, so each has another one.
const PASSWORD: &str = "S3cretPw%40x";
const TYPED_PASSWORD: &str = "Typ3dPw%40x";

/// The command lines of all processes that can be seen.
fn command_lines() -> String {
    let mut all = String::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        // It may have ended just now.
        if let Ok(line) = fs::read(process.path().join("cmdline")) {
            all.push_str(&String::from_utf8_lossy(&line).replace('\0', " "));
            all.push('\n');
        }
    }
    all
}

/// All logs of a cluster that `up` has started.
fn logs(dir: &Path) -> String {
    let files = fs::read_dir(dir.join("holdfast-data/logs")).unwrap().flatten();
    files.map(|file| String::from_utf8_lossy(&fs::read(file.path()).unwrap()).into_owned()).collect()
}

#[test]
fn a_database_password_is_nowhere_but_in_the_data_directory() {
    let home = Home::new();
    let dir = home.path();
    let database = postgres::shared().database();
    let url = database.replace("holdfast@", &format!("holdfast:{PASSWORD}@"));
    let port = free_ports().to_string();
    let up = |args: &[&str]| {
        let mut command = holdfast(dir, &[&["up", "--detach", "--port", &port], args].concat());
        command.env("HOLDFAST_DATABASE", &url).env("RUST_LOG", "debug,tokio_postgres=off");
        ended(command.output().unwrap())
    };
    let (code, table, notes) = up(&[]);
    assert_eq!(code, 0, "{notes}");
    let mut told = format!("{table}{notes}");
    let config = fs::read_to_string(dir.join("holdfast-data/cluster.toml")).unwrap();
    assert!(config.contains(PASSWORD), "the data directory keeps it: {config}");
    assert!(command_lines().contains("member"), "the members' command lines can be seen");
    assert!(!command_lines().contains("S3cretPw"));
    fs::write(dir.join("photo"), "p").unwrap();
    for args in [
        &["import", "photo", "/photo"][..],
        &["cat", "/photo"],
        &["servers", "--json"],
        &["report", "--json"],
        &["fsck"],
        &["why", "/photo"],
        &["rm", "/photo"],
    ] {
        let (code, output, errors) = run(dir, args);
        assert_eq!(code, 0, "{args:?}: {errors}");
        told.push_str(&format!("{output}{errors}"));
    }
    // A database that goes away, for as long as it takes to be complained about.
    postgres::shared().recreate(&database);
    wait_for("the name server complains", 30, || {
        let (code, output, errors) = run(dir, &["ls", "/"]);
        told.push_str(&format!("{output}{errors}"));
        (code != 0).then_some(())
    });
    wait_for("it is in the log", 30, || logs(dir).contains("WARN").then_some(()));
    let (_, events, errors) = run(dir, &["events", "--json", "-n", "1000"]);
    told.push_str(&format!("{events}{errors}"));
    assert_eq!(run(dir, &["down"]).0, 0);
    let logs = logs(dir);
    assert!(logs.contains("name server listens"), "the logs were read");
    for (what, text) in [("logs", &logs), ("answers", &told)] {
        assert!(!text.contains("S3cretPw"), "the password is in the {what}");
        let secret = fs::read_to_string(dir.join("holdfast-data/secret")).unwrap();
        assert!(!text.contains(secret.trim()), "the secret is in the {what}");
        assert!(!text.contains("ticket="), "a ticket is in the {what}");
        assert!(!text.contains("hf_"), "a token is in the {what}");
    }
    assert!(members(dir).is_empty());
}

#[test]
fn what_is_typed_where_others_can_read_it_is_told_and_not_repeated() {
    let home = Home::new();
    let dir = home.path();
    let with_password = || postgres::shared().database().replace("holdfast@", &format!("holdfast:{TYPED_PASSWORD}@"));
    let url = with_password();
    // `up` tells at once, and hands it on in the environment all the same.
    let (code, table, notes) = run(dir, &["up", "--detach", "--port", &free_ports().to_string(), "--database", &url]);
    assert!(code == 0 && notes.contains("HOLDFAST_DATABASE") && !notes.contains("Typ3dPw"), "{table}{notes}");
    assert!(!command_lines().contains("Typ3dPw"));
    assert_eq!(run(dir, &["down"]).0, 0);
    // Started again it needs no URL.
    assert_eq!(run(dir, &["up", "--detach"]).0, 0);
    assert_eq!(run(dir, &["down"]).0, 0);
    // The daemons, by hand.
    let cluster = Cluster::start(&Plan {
        storage_servers: 1,
        database: Some(with_password()),
        storage_args: vec!["--cluster-secret".into(), SECRET.into()],
        ..Plan::default()
    });
    let (name_server, storage) = (cluster.name_server.log(), cluster.storage[0].log());
    assert!(name_server.contains("the URL of --database has a password") && name_server.contains("HOLDFAST_DATABASE"));
    assert!(storage.contains("--cluster-secret is on the command line") && storage.contains("HOLDFAST_CLUSTER_SECRET"));
    assert!(!name_server.contains("Typ3dPw") && !storage.contains(SECRET));
    // A URL that nobody can read is refused without being shown.
    for url in
        ["postgres://me:L3ak/Pw@h/d", "postgres://me:L3ak%Pw@h/d", "me:L3akPw@h/d", "postgres://h/d?password=L3ak&Pw"]
    {
        let other = Home::new();
        let (code, _, errors) = run(other.path(), &["up", "--detach", "--database", url]);
        assert!(code == 2 && !errors.contains("L3ak"), "{code} {errors}");
        assert!(!other.path().join("holdfast-data").exists());
    }
}
