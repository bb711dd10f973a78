//! The shell of actors that work in passes.
//!
//! A pass takes no input, is idempotent, does a bounded amount of work and says what it did. The shell runs
//! one at a time, with a deadline, catches a panic, writes the outcome down and schedules the next pass when
//! this one has ended, with jitter. [`Nudge`] brings the next pass forward.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::BoxFuture;
use rand::Rng;

use super::board::Board;
use super::supervisor::{Handle, Ping, Supervisor};
use crate::types::{Error, Result};

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassReport {
    /// Named counts; those of zero are not shown.
    pub counts: Vec<(&'static str, usize)>,
    /// There is more to do: the next pass comes at once.
    pub more: bool,
}

impl PassReport {
    /// Another name server holds the lease and does the work.
    pub fn standby() -> Self {
        Self { counts: vec![("standing by: another name server acts", 1)], more: false }
    }
}

impl fmt::Display for PassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> =
            self.counts.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(if shown.is_empty() { "nothing to do" } else { "" })?;
        f.write_str(&shown.join(", "))
    }
}

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

/// The shell.
pub struct PassActor {
    name: &'static str,
    timing: Timing,
    work: Arc<dyn Work>,
    board: Board,
    running: bool,
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
        supervisor.supervise(name, move || Self {
            name,
            timing,
            work: work.clone(),
            board: board.clone(),
            running: false,
            nudged: false,
            scheduled: None,
        })
    }

    fn schedule(&mut self, wait: Duration, context: &mut Context<Self>) {
        if let Some(handle) = self.scheduled.take() {
            context.cancel_future(handle);
        }
        self.scheduled = Some(context.notify_later(Start, wait));
    }

    fn ended(&mut self, took: Duration, outcome: Result<PassReport>, context: &mut Context<Self>) {
        self.running = false;
        let more = matches!(&outcome, Ok(report) if report.more) || std::mem::take(&mut self.nudged);
        match outcome {
            Ok(report) => {
                log::debug!("{}: {report} in {took:?}", self.name);
                self.board.pass(self.name, took, Ok(report.to_string()));
            }
            Err(error) => {
                log::warn!("{}: the pass failed: {}", self.name, error.chain());
                self.board.pass(self.name, took, Err(error.chain()));
            }
        }
        let wait = if more { Duration::ZERO } else { jittered(self.timing.interval) };
        self.schedule(wait, context);
    }
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
    type Result = ();
    fn handle(&mut self, _: Ping, _: &mut Self::Context) {}
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
        if std::mem::replace(&mut self.running, true) {
            return;
        }
        self.board.state(self.name, "running");
        let started = Instant::now();
        // A task of its own: a panic in it is an error here and leaves the shell alive.
        let task = tokio::spawn(tokio::time::timeout(self.timing.deadline, self.work.pass()));
        let pass = task.into_actor(self).map(move |joined, actor, context| {
            let outcome = match joined {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(Error::unavailable(format!("the pass took longer than {:?}", actor.timing.deadline))),
                Err(error) => {
                    let message = panic_message(error);
                    actor.board.panicked(actor.name, &message);
                    Err(Error::internal(format!("the pass panicked: {message}")))
                }
            };
            actor.ended(started.elapsed(), outcome, context);
        });
        context.spawn(pass);
    }
}

/// What a panic said.
pub(super) fn panic_message(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => payload
            .downcast_ref::<&str>()
            .map(|text| text.to_string())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a message".into()),
        Err(error) => error.to_string(),
    }
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
                Ok(PassReport { counts: vec![("things", number)], more: false })
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

    #[test]
    fn reports_read_well() {
        let report = PassReport { counts: vec![("deleted", 3), ("failed", 0), ("rows", 2)], more: false };
        assert_eq!(report.to_string(), "3 deleted, 2 rows");
        assert_eq!(PassReport::default().to_string(), "nothing to do");
    }
}
