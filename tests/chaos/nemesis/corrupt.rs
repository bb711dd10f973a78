//! Files of replicas are changed behind a storage server's back: a byte flipped, the end cut off, two exchanged,
//! one deleted.
//!
//! Only while `report` says that every object has all its copies, only on one server at a time, and never two copies
//! of the same object: the cluster may not know of the first one yet.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use holdfast::types::DfsPath;
use holdfast::types::api::ListQuery;
use rand::Rng;
use rand::rngs::StdRng;
use walkdir::WalkDir;

use super::{Nemesis, pick};
use crate::world::World;

/// Files that one strike damages.
const FILES_MAX: usize = 3;

#[derive(Default)]
pub struct Corrupt {
    /// Objects that have had one copy damaged.
    damaged: HashSet<String>,
}

impl Nemesis for Corrupt {
    fn strike(&mut self, world: &World, dice: &mut StdRng) -> Option<String> {
        let report = world.ask(world.client.report())?;
        if !report.under_replicated.is_empty() || report.missing_objects > 0 || report.repair.queued > 0 {
            return None;
        }
        let servers = world.storage();
        let server = pick(dice, &servers)?;
        // Mostly files that can be read: those of deleted objects are still there for a while.
        let live = if dice.random_ratio(4, 5) { live_objects(world)? } else { HashSet::new() };
        let mut files = files(&world.seen_dir(server)?.join("objects"));
        files.retain(|(object, _)| !self.damaged.contains(object) && (live.is_empty() || live.contains(object)));
        let mut done = Vec::new();
        for _ in 0..dice.random_range(1..=FILES_MAX) {
            if files.is_empty() {
                break;
            }
            let (object, path) = files.swap_remove(dice.random_range(0..files.len()));
            self.damaged.insert(object.clone());
            let partner = if dice.random_ratio(1, 4) { files.pop() } else { None };
            if let Some((other, _)) = &partner {
                self.damaged.insert(other.clone());
            }
            if let Ok(how) = damage(&path, partner.as_ref().map(|(_, path)| path.as_path()), dice) {
                done.push(format!("{object} {how}"));
            }
        }
        (!done.is_empty()).then(|| format!("on {}: {}", server.name, done.join(", ")))
    }

    /// Healing is what the cluster is for.
    fn heal(&mut self, _: &World) {}
}

/// The objects of all files in the namespace.
fn live_objects(world: &World) -> Option<HashSet<String>> {
    let path = DfsPath::root();
    let query = ListQuery { path, after: None, limit: None, recursive: true, locations: false };
    let entries = world.ask(world.client.list(&query))?.entries;
    Some(entries.iter().filter_map(|entry| entry.object).map(|object| object.to_string()).collect())
}

/// The files of replicas, each with its object's id, which its name begins with.
fn files(objects: &Path) -> Vec<(String, PathBuf)> {
    let found = WalkDir::new(objects).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    let mut files: Vec<_> = found
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let object: String = name.chars().take_while(char::is_ascii_hexdigit).collect();
            (object, entry.into_path())
        })
        .collect();
    files.sort();
    files
}

fn damage(path: &Path, partner: Option<&Path>, dice: &mut StdRng) -> std::io::Result<String> {
    if let Some(partner) = partner {
        let aside = path.with_extension("exchanged");
        fs::rename(path, &aside)?;
        fs::rename(partner, path)?;
        fs::rename(&aside, partner)?;
        return Ok("exchanged with another file".into());
    }
    let size = fs::metadata(path)?.len();
    match dice.random_range(0..3) {
        0 if size > 0 => {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let at = dice.random_range(0..size);
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 1 << dice.random_range(0..8)], at)?;
            Ok(format!("has a wrong bit at {at} of {size}"))
        }
        1 if size > 0 => {
            let left = dice.random_range(0..size);
            OpenOptions::new().write(true).open(path)?.set_len(left)?;
            Ok(format!("is cut to {left} of {size}"))
        }
        _ => {
            fs::remove_file(path)?;
            Ok("is deleted".into())
        }
    }
}
