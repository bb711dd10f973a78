//! How far a restore is, and its end before the end: both reach into transactions that run on other threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::types::api::RestoreProgress;
use crate::types::{Error, Result};

/// Why a restore has ended that a person has ended.
pub const ABORTED: &str = "it was aborted";
/// Less is not known from so short a time, in seconds.
const TELLING_SECONDS: f64 = 1.0;

/// Shared by a restore and whoever asks about it.
#[derive(Debug, Default)]
pub struct Progress {
    step: Mutex<Option<Step>>,
    stopping: AtomicBool,
    stopped: Notify,
}

#[derive(Debug)]
struct Step {
    unit: &'static str,
    done: u64,
    total: u64,
    began: Instant,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Option<Step>> {
        self.step.lock()
    }

    /// A restore begins: nobody has ended it.
    pub fn reset(&self) {
        self.stopping.store(false, Ordering::SeqCst);
        self.leave();
    }

    /// A step begins that has about so many rows or bytes.
    pub fn enter(&self, unit: &'static str, total: u64) {
        *self.lock() = Some(Step { unit, done: 0, total, began: Instant::now() });
    }

    /// A step begins of which nobody knows how long it is.
    pub fn leave(&self) {
        *self.lock() = None;
    }

    /// So much more is done. Fails once the restore was ended.
    pub fn advance(&self, more: u64) -> Result<()> {
        if let Some(step) = &mut *self.lock() {
            step.done += more;
        }
        self.check()
    }

    /// So much of the step is done, whatever was counted.
    pub fn reach(&self, done: u64) -> Result<()> {
        if let Some(step) = &mut *self.lock() {
            step.done = step.done.max(done);
        }
        self.check()
    }

    /// Fails once the restore was ended.
    pub fn check(&self) -> Result<()> {
        if self.stopping.load(Ordering::SeqCst) { Err(Error::unavailable(ABORTED)) } else { Ok(()) }
    }

    /// Ends the restore at its next row.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stopped.notify_waiters();
    }

    /// Waits until somebody ends the restore.
    pub async fn stopped(&self) {
        let mut stopped = std::pin::pin!(self.stopped.notified());
        stopped.as_mut().enable();
        if self.check().is_ok() {
            stopped.await;
        }
    }

    /// How far the step is, and how long it will take.
    pub fn view(&self) -> Option<RestoreProgress> {
        self.lock().as_ref().map(|step| step.view(step.began.elapsed().as_secs_f64()))
    }
}

impl Step {
    fn view(&self, seconds: f64) -> RestoreProgress {
        // The total is an estimate: a change may have several rows.
        let total = self.total.max(self.done);
        let tells = self.done > 0 && seconds >= TELLING_SECONDS;
        let seconds_left = tells.then(|| ((total - self.done) as f64 * seconds / self.done as f64).ceil() as u64);
        RestoreProgress { unit: self.unit.into(), done: self.done, total, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_what_was_done() {
        for (done, total, seconds, left) in [
            (0, 100, 9.0, None),
            (50, 100, 0.5, None),
            (50, 100, 10.0, Some(10)),
            (30, 100, 10.0, Some(24)),
            (100, 100, 10.0, Some(0)),
            (120, 100, 10.0, Some(0)),
        ] {
            let step = Step { unit: "rows", done, total, began: Instant::now() };
            let view = step.view(seconds);
            assert_eq!((view.done, view.total >= done, view.seconds_left), (done, true, left), "{done} of {total}");
        }
    }

    #[tokio::test]
    async fn who_is_ended_hears_of_it_at_once_and_later() {
        let progress = std::sync::Arc::new(Progress::default());
        progress.enter("rows", 10);
        assert!(progress.advance(3).is_ok());
        let waiting = tokio::spawn({
            let progress = progress.clone();
            async move { progress.stopped().await }
        });
        tokio::task::yield_now().await;
        progress.stop();
        waiting.await.unwrap();
        progress.stopped().await;
        assert!(progress.advance(1).is_err() && progress.check().is_err());
        progress.reset();
        assert!(progress.check().is_ok() && progress.view().is_none());
    }
}
