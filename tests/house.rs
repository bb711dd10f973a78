//! The order of the house: who may import whom, and where the heavy libraries may be used.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module with those of its siblings that it may import; `src/lib.rs` shows the same map.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("types", &[]),
    ("security", &["types"]),
    ("decisions", &["types"]),
    ("journal", &["types"]),
    ("client", &["journal", "security", "types"]),
    ("web", &["client", "security", "types"]),
    ("db", &["decisions", "journal", "security", "types"]),
    ("actors", &["client", "db", "decisions", "journal", "security", "types"]),
    ("http", &["actors", "client", "db", "decisions", "journal", "security", "types", "web"]),
    ("storage", &["actors", "client", "decisions", "journal", "security", "types", "web"]),
    ("cli", &["actors", "client", "db", "decisions", "http", "journal", "security", "storage", "types", "web"]),
];

/// Libraries, and the places that may use them.
const MAY_USE: [(&[&str], &[&str]); 2] = [
    (
        &["diesel", "diesel_migrations", "r2d2"],
        &["db", "journal/staging.rs", "storage/store/index.rs", "storage/writer.rs", "storage/salvage"],
    ),
    (&["actix", "actix_web", "actix_rt", "actix_tls"], &["actors", "http", "storage", "web", "cli/daemon.rs"]),
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

/// A source file without comments; the tests at its end count too.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a source file names by `crate::`, also in groups of one level.
fn imported(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for part in code.split("crate::").skip(1) {
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match part.strip_prefix('{') {
            Some(group) => modules.extend(group.split('}').next().unwrap().split(',').map(|item| word(item.trim()))),
            None => modules.push(word(part)),
        }
    }
    modules
}

#[test]
fn imports_run_downward_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for (module, allowed) in MAY_IMPORT {
        for path in sources(&src.join(module)) {
            for import in imported(&code(&path)) {
                let known = MAY_IMPORT.iter().any(|(name, _)| *name == import);
                assert!(
                    !known || import == module || allowed.contains(&import.as_str()),
                    "{} imports {import}",
                    path.display()
                );
                checked += usize::from(known);
            }
        }
    }
    assert!(checked > 200, "only {checked} imports were found: the test does not look right");
    let listed: Vec<String> = fs::read_dir(&src)
        .unwrap()
        .flatten()
        .filter(|e| e.path().is_dir() && e.file_name() != "bin")
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        listed.iter().all(|dir| MAY_IMPORT.iter().any(|(name, _)| name == dir)),
        "{listed:?} has a module without a place"
    );
}

#[test]
fn heavy_libraries_stay_in_their_rooms() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let text = code(&path);
        let place = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        for (libraries, rooms) in MAY_USE {
            let used = libraries.iter().find(|library| {
                text.split(&format!("{library}::"))
                    .zip(text.split(&format!("{library}::")).skip(1))
                    .any(|(before, _)| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
            });
            if let Some(library) = used {
                assert!(rooms.iter().any(|room| place.starts_with(room)), "{place} uses {library}");
            }
        }
    }
}

#[test]
fn the_check_sees_an_upward_import() {
    assert_eq!(imported("use crate::http::state; use crate::{cli, types::Error};"), ["http", "cli", "types"]);
}
