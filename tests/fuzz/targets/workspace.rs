//! What a workspace remembers, as files that a crash, a person or a copied tree may have left.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use holdfast::cli::inputs::{is_within, workspace_state};
use holdfast::types::Result;
use holdfast::types::path::walk_order;
use serde_json::Value;

use super::BETWEEN;

thread_local! {
    /// A control directory, which each input finds empty.
    static DIRECTORY: OnceCell<(tempfile::TempDir, tokio::runtime::Runtime)> = const { OnceCell::new() };
}

/// A state, and the journal that is laid over it.
pub fn states(data: &[u8]) {
    let parts: Vec<&[u8]> = data.split(|byte| *byte == BETWEEN).collect();
    let [state, journal] = parts[..] else { return };
    DIRECTORY.with(|cell| {
        let (directory, runtime) = cell.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            (tempfile::tempdir().unwrap(), runtime)
        });
        let control = directory.path();
        let read = |state: &[u8], journal: &[u8], scope: &str| {
            put(&control.join("state.ndjson"), state);
            put(&control.join("journal.ndjson"), journal);
            runtime.block_on(workspace_state(control, scope))
        };
        check(state, journal, read);
    });
}

fn put(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
}

type Lines = Vec<(String, String)>;

fn check(state: &[u8], journal: &[u8], read: impl Fn(&[u8], &[u8], &str) -> Result<Lines>) {
    let lines = match read(state, journal, "") {
        Ok(lines) => lines,
        Err(error) => {
            let told = error.message();
            assert!(told.contains("remove it") || told.contains("out of order"), "there is a remedy: {told}");
            return;
        }
    };
    assert!(lines.is_sorted_by(|a, b| walk_order(&a.0, &b.0).is_lt()), "{lines:?}");
    let written: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
    assert_eq!(read(written.as_bytes(), b"", "").unwrap(), lines, "written into a new state");
    assert_eq!(read(written.as_bytes(), journal, "").unwrap(), lines, "a journal that is laid over it twice");
    let known: BTreeMap<&str, &str> = lines.iter().map(|(path, line)| (path.as_str(), line.as_str())).collect();
    for path in forgotten(journal) {
        assert!(!known.contains_key(path.as_str()), "{path:?} was forgotten");
    }
    if let Some((path, _)) = lines.first() {
        let scope = path.split('/').next().unwrap_or_default();
        let inside: Lines = lines.iter().filter(|(path, _)| is_within(path, scope)).cloned().collect();
        assert_eq!(read(state, journal, scope).unwrap(), inside);
    }
}

/// Paths that the last line which names them forgets.
fn forgotten(journal: &[u8]) -> Vec<String> {
    let mut last = BTreeMap::new();
    for line in journal.split(|byte| *byte == b'\n') {
        let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
        let Some(path) = value["path"].as_str() else { continue };
        // Of a field that stands twice this would know one. Such a line is damaged, and one with a field more is not:
        // nothing is known of its path.
        let plain = value.to_string().len() == line.len() && value.as_object().is_some_and(|line| line.len() == 2);
        match value.get("is") {
            Some(is) if plain => drop(last.insert(path.to_string(), is.clone())),
            _ => drop(last.remove(path)),
        }
    }
    last.into_iter().filter(|(_, is)| is.is_null()).map(|(path, _)| path).collect()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let known = |path: &str, version: i64| {
        format!(
            "{{\"path\":{path:?},\"is\":{{\"kind\":\"file\",\"version\":{version},\"size\":5,\"mtime_ns\":7,\"racy\":true}}}}\n"
        )
    };
    let directory = "{\"path\":\"a\",\"is\":{\"kind\":\"directory\",\"version\":1}}\n";
    let gone = |path: &str| format!("{{\"path\":{path:?},\"is\":null}}\n");
    let state = format!("{directory}{}{}{}", known("a/x", 2), known("a-b", 3), known("b", 4));
    let pairs = [
        (state.clone(), String::new()),
        (String::new(), format!("{}{}", known("c", 5), gone("c"))),
        (state.clone(), format!("{}{}{{\"path\":\"d", gone("a/x"), known("c", 5))),
        (state, format!("{}{}", known("../x", 6), known("", 7))),
        ("{\n".into(), String::new()),
        (format!("{}{}", known("b", 1), known("a", 1)), String::new()),
    ];
    pairs.iter().map(|(state, journal)| [state.as_bytes(), journal.as_bytes()].join(&BETWEEN)).collect()
}
