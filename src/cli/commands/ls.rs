//! `ls`, which inside a workspace also tells how each entry stands against the local copy.

use super::{Each, about};
use crate::cli::args::LsArgs;
use crate::cli::context::{Cluster, Context};
use crate::cli::exit::Exit;
use crate::cli::merge::Sorted;
use crate::cli::output::{Output, human_bytes, human_time};
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

/// One listing.
struct Ls<'a> {
    context: &'a Context,
    args: &'a LsArgs,
    cluster: Cluster,
    output: Output,
}

/// `holdfast ls`.
pub(crate) async fn run(context: &Context, args: &LsArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let mut ls = Ls { context, args, cluster, output: context.output() };
    let mut each = Each::default();
    let paths = context.resolve_all_or_cwd(&args.paths)?;
    for (index, path) in paths.iter().enumerate() {
        if paths.len() > 1 && !context.json() {
            let name = ls.output.name(path.as_str()).into_owned();
            ls.output.line(format_args!("{}{name}:", if index > 0 { "\n" } else { "" }))?;
        }
        let outcome = ls.one(path).await;
        // What was listed belongs before what is said about it.
        ls.output.flush()?;
        each.note(outcome.map_err(about(path)))?;
    }
    if context.json() {
        ls.output.array_end()?;
    }
    ls.output.flush()?;
    Ok(each.exit())
}

impl Ls<'_> {
    async fn one(&mut self, path: &DfsPath) -> Result<()> {
        if let Some(workspace) = self.context.workspace()
            && let Some(scope) = path.relative_to(&workspace.config.remote)
        {
            return self.compared(workspace, path, scope).await;
        }
        let entry = self.cluster.names.stat(path).await?;
        let mut entries = match entry.kind {
            Kind::File => Sorted::once(Entry { path: path.name().to_string(), ..entry }, "the listing"),
            Kind::Directory => self.listing(path).start(&self.cluster),
        };
        while let Some(entry) = entries.next().await? {
            self.print(&entry.path, Some(&entry), entry.kind, None)?;
        }
        Ok(())
    }

    fn listing(&self, path: &DfsPath) -> Listing {
        if self.args.recursive { Listing::below(path) } else { Listing::of(path) }
    }

    /// Inside a workspace: both sides, with the status of each path.
    async fn compared(&mut self, workspace: &Workspace, path: &DfsPath, scope: &str) -> Result<()> {
        let tally = Tally::new(Progress::silent());
        let there = self.cluster.stat(path).await?;
        let here = workspace.root.join(scope);
        let is_file = there.as_ref().is_none_or(|entry| entry.kind == Kind::File) && !here.is_dir();
        if there.is_none() && std::fs::symlink_metadata(&here).is_err() {
            // Says in the server's words that nothing is there.
            self.cluster.names.stat(path).await?;
        }
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
            self.print_seen(&seen, scope)?;
        }
        Ok(())
    }

    fn print_seen(&mut self, seen: &Seen, scope: &str) -> Result<()> {
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
        self.print(shown, seen.remote.as_ref(), kind, Some(status))
    }

    fn print(&mut self, shown: &str, entry: Option<&Entry>, kind: Kind, status: Option<&str>) -> Result<()> {
        if self.context.json() {
            return self.output.array_item(&Listed { path: shown, entry: entry.map(Described::of), status });
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

/// The columns before the name.
fn long(entry: Option<&Entry>, kind: Kind) -> String {
    let letter = if kind == Kind::Directory { 'd' } else { '-' };
    let Some(entry) = entry else {
        return format!("{letter} {:>5} {:>10} {:>19} {:>8}  ", "-", "-", "-", "-");
    };
    let copies = match (kind, entry.copies) {
        (Kind::File, Some(copies)) => format!("{copies}/{}", entry.copies_wanted),
        _ => format!("-/{}", entry.copies_wanted),
    };
    let size = entry.size.map_or_else(|| "-".into(), human_bytes);
    let modified = human_time(&entry.modified);
    format!("{letter} {copies:>5} {size:>10} {modified:>19} {:>8}  ", entry.version)
}
