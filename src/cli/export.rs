//! Copying files and trees out of the cluster.
//!
//! The remote tree is compared with what stands on this machine by walking both in the same order. Files whose
//! size and SHA-256 are the same are left alone; others are fetched beside their place, verified, and then
//! renamed. Links in the way are never followed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::ExportArgs;
use super::context::{Cluster, Context};
use super::exit::Exit;
use super::local::{FileStat, LocalEntry, LocalKind, Walk, make_directory};
use super::merge::{Sorted, is_within, least};
use super::parallel::Pool;
use super::progress::{Meter, Tally};
use super::remote::Listing;
use super::transfer::{Expect, FileTarget, StreamTarget, hash_file};
use crate::types::api::{Entry, Kind};
use crate::types::error::IoContext;
use crate::types::{DfsPath, Error, ErrorCode, Result};

/// `holdfast export`.
pub(crate) async fn run(context: &Context, args: &ExportArgs) -> Result<Exit> {
    let from = context.resolve(&args.dfs_path)?;
    let cluster = context.cluster()?;
    if args.host_path == Path::new("-") {
        let mut output = context.output();
        cluster.download_to(&from, &mut StreamTarget::new(&mut output)).await?;
        output.flush()?;
        return Ok(Exit::Done);
    }
    let entry = cluster.names.stat(&from).await?;
    if entry.kind == Kind::Directory {
        return export_tree(context, cluster, from, &args.host_path).await;
    }
    let shown = args.host_path.display();
    let target = match std::fs::metadata(&args.host_path) {
        Ok(metadata) if metadata.is_dir() => args.host_path.join(from.name()),
        Ok(_) => args.host_path.clone(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if args.host_path.as_os_str().to_string_lossy().ends_with('/') {
                return Err(Error::not_found(format!("the directory {shown} does not exist on this machine")));
            }
            args.host_path.clone()
        }
        Err(error) => return Err(Error::io(format!("looking at {shown}"), error)),
    };
    export_file(context, cluster, from, entry, target).await
}

async fn export_file(
    context: &Context,
    cluster: Cluster,
    from: DfsPath,
    entry: Entry,
    target: PathBuf,
) -> Result<Exit> {
    // A link that is named on the command line is followed, as by cp.
    let target = std::fs::canonicalize(&target).unwrap_or(target);
    let tally = context.tally("fetched");
    tally.progress.expect(entry.size.unwrap_or(0));
    tally.progress.expect_no_more();
    let present = FileStat::look(&target)?;
    let fetched = fetch_if_different(&cluster, &from, entry, target, present, &Meter::new(&tally.progress)).await;
    tally.progress.file_over();
    match fetched {
        Ok(Some(bytes)) => tally.transferred(bytes),
        Ok(None) => tally.unchanged(),
        Err(error) => {
            tally.progress.finish();
            return Err(error);
        }
    }
    finish(context, &tally)
}

fn finish(context: &Context, tally: &Tally) -> Result<Exit> {
    let counts = tally.summary("fetched");
    if context.json() {
        let mut output = context.output();
        output.json(&counts)?;
        output.flush()?;
    }
    Ok(tally.exit())
}

/// Fetches a file unless the same bytes are there; how many bytes were fetched, if any.
async fn fetch_if_different(
    cluster: &Cluster,
    from: &DfsPath,
    entry: Entry,
    target: PathBuf,
    present: Option<FileStat>,
    meter: &Arc<Meter>,
) -> Result<Option<u64>> {
    if let Some(present) = present
        && entry.size == Some(present.size)
        // A file that cannot be read may still be replaced.
        && hash_file(target.clone()).await.is_ok_and(|facts| entry.sha256 == Some(facts.sha256))
    {
        return Ok(None);
    }
    let target = FileTarget { path: target, expect: Expect::AnyFile };
    let (entry, _) = cluster.download(from, entry, target, meter).await?;
    Ok(Some(entry.size.unwrap_or(0)))
}

/// The export of one tree.
struct TreeExport {
    cluster: Cluster,
    from: DfsPath,
    host: PathBuf,
    tally: Arc<Tally>,
    pool: Pool,
    /// A path below which nothing can be done.
    blocked: Option<String>,
}

async fn export_tree(context: &Context, cluster: Cluster, from: DfsPath, host: &Path) -> Result<Exit> {
    let shown = host.display();
    let made = std::fs::create_dir_all(host);
    made.io_context(|| format!("making the directory {shown}"))?;
    let host = std::fs::canonicalize(host).io_context(|| format!("looking at {shown}"))?;
    let tally = context.tally("fetched");
    // What lies on this machine and cannot be stored in the cluster matters only where it is in the way.
    let local = Walk::below(&host).start(Tally::new(super::progress::Progress::silent()));
    let remote = Listing::below(&from).with_locations().start(&cluster);
    let pool = Pool::new(context.jobs(), tally.clone());
    let mut export = TreeExport { cluster, from, host, tally: tally.clone(), pool, blocked: None };
    let walked = export.walk(local, remote).await;
    export.pool.drain().await;
    if let Err(error) = walked {
        tally.summary("fetched");
        return Err(error);
    }
    finish(context, &tally)
}

impl TreeExport {
    async fn walk(&mut self, mut local: Sorted<LocalEntry>, mut remote: Sorted<Entry>) -> Result<()> {
        loop {
            remote.fill().await?;
            if remote.path().is_none() {
                self.tally.progress.expect_no_more();
                return Ok(());
            }
            local.fill().await?;
            let Some([here, there]) = least([local.path(), remote.path()]) else { return Ok(()) };
            let present = local.take_if(here);
            if let Some(entry) = remote.take_if(there) {
                self.step(entry, present.map(|present| present.kind)).await?;
            }
        }
    }

    async fn step(&mut self, entry: Entry, present: Option<LocalKind>) -> Result<()> {
        if self.blocked.as_ref().is_some_and(|blocked| is_within(&entry.path, blocked)) {
            return Ok(());
        }
        let target = self.host.join(&entry.path);
        let in_the_way = |what: &str| {
            Error::new(ErrorCode::AlreadyExists, format!("{} is in the way: it is {what}", target.display()))
        };
        match (entry.kind, present) {
            (Kind::Directory, Some(LocalKind::Directory)) => {}
            (Kind::Directory, None) => match make_directory(&target) {
                Ok(_) => self.tally.directory_made(),
                Err(error) => self.block(&entry, &error),
            },
            (Kind::Directory, Some(LocalKind::File(_))) => self.block(&entry, &in_the_way("a file")),
            (Kind::File, Some(LocalKind::Directory)) => self.block(&entry, &in_the_way("a directory")),
            (_, Some(LocalKind::Unfit(what))) => {
                let error = Error::new(ErrorCode::AlreadyExists, format!("{} is in the way: {what}", target.display()));
                self.block(&entry, &error);
            }
            (_, Some(LocalKind::Unreadable(error))) => self.block(&entry, &error),
            (Kind::File, Some(LocalKind::File(stat))) => self.fetch(entry, target, Some(stat)).await?,
            (Kind::File, None) => self.fetch(entry, target, None).await?,
        }
        Ok(())
    }

    /// Reports that a path, and so all below it, cannot be exported.
    fn block(&mut self, entry: &Entry, error: &Error) {
        let error = match entry.kind {
            Kind::Directory => error.clone().context("not exported, with all below it"),
            Kind::File => error.clone(),
        };
        self.tally.failed(&entry.path, &error);
        self.blocked = Some(entry.path.clone());
    }

    async fn fetch(&mut self, entry: Entry, target: PathBuf, present: Option<FileStat>) -> Result<()> {
        let (cluster, tally) = (self.cluster.clone(), self.tally.clone());
        let (relative, size) = (entry.path.clone(), entry.size.unwrap_or(0));
        let from = self.from.join_relative(&relative)?;
        tally.progress.expect(size);
        let task = async move {
            let meter = Meter::new(&tally.progress);
            match fetch_if_different(&cluster, &from, entry, target, present, &meter).await {
                Ok(Some(bytes)) => tally.transferred(bytes),
                Ok(None) => {
                    meter.add(size as usize);
                    tally.unchanged();
                }
                Err(error) => tally.failed(&relative, &error),
            }
            tally.progress.file_over();
        };
        self.pool.run(task).await
    }
}
