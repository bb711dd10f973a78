//! What the two actors that serve the journal's holders have in common: the `JournalKeeper`, which sends segments, and the
//! `SnapshotSender`. All of it is found out anew after a start.
//!
//! A holder that cannot go on without a snapshot *is filled*; one that can and has outgrown its last snapshot gets one beside
//! the segments. A `Claim` stands for a snapshot under way: it is dropped with the work, however that ends, so that none is
//! begun twice and none is forgotten. From the version at which its reading began the database keeps its journal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::decisions::journal::Trials;
use crate::types::api::JournalHolder;
use crate::types::{Error, ErrorCode, ServerId, Version};
use parking_lot::{Mutex, MutexGuard};

/// How long after a snapshot has failed the next one is begun.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Shared by the actors and whoever tells how the copies are. Cheap to clone.
#[derive(Clone, Default)]
pub struct JournalHolders(Arc<Mutex<Memory>>);

/// What is remembered.
#[derive(Default)]
pub(super) struct Memory {
    /// The servers that keep copies.
    pub(super) holders: Vec<ServerId>,
    /// When they were chosen.
    pub(super) chosen: Option<Instant>,
    /// When the database's journal was last trimmed.
    pub(super) trimmed: Option<Instant>,
    /// How they have done.
    pub(super) trials: Trials,
    /// Who needs a snapshot.
    wanted: HashMap<ServerId, Want>,
    /// Snapshots that are being sent.
    under_way: HashMap<ServerId, UnderWay>,
    /// When the last snapshot was taken.
    taken: HashMap<ServerId, Instant>,
    /// What came of the last snapshot, where it failed.
    failed: HashMap<ServerId, (Instant, Error)>,
    /// How far each holder had come when it was last asked.
    reached: HashMap<ServerId, Option<Version>>,
    /// Why holders were not served in the last pass.
    behind: HashMap<ServerId, String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// It cannot go on without one.
    Filled,
    /// It has outgrown its last one.
    Renewed,
}

struct UnderWay {
    since: Instant,
    /// The version from which on the segments must still be there; 0 before that is known.
    needed: Version,
}

impl JournalHolders {
    pub(super) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock()
    }

    /// Forgets everything but what is under way: another name server acts.
    pub(super) fn forget(&self) {
        let mut memory = self.lock();
        *memory = Memory { under_way: std::mem::take(&mut memory.under_way), ..Memory::default() };
    }

    /// Begins with the next snapshot that is wanted, if there is one.
    pub(super) fn claim(&self) -> Option<(Claim, Want)> {
        let mut memory = self.lock();
        let may_begin = |server: &ServerId| {
            let failed = memory.failed.get(server).is_some_and(|(at, _)| at.elapsed() < AGAIN_AFTER);
            !failed && !memory.under_way.contains_key(server) && memory.holders.contains(server)
        };
        let (server, want) = memory.wanted.iter().find(|(server, _)| may_begin(server)).map(|(s, w)| (*s, *w))?;
        memory.under_way.insert(server, UnderWay { since: Instant::now(), needed: 0 });
        Some((Claim { holders: self.clone(), server }, want))
    }

    /// The version from which on the database's journal is needed for what is under way.
    pub(super) fn needed(&self) -> Option<Version> {
        self.lock().under_way.values().map(|one| one.needed).min()
    }

    /// How the holders are, as far as this name server serves them.
    pub fn told(&self, name: impl Fn(ServerId) -> String) -> Vec<JournalHolder> {
        let memory = self.lock();
        let told = |server: &ServerId| JournalHolder {
            server: *server,
            name: name(*server),
            version: memory.reached.get(server).copied().flatten(),
            snapshot_seconds: memory.under_way.get(server).map(|one| one.since.elapsed().as_secs_f64()),
            error: memory
                .behind
                .get(server)
                .cloned()
                .or_else(|| memory.failed.get(server).map(|(_, error)| error.chain())),
        };
        memory.holders.iter().map(told).collect()
    }
}

impl Memory {
    /// Notes how far a holder has come, and whether it needs a snapshot, by what it said when it was `asked`.
    pub(super) fn served(&mut self, server: ServerId, asked: Instant, reached: Option<Version>, want: Option<Want>) {
        self.reached.insert(server, reached);
        self.behind.remove(&server);
        let is_old = self.under_way.contains_key(&server) || self.taken.get(&server).is_some_and(|at| *at >= asked);
        match want {
            // It did not have the snapshot yet that it has now, or will have.
            Some(_) if is_old => {}
            Some(want) => drop(self.wanted.insert(server, want)),
            None => {
                self.wanted.remove(&server);
                self.failed.remove(&server);
            }
        }
    }

    /// Notes that a holder was not served.
    pub(super) fn not_served(&mut self, server: ServerId, error: &Error) {
        self.behind.insert(server, error.chain());
    }

    /// Notes what came of a snapshot.
    pub(super) fn sent(&mut self, server: ServerId, outcome: Result<(), &Error>) {
        self.wanted.remove(&server);
        match outcome {
            Ok(()) => {
                self.failed.remove(&server);
                self.taken.insert(server, Instant::now());
            }
            Err(error) => drop(self.failed.insert(server, (Instant::now(), error.clone()))),
        }
    }

    /// Whether the last snapshot found no room.
    pub(super) fn has_no_room(&self, server: ServerId) -> bool {
        self.failed.get(&server).is_some_and(|(_, error)| error.code() == ErrorCode::OutOfSpace)
    }

    /// Forgets servers that are not there any more.
    pub(super) fn retain(&mut self, is_there: impl Fn(ServerId) -> bool) {
        self.trials.retain(&is_there);
        self.wanted.retain(|server, _| is_there(*server));
        self.failed.retain(|server, _| is_there(*server));
        self.taken.retain(|server, _| is_there(*server));
        self.reached.retain(|server, _| is_there(*server));
        self.behind.retain(|server, _| is_there(*server));
    }
}

/// A snapshot under way to a server.
pub(super) struct Claim {
    holders: JournalHolders,
    /// The server.
    pub(super) server: ServerId,
}

impl Claim {
    /// From this version on segments must still be there.
    pub(super) fn needs(&self, version: Version) {
        if let Some(one) = self.holders.lock().under_way.get_mut(&self.server) {
            one.needed = version;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.holders.lock().under_way.remove(&self.server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ServerId = ServerId(7);

    fn holders(want: Option<Want>) -> JournalHolders {
        let holders = JournalHolders::default();
        holders.lock().holders = vec![SERVER];
        holders.lock().served(SERVER, Instant::now(), Some(3), want);
        holders
    }

    #[test]
    fn a_snapshot_is_not_begun_twice_and_frees_itself() {
        let holders = holders(Some(Want::Renewed));
        let (claim, _) = holders.claim().unwrap();
        assert!(holders.claim().is_none(), "it is under way");
        assert_eq!(holders.needed(), Some(0), "nothing is trimmed before it is known from where on it is needed");
        claim.needs(40);
        assert_eq!(holders.needed(), Some(40));
        holders.forget();
        assert_eq!(holders.needed(), Some(40), "what is under way is not forgotten with the rest");
        drop(claim);
        assert_eq!(holders.needed(), None);
        assert!(super::tests::holders(None).claim().is_none(), "nobody wants one");
    }

    #[test]
    fn one_that_failed_is_begun_again_later_and_told() {
        let holders = holders(Some(Want::Filled));
        let told = |holders: &JournalHolders| holders.told(|server| format!("s{}", server.0)).remove(0);
        let claim = holders.claim().unwrap().0;
        assert!(told(&holders).snapshot_seconds.is_some() && told(&holders).error.is_none());
        holders.lock().sent(SERVER, Err(&Error::new(ErrorCode::OutOfSpace, "no room")));
        drop(claim);
        holders.lock().served(SERVER, Instant::now(), None, Some(Want::Filled));
        assert!(holders.claim().is_none() && holders.lock().has_no_room(SERVER));
        let one = told(&holders);
        assert!(one.name == "s7" && one.version.is_none() && one.error.unwrap().contains("no room"));
        holders.lock().failed.get_mut(&SERVER).unwrap().0 = Instant::now() - AGAIN_AFTER;
        let asked = Instant::now();
        let claim = holders.claim().unwrap().0;
        holders.lock().sent(SERVER, Ok(()));
        drop(claim);
        holders.lock().served(SERVER, asked, None, Some(Want::Filled));
        assert!(holders.claim().is_none(), "what the holder said before it had it is old");
        holders.lock().served(SERVER, Instant::now(), None, Some(Want::Filled));
        assert!(holders.claim().is_some());
    }
}
