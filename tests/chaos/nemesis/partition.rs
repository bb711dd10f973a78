//! Hosts that do not hear each other. Packets vanish without an answer, as behind a broken switch.

use std::ops::Range;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Nemesis;
use crate::network::Host;
use crate::world::World;

/// Priorities of the rules that partitions are made of; each sort has its own.
pub const PRIORITIES: Range<u32> = 10..12;

pub struct Partition {
    both_ways: bool,
    priority: u32,
    cut: Vec<(Host, Host)>,
}

impl Partition {
    pub fn new(both_ways: bool) -> Self {
        let priority = if both_ways { PRIORITIES.start } else { PRIORITIES.start + 1 };
        Self { both_ways, priority, cut: Vec::new() }
    }
}

impl Nemesis for Partition {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let mut hosts = world.network.as_ref()?.hosts();
        hosts.shuffle(dice);
        let (left, right) = hosts.split_at(dice.random_range(1..hosts.len()));
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
            self.cut.push((a.clone(), b.clone()));
            if self.both_ways {
                self.cut.push((b.clone(), a.clone()));
            }
        }
        self.cut.iter().for_each(|(at, from)| at.cut(from, self.priority));
        let names = |hosts: &[Host]| hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
        let how = if self.both_ways { "and the others do not hear each other" } else { "do not hear the others" };
        Some(format!("{} {how} ({})", names(left), names(right)))
    }

    fn heal(&mut self, _: &World) {
        for (at, from) in self.cut.drain(..) {
            at.join(&from, self.priority);
        }
    }

    fn lasts_ms(&self) -> Range<u64> {
        1_000..8_000
    }
}
