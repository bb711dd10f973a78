//! Two workspaces and a curl client change one tree, while clients and servers are killed and the database is set back.
//!
//! Every content is a new one. Who overwrites or removes one that he sees, gives it up: on a disk by hand, in the cluster
//! under the condition that it is still there, or by `--force`. Every other content that was ever on a disk or
//! acknowledged must be in the cluster or in a workspace, after each few rounds and at the end.
//!
//! A fixed short run is a part of the suite; `scripts/chaos-client` does as many rounds as one likes, by
//! `HOLDFAST_CHAOS_CLIENT_SEED` and `HOLDFAST_CHAOS_CLIENT_ROUNDS`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use holdfast::types::Sha256;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::common::cluster::{Cluster, Plan, ended};
use crate::common::restore::{Backup, back_up, restored, settle, tree, wait_until_heard};
use crate::common::tree::files_below;
use crate::common::wait_for;

/// Each may be a file, a directory or a link at any time.
const PATHS: [&str; 10] = ["a", "b", "c", "d", "d/a", "d/e", "d/e/f", "x", "x/y", "x/y/z"];
/// What the suite does.
const SEED: u64 = 11;
const ROUNDS: u64 = 30;
/// Rounds between two looks at everything.
const CHECK_ROUNDS: u64 = 5;
/// Rounds between the backup of the database and the time that it is set back to it, and again.
const SET_BACK_ROUNDS: u64 = 20;
/// The exit codes of push, pull and status that are right whatever has happened: done, not found, conflict, partly.
const EXITS: [i32; 4] = [0, 3, 4, 7];

struct World {
    cluster: Cluster,
    sites: [PathBuf; 2],
    rng: StdRng,
    /// Contents that nobody has given up, and where each came from.
    wanted: BTreeMap<String, String>,
    contents: u64,
    log: Vec<String>,
    backup: Option<Backup>,
}

#[test]
fn two_workspaces_and_a_curl_client_lose_nothing() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (seed, rounds) = (number("HOLDFAST_CHAOS_CLIENT_SEED", SEED), number("HOLDFAST_CHAOS_CLIENT_ROUNDS", ROUNDS));
    let mut world = World::new(seed);
    for round in 1..=rounds {
        world.say(format!("round {round}"));
        world.round();
        if round % SET_BACK_ROUNDS == SET_BACK_ROUNDS / 2 {
            world.back_up();
        }
        if round % SET_BACK_ROUNDS == 0 {
            world.set_back();
        }
        if round % CHECK_ROUNDS == 0 || round == rounds {
            world.check();
        }
    }
    world.check_bytes();
    println!(
        "seed {seed}, {rounds} rounds: {} contents, {} of them wanted, all are there",
        world.contents,
        world.wanted.len()
    );
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log.join("\n"));
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
        let sites = ["one", "two"].map(|name| cluster.path(name));
        for site in &sites {
            cluster.ok(&["init", site.to_str().unwrap(), "--remote", "/w"]);
        }
        assert_eq!(cluster.run_in(&sites[0], &["push"]).0, 0);
        let rng = StdRng::seed_from_u64(seed);
        Self { cluster, sites, rng, wanted: BTreeMap::new(), contents: 0, log: Vec::new(), backup: None }
    }

    fn say(&mut self, what: String) {
        self.log.push(what);
    }

    fn path(&mut self) -> &'static str {
        PATHS.choose(&mut self.rng).unwrap()
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.rng.random_ratio(1, count)
    }

    fn round(&mut self) {
        for _ in 0..self.rng.random_range(1..=3) {
            match self.rng.random_range(0..10) {
                0..=5 => {
                    let site = self.rng.random_range(0..2);
                    self.change(site);
                }
                _ => self.curl(),
            }
        }
        let both = self.one_in(4);
        let first = self.rng.random_range(0..2);
        let mut running = vec![self.start(first, both)];
        if both {
            running.push(self.start(1 - first, true));
        }
        if self.one_in(15) {
            std::thread::sleep(Duration::from_millis(self.rng.random_range(0..100)));
            self.say("the name server is killed and started again".into());
            self.cluster.name_server.kill();
            self.cluster.name_server.drop_arg("--initialize");
            self.cluster.name_server.start();
        }
        for client in running {
            self.end(client);
        }
    }

    /// A text that nothing has had before, mostly as long as the others.
    fn content(&mut self, origin: String) -> String {
        self.contents += 1;
        let long = if self.one_in(8) { 70_000 } else { 0 };
        let text = format!("content {:08}{}", self.contents, "x".repeat(long));
        self.wanted.insert(Sha256::of(text.as_bytes()).to_string(), origin);
        text
    }

    fn give_up(&mut self, sha256: &str) {
        self.wanted.remove(sha256);
    }

    /// What a site has at and below a path, by hand.
    fn give_up_here(&mut self, place: &Path) {
        match fs::symlink_metadata(place) {
            Ok(there) if there.is_file() => self.give_up(&Sha256::of(&fs::read(place).unwrap()).to_string()),
            Ok(there) if there.is_dir() => {
                for file in files_below(place) {
                    self.give_up(&Sha256::of(&fs::read(file).unwrap()).to_string());
                }
            }
            _ => {}
        }
    }

    fn clear(&mut self, place: &Path) {
        self.give_up_here(place);
        match fs::symlink_metadata(place) {
            Ok(there) if there.is_dir() => fs::remove_dir_all(place).unwrap(),
            Ok(_) => fs::remove_file(place).unwrap(),
            Err(_) => {}
        }
    }

    /// Makes the directories above a path, in the place of whatever is there.
    fn make_way(&mut self, site: usize, path: &str) {
        let mut above = self.sites[site].clone();
        let names: Vec<&str> = path.split('/').collect();
        for name in &names[..names.len() - 1] {
            above.push(name);
            if !fs::symlink_metadata(&above).is_ok_and(|there| there.is_dir()) {
                self.clear(&above);
                fs::create_dir(&above).unwrap();
            }
        }
    }

    /// Somebody works in a workspace.
    fn change(&mut self, site: usize) {
        let path = self.path();
        let place = self.sites[site].join(path);
        let kind = self.rng.random_range(0..10);
        self.say(format!("  in {site}: {path}, change {kind}"));
        match kind {
            0 => self.clear(&place),
            1 => {
                let to = self.path();
                if fs::symlink_metadata(&place).is_err() || to.starts_with(path) || path.starts_with(to) {
                    return;
                }
                self.make_way(site, to);
                let target = self.sites[site].join(to);
                if fs::symlink_metadata(&place).is_ok() {
                    self.clear(&target);
                    fs::rename(&place, &target).unwrap();
                }
            }
            2 => {
                self.make_way(site, path);
                self.clear(&place);
                if self.one_in(2) {
                    symlink("/nowhere", &place).unwrap();
                } else {
                    fs::create_dir(&place).unwrap();
                }
            }
            _ => self.write(site, path, &place),
        }
    }

    /// In place or by a rename, and often with the size and the time that was there before.
    fn write(&mut self, site: usize, path: &str, place: &Path) {
        self.make_way(site, path);
        self.give_up_here(place);
        let is_file = fs::symlink_metadata(place).is_ok_and(|there| there.is_file());
        if !is_file {
            self.clear(place);
        }
        let text = self.content(format!("{path} in {site}, {}", self.log.len()));
        if self.one_in(2) {
            fs::write(place, text).unwrap();
        } else {
            let aside = self.cluster.path("aside");
            fs::write(&aside, text).unwrap();
            fs::rename(aside, place).unwrap();
        }
        if self.one_in(2) {
            let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            fs::File::options().write(true).open(place).unwrap().set_modified(old).unwrap();
        }
    }

    /// Files in the cluster at, below and above a path; all without one.
    fn give_up_there(&mut self, path: &str) {
        let at = format!("w/{path}");
        for (name, _, sha256) in tree(&self.cluster) {
            let concerned = name == at || name.starts_with(&format!("{at}/")) || at.starts_with(&format!("{name}/"));
            if let (true, Some(sha256)) = (concerned, sha256.as_str()) {
                self.give_up(sha256);
            }
        }
    }

    /// Somebody without a workspace changes what he has seen.
    fn curl(&mut self) {
        let path = self.path();
        let there = self.cluster.try_get(&format!("/api/v1/file?path=/w/{path}"));
        let seen = there.as_ref().and_then(|entry| Some((entry["version"].as_i64()?, entry["sha256"].as_str()?)));
        let url = format!("{}/files/w/{path}", self.cluster.http().base);
        let condition = match &seen {
            Some((version, _)) => format!("If-Match: \"{version}\""),
            None => "If-None-Match: *".into(),
        };
        let removes = seen.is_some() && self.rng.random_ratio(1, 3);
        let answer = if removes {
            self.cluster.curl(&["-X", "DELETE", "-H", &condition, &url])
        } else {
            let text = self.content(format!("{path} by curl, {}", self.log.len()));
            let file = self.cluster.path("body");
            fs::write(&file, &text).unwrap();
            let answer = self.cluster.curl(&["-T", file.to_str().unwrap(), "-H", &condition, &url]);
            if answer.as_ref().is_none_or(|answer| answer.status != 201) {
                // It was on no disk of anybody, and nobody has acknowledged it.
                self.give_up(&Sha256::of(text.as_bytes()).to_string());
            }
            answer
        };
        let status = answer.map_or(0, |answer| answer.status);
        self.say(format!("  curl {}: {path} ({condition}): {status}", if removes { "DELETE" } else { "PUT" }));
        assert!([200, 201, 404, 409, 412].contains(&status), "{status}");
        if let (200 | 201, Some((_, sha256))) = (status, seen) {
            self.give_up(sha256);
        }
    }

    /// Starts a push, a pull or a status in a site; it is killed after the time that stands beside it, if any.
    fn start(&mut self, site: usize, beside_another: bool) -> (Child, String, Option<Duration>) {
        let command = ["push", "push", "push", "pull", "pull", "pull", "status"].choose(&mut self.rng).unwrap();
        let mut args = vec![*command];
        // What is given up by force must be known before.
        if !beside_another && *command != "status" && self.one_in(6) {
            let path = self.path();
            args.extend(["--force", path]);
            if *command == "push" {
                self.give_up_there(path);
            } else {
                let mut place = self.sites[site].clone();
                for name in path.split('/') {
                    place.push(name);
                    if fs::symlink_metadata(&place).is_ok_and(|there| there.is_file()) {
                        self.give_up_here(&place);
                    }
                }
                self.give_up_here(&place);
            }
        }
        let killed = self.one_in(4).then(|| Duration::from_millis(self.rng.random_range(0..400)));
        let said =
            format!("{site}: {args:?}{}", killed.map_or(String::new(), |after| format!(", killed after {after:?}")));
        self.say(format!("  {said}"));
        let mut client = self.cluster.command(&args);
        client.current_dir(&self.sites[site]).stdout(Stdio::piped()).stderr(Stdio::piped());
        (client.spawn().unwrap(), said, killed)
    }

    fn end(&mut self, (mut client, said, killed): (Child, String, Option<Duration>)) {
        if let Some(after) = killed {
            std::thread::sleep(after);
            // It may have ended by itself.
            let _ = client.kill();
            let _ = client.wait();
            return;
        }
        let (code, output, errors) = ended(client.wait_with_output().unwrap());
        self.say(format!("  {said}: {code}\n{output}{errors}"));
        // Nothing behind a link can be meant.
        let behind_a_link = code == 2 && errors.contains("nothing behind it belongs to the workspace");
        assert!(EXITS.contains(&code) || behind_a_link, "{said}: {code}\n{errors}");
    }

    fn back_up(&mut self) {
        self.say("the database is copied".into());
        settle(&self.cluster);
        self.cluster.kill_all();
        self.backup = Some(back_up(&self.cluster, &None));
        self.cluster.name_server.drop_arg("--initialize");
        self.cluster.start_all();
        self.cluster.wait_for_live(2);
    }

    /// What was changed since is forgotten, and comes back by a restore. Meanwhile nobody is believed.
    fn set_back(&mut self) {
        let Some(backup) = self.backup.take() else { return };
        self.say("the database is set back".into());
        settle(&self.cluster);
        wait_until_heard(&self.cluster, &[0, 1]);
        self.cluster.kill_all();
        backup.put_back(&self.cluster);
        self.cluster.name_server.start();
        self.cluster.storage.iter_mut().for_each(|server| server.start());
        wait_for("the name server hears that it was set back", 60, || {
            (self.cluster.try_get("/status")?["mode"] == "read_only").then_some(())
        });
        for site in self.sites.clone() {
            for args in [&["pull"][..], &["push"], &["pull", "--force"], &["push", "--force"]] {
                let (code, output, errors) = self.cluster.run_in(&site, args);
                self.say(format!("  {args:?}: {code}\n{output}{errors}"));
                assert_eq!(code, 6, "{args:?}: {errors}");
            }
        }
        restored(&self.cluster, "{}");
        self.cluster.wait_for_live(2);
    }

    /// Every content that is wanted is somewhere.
    fn check(&mut self) {
        let there = tree(&self.cluster).into_iter().filter_map(|(_, _, sha256)| Some(sha256.as_str()?.to_string()));
        let mut found: BTreeSet<String> = there.collect();
        for site in &self.sites {
            found.extend(files_below(site).iter().map(|file| Sha256::of(&fs::read(file).unwrap()).to_string()));
        }
        let lost: Vec<_> = self.wanted.iter().filter(|(sha256, _)| !found.contains(*sha256)).collect();
        assert!(lost.is_empty(), "nowhere any more: {lost:#?}");
    }

    /// What is listed can be read.
    fn check_bytes(&mut self) {
        let out = self.cluster.path("out");
        self.cluster.ok(&["export", "/w", out.to_str().unwrap()]);
        let bytes: BTreeSet<String> =
            files_below(&out).iter().map(|file| Sha256::of(&fs::read(file).unwrap()).to_string()).collect();
        for (name, _, sha256) in tree(&self.cluster) {
            assert!(
                sha256.as_str().is_none_or(|sha256| bytes.contains(sha256)),
                "{name} is listed and was not exported"
            );
        }
    }
}
