//! Who a storage server is: identity, cluster, epoch, term, and the cluster's time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use crate::client::http::{SignedAs, Standing as ClientStanding};
use crate::security::Sender;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, ErrorCode, Result, ServerId, Time, bounds};

/// What is known of the cluster; changes when the server registers and when an epoch or term rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The cluster that the data belongs to, once it has joined one.
    pub cluster: Option<Uuid>,
    /// Its id there.
    pub server: Option<ServerId>,
    /// The newest epoch that it has seen.
    pub epoch: i64,
    /// The newest term of the lease that it has seen in this epoch.
    pub term: i64,
}

/// Shared by all parts of the daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The UUID that the server made for itself.
    pub identity: Uuid,
    /// New with each start.
    pub boot_id: Uuid,
    standing: Arc<RwLock<Standing>>,
    clock: Arc<Mutex<Option<(Time, Instant)>>>,
    in_flight: Arc<Mutex<HashSet<ReplicaKey>>>,
}

impl Identity {
    /// As it was when the daemon last ran.
    pub fn new(identity: Uuid, cluster: Option<Uuid>, epoch: i64, term: i64) -> Self {
        let standing = Standing { cluster, server: None, epoch, term };
        Self {
            identity,
            boot_id: Uuid::new_v4(),
            standing: Arc::new(RwLock::new(standing)),
            clock: Arc::default(),
            in_flight: Arc::default(),
        }
    }

    /// What is known now.
    pub fn standing(&self) -> Standing {
        *self.standing.read()
    }

    /// Takes what a registration told.
    pub fn joined(&self, cluster: Uuid, server: ServerId, epoch: i64, time: Time) {
        let mut standing = self.standing.write();
        standing.cluster = Some(cluster);
        standing.server = Some(server);
        if epoch > standing.epoch {
            (standing.epoch, standing.term) = (epoch, 0);
        }
        drop(standing);
        self.set_clock(time);
    }

    /// Raises epoch and term to those of a request. Answers whether that changed anything.
    pub fn raise(&self, epoch: i64, term: i64) -> bool {
        let mut standing = self.standing.write();
        let newer = (epoch, term) > (standing.epoch, standing.term);
        if newer {
            (standing.epoch, standing.term) = (epoch, term);
        }
        newer
    }

    /// The cluster's time: what the name server told last, moved on by a clock that never jumps. Before the
    /// first registration, this machine's.
    pub fn now(&self) -> Time {
        match *self.clock.lock() {
            Some((time, at)) => bounds::moved_on(time, at.elapsed()),
            None => Utc::now(),
        }
    }

    /// The cluster and id, once the server is registered.
    pub fn require_member(&self) -> Result<(Uuid, ServerId, i64)> {
        let standing = self.standing();
        match (standing.cluster, standing.server) {
            (Some(cluster), Some(server)) => Ok((cluster, server, standing.epoch)),
            _ => Err(Error::unavailable("this storage server has not registered with the name server yet")),
        }
    }

    /// The cluster that the data belongs to, and the epoch: what a name server is judged by, also one that this server
    /// cannot register with because its database is lost.
    pub fn require_cluster(&self) -> Result<(Uuid, i64)> {
        let standing = self.standing();
        let joined = standing.cluster.map(|cluster| (cluster, standing.epoch));
        joined.ok_or_else(|| Error::unavailable("this storage server has not joined a cluster yet"))
    }

    /// What this server's requests are signed as.
    pub fn signed_as(&self) -> ClientStanding {
        let identity = self.clone();
        Arc::new(move || {
            let Standing { cluster, epoch, .. } = identity.standing();
            let sender = Sender::Storage { identity: identity.identity };
            SignedAs { cluster, epoch, sender, now: identity.now() }
        })
    }

    /// Takes the cluster's time, as a name server told it. One that no clock shows is not taken.
    pub fn set_clock(&self, time: Time) {
        if let Err(error) = bounds::check_time(time) {
            log::error!("a name server tells a wrong time: {error}");
            return;
        }
        *self.clock.lock() = Some((time, Instant::now()));
    }

    /// Whether an upload of this copy is under way.
    pub fn is_in_flight(&self, key: ReplicaKey) -> bool {
        self.in_flight.lock().contains(&key)
    }

    /// Claims a copy's name for one upload at a time; nothing is ever written over.
    pub fn claim(&self, key: ReplicaKey) -> Result<Claim> {
        let mut in_flight = self.in_flight.lock();
        if !in_flight.insert(key) {
            return Err(Error::new(ErrorCode::Busy, format!("another upload of {key} is under way")));
        }
        Ok(Claim { key, in_flight: self.in_flight.clone() })
    }
}

/// Given back when dropped.
#[derive(Debug)]
pub struct Claim {
    key: ReplicaKey,
    in_flight: Arc<Mutex<HashSet<ReplicaKey>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.in_flight.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Generation, ObjectId};

    #[test]
    fn epochs_and_terms_only_rise() {
        let identity = Identity::new(Uuid::new_v4(), None, 3, 5);
        assert!(!identity.raise(3, 5) && !identity.raise(3, 4) && !identity.raise(2, 9));
        assert!(identity.raise(3, 6) && identity.raise(4, 0));
        assert_eq!((identity.standing().epoch, identity.standing().term), (4, 0));
    }

    #[test]
    fn no_time_that_is_told_stops_the_clock() {
        let identity = Identity::new(Uuid::new_v4(), None, 0, 0);
        for time in [Time::MAX_UTC, Time::MIN_UTC] {
            identity.joined(Uuid::new_v4(), ServerId(1), 1, time);
            let off = identity.now() - Utc::now();
            assert!(off.num_seconds().abs() < 60, "{time} is no time: this machine's clock counts until one is told");
            let signed = identity.signed_as()();
            assert!(signed.now.checked_add_signed(crate::security::credential::CREDENTIAL_TTL).is_some());
        }
    }

    #[test]
    fn a_copy_is_uploaded_once_at_a_time() {
        let identity = Identity::new(Uuid::new_v4(), None, 0, 0);
        let key = ReplicaKey { object: ObjectId(1), generation: Generation(2) };
        let claim = identity.claim(key).unwrap();
        assert_eq!(identity.claim(key).unwrap_err().code(), ErrorCode::Busy);
        drop(claim);
        assert!(identity.claim(key).is_ok());
    }
}
