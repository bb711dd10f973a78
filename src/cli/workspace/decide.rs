//! The three-way decision, without I/O.
//!
//! For one path it is known what it was at the last push or pull (the base), what it is here and what it is
//! there. Only contents count: a file that was rewritten with the same bytes has not changed.

use crate::cli::merge::is_within;
use crate::types::Sha256;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    File(Sha256),
    /// A local file that is certainly different from the base and from the remote one, so that nobody needs
    /// its digest.
    NewFile,
    /// Something local that cannot be stored (a link, a pipe) in the place of what can.
    Unfit,
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
    if local == Some(Content::Unfit) {
        return Decision::Conflict;
    }
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
        (_, Some(Unfit), None) => "what is here cannot be stored, and in the cluster it was deleted",
        (_, Some(Unfit), _) => "what is here cannot be stored, and the cluster has something else",
        (_, None, _) => "it was deleted here and changed in the cluster",
        (_, _, None) => "it was changed here and deleted in the cluster",
        (_, Some(Directory), Some(_)) => "it is a directory here and a file in the cluster",
        (_, Some(_), Some(Directory)) => "it is a file here and a directory in the cluster",
        (None, ..) => "it was made here and in the cluster with different contents",
        _ => "it was changed here and in the cluster",
    }
}

/// Which way changes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Push,
    Pull,
}

impl Direction {
    /// The decision that this direction carries out.
    pub(crate) fn own(self) -> Decision {
        match self {
            Self::Push => Decision::Outgoing,
            Self::Pull => Decision::Incoming,
        }
    }
}

/// A directory on one side and a file on the other: what lies below it belongs to that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Collision {
    path: String,
    decision: Decision,
    /// The side with the directory is the one that this run carries changes from.
    ours_has_directory: bool,
}

/// What shall be done about a path, given those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Exactly that.
    Is(Decision),
    /// A conflict that only shows by what stands above: a directory was replaced by a file on the side that has not
    /// got this path, and this was changed on the other.
    ConflictBelow(String),
    /// It belongs to a conflict that was said already.
    Said,
    /// Force decides here for the directory as a whole: it has to be gone through again, with this path forced.
    Again(String),
}

/// Decides about paths in the order of a walk. Kinds that collide concern all that lies below.
#[derive(Debug, Clone)]
pub(crate) struct Decider {
    /// None: only looks.
    direction: Option<Direction>,
    force: bool,
    /// Below it one side wins as a whole.
    forced: Option<String>,
    collision: Option<Collision>,
}

impl Decider {
    pub(crate) fn new(direction: Option<Direction>, force: bool) -> Self {
        Self { direction, force, forced: None, collision: None }
    }

    /// One that goes through a directory again, in which the direction's side wins.
    pub(crate) fn forced(direction: Direction, path: &str) -> Self {
        Self { forced: Some(path.into()), ..Self::new(Some(direction), true) }
    }

    /// One for a path beside the walk, which stands in no collision.
    pub(crate) fn beside(&self) -> Self {
        Self { collision: None, ..self.clone() }
    }

    /// Whether a path stands below a directory on one side that is a file on the other.
    pub(crate) fn is_in_collision(&self, path: &str) -> bool {
        self.collision.as_ref().is_some_and(|collision| is_within(path, &collision.path))
    }

    /// Decides about the next path.
    pub(crate) fn decide(&mut self, path: &str, [base, local, remote]: [Option<Content>; 3]) -> Verdict {
        let plain = decide(base, local, remote);
        let own = self.direction.map(Direction::own);
        // What cannot be stored has nothing that could win.
        let cannot_win = local == Some(Content::Unfit) && self.direction == Some(Direction::Push);
        if let (Some(forced), Some(own)) = (&self.forced, own)
            && is_within(path, forced)
        {
            return Verdict::Is(if plain == Decision::Same || cannot_win { plain } else { own });
        }
        if !self.is_in_collision(path) {
            self.collision = None;
        }
        if let Some(collision) = &self.collision {
            return self.below(collision.clone(), plain, [base, local, remote]);
        }
        let is_directory = [local, remote].map(|side| side == Some(Content::Directory));
        let collides = local.is_some() && remote.is_some() && is_directory[0] != is_directory[1];
        let decision = match (plain, own) {
            (Decision::Conflict, Some(own)) if self.force && !cannot_win => {
                if is_directory.contains(&true) {
                    self.forced = Some(path.into());
                }
                return Verdict::Is(own);
            }
            _ => plain,
        };
        if collides {
            let ours = if self.direction == Some(Direction::Pull) { is_directory[1] } else { is_directory[0] };
            self.collision = Some(Collision { path: path.into(), decision, ours_has_directory: ours });
        }
        Verdict::Is(decision)
    }

    fn below(&mut self, collision: Collision, plain: Decision, [base, local, remote]: [Option<Content>; 3]) -> Verdict {
        // Only the side with the directory has anything here.
        let (side, winner_has_file) = match (local, remote) {
            (Some(_), _) => (local, collision.decision == Decision::Incoming),
            _ => (remote, collision.decision == Decision::Outgoing),
        };
        match collision.decision {
            Decision::Conflict => Verdict::Said,
            _ if !winner_has_file || side.is_none() || side == base || plain == Decision::Same => Verdict::Is(plain),
            _ if !self.force => Verdict::ConflictBelow(collision.path),
            // The directory is on the side that wins: all of it comes back, and the file goes.
            _ if collision.ours_has_directory => {
                self.forced = None;
                Verdict::Again(collision.path)
            }
            _ => Verdict::Is(self.direction.map_or(plain, Direction::own)),
        }
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
    const UNFIT: Option<Content> = Some(Content::Unfit);

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
            (a, UNFIT, a, Decision::Conflict, Some("conflict")),
            (a, UNFIT, None, Decision::Conflict, Some("conflict")),
            (None, UNFIT, DIRECTORY, Decision::Conflict, Some("conflict")),
        ] {
            assert_eq!(decide(base, local, remote), decision, "{base:?} {local:?} {remote:?}");
            assert_eq!(status_word(base, local, remote), word, "{base:?} {local:?} {remote:?}");
        }
    }

    /// The verdicts about a few paths, one after the other.
    fn verdicts(mut decider: Decider, rows: &[(&str, [Option<Content>; 3])]) -> Vec<Verdict> {
        rows.iter().map(|(path, sides)| decider.decide(path, *sides)).collect()
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_meets_what_is_new_below_it() {
        use Decision::*;
        let (a, b) = (file(1), file(2));
        // Here `y` is a directory with a new file; in the cluster a file has taken its place.
        let there = [
            ("y", [DIRECTORY, DIRECTORY, a]),
            ("y/new", [None, NEW, None]),
            ("y/old", [b, b, None]),
            ("z", [None, NEW, None]),
        ];
        let [is_in, is_out] = [Verdict::Is(Incoming), Verdict::Is(Outgoing)];
        let below = Verdict::ConflictBelow("y".into());
        for direction in [None, Some(Direction::Push), Some(Direction::Pull)] {
            let want = [is_in.clone(), below.clone(), is_in.clone(), is_out.clone()];
            assert_eq!(verdicts(Decider::new(direction, false), &there), want, "{direction:?}");
        }
        let pulled = verdicts(Decider::new(Some(Direction::Pull), true), &there);
        assert_eq!(pulled, [is_in.clone(), is_in.clone(), is_in.clone(), is_out.clone()], "the file wins");
        let pushed = verdicts(Decider::new(Some(Direction::Push), true), &there);
        assert_eq!(pushed[1], Verdict::Again("y".into()), "the directory wins");
        let again = verdicts(Decider::forced(Direction::Push, "y"), &there);
        assert_eq!(again, [is_out.clone(), is_out.clone(), is_out.clone(), is_out.clone()]);
        // The mirror image.
        let here = [("x", [DIRECTORY, a, DIRECTORY]), ("x/1", [b, None, a]), ("x/2", [None, None, a])];
        let looked = verdicts(Decider::new(None, false), &here);
        assert_eq!(looked, [is_out.clone(), Verdict::ConflictBelow("x".into()), Verdict::ConflictBelow("x".into())]);
        assert_eq!(verdicts(Decider::new(Some(Direction::Pull), true), &here)[1], Verdict::Again("x".into()));
        let pushed = verdicts(Decider::new(Some(Direction::Push), true), &here);
        assert_eq!(pushed, [is_out.clone(), is_out.clone(), is_out]);
    }

    #[test]
    fn below_a_conflict_of_kinds_nothing_more_is_said() {
        let rows = [("x", [None, DIRECTORY, file(1)]), ("x/f", [None, NEW, None]), ("y", [None, NEW, None])];
        let want = [Verdict::Is(Decision::Conflict), Verdict::Said, Verdict::Is(Decision::Outgoing)];
        assert_eq!(verdicts(Decider::new(Some(Direction::Push), false), &rows), want);
        let pulled = verdicts(Decider::new(Some(Direction::Pull), true), &rows);
        assert_eq!(pulled[..2], [Verdict::Is(Decision::Incoming), Verdict::Is(Decision::Incoming)]);
    }

    #[test]
    fn what_cannot_be_stored_gives_way_to_a_pull_and_never_wins_a_push() {
        let rows = [("l", [file(1), UNFIT, file(1)])];
        let verdict = |direction, force| verdicts(Decider::new(Some(direction), force), &rows)[0].clone();
        assert_eq!(verdict(Direction::Push, true), Verdict::Is(Decision::Conflict));
        assert_eq!(verdict(Direction::Pull, false), Verdict::Is(Decision::Conflict));
        assert_eq!(verdict(Direction::Pull, true), Verdict::Is(Decision::Incoming));
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
