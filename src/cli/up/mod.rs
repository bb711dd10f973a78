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
mod local;
mod logs;
mod member;
mod process;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use structopt::StructOpt;

pub(in crate::cli) use self::cluster::ClusterConfig;
use self::cluster::ClusterDir;
pub(in crate::cli) use self::local::LocalCluster;
use self::member::{Member, Role, Timings};
pub(in crate::cli) use self::process::Recorded;
use self::process::Running;
use super::args::GlobalArgs;
use super::exit::Exit;
use super::output::{Output, human_counted};
use super::progress::say;
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::db::url::has_password;
use crate::storage::readiness::{UNREGISTERED, WAITING};
use crate::types::{Error, ErrorCode, Hidden, Result};

/// How long a cluster may take until all its members serve.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a member may take to say how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often that is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a storage server that is started alone waits for a name server that does not answer.
const NAME_SERVER_PATIENCE: Duration = Duration::from_secs(3);
/// What is said where a storage server was started alone.
const NO_NAME_SERVER: &str = "The name server does not answer; the storage server registers as soon as it does.";
/// The size at which a member's log is begun anew, unless it is said otherwise.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// What temporary files are called that a crash may leave behind.
const TEMPORARY: &str = ".new-";
/// How long members get to end by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

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

fn start_all(
    dir: &ClusterDir,
    members: &[&Member],
    with_parent: bool,
    log_bytes_max: u64,
    started: &mut Vec<Running>,
) -> Result<()> {
    for member in members {
        started.push(process::start(dir, member, with_parent, log_bytes_max)?);
    }
    Ok(())
}

/// What a cluster is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Ready {
    /// Everything.
    ToServe,
    /// It has no metadata, or none that it can rely on.
    WaitsForRestore,
    /// Its database has lost something, or a person wants it so.
    TakesNoChanges,
}

/// Waits until the name server answers, and the cluster has taken each storage server in since its start: what the
/// database remembers from before does not count. A name server that makes no changes, or has no metadata, takes no storage
/// servers; then it is enough that they answer.
///
/// Answers also which members are not ready, in sentences: where the name server answers, they do not stop the others, and
/// whoever puts them right needs those. One that has ended ends the wait.
///
/// All that is asked is what servers tell anybody. Tokens come and go, and a cluster starts whatever tokens there are.
async fn wait_until_ready(
    dir: &ClusterDir,
    config: &ClusterConfig,
    members: &[Member],
    started: &mut Vec<Running>,
) -> Result<(Ready, Vec<String>)> {
    let (client, members_client) = clients(config)?;
    let mut storage: Vec<&Member> = members.iter().filter(|member| member.role == Role::StorageServer).collect();
    let begun = tokio::time::Instant::now();
    let deadline = begun + READY_TIMEOUT;
    let is_alone = !storage.is_empty() && storage.len() == members.len();
    let mut left_out = Vec::new();
    loop {
        left_out.extend(leave_out_refused(dir, &mut storage, started)?);
        for running in started.iter_mut() {
            if let Some(how) = running.ended() {
                return Err(Error::new(
                    ErrorCode::Internal,
                    format!("{} {how}: {}", running.name, running.last_words(dir)),
                ));
            }
        }
        let mode = client.status().await.ok().map(|status| status.mode);
        let (ready, too_early): (_, &[&str]) = match mode.as_deref() {
            Some("restoring" | "damaged") => (Ready::WaitsForRestore, &[]),
            Some("normal") => (Ready::ToServe, &[UNREGISTERED, WAITING]),
            None => (Ready::ToServe, &[]),
            Some(_) => (Ready::TakesNoChanges, &[]),
        };
        let waiting = match &mode {
            Some(_) => not_ready(&members_client, &storage, too_early).await,
            // One storage server alone (`--only`) registers as soon as there is a name server.
            None if is_alone && begun.elapsed() > NAME_SERVER_PATIENCE => {
                let waiting = not_ready(&members_client, &storage, &[]).await;
                if waiting.is_empty() {
                    return Ok((Ready::ToServe, vec![NO_NAME_SERVER.into()]));
                }
                waiting
            }
            None => vec!["name-server"],
        };
        if waiting.is_empty() {
            return Ok((ready, left_out));
        }
        let words = |name: &&str| {
            let running = started.iter().find(|running| running.name == **name);
            running.map_or_else(|| "it was running before".into(), |running| running.last_words(dir))
        };
        let is_late = tokio::time::Instant::now() > deadline;
        let refused = |name: &&str| started.iter().any(|one| one.name == **name && one.refusal(dir).is_some());
        if mode.is_some() && (is_late || waiting.iter().all(refused)) {
            let sentence = |name| format!("{name} is not ready, and goes on trying: {}", words(name));
            return Ok((ready, left_out.into_iter().chain(waiting.iter().map(sentence)).collect()));
        }
        if is_late {
            return Err(Error::unavailable(format!(
                "{} did not get ready within {READY_TIMEOUT:?}: {}",
                waiting.join(", "),
                words(&waiting[0])
            )));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A storage server that the cluster refuses (it was removed, for instance) holds the others up no longer, as long as
/// there are others.
fn leave_out_refused(dir: &ClusterDir, storage: &mut Vec<&Member>, started: &mut Vec<Running>) -> Result<Vec<String>> {
    let is_storage = |running: &Running| storage.iter().any(|member| member.name == running.name);
    let refused: Vec<(String, String)> = started
        .iter_mut()
        .filter(|running| is_storage(running))
        .filter_map(|running| running.was_refused().then(|| (running.name.clone(), running.last_words(dir))))
        .collect();
    if refused.len() >= storage.len() {
        return Ok(Vec::new());
    }
    let mut left_out = Vec::new();
    for (name, words) in refused {
        dir.forget_process(&name)?;
        storage.retain(|member| member.name != name);
        started.retain(|running| running.name != name);
        left_out.push(format!("{name} is left out, because the cluster refuses it: {words}"));
    }
    Ok(left_out)
}

/// The members that do not answer, or with one of these words.
async fn not_ready<'m>(client: &StorageClient, storage: &[&'m Member], too_early: &[&str]) -> Vec<&'m str> {
    let mut waiting = Vec::new();
    for member in storage {
        match client.readiness(&member.url(), STATUS_TIMEOUT).await {
            Ok(word) if !too_early.contains(&word.as_str()) => {}
            _ => waiting.push(member.name.as_str()),
        }
    }
    waiting
}

/// Clients of the name server and of storage servers, as nobody.
fn clients(config: &ClusterConfig) -> Result<(NameServerClient, StorageClient)> {
    let http = HttpClient::new(None)?;
    let urls = vec![config.name_server_url()];
    let name_server = NameServerClient::new(http.clone(), urls, Credentials::None)?.with_retries(0);
    Ok((name_server, StorageClient::new(http, Credentials::None)))
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
            dir.running(name)?.iter().for_each(process::Recorded::terminate);
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

/// Asks all members to end, waits, and kills those that do not. Answers how many there were.
async fn stop(dir: &ClusterDir, started: &mut Vec<Running>) -> Result<usize> {
    let running = dir.all_running()?;
    stop_those(dir, started, running).await
}

async fn stop_those(dir: &ClusterDir, started: &mut Vec<Running>, running: Vec<Recorded>) -> Result<usize> {
    for member in &running {
        member.terminate();
    }
    let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
    loop {
        // Children that have ended must be waited for, or they look alive.
        for child in started.iter_mut() {
            child.ended();
        }
        if running.iter().all(|member| !member.is_alive()) {
            break;
        }
        if tokio::time::Instant::now() > deadline {
            running.iter().filter(|member| member.is_alive()).for_each(process::Recorded::kill);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for member in &running {
        dir.forget_process(&member.name)?;
    }
    started.clear();
    Ok(running.len())
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let write = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        // Temporary files are made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Error::io(format!("writing {}", path.display()), error))
}
