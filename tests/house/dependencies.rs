//! What is built into the programs and the tests: licences, bans and sources, by the policy in `deny.toml`, and the
//! tables of `docs/dependencies.md`. It needs no network and nothing that `cargo test` has not fetched already;
//! cargo-deny (`scripts/deny`) reads the same policy and knows advisories too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;
use spdx::{Expression, ParseMode};
use toml::Table;

use super::read;

/// What cargo knows of this crate and all that it is built with on this kind of machine.
fn metadata() -> Json {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Json) -> &Vec<Json> {
    metadata["packages"].as_array().unwrap()
}

fn policy() -> Table {
    read("deny.toml").parse().unwrap()
}

fn texts<'t>(value: &'t toml::Value, list: &str) -> Vec<&'t str> {
    value[list].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Whether an expression such as `MIT OR (Apache-2.0 AND ISC)` can be met with these licences.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let parsed = Expression::parse_mode(expression, ParseMode::LAX).unwrap();
    parsed.evaluate(|licence| allowed.contains(&licence.to_string().as_str()))
}

#[test]
fn licences_are_among_those_that_are_allowed() {
    let (metadata, policy) = (metadata(), policy());
    let licences = &policy["licenses"];
    let allowed = texts(licences, "allow");
    let exceptions = licences["exceptions"].as_array().unwrap();
    let of = |name: &str| {
        let own = exceptions.iter().filter(|exception| exception["crate"].as_str() == Some(name));
        allowed.iter().copied().chain(own.flat_map(|exception| texts(exception, "allow"))).collect::<Vec<_>>()
    };
    let mut checked = 0;
    for package in packages(&metadata) {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(is_met(licence, &of(name)), "{name} has the licence {licence}, which deny.toml does not allow");
        checked += 1;
    }
    assert!(checked > 200, "only {checked} packages were found: the test does not look right");
}

#[test]
fn the_check_of_licences_can_fail() {
    assert!(is_met("MIT/Apache-2.0", &["MIT"]) && is_met("(MIT OR GPL-3.0-only) AND ISC", &["MIT", "ISC"]));
    assert!(is_met("Apache-2.0 WITH LLVM-exception", &["Apache-2.0 WITH LLVM-exception"]));
    for (licence, allowed) in [
        ("MIT AND GPL-3.0-only", &["MIT"][..]),
        ("GPL-3.0-only", &["MIT", "Apache-2.0"]),
        ("Apache-2.0 WITH LLVM-exception", &["Apache-2.0"]),
        ("MPL-2.0", &[]),
    ] {
        assert!(!is_met(licence, allowed), "{licence}");
    }
}

#[test]
fn every_package_comes_from_the_registry_and_none_is_banned() {
    let (metadata, policy) = (metadata(), policy());
    let banned: BTreeMap<&str, &str> = policy["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ban| (ban["crate"].as_str().unwrap(), ban["reason"].as_str().unwrap()))
        .collect();
    assert!(!banned.is_empty() && texts(&policy["sources"], "allow-git").is_empty());
    let registries = texts(&policy["sources"], "allow-registry");
    for package in packages(&metadata) {
        let name = package["name"].as_str().unwrap();
        if let Some(reason) = banned.get(name) {
            panic!("{name} is banned: {reason}");
        }
        match package["source"].as_str() {
            None => assert_eq!(name, "holdfast", "a package from a directory"),
            Some(source) => {
                let from = source.strip_prefix("registry+").unwrap_or(source);
                assert!(registries.contains(&from), "{name} comes from {source}");
            }
        }
    }
    for dependency in direct(&metadata) {
        assert_ne!(dependency["req"].as_str(), Some("*"), "{} may be any version", dependency["name"]);
    }
}

/// What `Cargo.toml` names.
fn direct(metadata: &Json) -> &Vec<Json> {
    let own = packages(metadata).iter().find(|package| package["name"] == "holdfast").unwrap();
    own["dependencies"].as_array().unwrap()
}

/// The cells of the tables below a heading of `docs/dependencies.md`; the first cell of each row is in backticks.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = read("docs/dependencies.md");
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    rows.map(cells).collect()
}

#[test]
fn every_direct_dependency_has_a_row_that_says_why() {
    let metadata = metadata();
    // Optional ones are those of test features.
    let is_for_tests = |dependency: &&Json| dependency["kind"] == "dev" || dependency["optional"] == true;
    let names = |dependencies: Vec<&Json>| -> BTreeSet<String> {
        dependencies.iter().map(|dependency| dependency["name"].as_str().unwrap().to_string()).collect()
    };
    let (for_tests, in_programs): (Vec<&Json>, Vec<&Json>) = direct(&metadata).iter().partition(is_for_tests);
    let in_programs = names(in_programs);
    let for_tests = &names(for_tests) - &in_programs;
    for (heading, named) in [("In the programs", in_programs), ("In tests alone", for_tests)] {
        let rows = rows(heading);
        let listed: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert!(listed.is_sorted(), "{heading}: the rows are in the order of their names");
        let listed: BTreeSet<String> = listed.into_iter().map(String::from).collect();
        let missing: Vec<_> = named.difference(&listed).collect();
        let stale: Vec<_> = listed.difference(&named).collect();
        assert!(missing.is_empty(), "docs/dependencies.md, {heading}: no row says why {missing:?} is there");
        assert!(stale.is_empty(), "docs/dependencies.md, {heading}: {stale:?} is not in Cargo.toml");
        assert!(rows.iter().all(|row| row.len() == 2 && row[1].len() > 10), "{heading}: each row says why");
    }
}

#[test]
fn each_accepted_advisory_says_of_which_crate_and_why() {
    let policy = policy();
    let lock: Table = read("Cargo.lock").parse().unwrap();
    let locked: BTreeSet<&str> =
        lock["package"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect();
    let accepted: BTreeMap<String, String> = policy["advisories"]["ignore"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let reason = entry["reason"].as_str().unwrap().split_once(':').expect("the reason begins with the crate");
            assert!(reason.1.len() > 10, "{entry}");
            (entry["id"].as_str().unwrap().to_string(), reason.0.to_string())
        })
        .collect();
    for (id, name) in &accepted {
        assert!(locked.contains(name.as_str()), "{id} is about {name}, which is not used any more");
    }
    let listed: BTreeMap<String, String> =
        rows("Advisories").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(listed, accepted, "docs/dependencies.md and deny.toml accept the same");
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deny").exists());
}
