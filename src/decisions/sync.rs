//! What becomes of the copies on a server that has returned: its inventory against the metadata. The metadata
//! wins, and what it does not know is put aside before it is removed.

use crate::types::{Generation, Sha256, Version};

/// A copy in the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its number.
    pub generation: Generation,
    /// Bytes.
    pub size: u64,
    /// Their digest, as the server believes.
    pub sha256: Sha256,
    /// The object's version, when the server has heard of the commit.
    pub version: Option<Version>,
}

/// What the metadata knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Files refer to it.
    Live {
        /// Bytes.
        size: u64,
        /// Their digest.
        sha256: Sha256,
    },
    /// No file refers to it any more.
    Deleted,
    /// Its upload was never committed.
    Aborted,
    /// It has no row.
    Unknown,
}

/// What the metadata lists of the object on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// The copy's number.
    pub generation: Generation,
    /// It is still on its way.
    pub copying: bool,
}

/// What to do with a copy that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Keep,
    /// Its own rule decides: it is pending, or on its way.
    Leave,
    /// The metadata wants the object and lists no copy of it here: count this one.
    Adopt,
    /// It is outdated.
    Delete(&'static str),
    /// It is not what it should be, or nobody knows it: put it aside. The listed row, if it is this copy's, goes.
    Quarantine(&'static str),
}

/// Why a copy is put aside whose size or digest differs.
const WRONG_CONTENT: &str = "its content is not the object's";

impl Verdict {
    /// What programs know a difference by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Keep | Self::Leave => "none",
            Self::Adopt => "not_counted",
            Self::Delete(_) => "outdated",
            Self::Quarantine(WRONG_CONTENT) => "wrong_content",
            Self::Quarantine(_) => "unknown",
        }
    }

    /// Why, in words.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Keep | Self::Leave => "it is as it should be",
            Self::Adopt => "the metadata wants it and does not count it",
            Self::Delete(why) | Self::Quarantine(why) => why,
        }
    }
}

/// Judges one copy. `deletion_waits` says that the outbox has a deletion of exactly this copy.
pub fn judge(held: &Held, known: &Known, listed: Option<Listed>, deletion_waits: bool) -> Verdict {
    let is_listed = listed.is_some_and(|listed| listed.generation == held.generation);
    if deletion_waits && !is_listed {
        return Verdict::Leave;
    }
    match (known, listed) {
        (_, Some(listed)) if is_listed && listed.copying => Verdict::Leave,
        (Known::Live { size, sha256 }, _) if is_listed => {
            if held.size == *size && held.sha256 == *sha256 {
                Verdict::Keep
            } else {
                Verdict::Quarantine(WRONG_CONTENT)
            }
        }
        _ if held.version.is_none() => Verdict::Leave,
        (Known::Live { size, sha256 }, _) if held.size != *size || held.sha256 != *sha256 => {
            Verdict::Quarantine(WRONG_CONTENT)
        }
        (Known::Live { .. }, None) => Verdict::Adopt,
        (Known::Live { .. }, Some(_)) => Verdict::Delete("the server has another copy of the object"),
        (Known::Deleted, _) => Verdict::Delete("the last file with these bytes was removed while the server was away"),
        (Known::Aborted, _) => Verdict::Quarantine("the server believes in a commit that the metadata refused"),
        (Known::Unknown, _) => Verdict::Quarantine("the metadata does not know the object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(version: Option<Version>) -> Held {
        Held { generation: Generation(1), size: 5, sha256: Sha256::of(b"bytes"), version }
    }

    fn live() -> Known {
        Known::Live { size: 5, sha256: Sha256::of(b"bytes") }
    }

    fn listed(generation: i64, copying: bool) -> Option<Listed> {
        Some(Listed { generation: Generation(generation), copying })
    }

    #[test]
    fn each_case_has_its_verdict() {
        let other = Known::Live { size: 5, sha256: Sha256::of(b"other") };
        for (what, version, known, listed, waits, want) in [
            ("listed", Some(3), live(), listed(1, false), false, Verdict::Keep),
            ("listed and not marked yet", None, live(), listed(1, false), false, Verdict::Keep),
            (
                "listed with other bytes",
                Some(3),
                other.clone(),
                listed(1, false),
                false,
                Verdict::Quarantine("its content is not the object's"),
            ),
            ("on its way", None, live(), listed(1, true), false, Verdict::Leave),
            ("pending", None, Known::Unknown, None, false, Verdict::Leave),
            ("not listed any more but wanted", Some(3), live(), None, false, Verdict::Adopt),
            (
                "not listed with other bytes",
                Some(3),
                other,
                None,
                false,
                Verdict::Quarantine("its content is not the object's"),
            ),
            (
                "an older copy",
                Some(3),
                live(),
                listed(2, false),
                false,
                Verdict::Delete("the server has another copy of the object"),
            ),
            ("to be deleted already", Some(3), live(), None, true, Verdict::Leave),
            (
                "unknown",
                Some(3),
                Known::Unknown,
                None,
                false,
                Verdict::Quarantine("the metadata does not know the object"),
            ),
        ] {
            assert_eq!(judge(&held(version), &known, listed, waits), want, "{what}");
        }
        assert!(matches!(judge(&held(Some(3)), &Known::Deleted, None, false), Verdict::Delete(_)));
        assert!(matches!(judge(&held(Some(3)), &Known::Aborted, None, false), Verdict::Quarantine(_)));
    }

    proptest! {
        /// Nothing that was deleted comes back, nothing listed with the right bytes is touched, and only what the
        /// metadata replaced or removed is deleted without being put aside.
        #[test]
        fn metadata_wins(
            marked: bool, same: bool, known in 0..4, row in proptest::option::of((1i64..3, any::<bool>())), waits: bool,
        ) {
            let held = held(marked.then_some(3));
            let sha256 = if same { held.sha256 } else { Sha256::of(b"other") };
            let known = [Known::Live { size: 5, sha256 }, Known::Deleted, Known::Aborted, Known::Unknown][known as usize].clone();
            let listed = row.map(|(generation, copying)| Listed { generation: Generation(generation), copying });
            let verdict = judge(&held, &known, listed, waits);
            let is_live = matches!(known, Known::Live { .. });
            prop_assert!(!matches!(verdict, Verdict::Keep | Verdict::Adopt) || (is_live && same));
            let mine = listed.is_some_and(|listed| listed.generation == held.generation && !listed.copying);
            prop_assert!(!(mine && is_live && same) || verdict == Verdict::Keep);
            let deleted = matches!(verdict, Verdict::Delete(_));
            prop_assert!(!deleted || marked && (is_live || known == Known::Deleted), "deleted what is pending or unknown");
            prop_assert!(!(deleted && is_live) || same && listed.is_some(), "deleted a copy that nothing replaces");
        }
    }
}
