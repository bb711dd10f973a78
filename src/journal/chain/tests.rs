//! Random journals, cut, copied, damaged and merged, through real files.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::journal::collection::Added;
use crate::journal::format::{Origin, SnapshotWriter, segment};
use crate::journal::{Collection, Defect, JournalLine, SETTINGS, Staging};

/// The rows as they are after some version.
type State = BTreeMap<String, String>;

const ORIGIN: Origin = Origin { cluster: Uuid::from_u128(1), history: Uuid::from_u128(2), epoch: 1 };

/// A journal as the database has it.
#[derive(Debug, Clone, Default)]
struct Truth {
    /// By version, from 1 on.
    changes: Vec<Vec<JournalLine>>,
}

impl Truth {
    /// For each change, key and content of its rows.
    fn new(rows: &[Vec<(u8, Option<u8>)>]) -> Self {
        let mut truth = Self::default();
        truth.go_on(rows);
        truth
    }

    fn go_on(&mut self, rows: &[Vec<(u8, Option<u8>)>]) {
        for change in rows {
            let version = self.head() + 1;
            let lines = change.iter().enumerate().map(|(seq, (key, content))| JournalLine {
                version,
                seq: seq as i32,
                table: SETTINGS.into(),
                key: key.to_string(),
                content: content.map(|content| content.to_string()),
                created: Default::default(),
            });
            self.changes.push(lines.collect());
        }
    }

    fn head(&self) -> Version {
        self.changes.len() as Version
    }

    fn lines(&self, first: Version, last: Version) -> Vec<JournalLine> {
        self.changes[first as usize - 1..last as usize].concat()
    }

    fn tip(&self, version: Version) -> Sha256 {
        self.changes[..version as usize].iter().flatten().fold(GENESIS_TIP, |tip, line| line.next_tip(tip))
    }

    fn state(&self, version: Version) -> State {
        let mut state = State::new();
        for line in self.changes[..version as usize].iter().flatten() {
            match &line.content {
                Some(content) => drop(state.insert(line.key.clone(), content.clone())),
                None => drop(state.remove(&line.key)),
            }
        }
        state
    }

    fn segment(&self, origin: &Origin, first: Version, last: Version) -> Vec<u8> {
        segment(origin, self.tip(first - 1), &self.lines(first, last)).unwrap().1
    }

    /// A snapshot of which each row was read at some version between V0 and V1.
    fn snapshot(&self, origin: &Origin, v0: Version, v1: Version, seed: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = SnapshotWriter::start(origin, v0, self.tip(v0), &mut bytes).unwrap();
        for key in 0..=u8::MAX {
            let read_at = v0 + ((seed + usize::from(key) * 7) as Version) % (v1 - v0 + 1);
            if let Some(content) = self.state(read_at).get(&key.to_string()) {
                writer.row(SETTINGS, &key.to_string(), content, &mut bytes).unwrap();
            }
        }
        writer.finish(v1, self.tip(v1), &mut bytes).unwrap();
        bytes
    }
}

/// Files in a temporary directory.
struct Files {
    dir: tempfile::TempDir,
    collection: Collection,
    count: usize,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), collection: Collection::new(None), count: 0 }
    }

    fn add(&mut self, bytes: &[u8]) -> Result<Added, Defect> {
        let path: PathBuf = self.dir.path().join(self.count.to_string());
        self.count += 1;
        fs::write(&path, bytes).unwrap();
        self.collection.add(&path)
    }

    fn replayed(&self, chain: &Chain) -> State {
        let mut staging = Staging::create(Some(self.dir.path())).unwrap();
        self.collection.replay(chain, &mut staging).unwrap();
        let mut state = State::new();
        let read = staging.each(SETTINGS, |page| {
            state.extend(page.iter().map(|row| (row.key.clone(), row.content.clone())));
            Ok(())
        });
        read.unwrap();
        state
    }
}

fn changes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<(u8, Option<u8>)>>> {
    prop::collection::vec(prop::collection::vec((0..12u8, prop::option::weighted(0.8, any::<u8>())), 1..4), count)
}

/// What happens to a file of a copy.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Kept,
    Twice,
    Lost,
    Truncated,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Kept), 1 => Just(Fate::Twice), 2 => Just(Fate::Lost), 1 => Just(Fate::Truncated)]
}

/// A copy: where its segments end and what becomes of them; its snapshots by beginning, length and seed.
#[derive(Debug, Clone)]
struct Copy {
    cuts: Vec<(u8, Fate)>,
    snapshots: Vec<(u8, u8, usize, Fate)>,
}

fn copy() -> impl Strategy<Value = Copy> {
    let cuts = prop::collection::vec((1..9u8, fate()), 40);
    let snapshots = prop::collection::vec((any::<u8>(), 0..6u8, 0..9usize, fate()), 0..3);
    (cuts, snapshots).prop_map(|(cuts, snapshots)| Copy { cuts, snapshots })
}

fn add(files: &mut Files, bytes: &[u8], fate: Fate) -> bool {
    match fate {
        Fate::Lost => return false,
        Fate::Truncated => {
            let cut = files.add(&bytes[..bytes.len() * 2 / 3]);
            // What another copy has brought already is not read to its end.
            assert!(matches!(cut, Err(Defect::Truncated) | Ok(Added::Known)));
            return false;
        }
        Fate::Twice => drop(files.add(bytes).unwrap()),
        Fate::Kept => {}
    }
    // Another copy may have brought the same.
    files.add(bytes).unwrap();
    true
}

/// How far one gets from a base, by the plain definition.
fn reach(survives: &[bool], from: Version) -> Version {
    (from..).find(|version| !survives.get(*version as usize).copied().unwrap_or(false)).unwrap_or(from)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn copies_together_give_a_prefix_of_the_truth_and_all_of_it_when_every_line_survives(
        rows in changes(1..40),
        copies in prop::collection::vec(copy(), 3),
    ) {
        let truth = Truth::new(&rows);
        let mut files = Files::new();
        // By version - 1.
        let mut survives = vec![false; truth.head() as usize];
        let mut bases = vec![(0, 0)];
        let mut newest = 0;
        for copy in &copies {
            let mut first = 1;
            for (length, fate) in &copy.cuts {
                let last = (first + Version::from(*length) - 1).min(truth.head());
                if first > last {
                    break;
                }
                if add(&mut files, &truth.segment(&ORIGIN, first, last), *fate) {
                    survives[first as usize - 1..last as usize].fill(true);
                    newest = newest.max(last);
                }
                first = last + 1;
            }
            for (v0, length, seed, fate) in &copy.snapshots {
                let v0 = Version::from(*v0) % (truth.head() + 1);
                let v1 = (v0 + Version::from(*length)).min(truth.head());
                if add(&mut files, &truth.snapshot(&ORIGIN, v0, v1, *seed), *fate) {
                    bases.push((v0, v1));
                    newest = newest.max(v1);
                }
            }
        }
        let reached = bases.iter().filter(|(v0, v1)| reach(&survives, *v0) >= *v1).map(|(v0, _)| reach(&survives, *v0));
        let (expected, merged) = (reached.max().unwrap(), files.collection.merge());
        prop_assert_eq!(merged.newest, newest);
        prop_assert_eq!(&merged.conflicts, &vec![]);
        let Some(chain) = &merged.chain else {
            prop_assert_eq!(expected, 0);
            return Ok(());
        };
        prop_assert_eq!((chain.head.version, chain.head.tip), (expected, truth.tip(expected)));
        prop_assert_eq!(files.replayed(chain), truth.state(expected));
        // Exactly what is missing is said to be.
        let missing = (expected + 1..=newest).filter(|version| !survives[*version as usize - 1]);
        let said = merged.gaps.iter().flat_map(|gap| gap.first..=gap.last);
        prop_assert_eq!(said.collect::<Vec<_>>(), missing.collect::<Vec<_>>());
        for version in chain.base_version..=expected {
            prop_assert_eq!(files.collection.tip_at(chain, version), Some(truth.tip(version)));
        }
    }

    #[test]
    fn a_fork_is_found_and_the_longer_branch_wins(
        rows in changes(1..12), one in changes(1..10), other in changes(1..10), cut in 1..5i64, with_snapshot: bool,
    ) {
        // Both branches begin with different lines.
        let (mut one, mut other) = (one, other);
        one[0][0] = (100, Some(1));
        other[0][0] = (100, Some(2));
        let common = Truth::new(&rows);
        let fork = common.head();
        let (mut a, mut b) = (common.clone(), common);
        a.go_on(&one);
        b.go_on(&other);
        let later = Origin { history: Uuid::from_u128(3), epoch: 2, ..ORIGIN };
        let mut files = Files::new();
        for (truth, origin) in [(&a, &ORIGIN), (&b, &later)] {
            let mut first = 1;
            while first <= truth.head() {
                let last = (first + cut).min(truth.head());
                files.add(&truth.segment(origin, first, last)).unwrap();
                first = last + 1;
            }
            if with_snapshot {
                files.add(&truth.snapshot(origin, fork, truth.head(), 3)).unwrap();
            }
        }
        let merged = files.collection.merge();
        let chain = merged.chain.unwrap();
        let (winner, loser) = if a.head() > b.head() { (&a, &b) } else { (&b, &a) };
        prop_assert_eq!((chain.head.version, chain.head.tip), (winner.head(), winner.tip(winner.head())));
        prop_assert_eq!(files.replayed(&chain), winner.state(winner.head()));
        prop_assert_eq!(merged.conflicts.len(), 1);
        let conflict = &merged.conflicts[0];
        prop_assert_eq!((conflict.after, conflict.first, conflict.head.version), (Some(fork), fork + 1, loser.head()));
        prop_assert_eq!(&merged.gaps, &vec![]);
    }
}

fn simple(count: usize) -> Truth {
    Truth::new(&vec![vec![(1, Some(1))]; count])
}

#[test]
fn a_snapshot_counts_only_with_the_lines_to_its_end() {
    let truth = simple(20);
    let mut files = Files::new();
    files.add(&truth.snapshot(&ORIGIN, 10, 14, 1)).unwrap();
    let merged = files.collection.merge();
    assert_eq!((merged.chain, merged.newest), (None, 14));
    files.add(&truth.segment(&ORIGIN, 9, 13)).unwrap();
    assert_eq!(files.collection.merge().chain, None);
    files.add(&truth.segment(&ORIGIN, 12, 15)).unwrap();
    files.add(&truth.segment(&ORIGIN, 18, 20)).unwrap();
    let merged = files.collection.merge();
    let chain = merged.chain.unwrap();
    assert_eq!((chain.base, chain.base_version, chain.head.version), (Base::Snapshot(0), 10, 15));
    assert_eq!(merged.gaps, [Gap { first: 16, last: 17 }]);
    assert_eq!(files.collection.tip_at(&chain, 8), Some(truth.tip(8)), "lines before the base are known too");
    let after: Vec<_> = chain.pieces_after(12).map(|piece| (piece.first, piece.last)).collect();
    assert_eq!(after.first().map(|piece| piece.0), Some(13));
}

#[test]
fn an_older_history_is_listed_and_a_stale_copy_of_the_same_is_not() {
    let truth = simple(20);
    let mut files = Files::new();
    files.add(&truth.snapshot(&ORIGIN, 12, 12, 1)).unwrap();
    files.add(&truth.segment(&ORIGIN, 13, 20)).unwrap();
    files.add(&truth.snapshot(&ORIGIN, 3, 5, 1)).unwrap();
    files.add(&truth.segment(&ORIGIN, 4, 6)).unwrap();
    assert_eq!(files.collection.merge().conflicts, []);
    let older = Origin { history: Uuid::from_u128(9), epoch: 0, ..ORIGIN };
    files.add(&simple(9).segment(&older, 8, 9)).unwrap();
    let merged = files.collection.merge();
    assert_eq!(merged.chain.unwrap().head.version, 20);
    let [conflict] = &merged.conflicts[..] else { panic!("{:?}", merged.conflicts) };
    assert_eq!((conflict.after, conflict.first, conflict.head.version), (None, 8, 9));
}

#[test]
fn files_of_two_clusters_are_not_mixed() {
    let truth = simple(3);
    let mut files = Files::new();
    assert_eq!(files.add(&truth.segment(&ORIGIN, 1, 3)).unwrap(), Added::Kept);
    assert_eq!(files.add(&truth.segment(&ORIGIN, 1, 3)).unwrap(), Added::Known);
    let other = Origin { cluster: Uuid::from_u128(7), ..ORIGIN };
    assert!(matches!(files.add(&truth.segment(&other, 1, 3)), Err(Defect::OtherCluster(_))));
    assert!(files.collection.merge().chain.is_some_and(|chain| chain.base == Base::Genesis));
}
