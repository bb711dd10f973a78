//! One cluster with so many files: filled, started, and watched while it is asked for things, loses a server's files, and
//! loses its database.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast::client::{Credentials, HttpClient, NameServerClient};
use holdfast::types::api::{FsckRequest, Health, RestoreRequest, ServerInfo};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::common::cluster::{Cluster, Plan};
use crate::common::postgres::Postgres;
use crate::common::wait_for;
use crate::figures::{EmptyReturn, Restored, Run, round};
use crate::fill::{Filled, Shelf, counts_are_true, empty_index, fill};
use crate::measure;

/// Storage servers.
const SERVERS: usize = 3;
/// Anything that is waited for ends before this.
const LIMIT: Duration = Duration::from_secs(3_000);

/// Where the metadata is.
enum Store {
    Sqlite,
    /// A server of its own, which flushes as in production.
    Postgres(Postgres, String),
}

pub struct Study {
    pub cluster: Cluster,
    pub client: NameServerClient,
    pub runtime: Runtime,
    pub filled: Filled,
    store: Store,
    journal_copies: usize,
}

impl Study {
    /// A cluster that runs and has so many files; the costs of getting there. The journal has so many copies.
    pub fn begin(database: &str, files: usize, journal_copies: usize) -> (Self, Run) {
        let store = match database {
            "postgres" => {
                let server = Postgres::start(true);
                let url = server.database();
                Store::Postgres(server, url)
            }
            _ => Store::Sqlite,
        };
        let url = match &store {
            Store::Postgres(_, url) => Some(url.clone()),
            Store::Sqlite => None,
        };
        let name_server_args = ["--journal-copies".to_string(), journal_copies.to_string()].to_vec();
        let plan = Plan { storage_servers: SERVERS, database: url, name_server_args, ..Plan::default() };
        let mut cluster = Cluster::start(&plan);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let client = client(&cluster);
        wait_for("the storage servers take files", 60, || {
            let servers = runtime.block_on(client.servers()).ok()?.servers;
            (servers.len() == SERVERS && servers.iter().all(|server| !server.syncing)).then_some(())
        });
        let servers = runtime.block_on(client.servers()).unwrap().servers;
        // Not killed: whoever comes next would wait until its lease ends.
        cluster.name_server.signal(Signal::TERM);
        wait_for("the name server has ended", 60, || cluster.name_server.ended());
        cluster.kill_all();
        let shelves: Vec<Shelf> = (0..SERVERS).map(|number| shelf(&cluster, &servers, number)).collect();
        let database_url = match &store {
            Store::Postgres(_, url) => url.clone(),
            Store::Sqlite => format!("sqlite://{}", cluster.path("metadata.sqlite").display()),
        };
        let filled = runtime.block_on(fill(&database_url, &shelves, files, 1));
        let mut run = Run { database: database.into(), files, directories: filled.directories, ..Run::default() };
        run.fill_seconds = round(filled.took.as_secs_f64());
        say(&run, &format!("filled in {:.0?}", filled.took));
        let mut study = Self { client, cluster, runtime, filled, store, journal_copies };
        study.start(&mut run);
        (study, run)
    }

    pub fn database_url(&self) -> String {
        match &self.store {
            Store::Postgres(_, url) => url.clone(),
            Store::Sqlite => format!("sqlite://{}", self.cluster.path("metadata.sqlite").display()),
        }
    }

    fn start(&mut self, run: &mut Run) {
        let began = Instant::now();
        self.cluster.name_server.start();
        self.client = client(&self.cluster);
        self.until("the name server serves", || {
            let status = self.runtime.block_on(self.client.status()).ok()?;
            (status.mode == "normal").then_some(())
        });
        run.start_seconds = round(began.elapsed().as_secs_f64());
        let began = Instant::now();
        self.cluster.storage.iter_mut().for_each(|server| server.start());
        let (mut compared, mut copied) = (None::<Duration>, None::<Duration>);
        self.until("everything is compared and copied", || {
            let servers = self.runtime.block_on(self.client.servers()).ok()?.servers;
            let live = |server: &ServerInfo| server.health == Health::Live && !server.syncing;
            if servers.iter().all(live) {
                compared.get_or_insert_with(|| began.elapsed());
            }
            let report = self.runtime.block_on(self.client.report()).ok()?;
            if report.journal.copied_version == report.version && self.holders_have_snapshots() {
                copied.get_or_insert_with(|| began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(300));
            compared.zip(copied).map(drop)
        });
        let seconds = |elapsed: Option<Duration>| round(elapsed.unwrap_or_default().as_secs_f64());
        (run.compare_seconds, run.snapshot_seconds) = (seconds(compared), seconds(copied));
        say(
            run,
            &format!("compared after {} s, the journal copied after {} s", run.compare_seconds, run.snapshot_seconds),
        );
    }

    /// Whether as many storage servers as keep the journal have a snapshot: what the fill has left out of the journal is in it.
    fn holders_have_snapshots(&self) -> bool {
        let has_one = |number: usize| {
            let names = fs::read_dir(self.cluster.storage_dir(number).join("journal"));
            let mut names = names.into_iter().flatten().flatten().map(|entry| entry.file_name());
            names.any(|name| name.to_string_lossy().starts_with("snapshot-"))
        };
        (0..SERVERS).filter(|number| has_one(*number)).count() >= self.journal_copies
    }

    /// What requests and passes cost, and those of a smaller cluster that is asked in turns with this one.
    pub fn costs(&mut self, base: Option<&Self>, run: &mut Run) {
        run.load.0 = load();
        let mut all = self.runtime.block_on(async {
            let mut asked = vec![measure::Asked::new(&self.cluster, &self.client, &self.filled).await];
            if let Some(base) = base {
                asked.push(measure::Asked::new(&base.cluster, &base.client, &base.filled).await);
            }
            measure::costs(&mut asked).await
        });
        run.costs = all.remove(0);
        run.base_costs = all.pop().unwrap_or_default();
        run.load.1 = load();
        run.memory_mib = self.cluster.name_server.peak_memory_mib();
        say(run, &format!("{:#?}, {} MiB", run.costs, run.memory_mib));
    }

    /// The check of everything finds nothing.
    pub fn fsck(&mut self, run: &mut Run) {
        let began = Instant::now();
        self.runtime.block_on(self.client.fsck_start(&FsckRequest { repair: false })).unwrap();
        let status = self.until("fsck is through", || {
            let status = self.runtime.block_on(self.client.fsck_status()).ok()?;
            std::thread::sleep(Duration::from_millis(300));
            (status.state != "running").then_some(status)
        });
        assert_eq!(status.state, "done", "{status:?}");
        assert_eq!(status.report["findings_total"], 0, "{:#}", status.report);
        run.fsck_seconds = Some(round(began.elapsed().as_secs_f64()));
        say(run, &format!("fsck found nothing in {:.1?}", began.elapsed()));
    }

    /// A storage server comes back with its identity and nothing else. Afterwards the cluster is repairing.
    pub fn empty_return(&mut self, run: &mut Run) {
        let server = SERVERS - 1;
        self.until("everything is compared", || {
            std::thread::sleep(Duration::from_millis(300));
            let servers = self.runtime.block_on(self.client.servers()).ok()?.servers;
            servers.iter().all(|server| server.health == Health::Live && !server.syncing).then_some(())
        });
        let copies = self.info(server).replicas;
        self.cluster.storage[server].kill();
        empty_index(&self.cluster.storage_dir(server).join("index.sqlite"));
        let began = Instant::now();
        self.cluster.storage[server].start();
        let mut seen = None;
        self.until("its loss is compared", || {
            let info = self.runtime.block_on(self.client.servers()).ok()?.servers;
            let info = info.into_iter().find(|info| info.name == format!("storage-{server}"))?;
            if info.replicas < copies {
                seen.get_or_insert_with(|| began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(300));
            (seen.is_some() && !info.syncing).then_some(())
        });
        let compared_seconds = round(began.elapsed().as_secs_f64());
        let report = self.runtime.block_on(self.client.report()).unwrap();
        let short: u64 = report.under_replicated.iter().map(|row| row.objects).sum();
        assert!(short > 0 && report.verdict != "healthy", "the report tells of it: {report:?}");
        let memory_mib = self.cluster.name_server.peak_memory_mib();
        let seen_seconds = round(seen.unwrap_or_default().as_secs_f64());
        run.empty_return = Some(EmptyReturn { copies, seen_seconds, compared_seconds, memory_mib });
        say(run, &format!("{:?}; short of copies then: {short}", run.empty_return));
    }

    fn info(&self, number: usize) -> ServerInfo {
        let servers = self.runtime.block_on(self.client.servers()).unwrap().servers;
        servers.into_iter().find(|info| info.name == format!("storage-{number}")).unwrap()
    }

    /// The database is lost and comes back from the storage servers.
    pub fn restore(&mut self, run: &mut Run) {
        self.cluster.kill_all();
        match &self.store {
            Store::Postgres(server, url) => server.recreate(url),
            Store::Sqlite => remove_sqlite(&self.cluster.path("metadata.sqlite")),
        }
        self.cluster.name_server.drop_arg("--initialize");
        self.cluster.name_server.start();
        self.cluster.storage.iter_mut().for_each(|server| server.start());
        let (mut began, mut writing) = (Instant::now(), None);
        let status = self.until("the restore is done", || {
            let status = self.runtime.block_on(self.client.restore_status()).ok()?;
            match status.state.as_str() {
                "running" if status.step == "writing the tables" => drop(writing.get_or_insert_with(Instant::now)),
                "running" => {}
                "done" => return Some(status),
                // It is asked for until all servers have announced themselves.
                _ => {
                    began = Instant::now();
                    let _ = self.runtime.block_on(self.client.restore_start(&RestoreRequest::default()));
                }
            }
            std::thread::sleep(Duration::from_millis(100));
            None
        });
        let writing_seconds = round(writing.map_or(0.0, |at| at.elapsed().as_secs_f64()));
        let seconds = round(began.elapsed().as_secs_f64());
        let memory_mib = self.cluster.name_server.peak_memory_mib();
        assert_eq!(status.source, "journal", "{status:?}");
        assert_eq!((status.files, status.directories), (run.files as u64, run.directories as u64 + 1), "{status:?}");
        assert_eq!((status.losses_total, status.conflicts_total, status.doubts_total), (0, 0, 0), "{status:?}");
        run.restore = Some(Restored { seconds, writing_seconds, memory_mib });
        say(run, &format!("{:?}", run.restore));
    }

    /// Ends the processes and looks whether the kept numbers are true.
    pub fn end(mut self) {
        self.cluster.kill_all();
        let objects = self.runtime.block_on(counts_are_true(&self.database_url()));
        assert!(objects >= self.filled.files as i64, "{objects} objects are left");
    }

    fn until<T>(&self, what: &str, condition: impl FnMut() -> Option<T>) -> T {
        wait_for(what, LIMIT.as_secs(), condition)
    }
}

fn client(cluster: &Cluster) -> NameServerClient {
    let credentials = Credentials::Token(cluster.token.clone());
    NameServerClient::new(HttpClient::new(None).unwrap(), cluster.urls(), credentials).unwrap().with_retries(0)
}

fn shelf(cluster: &Cluster, servers: &[ServerInfo], number: usize) -> Shelf {
    let name = format!("storage-{number}");
    let server = servers.iter().find(|server| server.name == name).unwrap().server;
    Shelf { server, index: cluster.storage_dir(number).join("index.sqlite") }
}

fn remove_sqlite(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(PathBuf::from(format!("{}{suffix}", path.display())));
    }
}

/// The machine's load, of one minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

pub fn say(run: &Run, what: &str) {
    println!("{}, {} files: {what}", run.database, run.files);
}
