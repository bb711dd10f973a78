//! Disks that go away, take no writes, have no inodes, hang, or lose files, under daemons that run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::common::cluster::{Answer, Cluster, Disk, Plan, can_mount_loops};
use crate::common::wait_for;
use crate::trees::walk_files;

const EXT4: Disk = Disk::Ext4(96);
/// What the daemon says when its directory is not the one of the start.
const REPLACED: &str = "the data directory is another one than at the start";

fn plan(disks: &[Disk], servers: usize, repair_delay: &str, more: &[&str]) -> Plan {
    let times = ["--health-interval", "0.3", "--down-after", "1", "--read-ttl", "1", "--repair-delay", repair_delay];
    let name_server_args = times.iter().chain(more).map(|word| word.to_string()).collect();
    Plan { storage_servers: servers, disks: disks.to_vec(), name_server_args, ..Plan::default() }
}

fn content(number: usize) -> Vec<u8> {
    let size = if number.is_multiple_of(2) { 150_000 } else { 900 };
    (0..size).map(|i| (i * 7 + number) as u8).collect()
}

/// Files by their paths; every second one is large.
type Files = BTreeMap<String, Vec<u8>>;

fn write(cluster: &Cluster, prefix: &str, count: usize) -> Files {
    let body = cluster.path("body");
    let one = |number| {
        let path = format!("/{prefix}{number}");
        fs::write(&body, content(number)).unwrap();
        cluster.ok(&["import", body.to_str().unwrap(), &path]);
        (path, content(number))
    };
    (0..count).map(one).collect()
}

/// Every file can be read, with its bytes.
fn assert_all(cluster: &Cluster, files: &Files) {
    let back = cluster.path("back");
    for (path, bytes) in files {
        cluster.ok(&["export", path, back.to_str().unwrap()]);
        assert!(fs::read(&back).unwrap() == *bytes, "{path}");
        fs::remove_file(&back).unwrap();
    }
}

fn fsck(cluster: &Cluster) -> (i32, Value) {
    let (code, report, errors) = cluster.run(&["fsck", "--json"]);
    (code, serde_json::from_str(&report).unwrap_or_else(|_| panic!("no report: {report}{errors}")))
}

fn wait_until_well(cluster: &Cluster) {
    wait_for("nothing is wrong", 60, || {
        let report = cluster.get("/api/v1/report");
        let repaired = report["under_replicated"].as_array()?.is_empty() && report["repair"]["queued"] == 0;
        (repaired && fsck(cluster).0 == 0).then_some(())
    });
}

/// Waits until a server is in this trouble.
fn wait_for_trouble(cluster: &Cluster, number: usize, code: &str) {
    wait_for(&format!("it is in trouble: {code}"), 20, || (cluster.server(number)["trouble"] == code).then_some(()));
    let server = cluster.server(number);
    assert_eq!(server["health"], "live", "{server}");
    let problems = cluster.get("/api/v1/report")["problems"].to_string();
    assert!(problems.contains(&format!("storage-{number} cannot keep new files")), "{problems}");
}

/// Names of the servers that the metadata lists with a copy.
fn holders(cluster: &Cluster, path: &str) -> Vec<String> {
    let entry = cluster.get(&format!("/api/v1/file?path={path}"));
    let present = entry["replicas"].as_array().unwrap().iter().filter(|replica| replica["state"] == "present");
    present.map(|replica| replica["name"].as_str().unwrap().to_string()).collect()
}

/// An upload that was allowed, to this server first.
fn ticket(cluster: &Cluster, number: usize, path: &str) -> String {
    let url = cluster.storage[number].url();
    wait_for("a placement with this server", 20, || {
        let placement = cluster.get(&format!("/api/v1/available?path={path}"))["placements"][0].clone();
        let servers = placement["servers"].as_array()?.iter().any(|server| server["url"] == url);
        servers.then(|| format!("{url}/file?ticket={}", placement["ticket"].as_str().unwrap()))
    })
}

fn post(cluster: &Cluster, url: &str, bytes: &[u8]) -> Answer {
    let body = cluster.path("body");
    fs::write(&body, bytes).unwrap();
    cluster.http().curl(&["-T", body.to_str().unwrap(), url]).unwrap()
}

#[test]
fn nothing_is_acknowledged_from_a_disk_that_is_unmounted_and_all_is_well_when_it_is_back() {
    if !can_mount_loops() {
        return;
    }
    let mut cluster = Cluster::start(&plan(&[EXT4; 3], 3, "60", &[]));
    let mut files = write(&cluster, "before", 12);
    // What lies below the mount point is left over from a start without the disk.
    let below = cluster.storage_dir(0);
    for name in ["objects", "incoming", "journal", "quarantine"] {
        fs::create_dir(below.join(name)).unwrap();
    }
    let tickets = [ticket(&cluster, 0, "/small"), ticket(&cluster, 0, "/large")];
    cluster.unmount(0);
    for (url, size) in tickets.iter().zip([900, 150_000]) {
        let refused = post(&cluster, url, &vec![1; size]);
        assert_eq!((refused.status, refused.code().as_str()), (503, "unavailable"), "{}", refused.body);
        assert!(refused.body.contains(REPLACED), "{}", refused.body);
    }
    files.extend(write(&cluster, "meanwhile", 12));
    wait_for("it is down, with the reason", 20, || {
        let server = cluster.server(0);
        (server["health"] == "down" && server["reason"].as_str()?.contains(REPLACED)).then_some(())
    });
    assert!(cluster.get("/api/v1/report")["problems"].to_string().contains(REPLACED));
    assert_eq!(walk_files(&below), 0, "nothing came to the file system below");
    cluster.mount_again(0);
    cluster.wait_for_live(3);
    wait_until_well(&cluster);
    assert_all(&cluster, &files);
    // What the metadata lists on it is there: one more failure loses nothing.
    cluster.storage[1].kill();
    assert_all(&cluster, &files);
    assert_eq!(walk_files(&below), 0);
}

#[test]
fn files_and_directories_that_are_gone_are_noticed_counted_out_and_counted_again() {
    let mut cluster = Cluster::start(&plan(&[], 3, "1", &[]));
    let files = write(&cluster, "f", 16);
    let large: Vec<&String> = files.iter().filter(|(_, bytes)| bytes.len() > 65_536).map(|(path, _)| path).collect();
    // One file: fsck says so at once, and it is replaced without anybody asking for it.
    let data = cluster.storage_dir(0);
    let on_0 = || large.iter().filter(|path| holders(&cluster, path).contains(&"storage-0".into())).count();
    let (objects, before) = (data.join("objects"), on_0());
    assert!(before > 0, "storage-0 has none of the large files");
    let fsck_was_first = (0..3).any(|_| {
        let first = lose_one_file(&cluster, &objects);
        wait_until_well(&cluster);
        first
    });
    assert!(fsck_was_first, "fsck has not told a missing file");
    assert!(
        cluster
            .ok(&["events", "--verbose"])
            .contains("is lost (its file is missing): it counts no longer; 1 others are left")
    );
    // All of them, under the running daemon: it is noticed within seconds.
    fs::rename(&objects, cluster.path("aside")).unwrap();
    wait_for("it is down, with the reason", 20, || {
        let reason = cluster.server(0)["reason"].as_str()?.to_string();
        (reason.contains(REPLACED) && reason.contains("objects/")).then_some(())
    });
    assert_all(&cluster, &files);
    // After a restart they count as missing, and are replaced.
    cluster.storage[0].kill();
    cluster.storage[0].start();
    cluster.wait_for_live(3);
    assert!(cluster.storage[0].log().contains("have lost their files"), "{}", cluster.logs(20));
    wait_until_well(&cluster);
    assert_all(&cluster, &files);
    let status = cluster.status_of(0)["objects"].as_u64().unwrap();
    let listed: usize = files.keys().filter(|path| holders(&cluster, path).contains(&"storage-0".into())).count();
    assert!(status >= listed as u64);
    // They are back: they count again, and what is too much is trimmed. Nothing goes into quarantine.
    cluster.storage[0].kill();
    for file in walkdir::WalkDir::new(cluster.path("aside")).into_iter().flatten().filter(|e| e.file_type().is_file()) {
        let target = objects.join(file.path().strip_prefix(cluster.path("aside")).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::rename(file.path(), target).unwrap();
    }
    cluster.storage[0].start();
    cluster.wait_for_live(3);
    assert!(cluster.storage[0].log().contains("whose files were missing have them again"));
    wait_until_well(&cluster);
    assert_all(&cluster, &files);
    assert_eq!(walk_files(&data.join("quarantine")), 0);
    // The whole directory.
    cluster.storage[1].kill();
    cluster.storage[1].start();
    cluster.wait_for_live(3);
    fs::remove_dir_all(&data).unwrap();
    wait_for("it is down, with the reason", 20, || {
        let server = cluster.server(0);
        (server["health"] == "down" && server["reason"].as_str()?.contains(REPLACED)).then_some(())
    });
    wait_for("everything has its copies elsewhere", 60, || {
        let report = cluster.get("/api/v1/report");
        (report["under_replicated"].as_array()?.is_empty() && report["repair"]["queued"] == 0).then_some(())
    });
    assert_all(&cluster, &files);
}

/// Removes the file of a copy of storage-0. Answers whether fsck was the first to see it: the look for all files at the
/// server's start may still be under way and see it sooner.
fn lose_one_file(cluster: &Cluster, objects: &Path) -> bool {
    fs::remove_file(first_file(objects)).unwrap();
    let (code, report) = fsck(cluster);
    let findings = report["findings"].as_array().unwrap();
    if let Some(found) = findings.first() {
        assert_eq!((code, findings.len(), found["kind"].as_str()), (1, 1, Some("missing")), "{report}");
        assert!(found["server"] == "storage-0" && report["repaired"] == 0, "{report}");
        return true;
    }
    wait_for("the server has seen it by itself", 20, || {
        cluster.storage[0].log().contains("have lost their files").then_some(())
    });
    false
}

fn first_file(dir: &Path) -> std::path::PathBuf {
    let mut files = walkdir::WalkDir::new(dir).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    files.next().unwrap().into_path()
}

/// With a holder of the journal that cannot keep anything: deletions on the others go on, writes too.
fn deletions_go_on(cluster: &Cluster, sicken: impl Fn(&Cluster), code: &str) -> Files {
    let servers = cluster.storage.len();
    let mut files = write(cluster, "kept", 6);
    let gone = write(cluster, "gone", 6);
    wait_for("the journal is on its copies", 20, || {
        let report = cluster.get("/api/v1/report");
        (report["journal"]["copied_version"] == report["version"]).then_some(())
    });
    sicken(cluster);
    gone.keys().for_each(|path| drop(cluster.ok(&["rm", path])));
    files.extend(write(cluster, "later", 4));
    wait_for_trouble(cluster, 0, code);
    // Every file is on every server but for the sick one.
    wait_for("the others have deleted what is to be deleted", 20, || {
        (1..servers).all(|number| cluster.status_of(number)["objects"] == files.len()).then_some(())
    });
    wait_for("the journal is on its copies", 20, || {
        let report = cluster.get("/api/v1/report");
        (report["journal"]["copied_version"] == report["version"]).then_some(())
    });
    assert_all(cluster, &files);
    files
}

fn with_a_read_only_disk(servers: usize) {
    if !can_mount_loops() {
        return;
    }
    let copies = servers.to_string();
    let mut cluster = Cluster::start(&plan(&[EXT4], servers, "2", &["--replicas", &copies]));
    let files = deletions_go_on(&cluster, |cluster| cluster.make_read_only(0), "read_only");
    // It can be read still.
    let entry = cluster.get("/api/v1/file?path=/kept0");
    let copies = entry["replicas"].as_array().unwrap();
    let url = copies.iter().find(|copy| copy["name"] == "storage-0").unwrap()["url"].as_str().unwrap();
    let back = cluster.path("back");
    assert_eq!(cluster.http().curl(&["-o", back.to_str().unwrap(), url]).unwrap().status, 200);
    assert_eq!(fs::read(&back).unwrap(), content(0));
    // Repaired and started again it catches up.
    cluster.storage[0].kill();
    cluster.repair_disk(0);
    cluster.storage[0].start();
    cluster.wait_for_live(servers);
    wait_until_well(&cluster);
    wait_for("it has deleted too", 30, || (cluster.status_of(0)["objects"] == files.len()).then_some(()));
    assert_all(&cluster, &files);
    assert_eq!(cluster.server(0)["trouble"], Value::Null);
}

#[test]
fn a_read_only_disk_holds_nothing_up_with_three_servers() {
    with_a_read_only_disk(3);
}

#[test]
fn a_read_only_disk_holds_nothing_up_with_four_servers() {
    with_a_read_only_disk(4);
}

fn with_a_disk_without_inodes(servers: usize) {
    let (disk, copies) = (Disk::Memory("size=96m,nr_inodes=300"), servers.to_string());
    let cluster = Cluster::start(&plan(&[disk], servers, "2", &["--replicas", &copies]));
    let data = cluster.storage_dir(0).display().to_string();
    let fill = format!("cd '{data}' && i=0 && while touch filler-$i 2>/dev/null; do i=$((i+1)); done");
    let files = deletions_go_on(&cluster, |cluster| drop(cluster.inside(0, &fill)), "out_of_inodes");
    assert_eq!(cluster.server(0)["health"], "live");
    // What it has is well, and is not copied elsewhere; it deletes, which makes room.
    wait_for("it has deleted too", 20, || {
        // Small files may have come before its trouble was seen.
        let listed = files.keys().filter(|path| holders(&cluster, path).contains(&"storage-0".into())).count();
        (cluster.status_of(0)["objects"] == listed).then_some(())
    });
    assert!(holders(&cluster, "/kept0").contains(&"storage-0".into()));
    cluster.inside(0, &format!("rm '{data}'/filler-*"));
    wait_until_well(&cluster);
    assert_eq!((cluster.server(0)["trouble"].clone(), holders(&cluster, "/later0").len()), (Value::Null, servers));
}

#[test]
fn a_disk_without_inodes_holds_nothing_up_with_three_servers() {
    with_a_disk_without_inodes(3);
}

#[test]
fn a_disk_without_inodes_holds_nothing_up_with_four_servers() {
    with_a_disk_without_inodes(4);
}

#[test]
fn copies_on_a_read_only_disk_do_not_last_and_are_made_anew_elsewhere() {
    if !can_mount_loops() {
        return;
    }
    let mut cluster = Cluster::start(&plan(&[EXT4; 4], 4, "2", &[]));
    let files = write(&cluster, "f", 16);
    let elsewhere =
        |cluster: &Cluster, path: &str| holders(cluster, path).iter().filter(|name| *name != "storage-0").count();
    assert!(files.keys().any(|path| elsewhere(&cluster, path) < 2), "storage-0 has nothing");
    cluster.make_read_only(0);
    wait_for_trouble(&cluster, 0, "read_only");
    wait_for("every file is on two other servers", 60, || {
        files.keys().all(|path| elsewhere(&cluster, path) == 2).then_some(())
    });
    // It gets nothing new, and is the last one that is read from.
    let later = write(&cluster, "later", 8);
    assert!(later.keys().all(|path| elsewhere(&cluster, path) == 2));
    cluster.storage[0].kill();
    cluster.repair_disk(0);
    cluster.storage[0].start();
    cluster.wait_for_live(4);
    wait_until_well(&cluster);
    wait_for("what was too much is trimmed", 30, || {
        (files.keys().all(|path| holders(&cluster, path).len() == 2)).then_some(())
    });
    assert_all(&cluster, &files);
}

/// Lets a frozen file system go on, whatever happens: a process that waits for it cannot even be killed.
struct Thaw<'c>(&'c Cluster);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.inside(0, &format!("fsfreeze -u '{}' || true", self.0.storage_dir(0).display()));
    }
}

#[test]
fn a_disk_that_hangs_is_noticed_and_holds_nothing_up() {
    if !can_mount_loops() {
        return;
    }
    let cluster = Cluster::start(&plan(&[EXT4], 3, "60", &["--replicas", "3"]));
    let freeze = format!("fsfreeze -f '{}'", cluster.storage_dir(0).display());
    let thaw = Thaw(&cluster);
    let freeze = |cluster: &Cluster| drop(cluster.inside(0, &freeze));
    let started = std::time::Instant::now();
    deletions_go_on(&cluster, freeze, "hung");
    assert!(started.elapsed() < Duration::from_secs(60));
    drop(thaw);
    wait_for("it is well again", 30, || cluster.server(0)["trouble"].is_null().then_some(()));
    wait_until_well(&cluster);
}

#[test]
fn a_server_that_begins_anew_where_another_one_is_known_is_told() {
    let mut cluster = Cluster::start(&plan(&[], 3, "60", &[]));
    let files = write(&cluster, "f", 8);
    let (data, away) = (cluster.storage_dir(0), cluster.path("away"));
    let old = cluster.server(0)["server"].as_str().unwrap().to_string();
    cluster.storage[0].kill();
    fs::rename(&data, &away).unwrap();
    cluster.storage[0].start();
    let told = wait_for("the new identity is told", 20, || {
        let events = cluster.ok(&["events", "--kind", "server_new_identity"]);
        events.contains("new identity").then_some(events)
    });
    for part in [&format!("at the url of storage-0 ({old})"), "its data directory was empty", "copies on the old one"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let log = cluster.name_server.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("new identity")), "{log}");
    wait_for("the old one is down, and says who answers there", 20, || {
        let servers = cluster.get("/api/v1/servers");
        let old = servers["servers"].as_array()?.iter().find(|server| server["server"] == *old)?.clone();
        (old["health"] == "down" && old["reason"].as_str()?.contains("another server")).then_some(())
    });
    assert_all(&cluster, &files);
    cluster.storage[0].kill();
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&away, &data).unwrap();
    cluster.storage[0].start();
    wait_for("the old one is back", 30, || {
        let servers = cluster.get("/api/v1/servers");
        let old = servers["servers"].as_array()?.iter().find(|server| server["server"] == *old)?.clone();
        (old["health"] == "live" && old["syncing"] == false).then_some(())
    });
    assert_all(&cluster, &files);
    assert_eq!(cluster.ok(&["events", "--kind", "server_new_identity"]).lines().count(), 1, "it is told once");
}
