//! A private Postgres server from the installed binaries: one for each test program, a database for each test.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use super::wait_for;

const REMEDY: &str =
    "the tests need PostgreSQL's server programs (initdb, postgres): on Debian `apt-get install postgresql`";

/// A running server.
pub struct Postgres {
    pub port: u16,
    dir: PathBuf,
    bin: PathBuf,
    owner: Option<(u32, u32)>,
    /// The server ends when this is closed: its shell waits for the end of its input.
    keeper: Mutex<Option<std::process::Child>>,
}

static SHARED: OnceLock<Postgres> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server that all tests of this program share; it ends with the program.
pub fn shared() -> &'static Postgres {
    SHARED.get_or_init(|| Postgres::start(false))
}

fn server_programs() -> PathBuf {
    let mut candidates: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        candidates.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let programs = ["initdb", "postgres", "pg_basebackup"];
    candidates.into_iter().find(|dir| programs.iter().all(|program| dir.join(program).exists())).expect(REMEDY)
}

/// Postgres refuses to run as root; then it runs as the system's user postgres, or nobody.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(
        of("postgres")
            .or_else(|| of("nobody"))
            .expect("a user postgres or nobody, because Postgres does not run as root"),
    )
}

impl Postgres {
    /// Starts a server; `durable` ones fsync, as in production.
    pub fn start(durable: bool) -> Self {
        let server = Self::nowhere(durable);
        let data = server.dir.join("data");
        let made = server
            .command("initdb")
            .args(["--username=holdfast", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        server.run();
        server
    }

    /// A place for a server, without a database in it.
    fn nowhere(durable: bool) -> Self {
        let (bin, owner) = (server_programs(), unprivileged());
        let dir = tempfile::Builder::new().prefix("holdfast-postgres-").tempdir().unwrap().keep();
        if let Some((user, group)) = owner {
            chown(&dir, Some(user), Some(group)).unwrap();
        }
        std::fs::write(dir.join("options"), if durable { "on" } else { "off" }).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, dir, bin, owner, keeper: Mutex::new(None) }
    }

    /// Starts a standby, which follows this server.
    pub fn standby(&self) -> Self {
        let standby = Self::nowhere(true);
        let made = standby
            .command("pg_basebackup")
            .args(["--host=127.0.0.1", "--username=holdfast", "--write-recovery-conf", "--checkpoint=fast"])
            .arg(format!("--port={}", self.port))
            .arg("--pgdata")
            .arg(standby.dir.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "pg_basebackup failed: {}", String::from_utf8_lossy(&made.stderr));
        standby.run();
        standby
    }

    /// Each commit waits from now on until the standby has it.
    pub fn wait_for_standbys(&self) {
        self.say("ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.say("SELECT pg_reload_conf()");
        let mut connection = PgConnection::establish(&self.url("postgres")).unwrap();
        wait_for("the standby follows", 30, || {
            let query = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
            (diesel::sql_query(query).execute(&mut connection).unwrap() == 1).then_some(())
        });
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        self.say("SELECT pg_promote()");
    }

    fn say(&self, statement: &str) {
        PgConnection::establish(&self.url("postgres")).unwrap().batch_execute(statement).unwrap();
    }

    /// The url of a database of either of two servers: whichever takes writes.
    pub fn url_of_either(&self, url: &str, other: &Self) -> String {
        let port = format!("127.0.0.1:{}", self.port);
        url.replace(&port, &format!("{port},127.0.0.1:{}", other.port))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(&self.dir);
        self.unprivileged(&mut command);
        command
    }

    fn unprivileged(&self, command: &mut Command) {
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
    }

    /// Starts it, or starts it again, and waits until it takes connections.
    pub fn run(&self) {
        let fsync = std::fs::read_to_string(self.dir.join("options")).unwrap();
        // The shared server's directory goes with it: nobody drops what is static.
        let script = r#""$@" & server=$!; cat > /dev/null; kill -INT $server; wait $server; [ -z "$LEAVE_NOTHING" ] || rm -rf "$LEAVE_NOTHING""#;
        let mut command = Command::new("sh");
        command.current_dir(&self.dir).args(["-c", script, "sh"]).arg(self.bin.join("postgres"));
        command.env("LEAVE_NOTHING", if fsync == "on" { Path::new("") } else { self.dir.as_path() });
        command.arg("-D").arg(self.dir.join("data")).arg("-k").arg(&self.dir);
        command.args([
            "-p",
            &self.port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            &format!("fsync={fsync}"),
        ]);
        command.args(["-c", "max_connections=300", "-c", "log_min_messages=warning"]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        self.unprivileged(&mut command);
        let _ = std::fs::remove_file(self.dir.join("data/postmaster.pid"));
        *self.keeper.lock().unwrap() = Some(command.spawn().expect(REMEDY));
        wait_for("Postgres takes connections", 30, || PgConnection::establish(&self.url("postgres")).ok());
    }

    /// Kills it as a lost machine would.
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::QUIT)
            .unwrap();
        if let Some(mut keeper) = self.keeper.lock().unwrap().take() {
            drop(keeper.stdin.take());
            keeper.wait().unwrap();
        }
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://holdfast@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs a psql script with variables; what it said.
    pub fn psql(&self, database: &str, script: &Path, variables: &[(&str, &str)]) -> std::process::Output {
        let mut command = Command::new("psql");
        command.arg(database).arg("-q").arg("-f").arg(script);
        for (name, value) in variables {
            command.args(["-v", &format!("{name}={value}")]);
        }
        command.output().expect(REMEDY)
    }

    /// A new empty database.
    pub fn database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::establish(&self.url("postgres")).unwrap();
        connection.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.url(&name)
    }

    /// A new empty database in a tablespace of this name, which is made in a directory.
    pub fn database_on(&self, tablespace: &str, directory: &Path) -> String {
        if let Some((user, group)) = self.owner {
            chown(directory, Some(user), Some(group)).unwrap();
        }
        let place = directory.display();
        self.say(&format!("CREATE TABLESPACE {tablespace} LOCATION '{place}'"));
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        self.say(&format!("CREATE DATABASE {name} TABLESPACE {tablespace}"));
        self.url(&name)
    }

    /// Takes everything out of a database, as if it had been lost with its machine and made anew.
    pub fn recreate(&self, url: &str) {
        let name = url.rsplit('/').next().unwrap();
        let mut connection = PgConnection::establish(&self.url("postgres")).unwrap();
        connection.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
        connection.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    }

    /// A copy of a database to which nobody is connected; its url.
    pub fn copy(&self, url: &str) -> String {
        let copy = self.database();
        self.replace(&copy, url);
        copy
    }

    /// Gives a database, to which nobody is connected, the content of another one.
    pub fn replace(&self, url: &str, by: &str) {
        let name = |url: &str| url.rsplit('/').next().unwrap().to_string();
        let mut connection = PgConnection::establish(&self.url("postgres")).unwrap();
        connection.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", name(url))).unwrap();
        let statement = format!("CREATE DATABASE {} TEMPLATE {}", name(url), name(by));
        // The sessions of processes that were killed take a moment to end.
        wait_for("the template is free", 20, || connection.batch_execute(&statement).ok());
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.lock().unwrap().take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
