//! The kernel finds an error in a storage server's file system, which takes no writes any more (ext4's emergency state).
//! Later the daemon is killed, the file system checked, and the daemon started again.

use std::ops::Range;
use std::sync::Arc;

use rand::rngs::StdRng;

use super::{Nemesis, pick};
use crate::server::Server;
use crate::world::World;

#[derive(Default)]
pub struct ReadOnly {
    struck: Option<Arc<Server>>,
}

impl Nemesis for ReadOnly {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let servers = world.with_disks();
        let server = pick(dice, &servers)?;
        let (disk, pid) = (world.disk(&server.name)?, server.pid()?);
        if !disk.fail(pid) {
            return None;
        }
        self.struck = Some(server.clone());
        Some(format!("the disk of {} is read-only", server.name))
    }

    fn heal(&mut self, world: &World) {
        if let Some(server) = self.struck.take() {
            world.heal_disk(&server);
        }
    }

    fn lasts_ms(&self) -> Range<u64> {
        2_000..12_000
    }
}
