//! One-for-one supervision that is real.
//!
//! actix's own `Supervisor` restarts an actor that stops, not one that panics: after a panic the mailbox is
//! closed and every send fails, while the process looks healthy. Here each child lives on an arbiter (thread)
//! of its own and is pinged; one that panicked, stopped or hangs is replaced by a new one on a fresh arbiter,
//! with back-off, while the others go on. Nobody keeps an `Addr` across restarts: a [`Handle`] follows them.
//! A child that keeps dying ends the process with exit code 70, for systemd or an orchestrator to restart it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::prelude::*;

use super::board::Board;
use crate::types::{Error, ErrorCode, Result};

/// How often a child is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A child that does not answer within this time hangs.
const PING_DEADLINE: Duration = Duration::from_secs(3);
/// Restarts of one child within [`RESTART_WINDOW`] that are put up with.
const RESTARTS_MAX: usize = 5;
/// See [`RESTARTS_MAX`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// The exit code of a process that gave up (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_GAVE_UP: i32 = 70;

/// Asks an actor whether it is alive.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Ping;

/// Finds the present incarnation of a supervised actor. Cheap to clone.
pub struct Handle<A: Actor> {
    current: Arc<RwLock<Option<Addr<A>>>>,
    name: &'static str,
}

impl<A: Actor> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), name: self.name }
    }
}

impl<A: Actor> Handle<A> {
    fn empty(name: &'static str) -> Self {
        Self { current: Arc::default(), name }
    }

    fn address(&self) -> Option<Addr<A>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, address: Addr<A>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Sends a message and waits for its answer, at most for `deadline`. An actor that is being restarted is
    /// `unavailable`; then, and after the deadline, what became of the message is not known.
    pub async fn send<M>(&self, message: M, deadline: Duration) -> Result<M::Result>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let unavailable = |why: &str| Error::unavailable(format!("the actor {} {why}", self.name));
        let address = self.address().ok_or_else(|| unavailable("has not started"))?;
        match tokio::time::timeout(deadline, address.send(message)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(unavailable("is being restarted; try again").with_source(error)),
            Err(_) => Err(unavailable("did not answer in time")),
        }
    }

    /// Sends a message that carries no work; when the mailbox is full it is dropped.
    pub fn nudge<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        if let Some(address) = self.address() {
            // A full mailbox means that it has enough to do.
            let _ = address.try_send(message);
        }
    }
}

/// What may be supervised.
pub trait Supervised: Actor<Context = Context<Self>> + Handler<Ping> {}

impl<A: Actor<Context = Context<A>> + Handler<Ping>> Supervised for A {}

/// Starts actors and keeps them alive.
#[derive(Debug, Clone)]
pub struct Supervisor {
    board: Board,
}

impl Supervisor {
    /// A supervisor that writes down on `board` what it does.
    pub fn new(board: Board) -> Self {
        Self { board }
    }

    /// Starts a child, made by `factory` whenever a new one is needed, and watches it until the process ends.
    pub fn supervise<A, F>(&self, name: &'static str, factory: F) -> Handle<A>
    where
        A: Supervised,
        F: Fn() -> A + Clone + Send + 'static,
    {
        let handle = Handle::empty(name);
        let mut arbiter = start(&handle, factory.clone());
        let (board, watched) = (self.board.clone(), handle.clone());
        board.state(name, "waiting");
        actix::spawn(async move {
            let mut restarts = VecDeque::new();
            loop {
                tokio::time::sleep(PING_INTERVAL).await;
                let Err(error) = watched.send(Ping, PING_DEADLINE).await else { continue };
                log::error!("{error}; it is replaced");
                board.state(name, "restarting");
                let wait = back_off(&mut restarts, Instant::now()).unwrap_or_else(|| give_up(name));
                tokio::time::sleep(wait).await;
                arbiter.stop();
                arbiter = start(&watched, factory.clone());
                board.restarted(name);
                board.state(name, "waiting");
            }
        });
        handle
    }
}

/// A new incarnation on a fresh arbiter. A thread that hangs cannot be ended; it is left behind.
fn start<A: Supervised, F: Fn() -> A + Send + 'static>(handle: &Handle<A>, factory: F) -> Arbiter {
    let arbiter = Arbiter::new();
    let address = A::start_in_arbiter(&arbiter.handle(), move |_| factory());
    handle.replace(address);
    arbiter
}

/// How long to wait before the next restart: nothing at first, then doubling from 100 ms. `None` after too many.
fn back_off(restarts: &mut VecDeque<Instant>, now: Instant) -> Option<Duration> {
    restarts.push_back(now);
    while restarts.front().is_some_and(|first| now.duration_since(*first) > RESTART_WINDOW) {
        restarts.pop_front();
    }
    match restarts.len() {
        0 | 1 => Some(Duration::ZERO),
        count if count > RESTARTS_MAX => None,
        count => Some(Duration::from_millis(100 << (count - 2))),
    }
}

fn give_up(name: &str) -> Duration {
    log::error!(
        "the actor {name} died more than {RESTARTS_MAX} times within {RESTART_WINDOW:?}: the process ends with code {EXIT_GAVE_UP}"
    );
    log::logger().flush();
    std::process::exit(EXIT_GAVE_UP)
}

/// The error of work that was given to an actor and lost with it.
pub fn lost(name: &str) -> Error {
    Error::new(
        ErrorCode::Unavailable,
        format!("the actor {name} was restarted; whether the work was done is not known"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Count;
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Panic;
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Hang;

    #[derive(Default)]
    struct Child {
        count: u32,
    }
    impl Actor for Child {
        type Context = Context<Self>;
    }
    impl Handler<Ping> for Child {
        type Result = ();
        fn handle(&mut self, _: Ping, _: &mut Self::Context) {}
    }
    impl Handler<Count> for Child {
        type Result = u32;
        fn handle(&mut self, _: Count, _: &mut Self::Context) -> u32 {
            self.count += 1;
            self.count
        }
    }
    impl Handler<Panic> for Child {
        type Result = ();
        fn handle(&mut self, _: Panic, _: &mut Self::Context) {
            panic!("as the test asked");
        }
    }
    impl Handler<Hang> for Child {
        type Result = ();
        fn handle(&mut self, _: Hang, _: &mut Self::Context) {
            std::thread::sleep(Duration::from_secs(15));
        }
    }
    impl actix::Supervised for Child {}

    async fn until_first_count(handle: &Handle<Child>) {
        let started = Instant::now();
        loop {
            if let Ok(1) = handle.send(Count, Duration::from_millis(200)).await {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "it was not replaced");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[actix::test]
    async fn a_child_that_panics_or_hangs_is_replaced_and_its_neighbour_goes_on() {
        let board = Board::default();
        let supervisor = Supervisor::new(board.clone());
        let (child, neighbour) =
            (supervisor.supervise("child", Child::default), supervisor.supervise("neighbour", Child::default));
        for n in 1..=3 {
            assert_eq!(child.send(Count, Duration::from_secs(1)).await.unwrap(), n);
            assert_eq!(neighbour.send(Count, Duration::from_secs(1)).await.unwrap(), n);
        }
        assert!(child.send(Panic, Duration::from_secs(1)).await.is_err());
        until_first_count(&child).await;
        child.nudge(Hang);
        until_first_count(&child).await;
        assert_eq!(neighbour.send(Count, Duration::from_secs(1)).await.unwrap(), 4);
        let restarts: Vec<u64> = board.all().iter().map(|info| info.restarts).collect();
        assert_eq!(restarts, [2, 0]);
    }

    /// The trap that this module exists for.
    #[actix::test]
    async fn the_supervisor_of_actix_does_not_restart_an_actor_that_panicked() {
        let address = actix::Supervisor::start(|_| Child::default());
        assert_eq!(address.send(Count).await.unwrap(), 1);
        assert!(address.send(Panic).await.is_err());
        assert!(address.send(Count).await.is_err(), "actix restarts panicked actors now; use its supervisor");
    }

    #[test]
    fn restarts_wait_longer_and_end() {
        let (mut restarts, now) = (VecDeque::new(), Instant::now());
        let waits: Vec<_> = (0..6).map(|_| back_off(&mut restarts, now).map(|wait| wait.as_millis())).collect();
        assert_eq!(waits, [Some(0), Some(100), Some(200), Some(400), Some(800), None]);
        let later = now + RESTART_WINDOW + Duration::from_secs(1);
        assert_eq!(back_off(&mut restarts, later), Some(Duration::ZERO));
    }
}
