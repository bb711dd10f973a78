//! The three sides of a workspace, joined path by path.
//!
//! A side about which nothing certain is known (a link in a file's place, a directory that cannot be read) is
//! never taken for absent: its path and all below it are left out, and said to be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decide::{Content, status_word};
use super::state::{self, Known, Record};
use super::{CONTROL, Workspace};
use crate::cli::context::Cluster;
use crate::cli::local::{FileStat, LocalEntry, LocalKind, Walk};
use crate::cli::merge::{Sorted, is_within, least};
use crate::cli::progress::Tally;
use crate::cli::remote::Listing;
use crate::cli::transfer::hash_file;
use crate::types::api::{Entry, Kind};
use crate::types::{DfsPath, Error, ErrorCode, Result, Sha256};

/// What is at a path on this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Local {
    Directory,
    File(FileStat),
}

/// The three sides of one path.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) path: String,
    pub(crate) base: Option<Known>,
    pub(crate) local: Option<Local>,
    pub(crate) remote: Option<Entry>,
}

/// A row with as many digests as a decision needs.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) base: Option<Known>,
    pub(crate) local: Option<Local>,
    /// Of a local file, if it had to be known.
    pub(crate) local_sha256: Option<Sha256>,
    pub(crate) remote: Option<Entry>,
}

impl Row {
    /// Whether the local file must be read for a decision.
    pub(crate) fn needs_hash(&self) -> bool {
        let Some(Local::File(stat)) = self.local else { return false };
        if self.base.as_ref().is_some_and(|base| base.vouches_for(stat).is_some()) {
            return false;
        }
        let base = self.base.as_ref().is_some_and(|base| base.kind == Kind::File && base.size == stat.size);
        let remote = self.remote.as_ref().is_some_and(|entry| entry.size == Some(stat.size));
        base || remote
    }

    /// Whether any side is a directory.
    pub(crate) fn has_directory(&self) -> bool {
        matches!(self.local, Some(Local::Directory))
            || self.remote.as_ref().is_some_and(|entry| entry.kind == Kind::Directory)
    }

    /// Reads the local file, if need be.
    pub(crate) async fn look(mut self, root: &Path) -> Result<Seen> {
        let mut local_sha256 = None;
        if self.needs_hash() {
            let facts = hash_file(root.join(&self.path)).await?;
            self.local = Some(Local::File(facts.stat));
            local_sha256 = Some(facts.sha256);
        } else if let (Some(Local::File(stat)), Some(base)) = (&self.local, &self.base) {
            local_sha256 = base.vouches_for(*stat);
        }
        let Self { path, base, local, remote } = self;
        Ok(Seen { path, base, local, local_sha256, remote })
    }
}

impl Seen {
    /// Base, local and remote content.
    pub(crate) fn contents(&self) -> [Option<Content>; 3] {
        let base = self.base.as_ref().and_then(|base| match base.kind {
            Kind::Directory => Some(Content::Directory),
            Kind::File => base.sha256.map(Content::File),
        });
        let local = self.local.map(|local| match local {
            Local::Directory => Content::Directory,
            Local::File(_) => self.local_sha256.map_or(Content::NewFile, Content::File),
        });
        let remote = self.remote.as_ref().and_then(|entry| match entry.kind {
            Kind::Directory => Some(Content::Directory),
            Kind::File => entry.sha256.map(Content::File),
        });
        [base, local, remote]
    }

    /// Its state in a word or two; nothing when both sides are the same.
    pub(crate) fn status(&self) -> Option<&'static str> {
        let [base, local, remote] = self.contents();
        status_word(base, local, remote)
    }
}

/// What is compared.
#[derive(Debug, Clone)]
pub(crate) struct What {
    /// Relative to the workspace; empty for all of it.
    pub(crate) scope: String,
    /// Only the scope's own entries, and not the scope itself.
    pub(crate) children_only: bool,
    /// With tickets to read each file.
    pub(crate) locations: bool,
}

impl What {
    /// All within a scope, and the scope itself.
    pub(crate) fn within(scope: &str) -> Self {
        Self { scope: scope.into(), children_only: false, locations: false }
    }
}

/// The joined streams.
pub(crate) struct Rows {
    what: What,
    state: Sorted<Record>,
    local: Sorted<LocalEntry>,
    remote: Sorted<Entry>,
    blocked: Option<String>,
    tally: Arc<Tally>,
}

impl Rows {
    /// Starts to read all three sides.
    pub(crate) async fn open(workspace: &Workspace, cluster: &Cluster, what: What, tally: Arc<Tally>) -> Result<Self> {
        let state = state::read(&workspace.control(), &what.scope)?;
        let local = local_side(workspace, &what, &tally)?;
        let remote = remote_side(workspace, cluster, &what).await?;
        Ok(Self { what, state, local, remote, blocked: None, tally })
    }

    /// The next path that can be compared.
    pub(crate) async fn next(&mut self) -> Result<Option<Row>> {
        loop {
            self.state.fill().await?;
            self.local.fill().await?;
            self.remote.fill().await?;
            let Some([known, here, there]) = least([self.state.path(), self.local.path(), self.remote.path()]) else {
                return Ok(None);
            };
            let (base, local, remote) =
                (self.state.take_if(known), self.local.take_if(here), self.remote.take_if(there));
            let path = match (&base, &local, &remote) {
                (Some(record), ..) => record.path.clone(),
                (_, Some(entry), _) => entry.path.clone(),
                (.., Some(entry)) => entry.path.clone(),
                (None, None, None) => continue,
            };
            if self.blocked.as_ref().is_some_and(|blocked| is_within(&path, blocked)) || self.is_below_children(&path) {
                continue;
            }
            let base = base.and_then(|record| record.is);
            if let Some(row) = self.row(path, base, local.map(|entry| entry.kind), remote) {
                return Ok(Some(row));
            }
        }
    }

    /// The state knows no levels.
    fn is_below_children(&self, path: &str) -> bool {
        let scope = self.what.scope.as_str();
        let below = if scope.is_empty() { Some(path) } else { path.strip_prefix(scope) };
        let below = below.unwrap_or_default().trim_start_matches('/');
        self.what.children_only && (below.is_empty() || below.contains('/'))
    }

    /// A row, unless it is not certain what is there.
    fn row(
        &mut self,
        path: String,
        base: Option<Known>,
        local: Option<LocalKind>,
        remote: Option<Entry>,
    ) -> Option<Row> {
        if is_within(&path, CONTROL) {
            self.tally.skipped(&path, "the name is the workspace's own");
            self.blocked = Some(path);
            return None;
        }
        let local = match local {
            None => None,
            Some(LocalKind::Directory) => Some(Local::Directory),
            Some(LocalKind::File(stat)) => Some(Local::File(stat)),
            Some(LocalKind::Unfit(reason)) => {
                if base.is_some() || remote.is_some() {
                    self.tally.conflict(&path, &format!("{reason} here; it is left as it is"));
                } else {
                    self.tally.skipped(&path, &reason);
                }
                self.blocked = Some(path);
                return None;
            }
            Some(LocalKind::Unreadable(error)) => {
                self.tally.failed(&path, &error);
                self.blocked = Some(path);
                return None;
            }
        };
        Some(Row { path, base, local, remote })
    }
}

fn local_side(workspace: &Workspace, what: &What, tally: &Arc<Tally>) -> Result<Sorted<LocalEntry>> {
    let root = workspace.root.join(&what.scope);
    check_no_link(&workspace.root, &what.scope)?;
    match std::fs::symlink_metadata(&root) {
        Ok(metadata) if what.children_only && !metadata.is_dir() => return Ok(Sorted::empty("the local files")),
        Ok(_) => {}
        Err(error) if crate::cli::local::is_absent(&error) && !what.scope.is_empty() => {
            return Ok(Sorted::empty("the local files"));
        }
        Err(error) => return Err(Error::io(format!("looking at {}", root.display()), error)),
    }
    let walk = Walk {
        root,
        prefix: what.scope.clone(),
        with_root: !what.scope.is_empty() && !what.children_only,
        depth: if what.children_only { 1 } else { usize::MAX },
        leave_out: Some(workspace.control()),
    };
    Ok(walk.start(tally.clone()))
}

/// A path through a symbolic link leads out of the workspace, or to a place that has a path of its own.
fn check_no_link(root: &Path, relative: &str) -> Result<()> {
    let mut path = PathBuf::from(root);
    let mut names: Vec<_> = relative.split('/').collect();
    names.pop();
    for name in names {
        path.push(name);
        if std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            let what = format!("{} is a symbolic link; nothing behind it belongs to the workspace", path.display());
            return Err(Error::invalid(what));
        }
    }
    Ok(())
}

async fn remote_side(workspace: &Workspace, cluster: &Cluster, what: &What) -> Result<Sorted<Entry>> {
    let remote = &workspace.config.remote;
    let path = remote.join_relative(&what.scope)?;
    let first = match cluster.stat(&path).await? {
        None => return Ok(Sorted::empty("the listing")),
        Some(entry) => Entry { path: what.scope.clone(), ..entry },
    };
    if first.kind == Kind::File {
        if what.scope.is_empty() {
            let what = format!("{remote} is a file now; a workspace is a copy of a directory");
            return Err(Error::new(ErrorCode::NotADirectory, what));
        }
        return Ok(if what.children_only { Sorted::empty("the listing") } else { Sorted::once(first, "the listing") });
    }
    let listing = Listing {
        path: DfsPath::clone(&path),
        prefix: what.scope.clone(),
        recursive: !what.children_only,
        locations: what.locations,
        first: (!what.scope.is_empty() && !what.children_only).then_some(first),
    };
    Ok(listing.start(cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(base: Option<Known>, local: Option<Local>, remote_size: Option<u64>) -> Row {
        let now = chrono::Utc::now();
        let remote = remote_size.map(|size| Entry {
            path: "f".into(),
            kind: Kind::File,
            size: Some(size),
            sha256: Some(Sha256::of(b"remote")),
            object: None,
            version: 1,
            created: now,
            modified: now,
            copies_wanted: 2,
            copies: Some(2),
            replicas: Vec::new(),
        });
        Row { path: "f".into(), base, local, remote }
    }

    #[tokio::test]
    async fn a_file_is_read_only_when_its_digest_can_matter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let stat = FileStat::look(&path).unwrap().unwrap();
        let file = Some(Local::File(stat));
        let known = |stat, racy| Some(Known { racy, ..Known::file(1, stat, Sha256::of(b"x")) });
        for (row, hashed, want) in [
            (row(None, file, None), false, Some("new")),
            (row(None, file, Some(9)), false, Some("conflict")),
            (row(None, file, Some(1)), true, Some("conflict")),
            (row(known(stat, false), file, None), false, Some("remote deleted")),
            (row(known(stat, true), file, None), true, Some("remote deleted")),
            (row(known(FileStat { size: 7, ..stat }, false), file, None), false, Some("conflict")),
            (row(known(FileStat { mtime_ns: 7, ..stat }, false), file, Some(5)), true, Some("remote modified")),
        ] {
            assert_eq!(row.needs_hash(), hashed, "{row:?}");
            let seen = row.look(directory.path()).await.unwrap();
            assert_eq!(seen.status(), want, "{seen:?}");
        }
    }

    #[test]
    fn a_scope_behind_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("out")).unwrap();
        assert!(check_no_link(directory.path(), "out/etc").is_err());
        assert!(check_no_link(directory.path(), "out").is_ok(), "the walk itself reports it");
    }
}
