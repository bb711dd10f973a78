//! A process that stands still: its connections stay open, and nobody answers.

use std::ops::Range;
use std::sync::Arc;

use rand::rngs::StdRng;

use super::{Nemesis, pick};
use crate::server::Server;
use crate::world::World;

#[derive(Default)]
pub struct Pause {
    paused: Option<(Arc<Server>, u32)>,
}

impl Nemesis for Pause {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let server = pick(dice, &world.servers())?.clone();
        let pid = server.pause()?;
        let what = format!("{} stands still", server.name);
        self.paused = Some((server, pid));
        Some(what)
    }

    fn heal(&mut self, _: &World) {
        if let Some((server, pid)) = self.paused.take() {
            server.resume(pid);
        }
    }

    fn lasts_ms(&self) -> Range<u64> {
        300..6_000
    }
}
