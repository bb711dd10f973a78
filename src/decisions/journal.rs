//! Which storage servers keep copies of the journal, and what one of them is sent next.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::types::storage_api::JournalPosition;
use crate::types::{ServerId, Sha256, Version};

/// A server that could keep a copy.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The server.
    pub server: ServerId,
    /// The machine it runs on.
    pub host: String,
    /// Neither draining nor drained.
    pub in_service: bool,
    /// It failed again and again: it is taken only when there are not enough others.
    pub set_aside: bool,
    /// The last version of its copy of this history, if it has one.
    pub version: Option<Version>,
}

/// Chooses `copies` servers among the live ones: on different hosts first, those that stay, those that have the
/// most already, and always the same among equals.
pub fn choose(live: &[Holder], copies: usize) -> Vec<ServerId> {
    let mut order: Vec<&Holder> = live.iter().collect();
    order
        .sort_by_key(|holder| (holder.set_aside, !holder.in_service, std::cmp::Reverse(holder.version), holder.server));
    let mut hosts = HashSet::new();
    let (first, rest): (Vec<&Holder>, Vec<&Holder>) = order
        .into_iter()
        .partition(|holder| !holder.set_aside && holder.in_service && hosts.insert(holder.host.as_str()));
    first.into_iter().chain(rest).take(copies).map(|holder| holder.server).collect()
}

/// The database's journal.
#[derive(Debug, Clone)]
pub struct Head {
    /// The branch of history.
    pub history: uuid::Uuid,
    /// Raised by every restore.
    pub epoch: i64,
    /// The newest version.
    pub version: Version,
    /// The tip after it.
    pub tip: Sha256,
}

/// What a holder is sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Send {
    /// Nothing: it has everything.
    Nothing,
    /// The versions after this one, which has this tip.
    After(Version, Sha256),
    /// A snapshot.
    Snapshot,
    /// Nothing: it knows of changes that the database does not have. The database was set back.
    Diverged(String),
}

/// Decides. `tip_there` is the database's tip at the holder's version, where its journal still has it.
pub fn next(head: &Head, held: Option<&JournalPosition>, tip_there: Option<Sha256>, begins_at_first: bool) -> Send {
    let Some(held) = held else {
        return if begins_at_first && head.version > 0 { Send::After(0, Sha256([0; 32])) } else { Send::Snapshot };
    };
    if held.epoch > head.epoch {
        return Send::Diverged(format!("it is of epoch {}, the database is in epoch {}", held.epoch, head.epoch));
    }
    if held.history != head.history {
        if held.epoch == head.epoch {
            return Send::Diverged("it is of another history in the same epoch".into());
        }
        return Send::Snapshot;
    }
    if held.version > head.version {
        return Send::Diverged(format!("it reaches version {}, the database version {}", held.version, head.version));
    }
    if held.version == head.version {
        return match held.tip == head.tip {
            true => Send::Nothing,
            false => Send::Diverged(format!("at version {} it tells of other changes", held.version)),
        };
    }
    match tip_there {
        Some(tip) if tip == held.tip => Send::After(held.version, tip),
        Some(_) => Send::Diverged(format!("at version {} it tells of other changes", held.version)),
        // The database's journal was trimmed beyond it.
        None => Send::Snapshot,
    }
}

/// A holder that fails in as many passes one after the other is set aside.
pub const FAILED_PASSES_MAX: u32 = 3;
/// How long it is left alone then, before it is tried again.
pub const TRY_AGAIN: Duration = Duration::from_secs(60);

/// How holders have done of late. One that is *set aside* is not needed for anything: others take its place, and while
/// there are none, what the others have is enough. It comes back with its first success.
#[derive(Debug, Default)]
pub struct Trials(HashMap<ServerId, Trial>);

#[derive(Debug)]
struct Trial {
    failed_passes: u32,
    last: Instant,
}

impl Trials {
    /// Notes how a holder has done in a pass. Answers whether it is set aside now and was not before.
    pub fn note(&mut self, server: ServerId, succeeded: bool, now: Instant) -> bool {
        if succeeded {
            self.0.remove(&server);
            return false;
        }
        let trial = self.0.entry(server).or_insert(Trial { failed_passes: 0, last: now });
        trial.failed_passes = trial.failed_passes.saturating_add(1);
        trial.last = now;
        trial.failed_passes == FAILED_PASSES_MAX
    }

    /// Whether a server has failed so often that nothing waits for it.
    pub fn is_set_aside(&self, server: ServerId) -> bool {
        self.0.get(&server).is_some_and(|trial| trial.failed_passes >= FAILED_PASSES_MAX)
    }

    /// Whether a server may be tried: one that is set aside only now and then.
    pub fn may_be_tried(&self, server: ServerId, now: Instant) -> bool {
        let last = self.0.get(&server).map(|trial| trial.last);
        !self.is_set_aside(server) || last.is_some_and(|last| now.duration_since(last) >= TRY_AGAIN)
    }

    /// Forgets servers that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(ServerId) -> bool) {
        self.0.retain(|server, _| is_there(*server));
    }
}

/// How many servers could keep a copy, and how many of them are being filled with their first snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Able {
    /// All that can keep one.
    pub servers: usize,
    /// Those of them that have nothing to go on from yet: a snapshot is on its way to them.
    pub filling: usize,
}

/// Nothing counts as copied before it is on as many copies, where there are as many servers: one that is being filled
/// makes nobody wait, but it is waited for when the others are fewer.
const FILLED_MIN: usize = 2;

/// The version that the required number of copies has reached: as many as wanted, or all that there can be. `complete` are
/// the versions of complete copies. With none nothing is on a copy.
pub fn copied(mut complete: Vec<Version>, copies: usize, able: Able) -> Version {
    complete.sort_unstable_by(|one, other| other.cmp(one));
    let all = copies.min(able.servers);
    let required = all.saturating_sub(able.filling).max(FILLED_MIN.min(all)).max(1);
    complete.get(required - 1).copied().unwrap_or(0)
}

/// Segments since the last snapshot that are too few for a new one, in bytes.
pub const SNAPSHOT_FLOOR_BYTES: u64 = 32 << 20;

/// Whether a holder that can go on without one is to get a new snapshot: when replaying the changes since the last one
/// costs as much as the last one itself, and not for a trifle. So a snapshot is read once for each time that the metadata
/// has changed as much as it has; a holder keeps two and the segments since the older one, which makes at most about
/// four times the metadata.
pub fn snapshot_is_due(since_bytes: u64, snapshot_bytes: u64, floor_bytes: u64) -> bool {
    since_bytes > snapshot_bytes.max(floor_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn holder(server: i64, host: &str, in_service: bool, version: Option<Version>) -> Holder {
        Holder { server: ServerId(server), host: host.into(), in_service, set_aside: false, version }
    }

    #[test]
    fn a_holder_that_fails_is_replaced_and_tried_again_later() {
        let (mut trials, start, sick) = (Trials::default(), Instant::now(), ServerId(1));
        for pass in 1..FAILED_PASSES_MAX {
            assert!(!trials.note(sick, false, start) && !trials.is_set_aside(sick), "pass {pass}");
        }
        assert!(trials.note(sick, false, start), "this is news");
        assert!(!trials.note(sick, false, start), "and is told once");
        assert!(trials.is_set_aside(sick) && !trials.is_set_aside(ServerId(2)));
        assert!(!trials.may_be_tried(sick, start) && trials.may_be_tried(ServerId(2), start));
        assert!(trials.may_be_tried(sick, start + TRY_AGAIN) && trials.is_set_aside(sick), "nothing waits for it then");
        let mut live = vec![holder(1, "a", true, Some(9)), holder(2, "b", true, None), holder(3, "c", true, None)];
        assert_eq!(choose(&live, 2), [ServerId(1), ServerId(2)]);
        live[0].set_aside = true;
        assert_eq!(choose(&live, 2), [ServerId(2), ServerId(3)], "another one takes its place");
        assert_eq!(choose(&live, 3), [ServerId(2), ServerId(3), ServerId(1)], "there is no other one");
        trials.note(sick, true, start);
        assert!(!trials.is_set_aside(sick));
        trials.note(sick, false, start);
        trials.retain(|server| server != sick);
        assert!(trials.0.is_empty());
    }

    #[test]
    fn holders_are_on_different_hosts_and_stay() {
        let live = [
            holder(1, "a", true, Some(5)),
            holder(2, "a", true, Some(9)),
            holder(3, "b", true, None),
            holder(4, "c", false, Some(9)),
        ];
        assert_eq!(choose(&live, 2), [ServerId(2), ServerId(3)]);
        assert_eq!(choose(&live, 3), [ServerId(2), ServerId(3), ServerId(1)], "one that stays before one that drains");
        assert_eq!(choose(&live, 9).len(), 4);
        assert!(choose(&[], 3).is_empty());
    }

    #[test]
    fn each_position_has_its_answer() {
        let (history, tip) = (Uuid::from_u128(1), |n: u8| Sha256([n; 32]));
        let head = Head { history, epoch: 3, version: 10, tip: tip(10) };
        let at = |history: u128, epoch, version, n| JournalPosition {
            history: Uuid::from_u128(history),
            epoch,
            version,
            tip: tip(n),
        };
        let decide = |held: JournalPosition, there: Option<u8>| next(&head, Some(&held), there.map(tip), true);
        assert_eq!(decide(at(1, 3, 10, 10), None), Send::Nothing);
        assert_eq!(decide(at(1, 2, 7, 7), Some(7)), Send::After(7, tip(7)));
        assert_eq!(decide(at(1, 3, 7, 7), None), Send::Snapshot);
        assert_eq!(decide(at(2, 2, 99, 99), None), Send::Snapshot, "an older history");
        assert!(matches!(decide(at(1, 3, 7, 7), Some(8)), Send::Diverged(_)));
        assert!(matches!(decide(at(1, 3, 10, 11), None), Send::Diverged(_)));
        assert!(matches!(decide(at(1, 3, 11, 11), None), Send::Diverged(_)));
        assert!(matches!(decide(at(2, 4, 1, 1), None), Send::Diverged(_)), "the servers have seen a restore");
        assert_eq!(next(&head, None, None, true), Send::After(0, tip(0)));
        assert_eq!(next(&head, None, None, false), Send::Snapshot);
    }

    #[test]
    fn enough_copies_count() {
        let copied = |complete: &[Version], copies, servers, filling| {
            super::copied(complete.to_vec(), copies, Able { servers, filling })
        };
        assert_eq!(copied(&[5, 9, 7], 3, 5, 0), 5);
        assert_eq!(copied(&[5, 9, 7], 2, 5, 0), 7);
        assert_eq!(copied(&[9], 3, 1, 0), 9, "there is only one server");
        assert_eq!(copied(&[9], 3, 2, 0), 0);
        // Three servers, one of which fails: the other two are all that can have it.
        assert_eq!((copied(&[9, 8], 3, 3, 0), copied(&[9, 8], 3, 2, 0)), (0, 8));
        // Four servers, of which one fails: as many as wanted.
        assert_eq!(copied(&[9, 8, 7], 3, 3, 0), 7);
        assert_eq!(copied(&[], 3, 0, 0), 0);
        // One of three is being filled: the two others go on. Two of three: a second one is waited for.
        assert_eq!((copied(&[9, 8], 3, 3, 1), copied(&[9], 3, 3, 2), copied(&[9, 4], 3, 3, 2)), (8, 0, 4));
        assert_eq!(copied(&[9, 8], 3, 10, 1), 8, "the others are no holders");
        assert_eq!((copied(&[9], 3, 2, 1), copied(&[], 3, 3, 3), copied(&[9], 1, 3, 2)), (0, 0, 9));
    }

    #[test]
    fn snapshots_come_by_the_amount_of_change() {
        for (since, snapshot, due) in [
            (0, 0, false),
            (SNAPSHOT_FLOOR_BYTES, 0, false),
            (SNAPSHOT_FLOOR_BYTES + 1, 0, true),
            (SNAPSHOT_FLOOR_BYTES + 1, SNAPSHOT_FLOOR_BYTES + 1, false),
            (SNAPSHOT_FLOOR_BYTES + 2, SNAPSHOT_FLOOR_BYTES + 1, true),
            (5 << 30, 6 << 30, false),
            (7 << 30, 6 << 30, true),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(snapshot_is_due(since, snapshot, SNAPSHOT_FLOOR_BYTES), due, "{since} since {snapshot}");
        }
    }

    proptest! {
        /// Whatever is written and however large the metadata is: what is written in snapshots and what a holder keeps
        /// are bounded by what was written in segments and by the metadata.
        #[test]
        fn snapshots_cost_no_more_than_the_changes(
            steps in prop::collection::vec((1_u64..40 << 20, 0_u64..2), 1..400),
            metadata in 1_u64..1 << 30,
        ) {
            let (mut metadata, mut snapshot, mut before, mut since) = (metadata, 0, 0, 0);
            let (mut segments, mut snapshots, mut largest) = (0, 0, metadata);
            for (bytes, grows) in steps {
                (since, segments) = (since + bytes, segments + bytes);
                metadata += bytes * grows;
                largest = largest.max(metadata);
                if snapshot_is_due(since, snapshot, SNAPSHOT_FLOOR_BYTES) {
                    (before, snapshot, since) = (since, metadata, 0);
                    snapshots += snapshot;
                }
                let held = 2 * largest + before + since;
                prop_assert!(held <= 4 * largest + 2 * (SNAPSHOT_FLOOR_BYTES + (40 << 20)), "{held} of {largest}");
            }
            prop_assert!(snapshots <= 2 * segments + 2 * largest, "{snapshots} for {segments}");
        }
    }
}
