//! A machine is cloned: a second process starts on a copy of a storage server's directory, under a URL of its own or
//! under that of the original. The copy is some seconds old by then, so it must never take the original's place.

use std::ops::Range;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::{Nemesis, pick};
use crate::server::Server;
use crate::world::World;

/// Clones in one run at most.
const CLONES_MAX: usize = 6;
/// How long a clone runs at most.
const CLONE_RUNS: Duration = Duration::from_secs(6);

#[derive(Default)]
pub struct Clone {
    copied: Option<(Arc<Server>, String)>,
    clones: usize,
    under_its_url: bool,
}

impl Nemesis for Clone {
    /// The directory is copied while nobody writes to it, as a machine is cloned; the original goes on.
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let permanent: Vec<_> =
            world.storage().into_iter().filter(|server| server.name.starts_with("storage-")).collect();
        let original = pick(dice, &permanent)?.clone();
        if self.clones >= CLONES_MAX || !original.kill() {
            return None;
        }
        // While its disk is taken away there is nothing to copy; a server on an empty directory is a new one.
        if !world.data_dir(&original.name).join("server.json").exists() {
            original.start();
            return None;
        }
        self.clones += 1;
        self.under_its_url = dice.random_bool(0.5);
        let name = format!("clone-{}-of-{}", self.clones, original.name);
        let copied =
            Command::new("cp").arg("-a").arg(world.data_dir(&original.name)).arg(world.data_dir(&name)).status();
        original.start();
        assert!(copied.unwrap().success(), "the directory of {} cannot be copied", original.name);
        let what = format!("the machine of {} is cloned", original.name);
        self.copied = Some((original, name));
        Some(what)
    }

    fn heal(&mut self, world: &World) {
        let Some((original, name)) = self.copied.take() else { return };
        let url = original.url();
        let more: &[&str] = if self.under_its_url { &["--url", &url] } else { &[] };
        let clone = world.start_storage_server(&name, more);
        let end = Instant::now() + CLONE_RUNS;
        let mut ended = None;
        while ended.is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            ended = clone.revive();
        }
        clone.end();
        match ended {
            Some(status) => world.note(format!("{name} was sent away ({status})")),
            None => world.note(format!("{name} was taken for nobody in {} s and is killed", CLONE_RUNS.as_secs())),
        }
    }

    fn lasts_ms(&self) -> Range<u64> {
        7_000..9_000
    }
}
