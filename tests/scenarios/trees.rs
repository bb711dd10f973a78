//! Whole trees in and out, and what they cost.

use std::fs;

use crate::common::cluster::{Cluster, Plan};
use crate::common::{postgres, tree, wait_for};

fn in_and_out(plan: &Plan) {
    let cluster = Cluster::start(plan);
    let source = cluster.path("source");
    let skipped = tree::hard_cases(&source, 64);
    // Real files too: this project's own sources.
    for dir in ["src", "tests", "migrations"] {
        let copied = std::process::Command::new("cp").args(["-r", dir]).arg(&source).status().unwrap();
        assert!(copied.success());
    }
    let (code, _, errors) = cluster.run(&["import", source.to_str().unwrap(), "/tree"]);
    assert_eq!(code, 7, "special files are skipped and said: {errors}");
    assert_eq!(
        errors.lines().filter(|line| line.contains("symlink") || line.contains("socket")).count(),
        skipped,
        "{errors}"
    );
    tree::without_special_files(&source);
    let report = cluster.get("/api/v1/report");
    assert_eq!(report["verdict"], "healthy", "every object has its copies when the command returns: {report}");
    cluster.ok(&["export", "/tree", cluster.path("out").to_str().unwrap()]);
    tree::assert_equal(&source, &cluster.path("out"));
    // Again: nothing travels, and the versions stay.
    let version = cluster.get("/status")["version"].as_i64();
    cluster.ok(&["import", source.to_str().unwrap(), "/tree"]);
    assert_eq!(cluster.get("/status")["version"].as_i64(), version);
    for process in cluster.storage.iter().chain([&cluster.name_server]) {
        assert!(process.peak_memory_mib() < 200, "{} MiB", process.peak_memory_mib());
    }
}

#[test]
fn a_tree_with_all_hard_cases_comes_out_as_it_went_in_on_sqlite() {
    in_and_out(&Plan::default());
}

#[test]
fn a_tree_with_all_hard_cases_comes_out_as_it_went_in_on_postgres() {
    in_and_out(&Plan { database: Some(postgres::shared().database()), ..Plan::default() });
}

#[test]
fn every_object_is_on_two_servers_and_deleted_bytes_go() {
    let plan = Plan { name_server_args: vec!["--read-ttl".into(), "1".into()], ..Plan::default() };
    let cluster = Cluster::start(&plan);
    let source = cluster.path("source");
    fs::create_dir_all(&source).unwrap();
    for number in 0..50 {
        fs::write(source.join(number.to_string()), vec![number; 1_000 * number as usize + 60_000]).unwrap();
    }
    cluster.ok(&["import", source.to_str().unwrap(), "/d"]);
    let list = cluster.get("/api/v1/ls?path=/d&locations=true");
    for entry in list["entries"].as_array().unwrap() {
        let mut servers: Vec<&str> =
            entry["replicas"].as_array().unwrap().iter().map(|r| r["server"].as_str().unwrap()).collect();
        servers.dedup();
        assert_eq!(servers.len(), 2, "{entry}");
    }
    let stored = |cluster: &Cluster| -> u64 {
        (0..cluster.storage.len()).map(|number| cluster.storage_status(number).unwrap().objects).sum()
    };
    assert_eq!(stored(&cluster), 100);
    cluster.ok(&["rm", "-r", "/d"]);
    wait_for("the bytes of removed files are gone", 30, || (stored(&cluster) == 0).then_some(()));
    for number in 0..3 {
        let files = walk_files(&cluster.storage_dir(number).join("objects"));
        assert_eq!(files, 0, "files of larger objects are gone too");
    }
}

pub fn walk_files(dir: &std::path::Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { walk_files(&entry.path()) } else { 1 }).sum()
}

#[test]
fn one_storage_directory_is_readable_without_any_server() {
    let name_server_args = ["--read-ttl", "1"].map(String::from).to_vec();
    let mut cluster = Cluster::start(&Plan { storage_servers: 2, name_server_args, ..Plan::default() });
    let source = cluster.path("source");
    tree::hard_cases(&source, 2);
    tree::without_special_files(&source);
    cluster.ok(&["import", source.to_str().unwrap(), "/"]);
    fs::write(source.join("with space"), "a newer version").unwrap();
    cluster.ok(&["import", source.to_str().unwrap(), "/"]);
    // The other holder learns of the commits by asking.
    wait_for("all copies are marked as committed", 30, || {
        let ask = cluster.storage.iter().all(|storage| !storage.log().is_empty());
        let pending = (0..2).any(|number| pending_replicas(&cluster, number) > 0);
        (ask && !pending).then_some(())
    });
    cluster.kill_all();
    let program = env!("CARGO_BIN_EXE_holdfast-storage-server");
    let output = std::process::Command::new(program)
        .args(["salvage", "--data-dir", cluster.storage_dir(1).to_str().unwrap(), "--to"])
        .arg(cluster.path("salvaged"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A storage server knows of no empty directories.
    for dir in empty_dirs(&source) {
        fs::create_dir_all(cluster.path("salvaged").join(dir)).unwrap();
    }
    tree::assert_equal(&source, &cluster.path("salvaged"));
}

pub fn pending_replicas(cluster: &Cluster, number: usize) -> i64 {
    use diesel::prelude::*;
    let path = cluster.storage_dir(number).join("index.sqlite");
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(
        "(SELECT count(*) FROM replicas WHERE state = 'pending')",
    ))
    .get_result(&mut connection)
    .unwrap()
}

fn empty_dirs(root: &std::path::Path) -> Vec<std::path::PathBuf> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_dir() && fs::read_dir(entry.path()).unwrap().next().is_none())
        .map(|entry| entry.path().strip_prefix(root).unwrap().to_path_buf())
        .collect()
}

#[test]
fn a_gigabyte_goes_through_little_memory() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let (big, back) = (cluster.path("big"), cluster.path("back"));
    fs::File::create(&big).unwrap().set_len(1 << 30).unwrap();
    cluster.ok(&["import", big.to_str().unwrap(), "/big"]);
    cluster.ok(&["export", "/big", back.to_str().unwrap()]);
    assert_eq!(fs::metadata(&back).unwrap().len(), 1 << 30);
    for process in cluster.storage.iter().chain([&cluster.name_server]) {
        assert!(process.peak_memory_mib() < 200, "{} MiB", process.peak_memory_mib());
    }
}
