//! A storage server joins, gets its share of files, and is gone for good a while later: drained first, or just dead.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::types::api::{AdminState, ServerInfo};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Kind, Nemesis};
use crate::server::Server;
use crate::world::World;

/// How long a drained server may take to hand its files on before it is killed all the same.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Servers that join in one run at most.
const JOINED_MAX: usize = 4;

#[derive(Default)]
pub struct Join {
    joined: Option<Arc<Server>>,
    drains: bool,
}

impl Nemesis for Join {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        if world.leaving.lock().unwrap().len() >= JOINED_MAX {
            return None;
        }
        let server = world.join();
        // A copy elsewhere may be damaged without anyone knowing: then the last good one must not die.
        self.drains = dice.random_bool(0.5) || world.has(Kind::Corrupt);
        let what = format!("{} joins", server.name);
        self.joined = Some(server);
        Some(what)
    }

    fn heal(&mut self, world: &World) {
        let Some(server) = self.joined.take() else { return };
        if self.drains && !drained(world, &server) && world.has(Kind::Corrupt) {
            world.note(format!("{} could not be drained and stays", server.name));
            return;
        }
        world.leaving.lock().unwrap().push(server.clone());
        server.end();
        world.note(format!("{} is gone for good", server.name));
    }

    fn lasts_ms(&self) -> Range<u64> {
        4_000..12_000
    }
}

fn info(world: &World, server: &Server) -> Option<ServerInfo> {
    world.ask(world.client.servers())?.servers.into_iter().find(|info| info.name == server.name)
}

/// Drains a server. Whether nothing needs it any more.
fn drained(world: &World, server: &Server) -> bool {
    let end = Instant::now() + DRAIN_TIMEOUT;
    while Instant::now() < end {
        match info(world, server) {
            Some(info) if info.admin_state == AdminState::InService => {
                world.ask(world.client.server_action(info.server, "drain"));
            }
            Some(info) if info.admin_state == AdminState::Drained => return true,
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    false
}

/// Drains and removes the servers that are gone for good, as soon as the cluster lets them go. Those that it does not let go
/// yet, with its reasons.
pub fn remove_gone(world: &World) -> Vec<String> {
    let gone = world.leaving.lock().unwrap().clone();
    let mut refused = Vec::new();
    for server in gone {
        let Some(info) = info(world, &server) else { continue };
        // As a person does with a server that died and will not come back.
        if info.admin_state == AdminState::InService {
            world.ask(world.client.server_action(info.server, "drain"));
        }
        let removal = world.client.server_action(info.server, "remove");
        match world.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), removal).await }) {
            Ok(Ok(_)) => world.note(format!("{} is removed", server.name)),
            Ok(Err(error)) => refused.push(format!("{}: {}", server.name, error.chain())),
            Err(_) => refused.push(format!("{}: no answer", server.name)),
        }
    }
    refused
}
