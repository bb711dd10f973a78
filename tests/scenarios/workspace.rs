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
}
