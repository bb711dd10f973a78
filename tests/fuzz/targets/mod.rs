//! What is fuzzed: functions that take any bytes, and panic when something that must hold does not.
//!
//! A target says more than "it does not crash": what was read is written and read again, the canonical form is the one
//! that is written, limits are respected, secrets do not come out, and what was not signed or does not chain is never
//! accepted. Its seeds are made by the code that writes the format, so they follow it; files in `tests/fuzz/found` are
//! inputs that once failed.

mod bodies;
mod config;
mod http;
mod inventory;
mod journal;
mod merge;
mod paths;
mod tickets;
mod typed;
mod workspace;

/// One of them.
pub struct Target {
    /// Names its test, its corpus and its directory in `tests/fuzz/found`.
    pub name: &'static str,
    /// Panics when a property does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const ALL: [Target; 19] = [
    Target { name: "authorization", run: http::authorization, seeds: http::authorization_seeds },
    Target { name: "bodies", run: bodies::bodies, seeds: bodies::body_seeds },
    Target { name: "command_lines", run: typed::command_lines, seeds: typed::command_line_seeds },
    Target { name: "conditions", run: http::conditions, seeds: http::condition_seeds },
    Target { name: "configs", run: config::configs, seeds: config::config_seeds },
    Target { name: "database_urls", run: config::database_urls, seeds: config::database_url_seeds },
    Target { name: "globs", run: typed::globs, seeds: typed::glob_seeds },
    Target { name: "identity_files", run: config::identity_files, seeds: config::identity_file_seeds },
    Target { name: "ids", run: paths::ids, seeds: paths::id_seeds },
    Target { name: "inventories", run: inventory::inventories, seeds: inventory::seeds },
    Target { name: "journal_files", run: journal::files, seeds: journal::file_seeds },
    Target { name: "journal_merges", run: merge::merges, seeds: merge::seeds },
    Target { name: "journal_trees", run: journal::trees, seeds: journal::tree_seeds },
    Target { name: "paths", run: paths::paths, seeds: paths::path_seeds },
    Target { name: "queries", run: bodies::queries, seeds: bodies::query_seeds },
    Target { name: "ranges", run: http::ranges, seeds: http::range_seeds },
    Target { name: "tickets", run: tickets::tickets, seeds: tickets::seeds },
    Target { name: "typed", run: typed::typed, seeds: typed::typed_seeds },
    Target { name: "workspace_states", run: workspace::states, seeds: workspace::seeds },
];

/// Stands between the texts of one input: no UTF-8 text has this byte.
const BETWEEN: u8 = 0xff;

/// The texts of an input; `None` when they are not so many, or not UTF-8.
fn texts<const N: usize>(data: &[u8]) -> Option<[&str; N]> {
    let parts: Vec<&str> =
        data.split(|byte| *byte == BETWEEN).map(std::str::from_utf8).collect::<Result<_, _>>().ok()?;
    parts.try_into().ok()
}

/// The parts of an input, joined as [`texts`] takes them apart.
fn joined<T: AsRef<[u8]>>(parts: &[T]) -> Vec<u8> {
    let parts: Vec<&[u8]> = parts.iter().map(AsRef::as_ref).collect();
    parts.join(&BETWEEN)
}

/// Inputs of one text each.
fn each_text(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
