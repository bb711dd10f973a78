//! Which changes a workspace sees, what collides, and that nothing is overwritten or removed that was not seen.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::cluster::{Cluster, Plan};
use crate::common::tree::files_below;
use crate::common::wait_for;

fn cluster() -> Cluster {
    Cluster::start(&Plan { storage_servers: 2, ..Plan::default() })
}

fn ok(cluster: &Cluster, dir: &Path, args: &[&str]) -> String {
    let (code, output, errors) = cluster.run_in(dir, args);
    assert_eq!(code, 0, "holdfast {args:?}: {errors}\n{output}");
    output
}

/// Two workspaces for one directory, with the same files.
fn two_workspaces(cluster: &Cluster, remote: &str, files: &[(&str, &str)]) -> (PathBuf, PathBuf) {
    let (one, two) = (cluster.path("one").join(&remote[1..]), cluster.path("two").join(&remote[1..]));
    for dir in [&one, &two] {
        cluster.ok(&["init", dir.to_str().unwrap(), "--remote", remote]);
    }
    for (path, text) in files {
        fs::create_dir_all(one.join(path).parent().unwrap()).unwrap();
        fs::write(one.join(path), text).unwrap();
        touch(&one.join(path), "2024-01-01 10:00");
    }
    ok(cluster, &one, &["push"]);
    ok(cluster, &two, &["pull"]);
    (one, two)
}

fn touch(path: &Path, time: &str) {
    assert!(Command::new("touch").args(["-d", time]).arg(path).status().unwrap().success());
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
}

/// Makes what a workspace knows of a file settled, as it is after some seconds: a push notes files anew that have
/// been at rest since.
fn settle(cluster: &Cluster, dir: &Path) {
    std::thread::sleep(std::time::Duration::from_millis(2_300));
    ok(cluster, dir, &["push"]);
}

#[test]
fn changes_that_keep_size_and_time_are_seen_and_never_lost() {
    let cluster = cluster();
    let files = [("in-place", "AAAA"), ("by-rename", "AAAA"), ("gone", "AAAA"), ("quiet", "AAAA")];
    let (one, two) = two_workspaces(&cluster, "/w", &files);
    settle(&cluster, &one);
    // As `cp -p`, `rsync -t`, `tar x` and `mv` of an older file leave it: the same size and time of modification.
    for name in ["in-place", "gone", "quiet"] {
        fs::write(one.join(name), "BBBB").unwrap();
        touch(&one.join(name), "2024-01-01 10:00");
    }
    fs::write(one.join("new"), "BBBB").unwrap();
    touch(&one.join("new"), "2024-01-01 10:00");
    fs::rename(one.join("new"), one.join("by-rename")).unwrap();
    for name in ["in-place", "by-rename"] {
        fs::write(two.join(name), "CCCC, which is longer").unwrap();
    }
    fs::remove_file(two.join("gone")).unwrap();
    ok(&cluster, &two, &["push"]);
    let status = ok(&cluster, &one, &["status"]);
    for (name, word) in
        [("in-place", "conflict"), ("by-rename", "conflict"), ("gone", "conflict"), ("quiet", "modified")]
    {
        let line = format!("{word:<16} {name}\n");
        assert!(status.contains(&line), "{name} is not {word}: {status}");
    }
    assert_eq!(cluster.run_in(&one, &["pull"]).0, 4);
    for name in ["in-place", "by-rename", "gone", "quiet"] {
        assert_eq!(text(one.join(name)), "BBBB", "{name} was overwritten");
    }
    assert_eq!(cluster.run_in(&one, &["push"]).0, 4);
    assert_eq!(cluster.ok(&["cat", "/w/quiet"]), "BBBB", "it is sent");
    // Whoever trusts nothing has everything read.
    assert!(ok(&cluster, &one, &["status", "--checksum"]).contains("conflict         gone"));
}

#[test]
fn a_state_of_an_earlier_version_goes_on() {
    let cluster = cluster();
    let (one, _) = two_workspaces(&cluster, "/w", &[("same", "AAAA"), ("changed", "AAAA"), ("deleted", "AAAA")]);
    settle(&cluster, &one);
    // What an earlier version knew: neither the cluster nor the times of status and the inodes.
    let control = one.join(".holdfast");
    let state = fs::read_to_string(control.join("state.ndjson")).unwrap();
    let old: Vec<String> = state
        .lines()
        .map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            let known = record["is"].as_object_mut().unwrap();
            assert!(known.remove("ctime_ns").is_some() && known.remove("inode").is_some());
            record.to_string()
        })
        .collect();
    fs::write(control.join("state.ndjson"), old.join("\n") + "\n").unwrap();
    fs::remove_file(control.join("cluster.json")).unwrap();
    fs::create_dir(control.join("aside")).unwrap();
    fs::write(one.join("changed"), "BBBB").unwrap();
    touch(&one.join("changed"), "2024-01-01 10:00");
    fs::remove_file(one.join("deleted")).unwrap();
    let status = ok(&cluster, &one, &["status"]);
    assert_eq!(status, "modified         changed\ndeleted          deleted\n");
    ok(&cluster, &one, &["push"]);
    assert_eq!(cluster.ok(&["cat", "/w/changed"]), "BBBB");
    assert_eq!(cluster.ok(&["ls", "/w"]), "changed\nsame\n");
    assert!(control.join("cluster.json").exists(), "it knows its cluster now");
    assert!(fs::read_to_string(control.join("state.ndjson")).unwrap().contains("inode"));
}

#[test]
fn what_the_cluster_has_lost_is_sent_again() {
    let cluster = cluster();
    let dir = cluster.path("ws");
    cluster.ok(&["init", dir.to_str().unwrap(), "--remote", "/w"]);
    let text = "x".repeat(100_000);
    for name in ["kept", "lost", "missing"] {
        fs::write(dir.join(name), format!("{name}{text}")).unwrap();
    }
    ok(&cluster, &dir, &["push"]);
    settle(&cluster, &dir);
    let of = |name: &str| cluster.get(&format!("/api/v1/file?path=/w/{name}"));
    for name in ["lost", "missing"] {
        let object = of(name)["object"].as_str().unwrap().to_string();
        for number in 0..2 {
            let found = files_below(&cluster.storage_dir(number).join("objects"));
            let copies = found.iter().filter(|path| path.to_str().unwrap().contains(&object));
            copies.for_each(|copy| fs::remove_file(copy).unwrap());
        }
        assert_ne!(cluster.run(&["cat", &format!("/w/{name}")]).0, 0);
        // Whoever reads it finds it out.
        wait_for("the copies are counted out", 60, || {
            cluster.run(&["cat", &format!("/w/{name}")]);
            (of(name)["copies"] == 0 && of(name)["replicas"].as_array().is_none_or(Vec::is_empty)).then_some(())
        });
    }
    let lost = "lost in the cluster lost\nlost in the cluster missing\n";
    assert_eq!(ok(&cluster, &dir, &["status"]), lost);
    assert_eq!(ok(&cluster, &dir, &["push", "-n"]), "send: lost\nsend: missing\n");
    assert!(cluster.ok(&["why", "/w/lost"]).contains("`holdfast push`"));
    assert!(cluster.ok(&["report"]).contains("`holdfast push`"));
    cluster.ok(&["import", dir.join("missing").to_str().unwrap(), "/w/missing"]);
    assert_eq!(ok(&cluster, &dir, &["status"]), "lost in the cluster lost\n");
    ok(&cluster, &dir, &["push"]);
    assert_eq!(ok(&cluster, &dir, &["status"]), "");
    for name in ["kept", "lost", "missing"] {
        assert_eq!(cluster.ok(&["cat", &format!("/w/{name}")]), format!("{name}{text}"));
    }
}

/// A directory and a file that take each other's place, on either side, with something new inside.
fn collisions(cluster: &Cluster, remote: &str) -> (PathBuf, PathBuf) {
    let (one, two) = two_workspaces(cluster, remote, &[("x/1", "1"), ("x/2", "2"), ("y/1", "1"), ("other", "o")]);
    // `x`: a file here, a changed directory there. `y`: a directory with something new here, a file there.
    fs::remove_dir_all(one.join("x")).unwrap();
    fs::write(one.join("x"), "file x").unwrap();
    fs::write(two.join("x/1"), "1 changed").unwrap();
    fs::write(one.join("y/new"), "new").unwrap();
    fs::remove_dir_all(two.join("y")).unwrap();
    fs::write(two.join("y"), "file y").unwrap();
    ok(cluster, &two, &["push"]);
    (one, two)
}

#[test]
fn kinds_that_collide_are_conflicts_which_force_resolves() {
    let cluster = cluster();
    for (remote, command) in [("/pull", "pull"), ("/push", "push")] {
        let (one, two) = collisions(&cluster, remote);
        let status = ok(&cluster, &one, &["status"]);
        assert!(status.contains("conflict         x/1\n") && status.contains("conflict         y/new\n"), "{status}");
        for dry in [&["push", "-n"][..], &["pull", "-n"]] {
            let (code, output, _) = cluster.run_in(&one, dry);
            assert_eq!(code, 4, "{output}");
            assert!(output.contains("conflict: x/1") && output.contains("conflict: y/new"), "{output}");
            assert!(!output.contains("send: y/new") && !output.contains("fetch: x/1"), "{output}");
        }
        let (code, _, errors) = cluster.run_in(&one, &[command]);
        assert_eq!(code, 4, "{errors}");
        assert!(errors.contains("--force"), "it says how to get out: {errors}");
        assert_eq!((text(one.join("x")), text(one.join("y/new"))), ("file x".into(), "new".into()));
        assert_eq!(cluster.ok(&["cat", &format!("{remote}/x/1")]), "1 changed");
        assert_eq!(cluster.ok(&["cat", &format!("{remote}/y")]), "file y");
        let (code, promised, _) = cluster.run_in(&one, &[command, "--force", "-n"]);
        assert_eq!(code, 0, "{promised}");
        let (code, _, errors) = cluster.run_in(&one, &[command, "--force"]);
        assert_eq!(code, 0, "{command} --force: {errors}");
        assert_eq!(ok(&cluster, &one, &["status"]), "", "nothing is left to do after {command} --force");
        if command == "pull" {
            assert_eq!((text(one.join("x/1")), text(one.join("x/2"))), ("1 changed".into(), "2".into()));
            assert_eq!(text(one.join("y")), "file y");
        } else {
            assert_eq!(text(one.join("x")), "file x");
            assert_eq!(cluster.ok(&["cat", "/push/x"]), "file x");
            assert_eq!(cluster.ok(&["cat", "/push/y/new"]), "new");
        }
        ok(&cluster, &two, &["pull", "--force"]);
        crate::common::tree::assert_equal(&one, &two);
    }
}

#[test]
fn a_link_in_the_place_of_a_file_is_a_conflict_with_a_way_out() {
    let cluster = cluster();
    let (one, _) = two_workspaces(&cluster, "/w", &[("f", "f"), ("d/f", "f"), ("e", "e")]);
    for name in ["f", "d"] {
        let _ = fs::remove_file(one.join(name));
        let _ = fs::remove_dir_all(one.join(name));
        symlink("e", one.join(name)).unwrap();
    }
    let (code, output, errors) = cluster.run_in(&one, &["status"]);
    assert_eq!((code, output.as_str()), (0, "conflict         d\nconflict         f\n"), "{errors}");
    assert!(!errors.contains("the same as"), "{errors}");
    for args in [&["push"][..], &["pull"], &["push", "--force"]] {
        let (code, _, errors) = cluster.run_in(&one, args);
        assert!(code == 4 && errors.contains("`holdfast pull --force`"), "{args:?}: {code} {errors}");
    }
    assert_eq!(cluster.ok(&["ls", "-R", "/w"]), "d\nd/f\ne\nf\n", "a push deletes nothing because of a link");
    ok(&cluster, &one, &["pull", "--force"]);
    assert_eq!((text(one.join("f")), text(one.join("d/f")), text(one.join("e"))), ("f".into(), "f".into(), "e".into()));
    assert_eq!(ok(&cluster, &one, &["status"]), "");
}

#[test]
fn equal_contents_are_no_conflict_and_a_path_that_is_nowhere_is_not_found() {
    let cluster = cluster();
    let (one, two) = two_workspaces(&cluster, "/w", &[("d/f", "f")]);
    // Both push the same at the same moment: whoever comes second finds his own bytes.
    for round in 0..6 {
        let name = format!("same-{round}");
        for dir in [&one, &two] {
            fs::write(dir.join(&name), format!("the same bytes {round}")).unwrap();
        }
        let mut children: Vec<_> =
            [&one, &two].map(|dir| cluster.command(&["push"]).current_dir(dir).spawn().unwrap()).into();
        for child in &mut children {
            assert_eq!(child.wait().unwrap().code(), Some(0), "round {round}");
        }
    }
    for dir in [&one, &two] {
        assert_eq!(ok(&cluster, dir, &["status"]), "");
    }
    for command in ["push", "pull", "status"] {
        let (code, _, errors) = cluster.run_in(&one, &[command, "typo"]);
        assert!(code == 3 && errors.contains("typo is neither here nor in the cluster"), "{command}: {code} {errors}");
        assert_eq!(cluster.run_in(&one, &[command, "d/typo/deep"]).0, 3, "{command}");
        assert_eq!(cluster.run_in(&one, &[command, "d"]).0, 0, "{command}");
    }
    // Another run in this workspace is no trouble of the cluster.
    let lock = fs::File::options().write(true).create(true).truncate(false).open(one.join(".holdfast/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (code, _, errors) = cluster.run_in(&one, &["push"]);
    assert!(code == 4 && errors.contains("another push or pull"), "{code} {errors}");
}
