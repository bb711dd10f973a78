//! The judges judged: histories written by hand, good and bad ones, and simulated ones.

use holdfast::types::ErrorCode;

use super::search::Verdict;
use super::simulation::{self, BUGS, Bug};
use super::{judge, search};
use crate::history::{Action, Op, Outcome, Place, Seen, Value, When};

/// The tests, by name.
pub const TESTS: [(&str, fn()); 13] = [
    ("an_orderly_history_is_linearizable", an_orderly_history_is_linearizable),
    ("overlapping_writes_may_have_either_order", overlapping_writes_may_have_either_order),
    ("a_lost_update_is_found", a_lost_update_is_found),
    ("a_stale_read_is_found", a_stale_read_is_found),
    ("a_resurrected_file_is_found", a_resurrected_file_is_found),
    ("wrong_bytes_are_found", wrong_bytes_are_found),
    ("an_unknown_write_may_be_done_late_or_never", an_unknown_write_may_be_done_late_or_never),
    ("an_unknown_write_is_not_done_twice", an_unknown_write_is_not_done_twice),
    ("what_was_not_done_is_never_seen", what_was_not_done_is_never_seen),
    ("moves_are_whole", moves_are_whole),
    ("refusals_and_conditions_tell_the_truth", refusals_and_conditions_tell_the_truth),
    ("correct_simulations_are_linearizable", correct_simulations_are_linearizable),
    ("simulated_bugs_are_found", simulated_bugs_are_found),
];

const A: Place = Place { group: 0, dir: 0, file: 0 };
const B: Place = Place { group: 0, dir: 1, file: 0 };

fn op(invoked: u64, completed: u64, action: Action, outcome: Outcome) -> Op {
    Op { client: 0, invoked, completed, at_end: false, action, outcome }
}

fn done(version: i64) -> Outcome {
    Outcome::Done { version: Some(version) }
}

fn unknown() -> Outcome {
    Outcome::Unknown("the answer was lost".into())
}

fn write(at: Place, value: Value) -> Action {
    Action::Write { at, value, when: When::Any }
}

fn read(invoked: u64, completed: u64, at: Place, value: Value, version: i64) -> Op {
    op(invoked, completed, Action::Read { at }, Outcome::Saw(Seen { value, version }))
}

fn absent(invoked: u64, completed: u64, at: Place) -> Op {
    op(invoked, completed, Action::Read { at }, Outcome::Refused(ErrorCode::NotFound))
}

fn is_good(ops: &[Op]) -> bool {
    matches!(search::check(ops, search::STATES_MAX), Verdict::Linearizable)
}

fn is_bad(ops: &[Op]) -> bool {
    matches!(search::check(ops, search::STATES_MAX), Verdict::NotLinearizable(_))
}

fn an_orderly_history_is_linearizable() {
    let ops = [
        absent(0, 1, A),
        op(2, 3, write(A, 1), done(1)),
        read(4, 5, A, 1, 1),
        op(6, 7, Action::Copy { from: A, to: B }, done(2)),
        op(8, 9, Action::Delete { at: A }, done(3)),
        absent(10, 11, A),
        read(12, 13, B, 1, 2),
    ];
    assert!(is_good(&ops) && judge(&ops).is_clean());
}

fn overlapping_writes_may_have_either_order() {
    for last in [1, 2] {
        let (first, second) = if last == 1 { (2, 1) } else { (1, 2) };
        let ops = [op(0, 10, write(A, 1), done(first)), op(1, 9, write(A, 2), done(second)), read(11, 12, A, last, 2)];
        assert!(is_good(&ops), "#{last} may be the last one");
        // The hint of the versions is not needed, and a wrong one does no harm.
        let without = ops.clone().map(|op| match op.outcome {
            Outcome::Done { .. } => Op { outcome: Outcome::Done { version: None }, ..op },
            _ => op,
        });
        assert!(is_good(&without));
    }
    let both =
        [op(0, 10, write(A, 1), done(1)), op(1, 9, write(A, 2), done(2)), read(11, 12, A, 1, 1), read(13, 14, A, 2, 2)];
    assert!(is_bad(&both), "the file cannot change back without a write");
}

fn a_lost_update_is_found() {
    let ops =
        [op(0, 1, write(A, 1), done(1)), op(2, 3, write(A, 2), done(2)), Op { at_end: true, ..read(4, 5, A, 1, 1) }];
    assert!(is_bad(&ops));
    let judgement = judge(&ops);
    assert_eq!((judgement.lost.len(), judgement.resurrected.len(), judgement.not_linearizable.len()), (1, 1, 1));
    let gone = [op(0, 1, write(A, 1), done(1)), Op { at_end: true, ..absent(4, 5, A) }];
    assert_eq!(judge(&gone).lost.len(), 1);
    let unreadable = Op { at_end: true, ..op(4, 5, Action::Read { at: A }, unknown()) };
    assert_eq!(judge(&[op(0, 1, write(A, 1), done(1)), unreadable]).lost.len(), 1);
    let deleted = [
        op(0, 1, write(A, 1), done(1)),
        op(2, 3, Action::Delete { at: A }, unknown()),
        Op { at_end: true, ..absent(4, 5, A) },
    ];
    assert!(judge(&deleted).is_clean(), "perhaps it was deleted");
}

fn a_stale_read_is_found() {
    let ops =
        [op(0, 1, write(A, 1), done(1)), op(2, 3, write(A, 2), done(2)), read(4, 5, A, 1, 1), read(6, 7, A, 2, 2)];
    assert!(is_bad(&ops));
    let overlapping =
        [op(0, 1, write(A, 1), done(1)), op(2, 5, write(A, 2), done(2)), read(3, 4, A, 1, 1), read(6, 7, A, 2, 2)];
    assert!(is_good(&overlapping), "while a write goes on, the old file is right");
    let back =
        [op(0, 1, write(A, 1), done(1)), op(2, 9, write(A, 2), done(2)), read(3, 4, A, 2, 2), read(5, 6, A, 1, 1)];
    assert!(is_bad(&back), "who has seen the new file must not see the old one again");
}

fn a_resurrected_file_is_found() {
    let ops = [
        op(0, 1, write(A, 1), done(1)),
        op(2, 3, Action::Delete { at: A }, done(2)),
        absent(4, 5, A),
        read(6, 7, A, 1, 1),
    ];
    assert!(is_bad(&ops));
    assert_eq!(judge(&ops).resurrected.len(), 1);
    let removed = [
        op(0, 1, write(A, 1), done(1)),
        op(2, 3, Action::RemoveDir { group: 0, dir: 0 }, done(2)),
        op(4, 5, Action::MakeDir { group: 0, dir: 0 }, done(3)),
        read(6, 7, A, 1, 1),
    ];
    assert_eq!(judge(&removed).resurrected.len(), 1);
    let copied_back = [
        op(0, 1, write(A, 1), done(1)),
        op(2, 3, Action::Copy { from: A, to: B }, done(2)),
        op(4, 5, Action::Delete { at: A }, done(3)),
        op(6, 7, Action::Copy { from: B, to: A }, done(4)),
        read(8, 9, A, 1, 4),
    ];
    assert!(judge(&copied_back).is_clean());
}

fn wrong_bytes_are_found() {
    let ops = [op(0, 1, write(A, 1), done(1)), op(2, 3, Action::Read { at: A }, Outcome::Wrong("a mixture".into()))];
    assert_eq!(judge(&ops).wrong.len(), 1);
    assert!(is_bad(&[read(0, 1, A, 7, 1)]), "nobody has written this");
}

fn an_unknown_write_may_be_done_late_or_never() {
    let never =
        [op(0, 1, write(A, 1), done(1)), op(2, 3, write(A, 2), unknown()), read(4, 5, A, 1, 1), read(6, 7, A, 1, 1)];
    assert!(is_good(&never));
    let late =
        [op(0, 1, write(A, 1), done(1)), op(2, 3, write(A, 2), unknown()), read(4, 5, A, 1, 1), read(6, 7, A, 2, 2)];
    assert!(is_good(&late));
    let unseen = [op(0, 1, write(A, 1), unknown()), op(2, 3, Action::Delete { at: A }, done(2)), absent(4, 5, A)];
    assert!(is_good(&unseen), "the deletion shows that it was done");
    let moved = [
        op(0, 1, write(A, 1), done(1)),
        op(2, 3, Action::Move { from: A, to: B }, unknown()),
        op(4, 5, write(A, 2), done(3)),
        read(6, 7, B, 1, 2),
        read(8, 9, A, 2, 3),
    ];
    assert!(is_good(&moved), "the move came before the second write");
    let read_unknown = [op(0, 1, Action::Read { at: A }, unknown()), absent(2, 3, A)];
    assert!(is_good(&read_unknown));
}

fn an_unknown_write_is_not_done_twice() {
    let ops = [
        op(0, 1, write(A, 1), unknown()),
        read(2, 3, A, 1, 1),
        op(4, 5, write(A, 2), done(2)),
        read(6, 7, A, 2, 2),
        read(8, 9, A, 1, 3),
    ];
    assert!(is_bad(&ops));
    let before = [read(0, 1, A, 1, 1), op(2, 3, write(A, 1), unknown())];
    assert!(is_bad(&before), "it was not even begun");
}

fn what_was_not_done_is_never_seen() {
    let ops = [op(0, 1, write(A, 1), Outcome::NotDone("not enough servers".into())), read(2, 3, A, 1, 1)];
    assert!(is_bad(&ops));
}

fn moves_are_whole() {
    let two = Place { file: 1, ..A };
    let moved = Action::MoveDir { group: 0, from: 0, to: 1 };
    let list = |at, dir, files: &[(u8, Value)]| {
        let files = files.iter().map(|(file, value)| (*file, Seen { value: *value, version: i64::from(*value) }));
        op(at, at + 1, Action::List { group: 0, dir }, Outcome::Listed(files.collect()))
    };
    let start = [op(0, 1, write(A, 1), done(1)), op(2, 3, write(two, 2), done(2)), op(10, 20, moved, done(3))];
    let with = |more: &[Op]| {
        let mut ops: Vec<Op> = start.iter().chain(more).cloned().collect();
        ops.sort_by_key(|op| op.invoked);
        ops
    };
    assert!(is_good(&with(&[list(11, 0, &[(0, 1), (1, 2)]), list(13, 1, &[(0, 1), (1, 2)])])));
    assert!(is_bad(&with(&[list(11, 1, &[(0, 1)])])), "half of it was moved");
    assert!(is_bad(&with(&[list(11, 1, &[(0, 1), (1, 2)]), list(13, 0, &[(0, 1), (1, 2)])])), "it is in both places");
    assert!(is_bad(&with(&[list(30, 1, &[(0, 1)])])));
}

fn refusals_and_conditions_tell_the_truth() {
    let refused = |at: u64, action, code| op(at, at + 1, action, Outcome::Refused(code));
    let conditional = |when| Action::Write { at: A, value: 9, when };
    let start = op(0, 1, write(A, 1), done(5));
    assert!(is_good(&[start.clone(), op(2, 3, conditional(When::Version(5)), done(6)), read(4, 5, A, 9, 6)]));
    assert!(is_bad(&[start.clone(), op(2, 3, conditional(When::Version(4)), done(6))]));
    assert!(is_bad(&[start.clone(), op(2, 3, conditional(When::Absent), done(6))]));
    assert!(is_good(&[start.clone(), refused(2, conditional(When::Absent), ErrorCode::PreconditionFailed)]));
    assert!(is_bad(&[refused(2, conditional(When::Absent), ErrorCode::PreconditionFailed)]));
    assert!(is_bad(&[start.clone(), refused(2, Action::Delete { at: A }, ErrorCode::NotFound)]));
    let odd = op(2, 3, write(A, 3), Outcome::Odd("is_a_directory".into()));
    assert!(is_good(std::slice::from_ref(&odd)) && judge(&[odd]).odd.len() == 1, "there is no directory of that name");
    // A file whose version nobody knows: either answer is possible.
    let vague =
        [op(0, 1, write(A, 1), unknown()), op(2, 3, conditional(When::Version(4)), done(6)), read(4, 5, A, 9, 6)];
    assert!(is_good(&vague));
    assert!(!judge(&[op(0, 1, write(A, 1), done(2)), op(2, 3, write(A, 2), done(1))]).out_of_order.is_empty());
    assert!(judge(&[op(0, 3, write(A, 1), done(2)), op(2, 4, write(A, 2), done(1))]).out_of_order.is_empty());
}

fn correct_simulations_are_linearizable() {
    for seed in 0..30 {
        let unknown = [1_000, 60, 20][seed as usize % 3];
        let ops = simulation::history(seed, 6, 500, unknown, Bug::None);
        let judgement = judge(&ops);
        let what: Vec<_> = judgement.findings().map(|(kind, finding)| format!("{kind}: {}", finding.what)).collect();
        assert!(what.is_empty(), "seed {seed}: {what:#?}");
    }
}

fn simulated_bugs_are_found() {
    for bug in BUGS {
        let found = (0..10)
            .filter(|seed| {
                let judgement = judge(&simulation::history(*seed, 5, 250, 50, bug));
                !judgement.is_clean()
            })
            .count();
        // Not every history shows what is wrong: the file may be overwritten before anyone looks.
        assert!(found >= 2, "{bug:?} was found in {found} of 10 histories only");
    }
}
