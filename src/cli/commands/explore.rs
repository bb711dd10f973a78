//! `du` and `find`: over a recursive listing, as its pages come.

use super::glob::Pattern;
use super::{Each, about};
use crate::cli::args::{DuArgs, FindArgs};
use crate::cli::context::{Cluster, Context};
use crate::cli::exit::Exit;
use crate::cli::merge::is_within;
use crate::cli::output::{Output, human_bytes};
use crate::cli::remote::{Listing, entry_path};
use crate::types::api::{Entry, Kind};
use crate::types::{DfsPath, Error, Result};

/// What lies in a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    files: u64,
    /// With all copies.
    stored: u64,
}

impl Usage {
    fn of(entry: &Entry) -> Self {
        let bytes = entry.size.unwrap_or(0);
        let copies = u64::from(entry.copies.unwrap_or(0));
        Self { bytes, files: u64::from(entry.kind == Kind::File), stored: bytes.saturating_mul(copies) }
    }

    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.files += other.files;
        self.stored = self.stored.saturating_add(other.stored);
    }
}

/// The directories that a walk is in, with what was met in them so far.
#[derive(Default)]
struct Sums {
    open: Vec<(String, Usage)>,
}

impl Sums {
    /// Leaves directories until `path` is inside the innermost; those that are left are complete.
    fn leave(&mut self, path: Option<&str>) -> Option<(String, usize, Usage)> {
        let (directory, _) = self.open.last()?;
        if path.is_some_and(|path| is_within(path, directory)) {
            return None;
        }
        let (directory, usage) = self.open.pop()?;
        if let Some((_, above)) = self.open.last_mut() {
            above.add(usage);
        }
        Some((directory, self.open.len(), usage))
    }

    fn enter(&mut self, directory: &str) {
        self.open.push((directory.into(), Usage::default()));
    }

    fn add(&mut self, usage: Usage) {
        if let Some((_, innermost)) = self.open.last_mut() {
            innermost.add(usage);
        }
    }
}

/// `holdfast du`.
pub(crate) async fn du(context: &Context, args: &DuArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let mut output = context.output();
    let mut each = Each::default();
    for path in context.resolve_all_or_cwd(&args.paths)? {
        let outcome = du_one(context, args, &cluster, &path, &mut output).await;
        output.flush()?;
        each.note(outcome.map_err(about(&path)))?;
    }
    if context.json() && each.any_done() {
        output.array_end()?;
    }
    output.flush()?;
    Ok(each.exit())
}

async fn du_one(
    context: &Context,
    args: &DuArgs,
    cluster: &Cluster,
    path: &DfsPath,
    output: &mut Output,
) -> Result<()> {
    let levels = if args.summarize { 0 } else { args.max_depth.unwrap_or(usize::MAX) };
    let mut unnamed = None;
    let mut print = |relative: &str, depth: usize, usage: Usage| -> Result<()> {
        if depth > levels {
            return Ok(());
        }
        // One directory whose path has become too long is no reason to stop: the rest is told first.
        let full = match path.join_relative(relative) {
            Ok(full) => full,
            Err(error) => {
                unnamed = Some(error);
                return Ok(());
            }
        };
        if context.json() {
            let Usage { bytes, files, stored } = usage;
            return output.array_item(
                &serde_json::json!({ "path": full, "bytes": bytes, "files": files, "bytes_with_copies": stored }),
            );
        }
        let size = if args.bytes { usage.bytes.to_string() } else { human_bytes(usage.bytes) };
        let name = output.name(full.as_str()).into_owned();
        output.line(format_args!("{size:>12}  {name}"))
    };
    let top = cluster.names.stat(path).await?;
    if top.kind == Kind::File {
        return print("", 0, Usage::of(&top));
    }
    let mut entries = Listing::below(path).start(cluster);
    let mut sums = Sums::default();
    sums.enter("");
    while let Some(entry) = entries.next().await? {
        while let Some((directory, depth, usage)) = sums.leave(Some(&entry.path)) {
            print(&directory, depth, usage)?;
        }
        match entry.kind {
            Kind::Directory => sums.enter(&entry.path),
            Kind::File => sums.add(Usage::of(&entry)),
        }
    }
    while let Some((directory, depth, usage)) = sums.leave(None) {
        print(&directory, depth, usage)?;
    }
    unnamed.map_or(Ok(()), Err)
}

/// What `find` looks for.
struct Filter {
    name: Option<Pattern>,
    iname: Option<Pattern>,
    kind: Option<Kind>,
    size: Option<(std::cmp::Ordering, u64)>,
    depth: usize,
}

impl Filter {
    fn of(args: &FindArgs) -> Result<Self> {
        let kind = args.kind.as_deref().map(|kind| if kind == "d" { Kind::Directory } else { Kind::File });
        Ok(Self {
            name: args.name.as_deref().map(Pattern::typed).transpose()?,
            iname: args.iname.as_ref().map(|pattern| Pattern::typed(&pattern.to_lowercase())).transpose()?,
            kind,
            size: args.size.as_deref().map(size).transpose()?,
            depth: args.max_depth.unwrap_or(usize::MAX),
        })
    }

    fn takes(&self, entry: &Entry, depth: usize, name: &str) -> bool {
        depth <= self.depth
            && self.kind.is_none_or(|kind| kind == entry.kind)
            && self.name.as_ref().is_none_or(|pattern| pattern.matches(name))
            && self.iname.as_ref().is_none_or(|pattern| pattern.matches(&name.to_lowercase()))
            && self.size.is_none_or(|(order, bytes)| entry.size.is_some_and(|size| size.cmp(&bytes) == order))
    }
}

/// `10k`, `+1M`, `-5`.
pub(in crate::cli) fn size(text: &str) -> Result<(std::cmp::Ordering, u64)> {
    use std::cmp::Ordering::*;
    let wrong = || Error::invalid(format!("{text:?} is not a size, for instance 10k, +1M or -512"));
    let (order, rest) = match text.as_bytes().first() {
        Some(b'+') => (Greater, &text[1..]),
        Some(b'-') => (Less, &text[1..]),
        _ => (Equal, text),
    };
    let factor = match rest.as_bytes().last() {
        Some(b'c') => Some(1),
        Some(b'k' | b'K') => Some(1_u64 << 10),
        Some(b'M') => Some(1 << 20),
        Some(b'G') => Some(1 << 30),
        _ => None,
    };
    let digits = if factor.is_some() { &rest[..rest.len() - 1] } else { rest };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    Ok((order, number.checked_mul(factor.unwrap_or(1)).ok_or_else(wrong)?))
}

/// `holdfast find`.
pub(crate) async fn find(context: &Context, args: &FindArgs) -> Result<Exit> {
    let filter = Filter::of(args)?;
    let path = context.resolve_or_cwd(args.path.as_deref())?;
    let cluster = context.cluster()?;
    let mut output = context.output();
    let mut print = |entry: &Entry, full: &DfsPath| -> Result<()> {
        if context.json() {
            return output.array_item(&Entry { path: full.to_string(), replicas: Vec::new(), ..entry.clone() });
        }
        let name = output.name(full.as_str()).into_owned();
        output.line(name)
    };
    let top = cluster.names.stat(&path).await?;
    if filter.takes(&top, 0, path.name()) {
        print(&top, &path)?;
    }
    let mut exit = Exit::Done;
    if top.kind == Kind::Directory && filter.depth > 0 {
        let listing = if filter.depth == 1 { Listing::of(&path) } else { Listing::below(&path) };
        let mut entries = listing.start(&cluster);
        while let Some(entry) = entries.next().await? {
            let depth = 1 + entry.path.matches('/').count();
            let full = match entry_path(&path, &entry) {
                Ok(full) => full,
                // A path that has become too long is named, and the rest is looked through.
                Err(error) => {
                    crate::cli::complaint::complain(&error.context(&entry.path));
                    exit = Exit::Partly;
                    continue;
                }
            };
            if filter.takes(&entry, depth, full.name()) {
                print(&entry, &full)?;
            }
        }
    }
    if context.json() {
        output.array_end()?;
    }
    output.flush()?;
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering::*;

    #[test]
    fn sums_of_directories_are_complete_when_they_are_left() {
        let mut sums = Sums::default();
        let one = Usage { bytes: 1, files: 1, stored: 2 };
        let mut left = Vec::new();
        sums.enter("");
        for (path, is_directory) in [("a", true), ("a/x", false), ("a/b", true), ("a/b/y", false), ("c", false)] {
            while let Some((directory, depth, usage)) = sums.leave(Some(path)) {
                left.push((directory, depth, usage.bytes));
            }
            if is_directory { sums.enter(path) } else { sums.add(one) }
        }
        while let Some((directory, depth, usage)) = sums.leave(None) {
            left.push((directory, depth, usage.bytes));
        }
        assert_eq!(left, [("a/b".into(), 2, 1), ("a".into(), 1, 2), (String::new(), 0, 3)]);
    }

    #[test]
    fn sizes_as_find_knows_them() {
        for (text, want) in
            [("10", (Equal, 10)), ("+1M", (Greater, 1 << 20)), ("-2k", (Less, 2_048)), ("3c", (Equal, 3))]
        {
            assert_eq!(size(text).unwrap(), want, "{text}");
        }
        for wrong in ["", "+", "k", "1x", "--1", "99999999999999999999", "ü"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
