//! Which storage servers keep copies of the journal, and what one of them is sent next.

use std::collections::HashSet;

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
    /// The last version of its copy of this history, if it has one.
    pub version: Option<Version>,
}

/// Chooses `copies` servers among the live ones: on different hosts first, those that stay, those that have the
/// most already, and always the same among equals.
pub fn choose(live: &[Holder], copies: usize) -> Vec<ServerId> {
    let mut order: Vec<&Holder> = live.iter().collect();
    order.sort_by_key(|holder| (!holder.in_service, std::cmp::Reverse(holder.version), holder.server));
    let mut hosts = HashSet::new();
    let (first, rest): (Vec<&Holder>, Vec<&Holder>) =
        order.into_iter().partition(|holder| holder.in_service && hosts.insert(holder.host.as_str()));
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

/// The version that the required number of copies has reached. `complete` are the versions of complete copies.
pub fn copied(mut complete: Vec<Version>, copies: usize, live: usize) -> Version {
    complete.sort_unstable_by(|one, other| other.cmp(one));
    let required = copies.min(live).max(1);
    complete.get(required - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn holder(server: i64, host: &str, in_service: bool, version: Option<Version>) -> Holder {
        Holder { server: ServerId(server), host: host.into(), in_service, version }
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
        assert_eq!(copied(vec![5, 9, 7], 3, 5), 5);
        assert_eq!(copied(vec![5, 9, 7], 2, 5), 7);
        assert_eq!(copied(vec![9], 3, 1), 9, "there is only one server");
        assert_eq!(copied(vec![9], 3, 2), 0);
        assert_eq!(copied(Vec::new(), 3, 0), 0);
    }
}
