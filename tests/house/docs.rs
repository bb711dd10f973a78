//! Documents that are lists say what the code has.

use std::collections::BTreeSet;
use std::process::Command;

use crate::{code, read, sources};

/// The part of a document below a heading, up to the next of the same or a higher level.
fn section(path: &str, heading: &str) -> String {
    let text = read(path);
    let level = heading.bytes().take_while(|byte| *byte == b'#').count();
    let body = text.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("{path} has no {heading}"));
    let ends = |line: &&str| {
        let hashes = line.bytes().take_while(|byte| *byte == b'#').count();
        (1..=level).contains(&hashes)
    };
    body.lines().take_while(|line| !ends(line)).fold(String::new(), |text, line| text + line + "\n")
}

/// What stands in backticks in the first cells of a table's rows, and begins like this.
fn first_cells(section: &str, prefix: &str) -> BTreeSet<String> {
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next().map(String::from));
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>());
    let names = words.filter(|word| word.starts_with(prefix));
    names.map(|word| word.split([' ', '{']).next().unwrap_or_default().to_string()).collect()
}

/// The long options in the help of a program.
fn options(program: &str) -> BTreeSet<String> {
    let help = Command::new(program).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.lines().filter(|line| line.trim_start().starts_with('-'));
    let words = words.flat_map(|line| line.split_whitespace().take(2));
    let options = words.filter(|word| word.starts_with("--")).map(|word| word.trim_end_matches(',').to_string());
    options.filter(|option| !matches!(option.as_str(), "--help" | "--version")).collect()
}

#[test]
fn every_option_of_the_servers_is_listed() {
    for (name, program) in [
        ("holdfast-name-server", env!("CARGO_BIN_EXE_holdfast-name-server")),
        ("holdfast-storage-server", env!("CARGO_BIN_EXE_holdfast-storage-server")),
    ] {
        let text = section("docs/operations.md", &format!("### {name}"));
        let options_only = text.split("\n| subcommand").next().unwrap();
        let (listed, there) = (first_cells(options_only, "--"), options(program));
        assert!(there.len() > 10, "the help was not understood: {there:?}");
        assert_eq!(listed, there, "docs/operations.md, {name}: the table and `{name} --help` differ");
    }
}

#[test]
fn every_metric_is_listed() {
    // The prefix of a name for people, and no metric.
    let other = ["holdfast_damaged_"];
    let mut there = BTreeSet::new();
    for path in sources("src".as_ref()) {
        let code = code(&path);
        let names = code.split('"').filter(|text| {
            text.starts_with("holdfast_") && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        });
        there.extend(names.map(String::from).filter(|name| !other.contains(&name.as_str())));
    }
    let listed = first_cells(&section("docs/operations.md", "## Metrics"), "holdfast_");
    assert!(there.len() > 10, "the code was not understood: {there:?}");
    assert_eq!(listed, there, "docs/operations.md, Metrics: the table and the code differ");
}
