//! Connections: how many there may be, and which ones are closed to make room.
//!
//! A connection is a *stranger's* until a request on it has shown a valid token, ticket or credential, and again after
//! one that has not. Strangers are few: when there are more than their limit, the one that has waited longest between
//! two requests is closed, so that whoever holds connections open takes them from himself. One whose request is being
//! answered is spared, and while there is room one that has just come: those who arrive together are not each other's
//! enemies.
//!
//! A connection on which no request begins for too long is closed, whatever trickles in on it: the server's own limit
//! covers only the first request of a connection. A peer that takes nothing of what is sent to it is given up by the
//! kernel.
//!
//! All of this works on a second handle of the socket, so a connection costs two files. The limits follow from how many
//! the process may have.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream as ServedStream;
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::types::limits::{KEEP_ALIVE_TIMEOUT, REQUEST_HEAD_TIMEOUT, SEND_STALL_TIMEOUT};

/// Connections at most, however many files there may be.
const CONNECTIONS_MAX: usize = 16_384;
/// Connections of strangers at most.
const STRANGERS_MAX: usize = 128;
/// Files that are not for connections: the database, the index, the journal, logs.
const FILES_RESERVED: u64 = 64;
/// Files for each connection: its socket, the second handle of it, and what is open for its request.
const FILES_PER_CONNECTION: u64 = 3;
/// How long a stranger's connection is spared while there is room.
const SPARED: Duration = Duration::from_secs(1);
/// How often connections are looked through that wait too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is told at most that strangers were closed.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Raises the number of files that the process may have open as far as it is allowed to. Answers that number.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            log::warn!("the limit of open files stays at {:?}: {error}", limit.current);
            limit.current
        }
    }
    .unwrap_or(u64::MAX)
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All of them.
    pub connections_max: usize,
    /// Those of strangers.
    pub strangers_max: usize,
}

impl Limits {
    /// For a process that may have so many files.
    pub fn of_files(files_max: u64) -> Self {
        let affordable = files_max.saturating_sub(FILES_RESERVED) / FILES_PER_CONNECTION;
        let connections_max = usize::try_from(affordable).unwrap_or(usize::MAX).clamp(16, CONNECTIONS_MAX);
        Self { connections_max, strangers_max: STRANGERS_MAX.min(connections_max / 2) }
    }

    /// For this process.
    pub fn of_process() -> Self {
        Self::of_files(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    /// The share of one of `workers` threads.
    pub fn per_worker(&self, workers: usize) -> usize {
        (self.connections_max / workers.max(1)).max(1)
    }
}

/// A connection on which no request is being answered.
struct Waiting {
    since: Instant,
    socket: Arc<TcpStream>,
}

/// Those that wait, in the order in which they began to.
#[derive(Default)]
struct Queues {
    /// All connections, also those that do not wait.
    all: usize,
    next: u64,
    strangers: BTreeMap<u64, Waiting>,
    known: BTreeMap<u64, Waiting>,
    told: Option<Instant>,
}

impl Queues {
    /// Takes those out that are to be closed at `now`.
    fn overdue(&mut self, now: Instant) -> Vec<Waiting> {
        let limit = KEEP_ALIVE_TIMEOUT + REQUEST_HEAD_TIMEOUT;
        let mut found = Vec::new();
        for queue in [&mut self.strangers, &mut self.known] {
            while let Some(first) = queue.first_entry()
                && now.saturating_duration_since(first.get().since) > limit
            {
                found.push(first.remove());
            }
        }
        found
    }

    /// Takes the strangers out that are too many at `now`.
    fn surplus(&mut self, limits: Limits, now: Instant) -> Vec<Waiting> {
        let spared = if self.all < limits.connections_max / 2 { SPARED } else { Duration::ZERO };
        let mut found = Vec::new();
        while self.strangers.len() > limits.strangers_max
            && let Some(first) = self.strangers.first_entry()
            && now.saturating_duration_since(first.get().since) >= spared
        {
            found.push(first.remove());
        }
        found
    }
}

/// All connections of a server.
pub struct Connections {
    limits: Limits,
    queues: Mutex<Queues>,
}

impl Connections {
    /// None yet. Those that wait too long are closed by a task of its own, for which an actix system must run.
    pub fn watched(limits: Limits) -> Arc<Self> {
        let all = Arc::new(Self { limits, queues: Mutex::default() });
        let watched = Arc::downgrade(&all);
        actix_web::rt::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let Some(all) = watched.upgrade() else { return };
                let overdue = all.queues().overdue(Instant::now());
                close(&overdue);
            }
        });
        all
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock()
    }

    /// Takes a new connection in; for `HttpServer::on_connect`.
    pub fn greet(self: &Arc<Self>, io: &dyn Any, data: &mut Extensions) {
        let tls = || io.downcast_ref::<TlsStream<ServedStream>>().map(|stream| stream.get_ref().0);
        let Some(stream) = io.downcast_ref::<ServedStream>().or_else(tls) else { return };
        let stall_ms = u32::try_from(SEND_STALL_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, stall_ms) {
            log::debug!("a connection has no limit for what is not taken: {error}");
        }
        match stream.as_fd().try_clone_to_owned() {
            Ok(handle) => {
                data.insert(Connection::new(self.clone(), handle.into()));
            }
            Err(error) => {
                log::debug!("a connection is closed, because no second handle of it could be had: {error}");
                // It may have gone by itself.
                let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Both);
            }
        }
        self.make_room();
    }

    fn make_room(&self) {
        let now = Instant::now();
        let mut queues = self.queues();
        let surplus = queues.surplus(self.limits, now);
        if surplus.is_empty() {
            return;
        }
        let tell = queues.told.is_none_or(|told| now - told >= TELL_INTERVAL);
        if tell {
            queues.told = Some(now);
        }
        drop(queues);
        if tell {
            log::warn!(
                "more than {} connections have shown no valid token, ticket or credential: those that wait longest are \
                 closed",
                self.limits.strangers_max
            );
        }
        close(&surplus);
    }
}

fn close(connections: &[Waiting]) {
    for waiting in connections {
        // It may have ended by itself.
        let _ = waiting.socket.shutdown(Shutdown::Both);
    }
}

/// A connection, in the data that its requests share.
#[derive(Clone)]
pub struct Connection(Rc<Served>);

struct Served {
    all: Arc<Connections>,
    socket: Arc<TcpStream>,
    known: Cell<bool>,
    /// Requests that are being answered; more than one when they come in a row without waiting for answers.
    under_way: Cell<usize>,
    /// Where it stands in its queue, if none is.
    place: Cell<u64>,
}

impl Served {
    fn wait(&self) {
        let mut queues = self.all.queues();
        let place = queues.next;
        queues.next += 1;
        self.place.set(place);
        let waiting = Waiting { since: Instant::now(), socket: self.socket.clone() };
        let queue = if self.known.get() { &mut queues.known } else { &mut queues.strangers };
        queue.insert(place, waiting);
    }

    fn leave(&self) {
        let mut queues = self.all.queues();
        queues.known.remove(&self.place.get());
        queues.strangers.remove(&self.place.get());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.leave();
        self.all.queues().all -= 1;
    }
}

impl Connection {
    fn new(all: Arc<Connections>, socket: TcpStream) -> Self {
        all.queues().all += 1;
        let (known, under_way, place) = (Cell::new(false), Cell::new(0), Cell::new(0));
        let served = Served { all, socket: Arc::new(socket), known, under_way, place };
        served.wait();
        Self(Rc::new(served))
    }

    /// Notes whether the sender of the request that is being answered has proven who it is.
    pub fn note_sender(&self, known: bool) {
        self.0.known.set(known);
    }

    /// A request begins; it ends when what is answered is dropped, after its last byte.
    pub fn begin(&self) -> UnderWay {
        let under_way = self.0.under_way.get();
        if under_way == 0 {
            self.0.leave();
        }
        self.0.under_way.set(under_way + 1);
        UnderWay(self.0.clone())
    }
}

/// A request that is being answered.
pub struct UnderWay(Rc<Served>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let left = self.0.under_way.get().saturating_sub(1);
        self.0.under_way.set(left);
        if left == 0 {
            self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn limits_follow_from_the_number_of_files() {
        for (files, connections, strangers) in
            [(20, 16, 8), (256, 64, 32), (1_024, 320, 128), (20_000, 6_645, 128), (u64::MAX, 16_384, 128)]
        {
            let limits = Limits::of_files(files);
            assert_eq!((limits.connections_max, limits.strangers_max), (connections, strangers), "{files} files");
        }
        assert_eq!(Limits::of_files(256).per_worker(4), 16);
    }

    /// Both ends of a connection.
    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn strangers_that_wait_longest_make_room_and_others_are_spared() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let limits = Limits { connections_max: 20, strangers_max: 2 };
        let all = Arc::new(Connections { limits, queues: Mutex::default() });
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let (client, socket) = pair(&listener);
            clients.push(client);
            served.push(Connection::new(all.clone(), socket));
        }
        // The first shows a token, the second is being answered.
        let first = served[0].begin();
        served[0].note_sender(true);
        drop(first);
        let second = served[1].begin();
        let now = Instant::now();
        assert!(all.queues().surplus(limits, now).is_empty(), "they have just come");
        let surplus = all.queues().surplus(limits, now + SPARED * 2);
        assert_eq!(surplus.len(), 1, "three strangers wait");
        close(&surplus);
        assert_eq!(clients[2].read(&mut [0]).unwrap(), 0, "the oldest of them is closed");
        // What it answers was refused: it waits as a stranger, behind the others.
        drop(second);
        assert_eq!(all.queues().strangers.len(), 3);
        served[0].note_sender(false);
        drop(served[0].begin());
        assert_eq!(all.queues().strangers.len(), 4);
        // Where there is no room for more, nobody is spared.
        let scarce = Limits { connections_max: 10, strangers_max: 3 };
        assert_eq!(all.queues().surplus(scarce, Instant::now()).len(), 1);
        assert!(all.queues().known.is_empty());
        // Nobody waits for ever.
        assert!(all.queues().overdue(now + KEEP_ALIVE_TIMEOUT).is_empty());
        assert_eq!(all.queues().overdue(Instant::now() + KEEP_ALIVE_TIMEOUT + REQUEST_HEAD_TIMEOUT * 2).len(), 3);
        served.clear();
        assert!(all.queues().strangers.is_empty());
        assert_eq!(all.queues().all, 0);
    }
}
