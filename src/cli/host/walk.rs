//! A host tree as a sorted stream.
//!
//! The walk runs on a thread of its own, goes from directory to directory by open handles, never follows a link, and
//! keeps no more than the names of the directories that it is in. What cannot be stored in the cluster stands in the
//! stream with the reason, so that nobody mistakes it for absent. A directory that cannot be read does too: its
//! contents are unknown, not gone. What is ours ([`super::own`]) never comes as a file or directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc::Sender;

use super::own::{DATA_REASON, Own, is_data_directory, own_name};
use super::stat::{FileStat, Look, LookKind};
use super::temporary::{Swept, sweep};
use super::tree::HostDir;
use crate::cli::merge::{HasPath, Sorted, join};
use crate::cli::progress::Tally;
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

/// Directories that are kept open; those further up are opened again when the walk comes back to them.
const OPEN_DIRECTORIES_MAX: usize = 64;

/// What stands at a path of a host tree.
#[derive(Debug, Clone)]
pub(crate) enum LocalKind {
    Directory {
        /// Names that differ in case only are one name here. Only known when it was asked for.
        folds: bool,
    },
    File(FileStat),
    /// It cannot be stored; the text says what it is.
    Unfit(&'static str, FileStat),
    /// It is ours; the text says why it never travels.
    Own(&'static str),
    /// It, or what is below it, cannot be examined.
    Unreadable(Error),
}

/// One element of a walk.
#[derive(Debug, Clone)]
pub(crate) struct LocalEntry {
    /// Relative to the walk's root; empty for the root itself.
    pub(crate) path: String,
    pub(crate) kind: LocalKind,
}

impl HasPath for LocalEntry {
    fn path(&self) -> &str {
        &self.path
    }
}

/// What to walk.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub(crate) root: HostDir,
    /// Where below the root it begins; paths are relative to the root all the same.
    pub(crate) scope: String,
    /// Whether the scope itself comes first.
    pub(crate) with_scope: bool,
    /// Levels to descend.
    pub(crate) depth: usize,
    /// The control directory at the root belongs to this very tree, and is passed over without a word.
    pub(crate) is_workspace: bool,
    /// Leftovers of killed runs are removed.
    pub(crate) sweeps: bool,
    /// Finds out which directories fold names.
    pub(crate) finds_folding: bool,
}

/// A directory that the walk is in.
struct Level {
    /// Its handle, if it is open.
    dir: Option<HostDir>,
    is: Look,
    path: String,
    names: std::vec::IntoIter<OsString>,
}

/// What a directory turned out to be when it was entered.
enum Entered {
    Level { level: Box<Level>, folds: bool },
    Kind(LocalKind),
    Gone,
}

impl Walk {
    /// All below a directory.
    pub(crate) fn below(root: &HostDir) -> Self {
        Self {
            root: root.clone(),
            scope: String::new(),
            with_scope: false,
            depth: usize::MAX,
            is_workspace: false,
            sweeps: false,
            finds_folding: false,
        }
    }

    /// Starts the walk. Names that are not UTF-8 have no place in the order; they are reported to `tally`.
    pub(crate) fn start(self, tally: Arc<Tally>) -> Sorted<LocalEntry> {
        let (sender, sorted) = Sorted::channel("the local files");
        tokio::task::spawn_blocking(move || {
            let mut send = |entry| sender.blocking_send(Ok(entry)).is_ok();
            if let Err(error) = self.run(&mut send, &tally) {
                // Whoever stopped listening does not want the error either.
                let _: Result<(), _> = Sender::blocking_send(&sender, Err(error));
            }
        });
        sorted
    }

    /// Hands on entries until all came or nobody wants more.
    fn run(&self, send: &mut dyn FnMut(LocalEntry) -> bool, tally: &Tally) -> Result<()> {
        let Some(mut levels) = self.first_level(send)? else { return Ok(()) };
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let dir = match &level.dir {
                Some(dir) => dir.clone(),
                None => level.dir.insert(self.reopened(level.path.as_str(), &level.is)?).clone(),
            };
            let Some(text) = name.to_str() else {
                let shown = PathBuf::from(&level.path).join(&name);
                tally.skipped(&shown.to_string_lossy(), "its name is not UTF-8");
                continue;
            };
            let path = join(&level.path, text);
            let kind = match own_name(text) {
                Some(own) => self.own(&dir, text, &path, own),
                None => self.look(&dir, &name, &path),
            };
            let Some(kind) = kind else { continue };
            let (kind, entered) = match kind {
                LocalKind::Directory { .. } if levels.len() < self.depth => match self.enter(&dir, &name, &path) {
                    Entered::Level { level, folds } => (LocalKind::Directory { folds }, Some(level)),
                    Entered::Kind(kind) => (kind, None),
                    Entered::Gone => continue,
                },
                kind => (kind, None),
            };
            if !send(LocalEntry { path, kind }) {
                return Ok(());
            }
            if let Some(level) = entered {
                levels.push(*level);
                if let Some(above) = levels.len().checked_sub(OPEN_DIRECTORIES_MAX + 1) {
                    levels[above].dir = None;
                }
            }
        }
        Ok(())
    }

    /// The directory that the walk begins in; nothing when there is nothing to walk through.
    fn first_level(&self, send: &mut dyn FnMut(LocalEntry) -> bool) -> Result<Option<Vec<Level>>> {
        let place = self.root.at(self.scope.as_str());
        let level = match place.look()? {
            None if self.scope.is_empty() || !self.with_scope => {
                return Err(Error::not_found(format!("{} does not exist", place.shown().display())));
            }
            None => return Ok(None),
            Some(look) if look.is_directory() => {
                let dir = place.dir()?;
                let is = dir.look_at_itself()?;
                self.level(dir, is, self.scope.clone())
            }
            Some(look) => Entered::Kind(kind_of(&look)),
        };
        let (kind, levels) = match level {
            Entered::Level { level, folds } => (LocalKind::Directory { folds }, Some(vec![*level])),
            Entered::Kind(kind) => (kind, None),
            Entered::Gone => return Ok(None),
        };
        // Nobody may take a tree for empty whose root cannot be gone through.
        match &kind {
            LocalKind::Unreadable(error) if !self.with_scope => return Err(error.clone()),
            LocalKind::Own(reason) if !self.with_scope => {
                return Err(Error::invalid(format!("{}: {reason}", place.shown().display())));
            }
            _ => {}
        }
        // The root folds or not as all the others do, and somebody may want to know.
        let told = self.with_scope || (self.finds_folding && self.scope.is_empty());
        if told && !send(LocalEntry { path: self.scope.clone(), kind }) {
            return Ok(None);
        }
        Ok(levels)
    }

    /// A directory whose handle was given up. One that was exchanged meanwhile has other contents than those that
    /// were listed, and nothing that follows could be trusted.
    fn reopened(&self, path: &str, is: &Look) -> Result<HostDir> {
        let dir = self.root.dir(Path::new(path))?;
        if !dir.look_at_itself()?.is_same_thing(is) {
            let message = format!("{} was exchanged while it was read; run it again", dir.shown().display());
            return Err(Error::internal(message));
        }
        Ok(dir)
    }

    /// What is to be said of something that is ours, if anything.
    fn own(&self, dir: &HostDir, name: &str, path: &str, own: Own) -> Option<LocalKind> {
        if own == Own::Control {
            let is_ours = self.is_workspace && path == super::own::CONTROL;
            return (!is_ours).then_some(LocalKind::Own(own.reason()));
        }
        if !self.sweeps {
            return Some(LocalKind::Own(own.reason()));
        }
        match sweep(dir, name) {
            Swept::Gone | Swept::InUse => None,
            Swept::Kept(own) => Some(LocalKind::Own(own.reason())),
        }
    }

    /// What stands at a name; nothing when it is gone already.
    fn look(&self, dir: &HostDir, name: &OsStr, path: &str) -> Option<LocalKind> {
        match dir.look(name) {
            Ok(look) => look.map(|look| kind_of(&look)),
            Err(error) => {
                log::debug!("{path}: {}", error.chain());
                Some(LocalKind::Unreadable(error))
            }
        }
    }

    fn enter(&self, above: &HostDir, name: &OsStr, path: &str) -> Entered {
        let opened = above.dir(Path::new(name)).and_then(|dir| Ok((dir.look_at_itself()?, dir)));
        match opened {
            Ok((is, dir)) => self.level(dir, is, path.into()),
            Err(error) if error.code() == ErrorCode::NotFound => Entered::Gone,
            Err(error) => Entered::Kind(LocalKind::Unreadable(error)),
        }
    }

    fn level(&self, dir: HostDir, is: Look, path: String) -> Entered {
        let names = dir.names().map_err(std::io::Error::from);
        let names = match names.io_context(|| format!("reading {}", dir.shown().display())) {
            Ok(names) => names,
            Err(error) => return Entered::Kind(LocalKind::Unreadable(error)),
        };
        let has = |name: &str| names.binary_search_by(|other| other.as_bytes().cmp(name.as_bytes())).is_ok();
        if is_data_directory(has) {
            return Entered::Kind(LocalKind::Own(DATA_REASON));
        }
        let folds = self.finds_folding && folds(&dir, &names);
        Entered::Level { level: Box::new(Level { dir: Some(dir), is, path, names: names.into_iter() }), folds }
    }
}

fn kind_of(look: &Look) -> LocalKind {
    match look.kind {
        LookKind::Directory => LocalKind::Directory { folds: false },
        LookKind::File => LocalKind::File(look.stat),
        LookKind::Other(what) => LocalKind::Unfit(what, look.stat),
    }
}

/// Whether a directory finds an entry under its name in the other case, though there is none of that name. Inodes say
/// nothing here: some file systems make one up for each spelling. Something that came just now only makes more careful.
fn folds(dir: &HostDir, names: &[OsString]) -> bool {
    let swapped = names.iter().find_map(|name| {
        let text = name.to_str().filter(|text| text.bytes().any(|byte| byte.is_ascii_alphabetic()))?;
        let other: String = text
            .chars()
            .map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
            .collect();
        let listed = names.binary_search_by(|name| name.as_bytes().cmp(other.as_bytes())).is_ok();
        (!listed).then_some(other)
    });
    swapped.is_some_and(|other| dir.look(other.as_ref()).is_ok_and(|look| look.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::progress::Progress;

    async fn walk(walk: Walk) -> (Vec<String>, u64) {
        let tally = Tally::new(Progress::hidden());
        let mut sorted = walk.start(tally.clone());
        let mut seen = Vec::new();
        while let Some(entry) = sorted.next().await.unwrap() {
            let kind = match entry.kind {
                LocalKind::Directory { .. } => "/".into(),
                LocalKind::File(stat) => format!(":{}", stat.size),
                LocalKind::Unfit(what, _) => format!(" {what}"),
                LocalKind::Own(_) => " ours".into(),
                LocalKind::Unreadable(_) => " unreadable".into(),
            };
            seen.push(format!("{}{kind}", entry.path));
        }
        (seen, tally.counts().skipped)
    }

    #[tokio::test]
    async fn siblings_come_by_their_bytes_and_what_cannot_be_stored_with_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["a", "a/empty", "a/.holdfast", ".holdfast", "data", "store"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        for (name, text) in [
            ("a/z", "1"),
            ("a-b", "22"),
            ("a.b", ""),
            ("-rf", ""),
            ("new\nline", ""),
            (".holdfast/x", ""),
            ("a/.holdfast/x", ""),
            ("data/cluster.toml", ""),
            ("data/secret", ""),
            ("store/server.json", ""),
            ("store/index.sqlite", ""),
            (".holdfast-abcdef.part", ""),
        ] {
            std::fs::write(root.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        std::fs::create_dir(root.join(OsStr::from_bytes(b"\xff"))).unwrap();
        std::fs::write(root.join(OsStr::from_bytes(b"\xff")).join("below"), "").unwrap();
        let mut what = Walk::below(&HostDir::open(root).unwrap());
        let common = [
            "-rf:0",
            ".holdfast ours",
            ".holdfast-abcdef.part ours",
            "a/",
            "a/.holdfast ours",
            "a/empty/",
            "a/z:1",
            "a-b:2",
            "a.b:0",
            "data ours",
            "link a symbolic link",
            "new\nline:0",
            "socket a socket",
            "store ours",
        ];
        assert_eq!(walk(what.clone()).await, (common.map(String::from).to_vec(), 1), "one name is not UTF-8");
        what.is_workspace = true;
        what.sweeps = true;
        let (seen, _) = walk(what).await;
        let want: Vec<&str> = common.into_iter().filter(|line| !line.starts_with(".holdfast")).collect();
        assert_eq!(seen, want, "its own control directory and what was swept are not mentioned");
        assert!(root.join(".holdfast/x").exists() && !root.join(".holdfast-abcdef.part").exists());
    }

    #[tokio::test]
    async fn a_subtree_can_be_walked_with_its_root_and_a_missing_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("d")).unwrap();
        std::fs::write(directory.path().join("d/f"), "x").unwrap();
        let mut what = Walk::below(&HostDir::open(directory.path()).unwrap());
        what.scope = "d".into();
        assert_eq!(walk(what.clone()).await.0, ["d/f:1"]);
        what.with_scope = true;
        assert_eq!(walk(what.clone()).await.0, ["d/", "d/f:1"]);
        what.scope = "d/f".into();
        assert_eq!(walk(what.clone()).await.0, ["d/f:1"]);
        what.scope = "gone".into();
        assert!(walk(what.clone()).await.0.is_empty());
        what.with_scope = false;
        let mut sorted = what.start(Tally::new(Progress::hidden()));
        assert!(sorted.next().await.is_err());
    }

    #[tokio::test]
    async fn a_root_that_is_ours_is_an_error_and_never_an_empty_tree() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cluster.toml", "secret", "mine"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let mut sorted = Walk::below(&HostDir::open(directory.path()).unwrap()).start(Tally::new(Progress::hidden()));
        assert!(sorted.next().await.unwrap_err().message().contains("data directory"));
    }

    #[tokio::test]
    async fn trees_deeper_than_paths_may_be_long_are_walked_with_few_open_directories() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostDir::open(directory.path()).unwrap();
        let names: Vec<String> = (0..300).map(|level| format!("{}{level}", "n".repeat(20))).collect();
        let mut at = root.clone();
        for name in &names {
            at.make_directory(name.as_ref()).unwrap();
            at.make_directory("z".as_ref()).unwrap();
            at = at.dir(Path::new(name)).unwrap();
        }
        let (seen, _) = walk(Walk::below(&root)).await;
        assert_eq!(seen.len(), 600);
        assert!(seen.iter().any(|path| path.len() > 6_000));
        assert_eq!(seen.last().unwrap(), "z/");
        for name in names.iter().rev() {
            at = at.parent().unwrap();
            at.remove_directory(name.as_ref()).unwrap();
            at.remove_directory("z".as_ref()).unwrap();
        }
    }

    #[test]
    fn a_directory_that_tells_cases_apart_does_not_fold() {
        let directory = tempfile::tempdir().unwrap();
        let dir = HostDir::open(directory.path()).unwrap();
        for name in ["ab", "AB", "cd"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        assert!(!folds(&dir, &dir.names().unwrap()));
        // Two names of one file are two.
        std::fs::hard_link(directory.path().join("cd"), directory.path().join("CD")).unwrap();
        std::fs::remove_file(directory.path().join("ab")).unwrap();
        assert!(!folds(&dir, &dir.names().unwrap()));
    }
}
