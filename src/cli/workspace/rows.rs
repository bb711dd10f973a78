//! The three sides of a workspace, joined path by path.
//!
//! A side about which nothing certain is known (a directory that cannot be read) is never taken for absent: its path
//! and all below it are left out, and said to be. A link or another thing that cannot be stored, in the place of what
//! can, is a conflict. Names that are ours are left out on each side.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::decide::{Content, status_word};
use super::place::Workspace;
use super::state::{self, Known, Record};
use crate::cli::context::Cluster;
use crate::cli::export::never_written;
use crate::cli::host::own::{self, folded};
use crate::cli::host::{Expected, FileStat, HostDir, LocalEntry, LocalKind, Walk};
use crate::cli::merge::{Sorted, is_within, least};
use crate::cli::progress::Tally;
use crate::cli::remote::Listing;
use crate::cli::transfer::{Facts, hash_file};
use crate::types::api::{Entry, Kind};
use crate::types::error::IoContext;
use crate::types::{DfsPath, Error, ErrorCode, Result, Sha256};

/// What is at a path on this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Local {
    Directory,
    File(FileStat),
    /// It cannot be stored; the text says what it is.
    Unfit(&'static str, FileStat),
}

/// The three sides of one path.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) path: String,
    pub(crate) base: Option<Known>,
    pub(crate) local: Option<Local>,
    pub(crate) remote: Option<Entry>,
    /// The file system here takes this name for another one of the cluster.
    pub(crate) has_twin: bool,
    /// Its file is to be read whatever is known of it.
    checksum: bool,
}

/// A row with as many digests as a decision needs.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) base: Option<Known>,
    pub(crate) local: Option<Local>,
    /// Of a local file, if it had to be known.
    pub(crate) local_sha256: Option<Sha256>,
    /// The local file was read just now.
    pub(crate) read: Option<Facts>,
    pub(crate) remote: Option<Entry>,
    pub(crate) has_twin: bool,
}

impl Row {
    /// Whether the local file must be read for a decision.
    pub(crate) fn needs_hash(&self) -> bool {
        let Some(Local::File(stat)) = self.local else { return false };
        if self.checksum {
            return true;
        }
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
    pub(crate) async fn look(mut self, root: &HostDir) -> Result<Seen> {
        let (mut local_sha256, mut read) = (None, None);
        if self.needs_hash() {
            let facts = hash_file(root.at(self.path.as_str())).await?;
            self.local = Some(Local::File(facts.stat));
            local_sha256 = Some(facts.sha256);
            read = Some(facts);
        } else if let (Some(Local::File(stat)), Some(base)) = (&self.local, &self.base) {
            local_sha256 = base.vouches_for(*stat);
        }
        let Self { path, base, local, remote, has_twin, .. } = self;
        Ok(Seen { path, base, local, local_sha256, read, remote, has_twin })
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
            Local::Unfit(..) => Content::Unfit,
        });
        let remote = self.remote.as_ref().and_then(|entry| match entry.kind {
            Kind::Directory => Some(Content::Directory),
            Kind::File => entry.sha256.map(Content::File),
        });
        [base, local, remote]
    }

    /// Whether the cluster has lost the bytes of a file that is here: then a push sends it, whatever it was before.
    pub(crate) async fn is_lost(&self, cluster: &Cluster, below: &DfsPath) -> Result<bool> {
        match (&self.local, &self.remote) {
            (Some(Local::File(_)), Some(entry)) => cluster.is_lost(&below.join_relative(&self.path)?, entry).await,
            _ => Ok(false),
        }
    }

    /// What is here and may be replaced or removed, exactly as it was seen.
    pub(crate) fn expected(&self) -> Option<Expected> {
        match (self.local?, &self.read) {
            (_, Some(facts)) => Some(facts.expected()),
            (Local::File(stat) | Local::Unfit(_, stat), None) => Some(Expected { stat, unsettled: None }),
            (Local::Directory, None) => None,
        }
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
    /// Every local file is read.
    pub(crate) checksum: bool,
    /// What the cluster has behind a thing that cannot be stored comes too.
    pub(crate) through_unfit: bool,
    /// Leftovers of killed runs are removed.
    pub(crate) sweeps: bool,
}

impl What {
    /// All within a scope, and the scope itself.
    pub(crate) fn within(scope: &str) -> Self {
        Self {
            scope: scope.into(),
            children_only: false,
            locations: false,
            checksum: false,
            through_unfit: false,
            sweeps: false,
        }
    }
}

/// A directory here that folds names, with those of the cluster that it cannot tell from another one.
struct Folding {
    path: String,
    twins: HashSet<String>,
}

/// The joined streams.
pub(crate) struct Rows {
    what: What,
    cluster: Cluster,
    dir: HostDir,
    remote_root: DfsPath,
    state: Sorted<Record>,
    local: Sorted<LocalEntry>,
    remote: Sorted<Entry>,
    blocked: Option<String>,
    folding: Vec<Folding>,
    /// Something came that the scope is about.
    met: bool,
    tally: Arc<Tally>,
}

impl Rows {
    /// Starts to read all three sides.
    pub(crate) async fn open(workspace: &Workspace, cluster: &Cluster, what: What, tally: Arc<Tally>) -> Result<Self> {
        let state = state::read(&workspace.control(), &what.scope)?;
        let local = local_side(workspace, &what, &tally)?;
        let remote = remote_side(workspace, cluster, &what).await?;
        let (cluster, remote_root) = (cluster.clone(), workspace.config.remote.clone());
        Ok(Self {
            what,
            cluster,
            dir: workspace.dir.clone(),
            remote_root,
            state,
            local,
            remote,
            blocked: None,
            folding: Vec::new(),
            met: false,
            tally,
        })
    }

    /// Whether anything was met that the scope is about, on any side.
    pub(crate) fn met_something(&self) -> bool {
        self.met
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
            let kind = local.map(|entry| entry.kind);
            if path.is_empty() {
                self.enter(&path, kind.as_ref()).await?;
                continue;
            }
            self.met = true;
            if let Some((part, reason)) = self.never_travels(&path, kind.as_ref(), remote.as_ref()).await? {
                self.tally.skipped(&part, reason);
                self.blocked = Some(part);
                continue;
            }
            if let Err(error) = self.remote_root.join_relative(&path) {
                self.tally.failed(&path, &error.context("left as it is, with all below it"));
                self.blocked = Some(path);
                continue;
            }
            self.folding.retain(|folding| is_within(&path, &folding.path));
            self.enter(&path, kind.as_ref()).await?;
            if let Some(row) = self.row(path, base.and_then(|record| record.is), kind, remote) {
                return Ok(Some(row));
            }
        }
    }

    /// The state knows no levels.
    fn is_below_children(&self, path: &str) -> bool {
        let scope = self.what.scope.as_str();
        let below = if scope.is_empty() { Some(path) } else { path.strip_prefix(scope) };
        let below = below.unwrap_or_default().trim_start_matches('/');
        self.what.children_only && !path.is_empty() && (below.is_empty() || below.contains('/'))
    }

    /// What is ours, here or there, and the part of the path that this is about.
    async fn never_travels(
        &self,
        path: &str,
        local: Option<&LocalKind>,
        remote: Option<&Entry>,
    ) -> Result<Option<(String, &'static str)>> {
        if let Some(LocalKind::Own(reason)) = local {
            return Ok(Some((path.into(), reason)));
        }
        if let Some((part, own)) = own::own_part(path) {
            return Ok(Some((part.into(), own.reason())));
        }
        match remote {
            Some(entry) => never_written(&self.cluster, &self.remote_root, entry).await,
            None => Ok(None),
        }
    }

    /// Finds out which names of the cluster a directory here cannot tell apart.
    async fn enter(&mut self, path: &str, local: Option<&LocalKind>) -> Result<()> {
        if !matches!(local, Some(LocalKind::Directory { folds: true })) {
            return Ok(());
        }
        // One whose path is too long for the cluster is named when its row comes.
        let Ok(directory) = self.remote_root.join_relative(path) else { return Ok(()) };
        if self.cluster.stat(&directory).await?.is_none_or(|entry| entry.kind != Kind::Directory) {
            return Ok(());
        }
        let mut alike: HashMap<String, Vec<String>> = HashMap::new();
        let mut listing = Listing::of(&directory).start(&self.cluster);
        while let Some(entry) = listing.next().await? {
            alike.entry(folded(&entry.path)).or_default().push(entry.path);
        }
        alike.retain(|_, names| names.len() > 1);
        if alike.is_empty() {
            return Ok(());
        }
        // Those are alike for some file system; here they are one when a name leads somewhere that is not listed.
        let dir = self.dir.at(path).dir()?;
        let listed = dir.names().map_err(std::io::Error::from);
        let listed: HashSet<_> =
            listed.io_context(|| format!("reading {}", dir.shown().display()))?.into_iter().collect();
        let mut twins = HashSet::new();
        for names in alike.into_values() {
            let hidden = |name: &String| {
                !listed.contains(OsStr::new(name)) && dir.look(name.as_ref()).is_ok_and(|look| look.is_some())
            };
            if names.iter().any(hidden) {
                twins.extend(names);
            }
        }
        self.folding.push(Folding { path: path.into(), twins });
        Ok(())
    }

    /// Whether a path, or a directory above it, has a name that the file system here takes for another one's.
    fn has_twin(&self, path: &str) -> bool {
        self.folding.iter().any(|folding| {
            let below = path.strip_prefix(folding.path.as_str()).unwrap_or_default().trim_start_matches('/');
            folding.twins.contains(below.split('/').next().unwrap_or_default())
        })
    }

    /// A row, unless it is not certain what is there.
    fn row(
        &mut self,
        path: String,
        base: Option<Known>,
        local: Option<LocalKind>,
        remote: Option<Entry>,
    ) -> Option<Row> {
        let local = match local {
            None => None,
            Some(LocalKind::Directory { .. }) => Some(Local::Directory),
            Some(LocalKind::File(stat)) => Some(Local::File(stat)),
            Some(LocalKind::Unfit(what, stat)) => {
                if base.is_none() && remote.is_none() {
                    self.tally.skipped(&path, &format!("it is {what}"));
                    self.blocked = Some(path);
                    return None;
                }
                if !self.what.through_unfit {
                    self.blocked = Some(path.clone());
                    // What stands at the path itself is told; what is behind it is not known.
                }
                Some(Local::Unfit(what, stat))
            }
            // Told before.
            Some(LocalKind::Own(_)) => return None,
            Some(LocalKind::Unreadable(error)) => {
                self.tally.failed(&path, &error);
                self.blocked = Some(path);
                return None;
            }
        };
        let has_twin = self.has_twin(&path);
        Some(Row { path, base, local, remote, has_twin, checksum: self.what.checksum })
    }
}

fn local_side(workspace: &Workspace, what: &What, tally: &Arc<Tally>) -> Result<Sorted<LocalEntry>> {
    let place = workspace.dir.at(what.scope.as_str());
    check_no_link(&workspace.dir, &what.scope)?;
    match place.look()? {
        Some(look) if what.children_only && !look.is_directory() => return Ok(Sorted::empty("the local files")),
        Some(_) => {}
        None => return Ok(Sorted::empty("the local files")),
    }
    let walk = Walk {
        scope: what.scope.clone(),
        with_scope: !what.scope.is_empty() && !what.children_only,
        depth: if what.children_only { 1 } else { usize::MAX },
        is_workspace: true,
        sweeps: what.sweeps,
        finds_folding: !what.children_only,
        ..Walk::below(&workspace.dir)
    };
    Ok(walk.start(tally.clone()))
}

/// A path through a symbolic link leads out of the workspace, or to a place that has a path of its own.
fn check_no_link(root: &HostDir, relative: &str) -> Result<()> {
    let Some((above, _)) = relative.rsplit_once('/') else { return Ok(()) };
    let mut at = root.clone();
    for name in above.split('/') {
        match at.look(name.as_ref())? {
            Some(look) if look.is_directory() => at = at.dir(Path::new(name))?,
            Some(look) if !look.is_file() => {
                let shown = at.shown().join(name);
                let what =
                    format!("{} is {}; nothing behind it belongs to the workspace", shown.display(), look.what());
                return Err(Error::invalid(what));
            }
            // The rest is there in the cluster only, if anywhere.
            _ => return Ok(()),
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
        Row { path: "f".into(), base, local, remote, has_twin: false, checksum: false }
    }

    #[tokio::test]
    async fn a_file_is_read_only_when_its_digest_can_matter() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostDir::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("f"), "x").unwrap();
        let stat = root.look("f".as_ref()).unwrap().unwrap().stat;
        let file = Some(Local::File(stat));
        let known = |stat, settled| Some(Known::read(1, &Facts { stat, settled, sha256: Sha256::of(b"x") }));
        for (row, hashed, want) in [
            (row(None, file, None), false, Some("new")),
            (row(None, file, Some(9)), false, Some("conflict")),
            (row(None, file, Some(1)), true, Some("conflict")),
            (row(known(stat, true), file, None), false, Some("remote deleted")),
            (row(known(stat, false), file, None), true, Some("remote deleted")),
            (row(known(FileStat { size: 7, ..stat }, true), file, None), false, Some("conflict")),
            (row(known(FileStat { mtime_ns: 7, ..stat }, true), file, Some(5)), true, Some("remote modified")),
            (row(known(FileStat { ctime_ns: 7, ..stat }, true), file, Some(5)), true, Some("remote modified")),
            (row(known(FileStat { inode: 7, ..stat }, true), file, Some(5)), true, Some("remote modified")),
            (Row { checksum: true, ..row(known(stat, true), file, None) }, true, Some("remote deleted")),
        ] {
            assert_eq!(row.needs_hash(), hashed, "{row:?}");
            let seen = row.look(&root).await.unwrap();
            assert_eq!(seen.status(), want, "{seen:?}");
            // The file is too young: a change could go unseen.
            assert_eq!(seen.expected().unwrap().unsettled.is_some(), hashed, "{seen:?}");
        }
    }

    #[test]
    fn a_scope_behind_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("out")).unwrap();
        let root = HostDir::open(directory.path()).unwrap();
        assert!(check_no_link(&root, "out/etc").is_err());
        assert!(check_no_link(&root, "out").is_ok(), "the walk itself reports it");
        assert!(check_no_link(&root, "gone/x/y").is_ok());
    }
}
