//! What a restore makes of objects that the journal's copies do not tell of: the tail behind the journal, or
//! everything, when no journal is left.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::types::{ObjectId, ServerId, Sha256, Version};

/// A copy of such an object, as its server tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The server.
    pub server: ServerId,
    /// The object's version, where the server has heard of its commit.
    pub version: Option<Version>,
    /// The path at its commit.
    pub label: String,
    /// Bytes.
    pub size: u64,
    /// Their digest, as the server believes.
    pub sha256: Sha256,
}

/// A file to bring back under its label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The object.
    pub object: ObjectId,
    /// Its version.
    pub version: Version,
    /// Where it was committed.
    pub label: String,
    /// Bytes.
    pub size: u64,
    /// Their digest.
    pub sha256: Sha256,
}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was committed behind the end of what is known: it is a file again.
    Found(Found),
    /// It was committed before that end and is not known: deleted and forgotten.
    Forgotten,
    /// No server has heard of its commit.
    Doubtful,
}

impl Fate {
    /// The fate of an object of which these are all copies that there are. Whatever one server has heard of is so for the
    /// copies of all others. Up to the version `told` everything that exists is known. Answers what was decided between
    /// several contents, too, as a sentence.
    pub fn of(object: ObjectId, copies: &[Held], told: Version) -> (Self, Option<String>) {
        if copies.iter().all(|copy| copy.version.is_none()) {
            return (Self::Doubtful, None);
        }
        let behind: Vec<(&Held, Version)> =
            copies.iter().filter_map(|copy| Some((copy, copy.version.filter(|version| *version > told)?))).collect();
        let mut votes: HashMap<(u64, Sha256), usize> = HashMap::new();
        for (copy, _) in &behind {
            *votes.entry((copy.size, copy.sha256)).or_default() += 1;
        }
        // What most of the servers say; among equals the one with the higher version.
        let best =
            behind.iter().max_by_key(|(copy, version)| (votes[&(copy.size, copy.sha256)], *version, copy.sha256));
        let Some((best, version)) = best else { return (Self::Forgotten, None) };
        let said = (votes.len() > 1).then(|| {
            format!(
                "{} (object {object}): {} servers disagree about its content; taken is what {} of them say (SHA-256 {})",
                best.label,
                behind.len(),
                votes[&(best.size, best.sha256)],
                best.sha256
            )
        });
        let (label, size, sha256) = (best.label.clone(), best.size, best.sha256);
        (Self::Found(Found { object, version: *version, label, size, sha256 }), said)
    }
}

impl Found {
    /// Of two files that were committed at one path the later one.
    pub fn or_newer(self, other: Self) -> Self {
        if (other.version, other.object) > (self.version, self.object) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn copy(server: i64, version: impl Into<Option<Version>>, label: &str, content: &str) -> Held {
        Held {
            server: ServerId(server),
            version: version.into(),
            label: label.into(),
            size: content.len() as u64,
            sha256: Sha256::of(content.as_bytes()),
        }
    }

    #[test]
    fn what_one_server_has_heard_of_is_so_for_all_copies() {
        let (known, unknown) = (copy(1, 7, "/a", "a"), copy(2, None, "/a", "a"));
        let (early, wrong) = (copy(3, 5, "/a", "a"), copy(3, None, "/a", "b"));
        for (copies, told, want) in [
            (vec![known.clone(), unknown.clone()], 5, "found"),
            (vec![unknown.clone(), known.clone(), wrong.clone()], 5, "found"),
            (vec![known.clone(), early.clone()], 5, "found"),
            (vec![known.clone(), unknown.clone()], 7, "forgotten"),
            (vec![early.clone(), unknown.clone()], 5, "forgotten"),
            (vec![unknown.clone(), wrong.clone()], 5, "doubtful"),
        ] {
            let (fate, said) = Fate::of(ObjectId(10), &copies, told);
            let is = match &fate {
                Fate::Found(found) => {
                    assert_eq!((found.version, found.sha256), (7, Sha256::of(b"a")));
                    "found"
                }
                Fate::Forgotten => "forgotten",
                Fate::Doubtful => "doubtful",
            };
            assert_eq!((is, said), (want, None), "{copies:?} {told}");
        }
    }

    #[test]
    fn the_majority_decides_about_content() {
        let copies = [copy(1, 5, "/a", "bad"), copy(2, 5, "/a", "good"), copy(3, 5, "/a", "good")];
        let (fate, said) = Fate::of(ObjectId(10), &copies, 0);
        assert!(matches!(fate, Fate::Found(found) if found.sha256 == Sha256::of(b"good")));
        assert!(said.is_some_and(|said| said.contains("3 servers disagree")));
    }

    proptest! {
        /// Each path that was marked comes back exactly once, with a version that no other has exceeded, in whatever
        /// order the servers were asked and the objects came.
        #[test]
        fn every_path_comes_back_once(
            drawn in proptest::collection::vec((1i64..4, 0i64..12), 0..40), rotate in 0usize..40,
        ) {
            // An object has one version and one label.
            let label = |object: i64| format!("/p{}", object % 5);
            let newest = |drawn: &[(i64, i64)]| {
                let mut paths: BTreeMap<String, Found> = BTreeMap::new();
                for (_, object) in drawn {
                    let servers = drawn.iter().filter(|(_, other)| other == object);
                    let copies: Vec<Held> =
                        servers.map(|(server, _)| copy(*server, 100 + object, &label(*object), &object.to_string())).collect();
                    let (Fate::Found(found), None) = Fate::of(ObjectId(*object), &copies, 99) else { panic!("{copies:?}") };
                    let there = paths.remove(&found.label);
                    let stays = match there { Some(there) => found.or_newer(there), None => found };
                    paths.insert(stays.label.clone(), stays);
                }
                paths
            };
            let found = newest(&drawn);
            let mut turned = drawn.clone();
            if !turned.is_empty() {
                let by = rotate % turned.len();
                turned.rotate_left(by);
            }
            prop_assert_eq!(&newest(&turned), &found);
            let labels: std::collections::BTreeSet<String> = drawn.iter().map(|(_, object)| label(*object)).collect();
            prop_assert_eq!(found.keys().cloned().collect::<Vec<_>>(), labels.into_iter().collect::<Vec<_>>());
            for (_, object) in &drawn {
                prop_assert!(found[&label(*object)].version >= 100 + object);
            }
        }
    }
}
