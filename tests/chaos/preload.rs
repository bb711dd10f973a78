//! Files that are there before anything is broken, and that nobody touches: afterwards all of them are there, with their
//! bytes, however busy the cluster was with bringing them back to their number of copies.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::world::World;

const HOME: &str = "/preloaded";
/// Files of a directory.
const FILES_EACH: usize = 500;
/// Healing and checking take longer, by a second for so many files.
const HEALED_PER_SECOND: usize = 100;
const CHECKED_PER_SECOND: usize = 500;
/// Findings that are kept.
const FINDINGS_MAX: usize = 10;

fn place(number: usize) -> String {
    format!("d{}/file {number}", number / FILES_EACH)
}

/// Small, and each with another size than its neighbours.
fn content(number: usize) -> Vec<u8> {
    format!("preloaded {number}; ").into_bytes().into_iter().cycle().take(20 + number % 300).collect()
}

fn holdfast(world: &World, args: &[&str]) -> Result<(), String> {
    let urls: Vec<String> = world.names.iter().map(|server| server.url()).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(args).env("HOLDFAST_NAME_SERVER", urls.join(",")).env("HOLDFAST_TOKEN", &world.token);
    command.env_remove("HOLDFAST_CONFIG").env("HOME", &world.dir).stdin(Stdio::null());
    let output = command.output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(format!("holdfast {args:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Imports so many files.
pub fn fill(world: &World, files: usize) {
    if files == 0 {
        return;
    }
    let from = world.dir.join("preload");
    for number in 0..files {
        let path = from.join(place(number));
        if number.is_multiple_of(FILES_EACH) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(path, content(number)).unwrap();
    }
    holdfast(world, &["import", from.to_str().unwrap(), HOME]).unwrap();
    fs::remove_dir_all(&from).unwrap();
}

/// Reads all of them and tells which are not as they were.
pub fn findings(world: &World, files: usize) -> Vec<String> {
    if files == 0 {
        return Vec::new();
    }
    let to = world.dir.join("preloaded");
    let mut found: Vec<String> = holdfast(world, &["export", HOME, to.to_str().unwrap()]).err().into_iter().collect();
    let wrong = (0..files).filter_map(|number| wrong(&to, number));
    let room = FINDINGS_MAX.saturating_sub(found.len());
    found.extend(wrong.take(room));
    let _ = fs::remove_dir_all(&to);
    found
}

fn wrong(to: &Path, number: usize) -> Option<String> {
    let path = place(number);
    match fs::read(to.join(&path)) {
        Ok(bytes) if bytes == content(number) => None,
        Ok(bytes) => Some(format!("{HOME}/{path} has {} other bytes", bytes.len())),
        Err(error) => Some(format!("{HOME}/{path}: {error}")),
    }
}

/// How much longer than usual so many files may take to be brought back to their copies.
pub fn healing(files: usize) -> Duration {
    Duration::from_secs((files / HEALED_PER_SECOND) as u64)
}

/// How much longer than usual a check of the metadata may take.
pub fn checking(files: usize) -> Duration {
    Duration::from_secs((files / CHECKED_PER_SECOND) as u64)
}
