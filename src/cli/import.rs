//! Copying files and trees into the cluster.
//!
//! A tree is compared with what is there by walking both in the same order; only what is missing or differs
//! (by size, then by SHA-256) is sent. Nothing is remembered between runs, so an interrupted import is
//! finished by repeating it. Directories are made while the walk goes on: with missing parents, so their order
//! does not matter, and each file waits for its own.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use super::args::ImportArgs;
use super::commands::no_directory;
use super::context::{Cluster, Context};
use super::exit::Exit;
use super::host::own;
use super::host::{FileStat, HostDir, HostPath, LocalEntry, LocalKind, Walk};
use super::merge::{Sorted, is_within, least};
use super::parallel::Pool;
use super::progress::{Meter, Tally};
use super::remote::Listing;
use super::transfer::{Source, Uploaded, hash_file};
use crate::types::api::{Condition, Entry, Kind};
use crate::types::{DfsPath, Error, ErrorCode, Result};

/// `holdfast import`.
pub(crate) async fn run(context: &Context, args: &ImportArgs) -> Result<Exit> {
    let to = context.resolve(&args.dfs_path)?;
    own::refuse_own(Path::new(to.as_str()))?;
    let cluster = context.cluster()?;
    if args.host_path == Path::new("-") {
        if args.dfs_path.ends_with('/') {
            let message = format!(
                "standard input has no name: give the file's own path, for instance {}/file",
                to.as_str().trim_end_matches('/')
            );
            return Err(Error::invalid(message));
        }
        return import_stdin(context, cluster, to).await;
    }
    own::refuse_own(&args.host_path)?;
    if let Ok(real) = std::fs::canonicalize(&args.host_path) {
        own::refuse_own(&real)?;
    }
    let shown = args.host_path.display();
    let metadata = std::fs::metadata(&args.host_path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("{shown} does not exist on this machine")),
        _ => Error::io(format!("looking at {shown}"), error),
    })?;
    if metadata.is_dir() {
        return import_tree(context, cluster, HostDir::open(&args.host_path)?, to).await;
    }
    // A link that is named on the command line is followed, as by cp.
    let host = HostPath::named(&args.host_path)?;
    let stat = match host.look()? {
        Some(look) if look.is_file() => look.stat,
        _ => return Err(Error::invalid(format!("{shown} is neither a file nor a directory"))),
    };
    let name = args.host_path.file_name().unwrap_or(host.name()?);
    let to = match cluster.stat(&to).await? {
        Some(entry) if entry.kind == Kind::Directory => inside(&to, name)?,
        None if args.dfs_path.ends_with('/') => {
            return Err(no_directory(&to));
        }
        Some(_) if args.dfs_path.ends_with('/') => {
            return Err(Error::new(ErrorCode::NotADirectory, format!("{to} is not a directory")));
        }
        _ => to,
    };
    import_file(context, cluster, host, stat, to).await
}

/// The path of a host file inside a remote directory.
fn inside(directory: &DfsPath, name: &std::ffi::OsStr) -> Result<DfsPath> {
    match name.to_str() {
        Some(name) => directory.join(name),
        None => Err(Error::invalid(format!("the name {} is not UTF-8", name.to_string_lossy()))),
    }
}

async fn import_stdin(context: &Context, cluster: Cluster, to: DfsPath) -> Result<Exit> {
    let tally = context.tally("sent");
    let meter = Meter::new(&tally.progress);
    tally.progress.expect(0);
    let uploaded = cluster.upload(&mut Source::stdin(), &to, Condition::Any, &meter).await;
    finish_file(context, &tally, uploaded.map(Some))
}

async fn import_file(context: &Context, cluster: Cluster, host: HostPath, stat: FileStat, to: DfsPath) -> Result<Exit> {
    let tally = context.tally("sent");
    tally.progress.expect(stat.size);
    tally.progress.expect_no_more();
    let theirs = cluster.stat(&to).await?;
    let sent = send_if_different(&cluster, host, stat, &to, theirs, &Meter::new(&tally.progress)).await;
    finish_file(context, &tally, sent)
}

/// Says what became of a single file; its failure is the command's own.
fn finish_file(context: &Context, tally: &Tally, sent: Result<Option<Uploaded>>) -> Result<Exit> {
    tally.progress.file_over();
    match sent {
        Ok(Some(uploaded)) => tally.sent(uploaded.facts.stat.size, uploaded.copies_wanted),
        Ok(None) => tally.unchanged(),
        Err(error) => {
            tally.progress.finish();
            return Err(error);
        }
    }
    finish(context, tally)
}

fn finish(context: &Context, tally: &Tally) -> Result<Exit> {
    let counts = tally.summary("sent");
    if context.json() {
        let mut output = context.output();
        output.json(&counts)?;
        output.flush()?;
    }
    Ok(tally.exit())
}

/// Sends a file unless the same bytes are there. Of a file that is listed and whose copies are all lost nothing is there.
async fn send_if_different(
    cluster: &Cluster,
    host: HostPath,
    stat: FileStat,
    to: &DfsPath,
    theirs: Option<Entry>,
    meter: &Arc<Meter>,
) -> Result<Option<Uploaded>> {
    if let Some(entry) = theirs
        && entry.size == Some(stat.size)
        && entry.sha256 == Some(hash_file(host.clone()).await?.sha256)
        && !cluster.is_lost(to, &entry).await?
    {
        return Ok(None);
    }
    cluster.upload(&mut Source::File(host), to, Condition::Any, meter).await.map(Some)
}

/// Resolves when a directory is there.
type Ready = Shared<BoxFuture<'static, Result<()>>>;

/// The import of one tree.
struct TreeImport {
    cluster: Cluster,
    host: HostDir,
    to: DfsPath,
    tally: Arc<Tally>,
    pool: Pool,
    /// The directories that the walk is in, outermost first.
    open: Vec<(String, Ready)>,
    /// A path below which nothing can be done.
    blocked: Option<String>,
}

async fn import_tree(context: &Context, cluster: Cluster, host: HostDir, to: DfsPath) -> Result<Exit> {
    own::refuse_data(&host)?;
    let remote = match cluster.stat(&to).await? {
        Some(entry) if entry.kind == Kind::File => {
            let what = format!("{to} is a file; a directory cannot be imported over it");
            return Err(Error::new(ErrorCode::NotADirectory, what));
        }
        Some(_) => Listing::below(&to).start(&cluster),
        None => {
            cluster.names.mkdir(&to, true).await?;
            Sorted::empty("the listing")
        }
    };
    let tally = context.tally("sent");
    let local = Walk::below(&host).start(tally.clone());
    let pool = Pool::new(context.jobs(), tally.clone());
    let mut import = TreeImport { cluster, host, to, tally: tally.clone(), pool, open: Vec::new(), blocked: None };
    let walked = import.walk(local, remote).await;
    import.pool.drain().await;
    if let Err(error) = walked {
        tally.summary("sent");
        return Err(error);
    }
    finish(context, &tally)
}

impl TreeImport {
    async fn walk(&mut self, mut local: Sorted<LocalEntry>, mut remote: Sorted<Entry>) -> Result<()> {
        loop {
            local.fill().await?;
            if local.path().is_none() {
                self.tally.progress.expect_no_more();
                return Ok(());
            }
            remote.fill().await?;
            let Some([here, there]) = least([local.path(), remote.path()]) else { return Ok(()) };
            let theirs = remote.take_if(there);
            if let Some(ours) = local.take_if(here) {
                self.step(ours, theirs).await?;
            }
        }
    }

    async fn step(&mut self, ours: LocalEntry, theirs: Option<Entry>) -> Result<()> {
        if self.blocked.as_ref().is_some_and(|blocked| is_within(&ours.path, blocked)) {
            return Ok(());
        }
        let path = match self.to.join_relative(&ours.path) {
            Ok(path) => path,
            Err(error) => {
                self.block(&ours, &error);
                return Ok(());
            }
        };
        while self.open.last().is_some_and(|(directory, _)| !is_within(&ours.path, directory)) {
            self.open.pop();
        }
        let in_the_way = |what: &str| Error::new(ErrorCode::AlreadyExists, format!("a {what} of that name is there"));
        match (&ours.kind, theirs.as_ref().map(|entry| entry.kind)) {
            (LocalKind::Directory { .. }, Some(Kind::Directory)) => {}
            (LocalKind::Directory { .. }, Some(Kind::File)) => self.block(&ours, &in_the_way("file")),
            (LocalKind::Directory { .. }, None) => self.make_directory(ours.path, path).await?,
            (LocalKind::File(_), Some(Kind::Directory)) => self.block(&ours, &in_the_way("directory")),
            (LocalKind::File(stat), _) => self.send(*stat, ours.path, path, theirs).await?,
            (LocalKind::Unfit(what, _), _) => self.tally.skipped(&ours.path, &format!("it is {what}")),
            (LocalKind::Own(reason), _) => self.tally.skipped(&ours.path, reason),
            (LocalKind::Unreadable(error), _) => {
                let error = error.clone();
                self.block(&ours, &error);
            }
        }
        Ok(())
    }

    /// Reports that a path, and so all below it, cannot be imported.
    fn block(&mut self, ours: &LocalEntry, error: &Error) {
        let error = match ours.kind {
            LocalKind::Directory { .. } => error.clone().context("not imported, with all below it"),
            _ => error.clone(),
        };
        self.tally.failed(&ours.path, &error);
        self.blocked = Some(ours.path.clone());
    }

    async fn make_directory(&mut self, relative: String, path: DfsPath) -> Result<()> {
        let names = self.cluster.names.clone();
        let made = async move { names.mkdir(&path, true).await.map(|_| ()) };
        let ready = made.boxed().shared();
        self.open.push((relative.clone(), ready.clone()));
        let tally = self.tally.clone();
        let task = async move {
            match ready.await {
                Ok(()) => tally.directory_made(),
                Err(error) => tally.failed(&relative, &error),
            }
        };
        self.pool.run(task).await
    }

    async fn send(&mut self, stat: FileStat, relative: String, to: DfsPath, theirs: Option<Entry>) -> Result<()> {
        let (cluster, tally) = (self.cluster.clone(), self.tally.clone());
        let ready = self.open.last().map(|(_, ready)| ready.clone());
        let host = self.host.at(relative.as_str());
        tally.progress.expect(stat.size);
        let task = async move {
            let meter = Meter::new(&tally.progress);
            let sent = async {
                if let Some(ready) = ready {
                    ready.await.map_err(|error| error.context("its directory could not be made"))?;
                }
                send_if_different(&cluster, host, stat, &to, theirs, &meter).await
            };
            match sent.await {
                Ok(Some(uploaded)) => tally.sent(uploaded.facts.stat.size, uploaded.copies_wanted),
                Ok(None) => {
                    meter.add(stat.size as usize);
                    tally.unchanged();
                }
                Err(error) => tally.failed(&relative, &error),
            }
            tally.progress.file_over();
        };
        self.pool.run(task).await
    }
}
