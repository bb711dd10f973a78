//! What the clients did and what came of it.
//!
//! The namespace of a run is small, so that operations collide: some groups (`/g0`, `/g1`, …), in each of them
//! [`DIRS`] directories that come, go and move, in each of those [`FILES`] files. No operation touches two groups,
//! so each group's history can be judged by itself.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use holdfast::types::{DfsPath, ErrorCode, Sha256};
use serde::{Deserialize, Serialize};

/// Directories in a group.
pub const DIRS: usize = 3;
/// Files in a directory.
pub const FILES: usize = 2;

/// A content: each write has its own.
pub type Value = u32;

/// A file's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub group: u8,
    pub dir: u8,
    pub file: u8,
}

impl Place {
    pub fn path(self) -> DfsPath {
        DfsPath::parse(&self.to_string()).unwrap()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/f{}", dir_path(self.group, self.dir), self.file)
    }
}

pub fn dir_path(group: u8, dir: u8) -> DfsPath {
    DfsPath::parse(&format!("/g{group}/d{dir}")).unwrap()
}

/// Under which condition a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Any,
    /// `If-None-Match: *`.
    Absent,
    /// `If-Match`.
    Version(i64),
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Write { at: Place, value: Value, when: When },
    Delete { at: Place },
    Move { from: Place, to: Place },
    Copy { from: Place, to: Place },
    MoveDir { group: u8, from: u8, to: u8 },
    RemoveDir { group: u8, dir: u8 },
    MakeDir { group: u8, dir: u8 },
    Read { at: Place },
    Stat { at: Place },
    List { group: u8, dir: u8 },
}

impl Action {
    pub fn group(&self) -> u8 {
        match *self {
            Self::Write { at, .. } | Self::Delete { at } | Self::Read { at } | Self::Stat { at } => at.group,
            Self::Move { from, .. } | Self::Copy { from, .. } => from.group,
            Self::MoveDir { group, .. }
            | Self::RemoveDir { group, .. }
            | Self::MakeDir { group, .. }
            | Self::List { group, .. } => group,
        }
    }

    /// The directories that it reads or changes.
    pub fn dirs(&self) -> [u8; 2] {
        match *self {
            Self::Write { at, .. } | Self::Delete { at } | Self::Read { at } | Self::Stat { at } => [at.dir, at.dir],
            Self::Move { from, to } | Self::Copy { from, to } => [from.dir, to.dir],
            Self::MoveDir { from, to, .. } => [from, to],
            Self::RemoveDir { dir, .. } | Self::MakeDir { dir, .. } | Self::List { dir, .. } => [dir, dir],
        }
    }

    pub fn only_looks(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Stat { .. } | Self::List { .. })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Write { at, value, when: When::Any } => write!(f, "write {at} := #{value}"),
            Self::Write { at, value, when: When::Absent } => write!(f, "write {at} := #{value} if absent"),
            Self::Write { at, value, when: When::Version(v) } => write!(f, "write {at} := #{value} if version {v}"),
            Self::Delete { at } => write!(f, "rm {at}"),
            Self::Move { from, to } => write!(f, "mv {from} {to}"),
            Self::Copy { from, to } => write!(f, "cp {from} {to}"),
            Self::MoveDir { group, from, to } => write!(f, "mv {} {}", dir_path(group, from), dir_path(group, to)),
            Self::RemoveDir { group, dir } => write!(f, "rm -r {}", dir_path(group, dir)),
            Self::MakeDir { group, dir } => write!(f, "mkdir {}", dir_path(group, dir)),
            Self::Read { at } => write!(f, "read {at}"),
            Self::Stat { at } => write!(f, "stat {at}"),
            Self::List { group, dir } => write!(f, "ls {}", dir_path(group, dir)),
        }
    }
}

/// A file as a client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen {
    pub value: Value,
    pub version: i64,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A change was acknowledged. The version is missing where the client cannot know that it is its own.
    Done { version: Option<i64> },
    /// A read or stat showed a file.
    Saw(Seen),
    /// A listing showed these files.
    Listed(Vec<(u8, Seen)>),
    /// The cluster looked and said no: that tells something of the namespace.
    Refused(ErrorCode),
    /// Certainly not done, for a reason that tells nothing of the namespace.
    NotDone(String),
    /// Done, or not done, or still to be done. Of a read: no answer.
    Unknown(String),
    /// Bytes or metadata that nobody has ever written.
    Wrong(String),
    /// An answer that makes no sense for this request, in whatever state the namespace is.
    Odd(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { version: Some(version) } => write!(f, "ok, version {version}"),
            Self::Done { version: None } => write!(f, "ok"),
            Self::Saw(seen) => write!(f, "#{} (version {})", seen.value, seen.version),
            Self::Listed(files) => {
                let files: Vec<_> = files
                    .iter()
                    .map(|(file, seen)| format!("f{file} #{} (version {})", seen.value, seen.version))
                    .collect();
                write!(f, "[{}]", files.join(", "))
            }
            Self::Refused(code) => write!(f, "refused: {code}"),
            Self::NotDone(why) => write!(f, "not done: {why}"),
            Self::Unknown(why) => write!(f, "unknown: {why}"),
            Self::Wrong(why) => write!(f, "WRONG: {why}"),
            Self::Odd(why) => write!(f, "ODD: {why}"),
        }
    }
}

/// One operation. Times are microseconds since the run began, on a clock that never jumps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Op {
    pub client: u16,
    pub invoked: u64,
    pub completed: u64,
    /// One of the reads after everything was healed.
    #[serde(default)]
    pub at_end: bool,
    pub action: Action,
    pub outcome: Outcome,
}

impl Op {
    /// Whether it has or may have changed something.
    pub fn may_have_changed(&self) -> bool {
        !self.action.only_looks()
            && matches!(self.outcome, Outcome::Done { .. } | Outcome::Unknown(_) | Outcome::Odd(_))
    }

    /// When it can have had its effect at the latest.
    pub fn latest_effect(&self) -> u64 {
        if matches!(self.outcome, Outcome::Unknown(_) | Outcome::Odd(_)) { u64::MAX } else { self.completed }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let (from, to) = (seconds(self.invoked), seconds(self.completed));
        write!(
            f,
            "{from:>10.4} .. {to:>10.4}  client {:<2}  {:<44} {}",
            self.client,
            self.action.to_string(),
            self.outcome
        )
    }
}

/// What a write's content is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub value: Value,
    pub size: u64,
}

/// Collects the operations of all clients.
pub struct Recorder {
    started: Instant,
    ops: Mutex<Vec<Op>>,
    contents: Mutex<HashMap<Sha256, Content>>,
}

impl Recorder {
    pub fn new() -> Self {
        Self { started: Instant::now(), ops: Mutex::default(), contents: Mutex::default() }
    }

    pub fn now(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    pub fn add(&self, op: Op) {
        self.ops.lock().unwrap().push(op);
    }

    /// Notes a content before it is sent anywhere.
    pub fn announce(&self, sha256: Sha256, content: Content) {
        self.contents.lock().unwrap().insert(sha256, content);
    }

    /// The write that made a content.
    pub fn content(&self, sha256: Sha256) -> Option<Content> {
        self.contents.lock().unwrap().get(&sha256).copied()
    }

    /// All operations, in the order of their beginnings.
    pub fn ops(&self) -> Vec<Op> {
        let mut ops = self.ops.lock().unwrap().clone();
        ops.sort_by_key(|op| (op.invoked, op.completed));
        ops
    }
}

/// Writes a history, an operation on each line.
pub fn save(ops: &[Op], path: &Path) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    for op in ops {
        serde_json::to_writer(&mut file, op).unwrap();
        file.write_all(b"\n").unwrap();
    }
    file.flush().unwrap();
}

/// Reads a history that was written by [`save`].
pub fn load(path: &Path) -> Vec<Op> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    std::io::BufReader::new(file).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}
