//! Histories of a cluster that exists only here: one that keeps its promises, and some that break one.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::State;
use crate::history::{Action, DIRS, FILES, Op, Outcome, Place, Seen, Value};
use crate::workload::Chooser;

/// A defect that the simulated cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// Some acknowledged writes are never done.
    LostUpdate,
    /// Some acknowledged writes are undone later.
    Forgotten,
    /// Some reads show what was there a while ago.
    StaleRead,
    /// Some deleted files come back.
    Resurrected,
    /// Some moved directories leave a file behind.
    TornMove,
    /// Some operations that were refused for lack of servers are done nevertheless.
    DoneThoughRefused,
    /// Some writes with an unknown outcome are done twice.
    DoneTwice,
}

pub const BUGS: [Bug; 7] = [
    Bug::LostUpdate,
    Bug::Forgotten,
    Bug::StaleRead,
    Bug::Resurrected,
    Bug::TornMove,
    Bug::DoneThoughRefused,
    Bug::DoneTwice,
];

/// Something that happens to the simulated cluster at a moment.
struct Event {
    at: u64,
    op: usize,
    /// Its own effect, not the repetition of one.
    first: bool,
}

struct Simulation {
    dice: StdRng,
    bug: Bug,
    state: State,
    past: Vec<State>,
    version: i64,
    ops: Vec<Op>,
    events: Vec<Event>,
    /// What comes back, and when.
    returning: Vec<(u64, Place, Value)>,
}

/// How often one in so many chances is taken by a bug.
const BUG_ODDS: u32 = 3;

/// The history of `count` operations of `clients` on one group; one in `unknown` outcomes is unknown.
pub fn history(seed: u64, clients: u16, count: usize, unknown: u32, bug: Bug) -> Vec<Op> {
    let mut simulation = Simulation {
        dice: StdRng::seed_from_u64(seed),
        bug,
        state: State::new(),
        past: vec![State::new()],
        version: 0,
        ops: Vec::new(),
        events: Vec::new(),
        returning: Vec::new(),
    };
    let mut chooser = Chooser::new(1);
    let mut free: Vec<u64> = vec![0; usize::from(clients)];
    for value in 0..count as Value {
        let client = (0..free.len()).min_by_key(|client| free[*client]).unwrap();
        let invoked = free[client];
        let action =
            chooser.choose(&mut simulation.dice, || value + 1, |at| simulation.state.file(at).map(|e| e.version));
        free[client] = simulation.begin(client as u16, invoked, action, unknown);
        simulation.run_until(*free.iter().min().unwrap());
    }
    simulation.finish()
}

impl Simulation {
    /// Plans an operation. Answers when the client is free again.
    fn begin(&mut self, client: u16, invoked: u64, action: Action, unknown: u32) -> u64 {
        let effect = invoked + self.dice.random_range(1..1_000);
        let completed = effect + self.dice.random_range(1..1_000);
        let is_unknown = self.dice.random_ratio(1, unknown);
        let is_refused = !is_unknown && !action.only_looks() && self.dice.random_ratio(1, 20);
        let op = self.ops.len();
        let mut outcome = Outcome::Done { version: None };
        if is_unknown {
            outcome = Outcome::Unknown("simulated".into());
            // It is done in time, late, or never.
            match self.dice.random_range(0..3) {
                0 => self.events.push(Event { at: effect, op, first: true }),
                1 => self.events.push(Event { at: completed + self.dice.random_range(1..20_000), op, first: true }),
                _ => {}
            }
            if self.bug == Bug::DoneTwice && matches!(action, Action::Write { .. }) {
                for at in [effect, completed + 15_000] {
                    self.events.push(Event { at, op, first: true });
                }
            }
        } else if is_refused {
            outcome = Outcome::NotDone("simulated".into());
            if self.bug == Bug::DoneThoughRefused && self.dice.random_ratio(1, BUG_ODDS) {
                self.events.push(Event { at: effect, op, first: false });
            }
        } else {
            self.events.push(Event { at: effect, op, first: true });
        }
        self.ops.push(Op { client, invoked, completed, at_end: false, action, outcome });
        completed + self.dice.random_range(1..500)
    }

    /// Lets everything happen that is due before a moment.
    fn run_until(&mut self, moment: u64) {
        loop {
            let due = (0..self.events.len()).filter(|i| self.events[*i].at < moment).min_by_key(|i| self.events[*i].at);
            let Some(due) = due else { break };
            let event = self.events.swap_remove(due);
            let back: Vec<_> = self.returning.extract_if(.., |(at, ..)| *at < event.at).collect();
            for (_, place, value) in back {
                if let Some(dir) = &mut self.state.dirs[place.dir as usize] {
                    dir[place.file as usize] = Some(super::model::Entry { value, version: self.version });
                }
            }
            self.happen(&event);
            self.past.push(self.state);
        }
    }

    fn chance(&mut self, bug: Bug) -> bool {
        self.bug == bug && self.dice.random_ratio(1, BUG_ODDS)
    }

    fn happen(&mut self, event: &Event) {
        let action = self.ops[event.op].action;
        let known = matches!(self.ops[event.op].outcome, Outcome::Done { .. });
        let before = self.state;
        let outcome = if action.only_looks() {
            let state = match self.chance(Bug::StaleRead) {
                true => self.past[self.past.len().saturating_sub(25)],
                false => self.state,
            };
            look(&state, &action)
        } else {
            match self.state.changed(&action, self.version + 1) {
                Err(code) => Outcome::Refused(code),
                Ok(next) => {
                    self.version += 1;
                    self.state = next;
                    Outcome::Done { version: Some(self.version) }
                }
            }
        };
        if known && event.first {
            self.misbehave(&action, &outcome, &before, event.at);
            self.ops[event.op].outcome = outcome;
        }
    }

    fn misbehave(&mut self, action: &Action, outcome: &Outcome, before: &State, now: u64) {
        if !matches!(outcome, Outcome::Done { .. }) {
            return;
        }
        match *action {
            Action::Write { at, .. } => {
                if self.chance(Bug::LostUpdate) {
                    self.state = *before;
                }
                if self.chance(Bug::Forgotten)
                    && let Some(old) = before.file(at)
                {
                    self.returning.push((now + 5_000, at, old.value));
                }
            }
            Action::Delete { at } if self.bug == Bug::Resurrected => {
                self.returning.extend(before.file(at).map(|entry| (now + 2_000, at, entry.value)));
            }
            Action::MoveDir { to, .. } if self.bug == Bug::TornMove => {
                if let Some(dir) = &mut self.state.dirs[to as usize] {
                    dir[0] = None;
                }
            }
            _ => {}
        }
    }

    /// Everything comes to rest, and all is read.
    fn finish(mut self) -> Vec<Op> {
        let end = self.ops.iter().map(|op| op.completed).max().unwrap_or(0) + 100_000;
        self.run_until(end);
        for dir in 0..DIRS as u8 {
            for file in 0..FILES as u8 {
                let action = Action::Read { at: Place { group: 0, dir, file } };
                let outcome = look(&self.state, &action);
                self.ops.push(Op { client: 0, invoked: end, completed: end + 1, at_end: true, action, outcome });
            }
        }
        self.ops.sort_by_key(|op| (op.invoked, op.completed));
        self.ops
    }
}

/// What a look shows.
fn look(state: &State, action: &Action) -> Outcome {
    let seen = |entry: super::model::Entry| Seen { value: entry.value, version: entry.version };
    match *action {
        Action::List { dir, .. } => match state.dirs[dir as usize] {
            None => Outcome::Refused(holdfast::types::ErrorCode::NotFound),
            Some(files) => Outcome::Listed(
                files.iter().enumerate().filter_map(|(file, entry)| Some((file as u8, seen((*entry)?)))).collect(),
            ),
        },
        Action::Read { at } | Action::Stat { at } => match state.file(at) {
            None => Outcome::Refused(holdfast::types::ErrorCode::NotFound),
            Some(entry) => Outcome::Saw(seen(entry)),
        },
        _ => unreachable!("not a look"),
    }
}
