//! The files of this machine: links that are put in place meanwhile, names that are ours, what killed runs leave.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::cluster::{Cluster, Plan, ended};
use crate::common::wait_for;

const SWAPS_SECONDS_MAX: u64 = 60;

/// Somebody who exchanges directories for links to another one, as fast as he can, while `work` runs. Answers how
/// often he succeeded.
fn while_directories_are_swapped(root: &Path, victim: &Path, work: impl FnOnce()) -> usize {
    let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let thread = {
        let (stop, swaps, root, victim) = (stop.clone(), swaps.clone(), root.to_path_buf(), victim.to_path_buf());
        std::thread::spawn(move || {
            let started = Instant::now();
            while !stop.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(SWAPS_SECONDS_MAX) {
                for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
                    let path = entry.path();
                    let is_target = entry.file_name().to_string_lossy().starts_with('d');
                    if is_target && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        let number = swaps.load(Ordering::Relaxed);
                        let away = root.join(format!("moved-{number}"));
                        if fs::rename(&path, away).is_ok() && symlink(&victim, &path).is_ok() {
                            swaps.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
        })
    };
    work();
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    swaps.load(Ordering::Relaxed)
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// A tree of directories with one file each.
fn many_directories(root: &Path, directories: usize) {
    for number in 0..directories {
        let dir = root.join(format!("d{number:03}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("id_rsa"), format!("public {number}")).unwrap();
    }
}

#[test]
fn no_link_that_is_put_in_place_meanwhile_is_followed() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let (source, victim) = (cluster.path("source"), cluster.path("victim"));
    many_directories(&source, 200);
    cluster.ok(&["import", source.to_str().unwrap(), "/many"]);
    fs::create_dir(&victim).unwrap();
    // Out of the cluster: nothing comes to lie in the victim.
    let out = cluster.path("out");
    fs::create_dir(&out).unwrap();
    let swaps = while_directories_are_swapped(&out, &victim, || {
        let (code, _, errors) = cluster.run(&["export", "/many", out.to_str().unwrap()]);
        assert!(code == 7 || code == 0, "{code}: {errors}");
    });
    assert!(swaps > 0, "nobody was fast enough");
    assert_eq!(count(&victim), 0, "export wrote through a link ({swaps} swaps)");
    let workspace = cluster.path("workspace");
    cluster.ok(&["init", workspace.to_str().unwrap(), "--remote", "/many"]);
    let swaps = while_directories_are_swapped(&workspace, &victim, || {
        let (code, _, errors) = cluster.run_in(&workspace, &["pull"]);
        assert!([0, 4, 7].contains(&code), "{code}: {errors}");
    });
    assert!(swaps > 0, "nobody was fast enough");
    assert_eq!(count(&victim), 0, "pull wrote through a link ({swaps} swaps)");
    // Into the cluster: no content of the victim is sent.
    fs::write(victim.join("id_rsa"), "a secret of somebody else").unwrap();
    let secrets = |below: &str| {
        let back = cluster.path(&format!("back{}", below.replace('/', "-")));
        let (code, _, errors) = cluster.run(&["export", below, back.to_str().unwrap()]);
        assert_eq!(code, 0, "{errors}");
        let files = walkdir::WalkDir::new(&back).into_iter().flatten().filter(|entry| entry.file_type().is_file());
        files.filter(|file| fs::read_to_string(file.path()).unwrap().contains("secret")).count()
    };
    let import = cluster.path("import");
    many_directories(&import, 200);
    let swaps = while_directories_are_swapped(&import, &victim, || {
        let (code, _, errors) = cluster.run(&["import", import.to_str().unwrap(), "/imported"]);
        assert!(code == 7 || code == 0, "{code}: {errors}");
    });
    assert!(swaps > 0, "nobody was fast enough");
    assert_eq!(secrets("/imported"), 0, "import read through a link ({swaps} swaps)");
    let push = cluster.path("push");
    cluster.ok(&["init", push.to_str().unwrap(), "--remote", "/pushed"]);
    many_directories(&push, 200);
    let swaps = while_directories_are_swapped(&push, &victim, || {
        let (code, _, errors) = cluster.run_in(&push, &["push"]);
        assert!([0, 4, 7].contains(&code), "{code}: {errors}");
    });
    assert!(swaps > 0, "nobody was fast enough");
    assert_eq!(secrets("/pushed"), 0, "push read through a link ({swaps} swaps)");
}

fn put(cluster: &Cluster, path: &str, text: &str) {
    let file = cluster.path("to-put");
    fs::write(&file, text).unwrap();
    let answer = cluster.http().put(path, &file, &[]);
    assert_eq!(answer.status, 201, "{path}: {}", answer.body);
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Every path below a host directory, without the workspace's own.
fn below(root: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name().into_iter().flatten();
    let shown = entries.map(|entry| entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_string());
    shown.filter(|path| !path.starts_with(".holdfast/") && path != ".holdfast").collect()
}

#[test]
fn what_is_ours_never_travels() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    // Into the cluster: by import, and by a push of a workspace with all of it inside.
    let source = cluster.path("source");
    cluster.ok(&["init", source.to_str().unwrap(), "--remote", "/pushed"]);
    for path in [
        "kept.txt",
        "sub/.holdfast/config.toml",
        "sub/.HOLDFAST/config.toml",
        "sub/kept.txt",
        ".holdfast-abc123.part",
        "hd/cluster.toml",
        "hd/secret",
        "hd/client.toml",
        "disk/server.json",
        "disk/index.sqlite",
        "disk/objects/ab/cd",
    ] {
        write(&source.join(path), "hf_0123 a secret");
    }
    let (code, _, errors) = cluster.run(&["import", source.to_str().unwrap(), "/imported"]);
    assert_eq!(code, 7, "{errors}");
    for said in [".holdfast:", "sub/.holdfast:", ".holdfast-abc123.part:", "hd:", "disk:"] {
        assert!(errors.contains(said) && errors.contains("skipped"), "{said} is not named: {errors}");
    }
    let kept = "kept.txt\nsub\nsub/kept.txt\n";
    assert_eq!(cluster.ok(&["ls", "-R", "/imported"]), kept);
    let (code, _, errors) = cluster.run_in(&source, &["push"]);
    assert_eq!(code, 7, "{errors}");
    assert!(errors.contains("sub/.holdfast:") && errors.contains("hd:") && errors.contains("disk:"), "{errors}");
    assert_eq!(cluster.run(&["ls", "-R", "/pushed"]).1, kept);
    assert!(!source.join(".holdfast-abc123.part").exists(), "a push sweeps what a killed run has left");
    let (code, _, errors) = cluster.run(&["import", source.join("hd").to_str().unwrap(), "/hd"]);
    assert!(code == 2 && errors.contains("data directory"), "{code} {errors}");
    let config = source.join(".holdfast/config.toml");
    assert_eq!(cluster.run(&["import", config.to_str().unwrap(), "/config"]).0, 2);
    // Out of the cluster: whoever stored it there.
    for path in [
        "/out/.holdfast/config.toml",
        "/out/sub/.holdfast/config.toml",
        "/out/sub/.Holdfast/config.toml",
        "/out/sub/holdfast-data/client.toml",
        "/out/data/client.toml",
        "/out/data/cluster.toml",
        "/out/data/secret",
        "/out/.holdfast-abc123.part",
        "/out/sub/kept.txt",
        "/out/kept.txt",
    ] {
        put(&cluster, path, "name_servers = [\"http://127.0.0.1:1\"]\nremote = \"/\"\n");
    }
    let files =
        |root: &Path| -> Vec<String> { below(root).into_iter().filter(|path| root.join(path).is_file()).collect() };
    let out = cluster.path("out");
    let (code, _, errors) = cluster.run(&["export", "/out", out.to_str().unwrap()]);
    assert_eq!(code, 7, "{errors}");
    assert_eq!(files(&out), ["kept.txt", "sub/kept.txt"], "{errors}");
    assert!(!out.join(".holdfast").exists() && !out.join("sub/.holdfast").exists());
    for said in [".holdfast:", "sub/.holdfast:", "sub/.Holdfast:", "client.toml:", "data:", ".part:"] {
        assert!(errors.contains(said), "{said} is not named: {errors}");
    }
    let pulled = cluster.path("pulled");
    cluster.ok(&["init", pulled.to_str().unwrap(), "--remote", "/out"]);
    let (code, _, errors) = cluster.run_in(&pulled, &["pull"]);
    assert_eq!(code, 7, "{errors}");
    assert_eq!(files(&pulled), ["kept.txt", "sub/kept.txt"], "{errors}");
    // A push afterwards takes nothing of it for deleted.
    assert_eq!(cluster.run_in(&pulled, &["push"]).0, 7);
    assert_eq!(cluster.run(&["cat", "/out/data/secret"]).0, 0);
    assert_eq!(cluster.run(&["export", "/out", out.join(".holdfast").to_str().unwrap()]).0, 2);
}

fn temporary_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension() == Some(OsStr::new("part"))).collect()
}

/// Starts a command and stops all storage servers as soon as it has a temporary file, so that it never ends by
/// itself; then sends it a signal. Answers its exit code.
fn signalled_while_fetching(cluster: &Cluster, args: &[&str], dir: &Path, signal: Signal) -> Option<i32> {
    let mut child = cluster.command(args).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a temporary file is there", 30, || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was told to");
        (!temporary_files(dir).is_empty()).then_some(())
    });
    cluster.storage.iter().for_each(|server| server.signal(Signal::STOP));
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
    let code = wait_for("it ends", 20, || child.try_wait().unwrap()).code();
    cluster.storage.iter().for_each(|server| server.signal(Signal::CONT));
    code
}

#[test]
fn runs_that_are_told_to_end_leave_nothing_and_what_killed_ones_leave_is_swept() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let big = cluster.path("big");
    fs::File::create(&big).unwrap().set_len(192 << 20).unwrap();
    cluster.ok(&["mkdir", "/d"]);
    cluster.ok(&["import", big.to_str().unwrap(), "/d/big"]);
    fs::remove_file(&big).unwrap();
    let (out, workspace) = (cluster.path("out"), cluster.path("workspace"));
    fs::create_dir(&out).unwrap();
    cluster.ok(&["init", workspace.to_str().unwrap(), "--remote", "/d"]);
    let export = ["export", "/d", "."];
    for (signal, code) in [(Signal::TERM, Some(143)), (Signal::INT, Some(130))] {
        for (args, dir) in [(&export[..], &out), (&["pull"], &workspace)] {
            assert_eq!(signalled_while_fetching(&cluster, args, dir, signal), code, "{args:?}");
            assert_eq!(temporary_files(dir), Vec::<PathBuf>::new(), "{args:?} after {signal:?}");
        }
    }
    for (args, dir) in [(&export[..], &out), (&["pull"], &workspace)] {
        assert_eq!(signalled_while_fetching(&cluster, args, dir, Signal::KILL), None);
        assert_eq!(temporary_files(dir).len(), 1, "this is what a killed run leaves");
    }
    // It is nobody's file: not new, not sent, not imported.
    let (code, output, errors) = cluster.run_in(&workspace, &["status"]);
    assert!(code == 0 && !output.contains(".part"), "{output} {errors}");
    assert_eq!(cluster.run(&["import", out.to_str().unwrap(), "/again"]).0, 7);
    assert_eq!(cluster.ok(&["ls", "-R", "/again"]), "");
    for (args, dir) in [(&export[..], &out), (&["pull"], &workspace)] {
        assert_eq!(cluster.run_in(dir, args).0, 0, "{args:?}");
        assert_eq!(below(dir), ["big"], "{args:?} swept it");
    }
    // A file that was being replaced when a run was killed may be a version that is nowhere else.
    let old = workspace.join(".holdfast-abc123-0123456789abcdef.old");
    fs::write(&old, "the only copy").unwrap();
    for args in ["pull", "push"] {
        let (code, _, errors) = cluster.run_in(&workspace, &[args]);
        assert!(code == 7 && errors.contains(".old") && errors.contains("another name"), "{code} {errors}");
    }
    assert_eq!(fs::read_to_string(&old).unwrap(), "the only copy");
    assert_eq!(cluster.ok(&["ls", "/d"]), "big\n");
}

/// Somebody's name server: notes what is said to it.
fn listener() -> (u16, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(String::new())));
    let note = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 4_096];
            let length = stream.read(&mut buffer).unwrap_or(0);
            note.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (port, heard)
}

#[test]
fn control_directories_of_strangers_do_not_count_and_get_no_token() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    cluster.ok(&["mkdir", "/mine"]);
    let (port, heard) = listener();
    let evil = format!("name_servers = [\"http://127.0.0.1:{port}\"]\n");
    // The caller's own configuration, and a token in the environment.
    write(
        &cluster.path(".config/holdfast/client.toml"),
        &format!("name_servers = [\"{}\"]\n", cluster.name_server.url()),
    );
    let run = |dir: &Path, args: &[&str]| {
        let mut command = cluster.command(args);
        command.current_dir(dir).env_remove("HOLDFAST_NAME_SERVER").env("HOLDFAST_TOKEN", &cluster.token);
        ended(command.output().unwrap())
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let place = |name: &str, control: &str, file: &str, text: &str| {
        let dir = cluster.path(name);
        write(&dir.join(control).join(file), text);
        mode(&dir.join(control), 0o700);
        mode(&dir.join(control).join(file), 0o600);
        dir
    };
    let of_workspace = format!("{evil}remote = \"/\"\n");
    // Others may write it, or it belongs to somebody else: it is passed over, and said to be.
    let shared = place("shared", ".holdfast", "config.toml", &of_workspace);
    mode(&shared.join(".holdfast"), 0o777);
    let foreign = place("foreign", ".holdfast", "config.toml", &of_workspace);
    let found = place("found", "holdfast-data", "client.toml", &evil);
    mode(&found.join("holdfast-data/client.toml"), 0o666);
    let linked = place("linked", "elsewhere", "client.toml", &evil);
    symlink("elsewhere", linked.join("holdfast-data")).unwrap();
    let mut strangers = vec![(&shared, true), (&found, false), (&linked, false)];
    if rustix::process::geteuid().is_root() {
        for path in [".holdfast/config.toml", ".holdfast"] {
            std::os::unix::fs::chown(foreign.join(path), Some(65_534), Some(65_534)).unwrap();
        }
        strangers.push((&foreign, true));
    }
    for (dir, is_workspace) in strangers {
        let inside = dir.join("a/b");
        fs::create_dir_all(&inside).unwrap();
        let here = if is_workspace { &inside } else { dir };
        // Without a token of its own the user's configuration is asked for, and what is here is looked at.
        let (code, output, errors) = run(here, &["ls", "/"]);
        assert_eq!((code, output.as_str()), (0, "mine\n"), "{}: {errors}", dir.display());
        assert!(errors.contains("It is not used"), "{}: {errors}", dir.display());
        if is_workspace {
            for args in [&["status"][..], &["push"], &["rm", "mine"], &["ls"]] {
                let (code, _, errors) = run(here, args);
                assert!(code == 2 && errors.contains(".holdfast"), "{args:?}: {code} {errors}");
            }
        }
    }
    // Those of the caller count, but the environment's token is not for them.
    let mine = place("own-workspace", ".holdfast", "config.toml", &of_workspace);
    let data = place("own-data", "holdfast-data", "client.toml", &evil);
    for dir in [&mine, &data] {
        let (code, _, errors) = run(dir, &["ls", "/"]);
        assert!(code == 2 && errors.contains("HOLDFAST_TOKEN"), "{}: {code} {errors}", dir.display());
    }
    assert_eq!(*heard.lock().unwrap(), "", "a stranger was asked");
    let (code, _, errors) = run(&mine, &["stat", "/", "--token", "hf_typed"]);
    assert_eq!(code, 3, "{errors}");
    let heard = heard.lock().unwrap();
    assert!(heard.contains("hf_typed") && !heard.contains(&cluster.token), "{heard}");
}

#[test]
fn what_was_typed_comes_first_and_a_wrong_configuration_is_an_error() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    cluster.ok(&["mkdir", "/here"]);
    let (port, heard) = listener();
    let wrong = cluster.path("wrong.toml");
    // The last candidate would be the cluster itself.
    write(
        &cluster.path(".config/holdfast/client.toml"),
        &format!("name_servers = [\"{}\"]\ntoken = \"{}\"\n", cluster.name_server.url(), cluster.token),
    );
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = cluster.command(args);
        command.env_remove("HOLDFAST_NAME_SERVER").env_remove("HOLDFAST_TOKEN").envs(env.iter().copied());
        ended(command.output().unwrap())
    };
    assert_eq!(run(&["ls", "/"], &[]).1, "here\n");
    for text in ["", "name_server = \"http://127.0.0.1:1\"", "name_servers = []", "[cluster]", "name_servers = [\"x\"]"]
    {
        fs::write(&wrong, text).unwrap();
        let path = wrong.to_str().unwrap();
        for (args, env) in [(&["ls", "/", "--config", path][..], &[][..]), (&["ls", "/"], &[("HOLDFAST_CONFIG", path)])]
        {
            let (code, output, errors) = run(args, env);
            assert_eq!((code, output.as_str()), (2, ""), "{text:?} {args:?}: {errors}");
            assert!(errors.contains("wrong.toml"), "{text:?}: {errors}");
        }
    }
    // A flag against the environment.
    fs::write(&wrong, format!("name_servers = [\"http://127.0.0.1:{port}\"]\ntoken = \"hf_other\"\n")).unwrap();
    let env = [("HOLDFAST_CONFIG", wrong.to_str().unwrap())];
    let typed = ["ls", "/", "--name-server", &cluster.name_server.url(), "--token", &cluster.token];
    assert_eq!(run(&typed, &env).1, "here\n");
    assert_eq!(*heard.lock().unwrap(), "");
    let both = ["ls", "/", "--config", wrong.to_str().unwrap(), "--name-server", &cluster.name_server.url()];
    assert_eq!(run(&both, &[]).0, 2);
}

/// A file below directories that are opened one after the other: its path may be longer than the system's limit.
fn write_deep(root: &Path, names: &[String], text: &str) {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(rustix::fs::CWD, root, directory, Mode::empty()).unwrap();
    for name in names {
        let _ = mkdirat(&at, name.as_str(), 0o755.into());
        at = openat(&at, name.as_str(), directory, Mode::empty()).unwrap();
    }
    let file = openat(&at, "f", OFlags::WRONLY | OFlags::CREATE, 0o644.into()).unwrap();
    fs::File::from(file).write_all(text.as_bytes()).unwrap();
}

fn read_deep(root: &Path, names: &[String]) -> String {
    use rustix::fs::{Mode, OFlags, openat};
    let mut at = openat(rustix::fs::CWD, root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for name in names {
        at = openat(&at, name.as_str(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let file = openat(&at, "f", OFlags::RDONLY, Mode::empty()).unwrap();
    let mut text = String::new();
    fs::File::from(file).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn paths_beyond_the_limit_of_the_system_go_in_and_out_and_those_of_the_cluster_are_named() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let far = (0..5).fold(cluster.path("far"), |path, _| path.join("r".repeat(100)));
    let root = |name: &str| {
        let root = far.join(name);
        fs::create_dir_all(&root).unwrap();
        root
    };
    // As deep as the cluster allows, and with that deeper than the host's limit.
    let names = vec!["n".repeat(200); 20];
    let source = root("source");
    write_deep(&source, &names, "deep");
    cluster.ok(&["import", source.to_str().unwrap(), "/i"]);
    let out = root("out");
    cluster.ok(&["export", "/i", out.to_str().unwrap()]);
    assert_eq!(read_deep(&out, &names), "deep");
    let (one, two) = (root("one"), root("two"));
    for dir in [&one, &two] {
        cluster.ok(&["init", dir.to_str().unwrap(), "--remote", "/i"]);
        assert_eq!(cluster.run_in(dir, &["pull"]).0, 0);
        assert_eq!(read_deep(dir, &names), "deep");
    }
    write_deep(&one, &names, "changed");
    assert_eq!(cluster.run_in(&one, &["push"]).0, 0);
    assert_eq!(cluster.run_in(&two, &["pull"]).0, 0);
    assert_eq!(read_deep(&two, &names), "changed");
    assert_eq!(cluster.run_in(&two, &["status"]).0, 0);
    // Deeper than the cluster allows: it is named, and what comes after it goes all the same.
    let deeper = vec!["n".repeat(200); 25];
    for dir in [&source, &one] {
        write_deep(dir, &deeper, "too deep");
        fs::write(dir.join("z"), "after it").unwrap();
    }
    for (args, dir) in [(&["import", ".", "/too"][..], &source), (&["push"], &one)] {
        let (code, _, errors) = cluster.run_in(dir, args);
        assert!(code == 7 && errors.contains("longer than 4096"), "{args:?}: {code} {errors}");
    }
    assert_eq!(cluster.ok(&["cat", "/too/z", "/i/z"]), "after itafter it");
    // What a move has made too long, where it does, holds up nothing that comes after it.
    if cluster.run(&["mv", "/i", &format!("/{}", "l".repeat(200))]).0 == 0 {
        for args in [&["find", "/"][..], &["tree", "/"], &["du", "/"], &["export", "/", out.to_str().unwrap()]] {
            let (_, output, errors) = cluster.run(args);
            assert!(errors.contains("longer than 4096"), "{args:?}: {errors}");
            assert!(args[0] == "export" || output.contains("too"), "{args:?}: {output}");
        }
        assert_eq!(fs::read_to_string(out.join("too/z")).unwrap(), "after it");
    }
}
