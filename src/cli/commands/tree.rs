//! `tree`: each directory is listed as it is drawn, so that only the directories that the drawing is in are
//! held, one page of each.

use crate::cli::args::TreeArgs;
use crate::cli::context::{Cluster, Context};
use crate::cli::exit::Exit;
use crate::cli::merge::Sorted;
use crate::cli::output::{Output, human_counted};
use crate::cli::remote::Listing;
use crate::types::api::{Entry, Kind};
use crate::types::{DfsPath, Result};

/// A directory that the drawing is in.
struct Level {
    path: DfsPath,
    entries: Sorted<Entry>,
    /// What stands in front of its entries.
    indent: String,
}

/// `holdfast tree`.
pub(crate) async fn run(context: &Context, args: &TreeArgs) -> Result<Exit> {
    let path = context.resolve_or_cwd(args.path.as_deref())?;
    let cluster = context.cluster()?;
    let mut output = context.output();
    let top = cluster.names.stat(&path).await?;
    if context.json() {
        return as_array(&cluster, args, path, top, output).await;
    }
    let name = output.name(path.as_str()).into_owned();
    output.line(name)?;
    let (mut directories, mut files, mut exit) = (0, 0, Exit::Done);
    let mut levels = Vec::new();
    if top.kind == Kind::Directory {
        levels.push(open(&cluster, path, String::new()));
    }
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { break };
        let Some(entry) = level.entries.next().await? else {
            levels.pop();
            continue;
        };
        level.entries.fill().await?;
        let is_last = level.entries.path().is_none();
        draw(&mut output, &level.indent, is_last, &entry)?;
        if entry.kind == Kind::File {
            files += 1;
            continue;
        }
        directories += 1;
        if args.level.is_none_or(|limit| depth < limit) {
            let indent = format!("{}{}", level.indent, if is_last { "    " } else { "│   " });
            match level.path.join(&entry.path) {
                Ok(path) => levels.push(open(&cluster, path, indent)),
                // A path that has become too long is named, and the rest is drawn.
                Err(error) => {
                    crate::cli::complaint::complain(&error.context(&entry.path));
                    exit = Exit::Partly;
                }
            }
        }
    }
    output.line(format_args!("\n{}, {}", human_counted(directories, "directory"), human_counted(files, "file")))?;
    output.flush()?;
    Ok(exit)
}

fn open(cluster: &Cluster, path: DfsPath, indent: String) -> Level {
    Level { entries: Listing::of(&path).start(cluster), path, indent }
}

fn draw(output: &mut Output, indent: &str, is_last: bool, entry: &Entry) -> Result<()> {
    let branch = if is_last { "└── " } else { "├── " };
    let slash = if entry.kind == Kind::Directory { "/" } else { "" };
    let name = output.name(&entry.path).into_owned();
    output.line(format_args!("{indent}{branch}{name}{slash}"))
}

/// For programs a tree is its entries in the order of a walk.
async fn as_array(cluster: &Cluster, args: &TreeArgs, path: DfsPath, top: Entry, mut output: Output) -> Result<Exit> {
    if top.kind == Kind::Directory {
        let mut entries = Listing::below(&path).start(cluster);
        while let Some(entry) = entries.next().await? {
            let depth = 1 + entry.path.matches('/').count();
            if args.level.is_none_or(|limit| depth <= limit) {
                output.array_item(&entry)?;
            }
        }
    }
    output.array_end()?;
    output.flush()?;
    Ok(Exit::Done)
}
