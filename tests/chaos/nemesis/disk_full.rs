//! A full disk: a large file takes all that is left of the small file system, or all but a little.

use std::fs::File;
use std::io::Write;
use std::ops::Range;

use rand::Rng;
use rand::rngs::StdRng;

use super::Nemesis;
use crate::world::World;

/// The file that fills the disk; not to be taken for the ballast that a storage server keeps for itself.
pub const BALLAST: &str = "fills-the-disk";
/// Bytes that are written at once.
const PIECE_BYTES: usize = 64 << 10;

pub struct DiskFull;

impl Nemesis for DiskFull {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let mut file = File::create(world.small_disk.as_ref()?.join(BALLAST)).ok()?;
        let piece = vec![0x5a; PIECE_BYTES];
        let mut pieces = 0usize;
        while file.write_all(&piece).is_ok() {
            pieces += 1;
        }
        let left = dice.random_range(0..8usize).min(pieces);
        file.set_len(((pieces - left) * PIECE_BYTES) as u64).ok()?;
        Some(format!("the disk of storage-0 is full, but for {} KiB", left * PIECE_BYTES / 1_024))
    }

    fn heal(&mut self, world: &World) {
        let disk = world.small_disk.as_ref();
        let _ = disk.map(|disk| std::fs::remove_file(disk.join(BALLAST)));
    }

    fn lasts_ms(&self) -> Range<u64> {
        1_000..6_000
    }
}
