//! The shell of actors that work in passes.
//!
//! A pass takes no input, is idempotent, does a bounded amount of work and says what it did. The shell runs
//! one at a time, with a deadline, catches a panic, writes the outcome down and schedules the next pass when
//! this one has ended, with jitter. [`Nudge`] brings the next pass forward.
//!
//! A pass runs on the actor's thread. One that waits for ever is dropped at its deadline; one that blocks the thread
//! keeps the shell from answering pings and is replaced with it. A shell whose pass is overdue all the same says so
//! when it is pinged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::BoxFuture;
use rand::Rng;

use super::board::Board;
use super::pass_report::PassReport;
use super::supervisor::{Handle, Life, OVERDUE, Ping, Supervisor, noting_panics, panic_message, while_alive};
use crate::types::{Error, Result, failpoint};

/// Runs passes.
pub trait Work: Send + Sync + 'static {
    /// One bounded pass.
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>>;
}

impl<F> Work for F
where
    F: Fn() -> BoxFuture<'static, Result<PassReport>> + Send + Sync + 'static,
{
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        self()
    }
}

/// How an actor's passes are timed.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From the end of a pass to the start of the next.
    pub interval: Duration,
    /// A pass that takes longer is given up.
    pub deadline: Duration,
}

/// Failed passes that do not slow an actor down.
const FAILURES_UNPUNISHED: u32 = 2;
/// The longest time between two passes that back-off alone leads to.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// The shell.
pub struct PassActor {
    name: &'static str,
    timing: Timing,
    work: Arc<dyn Work>,
    board: Board,
    life: Life,
    running: bool,
    /// Passes that have failed one after the other.
    failed: u32,
    /// By when the pass under way ends, or the next one begins, unless something is wrong.
    due: Instant,
    nudged: bool,
    scheduled: Option<SpawnHandle>,
}

/// Asks for a pass soon.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Nudge;

#[derive(Message)]
#[rtype(result = "()")]
struct Start;

impl PassActor {
    /// Starts one under a supervisor.
    pub fn supervise(
        supervisor: &Supervisor,
        board: &Board,
        name: &'static str,
        timing: Timing,
        work: impl Work,
    ) -> Handle<Self> {
        let (work, board): (Arc<dyn Work>, Board) = (Arc::new(work), board.clone());
        let timing = Timing { deadline: failpoint::deadline(name, timing.deadline), ..timing };
        supervisor.supervise(name, move |life| Self {
            name,
            timing,
            work: work.clone(),
            board: board.clone(),
            life,
            running: false,
            failed: 0,
            due: Instant::now(),
            nudged: false,
            scheduled: None,
        })
    }

    fn schedule(&mut self, wait: Duration, context: &mut Context<Self>) {
        if let Some(handle) = self.scheduled.take() {
            context.cancel_future(handle);
        }
        self.scheduled = Some(context.notify_later(Start, wait));
        self.due = Instant::now() + wait;
    }

    fn start(&mut self, context: &mut Context<Self>) {
        if self.running {
            return;
        }
        failpoint::in_shell(self.name);
        // It may have hung until now.
        if !self.life.is_alive() {
            return;
        }
        self.running = true;
        self.board.state(self.name, "running");
        let (name, work, started) = (self.name, self.work.clone(), Instant::now());
        self.due = started + self.timing.deadline;
        // Even what `pass` does before it answers a future belongs to the pass.
        let pass = async move {
            failpoint::in_pass(name).await;
            work.pass().await
        };
        // A task of its own: a panic in it is an error here and leaves the shell alive.
        let task = tokio::spawn(tokio::time::timeout(self.timing.deadline, while_alive(self.life.clone(), pass)));
        let pass = task.into_actor(self).map(move |joined, actor, context| {
            let outcome = match joined {
                Ok(Ok(Some(outcome))) => outcome,
                // This shell was replaced; what there is to say is the new one's to say.
                Ok(Ok(None)) => return,
                Ok(Err(_)) => Err(Error::unavailable(format!("the pass took longer than {:?}", actor.timing.deadline))),
                Err(error) => Err(actor.panicked(error)),
            };
            actor.ended(started.elapsed(), outcome, context);
        });
        context.spawn(pass);
    }

    fn panicked(&self, error: tokio::task::JoinError) -> Error {
        let message = join_message(error);
        if self.life.is_alive() {
            self.board.panicked(self.name, &message);
        }
        Error::internal(format!("the pass panicked: {message}"))
    }

    fn ended(&mut self, took: Duration, outcome: Result<PassReport>, context: &mut Context<Self>) {
        if !self.life.is_alive() {
            return;
        }
        self.running = false;
        let more = matches!(&outcome, Ok(report) if report.more) || std::mem::take(&mut self.nudged);
        self.failed = if outcome.is_ok() { 0 } else { self.failed.saturating_add(1) };
        match outcome {
            Ok(report) => {
                log::debug!("{}: {report} in {took:?}", self.name);
                self.board.pass(self.name, took, Ok(&report));
            }
            Err(error) => {
                log::warn!("{}: the pass failed: {}", self.name, error.chain());
                self.board.pass(self.name, took, Err(error.chain()));
            }
        }
        let wait = if more { Duration::ZERO } else { jittered(backed_off(self.timing.interval, self.failed)) };
        self.schedule(wait, context);
    }
}

/// The time to the next pass. What fails again and again is tried less often, so that it does not wear down what it fails
/// on, and often enough to be there soon when the cause has gone.
fn backed_off(interval: Duration, failed: u32) -> Duration {
    let doubled = interval.saturating_mul(1 << failed.saturating_sub(FAILURES_UNPUNISHED).min(8));
    doubled.min(BACK_OFF_MAX.max(interval))
}

/// Within a tenth of the interval, so that many servers do not march in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.95..1.05))
}

impl Actor for PassActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.schedule(Duration::ZERO, context);
    }
}

impl Handler<Ping> for PassActor {
    type Result = Option<String>;
    fn handle(&mut self, _: Ping, _: &mut Self::Context) -> Option<String> {
        let late = self.due.elapsed();
        (late > OVERDUE).then(|| match self.running {
            true => format!("is in a pass that should have ended {late:?} ago"),
            false => format!("should have begun a pass {late:?} ago"),
        })
    }
}

impl Handler<Nudge> for PassActor {
    type Result = ();
    fn handle(&mut self, _: Nudge, context: &mut Self::Context) {
        if self.running {
            self.nudged = true;
        } else {
            self.schedule(Duration::ZERO, context);
        }
    }
}

impl Handler<Start> for PassActor {
    type Result = ();
    fn handle(&mut self, _: Start, context: &mut Self::Context) {
        noting_panics(&self.board.clone(), self.name, || self.start(context));
    }
}

/// What the panic of a task said.
pub(super) fn join_message(error: tokio::task::JoinError) -> String {
    error.try_into_panic().map_or_else(|error| error.to_string(), |panic| panic_message(panic.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[actix::test]
    async fn passes_follow_each_other_and_survive_a_panic() {
        let board = Board::default();
        let supervisor = Supervisor::new(board.clone());
        let passes = Arc::new(AtomicUsize::new(0));
        let seen = passes.clone();
        let work = move || -> BoxFuture<'static, Result<PassReport>> {
            let number = seen.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                assert_ne!(number, 1, "the second pass panics");
                Ok(PassReport::of(vec![("things", number)]))
            })
        };
        let timing = Timing { interval: Duration::from_millis(10), deadline: Duration::from_secs(1) };
        let _handle = PassActor::supervise(&supervisor, &board, "worker", timing, work);
        let started = Instant::now();
        while passes.load(Ordering::SeqCst) < 4 {
            assert!(started.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let info = &board.all()[0];
        assert!(info.last_panic.as_deref().unwrap().contains("the second pass panics"));
        assert_eq!(info.restarts, 0);
    }

    struct OnDrop(Arc<AtomicUsize>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < Duration::from_secs(20), "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[actix::test]
    async fn a_pass_without_an_end_is_dropped_at_its_deadline() {
        let board = Board::default();
        let (passes, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, drops) = (passes.clone(), dropped.clone());
        let work = move || -> BoxFuture<'static, Result<PassReport>> {
            let (number, guard) = (seen.fetch_add(1, Ordering::SeqCst), OnDrop(drops.clone()));
            Box::pin(async move {
                let _guard = guard;
                if number == 0 {
                    std::future::pending::<()>().await;
                }
                Ok(PassReport::default())
            })
        };
        let timing = Timing { interval: Duration::from_millis(10), deadline: Duration::from_millis(100) };
        let _handle = PassActor::supervise(&Supervisor::new(board.clone()), &board, "endless", timing, work);
        until("the first pass is dropped", || dropped.load(Ordering::SeqCst) > 0).await;
        until("passes go on", || passes.load(Ordering::SeqCst) > 2).await;
        assert_eq!((board.all()[0].restarts, board.all()[0].last_panic.clone()), (0, None));
    }

    /// The thread of the first pass hangs in the middle of it; the pass may not go on beside its successors.
    #[actix::test]
    #[allow(clippy::await_holding_lock, reason = "another thread is to hang at it")]
    async fn a_pass_that_blocks_is_replaced_and_ends_at_its_next_step() {
        let board = Board::default();
        let gate = Arc::new(std::sync::Mutex::new(()));
        let (passes, went_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (held, inner) = (gate.lock(), (gate.clone(), passes.clone(), went_on.clone()));
        let work = move || -> BoxFuture<'static, Result<PassReport>> {
            let (gate, passes, went_on) = inner.clone();
            Box::pin(async move {
                if passes.fetch_add(1, Ordering::SeqCst) == 0 {
                    drop(gate.lock());
                    tokio::task::yield_now().await;
                    went_on.fetch_add(1, Ordering::SeqCst);
                }
                Ok(PassReport::default())
            })
        };
        let timing = Timing { interval: Duration::from_millis(10), deadline: Duration::from_secs(60) };
        let _handle = PassActor::supervise(&Supervisor::new(board.clone()), &board, "blocking", timing, work);
        until("it is replaced", || board.all()[0].restarts == 1).await;
        until("passes go on", || passes.load(Ordering::SeqCst) > 2).await;
        assert!(board.all()[0].last_error.is_none());
        drop(held);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((went_on.load(Ordering::SeqCst), board.all()[0].restarts), (0, 1));
    }

    #[actix::test]
    async fn a_shell_that_does_not_get_on_is_replaced() {
        let board = Board::default();
        let supervisor = Supervisor::new(board.clone());
        let (passes, first) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
        let seen = passes.clone();
        let work: Arc<dyn Work> = Arc::new(move || -> BoxFuture<'static, Result<PassReport>> {
            seen.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(PassReport::default()) })
        });
        let (timing, shown) =
            (Timing { interval: Duration::from_millis(10), deadline: Duration::from_secs(1) }, board.clone());
        let _handle = supervisor.supervise("stuck", move |life| PassActor {
            name: "stuck",
            timing,
            work: work.clone(),
            board: shown.clone(),
            life,
            // The first one believes for ever that a pass is under way.
            running: first.swap(0, Ordering::SeqCst) == 1,
            failed: 0,
            due: Instant::now(),
            nudged: false,
            scheduled: None,
        });
        until("it is replaced", || board.all()[0].restarts == 1).await;
        until("passes go on", || passes.load(Ordering::SeqCst) > 2).await;
        assert_eq!(board.all()[0].restarts, 1);
    }

    #[test]
    fn what_fails_again_and_again_is_tried_less_often_up_to_a_bound() {
        let second = Duration::from_secs(1);
        let waits = [0, 1, 2, 3, 4, 5, 6, 1_000, u32::MAX].map(|failed| backed_off(second, failed).as_secs());
        assert_eq!(waits, [1, 1, 1, 2, 4, 5, 5, 5, 5]);
        assert_eq!(backed_off(Duration::from_secs(600), 9), Duration::from_secs(600));
        assert_eq!(backed_off(Duration::MAX, 9), Duration::MAX);
    }
}
