//! The order of the house: who may import whom, where the heavy libraries may be used, where the compiler's guarantees
//! end, and what may be a dependency.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "house/circles.rs"]
mod circles;
#[path = "house/dependencies.rs"]
mod dependencies;
#[path = "house/docs.rs"]
mod docs;

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
        &[
            "db",
            "journal/staging.rs",
            "storage/store/index.rs",
            "storage/store/inspect.rs",
            "storage/store/opening.rs",
            "storage/writer.rs",
            "storage/salvage",
        ],
    ),
    (
        &["actix", "actix_http", "actix_service", "actix_web", "actix_rt", "actix_tls"],
        &["actors", "http", "storage", "web", "cli/daemon.rs"],
    ),
];

/// Where code is that the compiler does not vouch for: nowhere in the programs. `unsafe` itself is forbidden
/// (`[lints]` in `Cargo.toml`), in tests too, so these are other languages and what they call.
const NOT_VOUCHED_FOR: [(&str, &str); 2] = [
    ("tests/common/clock.c", "moves the wall clock of one process, by a library that is loaded before the C library"),
    ("tests/fuzz/libfuzzer.rs", "is called by libFuzzer, which is C++, through the macro of its crate"),
];

/// A file of the repository.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What was tried against Holdfast, and what shows that it holds: the tests are there under these names.
#[test]
fn the_tests_that_security_names_are_there() {
    let text = read("SECURITY.md");
    let named: Vec<(&str, &str)> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once("::"))
        .filter(|(module, test)| {
            [module, test].iter().all(|part| part.chars().all(|c| c == '_' || c.is_alphanumeric()))
        })
        .collect();
    assert!(named.len() > 30, "only {} tests were found: the test does not look right", named.len());
    for (module, test) in named {
        let files = ["scenarios", "db"].map(|suite| format!("tests/{suite}/{module}.rs"));
        let there = |file: &String| fs::read_to_string(file).is_ok_and(|code| code.contains(&format!("fn {test}(")));
        assert!(files.iter().any(there), "SECURITY.md names the test {module}::{test}, which is not there");
    }
}

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

/// A sentence that goes over several lines of the source has a backslash at the end of each, or its blanks are printed.
#[test]
fn no_sentence_has_the_blanks_of_its_source() {
    let has_run = |literal: &str| literal.trim().contains("      ");
    for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        for line in code(&path).lines() {
            let literals = line.split('"').skip(1).step_by(2);
            assert!(!literals.into_iter().any(has_run), "{}: {line}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_and_foreign_code_is_listed() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    assert!(manifest.get("build-dependencies").is_none(), "a build script would run with the builder's rights");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for dir in ["src", "tests", "scripts"] {
        for path in files(&root.join(dir)) {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let end = path.extension().map(|end| end.to_string_lossy().into_owned()).unwrap_or_default();
            let foreign = match end.as_str() {
                "c" | "cc" | "cpp" | "h" | "s" | "S" | "so" | "a" | "o" => true,
                "rs" => leaves_rust(&code(&path)),
                _ => false,
            };
            // This file names the words.
            found.extend((foreign && name != "tests/house.rs").then_some(name));
        }
    }
    found.sort();
    let listed: Vec<&str> = NOT_VOUCHED_FOR.iter().map(|(path, _)| *path).collect();
    assert_eq!(found, listed, "each with its reason in NOT_VOUCHED_FOR");
}

/// Whether code calls or is called by another language. `forbid` sees `unsafe` itself, but not inside of the macros of
/// other crates.
fn leaves_rust(code: &str) -> bool {
    let code: String = code.split_whitespace().collect();
    ["unsafe{", "unsafefn", "unsafe(", "extern\"", "no_main", "asm!"].iter().any(|word| code.contains(word))
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn the_check_sees_what_leaves_rust() {
    assert!(leaves_rust("fn f() { unsafe  { g() } }") && leaves_rust("extern \"C\" fn f() {}"));
    assert!(leaves_rust("#![no_main]") && !leaves_rust("let unsafe_code = extern_name;"));
}

#[test]
fn the_check_sees_an_upward_import() {
    assert_eq!(imported("use crate::http::state; use crate::{cli, types::Error};"), ["http", "cli", "types"]);
}
