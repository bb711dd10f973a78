//! The three-way decision, without I/O.
//!
//! For one path it is known what it was at the last push or pull (the base), what it is here and what it is
//! there. Only contents count: a file that was rewritten with the same bytes has not changed.

use crate::types::Sha256;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    File(Sha256),
    /// A local file that is certainly different from the base and from the remote one, so that nobody needs
    /// its digest.
    NewFile,
}

/// What has to travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing: both sides are the same.
    Same,
    /// From here to there; a push does it.
    Outgoing,
    /// From there to here; a pull does it.
    Incoming,
    /// Both changed, to different things.
    Conflict,
}

/// Compares three sides of a path; `None` means that nothing is there.
pub(crate) fn decide(base: Option<Content>, local: Option<Content>, remote: Option<Content>) -> Decision {
    if local == remote && local != Some(Content::NewFile) {
        return Decision::Same;
    }
    match (local == base, remote == base) {
        (false, true) => Decision::Outgoing,
        (true, false) => Decision::Incoming,
        // Both equal to the base, yet different from each other: impossible but for `NewFile`, which is never
        // a base.
        _ => Decision::Conflict,
    }
}

/// A conflict in words.
pub(crate) fn conflict_reason(base: Option<Content>, local: Option<Content>, remote: Option<Content>) -> &'static str {
    use Content::*;
    match (base, local, remote) {
        (_, None, _) => "it was deleted here and changed in the cluster",
        (_, _, None) => "it was changed here and deleted in the cluster",
        (_, Some(Directory), Some(_)) => "it is a directory here and a file in the cluster",
        (_, Some(_), Some(Directory)) => "it is a file here and a directory in the cluster",
        (None, ..) => "it was made here and in the cluster with different contents",
        _ => "it was changed here and in the cluster",
    }
}

/// A path's state in one word or two; nothing when both sides are the same.
pub(crate) fn status_word(
    base: Option<Content>,
    local: Option<Content>,
    remote: Option<Content>,
) -> Option<&'static str> {
    Some(match decide(base, local, remote) {
        Decision::Same => return None,
        Decision::Outgoing if local.is_none() => "deleted",
        Decision::Outgoing if base.is_none() => "new",
        Decision::Outgoing => "modified",
        Decision::Incoming if remote.is_none() => "remote deleted",
        Decision::Incoming if base.is_none() => "remote new",
        Decision::Incoming => "remote modified",
        Decision::Conflict => "conflict",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(byte: u8) -> Option<Content> {
        Some(Content::File(Sha256([byte; 32])))
    }

    const DIRECTORY: Option<Content> = Some(Content::Directory);
    const NEW: Option<Content> = Some(Content::NewFile);

    #[test]
    fn the_table() {
        let (a, b, c) = (file(1), file(2), file(3));
        for (base, local, remote, decision, word) in [
            (None, None, None, Decision::Same, None),
            (None, a, None, Decision::Outgoing, Some("new")),
            (None, NEW, None, Decision::Outgoing, Some("new")),
            (None, None, a, Decision::Incoming, Some("remote new")),
            (None, a, a, Decision::Same, None),
            (None, a, b, Decision::Conflict, Some("conflict")),
            (None, NEW, b, Decision::Conflict, Some("conflict")),
            (a, a, a, Decision::Same, None),
            (a, b, a, Decision::Outgoing, Some("modified")),
            (a, NEW, a, Decision::Outgoing, Some("modified")),
            (a, a, b, Decision::Incoming, Some("remote modified")),
            (a, b, b, Decision::Same, None),
            (a, b, c, Decision::Conflict, Some("conflict")),
            (a, None, a, Decision::Outgoing, Some("deleted")),
            (a, a, None, Decision::Incoming, Some("remote deleted")),
            (a, None, None, Decision::Same, None),
            (a, None, b, Decision::Conflict, Some("conflict")),
            (a, b, None, Decision::Conflict, Some("conflict")),
            (a, NEW, None, Decision::Conflict, Some("conflict")),
            (a, DIRECTORY, a, Decision::Outgoing, Some("modified")),
            (a, a, DIRECTORY, Decision::Incoming, Some("remote modified")),
            (a, DIRECTORY, DIRECTORY, Decision::Same, None),
            (None, DIRECTORY, b, Decision::Conflict, Some("conflict")),
            (DIRECTORY, None, DIRECTORY, Decision::Outgoing, Some("deleted")),
            (DIRECTORY, NEW, DIRECTORY, Decision::Outgoing, Some("modified")),
        ] {
            assert_eq!(decide(base, local, remote), decision, "{base:?} {local:?} {remote:?}");
            assert_eq!(status_word(base, local, remote), word, "{base:?} {local:?} {remote:?}");
        }
    }

    fn content() -> impl Strategy<Value = Option<Content>> {
        prop_oneof![Just(None), Just(DIRECTORY), (0_u8..3).prop_map(file),]
    }

    proptest! {
        #[test]
        fn the_sides_are_treated_alike(base in content(), local in content(), remote in content()) {
            let mirrored = match decide(base, remote, local) {
                Decision::Outgoing => Decision::Incoming,
                Decision::Incoming => Decision::Outgoing,
                other => other,
            };
            prop_assert_eq!(decide(base, local, remote), mirrored);
        }

        #[test]
        fn nothing_that_changed_is_overwritten(base in content(), local in content(), remote in content()) {
            match decide(base, local, remote) {
                Decision::Same => prop_assert_eq!(local, remote),
                Decision::Outgoing => prop_assert!(remote == base && local != base),
                Decision::Incoming => prop_assert!(local == base && remote != base),
                Decision::Conflict => prop_assert!(local != base && remote != base && local != remote),
            }
        }

        #[test]
        fn after_a_push_or_a_pull_both_sides_are_the_same(base in content(), local in content(), remote in content()) {
            let after = match decide(base, local, remote) {
                Decision::Outgoing => (local, local, local),
                Decision::Incoming => (remote, remote, remote),
                _ => return Ok(()),
            };
            prop_assert_eq!(decide(after.0, after.1, after.2), Decision::Same);
        }
    }
}
