//! A person drains a storage server and takes it back.

use std::ops::Range;

use holdfast::types::ServerId;
use holdfast::types::api::{AdminState, Health, ServerInfo};
use rand::rngs::StdRng;

use super::{Nemesis, pick};
use crate::world::World;

#[derive(Default)]
pub struct Drain {
    drained: Option<ServerId>,
}

impl Nemesis for Drain {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let servers = world.ask(world.client.servers())?.servers;
        let may_go = |server: &&ServerInfo| {
            server.health == Health::Live
                && server.admin_state == AdminState::InService
                && server.name.starts_with("storage-")
        };
        let candidates: Vec<_> = servers.iter().filter(may_go).collect();
        let server = pick(dice, &candidates)?;
        // Also when the answer is lost: then it is taken back without having gone.
        self.drained = Some(server.server);
        let answered = world.ask(world.client.server_action(server.server, "drain")).is_some();
        Some(format!("{} is drained{}", server.name, if answered { "" } else { " (perhaps)" }))
    }

    fn heal(&mut self, world: &World) {
        // If nobody answers now, the end of the run sees to it.
        if let Some(server) = self.drained.take() {
            world.ask(world.client.server_action(server, "undrain"));
        }
    }

    fn lasts_ms(&self) -> Range<u64> {
        2_000..12_000
    }
}

/// Takes back all servers that are still draining. Whether none is left.
pub fn undrain_all(world: &World) -> bool {
    let Some(answer) = world.ask(world.client.servers()) else { return false };
    let mut servers = answer.servers.into_iter();
    servers.all(|server| {
        let leaves = world.leaving.lock().unwrap().iter().any(|other| other.name == server.name);
        leaves
            || server.admin_state == AdminState::InService
            || world.ask(world.client.server_action(server.server, "undrain")).is_some()
    })
}
