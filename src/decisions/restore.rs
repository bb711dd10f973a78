//! What a restore takes of the files that the journal's copies do not tell of: the tail behind the journal, or
//! everything, when no journal is left.

use std::collections::{BTreeMap, HashMap};

use crate::types::{ObjectId, ServerId, Sha256, Version};

/// A copy that its server has marked as committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The server.
    pub server: ServerId,
    /// The object.
    pub object: ObjectId,
    /// Its version.
    pub version: Version,
    /// The path at its commit.
    pub label: String,
    /// Bytes.
    pub size: u64,
    /// Their digest, as the server believes.
    pub sha256: Sha256,
}

/// A file to bring back under its label.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// For each path the newest committed version; where copies of one object disagree, what most servers say. Answers
/// the files by path, and what was decided between several, in sentences.
pub fn newest(marked: &[Marked]) -> (Vec<Found>, Vec<String>) {
    let mut objects: BTreeMap<ObjectId, Vec<&Marked>> = BTreeMap::new();
    for copy in marked {
        objects.entry(copy.object).or_default().push(copy);
    }
    let mut said = Vec::new();
    let mut paths: BTreeMap<&str, Found> = BTreeMap::new();
    for (object, copies) in objects {
        let Some(best) = agreed(object, &copies, &mut said) else { continue };
        let found =
            Found { object, version: best.version, label: best.label.clone(), size: best.size, sha256: best.sha256 };
        match paths.get(best.label.as_str()) {
            Some(other) if (other.version, other.object) > (found.version, found.object) => {}
            _ => drop(paths.insert(&best.label, found)),
        }
    }
    (paths.into_values().collect(), said)
}

/// What most of the servers that have an object say of it; among equals the one with the higher version.
fn agreed<'m>(object: ObjectId, copies: &[&'m Marked], said: &mut Vec<String>) -> Option<&'m Marked> {
    let mut votes: HashMap<(u64, Sha256), usize> = HashMap::new();
    for copy in copies {
        *votes.entry((copy.size, copy.sha256)).or_default() += 1;
    }
    let best = copies.iter().max_by_key(|copy| (votes[&(copy.size, copy.sha256)], copy.version, copy.sha256))?;
    if votes.len() > 1 {
        said.push(format!(
            "{} (object {object}): {} servers disagree about its content; taken is what {} of them say (SHA-256 {})",
            best.label,
            copies.len(),
            votes[&(best.size, best.sha256)],
            best.sha256
        ));
    }
    Some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn copy(server: i64, object: i64, version: Version, label: &str, content: &str) -> Marked {
        Marked {
            server: ServerId(server),
            object: ObjectId(object),
            version,
            label: label.into(),
            size: content.len() as u64,
            sha256: Sha256::of(content.as_bytes()),
        }
    }

    #[test]
    fn the_newest_version_of_a_path_wins() {
        let copies = [
            copy(1, 10, 5, "/a", "old"),
            copy(2, 11, 7, "/a", "new"),
            copy(1, 11, 7, "/a", "new"),
            copy(1, 12, 6, "/b", "b"),
        ];
        let (found, said) = newest(&copies);
        assert_eq!(
            found.iter().map(|found| (found.label.as_str(), found.object.0)).collect::<Vec<_>>(),
            [("/a", 11), ("/b", 12)]
        );
        assert!(said.is_empty());
    }

    #[test]
    fn the_majority_decides_about_content() {
        let copies = [copy(1, 10, 5, "/a", "bad"), copy(2, 10, 5, "/a", "good"), copy(3, 10, 5, "/a", "good")];
        let (found, said) = newest(&copies);
        assert_eq!(found[0].sha256, Sha256::of(b"good"));
        assert_eq!(said.len(), 1);
    }

    proptest! {
        /// Each path that was marked comes back exactly once, with a version that no other has exceeded, in whatever
        /// order the servers were asked.
        #[test]
        fn every_path_comes_back_once(
            drawn in proptest::collection::vec((1i64..4, 0i64..12, 0u8..5), 0..40), rotate in 0usize..40,
        ) {
            // An object has one version and one label.
            let copies: Vec<Marked> = drawn.iter().map(|(server, object, _)| {
                copy(*server, *object, 100 + object, &format!("/p{}", object % 5), &object.to_string())
            }).collect();
            let (found, said) = newest(&copies);
            prop_assert!(said.is_empty());
            let mut turned = copies.clone();
            if !turned.is_empty() {
                let by = rotate % turned.len();
                turned.rotate_left(by);
            }
            prop_assert_eq!(&newest(&turned).0, &found);
            let labels: std::collections::BTreeSet<&str> = copies.iter().map(|copy| copy.label.as_str()).collect();
            prop_assert_eq!(found.iter().map(|found| found.label.as_str()).collect::<Vec<_>>(), labels.into_iter().collect::<Vec<_>>());
            for one in &found {
                prop_assert!(copies.iter().all(|copy| copy.label != one.label || copy.version <= one.version));
            }
        }
    }
}
