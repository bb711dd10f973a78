//! `mv` and `cp`: Unix manners over calls that take exact target paths.

use super::{Each, about, needs_recursive, no_directory};
use crate::cli::args::{CpArgs, MvArgs};
use crate::cli::context::{Cluster, Context};
use crate::cli::exit::Exit;
use crate::types::api::Kind;
use crate::types::{DfsPath, Error, ErrorCode, Result};

/// Where sources go.
enum Target {
    /// A single source becomes this.
    Exactly(DfsPath),
    /// The same, and it was written as a directory: a file cannot become one.
    Directory(DfsPath),
    /// Each source goes into this directory under its own name.
    Into(DfsPath),
}

impl Target {
    fn of(&self, from: &DfsPath) -> Result<DfsPath> {
        match self {
            Self::Exactly(path) | Self::Directory(path) => Ok(path.clone()),
            Self::Into(_) if from.is_root() => Err(Error::invalid("the root directory cannot be moved or copied")),
            Self::Into(directory) => directory.join(from.name()),
        }
    }
}

async fn target(context: &Context, cluster: &Cluster, typed: &str, sources: usize) -> Result<Target> {
    let path = context.resolve(typed)?;
    if path.is_root() {
        return Ok(Target::Into(path));
    }
    match cluster.stat(&path).await? {
        Some(entry) if entry.kind == Kind::Directory => Ok(Target::Into(path)),
        _ if sources > 1 => {
            Err(Error::new(ErrorCode::NotADirectory, format!("{path} is not a directory, which several sources need")))
        }
        Some(_) if typed.ends_with('/') => {
            Err(Error::new(ErrorCode::NotADirectory, format!("{path} is not a directory")))
        }
        None if typed.ends_with('/') => Ok(Target::Directory(path)),
        _ => Ok(Target::Exactly(path)),
    }
}

/// `holdfast mv`.
pub(crate) async fn mv(context: &Context, args: &MvArgs) -> Result<Exit> {
    run(context, &args.paths, None).await
}

/// `holdfast cp`.
pub(crate) async fn cp(context: &Context, args: &CpArgs) -> Result<Exit> {
    run(context, &args.paths, Some(args.recursive)).await
}

/// Moves, or with `copy` copies (recursively or not).
async fn run(context: &Context, paths: &[String], copy: Option<bool>) -> Result<Exit> {
    let Some((last, sources)) = paths.split_last() else {
        return Err(Error::invalid("a source and a target are needed"));
    };
    let cluster = context.cluster()?;
    let target = target(context, &cluster, last, sources.len()).await?;
    let mut each = Each::default();
    for typed in sources {
        let outcome = async {
            let from = context.resolve(typed)?;
            let to = target.of(&from)?;
            // `mv directory new/` names the new directory; a file would become a file of that name.
            if let Target::Directory(missing) = &target
                && cluster.names.stat(&from).await?.kind == Kind::File
            {
                return Err(no_directory(missing));
            }
            if from == to {
                return Err(Error::new(ErrorCode::AlreadyExists, format!("{from} and {to} are the same")));
            }
            let changed = match copy {
                None => cluster.names.mv(&from, &to).await,
                Some(recursive) => cluster.names.cp(&from, &to, recursive).await.map_err(needs_recursive),
            };
            changed.map(|_| ())
        };
        each.note(outcome.await.map_err(about(typed)))?;
    }
    Ok(each.exit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_keep_their_names_inside_a_directory() {
        let path = |text: &str| DfsPath::parse(text).unwrap();
        assert_eq!(Target::Into(path("/d")).of(&path("/a/b")).unwrap(), path("/d/b"));
        assert_eq!(Target::Exactly(path("/x")).of(&path("/a/b")).unwrap(), path("/x"));
        assert!(Target::Into(path("/d")).of(&DfsPath::root()).is_err());
    }
}
