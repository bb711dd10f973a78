//! What a cluster must contain: units that are changed by requests, and all that a unit may look like.
//!
//! A request that is answered well makes its change certain. One without an answer leaves two possibilities, and
//! its unit is left alone from then on, until the cluster is at rest and shows which of them it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use holdfast::types::Sha256;

use crate::common::cluster::Http;

/// Bytes that a number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub seed: u32,
    pub size: usize,
}

impl Content {
    pub fn bytes(self) -> Vec<u8> {
        let mut state = self.seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..self.size).map(next).collect()
    }

    fn digest(self) -> Sha256 {
        Sha256::of(&self.bytes())
    }
}

/// Paths below a unit's directory, with the digest of a file; `None` is a directory.
pub type World = BTreeMap<String, Option<Sha256>>;

/// A change, with paths relative to the unit's directory.
#[derive(Debug, Clone)]
pub enum Op {
    Put(&'static str, usize),
    Mkdir(&'static str),
    Remove(&'static str),
    Move(&'static str, &'static str),
    Copy(&'static str, &'static str),
    /// Takes a ticket for a file in an empty directory, removes the directory, and uploads: that is never committed.
    PutTooLate(&'static str, usize),
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused,
    Unknown,
}

/// A directory of its own, and the worlds that may be in it.
#[derive(Debug, Clone)]
pub struct Unit {
    pub root: String,
    pub worlds: Vec<World>,
    /// What was done, for the message when it went wrong.
    pub story: Vec<String>,
}

fn is_below(path: &str, dir: &str) -> bool {
    path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// Sends requests for units; cheap to make for each thread.
pub struct Driver {
    pub http: Http,
    /// Where bodies are written for curl.
    pub scratch: PathBuf,
    pub seed: u32,
}

impl Driver {
    /// Makes a unit by a script. The rest of the script is left out after a request without an answer.
    pub fn unit(&mut self, root: String, script: &[Op]) -> Unit {
        let mut unit = Unit { root, worlds: vec![World::new()], story: Vec::new() };
        for op in script {
            if !self.apply(&mut unit, op) {
                break;
            }
        }
        unit
    }

    /// Answers whether the unit's state is certain still.
    pub fn apply(&mut self, unit: &mut Unit, op: &Op) -> bool {
        let before = unit.worlds[0].clone();
        self.seed = self.seed.wrapping_add(1);
        let (outcome, after) = (self.send(&unit.root, op, self.seed), after(&before, op, self.seed));
        unit.story.push(format!("{op:?}: {outcome:?}"));
        match outcome {
            Outcome::Done => unit.worlds = vec![after],
            Outcome::Refused => {}
            Outcome::Unknown => unit.worlds.push(after),
        }
        outcome == Outcome::Done
    }

    fn send(&self, root: &str, op: &Op, seed: u32) -> Outcome {
        let at = |path: &str| format!("{root}/{path}");
        let transfer = |kind: &str, from: &str, to: &str| {
            let body = format!(r#"{{"from": "{}", "to": "{}", "recursive": true}}"#, at(from), at(to));
            self.post(&format!("/api/v1/{kind}"), &body)
        };
        match op {
            Op::Put(path, size) => {
                let file = self.body(Content { seed, size: *size });
                self.curl(&["-T", &file, &format!("{}/files{}", self.http.base, at(path))])
            }
            Op::Mkdir(path) => self.post("/api/v1/mkdir", &format!(r#"{{"path": "{}", "parents": true}}"#, at(path))),
            Op::Remove(path) => {
                let url = format!("{}/api/v1/file?path={}&recursive=true", self.http.base, at(path));
                self.curl(&["-X", "DELETE", &url])
            }
            Op::Move(from, to) => transfer("mv", from, to),
            Op::Copy(from, to) => transfer("cp", from, to),
            Op::PutTooLate(path, size) => self.put_too_late(&at(path), Content { seed, size: *size }),
        }
    }

    fn put_too_late(&self, directory: &str, content: Content) -> Outcome {
        let query = format!("/api/v1/available?path={directory}/late&size={}", content.size);
        let Some(answer) = self.http.curl(&["--max-time", "15", &format!("{}{query}", self.http.base)]) else {
            return Outcome::Unknown;
        };
        if answer.status != 200 {
            return Outcome::Unknown;
        }
        let placement = answer.json()["placements"][0].clone();
        let removal = format!("{}/api/v1/file?path={directory}&recursive=true", self.http.base);
        let removed = self.curl(&["-X", "DELETE", &removal]);
        if removed != Outcome::Done {
            return removed;
        }
        let (url, ticket) = (placement["servers"][0]["url"].as_str(), placement["ticket"].as_str());
        let url = format!("{}/file?ticket={}", url.unwrap(), ticket.unwrap());
        let sent = self.curl(&["-X", "POST", "-T", &self.body(content), &url]);
        assert_ne!(sent, Outcome::Done, "an upload into a removed directory was committed");
        removed
    }

    fn body(&self, content: Content) -> String {
        let file = self.scratch.join(format!("body-{}", self.seed >> 20));
        fs::write(&file, content.bytes()).unwrap();
        file.to_str().unwrap().to_string()
    }

    fn post(&self, path: &str, body: &str) -> Outcome {
        let url = format!("{}{path}", self.http.base);
        self.curl(&["-H", "Content-Type: application/json", "-d", body, &url])
    }

    fn curl(&self, args: &[&str]) -> Outcome {
        let args: Vec<&str> = ["--max-time", "40"].into_iter().chain(args.iter().copied()).collect();
        match self.http.curl(&args).map(|answer| answer.status) {
            Some(200..=299) => Outcome::Done,
            Some(400..=499) => Outcome::Refused,
            _ => Outcome::Unknown,
        }
    }
}

/// The world after a change was made.
fn after(before: &World, op: &Op, seed: u32) -> World {
    let mut world = before.clone();
    let moved = |world: &World, from: &str, to: &str| -> World {
        let below = world.iter().filter(|(path, _)| is_below(path, from));
        below.map(|(path, node)| (format!("{to}{}", &path[from.len()..]), *node)).collect()
    };
    match op {
        Op::Put(path, size) => {
            let (directories, _) = path.rsplit_once('/').unwrap_or_default();
            make_directories(&mut world, directories);
            world.insert(path.to_string(), Some(Content { seed, size: *size }.digest()));
        }
        Op::Mkdir(path) => make_directories(&mut world, path),
        Op::Remove(path) | Op::PutTooLate(path, _) => world.retain(|other, _| !is_below(other, path)),
        Op::Move(from, to) => {
            let there = moved(&world, from, to);
            world.retain(|path, _| !is_below(path, from) && !is_below(path, to));
            world.extend(there);
        }
        Op::Copy(from, to) => {
            let there = moved(&world, from, to);
            world.extend(there);
        }
    }
    world
}

fn make_directories(world: &mut World, path: &str) {
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    for end in ends.filter(|end| *end > 0) {
        world.entry(path[..end].to_string()).or_insert(None);
    }
}

/// All that is in the cluster, by path: what listings say.
pub struct Listing {
    pub entries: BTreeMap<String, Option<Sha256>>,
    /// Distinct objects.
    pub objects: usize,
}

impl Listing {
    pub fn read(http: &Http) -> Self {
        let (mut entries, mut objects, mut after) = (BTreeMap::new(), std::collections::HashSet::new(), None);
        loop {
            let cursor = after.map(|after| format!("&after={after}")).unwrap_or_default();
            let answer = http.get(&format!("/api/v1/ls?path=/&recursive=true&limit=1000{cursor}"));
            assert_eq!(answer.status, 200, "{}", answer.body);
            let page: holdfast::types::api::ListResponse = serde_json::from_str(&answer.body).unwrap();
            for entry in page.entries {
                objects.extend(entry.object);
                entries.insert(format!("/{}", entry.path.trim_start_matches('/')), entry.sha256);
            }
            after = page.next;
            if after.is_none() {
                return Self { entries, objects: objects.len() };
            }
        }
    }

    /// What is below a unit's directory.
    fn world(&self, root: &str) -> World {
        let below = |path: &str| Some(path.strip_prefix(root)?.strip_prefix('/')?.to_string());
        self.entries.iter().filter_map(|(path, node)| Some((below(path)?, *node))).collect()
    }

    /// Each unit is one of its worlds, and there is nothing else. What was found is certain from now on.
    pub fn check(&self, units: &mut [Unit]) {
        for unit in units.iter_mut() {
            let found = self.world(&unit.root);
            assert!(
                unit.worlds.contains(&found),
                "{} is {found:#?}\nand should be one of {:#?}\nafter {:#?}",
                unit.root,
                unit.worlds,
                unit.story
            );
            unit.worlds = vec![found];
        }
        let strangers: Vec<&String> = self
            .entries
            .iter()
            .filter(|(path, node)| node.is_some() && !units.iter().any(|unit| is_below(path, &unit.root)))
            .map(|(path, _)| path)
            .collect();
        assert!(strangers.is_empty(), "nobody has written {strangers:?}");
    }
}

/// The exported files of a unit have the bytes that they should have.
pub fn check_bytes(exported: &Path, unit: &Unit) {
    for (path, digest) in &unit.worlds[0] {
        let Some(digest) = digest else { continue };
        let bytes = fs::read(exported.join(path)).unwrap();
        assert_eq!(Sha256::of(&bytes), *digest, "{}/{path} has other bytes", unit.root);
    }
}
