//! What the endpoints and the `Scrubber` tell each other: copies that looked wrong when they were sent, whether all
//! files are to be looked for, and whether this server still trusts its disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::actors::pass::Nudge;
use crate::actors::{Handle, PassActor};
use crate::types::storage_api::ReplicaKey;

/// Copies that wait to be looked at; one more is dropped, and found by the round or by the next reader.
const SUSPECTS_MAX: usize = 1_000;

/// See the module.
#[derive(Default)]
pub struct Suspects {
    queue: Mutex<VecDeque<ReplicaKey>>,
    look_wanted: AtomicBool,
    scrub_wanted: AtomicBool,
    alarm: AtomicBool,
    scrubber: OnceLock<Handle<PassActor>>,
}

impl Suspects {
    /// Hands a copy to the scrubber, which looks at it at once.
    pub fn add(&self, key: ReplicaKey) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < SUSPECTS_MAX && !queue.contains(&key) {
            queue.push_back(key);
        }
        drop(queue);
        if let Some(scrubber) = self.scrubber.get() {
            scrubber.nudge(Nudge);
        }
    }

    /// The one that waits for the longest time.
    pub fn take(&self) -> Option<ReplicaKey> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// A file is gone: perhaps it is not the only one.
    pub fn want_look(&self) {
        self.look_wanted.store(true, Ordering::SeqCst);
    }

    /// Whether all files are to be looked for, asked once.
    pub fn take_look(&self) -> bool {
        self.look_wanted.swap(false, Ordering::SeqCst)
    }

    /// A round is wanted now: the scrubber looks for it in the settings.
    pub fn want_scrub(&self) {
        self.scrub_wanted.store(true, Ordering::SeqCst);
        if let Some(scrubber) = self.scrubber.get() {
            scrubber.nudge(Nudge);
        }
    }

    /// Whether a round is wanted, asked once.
    pub fn take_scrub(&self) -> bool {
        self.scrub_wanted.swap(false, Ordering::SeqCst)
    }

    /// Tells where the scrubber is.
    pub fn serve_by(&self, scrubber: Handle<PassActor>) {
        // It is told once, at the start.
        let _ = self.scrubber.set(scrubber);
    }

    /// Stops quarantining until the next start. Answers whether that is news.
    pub fn raise_alarm(&self) -> bool {
        !self.alarm.swap(true, Ordering::SeqCst)
    }

    /// Whether the alarm was raised.
    pub fn alarm(&self) -> bool {
        self.alarm.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Generation, ObjectId};

    #[test]
    fn the_queue_is_bounded_and_holds_each_copy_once() {
        let suspects = Suspects::default();
        let key = |object| ReplicaKey { object: ObjectId(object), generation: Generation(1) };
        for _ in 0..2 {
            (0..2_000).for_each(|object| suspects.add(key(object)));
        }
        let taken: Vec<ReplicaKey> = std::iter::from_fn(|| suspects.take()).collect();
        assert_eq!(taken.len(), SUSPECTS_MAX);
        assert!((0..).zip(&taken).all(|(object, taken)| *taken == key(object)));
        assert!(suspects.raise_alarm() && !suspects.raise_alarm() && suspects.alarm());
    }
}
