//! Host file systems that differ from the usual: names that fold, no links, no atomic exchange, coarse times.
//!
//! exFAT (by exfat-fuse) has all of it. Mounting it takes root; without, this tests nothing and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::cluster::{Cluster, Plan};
use crate::common::{tree, wait_for};

/// Tries to get two changes into one tick of a clock.
const TRIES_MAX: usize = 6;

/// A mounted exFAT file system, which goes with its owner.
struct Stick {
    dir: PathBuf,
}

impl Stick {
    fn mount(cluster: &Cluster) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("mounting exFAT takes root: not tested");
            return None;
        }
        let (image, dir) = (cluster.path("stick.img"), cluster.path("stick"));
        fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
        fs::create_dir(&dir).unwrap();
        let run = |program: &str, args: &[&str]| {
            let remedy = "the tests need exfat-fuse and exfatprogs (Debian's names)";
            let output = Command::new(program).args(args).output();
            let output = output.unwrap_or_else(|error| panic!("{program}: {error}: {remedy}"));
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_string()
        };
        let (image, mounted) = (image.to_str().unwrap(), dir.to_str().unwrap());
        run("mkfs.exfat", &[image]);
        let device = run("losetup", &["--find", "--show", image]);
        run("mount.exfat-fuse", &["-o", "umask=077", &device, mounted]);
        // It goes when it is unmounted.
        run("losetup", &["--detach", &device]);
        Some(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.dir).status();
    }
}

fn put(cluster: &Cluster, path: &str, text: &str) {
    let file = cluster.path("to-put");
    fs::write(&file, text).unwrap();
    assert_eq!(cluster.http().put(path, &file, &[]).status, 201, "{path}");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".holdfast");
    names.sort();
    names
}

/// Names that exFAT takes for one, with contents that tell them apart.
const TWINS: [(&str, &str); 6] = [
    ("Foo", "content of Foo"),
    ("foo", "content of foo"),
    ("Dir/a", "content of Dir/a"),
    ("dir/a", "content of dir/a"),
    ("plain", "content of plain"),
    ("sub/plain", "content of sub/plain"),
];

fn assert_twins_in_the_cluster(cluster: &Cluster, remote: &str) {
    for (path, text) in TWINS {
        assert_eq!(cluster.ok(&["cat", &format!("{remote}/{path}")]), text, "{remote}/{path}");
    }
}

/// Copies file after file, as a program does that knows nothing of names that fold.
fn copy_tree(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from).sort_by_file_name().into_iter().flatten() {
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// What is shown under a name has the content of that name.
fn assert_shown_is_true(dir: &Path) {
    let shown: Vec<String> = names(dir);
    let has = |name: &str| shown.iter().any(|other| other == name);
    assert!(has("plain") && has("sub") && has("Foo") != has("foo") && has("Dir") != has("dir"), "{shown:?}");
    for name in ["Foo", "foo", "plain"].into_iter().filter(|name| has(name)) {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), format!("content of {name}"));
    }
    for name in ["Dir", "dir"].into_iter().filter(|name| has(name)) {
        assert_eq!(fs::read_to_string(dir.join(name).join("a")).unwrap(), format!("content of {name}/a"));
    }
}

#[test]
fn names_that_fold_never_overwrite_or_delete_each_other() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let Some(stick) = Stick::mount(&cluster) else { return };
    for remote in ["/s", "/w"] {
        TWINS.iter().for_each(|(path, text)| put(&cluster, &format!("{remote}/{path}"), text));
    }
    // Export, twice: the second changes nothing.
    let out = stick.path("out");
    for round in 0..2 {
        let (code, output, errors) = cluster.run(&["--json", "export", "/s", out.to_str().unwrap()]);
        assert_eq!(code, 7, "{errors}");
        assert!(errors.contains("same name"), "{errors}");
        let fetched = serde_json::from_str::<serde_json::Value>(&output).unwrap()["files"].as_u64();
        assert_eq!(fetched, Some(if round == 0 { 4 } else { 0 }), "round {round}: {errors}");
        assert_shown_is_true(&out);
    }
    // A workspace there: pull, push, and both again.
    let workspace = stick.path("workspace");
    cluster.ok(&["init", workspace.to_str().unwrap(), "--remote", "/w"]);
    for args in ["pull", "push", "pull", "push"] {
        let (code, _, errors) = cluster.run_in(&workspace, &[args]);
        assert_eq!(code, if args == "pull" { 7 } else { 0 }, "{args}: {errors}");
        assert_shown_is_true(&workspace);
        assert_twins_in_the_cluster(&cluster, "/w");
    }
    // Replacing and removing work without links and exchange, in both directions.
    put(&cluster, "/w/plain", "replaced in the cluster");
    cluster.ok(&["rm", "/w/sub/plain"]);
    assert_eq!(cluster.run_in(&workspace, &["pull"]).0, 7);
    assert_eq!(fs::read_to_string(workspace.join("plain")).unwrap(), "replaced in the cluster");
    assert!(names(&workspace.join("sub")).is_empty());
    fs::write(workspace.join("plain"), "replaced here").unwrap();
    fs::write(workspace.join("new"), "new").unwrap();
    assert_eq!(cluster.run_in(&workspace, &["push"]).0, 0);
    assert_eq!(cluster.ok(&["cat", "/w/plain"]), "replaced here");
    assert_eq!(cluster.ok(&["cat", "/w/new"]), "new");
    // A workspace that was copied there: the copy has lost one of each pair, and that is nobody's change.
    let home = cluster.path("home");
    cluster.ok(&["init", home.to_str().unwrap(), "--remote", "/s"]);
    assert_eq!(cluster.run_in(&home, &["pull"]).0, 0);
    let copied = stick.path("copied");
    copy_tree(&home, &copied);
    for args in [&["push", "-n"][..], &["push"], &["pull"], &["push"]] {
        let (code, output, errors) = cluster.run_in(&copied, args);
        assert!(code == 7 || (code == 0 && args == ["pull"]), "{args:?}: {code} {output} {errors}");
        assert!(!output.contains("delete"), "{output}");
        assert_twins_in_the_cluster(&cluster, "/s");
    }
}

#[test]
fn a_hard_tree_goes_to_exfat_and_back_and_what_it_cannot_have_is_named() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let Some(stick) = Stick::mount(&cluster) else { return };
    let source = cluster.path("source");
    tree::hard_cases(&source, 2);
    tree::without_special_files(&source);
    cluster.ok(&["import", source.to_str().unwrap(), "/tree"]);
    let out = stick.path("out");
    let (code, _, errors) = cluster.run(&["export", "/tree", out.to_str().unwrap()]);
    assert_eq!(code, 7, "{errors}");
    // All that is not there is named, and all that is there is right.
    let mut there = 0;
    for entry in walkdir::WalkDir::new(&source).min_depth(1).into_iter().flatten() {
        let relative = entry.path().strip_prefix(&source).unwrap();
        let at = out.join(relative);
        if at.symlink_metadata().is_err() {
            let named = relative
                .ancestors()
                .any(|path| !path.as_os_str().is_empty() && errors.contains(&format!("{}:", path.display())));
            assert!(named, "{} is neither there nor named: {errors}", relative.display());
        } else if entry.file_type().is_file() {
            assert!(fs::read(entry.path()).unwrap() == fs::read(&at).unwrap(), "{}", relative.display());
            there += 1;
        }
    }
    assert!(there > 25, "{there}");
    // And back from there, by import and by a workspace.
    let (code, _, errors) = cluster.run(&["import", out.to_str().unwrap(), "/back"]);
    assert_eq!(code, 0, "{errors}");
    let back = cluster.path("back");
    cluster.ok(&["export", "/back", back.to_str().unwrap()]);
    tree::assert_equal(&out, &back);
    let workspace = stick.path("workspace");
    cluster.ok(&["init", workspace.to_str().unwrap(), "--remote", "/back"]);
    for (args, code) in [("pull", 0), ("push", 0), ("status", 0)] {
        let (got, output, errors) = cluster.run_in(&workspace, &[args]);
        assert_eq!((got, output.as_str()), (code, ""), "{args}: {errors}");
    }
    tree::assert_equal(&workspace, &back);
}

#[test]
fn a_second_change_in_the_same_tick_is_seen_however_long_the_upload_took() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let Some(stick) = Stick::mount(&cluster) else { return };
    let workspace = stick.path("workspace");
    cluster.ok(&["init", workspace.to_str().unwrap(), "--remote", "/w"]);
    // The clock of exFAT ticks slowly: at the beginning of a tick there is time for two changes.
    let mtime = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let (probe, file) = (stick.path("probe"), workspace.join("z"));
    for _ in 0..TRIES_MAX {
        fs::write(&probe, "x").unwrap();
        let first = mtime(&probe);
        wait_for("a new tick begins", 10, || {
            fs::write(&probe, "x").unwrap();
            (mtime(&probe) != first).then_some(())
        });
        cluster.storage.iter().for_each(|server| server.signal(Signal::STOP));
        fs::write(&file, "AAAA").unwrap();
        let before = mtime(&file);
        let mut push = cluster.command(&["push"]).current_dir(&workspace).spawn().unwrap();
        // By now the content has been read, and the storage servers are asked to take it.
        std::thread::sleep(Duration::from_millis(600));
        fs::write(&file, "BBBB").unwrap();
        let same_tick = mtime(&file) == before;
        std::thread::sleep(Duration::from_secs(3));
        cluster.storage.iter().for_each(|server| server.signal(Signal::CONT));
        let code = push.wait().unwrap().code();
        if same_tick && code == Some(0) && cluster.ok(&["cat", "/w/z"]) == "AAAA" {
            let (_, output, errors) = cluster.run_in(&workspace, &["status"]);
            assert_eq!(output, "modified         z\n", "{errors}");
            assert_eq!(cluster.run_in(&workspace, &["push"]).0, 0);
            assert_eq!(cluster.ok(&["cat", "/w/z"]), "BBBB");
            return;
        }
        cluster.run_in(&workspace, &["push", "--force"]);
    }
    panic!("the two changes never fell into one tick, with the first one sent");
}
