//! The disk of a storage server goes away under the running daemon, and returns: `umount -l` and `mount`. Below the mount
//! points of every second server there are directories that look like a storage server's.

use std::ops::Range;
use std::sync::Arc;

use rand::rngs::StdRng;

use super::{Nemesis, pick};
use crate::server::Server;
use crate::world::World;

#[derive(Default)]
pub struct Unmount {
    struck: Option<Arc<Server>>,
}

impl Nemesis for Unmount {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let servers = world.with_disks();
        let server = pick(dice, &servers)?;
        let (disk, pid) = (world.disk(&server.name)?, server.pid()?);
        if !disk.unmount(pid) {
            return None;
        }
        self.struck = Some(server.clone());
        Some(format!("the disk of {} is unmounted", server.name))
    }

    fn heal(&mut self, world: &World) {
        if let Some(server) = self.struck.take() {
            world.heal_disk(&server);
        }
    }

    fn lasts_ms(&self) -> Range<u64> {
        500..9_000
    }
}
