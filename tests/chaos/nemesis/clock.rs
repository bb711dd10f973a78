//! The wall clock of a server jumps, forward or back, and back again. The monotonic clock goes on.

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

use super::{Nemesis, pick};
use crate::server::Server;
use crate::world::World;

#[derive(Default)]
pub struct Clock {
    jumped: Option<Arc<Server>>,
}

/// Sets by how many milliseconds a server's clock is wrong.
pub fn set_clock(world: &World, server: &Server, offset_ms: i64) {
    let file = OpenOptions::new().write(true).open(world.clock_file(&server.name)).unwrap();
    file.write_all_at(&offset_ms.to_le_bytes(), 0).unwrap();
}

impl Nemesis for Clock {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let server = pick(dice, &world.servers())?.clone();
        let offset_ms = match dice.random_range(0..4) {
            0 => dice.random_range(-5_000..5_000),
            1 => dice.random_range(-120_000..0),
            2 => dice.random_range(0..120_000),
            _ => dice.random_range(0..86_400_000),
        };
        set_clock(world, &server, offset_ms);
        let what = format!("the clock of {} jumps by {} s", server.name, offset_ms as f64 / 1_000.0);
        self.jumped = Some(server);
        Some(what)
    }

    fn heal(&mut self, world: &World) {
        if let Some(server) = self.jumped.take() {
            set_clock(world, &server, 0);
        }
    }

    fn lasts_ms(&self) -> Range<u64> {
        1_000..8_000
    }
}
