//! Choosing operations: by the dice alone, so that a seed repeats them as far as the clients' pace does.

use rand::Rng;
use rand::rngs::StdRng;

use crate::history::{Action, DIRS, FILES, Place, Value, When};

/// Chooses what a client does next.
pub struct Chooser {
    groups: u8,
}

impl Chooser {
    pub fn new(groups: u8) -> Self {
        Self { groups }
    }

    fn place(&self, dice: &mut StdRng, group: u8) -> Place {
        Place { group, dir: dice.random_range(0..DIRS as u8), file: dice.random_range(0..FILES as u8) }
    }

    /// Another place in the same group.
    fn other(&self, dice: &mut StdRng, from: Place) -> Place {
        loop {
            let to = self.place(dice, from.group);
            if to != from {
                return to;
            }
        }
    }

    /// The next operation. `value` gives the number of a new content, `version` the version of a file as this client
    /// saw it last.
    pub fn choose(
        &mut self,
        dice: &mut StdRng,
        value: impl FnOnce() -> Value,
        version: impl Fn(Place) -> Option<i64>,
    ) -> Action {
        let group = dice.random_range(0..self.groups);
        let at = self.place(dice, group);
        let dir = at.dir;
        match dice.random_range(0..100) {
            0..26 => Action::Write { at, value: value(), when: When::Any },
            26..30 => Action::Write { at, value: value(), when: When::Absent },
            30..38 => {
                let when = version(at).map_or(When::Absent, When::Version);
                Action::Write { at, value: value(), when }
            }
            38..42 => Action::Delete { at },
            42..47 => Action::Move { from: at, to: self.other(dice, at) },
            47..53 => Action::Copy { from: at, to: self.other(dice, at) },
            53..56 => {
                let to = (dir + dice.random_range(1..DIRS as u8)) % DIRS as u8;
                Action::MoveDir { group, from: dir, to }
            }
            56..57 => Action::RemoveDir { group, dir },
            57..66 => Action::MakeDir { group, dir },
            66..84 => Action::Read { at },
            84..93 => Action::Stat { at },
            _ => Action::List { group, dir },
        }
    }
}
