//! Is there an order of the operations, each at some moment between its beginning and its end, in which every
//! outcome is right? (Linearizability, by the search of Wing and Gong with the memory of Lowe.)
//!
//! No crate that is kept up does this for outcomes that nobody knows, so this is written for the purpose:
//!
//! - An operation that only looks (and one that was refused) is placed as soon as it is right: it changes nothing,
//!   so that placing it later cannot make more possible.
//! - A change with an unknown outcome may be placed at any time after its beginning, or never. One whose content was
//!   seen has happened, before that sight ended. The others are tried only where nothing else goes on, those in the
//!   directories at which the search is stuck first.
//! - The cluster gives each change a version, in the order of its commits. A first search tries that order alone: of
//!   a correct cluster it is the answer. Versions that were seen and that nobody was told then show when the changes
//!   with unknown outcomes were done. They are hints, and never believed: every outcome is compared with the model,
//!   and where the first search finds nothing, the full one, without hints, decides.
//! - A state that was reached before with the same operations placed and no more unknown ones used up is not
//!   searched again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::model::State;
use crate::history::{Action, Op, Outcome, Seen, Value};

/// States that the search of a whole history may look at: minutes.
pub const STATES_MAX: usize = 800_000;
/// The first search, in the order of versions, may look at this part of them.
const GUIDED_PART: usize = 4;

/// How far the search came.
#[derive(Debug, Clone)]
pub struct Stuck {
    /// How many operations were placed.
    pub placed: usize,
    /// Indexes of the operations one of which should have come next.
    pub next: Vec<usize>,
    pub state: State,
}

#[derive(Debug, Clone)]
pub enum Verdict {
    Linearizable,
    NotLinearizable(Stuck),
    /// The bound on the search was hit.
    Undecided(Stuck),
}

/// An operation that is to be placed.
#[derive(Debug, Clone)]
struct Item<'a> {
    index: usize,
    action: &'a Action,
    outcome: Outcome,
    invoked: u64,
    completed: u64,
    changes: bool,
    /// By the cluster's word, where it gave one.
    version: Option<i64>,
    /// For a version that was seen and that nobody was told: the optional items one of which it must be.
    one_of: Vec<usize>,
}

/// A way of placing some of the operations.
#[derive(Debug, Clone)]
struct Node {
    state: State,
    /// All required items before this one are placed.
    base: usize,
    /// And these behind it, in order.
    ahead: Vec<u32>,
    /// The optional items that were used up, in order.
    used: Vec<u32>,
    placed: usize,
}

/// A node whose ways on are being tried.
struct Branch {
    node: Node,
    choices: Vec<Choice>,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Required(usize),
    Optional(usize),
    /// The required item is this optional one.
    OneOf(usize, usize),
}

/// One search, under some restrictions.
struct Search<'a> {
    required: &'a [Item<'a>],
    optional: &'a [Item<'a>],
    /// Changes are placed in the order of their versions only, and unknown ones only where they may help.
    guided: bool,
    /// For each state and set of placed items, the smallest sets of optional items that led there.
    seen: HashMap<(u64, u64), Vec<Vec<u32>>>,
    best: Option<Node>,
    states_left: usize,
}

enum Ended {
    Found,
    Exhausted,
    OutOfStates,
}

/// Judges the history of one group; `ops` are in the order of their beginnings.
/// At most `states_max` states are looked at.
pub fn check(ops: &[Op], states_max: usize) -> Verdict {
    for guided in [true, false] {
        let (required, optional) = items(ops, guided);
        let states_left = if guided { states_max / GUIDED_PART } else { states_max };
        let (required, optional) = (&required, &optional);
        let mut search = Search { required, optional, guided, seen: HashMap::new(), best: None, states_left };
        let ended = search.run();
        match (ended, &search.best) {
            (Ended::Found, _) => return Verdict::Linearizable,
            (Ended::Exhausted, Some(best)) if !guided => return Verdict::NotLinearizable(search.stuck(best)),
            (Ended::OutOfStates, Some(best)) if !guided => return Verdict::Undecided(search.stuck(best)),
            _ => {}
        }
    }
    unreachable!("the full search always answers")
}

/// What must and what may be placed, in the order of their beginnings; guided by versions or not.
fn items(ops: &[Op], guided: bool) -> (Vec<Item<'_>>, Vec<Item<'_>>) {
    let sights = sights(ops);
    let (mut required, mut optional) = (Vec::new(), Vec::new());
    for (index, op) in ops.iter().enumerate() {
        let (outcome, completed, sure) = match (&op.outcome, op.action) {
            // Wrong bytes are counted by themselves.
            (Outcome::NotDone(_) | Outcome::Wrong(_), _) => continue,
            (Outcome::Unknown(_) | Outcome::Odd(_), action) if action.only_looks() => continue,
            (Outcome::Unknown(_) | Outcome::Odd(_), Action::Write { value, .. }) if sights.contains_key(&value) => {
                let sight = sights[&value];
                let done = Outcome::Done { version: guided.then_some(sight.lowest_version) };
                (done, sight.first_ended, true)
            }
            (Outcome::Unknown(_) | Outcome::Odd(_), _) => (op.outcome.clone(), u64::MAX, false),
            _ => (op.outcome.clone(), op.completed, true),
        };
        let version = match outcome {
            Outcome::Done { version } => version,
            _ => None,
        };
        let changes = op.may_have_changed();
        let (action, invoked) = (&op.action, op.invoked);
        let item = Item { index, action, outcome, invoked, completed, changes, version, one_of: Vec::new() };
        if sure { required.push(item) } else { optional.push(item) }
    }
    if guided {
        required.extend(untold(ops, &required, &optional));
        required.sort_by_key(|item| item.invoked);
    }
    (required, optional)
}

/// An item for each version that was seen and that nobody was told: one of the unknown moves and copies.
fn untold<'a>(ops: &'a [Op], required: &[Item<'a>], optional: &[Item<'a>]) -> Vec<Item<'a>> {
    let told: HashSet<i64> = required.iter().filter_map(|item| item.version).collect();
    let mut items: BTreeMap<i64, Item<'a>> = BTreeMap::new();
    for (index, op) in ops.iter().enumerate() {
        let sights: Vec<(u8, &Seen)> = match (&op.action, &op.outcome) {
            (Action::Read { at } | Action::Stat { at }, Outcome::Saw(seen)) => vec![(at.file, seen)],
            (_, Outcome::Listed(files)) => files.iter().map(|(file, seen)| (*file, seen)).collect(),
            _ => continue,
        };
        for (file, seen) in sights.into_iter().filter(|(_, seen)| !told.contains(&seen.version)) {
            // Its directory may have been moved since: only the name is sure.
            let may_be = |item: &Item<'_>| {
                let to_here =
                    matches!(item.action, Action::Move { to, .. } | Action::Copy { to, .. } if to.file == file);
                to_here && item.invoked <= op.completed
            };
            let one_of: Vec<usize> = (0..optional.len()).filter(|i| may_be(&optional[*i])).collect();
            let Some(first) = one_of.first().map(|first| &optional[*first]) else { continue };
            let item = items.entry(seen.version).or_insert_with(|| Item {
                index,
                completed: op.completed,
                version: Some(seen.version),
                outcome: Outcome::Done { version: Some(seen.version) },
                one_of: one_of.clone(),
                ..first.clone()
            });
            item.completed = item.completed.min(op.completed);
            item.one_of.retain(|other| one_of.contains(other));
        }
    }
    items.into_values().collect()
}

/// How a content was seen.
#[derive(Debug, Clone, Copy)]
struct Sight {
    first_ended: u64,
    lowest_version: i64,
}

fn sights(ops: &[Op]) -> HashMap<Value, Sight> {
    let mut sights: HashMap<Value, Sight> = HashMap::new();
    let mut note = |seen: &Seen, ended: u64| {
        let sight = sights.entry(seen.value).or_insert(Sight { first_ended: ended, lowest_version: seen.version });
        sight.first_ended = sight.first_ended.min(ended);
        sight.lowest_version = sight.lowest_version.min(seen.version);
    };
    for op in ops {
        match &op.outcome {
            Outcome::Saw(seen) => note(seen, op.completed),
            Outcome::Listed(files) => files.iter().for_each(|(_, seen)| note(seen, op.completed)),
            _ => {}
        }
    }
    sights
}

impl Search<'_> {
    fn run(&mut self) -> Ended {
        let start = Node { state: State::new(), base: 0, ahead: Vec::new(), used: Vec::new(), placed: 0 };
        let mut branches = Vec::new();
        let mut next = Some(start);
        loop {
            if let Some(mut node) = next.take() {
                self.settle(&mut node);
                if node.base == self.required.len() {
                    return Ended::Found;
                }
                if self.is_new(&node) {
                    if self.states_left == 0 {
                        return Ended::OutOfStates;
                    }
                    self.states_left -= 1;
                    if self.best.as_ref().is_none_or(|best| node.placed > best.placed) {
                        self.best = Some(node.clone());
                    }
                    // The last one is tried first.
                    let mut choices = self.choices(&node);
                    choices.reverse();
                    branches.push(Branch { node, choices });
                }
            }
            let Some(branch) = branches.last_mut() else { return Ended::Exhausted };
            match branch.choices.pop() {
                Some(choice) => next = self.take(&branch.node, choice),
                None => drop(branches.pop()),
            }
        }
    }

    /// Places all that only looks and is right.
    fn settle(&self, node: &mut Node) {
        loop {
            let (candidates, _) = self.candidates(node);
            let right: Vec<usize> = candidates
                .into_iter()
                .filter(|i| {
                    let item = &self.required[*i];
                    !item.changes && node.state.after(item.action, &item.outcome).is_some()
                })
                .collect();
            if right.is_empty() {
                return;
            }
            right.into_iter().for_each(|i| self.place(node, i));
        }
    }

    /// The required items that may come next: no other one must have ended before they began. And the end of the
    /// first of them to end.
    fn candidates(&self, node: &Node) -> (Vec<usize>, u64) {
        let mut first_end = u64::MAX;
        let mut found = Vec::new();
        for (i, item) in self.required.iter().enumerate().skip(node.base) {
            if item.invoked > first_end {
                break;
            }
            if node.ahead.binary_search(&(i as u32)).is_err() {
                first_end = first_end.min(item.completed);
                found.push(i);
            }
        }
        found.retain(|i| self.required[*i].invoked <= first_end);
        (found, first_end)
    }

    fn place(&self, node: &mut Node, i: usize) {
        if let Err(at) = node.ahead.binary_search(&(i as u32)) {
            node.ahead.insert(at, i as u32);
        }
        let run = node.ahead.iter().zip(node.base..).take_while(|(ahead, base)| **ahead as usize == *base).count();
        node.ahead.drain(..run);
        node.base += run;
        node.placed += 1;
    }

    /// Remembers a node; whether nothing as good was here before.
    fn is_new(&mut self, node: &Node) -> bool {
        let hash = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            (seed, node.base, &node.ahead, &node.state).hash(&mut hasher);
            hasher.finish()
        };
        let sets = self.seen.entry((hash(0), hash(1))).or_default();
        if sets.iter().any(|set| is_subset(set, &node.used)) {
            return false;
        }
        sets.retain(|set| !is_subset(&node.used, set));
        sets.push(node.used.clone());
        true
    }

    /// The ways on from a node, the most promising first.
    fn choices(&self, node: &Node) -> Vec<Choice> {
        let (candidates, first_end) = self.candidates(node);
        let (mut able, mut unable) = (Vec::new(), Vec::new());
        for i in candidates {
            let ways = self.ways(node, i);
            if ways.is_empty() { unable.push(i) } else { able.push((i, ways)) }
        }
        able.sort_by_key(|(i, _)| (self.required[*i].version.unwrap_or(i64::MAX), *i));
        if self.guided {
            let lowest = self.lowest_version(node);
            able.retain(|(i, _)| self.required[*i].version.is_none_or(|version| Some(version) == lowest));
        }
        let stuck_at: HashSet<u8> = unable.iter().flat_map(|i| self.required[*i].action.dirs()).collect();
        let optional = self.optional.iter().enumerate().take_while(|(_, item)| item.invoked <= first_end);
        let (near, far): (Vec<_>, Vec<_>) = optional
            .filter(|(i, _)| node.used.binary_search(&(*i as u32)).is_err())
            .filter(|(_, item)| node.state.after(item.action, &item.outcome).is_some_and(|state| state != node.state))
            .partition(|(_, item)| item.action.dirs().iter().any(|dir| stuck_at.contains(dir)));
        let far = far.into_iter().filter(|_| !self.guided);
        let optional = near.into_iter().chain(far).map(|(i, _)| Choice::Optional(i));
        able.into_iter().flat_map(|(_, ways)| ways).chain(optional).collect()
    }

    /// How a required item can be placed now.
    fn ways(&self, node: &Node, i: usize) -> Vec<Choice> {
        let item = &self.required[i];
        if item.one_of.is_empty() {
            let possible = node.state.after(item.action, &item.outcome).is_some();
            return if possible { vec![Choice::Required(i)] } else { Vec::new() };
        }
        let unused = item.one_of.iter().filter(|other| node.used.binary_search(&(**other as u32)).is_err());
        unused.map(|other| Choice::OneOf(i, *other)).filter(|choice| self.take(node, *choice).is_some()).collect()
    }

    /// The lowest version among the changes that are still to be placed, as far as they may concern this node.
    fn lowest_version(&self, node: &Node) -> Option<i64> {
        let rest = self.required.iter().enumerate().skip(node.base);
        let unplaced = rest.filter(|(i, _)| node.ahead.binary_search(&(*i as u32)).is_err());
        unplaced.take(LOOK_AHEAD_ITEMS).filter_map(|(_, item)| item.version).min()
    }

    fn take(&self, node: &Node, choice: Choice) -> Option<Node> {
        let (action, outcome) = match choice {
            Choice::Required(i) => (self.required[i].action, &self.required[i].outcome),
            Choice::Optional(i) => (self.optional[i].action, &self.optional[i].outcome),
            Choice::OneOf(i, other) => (self.optional[other].action, &self.required[i].outcome),
        };
        let mut next = node.clone();
        next.state = node.state.after(action, outcome)?;
        if let Choice::Optional(i) | Choice::OneOf(_, i) = choice {
            let at = next.used.partition_point(|used| *used < i as u32);
            next.used.insert(at, i as u32);
        }
        if let Choice::Required(i) | Choice::OneOf(i, _) = choice {
            self.place(&mut next, i);
        }
        Some(next)
    }

    fn stuck(&self, node: &Node) -> Stuck {
        let (candidates, _) = self.candidates(node);
        let next = candidates.into_iter().map(|i| self.required[i].index).collect();
        Stuck { placed: node.placed, next, state: node.state }
    }
}

/// How many items the lowest version is looked for in: more than can overlap.
const LOOK_AHEAD_ITEMS: usize = 200;

/// Whether all of `small` is in `large`; both are in order.
fn is_subset(small: &[u32], large: &[u32]) -> bool {
    small.len() <= large.len() && small.iter().all(|item| large.binary_search(item).is_ok())
}
