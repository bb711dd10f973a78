//! A slow link that loses packets: by netem where the kernel has it, else by a bucket of little bandwidth.

use std::ops::Range;

use rand::Rng;
use rand::rngs::StdRng;

use super::{Nemesis, pick};
use crate::network::Host;
use crate::world::World;

#[derive(Default)]
pub struct Slow {
    host: Option<Host>,
}

impl Nemesis for Slow {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let network = world.network.as_ref()?;
        let servers: Vec<Host> = network.hosts().into_iter().filter(|host| host.namespace.is_some()).collect();
        let host = pick(dice, &servers)?.clone();
        let (delay, loss, rate) = (dice.random_range(20..400), dice.random_range(0..15), dice.random_range(200..4_000));
        network.slow(&host, delay, loss, rate);
        let how = match network.slowness {
            crate::network::Slowness::Netem => format!("{delay} ms late, {loss} % lost"),
            crate::network::Slowness::Bucket => format!("{rate} kbit/s, late by up to {} ms, the rest lost", delay * 4),
        };
        let what = format!("{}: {how}", host.name);
        self.host = Some(host);
        Some(what)
    }

    fn heal(&mut self, world: &World) {
        if let (Some(network), Some(host)) = (&world.network, self.host.take()) {
            network.hurry(&host);
        }
    }

    fn lasts_ms(&self) -> Range<u64> {
        2_000..8_000
    }
}
