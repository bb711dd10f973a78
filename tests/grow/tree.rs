//! A tree as people have it: directories of mixed sizes and depth, names in several scripts, mostly small files. The same
//! seed gives the same tree.

use holdfast::types::{DfsPath, EntryId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Directories below one another, at most.
const DEPTH_MAX: usize = 12;
/// A directory has this share of all files at most.
const SHARE_MAX: usize = 20;
const WORDS: [&str; 16] = [
    "invoices",
    "Fotos 2024",
    "src",
    "measurements",
    "archive",
    "Büro",
    "отчёты",
    "project-aurora",
    "node_modules",
    "raw",
    "日記",
    "backup",
    "letters",
    "music",
    "v2",
    "Müller & Co",
];
const STEMS: [&str; 8] = ["IMG", "report", "scan", "data", "Überblick", "index", "notes", "запись"];
const ENDS: [&str; 8] = ["jpg", "pdf", "txt", "parquet", "rs", "csv", "json", "flac"];

/// An entry of the tree; each directory comes before what is in it.
#[derive(Debug, Clone)]
pub struct Node {
    pub id: EntryId,
    pub parent: EntryId,
    pub path: DfsPath,
    pub name: String,
    /// Bytes of a file; none for a directory.
    pub size: Option<usize>,
}

struct Open {
    id: EntryId,
    path: DfsPath,
}

/// Makes the entries one after the other.
pub struct Tree {
    rng: StdRng,
    /// From the first directory below the root down to the current one.
    open: Vec<Open>,
    files_left: usize,
    files_here: usize,
    files_here_max: usize,
    made: usize,
}

impl Tree {
    pub fn new(files: usize, seed: u64) -> Self {
        let files_here_max = (files / SHARE_MAX).max(10);
        Self {
            rng: StdRng::seed_from_u64(seed),
            open: Vec::new(),
            files_left: files,
            files_here: 0,
            files_here_max,
            made: 0,
        }
    }

    /// Most directories have a few files, some have hundreds, a few have thousands.
    fn files_of_a_directory(&mut self) -> usize {
        let most = match self.rng.random_range(0..1_000) {
            0..800 => 20,
            800..980 => 100,
            980..999 => 1_000,
            _ => 20_000,
        };
        self.rng.random_range(1..=most).min(self.files_here_max).min(self.files_left)
    }

    /// Into the current directory, beside it, or further up.
    fn directory(&mut self) -> Node {
        if self.open.len() >= DEPTH_MAX || self.rng.random_bool(0.5) {
            let up = self.rng.random_range(1..=3).min(self.open.len());
            self.open.truncate(self.open.len() - up);
        }
        let word = WORDS.choose(&mut self.rng).unwrap_or(&WORDS[0]);
        let node = self.node(format!("{word} {}", self.made), None);
        self.open.push(Open { id: node.id, path: node.path.clone() });
        self.files_here = self.files_of_a_directory();
        node
    }

    fn file(&mut self) -> Node {
        let (stem, end) = (STEMS.choose(&mut self.rng).unwrap_or(&"a"), ENDS.choose(&mut self.rng).unwrap_or(&"b"));
        // Small, because their bytes exist: half have some tens of bytes, one in a thousand a few thousand.
        let size = match self.rng.random_range(0..1_000) {
            0..20 => 0,
            20..900 => self.rng.random_range(1..100),
            900..999 => self.rng.random_range(100..400),
            _ => self.rng.random_range(400..4_000),
        };
        self.files_here -= 1;
        self.files_left -= 1;
        self.node(format!("{stem}_{:07}.{end}", self.made), Some(size))
    }

    fn node(&mut self, name: String, size: Option<usize>) -> Node {
        self.made += 1;
        let (parent, path) = match self.open.last() {
            Some(open) => (open.id, open.path.clone()),
            None => (holdfast::types::id::ROOT, DfsPath::root()),
        };
        let path = path.join(&name).expect("names are of a kind that paths may have");
        Node { id: EntryId::generate(), parent, path, name, size }
    }
}

impl Iterator for Tree {
    type Item = Node;

    fn next(&mut self) -> Option<Node> {
        match (self.files_here, self.files_left) {
            (0, 0) => None,
            (0, _) => Some(self.directory()),
            _ => Some(self.file()),
        }
    }
}

/// The bytes of a file: its path, again and again.
pub fn content(path: &DfsPath, size: usize) -> Vec<u8> {
    path.as_str().bytes().cycle().take(size).collect()
}
