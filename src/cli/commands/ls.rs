//! `ls`, which inside a workspace also tells how each entry stands against the local copy.

use super::{Each, about};
use crate::cli::args::LsArgs;
use crate::cli::context::{Cluster, Context};
use crate::cli::exit::Exit;
use crate::cli::merge::Sorted;
use crate::cli::output::{Output, human_bytes, human_minute};
use crate::cli::progress::{Progress, Tally};
use crate::cli::remote::Listing;
use crate::cli::workspace::Workspace;
use crate::cli::workspace::rows::{Local, Rows, Seen, What};
use crate::types::api::{Entry, Kind};
use crate::types::{DfsPath, Result};
use serde::Serialize;

/// An entry with its status, as JSON.
#[derive(Serialize)]
struct Listed<'a> {
    /// Where it was listed, when more than one path was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'a DfsPath>,
    path: &'a str,
    #[serde(flatten)]
    entry: Option<Described<'a>>,
    /// Only in a workspace: `unchanged`, `new`, `modified`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
}

/// All of an entry but its path.
#[derive(Serialize)]
struct Described<'a> {
    kind: Kind,
    size: Option<u64>,
    sha256: &'a Option<crate::types::Sha256>,
    object: &'a Option<crate::types::ObjectId>,
    version: i64,
    created: crate::types::Time,
    modified: crate::types::Time,
    copies_wanted: u32,
    copies: Option<u32>,
}

impl<'a> Described<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self {
            kind: entry.kind,
            size: entry.size,
            sha256: &entry.sha256,
            object: &entry.object,
            version: entry.version,
            created: entry.created,
            modified: entry.modified,
            copies_wanted: entry.copies_wanted,
            copies: entry.copies,
        }
    }
}

/// All listings of one command.
struct Ls<'a> {
    context: &'a Context,
    args: &'a LsArgs,
    cluster: Cluster,
    output: Output,
    /// Headings stand before the next line.
    headings_due: bool,
    /// What was listed so far, each of which is set apart from the next.
    parts: usize,
}

/// What stands at a path that was asked for.
struct Found<'p> {
    path: &'p DfsPath,
    entry: Option<Entry>,
    is_file: bool,
}

/// `holdfast ls`: what is missing first, then files, then directories, as on Unix.
pub(crate) async fn run(context: &Context, args: &LsArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let output = context.output();
    let mut ls = Ls { context, args, cluster, output, headings_due: true, parts: 0 };
    let mut each = Each::default();
    let paths = context.resolve_all_or_cwd(&args.paths)?;
    let mut found = Vec::with_capacity(paths.len());
    for path in &paths {
        match ls.look(path).await {
            Ok(there) => found.push(there),
            Err(error) => each.note(Err(about(path)(error)))?,
        }
    }
    // Sorting is stable: what was typed first comes first.
    found.sort_by_key(|there| !there.is_file);
    for there in &found {
        let outcome = ls.show(there, paths.len() > 1).await;
        // What was listed belongs before what is said about it.
        ls.output.flush()?;
        each.note(outcome.map_err(about(there.path)))?;
    }
    if context.json() && each.any_done() {
        ls.output.array_end()?;
    }
    ls.output.flush()?;
    Ok(each.exit())
}

impl Ls<'_> {
    /// The workspace that a path is compared with, and the path in it.
    fn compared_with<'p>(&self, path: &'p DfsPath) -> Option<(&Workspace, &'p str)> {
        let workspace = self.context.workspace()?;
        path.relative_to(&workspace.config.remote).map(|scope| (workspace, scope))
    }

    async fn look<'p>(&self, path: &'p DfsPath) -> Result<Found<'p>> {
        let Some((workspace, scope)) = self.compared_with(path) else {
            let entry = self.cluster.names.stat(path).await?;
            let is_file = entry.kind == Kind::File;
            return Ok(Found { path, entry: Some(entry), is_file });
        };
        let here = workspace.root.join(scope);
        let there = match self.cluster.stat(path).await? {
            // Says in the server's words that nothing is there.
            None if std::fs::symlink_metadata(&here).is_err() => Some(self.cluster.names.stat(path).await?),
            there => there,
        };
        let is_file = there.as_ref().is_none_or(|entry| entry.kind == Kind::File) && !here.is_dir();
        Ok(Found { path, entry: there, is_file })
    }

    async fn show(&mut self, found: &Found<'_>, one_of_several: bool) -> Result<()> {
        if !found.is_file && !self.context.json() {
            if self.parts > 0 {
                self.output.line("")?;
            }
            if one_of_several {
                let name = self.output.name(found.path.as_str()).into_owned();
                self.output.line(format_args!("{name}:"))?;
            }
            self.headings_due = true;
        }
        self.parts += 1;
        let directory = (one_of_several && !found.is_file).then_some(found.path);
        if let Some((workspace, scope)) = self.compared_with(found.path) {
            let workspace = workspace.clone();
            return self.compared(&workspace, scope, found.is_file, directory).await;
        }
        let mut entries = match &found.entry {
            Some(entry) if found.is_file => {
                // Of several files each is shown as it was asked for.
                let shown = if one_of_several { found.path.to_string() } else { found.path.name().to_string() };
                Sorted::once(Entry { path: shown, ..entry.clone() }, "the listing")
            }
            _ => self.listing(found.path).start(&self.cluster),
        };
        while let Some(entry) = entries.next().await? {
            self.print(&entry.path, directory, Some(&entry), entry.kind, None)?;
        }
        Ok(())
    }

    fn listing(&self, path: &DfsPath) -> Listing {
        if self.args.recursive { Listing::below(path) } else { Listing::of(path) }
    }

    /// Inside a workspace: both sides, with the status of each path.
    async fn compared(
        &mut self,
        workspace: &Workspace,
        scope: &str,
        is_file: bool,
        directory: Option<&DfsPath>,
    ) -> Result<()> {
        let tally = Tally::new(Progress::silent());
        let what = What { children_only: !self.args.recursive && !is_file, ..What::within(scope) };
        let mut rows = Rows::open(workspace, &self.cluster, what, tally).await?;
        while let Some(row) = rows.next().await? {
            if row.path == scope && !is_file {
                continue;
            }
            let seen = row.look(&workspace.dir).await?;
            if seen.local.is_none() && seen.remote.is_none() {
                continue;
            }
            self.print_seen(&seen, scope, directory)?;
        }
        Ok(())
    }

    fn print_seen(&mut self, seen: &Seen, scope: &str, directory: Option<&DfsPath>) -> Result<()> {
        let shown = match seen.path.strip_prefix(scope).map(|below| below.trim_start_matches('/')) {
            Some(below) if !below.is_empty() => below,
            _ => seen.path.rsplit('/').next().unwrap_or_default(),
        };
        let kind = match (&seen.remote, &seen.local) {
            (Some(entry), _) => entry.kind,
            (None, Some(Local::Directory)) => Kind::Directory,
            _ => Kind::File,
        };
        let status = seen.status().unwrap_or("unchanged");
        self.print(shown, directory, seen.remote.as_ref(), kind, Some(status))
    }

    fn print(
        &mut self,
        shown: &str,
        directory: Option<&DfsPath>,
        entry: Option<&Entry>,
        kind: Kind,
        status: Option<&str>,
    ) -> Result<()> {
        if self.context.json() {
            let entry = entry.map(Described::of);
            return self.output.array_item(&Listed { directory, path: shown, entry, status });
        }
        if self.args.long && std::mem::take(&mut self.headings_due) && self.output.is_terminal() {
            let status = if status.is_some() { format!("{:<16} ", "STATUS") } else { String::new() };
            self.output.line(format_args!("{status}{}", headings()))?;
        }
        let mut line = String::new();
        if let Some(status) = status {
            line.push_str(&format!("{status:<16} "));
        }
        if self.args.long {
            line.push_str(&long(entry, kind));
        }
        line.push_str(&self.output.name(shown));
        self.output.line(line)
    }
}

/// What stands above the columns of `-l`.
fn headings() -> String {
    columns("T", "COPIES", "SIZE", "MODIFIED", "VERSION") + "NAME"
}

/// The columns before the name.
fn long(entry: Option<&Entry>, kind: Kind) -> String {
    let letter = if kind == Kind::Directory { "d" } else { "-" };
    let Some(entry) = entry else { return columns(letter, "-", "-", "-", "-") };
    let copies = match (kind, entry.copies) {
        (Kind::File, Some(copies)) => format!("{copies}/{}", entry.copies_wanted),
        _ => format!("-/{}", entry.copies_wanted),
    };
    let size = entry.size.map_or_else(|| "-".into(), human_bytes);
    columns(letter, &copies, &size, &human_minute(&entry.modified), &entry.version.to_string())
}

/// Wide enough for what is usual: a line is written as soon as its entry has come, and no later one is known then.
fn columns(letter: &str, copies: &str, size: &str, modified: &str, version: &str) -> String {
    format!("{letter} {copies:>6} {size:>10}  {modified:<16} {version:>8}  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_stand_above_their_columns() {
        let entry: Entry = serde_json::from_value(serde_json::json!({
            "path": "a", "kind": "file", "size": 2_048, "version": 17, "created": "2026-03-01T12:00:00Z",
            "modified": "2026-03-01T12:00:00Z", "copies_wanted": 2, "copies": 1, "replicas": [],
        }))
        .unwrap();
        let line = long(Some(&entry), Kind::File) + "a";
        let end_of = |text: &str, word: &str| text.find(word).unwrap() + word.len();
        for (heading, value) in [("COPIES", "1/2"), ("SIZE", "2.0 KiB"), ("VERSION", "17")] {
            assert_eq!(end_of(&headings(), heading), end_of(&line, value), "{line}");
        }
        assert_eq!(headings().find("MODIFIED"), line.find(&human_minute(&entry.modified)));
        assert_eq!(headings().find("NAME"), line.rfind('a'));
        assert!(headings().len() < 60, "there is room for the status and the name");
    }
}
