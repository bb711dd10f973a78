//! What several copies of the journal have together: pure, without I/O.
//!
//! A tip at a version is a *node*; a segment is a path of nodes. Because a tip stands for everything before it, a
//! node has exactly one past, whichever segment tells it, and at most a few futures: a fork is two of them. So a
//! branch is found from its end: whichever segment has the node leads further back, until none does. Where
//! the segments' boundaries are, which server they come from and how often the same lines are there does not matter.
//!
//! A branch counts when it has a *base*: a snapshot that was begun and ended on it, or the beginning of everything.

use std::ops::RangeInclusive;

use super::GENESIS_TIP;
use super::reader::{Segment, Snapshot};
use crate::types::storage_api::JournalPosition;
use crate::types::{Sha256, Version};

type Node = (Version, Sha256);

/// On what the lines are laid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Nothing: the lines begin with version 1.
    Genesis,
    /// The snapshot of this number.
    Snapshot(usize),
}

/// The versions `first` to `last` of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The number of the segment.
    pub segment: usize,
    /// The first version to take.
    pub first: Version,
    /// The last one.
    pub last: Version,
}

/// A gapless journal from a base to its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// What to lay the lines on.
    pub base: Base,
    /// Its version; lines after it are to be replayed.
    pub base_version: Version,
    /// All lines that lead to the head, in order and without a gap: also those before the base that were found.
    pub pieces: Vec<Piece>,
    /// The end.
    pub head: JournalPosition,
}

impl Chain {
    /// What to replay after a version (for instance [`Chain::base_version`]), in order.
    pub fn pieces_after(&self, version: Version) -> impl Iterator<Item = Piece> {
        pieces_after(&self.pieces, version)
    }

    /// The tip at a version, where the pieces tell it; `segments` are those that were merged.
    pub fn tip_at(&self, segments: &[Segment], version: Version) -> Option<Sha256> {
        if version == self.head.version {
            return Some(self.head.tip);
        }
        tip_at(&self.pieces, segments, version)
    }
}

/// What of pieces comes after a version.
fn pieces_after(pieces: &[Piece], version: Version) -> impl Iterator<Item = Piece> {
    let later = pieces.iter().filter(move |piece| piece.last > version);
    later.map(move |piece| Piece { first: piece.first.max(version + 1), ..*piece })
}

/// Changes that are on another branch than the chosen one: they were made by a database that had forgotten some, or
/// before an earlier restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The last version that both branches share, if that can be told.
    pub after: Option<Version>,
    /// The first version of the other branch that is here.
    pub first: Version,
    /// Its end.
    pub head: JournalPosition,
    /// Its lines, from `first` on.
    pub pieces: Vec<Piece>,
}

/// Versions beyond the head that existed and that no copy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first one that is lost.
    pub first: Version,
    /// The last one.
    pub last: Version,
}

/// The outcome of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// The best branch that has a base; `None` when there is none.
    pub chain: Option<Chain>,
    /// Other branches.
    pub conflicts: Vec<Conflict>,
    /// What is missing between the head and the newest version.
    pub gaps: Vec<Gap>,
    /// The newest version that any copy names, on whatever branch.
    pub newest: Version,
}

/// Merges what was verified in several copies. Numbers in the outcome are places in the slices. Of several branches
/// with a base the one that reaches the highest version is chosen, and among those that of the highest epoch.
pub fn merge(snapshots: &[Snapshot], segments: &[Segment]) -> Merged {
    let branches = branches(snapshots, segments);
    let newest = branches.iter().map(|branch| branch.end.0).chain(snapshots.iter().map(|snapshot| snapshot.v1)).max();
    let newest = newest.unwrap_or(0);
    let with_base = branches.iter().find_map(|branch| Some((branch, branch.base(snapshots, segments)?)));
    let Some((chosen, (base, base_version))) = with_base else {
        return Merged { newest, ..Merged::default() };
    };
    let head = chosen.head();
    let chain = Chain { base, base_version, pieces: chosen.pieces.clone(), head };
    let mut conflicts = Vec::new();
    // Versions beyond the head that are there, but hang in the air.
    let mut loose = Vec::new();
    for branch in branches.iter().filter(|branch| !std::ptr::eq(*branch, chosen)) {
        if branch.start.0 >= chosen.end.0 && branch.end.0 > chosen.end.0 {
            loose.push((branch.start.0 + 1)..=branch.end.0);
        } else if branch.end.0 > chosen.start.0 || branch.history != chosen.history {
            let after = branch.last_common(chosen, segments);
            let first = after.unwrap_or(branch.start.0) + 1;
            let pieces = pieces_after(&branch.pieces, first - 1).collect();
            conflicts.push(Conflict { after, first: first.min(branch.end.0), head: branch.head(), pieces });
        }
    }
    conflicts.sort_by_key(|conflict| (conflict.head.version, conflict.first));
    Merged { chain: Some(chain), conflicts, gaps: gaps(chosen.end.0, loose, newest), newest }
}

/// What lies beyond `head` up to `newest` and in none of the ranges.
fn gaps(head: Version, mut ranges: Vec<RangeInclusive<Version>>, newest: Version) -> Vec<Gap> {
    ranges.sort_unstable_by_key(|range| *range.start());
    let (mut gaps, mut next) = (Vec::new(), head + 1);
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        if *range.start() > next {
            gaps.push(Gap { first: next, last: range.start() - 1 });
        }
        next = next.max(range.end() + 1);
    }
    if newest >= next {
        gaps.push(Gap { first: next, last: newest });
    }
    gaps
}

/// A path of nodes that cannot be made longer at its beginning.
struct Branch {
    start: Node,
    end: Node,
    epoch: i64,
    history: uuid::Uuid,
    /// In order; none when it is only the node of a snapshot.
    pieces: Vec<Piece>,
}

impl Branch {
    fn head(&self) -> JournalPosition {
        JournalPosition { history: self.history, epoch: self.epoch, version: self.end.0, tip: self.end.1 }
    }

    fn tip_at(&self, segments: &[Segment], version: Version) -> Option<Sha256> {
        if version == self.start.0 { Some(self.start.1) } else { tip_at(&self.pieces, segments, version) }
    }

    fn has(&self, segments: &[Segment], (version, tip): Node) -> bool {
        self.tip_at(segments, version) == Some(tip)
    }

    /// The newest snapshot that was begun and ended on this branch, or the beginning of everything.
    fn base(&self, snapshots: &[Snapshot], segments: &[Segment]) -> Option<(Base, Version)> {
        let (start, end) = (self.start.0, self.end.0);
        let usable = snapshots.iter().enumerate().filter(|(_, snapshot)| {
            let v0 = snapshot.header.last;
            (start..=end).contains(&v0)
                && snapshot.v1 <= end
                && self.has(segments, (v0, snapshot.header.tip_after))
                && self.has(segments, (snapshot.v1, snapshot.tip1))
        });
        let best = usable.max_by_key(|(number, snapshot)| (snapshot.header.last, -snapshot.v1, -(*number as i64)));
        match best {
            Some((number, snapshot)) => Some((Base::Snapshot(number), snapshot.header.last)),
            None if self.start == (0, GENESIS_TIP) => Some((Base::Genesis, 0)),
            None => None,
        }
    }

    /// The last version at which both have the same tip. Up to it they are the same, after it they are not, so it
    /// can be searched by halves.
    fn last_common(&self, other: &Branch, segments: &[Segment]) -> Option<Version> {
        let same = |version| {
            let tip = self.tip_at(segments, version);
            tip.is_some() && tip == other.tip_at(segments, version)
        };
        let (mut low, mut high) = (self.start.0.max(other.start.0), self.end.0.min(other.end.0));
        if low > high || !same(low) {
            return None;
        }
        while low < high {
            let middle = low + (high - low + 1) / 2;
            if same(middle) { low = middle } else { high = middle - 1 }
        }
        Some(low)
    }
}

/// The tip at a version that pieces, which are in order and without a gap, pass.
fn tip_at(pieces: &[Piece], segments: &[Segment], version: Version) -> Option<Sha256> {
    let piece = pieces.get(pieces.partition_point(|piece| piece.last < version))?;
    segments.get(piece.segment)?.tip_at(version).filter(|_| version + 1 >= piece.first)
}

/// All branches, the best end first.
fn branches(snapshots: &[Snapshot], segments: &[Segment]) -> Vec<Branch> {
    let by_version = ByVersion::new(segments);
    let headers = segments.iter().map(|segment| &segment.header);
    let mut ends: Vec<_> = headers.chain(snapshots.iter().map(|snapshot| &snapshot.header)).collect();
    ends.sort_by_key(|header| std::cmp::Reverse((header.last, header.epoch)));
    let mut branches: Vec<Branch> = Vec::new();
    for header in ends {
        let end = (header.last, header.tip_after);
        if branches.iter().any(|branch| branch.has(segments, end)) {
            continue;
        }
        let (start, pieces) = by_version.past(end);
        branches.push(Branch { start, end, epoch: header.epoch, history: header.history, pieces });
    }
    branches
}

/// Segments by the versions that they have.
struct ByVersion<'s> {
    segments: &'s [Segment],
    /// Numbers of segments, by their first version.
    sorted: Vec<usize>,
    /// The highest last version up to each place in `sorted`: where to stop looking further down.
    reach: Vec<Version>,
}

impl<'s> ByVersion<'s> {
    fn new(segments: &'s [Segment]) -> Self {
        let mut sorted: Vec<usize> = (0..segments.len()).collect();
        sorted.sort_by_key(|number| segments[*number].header.first);
        let highest = sorted.iter().scan(Version::MIN, |highest, number| {
            *highest = segments[*number].header.last.max(*highest);
            Some(*highest)
        });
        let reach = highest.collect();
        Self { segments, sorted, reach }
    }

    /// Walks back from a node as far as segments lead.
    fn past(&self, end: Node) -> (Node, Vec<Piece>) {
        let (mut node, mut pieces) = (end, Vec::new());
        while let Some(number) = self.leading_to(node) {
            let header = &self.segments[number].header;
            pieces.push(Piece { segment: number, first: header.first, last: node.0 });
            node = (header.first - 1, header.tip_before);
        }
        pieces.reverse();
        (node, pieces)
    }

    /// Of the segments that have this version with this tip the one that begins first.
    fn leading_to(&self, (version, tip): Node) -> Option<usize> {
        let candidates = self.sorted.partition_point(|number| self.segments[*number].header.first <= version);
        let places = (0..candidates).rev().take_while(|place| self.reach[*place] >= version);
        let leading = places.map(|place| self.sorted[place]).filter(|number| {
            let segment = &self.segments[*number];
            segment.header.last >= version && segment.tip_at(version) == Some(tip)
        });
        leading.last()
    }
}

#[cfg(test)]
mod tests;
