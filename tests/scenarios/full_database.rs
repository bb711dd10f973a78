//! The disk of the name server's database is full.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

const FILES: usize = 300;

#[test]
fn a_full_database_disk_is_said_at_once_and_files_can_be_removed() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().to_str().unwrap();
    // Each server gets a disk of its own there; only the name server uses it.
    let user = if rustix::process::geteuid().is_root() { "--mount" } else { "--map-root-user" };
    let script = format!("mount -t tmpfs -o size=48m none '{dir}' && exec \"$@\"");
    let plan = Plan {
        storage_servers: 2,
        database: Some(format!("sqlite://{dir}/metadata.sqlite")),
        name_server_args: ["--read-ttl", "1"].map(String::from).to_vec(),
        wrapper: ["unshare", user, "--mount", "sh", "-c", &script, "sh"].map(String::from).to_vec(),
        ..Plan::default()
    };
    let cluster = Cluster::start(&plan);
    let many = cluster.path("many");
    fs::create_dir(&many).unwrap();
    for number in 0..FILES {
        fs::write(many.join(number.to_string()), format!("file {number}")).unwrap();
    }
    let (many, body) = (many.to_str().unwrap(), cluster.path("many/0"));
    cluster.ok(&["import", many, "/old"]);
    for path in ["/one", "/two"] {
        cluster.ok(&["import", body.to_str().unwrap(), path]);
    }
    assert_eq!(cluster.get("/api/v1/report")["verdict"], "healthy");
    // Somebody else fills the disk.
    let inside = format!("/proc/{}/root{dir}", cluster.name_server.pid());
    assert!(fs::exists(format!("{inside}/metadata.sqlite.ballast")).unwrap());
    let filler = format!("of={inside}/filler");
    let filled = Command::new("dd").args(["if=/dev/zero", &filler, "bs=4096"]).output().unwrap();
    assert!(String::from_utf8_lossy(&filled.stderr).contains("No space left"), "{filled:?}");
    let problems = || cluster.try_get("/api/v1/report").map(|report| report["problems"].to_string());
    wait_for("the report says it", 15, || problems()?.contains(dir).then_some(()));
    // What makes it grow is refused from the first on, and the rest is not tried for minutes.
    let started = Instant::now();
    let (code, _, errors) = cluster.run(&["import", many, "/new"]);
    assert!(code != 0 && errors.contains(dir) && errors.contains("full"), "{code} {errors}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    for args in [&["mkdir", "/more"][..], &["cp", "/one", "/three"], &["cp", "-r", "/old", "/older"]] {
        let (code, _, errors) = cluster.run(args);
        assert!(code == 1 && errors.contains(dir), "{args:?}: {code} {errors}");
    }
    assert_eq!(cluster.http().put("/three", &body, &[]).code(), "out_of_space");
    // What frees room is not, and is carried out.
    cluster.ok(&["rm", "/one"]);
    cluster.ok(&["rm", "-r", "/old"]);
    assert_eq!(cluster.ok(&["cat", "/two"]), "file 0");
    wait_for("the copies are deleted", 60, || {
        let stored = |number| cluster.storage_status(number).map(|status| status.objects);
        (stored(0)? + stored(1)? == 2).then_some(())
    });
    // It has gone on acting, and nobody else has.
    assert!(!cluster.ok(&["actors"]).contains("another name server"), "{}", cluster.ok(&["actors"]));
    assert_eq!(cluster.get("/api/v1/report")["servers_live"], 2);
    assert!(problems().unwrap().contains(dir));
    fs::remove_file(format!("{inside}/filler")).unwrap();
    wait_for("there is room again", 15, || (cluster.try_get("/api/v1/report")?["verdict"] == "healthy").then_some(()));
    assert!(fs::exists(format!("{inside}/metadata.sqlite.ballast")).unwrap());
    cluster.ok(&["import", many, "/new"]);
    assert_eq!(cluster.ok(&["ls", "/new"]).lines().count(), FILES);
}
