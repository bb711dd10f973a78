//! Copying files and trees out of the cluster.
//!
//! The remote tree is compared with what stands on this machine by walking both in the same order. Files whose
//! size and SHA-256 are the same are left alone; others are fetched beside their place, verified, and then
//! renamed. Links in the way are never followed. Names that are ours are not written, whoever stored them, and of
//! two names that the file system takes for one the second is left out, and said.

use std::path::Path;
use std::sync::Arc;

use super::args::ExportArgs;
use super::context::{Cluster, Context};
use super::exit::Exit;
use super::host::own;
use super::host::{
    Expect, FileStat, HostDir, HostPath, LocalEntry, LocalKind, Walk, check_free, folded_error, folded_twin, is_folded,
};
use super::merge::{Sorted, is_within, least};
use super::parallel::Pool;
use super::progress::{Meter, Tally};
use super::remote::Listing;
use super::transfer::{FileTarget, StreamTarget, hash_file};
use crate::types::api::{Entry, Kind};
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
    own::refuse_own(&args.host_path)?;
    let entry = cluster.names.stat(&from).await?;
    if entry.kind == Kind::Directory {
        return export_tree(context, cluster, from, &args.host_path).await;
    }
    let shown = args.host_path.display();
    let target = match std::fs::metadata(&args.host_path) {
        Ok(metadata) if metadata.is_dir() => {
            own::refuse_own(Path::new(from.name()))?;
            HostDir::open(&args.host_path)?.at(from.name())
        }
        Ok(_) => HostPath::named(&args.host_path)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if args.host_path.as_os_str().to_string_lossy().ends_with('/') {
                return Err(Error::not_found(format!("the directory {shown} does not exist on this machine")));
            }
            HostPath::named(&args.host_path)?
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
    target: HostPath,
) -> Result<Exit> {
    let tally = context.tally("fetched");
    tally.progress.expect(entry.size.unwrap_or(0));
    tally.progress.expect_no_more();
    let present = target.look()?.filter(|look| look.is_file()).map(|look| look.stat);
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
    target: HostPath,
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
    // Where nothing was seen nothing is replaced.
    let expect = if present.is_some() { Expect::AnyFile } else { Expect::Absent };
    if expect == Expect::Absent {
        let (above, name) = target.split()?;
        check_free(&above, name)?;
    }
    let target = FileTarget { place: target, expect };
    let (entry, _) = cluster.download(from, entry, target, meter).await?;
    Ok(Some(entry.size.unwrap_or(0)))
}

/// The export of one tree.
struct TreeExport {
    cluster: Cluster,
    from: DfsPath,
    host: HostDir,
    tally: Arc<Tally>,
    pool: Pool,
    /// A path below which nothing can be done.
    blocked: Option<String>,
}

async fn export_tree(context: &Context, cluster: Cluster, from: DfsPath, host: &Path) -> Result<Exit> {
    let host = HostDir::make(host)?;
    own::refuse_data(&host)?;
    let tally = context.tally("fetched");
    // What lies on this machine and cannot be stored in the cluster matters only where it is in the way.
    let local = Walk { sweeps: true, ..Walk::below(&host) };
    let local = local.start(Tally::new(super::progress::Progress::silent()));
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
        if let Some((path, reason)) = never_written(&self.cluster, &self.from, &entry).await? {
            self.tally.skipped(&path, reason);
            self.blocked = Some(path);
            return Ok(());
        }
        let from = match self.from.join_relative(&entry.path) {
            Ok(from) => from,
            Err(error) => {
                self.block(&entry, &error);
                return Ok(());
            }
        };
        let target = self.host.at(entry.path.as_str());
        let in_the_way = |what: &str| {
            let message = format!("{} is in the way: it is {what}", target.shown().display());
            Error::new(ErrorCode::AlreadyExists, message)
        };
        match (entry.kind, present) {
            (Kind::Directory, Some(LocalKind::Directory { .. })) => {}
            (Kind::Directory, None) => match make_directory(&target) {
                Ok(_) => self.tally.directory_made(),
                Err(error) => self.block(&entry, &error),
            },
            (Kind::Directory, Some(LocalKind::File(_))) => self.block(&entry, &in_the_way("a file")),
            (Kind::File, Some(LocalKind::Directory { .. })) => self.block(&entry, &in_the_way("a directory")),
            (_, Some(LocalKind::Unfit(what, _))) => self.block(&entry, &in_the_way(what)),
            (_, Some(LocalKind::Own(reason))) => {
                self.tally.skipped(&entry.path, reason);
                self.blocked = Some(entry.path.clone());
            }
            (_, Some(LocalKind::Unreadable(error))) => self.block(&entry, &error),
            (Kind::File, Some(LocalKind::File(stat))) => self.fetch(entry, from, target, Some(stat)).await?,
            (Kind::File, None) => self.fetch(entry, from, target, None).await?,
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

    async fn fetch(&mut self, entry: Entry, from: DfsPath, target: HostPath, present: Option<FileStat>) -> Result<()> {
        let (cluster, tally) = (self.cluster.clone(), self.tally.clone());
        let (relative, size) = (entry.path.clone(), entry.size.unwrap_or(0));
        tally.progress.expect(size);
        let task = async move {
            let meter = Meter::new(&tally.progress);
            match fetch_if_different(&cluster, &from, entry, target, present, &meter).await {
                Ok(Some(bytes)) => tally.transferred(bytes),
                Ok(None) => {
                    meter.add(size as usize);
                    tally.unchanged();
                }
                Err(error) if is_folded(&error) => tally.skipped(&relative, error.message()),
                Err(error) => tally.failed(&relative, &error),
            }
            tally.progress.file_over();
        };
        self.pool.run(task).await
    }
}

/// Makes a directory that the walk has not met. One that is there all the same, under another name, is another
/// directory of the cluster.
fn make_directory(target: &HostPath) -> Result<()> {
    let (above, name) = target.split()?;
    if !above.make_directory(name)?
        && let Some(twin) = folded_twin(&above, name)?
    {
        return Err(folded_error(&above, name, &twin));
    }
    Ok(())
}

/// Why an entry of the cluster is never written on a host, with the path that this is about.
pub(crate) async fn never_written(
    cluster: &Cluster,
    from: &DfsPath,
    entry: &Entry,
) -> Result<Option<(String, &'static str)>> {
    if let Some((part, own)) = own::own_part(&entry.path) {
        return Ok(Some((part.to_string(), own.reason())));
    }
    if entry.kind == Kind::Directory {
        return Ok(None);
    }
    if own::is_found_configuration(&entry.path) {
        return Ok(Some((entry.path.clone(), own::FOUND_REASON)));
    }
    // Only few names can make their directory the data of a server.
    let (above, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
    let Some(companions) = own::data_companions(name) else { return Ok(None) };
    for companion in companions.iter().filter(|companion| **companion != name) {
        let path = from.join_relative(above).and_then(|above| above.join(companion));
        match path {
            Ok(path) if cluster.stat(&path).await?.is_some_and(|entry| entry.kind == Kind::File) => {}
            _ => return Ok(None),
        }
    }
    // Of the listed directory itself only the file is left out: the rest was asked for.
    let part = if above.is_empty() { entry.path.clone() } else { above.to_string() };
    Ok(Some((part, own::DATA_REASON)))
}
