//! What the command line reads that others may have written, as functions of text.
//!
//! The commands do not call these: they are the commands' own readers, made reachable for `tests/fuzz`, which sees
//! only what is public. Most answer what they read in its canonical form, so that reading and writing can be
//! compared.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;

use super::args::{self, Cli, seconds};
use super::commands::explore::size;
use super::commands::glob::Pattern;
use super::config::ClientConfig;
use super::output::shown;
use super::up::{ClusterConfig, Recorded};
use super::workspace::{WorkspaceConfig, state};
use super::{merge, shell};
use crate::http::server as name_server;
use crate::storage::options as storage_server;
use crate::types::Result;

/// `client.toml`.
pub fn client_config(text: &str) -> Result<String, String> {
    canonical(&ClientConfig::parse(text, Path::new("")).map_err(|error| error.chain())?)
}

/// A workspace's `config.toml`.
pub fn workspace_config(text: &str) -> Result<String, String> {
    canonical(&WorkspaceConfig::parse(text)?)
}

/// `cluster.toml` of `holdfast up`.
pub fn cluster_config(text: &str) -> Result<String, String> {
    canonical(&ClusterConfig::parse(text)?)
}

fn canonical(value: &impl Serialize) -> Result<String, String> {
    toml::to_string(value).map_err(|error| error.to_string())
}

/// A note of a process in `run/`.
pub fn recorded_process(text: &str) -> Option<String> {
    serde_json::to_string(&serde_json::from_str::<Recorded>(text).ok()?).ok()
}

/// What a workspace's control directory remembers within `scope`: paths, each with its line in a new state.
pub async fn workspace_state(control: &Path, scope: &str) -> Result<Vec<(String, String)>> {
    let mut records = state::read(control, scope)?;
    let mut lines = Vec::new();
    while let Some(record) = records.next().await? {
        let line = serde_json::to_string(&record).unwrap_or_default();
        lines.push((record.path, line));
    }
    Ok(lines)
}

/// A command line; the error is what would be said about it.
pub fn command_line(args: Vec<OsString>) -> Result<Cli, String> {
    args::read(args).map_err(|error| error.message)
}

/// The name server's command line.
pub fn name_server_line(args: Vec<OsString>) -> Result<name_server::Options, String> {
    args::utf8::read(args).map_err(|error| error.message)
}

/// The storage server's command line.
pub fn storage_server_line(args: Vec<OsString>) -> Result<storage_server::Command, String> {
    args::utf8::read(args).map_err(|error| error.message)
}

/// Whether a path of a workspace is a directory or below it.
pub fn is_within(path: &str, directory: &str) -> bool {
    merge::is_within(path, directory)
}

/// A token's lifetime, such as `12h`, in seconds.
pub fn lifetime_seconds(text: &str) -> Result<u64, String> {
    seconds(text)
}

/// A size for `find`, such as `+10k`.
pub fn size_filter(text: &str) -> Result<(Ordering, u64)> {
    size(text)
}

/// Whether a name matches a pattern of `find`.
pub fn glob_matches(pattern: &str, name: &str) -> bool {
    Pattern::new(pattern).matches(name)
}

/// The words of a line in `holdfast shell`; `None` when a quote is not closed.
pub fn shell_words(line: &str) -> Option<Vec<String>> {
    shell::split(line)
}

/// A word as it must be typed in `holdfast shell`.
pub fn shell_word(word: &str) -> String {
    shell::escape(word)
}

/// A name as it is shown on a terminal.
pub fn shown_name(name: &str) -> String {
    shown(name, true).into_owned()
}
