//! A cluster of real processes on free ports, each of which can be killed, paused and started again.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use holdfast::security::ClusterSecret;
use holdfast::types::storage_api::StorageStatus;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::wait_for;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// What may read metrics.
pub const SCRAPE_TOKEN: &str = "the-scrape-token-of-the-tests";

/// How a cluster is started.
#[derive(Clone)]
pub struct Plan {
    pub storage_servers: usize,
    /// On one Postgres there may be several.
    pub name_servers: usize,
    pub database: Option<String>,
    pub name_server_args: Vec<String>,
    pub storage_args: Vec<String>,
    /// A file system of this many megabytes for the data of storage server 0.
    pub small_disk_mb: Option<u32>,
    /// A directory with `ca.pem`, and a certificate and key for each server: the cluster is on TLS.
    pub certs: Option<PathBuf>,
    /// Variables of all servers' environments.
    pub env: Vec<(String, String)>,
    /// The program, with its arguments, that starts each server.
    pub wrapper: Vec<String>,
    /// File systems of their own for the data of the storage servers 0, 1 and so on.
    pub disks: Vec<Disk>,
}

/// A file system that only one storage server sees; gone with it.
#[derive(Clone, Copy)]
pub enum Disk {
    /// In memory, with these options.
    Memory(&'static str),
    /// An ext4 of this many megabytes in a file, which outlives the server. Needs root. An error makes it read-only.
    Ext4(u32),
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            storage_servers: 3,
            name_servers: 1,
            database: None,
            name_server_args: Vec::new(),
            storage_args: Vec::new(),
            small_disk_mb: None,
            certs: None,
            env: Vec::new(),
            wrapper: Vec::new(),
            disks: Vec::new(),
        }
    }
}

/// A server's process.
pub struct Process {
    program: &'static str,
    args: Vec<String>,
    wrapper: Vec<String>,
    log: PathBuf,
    /// How much of the log is of earlier runs.
    log_before: usize,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    pub port: u16,
    scheme: &'static str,
    child: Option<Child>,
}

impl Process {
    fn new(program: &'static str, args: Vec<String>, log: PathBuf, plan: &Plan) -> Self {
        let mut process = Self {
            program,
            args,
            wrapper: Vec::new(),
            log,
            log_before: 0,
            env: plan.env.clone(),
            port: 0,
            scheme: "http",
            child: None,
        };
        if let Some(certs) = &plan.certs {
            process.scheme = "https";
            let name = process.log.file_stem().unwrap().to_string_lossy().into_owned();
            for (option, file) in [
                ("--tls-cert", format!("{name}.pem")),
                ("--tls-key", format!("{name}.key")),
                ("--ca-cert", "ca.pem".to_string()),
            ] {
                process.args.extend([option.to_string(), certs.join(file).display().to_string()]);
            }
        }
        process
    }

    /// Starts it: on any free port the first time, on the same one later. Waits until it listens.
    pub fn start(&mut self) {
        self.launch();
        self.wait_until_listening();
    }

    /// Starts it and waits for nothing: it may die before it listens.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.log_before = self.log().len();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let line: Vec<String> =
            self.wrapper.iter().cloned().chain([self.program.to_string()]).chain(self.args.clone()).collect();
        let child = Command::new(&line[0])
            .args(&line[1..])
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .env("HOLDFAST_CLUSTER_SECRET", SECRET)
            .env("RUST_BACKTRACE", "1")
            .env("HOLDFAST_CRASH_AT", format!("@{}", self.crash_file().display()))
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    fn wait_until_listening(&mut self) {
        let (log, before) = (self.log.clone(), self.log_before);
        self.port = wait_for("a server listens", 30, || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}: {}", std::fs::read_to_string(&log).unwrap());
            }
            let text = std::fs::read_to_string(&log).unwrap();
            let line = text[before..].lines().find(|line| line.contains(" listens at http"))?;
            line.split("://127.0.0.1:").nth(1)?.split_whitespace().next()?.parse().ok()
        });
        let port = self.port;
        wait_for("the port answers", 30, || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// Adds options for the next start.
    pub fn add_args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(|arg| (*arg).to_string()));
    }

    /// Takes an option away for the next start.
    pub fn drop_arg(&mut self, arg: &str) {
        self.args.retain(|other| other != arg);
    }

    /// Gives it an option for the next start.
    pub fn add_arg(&mut self, arg: &str) {
        self.args.push(arg.into());
    }

    /// From the next start on it runs without its wrapper, and without variables of its own.
    pub fn unwrap_it(&mut self) {
        self.wrapper.clear();
        self.env.clear();
    }

    /// What it says here, it dies at (with the feature `failpoints`): see `holdfast::types::failpoint`.
    pub fn crash_file(&self) -> PathBuf {
        self.log.with_extension("crash-at")
    }

    /// How it has ended, if it has; then it can be started again.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid() as i32).unwrap(), signal).unwrap();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Peak resident memory in MiB.
    pub fn peak_memory_mib(&self) -> u64 {
        peak_memory_mib(self.pid())
    }
}

/// However a test ends, its servers end with it.
impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Peak resident memory of a process in MiB.
pub fn peak_memory_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// A cluster; its processes end with it.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub name_server: Process,
    /// Those beside the first.
    pub other_name_servers: Vec<Process>,
    pub storage: Vec<Process>,
    pub token: String,
    /// The authority's certificate, on TLS.
    pub ca_cert: Option<PathBuf>,
}

impl Cluster {
    pub fn start(plan: &Plan) -> Self {
        let dir = tempfile::Builder::new().prefix("holdfast-cluster-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let sqlite = format!("sqlite://{}", path("metadata.sqlite").display());
        let mut args = vec!["--database".to_string(), plan.database.clone().unwrap_or(sqlite)];
        args.extend(["--initialize", "--allow-same-host"].map(String::from));
        std::fs::write(path("scrape-token"), SCRAPE_TOKEN).unwrap();
        let scrape = ["--metrics-token-file".to_string(), path("scrape-token").to_str().unwrap().to_string()];
        args.extend(scrape.clone());
        args.extend(plan.name_server_args.clone());
        let program = env!("CARGO_BIN_EXE_holdfast-name-server");
        let mut name_server = Process::new(program, args.clone(), path("name-server.log"), plan);
        name_server.wrapper = plan.wrapper.clone();
        name_server.start();
        let other = |number| {
            let mut process = Process::new(program, args.clone(), path(&format!("name-server-{number}.log")), plan);
            process.start();
            process
        };
        let other_name_servers: Vec<Process> = (1..plan.name_servers).map(other).collect();
        let urls: Vec<String> = [&name_server].into_iter().chain(&other_name_servers).map(Process::url).collect();
        let mut storage = Vec::new();
        for number in 0..plan.storage_servers {
            let data = path(&format!("storage-{number}"));
            let args = [
                "--data-dir",
                data.to_str().unwrap(),
                "--name",
                &format!("storage-{number}"),
                "--name-server",
                &urls.join(","),
            ];
            let program = env!("CARGO_BIN_EXE_holdfast-storage-server");
            let args =
                args.map(String::from).into_iter().chain(scrape.clone()).chain(plan.storage_args.clone()).collect();
            let mut process = Process::new(program, args, path(&format!("storage-{number}.log")), plan);
            process.wrapper = plan.wrapper.clone();
            if let (0, Some(megabytes)) = (number, plan.small_disk_mb) {
                process.wrapper = on_disk(&data, &format!("mount -t tmpfs -o size={megabytes}m none"));
            }
            if let Some(disk) = plan.disks.get(number) {
                process.wrapper = on_disk(&data, &disk.mount(&data));
            }
            process.start();
            storage.push(process);
        }
        let secret = ClusterSecret::from_text(SECRET).unwrap();
        let (token, ca_cert) = (secret.superuser_token(), plan.certs.as_ref().map(|certs| certs.join("ca.pem")));
        let cluster = Self { token, dir, name_server, other_name_servers, storage, ca_cert };
        cluster.wait_for_live(plan.storage_servers);
        cluster
    }

    /// One more storage server, with an empty directory; it is not waited for.
    pub fn add_storage(&mut self) {
        let name = format!("storage-{}", self.storage.len());
        let (data, urls) = (self.path(&name), self.urls().join(","));
        let args = ["--data-dir", data.to_str().unwrap(), "--name", &name, "--name-server", &urls].map(String::from);
        let log = self.path(&format!("{name}.log"));
        let mut process =
            Process::new(env!("CARGO_BIN_EXE_holdfast-storage-server"), args.to_vec(), log, &Plan::default());
        process.start();
        self.storage.push(process);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A further storage server on a directory, launched on any free port; it may end before it listens.
    pub fn another_storage_server(&self, data: &Path, log: &str, more: &[String]) -> Process {
        let args = ["--data-dir", data.to_str().unwrap(), "--name", log, "--name-server", &self.urls().join(",")];
        let args = args.map(String::from).into_iter().chain(more.iter().cloned()).collect();
        let program = env!("CARGO_BIN_EXE_holdfast-storage-server");
        let log = tempfile::Builder::new().prefix(log).suffix(".log").tempfile_in(self.dir.path()).unwrap();
        let mut process = Process::new(program, args, log.keep().unwrap().1, &Plan::default());
        process.launch();
        process
    }

    pub fn storage_dir(&self, number: usize) -> PathBuf {
        self.path(&format!("storage-{number}"))
    }

    /// Runs a command where a storage server sees its own mounts. Answers what it printed.
    pub fn inside(&self, number: usize, command: &str) -> String {
        let target = self.storage[number].pid().to_string();
        let output =
            Command::new("nsenter").args(["--mount", "--target", &target, "sh", "-c", command]).output().unwrap();
        let (code, printed, errors) = ended(output);
        assert_eq!(code, 0, "{command}: {errors}");
        printed
    }

    /// Takes a storage server its disk away while it runs.
    pub fn unmount(&self, number: usize) {
        self.inside(number, &format!("umount -l '{}'", self.storage_dir(number).display()));
    }

    /// Gives it back: its ext4.
    pub fn mount_again(&self, number: usize) {
        let data = self.storage_dir(number);
        self.inside(number, &format!("mount -o loop,errors=remount-ro '{}' '{}'", image_of(&data), data.display()));
    }

    /// Makes the kernel find an error in a storage server's ext4, which becomes read-only by that.
    pub fn make_read_only(&self, number: usize) {
        let device = self.inside(number, &format!("findmnt -n -o SOURCE '{}'", self.storage_dir(number).display()));
        let name = device.trim().trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test").unwrap();
    }

    /// Repairs a storage server's ext4, which must not be mounted.
    pub fn repair_disk(&self, number: usize) {
        let image = image_of(&self.storage_dir(number));
        wait_for("the disk is let go of", 20, || is_free(&image).then_some(()));
        let checked = Command::new("e2fsck").args(["-f", "-p", &image]).output().unwrap();
        // 1: it was repaired.
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
    }

    /// What a storage server says of itself.
    pub fn status_of(&self, number: usize) -> Value {
        serde_json::to_value(self.storage_status(number)).unwrap()
    }

    /// What the cluster says of a storage server.
    pub fn server(&self, number: usize) -> Value {
        let servers = self.get("/api/v1/servers");
        let named = format!("storage-{number}");
        servers["servers"].as_array().unwrap().iter().find(|server| server["name"] == named).unwrap().clone()
    }

    pub fn wait_for_live(&self, count: usize) {
        wait_for("all storage servers are live", 30, || {
            let live = self.try_get("/status")?["servers_live"].as_u64()?;
            (live == count as u64).then_some(())
        });
    }

    pub fn kill_all(&mut self) {
        self.name_server.kill();
        self.other_name_servers.iter_mut().for_each(Process::kill);
        self.storage.iter_mut().for_each(Process::kill);
    }

    pub fn start_all(&mut self) {
        self.name_server.start();
        self.other_name_servers.iter_mut().for_each(Process::start);
        self.storage.iter_mut().for_each(Process::start);
        self.wait_for_live(self.storage.len());
    }

    /// The name servers.
    pub fn urls(&self) -> Vec<String> {
        [&self.name_server].into_iter().chain(&self.other_name_servers).map(Process::url).collect()
    }

    /// A command of `holdfast` for this cluster.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("HOLDFAST_NAME_SERVER", self.urls().join(",")).env("HOLDFAST_TOKEN", &self.token);
        command.env_remove("HOLDFAST_CONFIG").env("HOME", self.dir.path());
        command.envs(self.ca_cert.iter().map(|ca_cert| ("HOLDFAST_CA_CERT", ca_cert)));
        command
    }

    /// Runs a command; its exit code, standard output and standard error.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        ended(self.command(args).output().unwrap())
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let (code, output, errors) = self.run(args);
        assert_eq!(code, 0, "holdfast {args:?} failed: {errors}\n{output}");
        output
    }

    /// Runs a command in another directory.
    pub fn run_in(&self, dir: &Path, args: &[&str]) -> (i32, String, String) {
        ended(self.command(args).current_dir(dir).output().unwrap())
    }

    /// What a storage server tells a name server of itself.
    pub fn storage_status(&self, number: usize) -> Option<StorageStatus> {
        let client = self.as_lost_name_server();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client.status(&self.try_peer(number)?, Duration::from_secs(5))).ok()
    }

    /// The metrics of the server at a URL.
    pub fn metrics(&self, url: &str) -> Option<String> {
        let http = Http { token: Some(SCRAPE_TOKEN.into()), base: url.into() };
        let ca_cert = self.ca_cert.as_ref().map(|path| path.display().to_string());
        let trusting = ca_cert.iter().flat_map(|path| ["--cacert", path.as_str()]);
        let url = format!("{url}/metrics");
        let args = trusting.chain(["--max-time", "5", url.as_str()]).collect::<Vec<_>>();
        Some(http.curl(&args)?.body)
    }

    pub fn http(&self) -> Http {
        Http { token: Some(self.token.clone()), base: self.name_server.url() }
    }

    pub fn try_get(&self, path: &str) -> Option<Value> {
        let url = format!("{}{path}", self.name_server.url());
        serde_json::from_str(&self.curl(&[&url])?.body).ok()
    }

    /// curl, which trusts the cluster's authority.
    pub fn curl(&self, args: &[&str]) -> Option<Answer> {
        let ca_cert = self.ca_cert.as_ref().map(|path| path.display().to_string());
        let trusting = ca_cert.iter().flat_map(|path| ["--cacert", path.as_str()]);
        self.http().curl(&trusting.chain(args.iter().copied()).collect::<Vec<_>>())
    }

    /// The last lines of each server's log, without the access log.
    pub fn logs(&self, lines: usize) -> String {
        let tail = |log: String| {
            let told: Vec<&str> = log.lines().filter(|line| !line.contains("access")).collect();
            told[told.len().saturating_sub(lines)..].join("\n")
        };
        let mut text = format!("--- name server ---\n{}", tail(self.name_server.log()));
        for (number, storage) in self.storage.iter().enumerate() {
            text.push_str(&format!("\n--- storage server {number} ---\n{}", tail(storage.log())));
        }
        text
    }

    pub fn get(&self, path: &str) -> Value {
        self.try_get(path).unwrap_or_else(|| panic!("GET {path} gave no JSON"))
    }
}

pub fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

impl Disk {
    /// Makes it, and answers the command that mounts it.
    fn mount(self, data: &Path) -> String {
        match self {
            Self::Memory(options) => format!("mount -t tmpfs -o {options} none"),
            Self::Ext4(megabytes) => {
                let image = image_of(data);
                std::fs::File::create(&image).unwrap().set_len(u64::from(megabytes) << 20).unwrap();
                let made = Command::new("mkfs.ext4").args(["-q", "-F", &image]).output().unwrap();
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                format!("mount -o loop,errors=remount-ro '{image}'")
            }
        }
    }
}

/// The file that an ext4 is in.
fn image_of(data: &Path) -> String {
    format!("{}.img", data.display())
}

/// Whether no loop device has a file open. A file system is let go of a moment after its last process has ended.
pub fn is_free(image: &str) -> bool {
    let listed = Command::new("losetup").args(["-j", image]).output().unwrap();
    listed.status.success() && listed.stdout.is_empty()
}

/// Whether file systems in files can be mounted here.
pub fn can_mount_loops() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !can {
        eprintln!("skipped: it needs root and loop devices");
    }
    can
}

/// A command that runs another one where `dir` is a file system of its own.
fn on_disk(dir: &Path, mount: &str) -> Vec<String> {
    std::fs::create_dir_all(dir).unwrap();
    let script = format!("{mount} '{}' && exec \"$@\"", dir.display());
    let user = if rustix::process::geteuid().is_root() { "--mount" } else { "--map-root-user" };
    ["unshare", user, "--mount", "sh", "-c", &script, "sh"].map(String::from).to_vec()
}

/// Plain HTTP by curl, as the README's reader would do it.
pub struct Http {
    pub token: Option<String>,
    pub base: String,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, self.body))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_string()
    }
}

impl Http {
    pub fn curl(&self, args: &[&str]) -> Option<Answer> {
        let mut command = Command::new("curl");
        command.args(["-sSL", "--max-time", "60", "-w", "\n%{http_code}"]).args(args);
        if let Some(token) = &self.token {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        let output = command.output().expect("the tests need curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n')?;
        Some(Answer { status: status.parse().ok()?, body: body.into() })
    }

    pub fn get(&self, path: &str) -> Answer {
        self.curl(&[&format!("{}{path}", self.base)]).unwrap()
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.curl(&["-H", "Content-Type: application/json", "-d", body, &format!("{}{path}", self.base)]).unwrap()
    }

    pub fn put(&self, path: &str, file: &Path, more: &[&str]) -> Answer {
        let url = format!("{}/files{path}", self.base);
        let args: Vec<&str> =
            ["-T", file.to_str().unwrap()].into_iter().chain(more.iter().copied()).chain([url.as_str()]).collect();
        self.curl(&args).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs(15));
        }
        self.kill_all();
    }
}
