//! Workspaces: three-way push and pull between two copies of a remote directory.

use std::fs;
use std::path::Path;

use crate::common::cluster::{Cluster, Plan};
use crate::common::tree;

fn ok(cluster: &Cluster, dir: &Path, args: &[&str]) -> String {
    let (code, output, errors) = cluster.run_in(dir, args);
    assert_eq!(code, 0, "holdfast {args:?}: {errors}\n{output}");
    output
}

#[test]
fn changes_travel_both_ways_and_conflicts_are_never_overwritten() {
    let cluster = Cluster::start(&Plan::default());
    let (one, two) = (cluster.path("one"), cluster.path("two"));
    cluster.ok(&["mkdir", "/ws"]);
    for dir in [&one, &two] {
        fs::create_dir(dir).unwrap();
        ok(&cluster, dir, &["init", ".", "--remote", "/ws"]);
    }
    tree::hard_cases(&one, 2);
    tree::without_special_files(&one);
    ok(&cluster, &one, &["push"]);
    ok(&cluster, &two, &["pull"]);
    tree::assert_equal(&one, &two);
    // Nothing is left to do on either side.
    let version = cluster.get("/status")["version"].as_i64();
    ok(&cluster, &one, &["push"]);
    ok(&cluster, &two, &["push"]);
    assert_eq!(cluster.get("/status")["version"].as_i64(), version);
    // Changes and deletions on both sides, in different files.
    fs::write(one.join("size 1"), "changed in one").unwrap();
    fs::remove_dir_all(one.join("deep")).unwrap();
    fs::write(two.join("new in two"), "two").unwrap();
    fs::remove_file(two.join("#hash")).unwrap();
    ok(&cluster, &one, &["push"]);
    ok(&cluster, &two, &["pull"]);
    ok(&cluster, &two, &["push"]);
    ok(&cluster, &one, &["pull"]);
    tree::assert_equal(&one, &two);
    assert!(!one.join("#hash").exists() && !two.join("deep").exists() && one.join("new in two").exists());
    // The same file on both sides.
    fs::write(one.join("new in two"), "from one").unwrap();
    fs::write(two.join("new in two"), "from two").unwrap();
    ok(&cluster, &one, &["push"]);
    for command in ["pull", "push"] {
        let (code, _, errors) = cluster.run_in(&two, &[command]);
        assert_eq!(code, 4, "{errors}");
        assert!(errors.contains("new in two"), "{errors}");
        assert_eq!(fs::read_to_string(two.join("new in two")).unwrap(), "from two");
        assert_eq!(cluster.ok(&["cat", "/ws/new in two"]), "from one");
    }
    ok(&cluster, &two, &["push", "--force"]);
    assert_eq!(cluster.ok(&["cat", "/ws/new in two"]), "from two");
    ok(&cluster, &one, &["pull"]);
    tree::assert_equal(&one, &two);
    // A deletion against a change.
    fs::remove_file(one.join("new in two")).unwrap();
    fs::write(two.join("new in two"), "changed again").unwrap();
    ok(&cluster, &two, &["push"]);
    assert_eq!(cluster.run_in(&one, &["push"]).0, 4);
    assert_eq!(cluster.ok(&["cat", "/ws/new in two"]), "changed again");
}

#[test]
fn dry_runs_change_nothing_and_commands_know_where_they_are() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let dir = cluster.path("ws");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/f"), "x").unwrap();
    ok(&cluster, &dir, &["init"]);
    let dry = cluster.run_in(&dir, &["push", "--dry-run"]);
    assert!(dry.0 == 0 && (dry.1.clone() + &dry.2).contains("sub/f"), "{dry:?}");
    assert_eq!(cluster.ok(&["ls", "/"]), "");
    ok(&cluster, &dir.join("sub"), &["push", "f"]);
    assert_eq!(cluster.ok(&["cat", "/sub/f"]), "x");
    assert_eq!(ok(&cluster, &dir, &["pwd"]).trim(), "/");
    ok(&cluster, &dir, &["cd", "sub"]);
    assert_eq!(ok(&cluster, &dir, &["cat", "f"]), "x");
    ok(&cluster, &dir, &["mv", "f", "g"]);
    assert_eq!(cluster.ok(&["ls", "/sub"]), "g\n");
    assert!(ok(&cluster, &dir, &["status"]).contains("f"));
    // Inside a workspace another one cannot be made, which is said wherever no other cluster is known.
    for (args, words) in [(&["init"][..], "is inside the workspace"), (&["init", "new/er"], "is inside the workspace")]
    {
        let mut init = cluster.command(args);
        init.current_dir(dir.join("sub")).env_remove("HOLDFAST_NAME_SERVER").env_remove("HOLDFAST_TOKEN");
        let ended = init.output().unwrap();
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(4) && errors.contains(words), "holdfast {args:?}: {errors}");
        assert!(!dir.join("sub/new").exists());
    }
    let (code, _, errors) = cluster.run_in(&dir, &["init"]);
    assert!(code == 4 && errors.contains("is a workspace already, for /"), "{errors}");
}

#[test]
fn exit_codes_are_those_that_are_promised() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    cluster.ok(&["mkdir", "-p", "/a/b"]);
    cluster.ok(&["touch", "/a/f"]);
    for (args, want) in [
        (&["ls", "/"][..], 0),
        (&["--help"], 0),
        (&["--version"], 0),
        (&["nonsense"], 2),
        (&["ls", "--nonsense"], 2),
        (&["cat", "/nothing"], 3),
        (&["mkdir", "/a"], 4),
        (&["rmdir", "/a"], 4),
        (&["rm", "/a"], 4),
        (&["ls", "/", "--token", "hf_wrong"], 5),
        (&["ls", "/", "--name-server", "http://127.0.0.1:1"], 6),
        (&["rm", "/a/f", "/nothing"], 7),
    ] {
        let (code, _, errors) = cluster.run(args);
        assert_eq!(code, want, "holdfast {args:?}: {errors}");
        assert_eq!(errors.is_empty(), want == 0, "holdfast {args:?}: {errors}");
    }
    let list: serde_json::Value = serde_json::from_str(&cluster.ok(&["--json", "ls", "/"])).unwrap();
    assert_eq!(list[0]["path"], "a");
    for shell in ["bash", "zsh", "fish"] {
        assert!(cluster.ok(&["completions", shell]).contains("holdfast"));
    }
    failures_as_json(&cluster);
    what_is_listed(&cluster);
    a_slash_at_the_end_means_a_directory(&cluster);
}

/// With `--json` a program reads what failed, one object in each line, and gets no list that is none.
fn failures_as_json(cluster: &Cluster) {
    for (args, codes, exit) in [
        (&["ls", "/nope", "--json"][..], &[("not_found", 3)][..], 3),
        (&["stat", "/nope", "--json"], &[("not_found", 3)], 3),
        (&["du", "/nope", "--json"], &[("not_found", 3)], 3),
        (&["cat", "/a", "/nope", "--json"], &[("is_a_directory", 4), ("not_found", 3)], 1),
        (&["frobnicate", "--json"], &[("invalid_request", 2)], 2),
        (&["ls", "/", "--json", "--token", "hf_wrong"], &[("unauthorized", 5)], 5),
    ] {
        let (code, output, errors) = cluster.run(args);
        assert_eq!((code, output.as_str()), (exit, ""), "holdfast {args:?}: {errors}");
        let told: Vec<serde_json::Value> = errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = told
            .iter()
            .map(|told| {
                assert!(!told["message"].as_str().unwrap().is_empty(), "{errors}");
                (told["code"].as_str().unwrap(), told["exit_code"].as_i64().unwrap())
            })
            .collect();
        assert_eq!(told, codes, "holdfast {args:?}");
    }
    let other = cluster.storage[0].url();
    let (code, _, errors) = cluster.run(&["--name-server", &other, "ls", "/"]);
    assert!(code == 2 && errors.contains(&format!("{other} is not a name server")), "{code} {errors}");
    let (code, output, errors) = cluster.run(&["ls", "/nope", "/a", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!((code, list[0]["directory"].as_str(), errors.lines().count()), (7, Some("/a"), 1), "{output}");
    let link = cluster.path("tree");
    fs::create_dir(&link).unwrap();
    std::os::unix::fs::symlink("x", link.join("link")).unwrap();
    fs::write(link.join("one"), "1").unwrap();
    let (code, _, errors) = cluster.run(&["import", "tree", "/tree", "--json"]);
    let told: Vec<serde_json::Value> = errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (code, told[0]["code"].as_str(), told[0]["path"].as_str()),
        (7, Some("skipped"), Some("link")),
        "{errors}"
    );
    assert!(told[1]["notice"].as_str().unwrap().starts_with("sent 1 file (1 B), 1 skipped"), "{errors}");
}

fn what_is_listed(cluster: &Cluster) {
    // As on Unix: what is missing is said, then come the files, then each directory under its name.
    let (code, output, errors) = cluster.run(&["ls", "/a", "/f", "/nope", "/a/b"]);
    assert_eq!((code, output.as_str()), (7, "/a:\nb\n\n/a/b:\n"), "{errors}");
    cluster.ok(&["touch", "/f"]);
    let (code, output, errors) = cluster.run(&["ls", "/a", "/f", "/nope"]);
    assert_eq!((code, output.as_str()), (7, "/f\n\n/a:\nb\n"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(cluster.ok(&["ls", "-lah", "/"]).lines().all(|line| line.contains("-/2") || line.contains("2/2")));
    let stat: serde_json::Value = serde_json::from_str(&cluster.ok(&["stat", "--json", "/f"])).unwrap();
    assert_eq!((stat.as_array().unwrap().len(), stat[0]["path"].as_str()), (1, Some("/f")));
    assert!(cluster.ok(&["stat", "/f"]).contains("size      0 bytes"));
    assert!(cluster.ok(&["tree", "/a"]).ends_with("1 directory, 0 files\n"));
    assert!(cluster.ok(&["version"]).starts_with("holdfast 0."));
    for (args, words) in [
        (&["find", "/", "--name", "[f"][..], "closes"),
        (&["tree", "-L", "0", "/"], "from 1"),
        (&["token", "create", "x", "--ttl", "5"], "unit"),
        (&["ls", "/", "--ca-cert", "tree"], "certificates"),
        (&["ls", "/", "--ca-cert", "/dev/null"], "certificates"),
    ] {
        let (code, _, errors) = cluster.run(args);
        assert!(code == 2 && errors.contains(words), "holdfast {args:?}: {code} {errors}");
    }
    // A disk that is full is told once.
    cluster.ok(&["import", "/etc/passwd", "/passwd"]);
    for args in [&["cat", "/passwd", "/passwd"][..], &["ls", "/", "/a"], &["stat", "/f"], &["export", "/passwd", "-"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = cluster.command(args).stdout(full).output().unwrap();
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), errors.lines().count()), (Some(1), 1), "holdfast {args:?}: {errors}");
        assert!(errors.contains("No space left on device"), "{errors}");
    }
}

fn a_slash_at_the_end_means_a_directory(cluster: &Cluster) {
    fs::write(cluster.path("f"), "x").unwrap();
    for (args, want) in [
        (&["mv", "/f", "/nodir/"][..], 3),
        (&["cp", "/f", "/nodir/"], 3),
        (&["touch", "/nodir/"], 3),
        (&["touch", "/f/"], 3),
        (&["import", "f", "/nodir/"], 3),
        (&["import", "f", "/f/"], 4),
        (&["import", "-", "/nodir/"], 2),
        (&["mv", "/passwd", "/f/"], 4),
    ] {
        let (code, _, errors) = cluster.run(args);
        assert_eq!((code, cluster.run(&["stat", "/nodir"]).0), (want, 3), "holdfast {args:?}: {errors}");
    }
    // A directory may be named so.
    cluster.ok(&["cp", "-r", "/a", "/copy/"]);
    cluster.ok(&["mv", "/copy/", "/moved/"]);
    cluster.ok(&["touch", "/moved/b/g"]);
    cluster.ok(&["import", "f", "/moved/"]);
    assert_eq!(cluster.ok(&["ls", "-R", "/moved"]), "b\nb/g\nf\n");
}
