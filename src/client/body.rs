//! A request body that is watched while it is sent.
//!
//! An upload may take hours and must still end soon after the other side stops taking bytes or does not
//! answer. Only time during which the other side is to blame counts: while the body's own source (a pipe,
//! a slow disk) has nothing to give, nobody stalls.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use parking_lot::Mutex;

use super::waits::Waiting;

struct State {
    last: Instant,
    source_is_waited_for: bool,
}

/// Tells how the sending goes.
pub(super) struct Progress(Arc<Mutex<State>>);

/// The watched body.
pub(super) struct Watched<S> {
    inner: Pin<Box<S>>,
    state: Arc<Mutex<State>>,
    waiting: Arc<Waiting>,
}

/// Splits a body into the stream that is sent and the view on its progress. `waiting` learns of it, too.
pub(super) fn watched<S: Stream>(body: S, waiting: Arc<Waiting>) -> (Watched<S>, Progress) {
    let state = Arc::new(Mutex::new(State { last: Instant::now(), source_is_waited_for: false }));
    (Watched { inner: Box::pin(body), state: state.clone(), waiting }, Progress(state))
}

impl<S: Stream> Stream for Watched<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let polled = self.inner.as_mut().poll_next(cx);
        let mut state = self.state.lock();
        state.source_is_waited_for = polled.is_pending();
        state.last = Instant::now();
        drop(state);
        match polled.is_pending() {
            true => self.waiting.is_waited_for(),
            false => self.waiting.heard(),
        }
        polled
    }
}

impl Progress {
    /// Ends when the other side has neither taken a byte nor answered for `limit`.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let idle = {
                let state = self.0.lock();
                if state.source_is_waited_for { Duration::ZERO } else { state.last.elapsed() }
            };
            match limit.checked_sub(idle) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Waits;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn a_slow_source_is_no_stall_and_a_body_that_nobody_takes_is() {
        let limit = Duration::from_millis(50);
        let (mut body, progress) = watched(futures_util::stream::pending::<()>(), Arc::new(Waits::default().on("x")));
        let taken = tokio::time::timeout(limit * 4, async {
            tokio::select! { _ = body.next() => "ended", () = progress.stalled(limit) => "stalled" }
        });
        assert!(taken.await.is_err(), "the source is slow, nobody stalls");
        let waiting = Arc::new(Waits::default().on("x"));
        let (_untouched, progress) = watched(futures_util::stream::pending::<()>(), waiting);
        tokio::time::timeout(Duration::from_secs(5), progress.stalled(limit)).await.expect("nobody takes it");
    }
}
