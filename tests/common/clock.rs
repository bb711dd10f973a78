//! A wall clock that is wrong: a library that is loaded before the C library.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library that moves a process's clock by as many milliseconds as the file in `HOLDFAST_CHAOS_CLOCK` says.
pub fn compile(dir: &Path) -> PathBuf {
    let library = dir.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/clock.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}

/// The environment of a process whose clock is wrong by this much from its start.
pub fn environment(dir: &Path, offset_ms: i64) -> Vec<(String, String)> {
    let (library, file) = (compile(dir), dir.join("clock-offset"));
    std::fs::write(&file, offset_ms.to_le_bytes()).unwrap();
    let text = |path: &Path| path.display().to_string();
    vec![("LD_PRELOAD".into(), text(&library)), ("HOLDFAST_CHAOS_CLOCK".into(), text(&file))]
}
