//! Trees of files with all the hard cases.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes the hard cases below `root`; answers how many entries the cluster must skip.
pub fn hard_cases(root: &Path, large_mb: u64) -> usize {
    fs::create_dir_all(root.join("empty directory")).unwrap();
    fs::write(root.join("empty file"), "").unwrap();
    let names = [
        "with space",
        "quote'and\"quote",
        "new\nline",
        "emoji 🦀🗄️",
        "-rf",
        "--help",
        "percent%20%",
        "back\\slash",
        "tab\there",
        "colon:semi;",
        "*?[glob]",
        "#hash",
        "~tilde",
        "$HOME",
        "ümlaut",
        "u\u{308}mlaut",
        ".hidden",
        "...",
        "a+b&c=d",
    ];
    for name in names {
        fs::write(root.join(name), name).unwrap();
        fs::create_dir_all(root.join(format!("d {name}")).join(name)).unwrap();
        fs::write(root.join(format!("d {name}")).join(name).join("f"), name.repeat(3)).unwrap();
    }
    fs::write(root.join("x".repeat(255)), "long name").unwrap();
    fs::write(root.join(format!("{}é", "y".repeat(253))), "long name in UTF-8").unwrap();
    let deep = (0..60).fold(root.join("deep"), |path, level| path.join(level.to_string()));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "deep").unwrap();
    for size in [1, 65_535, 65_536, 65_537, 262_144, 1_048_577] {
        let bytes: Vec<u8> = (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(root.join(format!("size {size}")), bytes).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(large_mb << 20).unwrap();
    sparse.write_all_at(b"in the middle", (large_mb << 20) / 2).unwrap();
    symlink("empty file", root.join("symlink")).unwrap();
    symlink("/", root.join("symlink to a directory")).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    3
}

/// Takes away what the cluster does not keep, so that `diff -r` compares the rest.
pub fn without_special_files(root: &Path) {
    for name in ["symlink", "symlink to a directory", "socket"] {
        fs::remove_file(root.join(name)).unwrap();
    }
}

/// `diff -r` says that they are equal.
pub fn assert_equal(a: &Path, b: &Path) {
    let output = Command::new("diff").args(["-r", "--exclude=.holdfast"]).arg(a).arg(b).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout).chars().take(2_000).collect::<String>()
    );
}

/// Every file below a directory, at any depth; links are not followed.
pub fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}
