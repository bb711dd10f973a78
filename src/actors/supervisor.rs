//! One-for-one supervision that is real.
//!
//! actix's own `Supervisor` restarts an actor that stops, not one that panics: after a panic the mailbox is
//! closed and every send fails, while the process looks healthy. Here each child lives on an arbiter (thread)
//! of its own and is pinged; one that panicked, stopped, hangs or does not get on is replaced by a new one on a
//! fresh arbiter, with back-off, while the others go on. Nobody keeps an `Addr` across restarts: a [`Handle`]
//! follows them. A child that keeps dying ends the process with exit code 70, for systemd or an orchestrator to
//! restart it.
//!
//! A thread that hangs cannot be ended: it is left behind, and may wake up later with its actor and whatever that
//! was doing. So each incarnation has a [`Life`], which ends when it is found dead: from then on it starts nothing,
//! writes nothing on the board, and its work ends at its next await ([`while_alive`]). The step under way, such as
//! a transaction, may still be completed beside the new incarnation's; work must be able to bear that.

use std::any::Any;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::prelude::*;
use parking_lot::RwLock;

use super::board::Board;
use crate::types::{Error, ErrorCode, Result};

/// How often a child is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A child that does not answer within this time hangs.
const PING_DEADLINE: Duration = Duration::from_secs(3);
/// An answer that is missing for longer than [`PING_DEADLINE`] and this says more about the watcher, who has not
/// run either, than about the child: the machine or the process stood still.
const WATCHER_LATE: Duration = Duration::from_secs(1);
/// What a child does may take so much longer than its own deadline before the child counts as stuck.
pub(super) const OVERDUE: Duration = Duration::from_secs(3);
/// Restarts of one child within [`RESTART_WINDOW`] that are put up with.
const RESTARTS_MAX: usize = 5;
/// See [`RESTARTS_MAX`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// The exit code of a process that gave up (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_GAVE_UP: i32 = 70;

/// Asks an actor whether it is alive and gets on. One that does not get on says why.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Option<String>")]
pub struct Ping;

/// The life of one incarnation of a supervised actor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Life {
    number: u64,
    current: Arc<AtomicU64>,
}

impl Life {
    /// Whether this incarnation has not been found dead.
    pub fn is_alive(&self) -> bool {
        self.current.load(Ordering::Acquire) == self.number
    }
}

/// Does work of an incarnation as long as that lives; `None` when it ended before. It is asked before each step.
pub async fn while_alive<T>(life: Life, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| if life.is_alive() { work.as_mut().poll(context).map(Some) } else { Poll::Ready(None) }).await
}

/// Writes a panic of an actor's own code down before the actor dies of it.
pub(super) fn noting_panics<T>(board: &Board, name: &str, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        board.panicked(name, &panic_message(panic.as_ref()));
        resume_unwind(panic)
    })
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

/// Finds the present incarnation of a supervised actor. Cheap to clone.
pub struct Handle<A: Actor> {
    current: Arc<RwLock<Option<Addr<A>>>>,
    life: Arc<AtomicU64>,
    name: &'static str,
}

impl<A: Actor> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), life: self.life.clone(), name: self.name }
    }
}

impl<A: Actor> Handle<A> {
    fn empty(name: &'static str) -> Self {
        Self { current: Arc::default(), life: Arc::default(), name }
    }

    fn address(&self) -> Option<Addr<A>> {
        self.current.read().clone()
    }

    /// Ends the life of the present incarnation, and answers that of the next one.
    fn next_life(&self) -> Life {
        let number = self.life.fetch_add(1, Ordering::AcqRel) + 1;
        Life { number, current: self.life.clone() }
    }

    fn replace(&self, address: Option<Addr<A>>) {
        *self.current.write() = address;
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
        F: Fn(Life) -> A + Clone + Send + 'static,
    {
        let handle = Handle::empty(name);
        let arbiter = start(&handle, &factory);
        self.board.state(name, "waiting");
        let watch = actix::spawn(watch(self.board.clone(), handle.clone(), factory, arbiter));
        actix::spawn(async move {
            // Nobody may go unwatched.
            if watch.await.is_err_and(|error| error.is_panic()) {
                log::error!("the watcher of the actor {name} panicked");
                give_up(name);
            }
        });
        handle
    }
}

async fn watch<A, F>(board: Board, child: Handle<A>, factory: F, mut arbiter: Option<Arbiter>)
where
    A: Supervised,
    F: Fn(Life) -> A + Clone + Send + 'static,
{
    let mut restarts = VecDeque::new();
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        let Some(why) = trouble(&child).await else { continue };
        log::error!("{why}; it is replaced");
        drop(child.next_life());
        if let Some(arbiter) = arbiter.take() {
            // Ends what still runs there, once the thread does anything again.
            arbiter.stop();
        }
        board.failing(child.name, &why);
        let wait = back_off(&mut restarts, Instant::now()).unwrap_or_else(|| give_up(child.name));
        tokio::time::sleep(wait).await;
        arbiter = start(&child, &factory);
        board.restarted(child.name);
    }
}

/// Why a child has to be replaced.
async fn trouble<A: Supervised>(child: &Handle<A>) -> Option<String> {
    let asked = Instant::now();
    let mut answer = child.send(Ping, PING_DEADLINE).await;
    if matches!(answer, Ok(Some(_))) {
        // Asked twice: after the process stood still, what is due just has not had its turn yet.
        tokio::time::sleep(PING_INTERVAL).await;
        answer = child.send(Ping, PING_DEADLINE).await;
    } else if answer.is_err() && asked.elapsed() > PING_DEADLINE + WATCHER_LATE {
        return None;
    }
    match answer {
        Ok(stuck) => stuck.map(|why| format!("the actor {} {why}", child.name)),
        Err(error) => Some(error.message().to_string()),
    }
}

/// A new incarnation on a fresh arbiter. A thread that hangs cannot be ended; it is left behind. Without a thread
/// the child stays dead, and the watcher finds it so.
fn start<A, F>(handle: &Handle<A>, factory: &F) -> Option<Arbiter>
where
    A: Supervised,
    F: Fn(Life) -> A + Clone + Send + 'static,
{
    let (life, factory) = (handle.next_life(), factory.clone());
    match Arbiter::try_new() {
        Ok(arbiter) => {
            handle.replace(Some(A::start_in_arbiter(&arbiter.handle(), move |_| factory(life))));
            Some(arbiter)
        }
        Err(error) => {
            log::error!("the actor {} gets no thread: {error}", handle.name);
            handle.replace(None);
            None
        }
    }
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

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Stick;

    #[derive(Default)]
    struct Child {
        count: u32,
        stuck: bool,
    }

    fn child(_: Life) -> Child {
        Child::default()
    }
    impl Actor for Child {
        type Context = Context<Self>;
    }
    impl Handler<Ping> for Child {
        type Result = Option<String>;
        fn handle(&mut self, _: Ping, _: &mut Self::Context) -> Option<String> {
            self.stuck.then(|| "does not get on".into())
        }
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
    impl Handler<Stick> for Child {
        type Result = ();
        fn handle(&mut self, _: Stick, _: &mut Self::Context) {
            self.stuck = true;
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
    async fn a_child_that_panics_hangs_or_sticks_is_replaced_and_its_neighbour_goes_on() {
        let board = Board::default();
        let supervisor = Supervisor::new(board.clone());
        let (one, neighbour) = (supervisor.supervise("child", child), supervisor.supervise("neighbour", child));
        for n in 1..=3 {
            assert_eq!(one.send(Count, Duration::from_secs(1)).await.unwrap(), n);
            assert_eq!(neighbour.send(Count, Duration::from_secs(1)).await.unwrap(), n);
        }
        assert!(one.send(Panic, Duration::from_secs(1)).await.is_err());
        until_first_count(&one).await;
        one.nudge(Hang);
        until_first_count(&one).await;
        one.nudge(Stick);
        until_first_count(&one).await;
        assert_eq!(neighbour.send(Count, Duration::from_secs(1)).await.unwrap(), 4);
        let restarts: Vec<u64> = board.all().iter().map(|info| info.restarts).collect();
        assert_eq!(restarts, [3, 0]);
    }

    /// The trap that this module exists for.
    #[actix::test]
    async fn the_supervisor_of_actix_does_not_restart_an_actor_that_panicked() {
        let address = actix::Supervisor::start(|_| Child::default());
        assert_eq!(address.send(Count).await.unwrap(), 1);
        assert!(address.send(Panic).await.is_err());
        assert!(address.send(Count).await.is_err(), "actix restarts panicked actors now; use its supervisor");
    }

    #[tokio::test]
    async fn work_ends_with_the_life_that_it_belongs_to() {
        let handle = Handle::<Child>::empty("child");
        let (life, mut steps) = (handle.next_life(), 0);
        let work = async {
            for _ in 0..5 {
                steps += 1;
                tokio::task::yield_now().await;
                if steps == 2 {
                    drop(handle.next_life());
                }
            }
        };
        assert_eq!(while_alive(life.clone(), work).await, None);
        assert_eq!((steps, life.is_alive()), (3, false), "the step under way is the last");
        assert_eq!(while_alive(handle.next_life(), async { 7 }).await, Some(7));
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
