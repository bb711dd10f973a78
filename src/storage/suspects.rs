//! What the endpoints and the `Scrubber` tell each other: copies that looked wrong when they were sent, whether all
//! files are to be looked for, and whether this server still trusts its disk.

use std::collections::{HashMap, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::actors::pass::Nudge;
use crate::actors::{Handle, PassActor};
use crate::types::storage_api::ReplicaKey;
use parking_lot::Mutex;

/// Copies that wait to be looked at; one more is dropped, and found by the round or by the next reader.
const SUSPECTS_MAX: usize = 1_000;

/// A copy that was wanted to be read and is not read after as long, and as long as its bytes take at the slowest rate, is
/// handed in again when somebody asks.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// See [`READ_AGAIN_AFTER`].
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;

/// See the module.
#[derive(Default)]
pub struct Suspects {
    queue: Mutex<VecDeque<ReplicaKey>>,
    /// Copies that somebody wants to be read, and until when that need not be asked for again.
    wanted: Mutex<HashMap<ReplicaKey, Instant>>,
    look_wanted: AtomicBool,
    scrub_wanted: AtomicBool,
    alarm: AtomicBool,
    scrubber: OnceLock<Handle<PassActor>>,
}

impl Suspects {
    /// Hands a copy to the scrubber, which looks at it at once.
    pub fn add(&self, key: ReplicaKey) {
        let mut queue = self.queue.lock();
        if queue.len() < SUSPECTS_MAX && !queue.contains(&key) {
            queue.push_back(key);
        }
        drop(queue);
        if let Some(scrubber) = self.scrubber.get() {
            scrubber.nudge(Nudge);
        }
    }

    /// Hands a copy of this size to the scrubber because somebody asks for it. Asking again while it waits, or may still be
    /// read, begins nothing anew.
    pub fn want_read(&self, key: ReplicaKey, size: u64) {
        let now = Instant::now();
        let mut wanted = self.wanted.lock();
        wanted.retain(|_, until| *until > now);
        if wanted.len() >= SUSPECTS_MAX || wanted.contains_key(&key) {
            return;
        }
        wanted.insert(key, now + READ_AGAIN_AFTER + Duration::from_secs(size / SLOWEST_BYTES_PER_SECOND));
        drop(wanted);
        self.add(key);
    }

    /// Somebody who asked for a copy has heard what came of it.
    pub fn is_told(&self, key: ReplicaKey) {
        self.wanted.lock().remove(&key);
    }

    /// The one that waits for the longest time.
    pub fn take(&self) -> Option<ReplicaKey> {
        self.queue.lock().pop_front()
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
        for _ in 0..3 {
            suspects.want_read(key(7), 1);
            suspects.want_read(key(8), 1 << 40);
        }
        assert_eq!(std::iter::from_fn(|| suspects.take()).collect::<Vec<_>>(), [key(7), key(8)]);
        suspects.want_read(key(7), 1);
        assert_eq!(suspects.take(), None, "it may still be read");
        suspects.is_told(key(7));
        suspects.want_read(key(7), 1);
        assert_eq!(suspects.take(), Some(key(7)), "somebody else asks");
        assert!(suspects.raise_alarm() && !suspects.raise_alarm() && suspects.alarm());
    }
}
