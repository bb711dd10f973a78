//! How many bodies are received at a time, and which of them makes room for another.
//!
//! Users and repair have places of their own: whatever users do, copies that objects are short of come in. A sender that
//! keeps the server waiting is broken off when it is slower than the least rate, and earlier when all places of its kind
//! are taken: then the slowest makes room for whoever comes. Only the time counts during which the sender is to blame:
//! while the disk or another server holds the body up, nobody is slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::types::limits::{STALL_TIMEOUT, UPLOAD_PATIENCE, UPLOAD_RATE_MIN_BYTES};
use crate::types::{Error, ErrorCode, Result};

/// Bodies of users at the same time.
const USER_PLACES: usize = 256;
/// Copies for repair at the same time.
const REPAIR_PLACES: usize = 64;
/// A sender that has kept the server waiting for less is not called slow when places are short.
const SPARED: Duration = Duration::from_secs(2);
/// Bytes a second: whoever sends more keeps his place, however short places are.
const FAIR_RATE_BYTES: f64 = 65_536.0;

/// For whom bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody writes a file.
    Write,
    /// An object is short of copies.
    Repair,
}

/// The places of a storage server.
#[derive(Debug)]
pub struct Admission {
    users: Arc<Places>,
    repair: Arc<Places>,
}

impl Default for Admission {
    fn default() -> Self {
        Self { users: Places::new(USER_PLACES), repair: Places::new(REPAIR_PLACES) }
    }
}

impl Admission {
    /// A place for a body, if there is one or somebody slow must give his up.
    pub fn enter(&self, purpose: Purpose) -> Result<Place> {
        match purpose {
            Purpose::Write => self.users.enter(),
            Purpose::Repair => self.repair.enter(),
        }
    }

    /// Bodies that are being received.
    pub fn under_way(&self) -> usize {
        self.users.taken().len() + self.repair.taken().len()
    }
}

/// Places of one kind.
#[derive(Debug)]
struct Places {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    bodies: BTreeMap<u64, Arc<Body>>,
}

impl Taken {
    fn len(&self) -> usize {
        self.bodies.len()
    }
}

impl Places {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock()
    }

    fn enter(self: &Arc<Self>) -> Result<Place> {
        let mut taken = self.taken();
        if taken.len() >= self.max {
            let now = Instant::now();
            let rates = taken.bodies.iter().filter_map(|(number, body)| Some((*number, body.pace().slow_rate(now)?)));
            let Some((slowest, _)) = rates.min_by(|(_, one), (_, other)| one.total_cmp(other)) else {
                let message = "this storage server has as many uploads under way as it takes; try again";
                return Err(Error::new(ErrorCode::Busy, message));
            };
            // Its place is the newcomer's from now on; its own end frees nothing any more.
            if let Some(body) = taken.bodies.remove(&slowest) {
                body.displaced.notify_one();
            }
        }
        let number = taken.next;
        taken.next += 1;
        let body = Arc::new(Body::default());
        taken.bodies.insert(number, body.clone());
        Ok(Place { places: self.clone(), number, body })
    }
}

/// A body that is being received.
#[derive(Debug, Default)]
struct Body {
    pace: Mutex<Pace>,
    displaced: Notify,
}

impl Body {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock()
    }
}

/// How fast a sender is.
#[derive(Debug, Default)]
struct Pace {
    received: u64,
    /// How long the sender has kept the server waiting.
    waited: Duration,
    waiting_since: Option<Instant>,
    /// The body is whole: what follows is the server's own work.
    whole: bool,
}

impl Pace {
    fn waited(&self, now: Instant) -> Duration {
        self.waited + self.waiting_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Bytes a second of a sender that is slow enough to make room for another.
    fn slow_rate(&self, now: Instant) -> Option<f64> {
        let waited = self.waited(now);
        let rate = self.received as f64 / waited.as_secs_f64().max(f64::MIN_POSITIVE);
        (!self.whole && waited >= SPARED && rate < FAIR_RATE_BYTES).then_some(rate)
    }

    /// How long the next byte may be waited for.
    fn patience_left(&self) -> Duration {
        let allowed = UPLOAD_PATIENCE + Duration::from_secs(self.received / UPLOAD_RATE_MIN_BYTES);
        allowed.saturating_sub(self.waited).min(STALL_TIMEOUT)
    }
}

/// One body's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
    body: Arc<Body>,
}

impl Place {
    /// Waits for the sender's next piece, unless that takes too long or somebody else needs the place more. `size` tells
    /// how many bytes a piece has.
    pub async fn wait_for<T>(&self, piece: impl Future<Output = T>, size: impl Fn(&T) -> usize) -> Result<T> {
        let patience = {
            let mut pace = self.body.pace();
            pace.waiting_since = Some(Instant::now());
            pace.patience_left()
        };
        let outcome = tokio::select! {
            came = tokio::time::timeout(patience, piece) => came.map_err(|_| None),
            () = self.body.displaced.notified() => Err(Some(ErrorCode::Busy)),
        };
        let mut pace = self.body.pace();
        pace.waited = pace.waited(Instant::now());
        pace.waiting_since = None;
        match outcome {
            Ok(piece) => {
                pace.received += size(&piece) as u64;
                Ok(piece)
            }
            Err(None) if patience < STALL_TIMEOUT => Err(Error::invalid(format!(
                "the sender is too slow: {} bytes came, and it was waited for {:.0} s; {UPLOAD_RATE_MIN_BYTES} bytes a \
                 second are the least",
                pace.received,
                pace.waited.as_secs_f64()
            ))),
            Err(None) => Err(Error::invalid(format!(
                "the sender was silent for {STALL_TIMEOUT:?} after {} bytes",
                pace.received
            ))),
            Err(Some(code)) => {
                let message =
                    "the upload was broken off: all places were taken, and its sender was the slowest; try again";
                Err(Error::new(code, message))
            }
        }
    }

    /// The body has come whole; it keeps its place until the work on it is done.
    pub fn is_whole(&self) {
        self.body.pace().whole = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().bodies.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(received: u64, waited_ms: u64, whole: bool) -> Pace {
        Pace { received, waited: Duration::from_millis(waited_ms), waiting_since: None, whole }
    }

    #[test]
    fn who_is_slow() {
        let now = Instant::now();
        for (received, waited_ms, whole, slow) in [
            (10, 10_000, false, true),
            (0, 1_999, false, false),
            (1 << 30, 10_000, false, false),
            // The disk has held it up: it has kept nobody waiting.
            (10, 0, false, false),
            (10, 10_000, true, false),
        ] {
            assert_eq!(pace(received, waited_ms, whole).slow_rate(now).is_some(), slow, "{received} in {waited_ms}");
        }
        let waits = Pace { waiting_since: Some(now), ..pace(1, 0, false) };
        assert!(waits.slow_rate(now).is_none() && waits.slow_rate(now + SPARED).is_some());
    }

    #[test]
    fn patience_ends_unless_bytes_come() {
        assert_eq!(pace(0, 0, false).patience_left(), STALL_TIMEOUT);
        let end = UPLOAD_PATIENCE.as_millis() as u64;
        assert_eq!(pace(0, end - 500, false).patience_left(), Duration::from_millis(500));
        assert_eq!(pace(20, end, false).patience_left(), Duration::ZERO);
        assert_eq!(pace(UPLOAD_RATE_MIN_BYTES, end, false).patience_left(), Duration::from_secs(1));
        assert_eq!(pace(1 << 40, end, false).patience_left(), STALL_TIMEOUT);
    }

    #[tokio::test]
    async fn the_slowest_makes_room_and_repair_has_its_own_places() {
        let admission = Admission { users: Places::new(2), repair: Places::new(1) };
        let (one, two) = (admission.enter(Purpose::Write).unwrap(), admission.enter(Purpose::Write).unwrap());
        assert_eq!(admission.enter(Purpose::Write).unwrap_err().code(), ErrorCode::Busy, "nobody is slow yet");
        *one.body.pace() = pace(100, 5_000, false);
        *two.body.pace() = pace(99, 5_000, false);
        let repair = admission.enter(Purpose::Repair).unwrap();
        assert_eq!(admission.under_way(), 3);
        let three = admission.enter(Purpose::Write).unwrap();
        let broken = two.wait_for(std::future::pending::<()>(), |()| 0).await.unwrap_err();
        assert_eq!(broken.code(), ErrorCode::Busy);
        drop(two);
        assert_eq!(admission.under_way(), 3, "its place is taken");
        // A body that is whole keeps its place, and so does one whose bytes come.
        one.is_whole();
        assert_eq!(three.wait_for(std::future::ready(7), |piece| *piece).await.unwrap(), 7);
        assert_eq!(three.body.pace().received, 7);
        assert!(admission.enter(Purpose::Write).is_err());
        drop((one, three, repair));
        assert_eq!(admission.under_way(), 0);
        assert!(admission.enter(Purpose::Write).is_ok());
    }
}
