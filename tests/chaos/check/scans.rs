//! Simple looks at a history that share nothing with the search: each finds one kind of broken promise.
//!
//! They only speak up when there is no doubt, so they find less than the search does; but what they find can be
//! understood by reading a few lines of the history.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{Action, Op, Outcome, Place, Value};

/// A broken promise, with the operations that show it.
#[derive(Debug, Clone)]
pub struct Finding {
    pub what: String,
    pub ops: Vec<usize>,
}

/// Reads of bytes or metadata that nobody wrote.
pub fn wrong(ops: &[Op]) -> Vec<Finding> {
    let found = ops.iter().enumerate().filter_map(|(index, op)| match &op.outcome {
        Outcome::Wrong(why) => Some(Finding { what: format!("{}: {why}", op.action), ops: vec![index] }),
        _ => None,
    });
    found.collect()
}

/// Answers that make no sense for what was asked.
pub fn odd(ops: &[Op]) -> Vec<Finding> {
    let found = ops.iter().enumerate().filter_map(|(index, op)| match &op.outcome {
        Outcome::Odd(why) => Some(Finding { what: format!("{}: {why}", op.action), ops: vec![index] }),
        _ => None,
    });
    found.collect()
}

/// What can bring a content to a place: its write there, a move or a copy there, a move of the directory.
fn may_put(op: &Op, place: Place, value: Value) -> bool {
    let here = op.may_have_changed() && op.action.group() == place.group;
    here && match op.action {
        Action::Write { at, value: written, .. } => at == place && written == value,
        Action::Move { to, .. } | Action::Copy { to, .. } => to == place,
        Action::MoveDir { to, .. } => to == place.dir,
        _ => false,
    }
}

/// What changes a place: when it is done it certainly takes a content away, unless it is among [`may_put`].
fn takes_away(op: &Op, place: Place) -> bool {
    let here = op.may_have_changed() && op.action.group() == place.group;
    here && match op.action {
        Action::Write { at, .. } | Action::Delete { at } => at == place,
        Action::Move { from, to } => from == place || to == place,
        Action::Copy { to, .. } => to == place,
        Action::MoveDir { from, to, .. } => from == place.dir || to == place.dir,
        Action::RemoveDir { dir, .. } => dir == place.dir,
        _ => false,
    }
}

/// What an operation saw: places with their contents.
fn sights(op: &Op) -> Vec<(Place, Value)> {
    match (&op.action, &op.outcome) {
        (Action::Read { at } | Action::Stat { at }, Outcome::Saw(seen)) => vec![(*at, seen.value)],
        (Action::List { group, dir }, Outcome::Listed(files)) => {
            let place = |file: u8| Place { group: *group, dir: *dir, file };
            files.iter().map(|(file, seen)| (place(*file), seen.value)).collect()
        }
        _ => Vec::new(),
    }
}

/// For each place the operations that may have changed what is there, so that not all are looked at for each sight.
fn by_place(ops: &[Op]) -> HashMap<Place, Vec<usize>> {
    let places: BTreeSet<Place> = ops.iter().flat_map(|op| sights(op).into_iter().map(|(place, _)| place)).collect();
    let read = ops.iter().filter_map(|op| match op.action {
        Action::Read { at } => Some(at),
        _ => None,
    });
    let places: BTreeSet<Place> = places.into_iter().chain(read).collect();
    let changes = |place: Place| (0..ops.len()).filter(|index| takes_away(&ops[*index], place)).collect();
    places.into_iter().map(|place| (place, changes(place))).collect()
}

/// Contents that were seen where they had certainly been overwritten, deleted or moved away before.
pub fn resurrected(ops: &[Op]) -> Vec<Finding> {
    let changes = by_place(ops);
    let mut found = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        for (place, value) in sights(op) {
            let of_place = || changes[&place].iter().map(|other| (*other, &ops[*other]));
            let puts = of_place().filter(|(_, put)| put.invoked <= op.completed && may_put(put, place, value));
            let Some(last_put) = puts.map(|(_, put)| put.latest_effect()).max() else { continue };
            let gone = of_place().find(|(_, other)| {
                matches!(other.outcome, Outcome::Done { .. })
                    && !may_put(other, place, value)
                    && other.invoked > last_put
                    && other.completed < op.invoked
            });
            if let Some((gone, _)) = gone {
                let what = format!("#{value} was seen at {place} after it was certainly gone");
                found.push(Finding { what, ops: vec![gone, index] });
            }
        }
    }
    found
}

/// Acknowledged contents that nothing can have taken away and that the reads at the end do not find; and files that
/// could not be read at the end at all.
pub fn lost(ops: &[Op]) -> Vec<Finding> {
    let changes = by_place(ops);
    let kept: HashMap<Place, (usize, Value)> =
        changes.iter().filter_map(|(place, changes)| Some((*place, kept(ops, *place, changes)?))).collect();
    let mut found: BTreeMap<Place, Finding> = BTreeMap::new();
    for (index, op) in ops.iter().enumerate().filter(|(_, op)| op.at_end) {
        let Action::Read { at } = op.action else { continue };
        if let Outcome::Unknown(why) | Outcome::Odd(why) = &op.outcome {
            let what = format!("{at} could not be read after everything was healed: {why}");
            found.entry(at).or_insert(Finding { what, ops: vec![index] });
            continue;
        }
        let Some((write, value)) = kept.get(&at) else { continue };
        if !matches!(&op.outcome, Outcome::Saw(seen) if seen.value == *value) {
            let what = format!("#{value} was acknowledged at {at}, nothing took it away, and it is not there");
            found.entry(at).or_insert(Finding { what, ops: vec![*write, index] });
        }
    }
    found.into_values().collect()
}

/// The acknowledged write at a place that nothing can have taken away, if there is one.
fn kept(ops: &[Op], place: Place, changes: &[usize]) -> Option<(usize, Value)> {
    changes.iter().find_map(|index| {
        let Action::Write { value, .. } = ops[*index].action else { return None };
        let acknowledged = matches!(ops[*index].outcome, Outcome::Done { .. });
        let touched = changes.iter().any(|other| other != index && ops[*other].latest_effect() > ops[*index].invoked);
        debug_assert!(takes_away(&ops[*index], place));
        (acknowledged && !touched).then_some((*index, value))
    })
}

/// Acknowledged changes whose versions do not rise as the changes followed each other.
pub fn out_of_order(ops: &[Op]) -> Vec<Finding> {
    let mut done: Vec<(u64, i64, usize)> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        if let Outcome::Done { version: Some(version) } = op.outcome {
            done.push((op.completed, version, index));
        }
    }
    done.sort();
    let mut highest: Vec<(u64, i64, usize)> = Vec::new();
    for change in &done {
        if highest.last().is_none_or(|last| change.1 > last.1) {
            highest.push(*change);
        }
    }
    let mut found = Vec::new();
    for (_, version, index) in &done {
        let before = highest.partition_point(|(completed, ..)| *completed < ops[*index].invoked);
        let Some((_, earlier, other)) = before.checked_sub(1).map(|last| highest[last]) else { continue };
        if earlier >= *version {
            let what = format!("version {version} was given after version {earlier} had been acknowledged");
            found.push(Finding { what, ops: vec![other, *index] });
        }
    }
    let mut versions: Vec<_> = done.iter().map(|(_, version, index)| (*version, *index)).collect();
    versions.sort();
    for pair in versions.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let what = format!("version {} was given twice", pair[0].0);
        found.push(Finding { what, ops: vec![pair[0].1, pair[1].1] });
    }
    found
}
