//! Merging several copies of the journal: the outcome chains, is the best that there is, and replays to the state
//! that the database had.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use holdfast::journal::chain::{Base, Chain, Piece, merge};
use holdfast::journal::format::{Origin, SnapshotWriter, VERSION_MAX, segment};
use holdfast::journal::{Contents, GENESIS_TIP, JournalLine, Reader, SETTINGS, Segment, Snapshot};
use holdfast::types::{Sha256, Version};
use uuid::Uuid;

use super::journal::ORIGIN;

/// Versions of a branch at most.
const VERSIONS_MAX: u8 = 10;

/// The rows at some version.
type State = BTreeMap<String, String>;

/// A history as a database had it.
struct Branch {
    origin: Origin,
    /// The version before its first.
    start: Version,
    /// Tips from `start` on.
    tips: Vec<Sha256>,
    /// The lines of each version after `start`.
    changes: Vec<Vec<JournalLine>>,
}

impl Branch {
    fn end(&self) -> Version {
        self.start + self.changes.len() as Version
    }

    fn tip(&self, version: Version) -> Sha256 {
        self.tips[(version - self.start) as usize]
    }

    fn lines(&self, first: Version, last: Version) -> Vec<JournalLine> {
        self.changes[(first - self.start - 1) as usize..(last - self.start) as usize].concat()
    }

    /// The rows that its lines have made since `start`.
    fn state(&self, version: Version) -> State {
        let mut state = State::new();
        self.lines(self.start + 1, version).iter().for_each(|line| apply(&mut state, line));
        state
    }

    fn change(&mut self, choices: &mut Unstructured) -> Result<()> {
        let version = self.end() + 1;
        let mut lines = Vec::new();
        for seq in 0..choices.int_in_range(1..=2)? {
            let key = choices.int_in_range(0..=4)?.to_string();
            let content = choices.arbitrary::<Option<u8>>()?.map(|content| content.to_string());
            lines.push(JournalLine { version, seq, table: SETTINGS.into(), key, content, created: Default::default() });
        }
        self.tips.push(lines.iter().fold(self.tip(version - 1), |tip, line| line.next_tip(tip)));
        self.changes.push(lines);
        Ok(())
    }

    /// The same until `version`, and then another history.
    fn fork(&self, version: Version, history: u128, epoch: i64) -> Self {
        let kept = (version - self.start) as usize;
        let origin = Origin { history: Uuid::from_u128(history), epoch, ..self.origin };
        let (tips, changes) = (self.tips[..=kept].to_vec(), self.changes[..kept].to_vec());
        Self { origin, start: self.start, tips, changes }
    }
}

fn apply(state: &mut State, line: &JournalLine) {
    match &line.content {
        Some(content) => drop(state.insert(line.key.clone(), content.clone())),
        None => drop(state.remove(&line.key)),
    }
}

/// What the copies have.
#[derive(Default)]
struct Copies {
    segments: Vec<Segment>,
    lines: Vec<Vec<JournalLine>>,
    snapshots: Vec<Snapshot>,
    rows: Vec<State>,
}

/// Up to two branches, of which segments and snapshots are cut.
pub fn merges(data: &[u8]) {
    // Too few choices make no journal.
    let _ = cut_and_merge(&mut Unstructured::new(data));
}

fn cut_and_merge(choices: &mut Unstructured) -> Result<()> {
    // From the beginning of everything, from somewhere, and from the end of numbers.
    let start = *choices.choose(&[0, 0, 41, VERSION_MAX - Version::from(VERSIONS_MAX)])?;
    let tip = if start == 0 { GENESIS_TIP } else { Sha256([7; 32]) };
    let mut main = Branch { origin: ORIGIN, start, tips: vec![tip], changes: Vec::new() };
    for _ in 0..choices.int_in_range(1..=VERSIONS_MAX)? {
        main.change(choices)?;
    }
    let mut branches = vec![main];
    if choices.arbitrary()? {
        let mut other = branches[0].fork(
            start + choices.int_in_range(0..=branches[0].end() - start)?,
            9,
            choices.int_in_range(2..=4)?,
        );
        while other.end() - start < VERSIONS_MAX.into() && choices.arbitrary()? {
            other.change(choices)?;
        }
        branches.push(other);
    }
    let mut copies = Copies::default();
    for _ in 0..choices.int_in_range(0..=6)? {
        add_segment(&mut copies, choices.choose(&branches)?, choices)?;
    }
    for _ in 0..choices.int_in_range(0..=2)? {
        let (from, to) = (choices.choose(&branches)?, choices.choose(&branches)?);
        add_snapshot(&mut copies, from, to, choices)?;
    }
    check(&branches, &copies);
    Ok(())
}

fn add_segment(copies: &mut Copies, branch: &Branch, choices: &mut Unstructured) -> Result<()> {
    if branch.changes.is_empty() {
        return Ok(());
    }
    let first = choices.int_in_range(branch.start + 1..=branch.end())?;
    let last = choices.int_in_range(first..=branch.end())?;
    let lines = branch.lines(first, last);
    let (_, bytes) = segment(&branch.origin, branch.tip(first - 1), &lines).unwrap();
    let Contents::Segment(read) = Reader::open(&bytes[..], None).unwrap().verify().unwrap() else {
        panic!("a segment")
    };
    copies.segments.push(read);
    copies.lines.push(lines);
    Ok(())
}

/// A snapshot whose reading began on one branch and ended on another, or the same.
fn add_snapshot(copies: &mut Copies, from: &Branch, to: &Branch, choices: &mut Unstructured) -> Result<()> {
    let v0 = choices.int_in_range(from.start..=from.end())?;
    let v1 = choices.int_in_range(v0..=v0.max(to.end()))?;
    if v1 > to.end() || (v1 == v0 && from.tip(v0) != to.tip(v1)) {
        return Ok(());
    }
    let (before, after, mut bytes, mut rows) = (from.state(v0), to.state(v1), Vec::new(), State::new());
    let mut writer = SnapshotWriter::start(&from.origin, v0, from.tip(v0), &mut bytes).unwrap();
    for key in (0..=4).map(|key: u8| key.to_string()) {
        // Each row as it was at one of the two ends.
        if let Some(content) = if choices.arbitrary()? { before.get(&key) } else { after.get(&key) } {
            writer.row(SETTINGS, &key, content, &mut bytes).unwrap();
            rows.insert(key, content.clone());
        }
    }
    writer.finish(v1, to.tip(v1), &mut bytes).unwrap();
    let Contents::Snapshot(read) = Reader::open(&bytes[..], None).unwrap().verify().unwrap() else {
        panic!("a snapshot")
    };
    copies.snapshots.push(read);
    copies.rows.push(rows);
    Ok(())
}

fn check(branches: &[Branch], copies: &Copies) {
    let merged = merge(&copies.snapshots, &copies.segments);
    let ends = copies.segments.iter().map(|segment| segment.header.last);
    let newest = ends.chain(copies.snapshots.iter().map(|snapshot| snapshot.v1)).max().unwrap_or(0);
    assert_eq!(merged.newest, newest);
    let best = branches.iter().filter_map(|branch| reachable(branch, copies)).max();
    assert_eq!(merged.chain.as_ref().map(|chain| chain.head.version), best, "the best that there is");
    let Some(chain) = merged.chain else { return };
    is_whole(&chain, copies);
    let on = branches.iter().find(|branch| has(branch, chain.head.version, chain.head.tip));
    let branch = on.expect("the head is of one of the histories");
    assert_eq!(replayed(&chain, copies), branch.state(chain.head.version), "as the database was");
    for conflict in &merged.conflicts {
        follow(&conflict.pieces, copies);
        assert!(conflict.pieces.last().is_none_or(|piece| piece.last == conflict.head.version));
        assert!(conflict.first <= conflict.head.version && conflict.head.version <= newest);
    }
    let mut before = chain.head.version;
    for gap in &merged.gaps {
        assert!(before < gap.first && gap.first <= gap.last && gap.last <= newest);
        before = gap.last;
    }
}

fn has(branch: &Branch, version: Version, tip: Sha256) -> bool {
    (branch.start..=branch.end()).contains(&version) && branch.tip(version) == tip
}

/// The highest version of a branch to which its lines lead from a base, by trying each.
fn reachable(branch: &Branch, copies: &Copies) -> Option<Version> {
    // The versions whose lines are there, on whichever branch's segments.
    let mut covered = BTreeSet::new();
    for segment in &copies.segments {
        let versions = segment.header.first..=segment.header.last;
        covered
            .extend(versions.filter(|version| segment.tip_at(*version).is_some_and(|tip| has(branch, *version, tip))));
    }
    let leads = |base: Version, head: Version| (base + 1..=head).all(|version| covered.contains(&version));
    let usable = |snapshot: &&Snapshot| {
        has(branch, snapshot.header.last, snapshot.header.tip_after) && has(branch, snapshot.v1, snapshot.tip1)
    };
    let snapshots = copies.snapshots.iter().filter(usable).map(|snapshot| (snapshot.header.last, snapshot.v1));
    let genesis = (branch.start == 0).then_some((0, 0));
    let bases: Vec<_> = snapshots.chain(genesis).collect();
    // The beginning of everything counts when something begins there.
    let from_0 = covered.contains(&1) || copies.snapshots.iter().any(|snapshot| snapshot.header.last == 0);
    let mut heads = (branch.start..=branch.end()).rev().filter(|head| *head > 0 || from_0);
    heads.find(|head| bases.iter().any(|(v0, v1)| v0 <= head && v1 <= head && leads(*v0, *head)))
}

fn is_whole(chain: &Chain, copies: &Copies) {
    follow(&chain.pieces, copies);
    match chain.base {
        Base::Genesis => assert_eq!(chain.base_version, 0),
        Base::Snapshot(number) => assert_eq!(copies.snapshots[number].header.last, chain.base_version),
    }
    let pieces: Vec<Piece> = chain.pieces_after(chain.base_version).collect();
    follow(&pieces, copies);
    let covered = pieces
        .first()
        .map_or((chain.base_version, chain.base_version), |first| (first.first - 1, pieces.last().unwrap().last));
    assert_eq!(covered, (chain.base_version, chain.head.version), "from the base to the head");
    if let Some(last) = pieces.last() {
        assert_eq!(copies.segments[last.segment].tip_at(last.last), Some(chain.head.tip));
    }
    assert_eq!(chain.tip_at(&copies.segments, chain.head.version), Some(chain.head.tip));
}

/// Pieces are inside their segments, dense, and chain.
fn follow(pieces: &[Piece], copies: &Copies) {
    for piece in pieces {
        let header = &copies.segments[piece.segment].header;
        assert!(header.first <= piece.first && piece.first <= piece.last && piece.last <= header.last, "{piece:?}");
    }
    for pair in pieces.windows(2) {
        assert_eq!(pair[0].last + 1, pair[1].first);
        let tips = pair.iter().map(|piece| copies.segments[piece.segment].tip_at(pair[0].last));
        assert_eq!(tips.collect::<BTreeSet<_>>().len(), 1, "the tips do not chain");
    }
}

fn replayed(chain: &Chain, copies: &Copies) -> State {
    let mut state = match chain.base {
        Base::Genesis => State::new(),
        Base::Snapshot(number) => copies.rows[number].clone(),
    };
    for piece in chain.pieces_after(chain.base_version) {
        let lines = copies.lines[piece.segment].iter();
        lines
            .filter(|line| (piece.first..=piece.last).contains(&line.version))
            .for_each(|line| apply(&mut state, line));
    }
    state
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (1..17)
        .map(|step: u8| (0..240).map(|place: u8| place.wrapping_mul(step.wrapping_mul(29)) ^ step).collect())
        .collect();
    seeds.push(vec![0; 100]);
    seeds.push(vec![0xff; 240]);
    seeds
}
