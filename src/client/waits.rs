//! Whom this program waits for, so that a person can be told: nobody looks at a silent terminal for long.
//!
//! Each request notes whom it waits for until its answer is there ([`Waits::on`]), and anew with each piece that comes or
//! goes. Whoever shows it asks now and then for the one that has kept everybody waiting ([`Waits::longest`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
/// Names of servers that are remembered.
const NAMES_MAX: usize = 1_000;

#[derive(Debug, Default)]
struct Known {
    waiting: HashMap<u64, Wait>,
    /// What people call the servers at these base URLs.
    names: HashMap<String, String>,
}

#[derive(Debug)]
struct Wait {
    whom: String,
    why: Option<String>,
    /// Since when the other side has been silent; `None` while it waits for this side.
    since: Option<Instant>,
}

/// Everything that is waited for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    known: Arc<Mutex<Known>>,
    next: Arc<AtomicU64>,
}

/// One request's wait, until it is dropped.
#[derive(Debug)]
pub struct Waiting {
    waits: Waits,
    id: u64,
}

impl Waits {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }

    /// Whether nobody but the asker has it any more.
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.known) == 1
    }

    /// Notes that somebody is waited for from now on.
    pub fn on(&self, whom: impl Into<String>) -> Waiting {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.known().waiting.insert(id, Wait { whom: whom.into(), why: None, since: Some(Instant::now()) });
        Waiting { waits: self.clone(), id }
    }

    /// As [`Self::on`], of a storage server, by the name that it is known by.
    pub fn on_storage(&self, base: &str) -> Waiting {
        let named = self.known().names.get(base).cloned();
        self.on(match named {
            Some(name) => format!("storage server {name} at {base}"),
            None => format!("the storage server at {base}"),
        })
    }

    /// Remembers what people call the server at a base URL.
    pub fn call(&self, base: &str, name: &str) {
        let mut known = self.known();
        if !name.is_empty() && known.names.len() < NAMES_MAX && !known.names.contains_key(base) {
            known.names.insert(base.into(), name.into());
        }
    }

    /// The one that has been silent for longest, if that is as long as `least`.
    pub fn longest(&self, least: Duration) -> Option<String> {
        let known = self.known();
        let silent = known.waiting.values().filter_map(|wait| wait.since.map(|since| (since, wait)));
        let (_, wait) = silent.filter(|(since, _)| since.elapsed() >= least).min_by_key(|(since, _)| *since)?;
        Some(match &wait.why {
            Some(why) => format!("waiting for {}: {why}", wait.whom),
            None => format!("waiting for {}", wait.whom),
        })
    }
}

impl Waiting {
    fn set(&self, since: Option<Instant>) {
        if let Some(wait) = self.waits.known().waiting.get_mut(&self.id) {
            wait.since = since;
        }
    }

    /// The other side was heard of, and is waited for again.
    pub fn heard(&self) {
        self.set(Some(Instant::now()));
    }

    /// The other side waits for this one.
    pub fn is_waited_for(&self) {
        self.set(None);
    }

    /// Ends when the other side has been silent for so long.
    pub async fn silence(&self, limit: Duration) {
        loop {
            let since = self.waits.known().waiting.get(&self.id).and_then(|wait| wait.since);
            match since.map_or(Some(limit), |since| limit.checked_sub(since.elapsed())) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
                _ => return,
            }
        }
    }

    /// A try has failed, and another one follows.
    pub fn because(&self, why: &str) {
        if let Some(wait) = self.waits.known().waiting.get_mut(&self.id) {
            wait.why = Some(why.into());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waits.known().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silence_is_told_until_it_ends() {
        let waits = Waits::default();
        assert_eq!(waits.longest(Duration::ZERO), None);
        waits.call("http://s2", "storage-2");
        let first = waits.on_storage("http://s2");
        std::thread::sleep(Duration::from_millis(2));
        let second = waits.clone().on("the name server at http://n");
        assert_eq!(waits.longest(Duration::ZERO).unwrap(), "waiting for storage server storage-2 at http://s2");
        assert_eq!(waits.longest(Duration::from_secs(60)), None);
        std::thread::sleep(Duration::from_millis(2));
        second.is_waited_for();
        assert!(waits.longest(Duration::ZERO).unwrap().contains("storage-2"), "who waits for us is not waited for");
        second.heard();
        std::thread::sleep(Duration::from_millis(2));
        first.heard();
        second.because("it cannot be reached");
        assert_eq!(
            waits.longest(Duration::ZERO).unwrap(),
            "waiting for the name server at http://n: it cannot be reached"
        );
        drop(second);
        assert!(waits.longest(Duration::ZERO).unwrap().contains("storage-2"));
        drop(first);
        assert_eq!(waits.longest(Duration::ZERO), None);
    }
}
