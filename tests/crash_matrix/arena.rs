//! A cluster in which one server after the other is made to die at a point, with all that must hold afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use serde_json::Value;

use crate::common::cluster::{Cluster, Http, Plan, Process};
use crate::common::wait_for;
use crate::model::{Driver, Listing, Unit, check_bytes};

/// How long a point may take to be passed, in seconds.
const DEATH_SECONDS: u64 = 30;
/// How long the cluster may take until all is well again, in seconds.
const REST_SECONDS: u64 = 60;
/// For as long all must be well.
const REST: Duration = Duration::from_millis(1_300);
/// The server that dies of storage points; another one is killed by workloads.
pub const VICTIM: usize = 0;
pub const OTHER: usize = 2;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    NameServer,
    Storage,
}

pub struct Arena {
    pub cluster: Cluster,
    pub units: Vec<Unit>,
    database: Option<String>,
    rounds: usize,
    /// Units up to here were exported and compared.
    compared: usize,
}

impl Arena {
    pub fn start(database: Option<String>) -> Self {
        let args = [
            ["--health-interval", "0.3"],
            ["--down-after", "1"],
            ["--repair-delay", "1"],
            ["--read-ttl", "1"],
            ["--upload-ttl", "4"],
        ];
        let name_server_args = args.concat().into_iter().map(String::from).collect();
        let cluster = Cluster::start(&Plan { database: database.clone(), name_server_args, ..Plan::default() });
        Self { cluster, units: Vec::new(), database, rounds: 0, compared: 0 }
    }

    /// Begins a round; its directory.
    pub fn round(&mut self) -> String {
        self.rounds += 1;
        format!("/r{}", self.rounds)
    }

    /// Sends requests; `number` tells drivers that work at the same time from each other.
    pub fn driver(&self, number: u32) -> Driver {
        let seed = (number << 20) + (self.rounds as u32) * 10_000;
        Driver { http: self.cluster.http(), scratch: self.cluster.dir.path().into(), seed }
    }

    pub fn process(&mut self, who: Who) -> &mut Process {
        match who {
            Who::NameServer => &mut self.cluster.name_server,
            Who::Storage => &mut self.cluster.storage[VICTIM],
        }
    }

    /// From now on it dies when it passes the point as many times.
    pub fn condemn(&mut self, who: Who, point: &str, times: u32) {
        let file = self.process(who).crash_file();
        fs::write(&file, format!("{point}:{times}")).unwrap();
    }

    /// Waits until it has died, at the point and not of something else.
    pub fn wait_for_death(&mut self, who: Who, point: &str) {
        let process = self.process(who);
        wait_for(&format!("the process passes {point}"), DEATH_SECONDS, || process.ended().map(drop));
        let said = format!("crash point {point}: the process dies");
        assert!(process.log().contains(&said), "it died of something else than {point}");
        fs::remove_file(process.crash_file()).unwrap();
    }

    /// Ends and starts a process without waiting for it: it may die at once.
    pub fn restart_condemned(&mut self, who: Who) {
        self.process(who).kill();
        self.expire_lease(who);
        self.process(who).launch();
    }

    /// Brings the dead process back.
    pub fn revive(&mut self, who: Who) {
        self.expire_lease(who);
        self.process(who).start();
    }

    /// The time of a dead name server's lease is over: nobody wants to wait for it in each round.
    fn expire_lease(&self, who: Who) {
        let statement = "UPDATE leases SET expires = '2000-01-01 00:00:00'";
        match &self.database {
            _ if who == Who::Storage => {}
            Some(_) => self.sql(statement),
            // A restore may have died between two databases.
            None if !self.cluster.path("metadata.sqlite").exists() => {}
            None => self.sql(statement),
        }
    }

    /// Changes the database of a cluster whose name server has ended.
    pub fn sql(&self, statement: &str) {
        match &self.database {
            Some(url) => PgConnection::establish(url).unwrap().batch_execute(statement).unwrap(),
            None => {
                let path = self.cluster.path("metadata.sqlite");
                let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
                connection.batch_execute(&format!("PRAGMA busy_timeout = 5000; {statement}")).unwrap();
                // SQLite merges the log when the last connection ends; a process that dies leaves it.
                std::mem::forget(connection);
            }
        }
    }

    pub fn report(&self) -> Option<Value> {
        get(&self.cluster.http(), "/api/v1/report")
    }

    /// Waits until all servers are there, everything has its copies, and nothing is left to do.
    pub fn wait_for_rest(&self) {
        let (mut since, mut missing) = (Instant::now(), String::new());
        let started = Instant::now();
        loop {
            match self.unrest() {
                None if since.elapsed() >= REST => return,
                None => {}
                Some(why) => (since, missing) = (Instant::now(), why),
            }
            assert!(started.elapsed() < Duration::from_secs(REST_SECONDS), "it does not come to rest: {missing}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What is still to be done.
    fn unrest(&self) -> Option<String> {
        let http = self.cluster.http();
        let Some(report) = get(&http, "/api/v1/report") else { return Some("no report".into()) };
        let Some(actors) = get(&http, "/api/v1/actors") else { return Some("no actors".into()) };
        // Where nobody carries the journal, it is always behind.
        let carried = actors.to_string().contains("JournalKeeper");
        let mut problems = report["problems"].as_array().unwrap().iter().map(Value::to_string);
        // Servers were started again and again here.
        let restless = |problem: &str| problem.contains("times in the last hour");
        let problem =
            problems.any(|problem| !restless(&problem) && (carried || !problem.contains("copies of its journal")));
        let syncing = report["troubles"].to_string().contains("server_syncing");
        if problem || syncing || report["outbox"] != 0 || report["repair"]["queued"] != 0 {
            return Some(format!("the report is {report}"));
        }
        if carried && report["journal"]["copied_version"] != report["version"] {
            return Some(format!("the journal's copies are behind: {report}"));
        }
        for actor in actors["actors"].as_array().unwrap() {
            let text = actor["last_report"].as_str().unwrap_or_default();
            let leads = actor["name"] != "LeaseKeeper" || text.contains("holds the lease");
            if !leads || text.contains("look around") || text.contains("standing by") || !actor["last_error"].is_null()
            {
                return Some(format!("an actor is {actor}"));
            }
        }
        let Some(servers) = get(&http, "/api/v1/servers") else { return Some("no servers".into()) };
        let servers = servers["servers"].as_array().unwrap();
        if let Some(server) = servers.iter().find(|s| s["syncing"] == true || s["health"] != "live") {
            return Some(format!("a server is {server}"));
        }
        let (replicas, objects) = (servers.iter().map(|s| s["replicas"].as_u64().unwrap()).sum(), &report["objects"]);
        if Some(2 * objects.as_u64().unwrap()) != Some(replicas) {
            return Some(format!("{objects} objects have {replicas} replicas"));
        }
        for number in 0..self.cluster.storage.len() {
            let pending = self.pending(number);
            let incoming = fs::read_dir(self.cluster.storage_dir(number).join("incoming")).unwrap().count();
            if pending + incoming > 0 {
                return Some(format!("storage-{number} has {pending} pending copies and {incoming} uploads"));
            }
        }
        None
    }

    /// All that was acknowledged is there with its bytes, nothing that was removed is, and changes are whole.
    pub fn check_files(&mut self) {
        let listing = Listing::read(&self.cluster.http());
        listing.check(&mut self.units);
        self.check_bytes();
    }

    /// Compares the bytes of what was written in this round, as far as it is certain.
    pub fn check_bytes(&self) {
        let (round, out) = (format!("/r{}", self.rounds), self.cluster.path("out"));
        self.cluster.ok(&["export", &round, out.to_str().unwrap()]);
        for unit in self.units[self.compared..].iter().filter(|unit| unit.worlds.len() == 1) {
            check_bytes(&out.join(unit.root.strip_prefix(&format!("{round}/")).unwrap()), unit);
        }
        fs::remove_dir_all(&out).unwrap();
    }

    /// Once the cluster is at rest: files, stores and metadata agree.
    pub fn check_everything(&mut self) {
        self.check_files();
        self.compared = self.units.len();
        let (http, report) = (self.cluster.http(), self.report().unwrap());
        let objects = Listing::read(&http).objects as u64;
        assert_eq!(report["objects"].as_u64(), Some(objects), "objects that no file refers to are live");
        let servers = get(&http, "/api/v1/servers").unwrap();
        for number in 0..self.cluster.storage.len() {
            let rows = self.index_rows(number);
            let name = format!("storage-{number}");
            let server = servers["servers"].as_array().unwrap().iter().find(|s| s["name"] == *name).unwrap();
            assert_eq!(server["replicas"].as_u64(), Some(rows.len() as u64), "{name} has other copies than it should");
            let in_files: BTreeSet<String> = rows.iter().filter(|row| !row.in_index).map(IndexRow::file).collect();
            assert_eq!(self.object_files(number), in_files, "files and rows of {name} differ");
        }
        self.check_fsck(&http);
    }

    fn check_fsck(&self, http: &Http) {
        let answer = http.post("/api/v1/fsck", "{}");
        if answer.status == 404 {
            return;
        }
        assert_eq!(answer.status, 202, "{}", answer.body);
        let job = wait_for("fsck has ended", 60, || {
            let job = http.get("/api/v1/fsck").json();
            (job["state"] != "running").then_some(job)
        });
        assert_eq!(job["report"]["clean"], true, "{job:#}");
    }

    fn object_files(&self, number: usize) -> BTreeSet<String> {
        let objects = self.cluster.storage_dir(number).join("objects");
        let files = walkdir::WalkDir::new(objects).into_iter().flatten().filter(|entry| entry.file_type().is_file());
        files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub fn index(&self, number: usize) -> SqliteConnection {
        let path = self.cluster.storage_dir(number).join("index.sqlite");
        let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        connection.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
        connection
    }

    /// Copies that a storage server does not know to be committed.
    pub fn pending(&self, number: usize) -> usize {
        self.index_rows(number).iter().filter(|row| row.state == "pending").count()
    }

    fn index_rows(&self, number: usize) -> Vec<IndexRow> {
        diesel::sql_query("SELECT object, generation, state, in_index FROM replicas")
            .load(&mut self.index(number))
            .unwrap()
    }
}

#[derive(QueryableByName)]
pub struct IndexRow {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub object: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub generation: i64,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub state: String,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    pub in_index: bool,
}

impl IndexRow {
    fn file(&self) -> String {
        format!("{:016x}.{:016x}", self.object, self.generation)
    }
}

/// JSON, when the name server answers.
pub fn get(http: &Http, path: &str) -> Option<Value> {
    let answer = http.curl(&["--max-time", "5", &format!("{}{path}", http.base)])?;
    if answer.status == 200 { serde_json::from_str(&answer.body).ok() } else { None }
}
