//! `kill -9`: mostly of one server, sometimes of several, sometimes of all, as a power cut would.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Nemesis;
use crate::server::Server;
use crate::world::World;

pub struct Kill {
    names: bool,
    storage: bool,
    killed: Vec<Arc<Server>>,
}

impl Kill {
    pub fn new(names: bool, storage: bool) -> Self {
        Self { names, storage, killed: Vec::new() }
    }
}

impl Nemesis for Kill {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let mut targets = Vec::new();
        if self.names {
            targets.extend(world.names.iter().cloned());
        }
        if self.storage {
            targets.extend(world.storage());
        }
        targets.shuffle(dice);
        let count = match dice.random_range(0..100) {
            0..70 => 1,
            70..90 => 2,
            _ => targets.len(),
        };
        self.killed = targets.into_iter().take(count).filter(|server| server.kill()).collect();
        let names: Vec<_> = self.killed.iter().map(|server| server.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("kill -9 of {}", names.join(", ")))
    }

    fn heal(&mut self, world: &World) {
        for server in self.killed.drain(..) {
            let leaves = world.leaving.lock().unwrap().iter().any(|other| other.name == server.name);
            if !leaves {
                server.start();
            }
        }
    }
}
