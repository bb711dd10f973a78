//! The faults. Each is a file of its own: it strikes now and then, and heals what it did a while later.

mod clock;
mod clone;
mod corrupt;
mod database;
mod disk_full;
pub mod drain;
pub mod join;
mod kill;
mod partition;
mod pause;
mod read_only;
mod slow;
mod unmount;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use clock::set_clock;
pub use disk_full::BALLAST;
pub use partition::PRIORITIES as PARTITION_PRIORITIES;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::inside;
use crate::world::World;

/// A fault that can be done again and again.
pub trait Nemesis: Send {
    /// Does it; what was done, or nothing when nothing can be done now.
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String>;

    /// Undoes what the last strike did.
    fn heal(&mut self, world: &World);

    /// How long a strike lasts, in milliseconds.
    fn lasts_ms(&self) -> Range<u64> {
        500..4_000
    }

    /// How long it is quiet between two strikes, in milliseconds.
    fn rests_ms(&self) -> Range<u64> {
        1_000..4_000
    }
}

/// Which fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Kill,
    KillStorage,
    KillName,
    Pause,
    Partition,
    PartitionOneway,
    Slow,
    DiskFull,
    Corrupt,
    Database,
    Clock,
    Drain,
    Join,
    Clone,
    Unmount,
    ReadOnly,
}

impl Kind {
    pub const ALL: [Self; 16] = [
        Self::Kill,
        Self::KillStorage,
        Self::KillName,
        Self::Pause,
        Self::Partition,
        Self::PartitionOneway,
        Self::Slow,
        Self::DiskFull,
        Self::Corrupt,
        Self::Database,
        Self::Clock,
        Self::Drain,
        Self::Join,
        Self::Clone,
        Self::Unmount,
        Self::ReadOnly,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillStorage => "kill-storage",
            Self::KillName => "kill-name",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::PartitionOneway => "partition-oneway",
            Self::Slow => "slow",
            Self::DiskFull => "disk-full",
            Self::Corrupt => "corrupt",
            Self::Database => "database",
            Self::Clock => "clock",
            Self::Drain => "drain",
            Self::Join => "join",
            Self::Clone => "clone",
            Self::Unmount => "unmount",
            Self::ReadOnly => "readonly",
        }
    }

    pub fn needs_network(self) -> bool {
        matches!(self, Self::Partition | Self::PartitionOneway | Self::Slow)
    }

    /// Whether it strikes at disks, of which each server needs one of its own then.
    pub fn needs_disks(self) -> bool {
        matches!(self, Self::Unmount | Self::ReadOnly)
    }

    /// Why it does not work on this machine, if it does not.
    pub fn why_not(self) -> Option<&'static str> {
        let needs_a_room = self.needs_network() || self.needs_disks() || self == Self::DiskFull;
        if needs_a_room && !inside::is_inside() {
            return Some("it needs root, and `unshare` must be able to make network and mount namespaces");
        }
        let has = |program: &str| std::process::Command::new(program).arg("-V").output().is_ok();
        let tools = ["mkfs.ext4", "e2fsck", "losetup", "nsenter", "flock", "findmnt"];
        let disks = std::path::Path::new("/dev/loop-control").exists() && tools.iter().all(|tool| has(tool));
        if self.needs_disks() && !disks {
            return Some("it needs loop devices, e2fsprogs and util-linux");
        }
        let has_cc = || std::process::Command::new("cc").arg("--version").output().is_ok();
        if self == Self::Clock && !has_cc() {
            return Some("it needs a C compiler (cc), for a small library that moves one process's clock");
        }
        None
    }

    fn make(self) -> Box<dyn Nemesis> {
        match self {
            Self::Kill => Box::new(kill::Kill::new(true, true)),
            Self::KillStorage => Box::new(kill::Kill::new(false, true)),
            Self::KillName => Box::new(kill::Kill::new(true, false)),
            Self::Pause => Box::new(pause::Pause::default()),
            Self::Partition => Box::new(partition::Partition::new(true)),
            Self::PartitionOneway => Box::new(partition::Partition::new(false)),
            Self::Slow => Box::new(slow::Slow::default()),
            Self::DiskFull => Box::new(disk_full::DiskFull),
            Self::Corrupt => Box::new(corrupt::Corrupt::default()),
            Self::Database => Box::new(database::KillDatabase),
            Self::Clock => Box::new(clock::Clock::default()),
            Self::Drain => Box::new(drain::Drain::default()),
            Self::Join => Box::new(join::Join::default()),
            Self::Clone => Box::new(clone::Clone::default()),
            Self::Unmount => Box::new(unmount::Unmount::default()),
            Self::ReadOnly => Box::new(read_only::ReadOnly::default()),
        }
    }
}

/// So many nemeses rest as long as they like; more of them rest longer, or the cluster would never be up.
const RESTLESS: u64 = 3;

/// Lets one nemesis of `all` loose until it is told to stop; what it did last is healed then.
pub fn rage(kind: Kind, all: usize, world: &World, seed: u64, stop: &AtomicBool) {
    let mut nemesis = kind.make();
    let mut dice = StdRng::seed_from_u64(seed ^ (kind as u64 + 1).wrapping_mul(0xD134_2543_DE82_EF95));
    while !stop.load(Ordering::Relaxed) {
        let rest = dice.random_range(nemesis.rests_ms()) * RESTLESS.max(all as u64) / RESTLESS;
        if !wait(rest, stop) {
            break;
        }
        let Some(what) = nemesis.strike(world, &mut dice) else { continue };
        world.faults.fetch_add(1, Ordering::Relaxed);
        world.note(format!("{}: {what}", kind.name()));
        wait(dice.random_range(nemesis.lasts_ms()), stop);
        nemesis.heal(world);
        world.note(format!("{}: healed", kind.name()));
    }
}

/// Whether the whole time passed.
fn wait(milliseconds: u64, stop: &AtomicBool) -> bool {
    let end = Instant::now() + Duration::from_millis(milliseconds);
    while Instant::now() < end {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// One of them.
fn pick<'a, T>(dice: &mut StdRng, of: &'a [T]) -> Option<&'a T> {
    if of.is_empty() { None } else { of.get(dice.random_range(0..of.len())) }
}
