//! `kill -9` of everything in the middle of the work.

use std::fs;

use crate::common::cluster::{Cluster, Plan};
use crate::common::{postgres, tree, wait_for};
use crate::trees::pending_replicas;

fn killed_in_the_middle(database: Option<String>) {
    let name_server_args = ["--upload-ttl", "3", "--read-ttl", "1"].map(String::from).to_vec();
    let mut cluster = Cluster::start(&Plan { database, name_server_args, ..Plan::default() });
    let source = cluster.path("source");
    fs::create_dir_all(&source).unwrap();
    for number in 0..600u32 {
        let size = if number % 10 == 0 { 300_000 } else { 2_000 };
        fs::write(source.join(format!("{number:04}")), number.to_le_bytes().repeat(size / 4)).unwrap();
    }
    let mut import = cluster.command(&["import", source.to_str().unwrap(), "/d"]).spawn().unwrap();
    wait_for("a part of the files is in", 60, || (cluster.get("/status")["version"].as_i64()? > 100).then_some(()));
    import.kill().unwrap();
    import.wait().unwrap();
    cluster.kill_all();
    cluster.start_all();
    for number in 0..3 {
        // Copies of the journal and repairs pass through as well.
        wait_for("uploads in flight leave nothing", 30, || {
            let incoming = fs::read_dir(cluster.storage_dir(number).join("incoming")).unwrap().count();
            (incoming == 0).then_some(())
        });
    }
    // What is listed was acknowledged, or was about to be: all of it is whole.
    let listed: Vec<String> = cluster.ok(&["ls", "/d"]).lines().map(String::from).collect();
    assert!(listed.len() > 50 && listed.len() < 600, "{} files", listed.len());
    cluster.ok(&["export", "/d", cluster.path("part").to_str().unwrap()]);
    for name in &listed {
        assert_eq!(fs::read(cluster.path("part").join(name)).unwrap(), fs::read(source.join(name)).unwrap(), "{name}");
    }
    let version = cluster.get("/status")["version"].as_i64().unwrap();
    cluster.ok(&["import", source.to_str().unwrap(), "/d"]);
    let sent = cluster.get("/status")["version"].as_i64().unwrap() - version;
    assert_eq!(sent, 600 - listed.len() as i64, "only the rest is sent");
    cluster.ok(&["export", "/d", cluster.path("all").to_str().unwrap()]);
    tree::assert_equal(&source, &cluster.path("all"));
    wait_for("nothing uncommitted stays", 60, || {
        (0..3).all(|number| pending_replicas(&cluster, number) == 0).then_some(())
    });
    let copies: u64 = (0..3).map(|number| cluster.storage_status(number).unwrap().objects).sum();
    assert_eq!(copies, 1_200, "two copies of each file and nothing else");
}

#[test]
fn everything_is_killed_in_the_middle_of_an_import_on_sqlite() {
    killed_in_the_middle(None);
}

#[test]
fn everything_is_killed_in_the_middle_of_an_import_on_postgres() {
    killed_in_the_middle(Some(postgres::shared().database()));
}

#[test]
fn the_database_goes_away_and_comes_back() {
    let server = postgres::Postgres::start(true);
    let cluster = Cluster::start(&Plan { database: Some(server.database()), ..Plan::default() });
    let file = cluster.path("f");
    fs::write(&file, "x").unwrap();
    assert_eq!(cluster.http().put("/before", &file, &[]).status, 201);
    server.kill();
    let started = std::time::Instant::now();
    let answer = cluster.http().put("/during", &file, &[]);
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    assert!(started.elapsed().as_secs() < 20, "requests wait a bounded time");
    server.run();
    wait_for("the service resumes by itself", 30, || {
        (cluster.http().put("/after", &file, &[]).status == 201).then_some(())
    });
    assert_eq!(cluster.ok(&["ls", "/"]), "after\nbefore\n");
}
