//! A server's process: started, killed, paused, started again; and again by itself when it gives up, as systemd would.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::cluster::SECRET;
use crate::common::wait_for;
use crate::network::Host;

/// The port of every server on a host of its own.
const PORT: u16 = 7_400;
/// How long after its end a server is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

pub struct Server {
    pub name: String,
    pub address: SocketAddr,
    /// Where it runs, when the cluster has a network of its own.
    pub host: Option<Host>,
    program: &'static str,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    /// The beginning of its command line.
    wrapper: Vec<String>,
    log: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    /// Nobody has killed it on purpose.
    wanted: bool,
    /// When it last ended by itself.
    ended: Option<Instant>,
}

/// What a server is made of.
pub struct Recipe {
    pub name: String,
    pub program: &'static str,
    pub args: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub wrapper: Vec<String>,
    pub log: PathBuf,
    pub host: Option<Host>,
}

impl Server {
    /// Starts it; it may take a while until it listens.
    pub fn new(recipe: Recipe) -> Self {
        let Recipe { name, program, mut args, environment, wrapper, log, host } = recipe;
        let address = match &host {
            Some(host) => SocketAddr::from((host.address, PORT)),
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap(),
        };
        args.extend(["--listen".into(), address.to_string()]);
        if host.is_some() {
            args.push("--insecure-http".into());
        }
        let state = Mutex::default();
        let server = Self { name, address, host, program, args, environment, wrapper, log, state };
        server.start();
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts it if it does not run.
    pub fn start(&self) {
        let mut state = self.state.lock().unwrap();
        state.wanted = true;
        if state.child.is_none() {
            state.child = Some(self.spawn());
        }
    }

    fn spawn(&self) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut line = self.host.as_ref().map(Host::wrapper).unwrap_or_default();
        line.extend(self.wrapper.iter().cloned());
        line.push(self.program.into());
        line.extend(self.args.iter().cloned());
        Command::new(&line[0])
            .args(&line[1..])
            .env("HOLDFAST_CLUSTER_SECRET", SECRET)
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub fn wait_until_it_listens(&self) {
        let timeout = Duration::from_millis(500);
        wait_for(&format!("{} listens", self.name), 30, || TcpStream::connect_timeout(&self.address, timeout).ok());
    }

    /// `kill -9`. Whether it ran.
    pub fn kill(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        // One that has ended by itself is started again all the same: nobody else would.
        let Some(mut child) = state.child.take() else { return false };
        state.wanted = false;
        let _ = child.kill();
        child.wait().unwrap();
        true
    }

    /// `kill -9`, whether it runs or not, and nobody starts it again.
    pub fn end(&self) {
        self.kill();
        self.state.lock().unwrap().wanted = false;
    }

    /// Starts it again some time after it has ended by itself. How it ended, when that is seen first.
    pub fn revive(&self) -> Option<ExitStatus> {
        let mut state = self.state.lock().unwrap();
        if let Some(status) = state.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
            state.child = None;
            state.ended = Some(Instant::now());
            return Some(status);
        }
        let is_due = state.ended.is_some_and(|ended| ended.elapsed() > RESTART_AFTER);
        if state.child.is_none() && state.wanted && is_due {
            state.child = Some(self.spawn());
        }
        None
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.state.lock().unwrap().child.as_ref().map(Child::id)
    }

    /// Stops it (SIGSTOP). Its process id, by which it is let go on.
    pub fn pause(&self) -> Option<u32> {
        let state = self.state.lock().unwrap();
        let pid = state.child.as_ref()?.id();
        signal(pid, Signal::STOP);
        Some(pid)
    }

    /// Lets it go on (SIGCONT) if it is still the same process.
    pub fn resume(&self, pid: u32) {
        let state = self.state.lock().unwrap();
        if state.child.as_ref().is_some_and(|child| child.id() == pid) {
            signal(pid, Signal::CONT);
        }
    }

    /// Whatever was done to its process, undoes it.
    pub fn heal(&self) {
        let pid = self.state.lock().unwrap().child.as_ref().map(Child::id);
        pid.into_iter().for_each(|pid| self.resume(pid));
        self.start();
    }
}

/// Only ever called with the id of a child that has not been waited for.
fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
