//! The shell of actors that do together what many asked for: group commit.
//!
//! What is submitted waits in a bounded queue. One batch is under way at a time; what comes meanwhile makes the
//! next one, so that under load the batches grow and each costs about the same (one transaction and its fsync,
//! or one request). The work belongs to the actor: a caller that goes away undoes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::board::Board;
use super::pass::join_message;
use super::pass_report::PassReport;
use super::supervisor::{Handle, Life, OVERDUE, Ping, Supervisor, lost, noting_panics, while_alive};
use crate::types::{Error, ErrorCode, Result, failpoint};

/// Items that wait for their batch; one more is answered `busy`.
const QUEUE_ITEMS_MAX: usize = 4_096;
/// Longest time that a batch may take, unless its work says something else. Longer than any caller waits.
const BATCH_TIME_MAX: Duration = Duration::from_secs(60);

/// Does batches.
pub trait BatchWork: Send + Sync + 'static {
    /// What is submitted.
    type Item: Send + Unpin + 'static;
    /// What each submission is answered.
    type Answer: Send + Unpin + 'static;

    /// Items of one batch at most.
    fn batch_items_max(&self) -> usize;

    /// Whether an item may be in the same batch as those before it; one that may not waits for the next, and
    /// so do all behind it.
    fn fits(&self, _batch: &[Self::Item], _item: &Self::Item) -> bool {
        true
    }

    /// How long a batch may take. Then it is given up, so that one that waits for ever does not block all behind
    /// it; whether its items are done is not known.
    fn deadline(&self) -> Duration {
        BATCH_TIME_MAX
    }

    /// Does a batch; one answer for each item, in order.
    fn run(&self, items: Vec<Self::Item>) -> BoxFuture<'static, Vec<Result<Self::Answer>>>;
}

type Reply<A> = oneshot::Sender<Result<A>>;

/// The shell.
pub struct Batcher<W: BatchWork> {
    name: &'static str,
    work: Arc<W>,
    board: Board,
    life: Life,
    queue: VecDeque<(W::Item, Reply<W::Answer>)>,
    /// By when the batch under way ends, unless something is wrong.
    due: Option<Instant>,
}

/// Hands work in; the answer comes through the channel.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Submit<I: Send + 'static, A: Send + 'static> {
    item: I,
    reply: Reply<A>,
}

impl<W: BatchWork> Batcher<W> {
    /// Starts one under a supervisor.
    pub fn supervise(supervisor: &Supervisor, board: &Board, name: &'static str, work: W) -> Handle<Self> {
        let (work, board) = (Arc::new(work), board.clone());
        supervisor.supervise(name, move |life| Self {
            name,
            work: work.clone(),
            board: board.clone(),
            life,
            queue: VecDeque::new(),
            due: None,
        })
    }

    fn flush(&mut self, context: &mut Context<Self>) {
        noting_panics(&self.board.clone(), self.name, || self.start_batch(context));
    }

    fn start_batch(&mut self, context: &mut Context<Self>) {
        if self.due.is_some() || self.queue.is_empty() {
            return;
        }
        failpoint::in_shell(self.name);
        let (items, replies) = self.take_batch();
        // It may have hung until now. Its callers hear of the end from the channels that end with it.
        if !self.life.is_alive() {
            return;
        }
        self.board.state(self.name, "running");
        let (name, started, count) = (self.name, Instant::now(), items.len());
        let (work, deadline) = (self.work.clone(), failpoint::deadline(name, self.work.deadline()));
        self.due = Some(started + deadline);
        // Even what `run` does before it answers a future belongs to the batch.
        let batch = async move {
            failpoint::in_pass(name).await;
            work.run(items).await
        };
        // A task of its own: a panic in it is an error here and leaves the shell alive.
        let task = tokio::spawn(tokio::time::timeout(deadline, while_alive(self.life.clone(), batch)));
        let batch = task.into_actor(self).map(move |joined, actor, context| {
            let outcome = match joined {
                Ok(Ok(Some(answers))) => {
                    for (reply, answer) in replies.into_iter().zip(answers) {
                        // The caller may have gone away; the work is done all the same.
                        let _ = reply.send(answer);
                    }
                    Ok(PassReport::of(vec![("done together", count)]))
                }
                // This shell was replaced: its callers hear that from the channels that end with it.
                Ok(Ok(None)) => return,
                Ok(Err(_)) => Err(give_up_batch(name, deadline, replies)),
                Err(error) => Err(actor.panicked(error)),
            };
            actor.ended(started.elapsed(), outcome, context);
        });
        context.spawn(batch);
    }

    /// The items at the front of the queue that fit together.
    fn take_batch(&mut self) -> (Vec<W::Item>, Vec<Reply<W::Answer>>) {
        let (mut items, mut replies) = (Vec::new(), Vec::new());
        while let Some((item, _)) = self.queue.front() {
            if items.len() >= self.work.batch_items_max() || !self.work.fits(&items, item) {
                break;
            }
            if let Some((item, reply)) = self.queue.pop_front() {
                items.push(item);
                replies.push(reply);
            }
        }
        (items, replies)
    }

    fn panicked(&self, error: tokio::task::JoinError) -> String {
        let message = join_message(error);
        log::error!("{}: a batch panicked: {message}", self.name);
        if self.life.is_alive() {
            self.board.panicked(self.name, &message);
        }
        format!("a batch panicked: {message}")
    }

    fn ended(&mut self, took: Duration, outcome: std::result::Result<PassReport, String>, context: &mut Context<Self>) {
        if self.life.is_alive() {
            self.board.pass(self.name, took, outcome.as_ref().map_err(Clone::clone));
            self.due = None;
            self.flush(context);
        }
    }
}

/// Tells those who wait for a batch that it takes too long.
fn give_up_batch<A>(name: &str, deadline: Duration, replies: Vec<Reply<A>>) -> String {
    let message = format!("{name} took longer than {deadline:?}");
    log::error!("{message}: {} requests are given up", replies.len());
    for reply in replies {
        let message = format!("{message}; whether it was done is not known");
        let _ = reply.send(Err(Error::unavailable(message)));
    }
    message
}

impl<W: BatchWork> Handle<Batcher<W>> {
    /// Hands an item in and waits for its answer, at most for `deadline`. When that passes, the item may still
    /// be done later: the outcome is unknown, and the error says so.
    pub async fn submit(&self, item: W::Item, deadline: Duration) -> Result<W::Answer> {
        let answer = self.hand_in(item, deadline).await?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(lost("that had the work")),
            Err(_) => {
                Err(Error::unavailable(format!("no answer within {deadline:?}; whether it was done is not known")))
            }
        }
    }

    /// Hands an item in; the answer comes through the channel, which may be dropped.
    pub async fn hand_in(&self, item: W::Item, deadline: Duration) -> Result<oneshot::Receiver<Result<W::Answer>>> {
        let (reply, answer) = oneshot::channel();
        self.send(Submit { item, reply }, deadline).await?;
        Ok(answer)
    }
}

impl<W: BatchWork> Actor for Batcher<W> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(QUEUE_ITEMS_MAX);
    }
}

impl<W: BatchWork> Handler<Ping> for Batcher<W> {
    type Result = Option<String>;
    fn handle(&mut self, _: Ping, _: &mut Self::Context) -> Option<String> {
        let late = self.due?.elapsed();
        (late > OVERDUE).then(|| format!("is in a batch that should have ended {late:?} ago"))
    }
}

impl<W: BatchWork> Handler<Submit<W::Item, W::Answer>> for Batcher<W> {
    type Result = ();
    fn handle(&mut self, submit: Submit<W::Item, W::Answer>, context: &mut Self::Context) {
        if self.queue.len() >= QUEUE_ITEMS_MAX {
            let message = format!("{} has {QUEUE_ITEMS_MAX} requests waiting; try again", self.name);
            let _ = submit.reply.send(Err(Error::new(ErrorCode::Busy, message)));
            return;
        }
        self.queue.push_back((submit.item, submit.reply));
        self.flush(context);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Doubles numbers; no batch holds a number twice; 13 is bad luck.
    struct Doubler {
        batches: Arc<Mutex<Vec<Vec<u32>>>>,
    }

    impl BatchWork for Doubler {
        type Item = u32;
        type Answer = u32;
        fn batch_items_max(&self) -> usize {
            8
        }
        fn fits(&self, batch: &[u32], item: &u32) -> bool {
            !batch.contains(item)
        }
        fn run(&self, items: Vec<u32>) -> BoxFuture<'static, Vec<Result<u32>>> {
            self.batches.lock().push(items.clone());
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(!items.contains(&13), "bad luck");
                items.iter().map(|number| Ok(number * 2)).collect()
            })
        }
    }

    /// The first batch waits for ever; the second blocks its thread until it may go on.
    struct Stubborn {
        gate: Arc<Mutex<()>>,
        dropped: Arc<Mutex<usize>>,
    }

    struct OnDrop(Arc<Mutex<usize>>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            *self.0.lock() += 1;
        }
    }

    impl BatchWork for Stubborn {
        type Item = u32;
        type Answer = u32;
        fn batch_items_max(&self) -> usize {
            8
        }
        fn deadline(&self) -> Duration {
            Duration::from_millis(200)
        }
        /// Called by the shell itself: 9 makes it hang.
        fn fits(&self, batch: &[u32], item: &u32) -> bool {
            if *item == 9 {
                drop(self.gate.lock());
            }
            batch.is_empty()
        }
        fn run(&self, items: Vec<u32>) -> BoxFuture<'static, Vec<Result<u32>>> {
            assert_ne!(items[0], 9, "a replaced shell has begun a batch");
            let (gate, dropped) = (self.gate.clone(), OnDrop(self.dropped.clone()));
            Box::pin(async move {
                let _dropped = dropped;
                match items[0] {
                    0 => std::future::pending().await,
                    1 => drop(gate.lock()),
                    _ => {}
                }
                items.iter().map(|number| Ok(number * 2)).collect()
            })
        }
    }

    #[actix::test]
    #[allow(clippy::await_holding_lock, reason = "another thread is to hang at it")]
    async fn a_batch_without_an_end_is_given_up_and_one_that_blocks_is_replaced() {
        let board = Board::default();
        let (gate, dropped) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(0)));
        let work = Stubborn { gate: gate.clone(), dropped: dropped.clone() };
        let handle = Batcher::supervise(&Supervisor::new(board.clone()), &board, "stubborn", work);
        let deadline = Duration::from_secs(10);
        let (first, behind) = tokio::join!(handle.submit(0, deadline), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            handle.submit(5, deadline).await
        });
        assert!(first.unwrap_err().message().contains("not known"));
        assert_eq!((behind.unwrap(), *dropped.lock()), (10, 2), "it was dropped, and who was behind it has his turn");
        // A batch that blocks the thread, and then the shell itself.
        for (restarts, blocks) in [(1, 1), (2, 9)] {
            let held = gate.lock();
            let _caller = handle.hand_in(blocks, Duration::from_millis(100)).await;
            while board.all()[0].restarts < restarts {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(handle.submit(6, deadline).await.unwrap(), 12, "the new one works while the old one blocks");
            tokio::time::sleep(Duration::from_millis(100)).await;
            let before = board.all()[0].last_pass;
            drop(held);
            tokio::time::sleep(Duration::from_millis(300)).await;
            let info = &board.all()[0];
            assert_eq!(
                (info.last_pass, info.state.as_str(), info.restarts, &info.last_panic),
                (before, "waiting", restarts, &None),
                "the old one has woken up and is heard no more"
            );
        }
    }

    #[actix::test]
    async fn work_is_done_together_in_order_and_a_panic_loses_only_its_batch() {
        let board = Board::default();
        let batches = Arc::new(Mutex::new(Vec::new()));
        let work = Doubler { batches: batches.clone() };
        let handle = Batcher::supervise(&Supervisor::new(board.clone()), &board, "doubler", work);
        let deadline = Duration::from_secs(5);
        let asked = (0..40u32).map(|number| handle.submit(number % 20, deadline));
        let answers = futures_util::future::join_all(asked).await;
        for (number, answer) in answers.into_iter().enumerate() {
            match number as u32 % 20 {
                13 => assert_eq!(answer.unwrap_err().code(), ErrorCode::Unavailable),
                expected => {
                    if let Ok(answer) = answer {
                        assert_eq!(answer, expected * 2);
                    }
                }
            }
        }
        let batches = batches.lock().clone();
        assert!(batches.len() < 20, "40 items took {} batches", batches.len());
        assert!(batches.iter().all(|batch| batch.len() <= 8));
        assert_eq!(handle.submit(4, deadline).await.unwrap(), 8);
    }
}
