//! The cluster under test, and all that can be done to it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast::client::{Credentials, HttpClient, NameServerClient};
use holdfast::security::ClusterSecret;
use tokio::runtime::Handle;

use crate::common::cluster::SECRET;
use crate::common::postgres::Postgres;
use crate::common::wait_for;
use crate::disks::Disk;
use crate::inside;
use crate::nemesis::Kind;
use crate::network::Network;
use crate::options::Options;
use crate::server::{Recipe, Server};

/// Megabytes of the file system of storage server 0 when it is to be filled.
const SMALL_DISK_MB: u64 = 160;
/// How a server ends that cannot reach its database when it starts.
const EXIT_UNAVAILABLE: i32 = 6;
/// Short times, so that a short run sees much.
const NAME_SERVER_ARGS: &str =
    "--initialize --health-interval 0.5 --down-after 2 --repair-delay 3 --read-ttl 5 --upload-ttl 20";

/// Where the metadata is.
pub enum Database {
    Sqlite,
    Postgres(Postgres),
}

pub struct World {
    pub dir: PathBuf,
    pub names: Vec<Arc<Server>>,
    pub storage: Mutex<Vec<Arc<Server>>>,
    pub database: Database,
    pub network: Option<Network>,
    /// The small file system, if there is one.
    pub small_disk: Option<PathBuf>,
    /// Disks of storage servers, by their names.
    disks: HashMap<String, Disk>,
    pub token: String,
    pub client: NameServerClient,
    pub runtime: Handle,
    pub faults: AtomicUsize,
    pub gave_up: AtomicUsize,
    /// Servers that joined and were killed for good; they are to be removed.
    pub leaving: Mutex<Vec<Arc<Server>>>,
    options: Options,
    kinds: Vec<Kind>,
    clock_library: Option<PathBuf>,
    started: Instant,
    diary: Mutex<Vec<(f64, String)>>,
    joined: AtomicU32,
}

impl World {
    pub fn start(options: &Options, kinds: &[Kind], dir: PathBuf, runtime: Handle) -> Self {
        let has = |kind: Kind| kinds.contains(&kind);
        let networked = kinds.iter().any(|kind| kind.needs_network());
        let network = networked.then(|| Network::new(&inside::prefix()));
        let database = match options.database.as_str() {
            "postgres" => Database::Postgres(Postgres::start(true)),
            _ => Database::Sqlite,
        };
        let clock_library = has(Kind::Clock).then(|| crate::common::clock::compile(&dir));
        let small_disk = has(Kind::DiskFull).then(|| mount_small_disk(&dir));
        let disks = if kinds.iter().any(|kind| kind.needs_disks()) {
            disks(options, &dir, &small_disk)
        } else {
            HashMap::new()
        };
        let token = ClusterSecret::from_text(SECRET).unwrap().superuser_token();
        let http = HttpClient::new(None).unwrap();
        let nobody = vec!["http://127.0.0.1:1".to_string()];
        let client = NameServerClient::new(http.clone(), nobody, Credentials::Token(token.clone())).unwrap();
        let mut world = Self {
            dir,
            names: Vec::new(),
            storage: Mutex::default(),
            database,
            network,
            small_disk,
            disks,
            token,
            client,
            runtime,
            faults: AtomicUsize::new(0),
            gave_up: AtomicUsize::new(0),
            leaving: Mutex::default(),
            options: options.clone(),
            kinds: kinds.to_vec(),
            clock_library,
            started: Instant::now(),
            diary: Mutex::default(),
            joined: AtomicU32::new(0),
        };
        let url = world.database_url();
        for number in 0..options.name_servers {
            let server = world.start_name_server(number, &url);
            server.wait_until_it_listens();
            world.names.push(server);
        }
        let urls: Vec<String> = world.names.iter().map(|server| server.url()).collect();
        world.client = NameServerClient::new(http, urls, Credentials::Token(world.token.clone())).unwrap();
        for number in 0..options.servers {
            let server = world.start_storage_server(&format!("storage-{number}"), &[]);
            world.storage.lock().unwrap().push(server);
        }
        world.wait_for_live(options.servers);
        world
    }

    /// Names servers reach it by a socket in the file system: it works across network namespaces.
    fn database_url(&self) -> String {
        match &self.database {
            Database::Sqlite => format!("sqlite://{}", self.dir.join("metadata.sqlite").display()),
            Database::Postgres(postgres) => {
                let url = postgres.database();
                let (name, dir) = (url.rsplit('/').next().unwrap(), postgres.dir().display());
                format!("postgres://holdfast@localhost:{}/{name}?host={dir}", postgres.port)
            }
        }
    }

    fn recipe(&self, name: &str, program: &'static str) -> Recipe {
        let mut environment = Vec::new();
        if let Some(library) = &self.clock_library {
            let clock = self.clock_file(name);
            fs::write(&clock, 0i64.to_le_bytes()).unwrap();
            environment.push(("LD_PRELOAD".into(), library.display().to_string()));
            environment.push(("HOLDFAST_CHAOS_CLOCK".into(), clock.display().to_string()));
        }
        let host = self.network.as_ref().map(|network| network.add(name));
        let log = self.dir.join(format!("{name}.log"));
        let wrapper = self.disk(name).map(Disk::wrapper).unwrap_or_default();
        Recipe { name: name.into(), program, args: Vec::new(), environment, wrapper, log, host }
    }

    /// Holds the offset of a server's clock.
    pub fn clock_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.clock"))
    }

    fn start_name_server(&self, number: usize, database: &str) -> Arc<Server> {
        let mut recipe = self.recipe(&format!("name-{number}"), env!("CARGO_BIN_EXE_holdfast-name-server"));
        recipe.args = words(NAME_SERVER_ARGS);
        recipe.args.extend(["--database".into(), database.into()]);
        recipe.args.extend(words(&self.options.name_server_args));
        Arc::new(Server::new(recipe))
    }

    /// Starts a storage server on its data directory, with further options; it belongs to nobody yet.
    pub fn start_storage_server(&self, name: &str, more: &[&str]) -> Arc<Server> {
        let mut recipe = self.recipe(name, env!("CARGO_BIN_EXE_holdfast-storage-server"));
        let urls: Vec<String> = self.names.iter().map(|server| server.url()).collect();
        recipe.args = ["--data-dir", self.data_dir(name).to_str().unwrap()].map(String::from).to_vec();
        recipe.args.extend(["--name".into(), name.into(), "--host".into(), format!("host-of-{name}")]);
        recipe.args.extend(["--name-server".into(), urls.join(",")]);
        recipe.args.extend(words(&self.options.storage_args));
        recipe.args.extend(more.iter().map(|word| (*word).to_string()));
        Arc::new(Server::new(recipe))
    }

    /// Starts one more storage server.
    pub fn join(&self) -> Arc<Server> {
        let number = self.joined.fetch_add(1, Ordering::Relaxed);
        let server = self.start_storage_server(&format!("joined-{number}"), &[]);
        self.storage.lock().unwrap().push(server.clone());
        server
    }

    /// Where a storage server keeps its data.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        match &self.small_disk {
            Some(disk) if name == "storage-0" => disk.join("data"),
            _ => self.dir.join(name),
        }
    }

    /// Where the nemeses see that.
    pub fn seen_dir(&self, server: &Server) -> Option<PathBuf> {
        match self.disk(&server.name) {
            Some(disk) => Some(disk.seen_by(server.pid()?)),
            None => Some(self.data_dir(&server.name)),
        }
    }

    /// The disk of a storage server, if it has one of its own.
    pub fn disk(&self, name: &str) -> Option<&Disk> {
        self.disks.get(name)
    }

    /// Storage servers with disks of their own.
    pub fn with_disks(&self) -> Vec<Arc<Server>> {
        self.storage().into_iter().filter(|server| self.disk(&server.name).is_some()).collect()
    }

    /// Mounts a server's disk again, or repairs it, whatever it needs.
    pub fn heal_disk(&self, server: &Server) {
        let (Some(disk), Some(pid)) = (self.disk(&server.name), server.pid()) else { return };
        if !disk.mount(pid) {
            self.note(format!("the disk of {} cannot be mounted again", server.name));
        }
        if disk.is_read_only(pid) {
            server.kill();
            if !disk.repair() {
                self.note(format!("the disk of {} cannot be repaired, as somebody has it", server.name));
            }
            server.start();
        }
    }

    /// Files that have come to where a disk should be.
    pub fn strays(&self) -> usize {
        self.disks.values().map(Disk::files_below).sum()
    }

    pub fn storage(&self) -> Vec<Arc<Server>> {
        self.storage.lock().unwrap().clone()
    }

    /// All servers.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.names.iter().cloned().chain(self.storage()).collect()
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Notes what was done to the cluster.
    pub fn note(&self, what: String) {
        let seconds = self.started.elapsed().as_secs_f64();
        if self.options.verbose {
            println!("{seconds:>8.2} s  {what}");
        }
        self.diary.lock().unwrap().push((seconds, what));
    }

    /// The diary starts when the history does.
    pub fn begin(&mut self) {
        self.started = Instant::now();
    }

    pub fn diary(&self) -> Vec<(f64, String)> {
        self.diary.lock().unwrap().clone()
    }

    /// Waits for an answer of the API, asked on behalf of a nemesis.
    pub fn ask<T>(&self, question: impl Future<Output = holdfast::types::Result<T>>) -> Option<T> {
        let limit = Duration::from_secs(10);
        self.runtime.block_on(async { tokio::time::timeout(limit, question).await.ok()?.ok() })
    }

    pub fn wait_for_live(&self, count: usize) {
        wait_for("all storage servers are live", 60, || {
            let status = self.ask(self.client.status())?;
            (status.details?.servers_live as usize >= count).then_some(())
        });
    }

    /// Starts servers again that have given up; each time is noted.
    pub fn revive(&self) {
        for server in self.servers() {
            if let Some(status) = server.revive() {
                let wants_its_database = status.code() == Some(EXIT_UNAVAILABLE);
                self.gave_up.fetch_add(usize::from(!wants_its_database), Ordering::Relaxed);
                self.note(format!("{} has ended by itself ({status}); it will be started again", server.name));
            }
        }
    }

    /// Undoes whatever was done to processes, networks, disks and clocks.
    pub fn heal(&self) {
        if let Some(network) = &self.network {
            network.heal(crate::nemesis::PARTITION_PRIORITIES);
        }
        if let Some(disk) = &self.small_disk {
            let _ = fs::remove_file(disk.join(crate::nemesis::BALLAST));
        }
        for server in self.with_disks() {
            self.heal_disk(&server);
        }
        for server in self.servers() {
            if self.clock_library.is_some() {
                crate::nemesis::set_clock(self, &server, 0);
            }
            let leaves = self.leaving.lock().unwrap().iter().any(|other| other.name == server.name);
            if !leaves {
                server.heal();
            }
        }
    }
}

/// One for each storage server, but for the one that has the small file system.
fn disks(options: &Options, dir: &Path, small: &Option<PathBuf>) -> HashMap<String, Disk> {
    let numbers = (0..options.servers).filter(|number| *number > 0 || small.is_none());
    let disk = |number: usize| {
        let name = format!("storage-{number}");
        (name.clone(), Disk::make(dir.join(name), number % 2 == 1))
    };
    numbers.map(disk).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

/// A small ext4 in a file; tmpfs where there are no loop devices. It goes with the runner's mount namespace.
fn mount_small_disk(dir: &Path) -> PathBuf {
    let (disk, image) = (dir.join("small-disk"), dir.join("small-disk.img"));
    fs::create_dir_all(&disk).unwrap();
    fs::File::create(&image).unwrap().set_len(SMALL_DISK_MB << 20).unwrap();
    let run = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    let (image, place) = (image.to_str().unwrap(), disk.to_str().unwrap());
    let looped = run("mkfs.ext4", &["-q", "-F", image]) && run("mount", &["-o", "loop", image, place]);
    if !looped {
        let size = format!("size={SMALL_DISK_MB}m");
        assert!(run("mount", &["-t", "tmpfs", "-o", &size, "none", place]), "no small file system can be mounted");
    }
    disk
}

impl Drop for World {
    fn drop(&mut self) {
        for server in self.servers() {
            server.end();
        }
        if let Some(disk) = &self.small_disk {
            let _ = Command::new("umount").arg(disk).output();
        }
    }
}
