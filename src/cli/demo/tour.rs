//! The parts of the tour, one function each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::story::{Story, seconds};
use super::{COPIES, STORAGE_SERVERS, tree};
use crate::cli::args::{ExportArgs, GlobalArgs, ImportArgs};
use crate::cli::commands::restore::restore;
use crate::cli::context::{Cluster, Context};
use crate::cli::exit::Exit;
use crate::cli::output::{human_bytes, human_counted};
use crate::cli::progress::StatusLine;
use crate::cli::up::{LocalCluster, Ready};
use crate::cli::{export, import};
use crate::types::api::{FsckRequest, Health, Report, RestoreRequest, RestoreStatus};
use crate::types::error::IoContext;
use crate::types::{DfsPath, Error, ErrorCode, Result};

/// The storage server that dies.
const VICTIM: &str = "storage-2";
/// Where the tree is in the cluster.
const REMOTE: &str = "/demo";
/// How long the cluster may take for anything that the tour waits for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries of a restore that lacks storage servers: they announce themselves every ten seconds.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What the parts work with.
struct Tour<'t> {
    cluster: &'t mut LocalCluster,
    story: &'t mut Story,
    home: &'t Path,
    context: Context,
    clients: Cluster,
    exports: usize,
}

/// The whole tour; an error says what was lost or did not happen.
pub(super) async fn run(cluster: &mut LocalCluster, story: &mut Story, home: &Path) -> Result<()> {
    story.line(&format!(
        "A tour of Holdfast: a name server and {STORAGE_SERVERS} storage servers on this machine, each a process of its \
         own.\nEvery file has {COPIES} copies. Everything is in {} and goes away at the end.",
        home.display()
    ))?;
    start(cluster, story).await?;
    let args = GlobalArgs { config: Some(cluster.client_config()), quiet: true, ..GlobalArgs::default() };
    let context = Context::new(args, false)?;
    let clients = context.cluster()?;
    let mut tour = Tour { cluster, story, home, context, clients, exports: 0 };
    tour.store().await?;
    let killed = tour.lose_a_server().await?;
    tour.watch_the_repair(killed).await?;
    tour.change_while_it_is_away().await?;
    tour.bring_it_back().await?;
    tour.check_everything().await?;
    tour.lose_the_database().await?;
    tour.restore_it().await?;
    tour.end()
}

async fn start(cluster: &mut LocalCluster, story: &mut Story) -> Result<()> {
    story.chapter("Starting the cluster (as `holdfast up` does)")?;
    let started = Instant::now();
    cluster.start().await?;
    for member in cluster.shown()? {
        story.tell(format!("{:<12} {}  process {}", member.name, member.url, member.pid))?;
    }
    story.tell(format!("It is ready after {}.", seconds(started.elapsed())))
}

/// A path in the cluster.
fn remote(path: &str) -> Result<DfsPath> {
    DfsPath::parse(&format!("{REMOTE}/{path}"))
}

/// Work on files, where it holds up nobody.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let task = tokio::task::spawn_blocking(work);
    task.await.map_err(|error| Error::internal("work on files panicked").with_source(error))?
}

impl Tour<'_> {
    /// The tree as it shall be; it is changed with the cluster.
    fn original(&self) -> PathBuf {
        self.home.join("original")
    }

    /// Waits until something is so; that the cluster does not answer only means that it is not so yet.
    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut(&mut StatusLine) -> Result<Option<T>>) -> Result<T> {
        let (started, mut status) = (Instant::now(), StatusLine::new(self.story.is_quiet()));
        loop {
            match look(&mut status).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) if matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Busy) => {}
                Err(error) => return Err(error),
            }
            if started.elapsed() > PATIENCE {
                return Err(Error::internal(format!("after {} s still not: {what}", PATIENCE.as_secs())));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn report(&self) -> Result<Report> {
        self.clients.names.report().await
    }

    /// Fetches everything into a new directory and compares it with the original.
    async fn compare(&mut self) -> Result<Duration> {
        self.exports += 1;
        let (want, have) = (self.original(), self.home.join(format!("export-{}", self.exports)));
        let started = Instant::now();
        let args = ExportArgs { dfs_path: REMOTE.into(), host_path: have.clone() };
        let exit = export::run(&self.context, &args).await?;
        let took = started.elapsed();
        let differences = on_disk(move || {
            let found = tree::differences(&want, &have)?;
            fs::remove_dir_all(&have).io_context(|| format!("removing {}", have.display()))?;
            Ok(found)
        });
        let differences = differences.await?;
        if exit != Exit::Done || !differences.is_empty() {
            let listed = differences.join("\n   ");
            return Err(Error::internal(format!("what came back is not what was stored:\n   {listed}")));
        }
        Ok(took)
    }

    async fn import(&self, host_path: PathBuf, dfs_path: String) -> Result<()> {
        match import::run(&self.context, &ImportArgs { host_path, dfs_path }).await? {
            Exit::Done => Ok(()),
            _ => Err(Error::internal("not everything could be stored")),
        }
    }

    async fn store(&mut self) -> Result<()> {
        self.story.chapter("Storing a tree (`holdfast import`)")?;
        let root = self.original();
        let size = on_disk(move || tree::make(&root)).await?;
        self.story.tell(format!(
            "{}, {}, {}: names in several scripts, nested directories, empty files, large ones.",
            human_counted(size.files, "file"),
            human_counted(size.directories, "directory"),
            human_bytes(size.bytes)
        ))?;
        let started = Instant::now();
        self.import(self.original(), REMOTE.into()).await?;
        let took = started.elapsed();
        let rate = size.bytes as f64 / took.as_secs_f64().max(0.001);
        self.story.tell(format!(
            "Stored in {}, {} a second: each file was on the disks of {COPIES} servers before it was acknowledged.",
            seconds(took),
            human_bytes(rate as u64)
        ))?;
        let took = self.compare().await?;
        self.story.tell(format!("Fetched again in {} and compared: the same, byte for byte.", seconds(took)))
    }

    /// Answers when it died.
    async fn lose_a_server(&mut self) -> Result<Instant> {
        self.story.chapter("A storage server dies")?;
        let pid = self.cluster.end(VICTIM, true).await?;
        let killed = Instant::now();
        self.story.tell(format!("{VICTIM} (process {pid}) was killed with SIGKILL, as a power cut would."))?;
        let took = self.compare().await?;
        self.story
            .tell(format!("Everything can be read all the same ({}): the other copies are taken.", seconds(took)))?;
        Ok(killed)
    }

    async fn watch_the_repair(&mut self, killed: Instant) -> Result<()> {
        self.story.chapter("The cluster heals itself")?;
        let short = self
            .until("the dead server is noticed", async |_: &mut StatusLine| {
                let report = self.report().await?;
                let short: u64 = report.under_replicated.iter().map(|row| row.objects).sum();
                Ok((report.servers_down == 1).then_some(short))
            })
            .await?;
        self.story.tell(format!(
            "{} after its death it counts as down; on a single copy: {}. (`holdfast report` says: in danger.)",
            seconds(killed.elapsed()),
            human_counted(short, "file")
        ))?;
        self.story.tell("It might only be starting again, so nothing is copied for 3 s (usually 30 s).")?;
        self.until("everything has its copies again", async |status: &mut StatusLine| {
            let report = self.report().await?;
            let left: u64 = report.under_replicated.iter().map(|row| row.objects).sum();
            status.show(&format!("   short of copies: {}", human_counted(left, "file")));
            Ok((left == 0 && report.repair.queued == 0).then_some(()))
        })
        .await?;
        self.story.tell(format!(
            "{} after its death everything has its {COPIES} copies again, on the servers that are left.",
            seconds(killed.elapsed())
        ))
    }

    async fn change_while_it_is_away(&mut self) -> Result<()> {
        self.story.chapter("Life goes on while the server is away")?;
        let (names, original) = (self.clients.names.clone(), self.original());
        names.delete(&remote(tree::DELETED_FILE)?, false, None).await?;
        names.delete(&remote(tree::DELETED_DIRECTORY)?, true, None).await?;
        names.mv(&remote(tree::MOVED_DIRECTORY)?, &remote(tree::MOVED_TO)?).await?;
        on_disk(move || {
            let deleted = original.join(tree::DELETED_FILE);
            fs::remove_file(&deleted).io_context(|| format!("removing {}", deleted.display()))?;
            let deleted = original.join(tree::DELETED_DIRECTORY);
            fs::remove_dir_all(&deleted).io_context(|| format!("removing {}", deleted.display()))?;
            tree::rename(&original.join(tree::MOVED_DIRECTORY), &original.join(tree::MOVED_TO))?;
            tree::overwrite(&original.join(tree::OVERWRITTEN_FILE), 500)
        })
        .await?;
        self.import(self.original().join(tree::OVERWRITTEN_FILE), format!("{REMOTE}/{}", tree::OVERWRITTEN_FILE))
            .await?;
        self.story.tell(format!("Deleted: {} and all of {}.", tree::DELETED_FILE, tree::DELETED_DIRECTORY))?;
        self.story.tell(format!(
            "Moved: {} to {} (one row, however much is in it).",
            tree::MOVED_DIRECTORY,
            tree::MOVED_TO
        ))?;
        self.story.tell(format!("Overwritten: {}.", tree::OVERWRITTEN_FILE))
    }

    async fn bring_it_back(&mut self) -> Result<()> {
        self.story.chapter("The server comes back with its old disk")?;
        let started = Instant::now();
        let (pid, _) = self.cluster.start_again(VICTIM).await?;
        self.story.tell(format!("{VICTIM} runs again (process {pid}), with all that it had when it died."))?;
        self.settle().await?;
        self.story.tell(format!(
            "After {} its inventory is compared: what was deleted meanwhile is deleted there, and copies too many are gone.",
            seconds(started.elapsed())
        ))?;
        for path in [tree::DELETED_FILE, tree::DELETED_DIRECTORY, tree::MOVED_DIRECTORY] {
            if self.clients.stat(&remote(path)?).await?.is_some() {
                return Err(Error::internal(format!("{path} came back from the dead")));
            }
        }
        self.compare().await?;
        self.story.tell("Nothing came back from the dead, and everything else is as it should be.")
    }

    /// Waits until all servers are in order, every object has exactly its copies, and no deletion waits.
    async fn settle(&self) -> Result<()> {
        self.until("the cluster has settled", async |status: &mut StatusLine| {
            let (servers, report) = (self.clients.names.servers().await?.servers, self.report().await?);
            let ready = servers.iter().filter(|server| server.health == Health::Live && !server.syncing).count();
            let copies: u64 = servers.iter().map(|server| server.replicas).sum();
            let wanted = report.objects * u64::from(COPIES);
            let due = human_counted(report.outbox, "deletion");
            status.show(&format!("   {}, {wanted} wanted; {due} due", human_counted(copies, "copy")));
            let settled = ready == usize::from(STORAGE_SERVERS)
                && copies == wanted
                && report.outbox == 0
                && report.repair.queued == 0;
            Ok(settled.then_some(()))
        })
        .await
    }

    async fn check_everything(&mut self) -> Result<()> {
        self.story.chapter("Looking for damage that nobody has noticed (`holdfast fsck`)")?;
        let report = self
            .until("nothing is wrong", async |_: &mut StatusLine| {
                let report = self.clients.names.fsck(&FsckRequest::default(), |_| ()).await?;
                Ok(report.clean.then_some(report))
            })
            .await?;
        self.story.tell(format!(
            "{}, {}, and {} on {} were compared: nothing is wrong.",
            human_counted(report.entries, "name"),
            human_counted(report.objects, "object"),
            human_counted(report.replicas, "copy"),
            human_counted(report.servers_checked, "server")
        ))
    }

    async fn lose_the_database(&mut self) -> Result<()> {
        self.story.chapter("The database is lost")?;
        let original = self.original();
        on_disk(move || {
            tree::overwrite(&original.join(tree::OVERWRITTEN_LARGE), 5 << 20)?;
            tree::copy(&original.join(tree::COPIED_DIRECTORY), &original.join(tree::COPIED_TO))
        })
        .await?;
        self.import(self.original().join(tree::OVERWRITTEN_LARGE), format!("{REMOTE}/{}", tree::OVERWRITTEN_LARGE))
            .await?;
        self.clients.names.cp(&remote(tree::COPIED_DIRECTORY)?, &remote(tree::COPIED_TO)?, true).await?;
        self.story.tell(format!(
            "Just before, {} is overwritten, and {} copied to {}.",
            tree::OVERWRITTEN_LARGE,
            tree::COPIED_DIRECTORY,
            tree::COPIED_TO
        ))?;
        let version = self
            .until("the storage servers have the journal", async |_: &mut StatusLine| {
                let report = self.report().await?;
                Ok((report.journal.copied_version >= report.version).then_some(report.version))
            })
            .await?;
        self.story.tell(format!("The storage servers carry the journal of the metadata, up to change {version}."))?;
        let pid = self.cluster.end("name-server", false).await?;
        let data = self.cluster.data_dir("name-server")?;
        fs::remove_dir_all(&data).io_context(|| format!("removing {}", data.display()))?;
        self.story
            .tell(format!("The name server (process {pid}) was stopped and its database deleted, with all names."))
    }

    async fn restore_it(&mut self) -> Result<()> {
        self.story.chapter("The storage servers bring it back (`holdfast restore`)")?;
        let started = Instant::now();
        let (pid, ready) = self.cluster.start_again("name-server").await?;
        if ready != Ready::WaitsForRestore {
            return Err(Error::internal("the name server did not notice that its database is gone"));
        }
        self.story.tell(format!("The name server runs again (process {pid}); it finds no metadata and waits."))?;
        let status = self.restore().await?;
        self.story.tell(format!(
            "{} and {} are back after {}, from the journal up to change {}.",
            human_counted(status.files, "file"),
            human_counted(status.directories, "directory"),
            seconds(started.elapsed()),
            status.journal_version
        ))?;
        if status.losses_total > 0 {
            let listed = status.losses.join("\n   ");
            return Err(Error::internal(format!("{}:\n   {listed}", human_counted(status.losses_total, "loss"))));
        }
        self.settle().await?;
        let took = self.compare().await?;
        self.story.tell(format!("Everything was fetched in {} and compared: the same, byte for byte.", seconds(took)))
    }

    /// Restores; storage servers that have not announced themselves yet do so within seconds.
    async fn restore(&self) -> Result<RestoreStatus> {
        self.until("the restore is done", async |line: &mut StatusLine| {
            let status = restore(&self.clients.names, &RestoreRequest::default(), line).await?;
            match &status.error {
                _ if status.state == "done" => Ok(Some(status)),
                Some(error) if error.contains("announced") => {
                    line.show("   waiting for the storage servers to announce themselves");
                    tokio::time::sleep(ANNOUNCE_INTERVAL).await;
                    Ok(None)
                }
                error => Err(Error::internal(format!(
                    "the restore failed: {}",
                    error.as_deref().unwrap_or("the name server's log says why")
                ))),
            }
        })
        .await
    }

    fn end(&mut self) -> Result<()> {
        let size = tree::size(&self.original())?;
        let (files, bytes) = (human_counted(size.files, "file"), human_bytes(size.bytes));
        let took = self.story.elapsed().as_secs();
        self.story.line(&format!(
            "\nNothing was lost: {files}, {bytes}, through a dead server and a lost database, in {took} s.\n\
             `holdfast up` starts a cluster of your own."
        ))
    }
}
