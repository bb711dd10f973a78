//! `touch`, `mkdir`, `rmdir`, `rm`, `cat`, `cd`, `pwd`.

use super::{Each, about, needs_recursive, no_directory};
use crate::cli::args::{CdArgs, MkdirArgs, PathsArgs, RmArgs};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::transfer::StreamTarget;
use crate::types::api::Kind;
use crate::types::{Error, ErrorCode, Result};

/// `holdfast touch`.
pub(crate) async fn touch(context: &Context, args: &PathsArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let mut each = Each::default();
    for typed in &args.paths {
        let outcome = async {
            let path = context.resolve(typed)?;
            // What is written as a directory is not made as a file.
            if typed.ends_with('/') && cluster.stat(&path).await?.is_none_or(|entry| entry.kind == Kind::File) {
                return Err(no_directory(&path));
            }
            cluster.names.touch(&path).await.map(|_| ())
        };
        each.note(outcome.await.map_err(about(typed)))?;
    }
    Ok(each.exit())
}

/// `holdfast mkdir`.
pub(crate) async fn mkdir(context: &Context, args: &MkdirArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let mut each = Each::default();
    for typed in &args.paths {
        let outcome = async { cluster.names.mkdir(&context.resolve(typed)?, args.parents).await.map(|_| ()) };
        each.note(outcome.await.map_err(about(typed)))?;
    }
    Ok(each.exit())
}

/// `holdfast rmdir`.
pub(crate) async fn rmdir(context: &Context, args: &PathsArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let mut each = Each::default();
    for typed in &args.paths {
        let outcome = async { cluster.names.rmdir(&context.resolve(typed)?).await.map(|_| ()) };
        each.note(outcome.await.map_err(about(typed)))?;
    }
    Ok(each.exit())
}

/// `holdfast rm`.
pub(crate) async fn rm(context: &Context, args: &RmArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let mut each = Each::default();
    for typed in &args.paths {
        let outcome = async {
            let path = context.resolve(typed)?;
            if path.is_root() {
                return Err(Error::invalid("the root directory cannot be removed"));
            }
            match cluster.names.delete(&path, args.recursive, None).await {
                Err(error) if args.force && error.code() == ErrorCode::NotFound => Ok(()),
                other => other.map(|_| ()).map_err(needs_recursive),
            }
        };
        each.note(outcome.await.map_err(about(typed)))?;
    }
    Ok(each.exit())
}

/// `holdfast cat`.
pub(crate) async fn cat(context: &Context, args: &PathsArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let mut output = context.output();
    let mut each = Each::default();
    for typed in &args.paths {
        let outcome = async {
            let path = context.resolve(typed)?;
            cluster.download_to(&path, &mut StreamTarget::new(&mut output)).await.map(|_| ())
        };
        each.note(outcome.await.map_err(about(typed)))?;
    }
    output.flush()?;
    Ok(each.exit())
}

/// `holdfast cd`.
pub(crate) async fn cd(context: &Context, args: &CdArgs) -> Result<Exit> {
    if !context.in_shell {
        context.need_workspace()?;
    }
    let path = match (&args.path, context.workspace()) {
        (Some(typed), _) => context.resolve(typed)?,
        (None, Some(workspace)) => workspace.config.remote.clone(),
        (None, None) => crate::types::DfsPath::root(),
    };
    if !path.is_root() {
        let entry = context.cluster()?.names.stat(&path).await?;
        if entry.kind != Kind::Directory {
            return Err(Error::new(ErrorCode::NotADirectory, format!("{path} is not a directory")));
        }
    }
    context.set_cwd(path)?;
    Ok(Exit::Done)
}

/// `holdfast pwd`.
pub(crate) fn pwd(context: &Context) -> Result<Exit> {
    let mut output = context.output();
    let path = context.cwd();
    if context.json() {
        output.json(&path)?;
    } else {
        let name = output.name(path.as_str()).into_owned();
        output.line(name)?;
    }
    output.flush()?;
    Ok(Exit::Done)
}
