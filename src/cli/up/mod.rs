//! `holdfast up`, `up --only` and `down`: a whole cluster on one machine.
//!
//! Each member is a process of its own, started from this executable by a hidden command, so that one can be
//! killed like a real machine. Nobody restarts a member that was killed; `up --only NAME` does. What `up` needs
//! to go on later is in the data directory:
//!
//! ```text
//! cluster.toml       port, number of storage servers, copies, database
//! client.toml        how clients reach the cluster
//! secret             the cluster secret
//! metrics-token      what may read /metrics of all members
//! name-server/       the metadata, unless it is in Postgres
//! storage-N/         data directories of the storage servers
//! logs/ run/         what members log, and which processes they are
//! ```
//!
//! All of it is for its owner alone, whatever the umask. What members must not tell other users of the machine, such as
//! the database's password, they get in their environment and never on their command lines.
//!
//! A database that is gone is not made anew: the name server waits for `holdfast restore` then.

mod access;
mod cluster;
mod life;
mod local;
mod logs;
mod member;
mod private_file;
mod process;
mod recorded;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use structopt::StructOpt;

pub(in crate::cli) use self::cluster::ClusterConfig;
use self::cluster::ClusterDir;
pub(in crate::cli) use self::life::Ready;
use self::life::{start_all, stop, stop_those, wait_until_ready};
pub(in crate::cli) use self::local::LocalCluster;
use self::member::{Member, Role, Timings};
use self::process::Running;
pub(in crate::cli) use self::recorded::Recorded;
use super::exit::Exit;
use super::options::GlobalArgs;
use super::output::{Output, human_counted};
use super::progress::say;
use crate::db::url::has_password;
use crate::types::{Error, ErrorCode, Hidden, Result};

/// Options of `holdfast up`.
#[derive(Debug, Clone, StructOpt)]
pub struct UpArgs {
    /// Where everything is kept
    #[structopt(long, default_value = "./holdfast-data", parse(from_os_str))]
    data_dir: PathBuf,
    /// Port of the name server; the storage servers take the following ones [default: 7400, or as before]
    #[structopt(long)]
    port: Option<u16>,
    /// How many storage servers [default: 3, or as before]
    #[structopt(long)]
    storage_servers: Option<u16>,
    /// Copies of each file [default: 2]
    #[structopt(long)]
    replicas: Option<u32>,
    /// Where the metadata is kept, for instance postgres://USER@HOST/NAME [default: SQLite in the data directory]
    ///
    /// A URL with a password is given to a new cluster in the environment, as HOLDFAST_DATABASE: the command line can be
    /// read by every user of the machine. The data directory keeps it.
    #[structopt(long)]
    database: Option<Hidden>,
    /// MiB at which a member's log is begun anew; three older ones are kept
    #[structopt(long, value_name = "MIB", default_value = "16", parse(try_from_str = log_mib))]
    log_size: u64,
    /// Return when the cluster is ready; `holdfast down` stops it
    #[structopt(long)]
    detach: bool,
    /// Start one member that was killed (name-server, storage-1, …), and return when it serves
    #[structopt(long, value_name = "MEMBER", conflicts_with_all = &["port", "storage-servers", "replicas", "database"])]
    only: Option<String>,
}

/// Options of `holdfast down`.
#[derive(Debug, Clone, StructOpt)]
pub struct DownArgs {
    /// The data directory that `holdfast up` was given
    #[structopt(long, default_value = "./holdfast-data", parse(from_os_str))]
    data_dir: PathBuf,
}

/// The hidden command that a member's process runs.
#[derive(Debug, Clone, StructOpt)]
pub struct MemberArgs {
    /// End when the process that started it ends
    #[structopt(long)]
    with_parent: bool,
    /// Where standard output and error go
    #[structopt(long, parse(from_os_str))]
    log: Option<PathBuf>,
    /// The size at which that file is begun anew
    #[structopt(long, default_value = "16777216")]
    log_bytes: u64,
    /// name-server or storage-server
    role: String,
    /// The server's own options
    #[structopt(last = true)]
    args: Vec<std::ffi::OsString>,
}

fn log_mib(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(mib @ 1..=4_096) => Ok(mib),
        _ => Err("must be a number from 1 to 4096".into()),
    }
}

/// Runs a member's server in this process.
pub fn run_member(args: MemberArgs) -> std::process::ExitCode {
    let settled = process::settle(args.with_parent).and_then(|()| {
        let start = |path: &PathBuf| logs::MemberLog::start(path, args.log_bytes);
        let log = args
            .log
            .as_ref()
            .map(|path| start(path).map_err(|error| Error::io(format!("opening the log {}", path.display()), error)));
        Ok(log.transpose()?.map(|log| Box::new(log) as super::daemon::LogSink))
    });
    let log = match settled {
        Ok(log) => log,
        Err(error) => {
            eprintln!("holdfast: {}", error.message());
            return Exit::Failed.into();
        }
    };
    let program = format!("holdfast-{}", args.role);
    let line = std::iter::once(program.into()).chain(args.args);
    match args.role.as_str() {
        "name-server" => super::daemon::run_name_server(line, log),
        _ => super::daemon::run_storage_server(line, log),
    }
}

/// The database that was asked for: on the command line or, for a new cluster, in the environment.
fn database(args: &UpArgs, before: Option<&ClusterConfig>) -> Option<Hidden> {
    if let Some(typed) = &args.database {
        if has_password(typed.reveal()) {
            say(
                "holdfast: the URL of --database has a password, and every user of this machine can read this command line \
                 as long as the command runs; give a new cluster the URL in the environment (HOLDFAST_DATABASE). The data \
                 directory keeps it, so that it need not be given again",
            );
        }
        return Some(typed.clone());
    }
    let set = std::env::var("HOLDFAST_DATABASE").ok().filter(|url| !url.is_empty());
    set.filter(|_| before.is_none()).map(Hidden::from)
}

/// `holdfast up`.
pub async fn up(global: &GlobalArgs, args: &UpArgs) -> Result<Exit> {
    // From here on a signal is not lost, also where the shell has it ignored: what was started is stopped.
    let mut signals = Signals::listen()?;
    let dir = ClusterDir::open(&args.data_dir)?;
    let log_bytes_max = args.log_size << 20;
    if let Some(name) = &args.only {
        return only(global, &dir, name, log_bytes_max).await;
    }
    let before = dir.config()?;
    let running = dir.all_running()?;
    refuse_to_move(&running, args, before.as_ref())?;
    let database = database(args, before.as_ref());
    let config = dir.configure(args.port, args.storage_servers, args.replicas, database.as_ref())?;
    let members = member::all(&dir, &config, Timings::default())?;
    let is_running = |member: &&Member| running.iter().any(|running| running.name == member.name);
    let missing: Vec<&Member> = members.iter().filter(|member| !is_running(member)).collect();
    for member in &missing {
        member.check_port()?;
    }
    access::prepare(&dir, before.as_ref(), &config)?;
    let mut started = Vec::new();
    let outcome = match start_all(&dir, &missing, !args.detach, log_bytes_max, &mut started) {
        Ok(()) => tokio::select! {
            outcome = wait_until_ready(&dir, &config, &members, &mut started) => outcome,
            () = signals.next() => Err(Error::unavailable("the start was interrupted; what it had started was stopped")),
        },
        Err(error) => Err(error),
    };
    let (ready, lacking) = match outcome {
        Ok(ready) => ready,
        Err(error) => {
            // Only what was started here: what ran before goes on.
            stop_those(&dir, &mut started, running_of(&dir, &missing)?).await?;
            return Err(error);
        }
    };
    dir.note_initialized(&config)?;
    let of_access = access::settle(&dir, &config, ready).await;
    show(global, &dir, &members)?;
    say_ready(&dir, &config, ready);
    match of_access {
        Ok(told) => told.iter().for_each(|told| say(told)),
        Err(error) => say(&format!("{}: {}", dir.client_config_path().display(), error.message())),
    }
    lacking.iter().for_each(|sentence| say(sentence));
    let exit = if lacking.is_empty() { Exit::Done } else { Exit::Partly };
    if started.is_empty() && !args.detach {
        say("All members were running already, and go on when this command ends.");
    }
    if args.detach || started.is_empty() { Ok(exit) } else { stay(global, &dir, &mut started, signals).await }
}

/// A cluster that runs stays where it is.
fn refuse_to_move(running: &[Recorded], args: &UpArgs, before: Option<&ClusterConfig>) -> Result<()> {
    let moves = before.is_some_and(|before| args.port.is_some_and(|port| port != before.port));
    match running.first() {
        Some(first) if moves => Err(Error::new(
            ErrorCode::AlreadyExists,
            format!(
                "{} is running already (process {}) on the ports of before; `holdfast down --data-dir {}` stops the cluster",
                first.name,
                first.pid,
                args.data_dir.display()
            ),
        )),
        _ => Ok(()),
    }
}

fn running_of(dir: &ClusterDir, members: &[&Member]) -> Result<Vec<Recorded>> {
    let running = members.iter().map(|member| dir.running(&member.name)).collect::<Result<Vec<_>>>()?;
    Ok(running.into_iter().flatten().collect())
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|error| Error::io("listening for signals", error));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What to do when the cluster cannot serve everything.
fn say_ready(dir: &ClusterDir, config: &ClusterConfig, ready: Ready) {
    let client = dir.client_config_path();
    match ready {
        Ready::ToServe => {}
        Ready::WaitsForRestore => say(&format!(
            "The metadata of this cluster is gone or damaged; the name server waits. `holdfast restore --config {}` brings it back \
             from the storage servers. If that file's token is not known now, use the first one: HOLDFAST_TOKEN=$(holdfast \
             token first --cluster-secret-file {}) holdfast restore --name-server {}",
            client.display(),
            dir.secret_path().display(),
            config.name_server_url()
        )),
        Ready::TakesNoChanges => say(&format!(
            "The cluster takes no changes now; `holdfast report --config {}` says why and what to do.",
            client.display()
        )),
    }
}

/// Starts one member and waits until it serves.
async fn only(global: &GlobalArgs, dir: &ClusterDir, name: &str, log_bytes_max: u64) -> Result<Exit> {
    let config = dir.config()?.ok_or_else(|| {
        Error::not_found(format!("there is no cluster in {}; `holdfast up` makes one", dir.path().display()))
    })?;
    dir.require_secret()?;
    let members = member::all(dir, &config, Timings::default())?;
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let member = members
        .iter()
        .find(|member| member.name == name)
        .ok_or_else(|| Error::not_found(format!("the cluster has no member {name:?}; it has {}", names.join(", "))))?;
    if let Some(running) = dir.running(name)? {
        return Err(Error::new(
            ErrorCode::AlreadyExists,
            format!("{name} is running already (process {})", running.pid),
        ));
    }
    member.check_port()?;
    let mut started = vec![process::start(dir, member, false, log_bytes_max)?];
    // A name server is ready when it answers; a storage server when the cluster has taken it in.
    let awaited: &[Member] = if member.role == Role::NameServer { &[] } else { std::slice::from_ref(member) };
    match wait_until_ready(dir, &config, awaited, &mut started).await {
        Ok((ready, lacking)) => {
            say_ready(dir, &config, ready);
            lacking.iter().for_each(|sentence| say(sentence));
        }
        Err(error) => {
            // Only what was started here: the others go on.
            dir.running(name)?.iter().for_each(Recorded::terminate);
            return Err(error);
        }
    }
    show(global, dir, std::slice::from_ref(member))?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Row {
    role: String,
    url: String,
    pid: i32,
    data_dir: PathBuf,
}

/// The table of members.
fn show(global: &GlobalArgs, dir: &ClusterDir, members: &[Member]) -> Result<()> {
    let mut rows = Vec::new();
    for member in members {
        let pid = dir.running(&member.name)?.map_or(0, |running| running.pid);
        rows.push(Row { role: member.name.clone(), url: member.url(), pid, data_dir: member.data_dir.clone() });
    }
    let mut output = Output::new();
    if global.json {
        output.json(&rows)?;
    } else if !global.quiet {
        let line = |row: Row| vec![row.role, row.url, row.pid.to_string(), row.data_dir.display().to_string()];
        output.table(&["role", "url", "process", "data directory"], rows.into_iter().map(line).collect())?;
        output.line(format_args!("Clients find the cluster by {}", dir.client_config_path().display()))?;
    }
    output.flush()
}

/// Keeps running until Ctrl-C or SIGTERM, and stops all members then. Says when one ends by itself.
async fn stay(global: &GlobalArgs, dir: &ClusterDir, started: &mut Vec<Running>, mut signals: Signals) -> Result<Exit> {
    if !global.quiet {
        say("The cluster is ready. Ctrl-C stops it.");
    }
    let mut missed: Vec<String> = Vec::new();
    loop {
        tokio::select! {
            () = signals.next() => break,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        for running in started.iter_mut() {
            if let Some(how) = running.ended()
                && !missed.contains(&running.name)
            {
                say(&format!(
                    "{} {how}; `holdfast up --only {} --data-dir {}` starts it again",
                    running.name,
                    running.name,
                    dir.path().display()
                ));
                missed.push(running.name.clone());
            }
        }
        if started.iter_mut().all(|running| running.ended().is_some()) && dir.all_running()?.is_empty() {
            return Ok(Exit::Done);
        }
    }
    stop(dir, started).await?;
    Ok(Exit::Done)
}

/// `holdfast down`.
pub async fn down(global: &GlobalArgs, args: &DownArgs) -> Result<Exit> {
    let dir = ClusterDir::open(&args.data_dir)?;
    if dir.config()?.is_none() {
        return Err(Error::not_found(format!("there is no cluster in {}", args.data_dir.display())));
    }
    let stopped = stop(&dir, &mut Vec::new()).await?;
    if !global.quiet {
        say(&match stopped {
            0 => "No member of the cluster was running.".to_string(),
            count => format!("{} stopped.", human_counted(count as u64, "member")),
        });
    }
    Ok(Exit::Done)
}
