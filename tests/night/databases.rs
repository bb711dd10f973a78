//! The metadata's database: killed, full, damaged, set back, gone.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use diesel::PgConnection;
use diesel::connection::{Connection, SimpleConnection};

use crate::common::cluster::Plan;
use crate::common::postgres::{self, Postgres};
use crate::common::restore::{back_up, lose_database};
use crate::common::wait_for;
use crate::network::{relay, relay_to};
use crate::night::Act::{Hands, Run};
use crate::night::{NAMED_WITHIN, Night, Trouble, plan};

/// A Postgres of its own for the night in which it is killed.
static MORTAL: OnceLock<Postgres> = OnceLock::new();

fn mortal() -> &'static Postgres {
    MORTAL.get_or_init(|| Postgres::start(true))
}

pub fn the_database_is_killed() -> Trouble {
    Trouble {
        what: "Postgres is killed",
        plan: || Plan { database: Some(mortal().database()), ..plan() },
        make: |_| mortal().kill(),
        code: "database_unreachable",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("start the database again", |_| mortal().run())],
    }
}

fn set_back(night: &mut Night) {
    let database = night.database.clone();
    night.cluster.kill_all();
    night.backup = Some(back_up(&night.cluster, &database));
    night.cluster.start_all();
    night.wait_until_healthy();
    night.write("/later", vec![5; 100_000]);
    night.wait_for_the_journal();
    night.cluster.kill_all();
    night.backup.take().unwrap().put_back(&night.cluster);
    night.cluster.name_server.start();
    night.cluster.storage.iter_mut().for_each(|server| server.start());
}

pub fn the_database_is_set_back() -> Trouble {
    Trouble {
        what: "An old backup of the database is put in its place",
        plan,
        make: set_back,
        code: "database_set_back",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast restore")],
    }
}

pub fn the_database_is_set_back_on_postgres() -> Trouble {
    Trouble {
        what: "The same on Postgres",
        plan: || Plan { database: Some(postgres::shared().database()), ..plan() },
        make: set_back,
        code: "database_set_back",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast restore")],
    }
}

fn lose(night: &mut Night) {
    lose_database(&mut night.cluster, &night.database.clone());
    night.cluster.name_server.start();
}

fn start_all_storage_servers(night: &mut Night) {
    night.cluster.storage.iter_mut().for_each(|server| server.start());
}

pub fn the_database_is_gone() -> Trouble {
    Trouble {
        what: "The database is gone",
        plan,
        make: lose,
        code: "waits_for_restore",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("start all storage servers", start_all_storage_servers), Run("holdfast restore")],
    }
}

pub fn a_restore_is_interrupted() -> Trouble {
    Trouble {
        what: "The name server is killed in the middle of a restore",
        plan,
        make: |night| {
            lose(night);
            // One of them answers slowly, so that the middle is long enough to be met.
            relay_to(night, 0);
            start_all_storage_servers(night);
            relay(night).delay(Duration::from_millis(300));
            let mut restore = night.cluster.command(&["restore"]).spawn().unwrap();
            wait_for("the servers are fenced, and read", 60, || {
                let status = night.cluster.try_get("/api/v1/restore")?;
                status["step"].as_str()?.starts_with("reading").then_some(())
            });
            relay(night).cut();
            night.cluster.name_server.kill();
            let _ = restore.wait();
            relay(night).delay(Duration::ZERO);
            relay(night).heal();
            night.cluster.name_server.start();
        },
        code: "waits_for_restore",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast restore")],
    }
}

pub fn the_database_is_damaged() -> Trouble {
    Trouble {
        what: "The database is damaged",
        plan,
        make: |night| {
            night.cluster.name_server.signal(rustix::process::Signal::TERM);
            wait_for("the name server has ended", 20, || night.cluster.name_server.ended());
            night.cluster.name_server.kill();
            let file = night.cluster.path("metadata.sqlite");
            let mut bytes = fs::read(&file).unwrap();
            // Pages of the tables, behind the header and the schema.
            let half = bytes.len() / 2;
            bytes[half..].chunks_mut(64).for_each(|chunk| chunk[0] ^= 0x5a);
            fs::write(&file, bytes).unwrap();
            for log in ["metadata.sqlite-wal", "metadata.sqlite-shm"] {
                let _ = fs::remove_file(night.cluster.path(log));
            }
            night.cluster.name_server.start();
        },
        code: "database_damaged",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast restore")],
    }
}

/// The disk of the database of the night in which it is full.
struct SmallDisk(tempfile::TempDir);

static SMALL: OnceLock<SmallDisk> = OnceLock::new();

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "none"]).arg(dir.path()).status().unwrap();
        assert!(done.success(), "it needs root");
        Self(dir)
    }

    /// Takes what is left of it.
    fn fill(&self) {
        let mut zeros = fs::File::open("/dev/zero").unwrap();
        let _ = std::io::copy(&mut zeros, &mut fs::File::create(self.path().join("filler")).unwrap());
    }

    fn empty(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

pub fn the_disk_of_the_database_is_full() -> Trouble {
    Trouble {
        what: "The disk of the name server's database is full",
        plan: || {
            let file = SMALL.get_or_init(SmallDisk::mount).path().join("metadata.sqlite");
            Plan { database: Some(format!("sqlite://{}", file.display())), ..plan() }
        },
        make: |night| {
            SMALL.get().unwrap().fill();
            // Until something does not fit.
            let body = night.cluster.path("body");
            fs::write(&body, "x").unwrap();
            night.cluster.run(&["import", body.to_str().unwrap(), "/too-much"]);
        },
        code: "database_full",
        within: NAMED_WITHIN,
        needs_root: true,
        remedy: vec![Hands("make room on the disk of the database", |_| SMALL.get().unwrap().empty())],
    }
}

/// The same for Postgres, whose log is elsewhere: where that is full, too, Postgres ends.
static SMALL_OF_POSTGRES: OnceLock<SmallDisk> = OnceLock::new();

pub fn the_database_is_full_on_postgres() -> Trouble {
    Trouble {
        what: "The disk that Postgres has the tables on is full",
        plan: || {
            let disk = SMALL_OF_POSTGRES.get_or_init(SmallDisk::mount);
            Plan { database: Some(postgres::shared().database_on("small", disk.path())), ..plan() }
        },
        make: |night| {
            SMALL_OF_POSTGRES.get().unwrap().fill();
            let mut number = 0;
            wait_for("something does not fit", 60, || {
                number += 1;
                (night.cluster.run(&["mkdir", &format!("/more-{number}")]).0 != 0).then_some(())
            });
        },
        code: "database_full",
        within: NAMED_WITHIN,
        needs_root: true,
        remedy: vec![Hands("make room on the disk of the database", |_| SMALL_OF_POSTGRES.get().unwrap().empty())],
    }
}

pub fn a_table_is_locked() -> Trouble {
    Trouble {
        what: "Somebody's session in Postgres holds a table, and an actor's passes fail",
        plan: || Plan { database: Some(postgres::shared().database()), ..plan() },
        make: |night| {
            let mut session = PgConnection::establish(night.database.as_ref().unwrap()).unwrap();
            session.batch_execute("BEGIN; LOCK TABLE building IN ACCESS EXCLUSIVE MODE").unwrap();
            night.session = Some(session);
            wait_for("a pass has failed", 30, || {
                let actors = night.cluster.get("/api/v1/actors")["actors"].as_array()?.clone();
                let reaper = actors.iter().find(|actor| actor["name"] == "Reaper")?;
                (!reaper["last_error"].is_null()).then_some(())
            });
        },
        code: "actor_fails",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![
            Run("holdfast actors"),
            Hands("it tries again by itself", |night| {
                night.session = None;
                night.wait_until_gone("actor_fails");
            }),
        ],
    }
}

pub fn a_new_cluster_on_old_servers() -> Trouble {
    Trouble {
        what: "Somebody starts a new cluster in the place of a lost database",
        plan,
        make: |night| {
            lose_database(&mut night.cluster, &None);
            night.cluster.name_server.add_arg("--initialize");
            night.cluster.name_server.start();
            night.cluster.storage.iter_mut().for_each(|server| server.start());
        },
        code: "foreign_servers",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Run("holdfast restore")],
    }
}
