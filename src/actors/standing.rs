//! What this name server is at the moment: of which cluster and epoch, and whether it holds the lease.
//!
//! The lease is believed only as long as it certainly has not expired: its end is counted from before the
//! request that renewed it, by a clock that never jumps. Whoever acts all the same, because it slept between
//! looking and acting, is stopped by the database (which checks holder and term in each transaction) and by the
//! storage servers (which persist the newest term).
//!
//! Nobody acts by what a damaged database says: from the first sign of damage on the lease counts as not held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use parking_lot::RwLock;
use uuid::Uuid;

use crate::client::http::SignedAs;
use crate::db::Soundness;
use crate::security::Sender;
use crate::types::{Time, bounds};

/// A lease that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its number.
    pub term: i64,
    /// Since when this process has held it.
    pub since: Instant,
    /// Whether all servers were asked under this term: before that the database may be an old one, and nothing must be
    /// done by what it says.
    pub looked_around: bool,
    /// Until when it is believed.
    until: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Inner {
    cluster: Uuid,
    epoch: i64,
    held: Option<Held>,
    clock: Option<(Time, Instant)>,
}

/// Shared by everything in the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Names this process in the lease.
    pub holder: Uuid,
    soundness: Soundness,
    inner: Arc<RwLock<Inner>>,
}

impl Standing {
    /// Of a cluster and epoch, without the lease. It stands and falls with the database.
    pub fn new(cluster: Uuid, epoch: i64, soundness: &Soundness) -> Self {
        let inner = Inner { cluster, epoch, held: None, clock: None };
        Self { holder: Uuid::new_v4(), soundness: soundness.clone(), inner: Arc::new(RwLock::new(inner)) }
    }

    fn get(&self) -> Inner {
        *self.inner.read()
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.write());
    }

    /// The cluster and its epoch.
    pub fn membership(&self) -> (Uuid, i64) {
        let inner = self.get();
        (inner.cluster, inner.epoch)
    }

    /// Takes what the database says of the cluster.
    pub fn set_membership(&self, cluster: Uuid, epoch: i64) {
        self.change(|inner| (inner.cluster, inner.epoch) = (cluster, epoch));
    }

    /// Takes the time that the database told, in an answer to a question that was asked at `asked`.
    pub fn set_clock(&self, time: Time, asked: Instant) {
        self.change(|inner| inner.clock = Some((time, asked)));
    }

    /// The cluster's time: the database's, moved on by a clock that never jumps. Before the database was asked, this
    /// machine's.
    pub fn now(&self) -> Time {
        match self.get().clock {
            Some((time, at)) => bounds::moved_on(time, at.elapsed()),
            None => Utc::now(),
        }
    }

    /// The lease, while it is held for certain and the database is well.
    pub fn held(&self) -> Option<Held> {
        self.get().held.filter(|held| Instant::now() < held.until && self.soundness.trouble().is_none())
    }

    /// Notes that the lease is held under `term` until `until`. Answers whether that is new.
    pub fn took(&self, term: i64, until: Instant) -> bool {
        let before = self.get().held.filter(|held| held.term == term);
        let since = before.map_or_else(Instant::now, |held| held.since);
        let looked_around = before.is_some_and(|held| held.looked_around);
        self.change(|inner| inner.held = Some(Held { term, since, looked_around, until }));
        before.is_none()
    }

    /// Notes that all servers were asked under `term`, and that none of them knows more than the database.
    pub fn looked_around(&self, term: i64) {
        self.change(|inner| {
            if let Some(held) = inner.held.as_mut().filter(|held| held.term == term) {
                held.looked_around = true;
            }
        });
    }

    /// Notes that somebody else holds it. Answers whether that is new.
    pub fn lost(&self) -> bool {
        let before = self.get().held;
        self.change(|inner| inner.held = None);
        before.is_some()
    }

    /// How requests to storage servers are signed: always as what it is at that moment.
    pub fn signed_as(&self) -> crate::client::http::Standing {
        let standing = self.clone();
        Arc::new(move || {
            let inner = standing.get();
            let term = standing.held().map_or(0, |held| held.term);
            let sender = Sender::NameServer { term };
            SignedAs { cluster: Some(inner.cluster), epoch: inner.epoch, sender, now: standing.now() }
        })
    }
}

/// How long a lease lasts without being renewed. Another name server acts at most this much, and one interval
/// of its own, after the holder has died.
pub const LEASE_TTL: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::damage::Damage;

    #[test]
    fn a_lease_is_believed_until_its_end_and_signed_with() {
        let soundness = Soundness::default();
        let standing = Standing::new(Uuid::new_v4(), 3, &soundness);
        assert!(standing.held().is_none() && standing.signed_as()().sender == Sender::NameServer { term: 0 });
        assert!(standing.took(7, Instant::now() + LEASE_TTL));
        assert!(!standing.took(7, Instant::now() + LEASE_TTL), "a renewal is nothing new");
        assert_eq!(standing.signed_as()().sender, Sender::NameServer { term: 7 });
        standing.looked_around(6);
        assert!(!standing.held().unwrap().looked_around, "that was another term");
        standing.looked_around(7);
        standing.took(7, Instant::now() + LEASE_TTL);
        assert!(standing.held().unwrap().looked_around, "a renewal forgets nothing");
        soundness.declare(&Damage::of_content("for a test"), false);
        assert!(
            standing.held().is_none() && standing.signed_as()().sender == Sender::NameServer { term: 0 },
            "the database is damaged"
        );
        soundness.clear();
        assert!(standing.held().is_some());
        standing.took(7, Instant::now());
        assert!(standing.held().is_none(), "it has ended");
        assert!(standing.lost() && !standing.lost());
    }
}
