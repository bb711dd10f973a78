//! Judging a history: by a search for an order that explains it, and by scans that look for each kind of broken
//! promise by itself.

pub mod model;
pub mod scans;
pub mod search;
pub mod simulation;
pub mod tests;

use std::collections::BTreeMap;

use scans::Finding;
use search::{Stuck, Verdict};

use crate::history::{Op, Outcome};

/// How many operations before the one that cannot be explained are shown.
const SHOWN_OPS_MAX: usize = 30;
/// States that each look for a shorter history may look at.
const SHORTENING_STATES_MAX: usize = 50_000;

/// What a history was found to be.
#[derive(Default)]
pub struct Judgement {
    pub lost: Vec<Finding>,
    pub wrong: Vec<Finding>,
    pub resurrected: Vec<Finding>,
    pub out_of_order: Vec<Finding>,
    /// Answers that make no sense.
    pub odd: Vec<Finding>,
    /// Groups without an order that explains them, with what shows it.
    pub not_linearizable: Vec<Finding>,
    /// Groups for which the search hit its bound.
    pub undecided: Vec<Finding>,
}

impl Judgement {
    pub fn is_clean(&self) -> bool {
        self.findings().next().is_none()
    }

    /// Everything that was found, each with its kind.
    pub fn findings(&self) -> impl Iterator<Item = (&'static str, &Finding)> {
        let lists = [
            ("lost", &self.lost),
            ("wrong bytes", &self.wrong),
            ("resurrected", &self.resurrected),
            ("versions out of order", &self.out_of_order),
            ("odd answer", &self.odd),
            ("not linearizable", &self.not_linearizable),
            ("undecided", &self.undecided),
        ];
        lists.into_iter().flat_map(|(kind, found)| found.iter().map(move |finding| (kind, finding)))
    }
}

/// Judges a whole history; `ops` are in the order of their beginnings.
pub fn judge(ops: &[Op]) -> Judgement {
    let mut judgement = Judgement {
        lost: scans::lost(ops),
        wrong: scans::wrong(ops),
        resurrected: scans::resurrected(ops),
        out_of_order: scans::out_of_order(ops),
        odd: scans::odd(ops),
        ..Judgement::default()
    };
    let mut groups: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
    for (index, op) in ops.iter().enumerate() {
        groups.entry(op.action.group()).or_default().push(index);
    }
    for (group, indexes) in groups {
        let of_group: Vec<Op> = indexes.iter().map(|index| ops[*index].clone()).collect();
        match search::check(&of_group, search::STATES_MAX) {
            Verdict::Linearizable => {}
            Verdict::NotLinearizable(stuck) => {
                judgement.not_linearizable.push(explain(group, &of_group, &indexes, &shortened(&of_group, stuck)));
            }
            Verdict::Undecided(stuck) => judgement.undecided.push(explain(group, &of_group, &indexes, &stuck)),
        }
    }
    judgement
}

/// The history as it was known at a moment: what had not ended then is unknown.
fn until(ops: &[Op], moment: u64) -> Vec<Op> {
    let begun = ops.iter().filter(|op| op.invoked <= moment);
    let cut = begun.map(|op| match op.completed > moment {
        true => Op { outcome: Outcome::Unknown("not ended".into()), ..op.clone() },
        false => op.clone(),
    });
    cut.collect()
}

/// Where the search is stuck in the shortest beginning of the history that cannot be explained.
fn shortened(ops: &[Op], mut stuck: Stuck) -> Stuck {
    let mut ends: Vec<u64> = ops.iter().map(|op| op.completed).collect();
    ends.sort();
    let (mut low, mut high) = (0, ends.len());
    while low < high {
        let middle = (low + high) / 2;
        match ends.get(middle).map(|end| search::check(&until(ops, *end), SHORTENING_STATES_MAX)) {
            Some(Verdict::NotLinearizable(shorter)) => (high, stuck) = (middle, shorter),
            _ => low = middle + 1,
        }
    }
    stuck
}

/// The operations that cannot be explained, after the last ones that concern the same directories.
fn explain(group: u8, ops: &[Op], indexes: &[usize], stuck: &Stuck) -> Finding {
    let dirs: Vec<u8> = stuck.next.iter().flat_map(|index| ops[*index].action.dirs()).collect();
    let last = stuck.next.iter().map(|index| ops[*index].completed).max().unwrap_or(0);
    let concerns = |op: &Op| {
        let tells = match op.outcome {
            Outcome::NotDone(_) => false,
            Outcome::Unknown(_) | Outcome::Odd(_) => !op.action.only_looks(),
            _ => true,
        };
        tells && op.invoked <= last && op.action.dirs().iter().any(|dir| dirs.contains(dir))
    };
    let related: Vec<usize> = (0..ops.len()).filter(|index| concerns(&ops[*index])).collect();
    let shown = &related[related.len().saturating_sub(SHOWN_OPS_MAX)..];
    let next: Vec<String> = stuck.next.iter().map(|index| ops[*index].action.to_string()).collect();
    let files = state_text(group, stuck);
    let what = format!(
        "group {group}: after {} operations, with {files}, none of these can be next: {}",
        stuck.placed,
        next.join("; ")
    );
    Finding { what, ops: shown.iter().map(|index| indexes[*index]).collect() }
}

fn state_text(group: u8, stuck: &Stuck) -> String {
    let mut parts = Vec::new();
    for (number, dir) in stuck.state.dirs.iter().enumerate() {
        let path = crate::history::dir_path(group, number as u8);
        match dir {
            None => parts.push(format!("no {path}")),
            Some(files) => {
                let there = files.iter().enumerate().filter_map(|(file, entry)| entry.map(|e| (file, e)));
                let there: Vec<_> = there.map(|(file, e)| format!("f{file} #{} v{}", e.value, e.version)).collect();
                parts.push(format!("{path} [{}]", there.join(", ")));
            }
        }
    }
    parts.join(", ")
}

/// Counts for the summary: acknowledged or answered, refused or not done, unknown.
pub fn counts(ops: &[Op]) -> (usize, usize, usize) {
    let (mut ok, mut failed, mut unknown) = (0, 0, 0);
    for op in ops {
        match op.outcome {
            Outcome::Done { .. } | Outcome::Saw(_) | Outcome::Listed(_) | Outcome::Wrong(_) => ok += 1,
            Outcome::Refused(_) | Outcome::NotDone(_) | Outcome::Odd(_) => failed += 1,
            Outcome::Unknown(_) => unknown += 1,
        }
    }
    (ok, failed, unknown)
}

/// The longest time, in seconds, in which no client got an answer though some asked; of all operations, and of
/// changes alone.
pub fn outages(ops: &[Op]) -> (f64, f64) {
    let answered =
        |op: &&Op| !matches!(op.outcome, Outcome::NotDone(_) | Outcome::Unknown(_) | Outcome::Odd(_)) && !op.at_end;
    let longest = |changes_only: bool| {
        let counts = |op: &&Op| !op.at_end && (!changes_only || !op.action.only_looks());
        let mut ends: Vec<u64> = ops.iter().filter(counts).filter(answered).map(|op| op.completed).collect();
        let first = ops.iter().filter(counts).map(|op| op.invoked).min();
        let last = ops.iter().filter(counts).map(|op| op.completed).max();
        ends.extend(first.into_iter().chain(last));
        ends.sort();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as f64 / 1e6
    };
    (longest(false), longest(true))
}
