//! A bounded number of transfers at the same time.

use std::future::Future;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use super::progress::Tally;
use crate::types::{Error, Result};

/// Runs tasks, at most `jobs` at the same time. Each task reports its own outcome to the tally.
pub(crate) struct Pool {
    tasks: JoinSet<()>,
    jobs: usize,
    tally: Arc<Tally>,
}

impl Pool {
    pub(crate) fn new(jobs: usize, tally: Arc<Tally>) -> Self {
        Self { tasks: JoinSet::new(), jobs, tally }
    }

    /// Starts a task, as soon as there is room for it. An error means that there is no sense in going on.
    pub(crate) async fn run(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        while self.tasks.len() >= self.jobs {
            if let Some(over) = self.tasks.join_next().await {
                self.over(over);
            }
        }
        self.tally.check_hope()?;
        self.tasks.spawn(task);
        Ok(())
    }

    /// Waits for all tasks.
    pub(crate) async fn drain(&mut self) {
        while let Some(over) = self.tasks.join_next().await {
            self.over(over);
        }
    }

    fn over(&self, over: Result<(), JoinError>) {
        if let Err(error) = over {
            self.tally.failed("a transfer", &Error::internal("it was broken off by a defect").with_source(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::progress::Progress;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn never_more_than_allowed_and_a_panic_is_counted() {
        let tally = Tally::new(Progress::hidden());
        let mut pool = Pool::new(3, tally.clone());
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for number in 0..20 {
            let (now, most) = (now.clone(), most.clone());
            let task = async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                assert_ne!(number, 7);
            };
            pool.run(task).await.unwrap();
        }
        pool.drain().await;
        assert_eq!(most.load(Ordering::SeqCst), 3);
        assert_eq!(tally.counts().failed, 1);
    }
}
