//! Workspaces: host directories that are copies of a remote directory.
//!
//! A workspace has a directory `.holdfast` (for its owner alone) with the configuration, the remote working
//! directory and the state of the last push or pull. A file is compared three ways: what it was then, what it
//! is here, what it is there ([`decide`]). What changed on one side only travels; what changed on both sides is
//! a conflict. The state only saves work and tells deletions from additions: content that is the same on both
//! sides is never sent again, whatever the state says, so an interrupted run is simply repeated.

mod apply_pull;
mod apply_push;
pub(crate) mod decide;
pub(crate) mod rows;
pub(super) mod state;
mod status;
mod sync;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::args::InitArgs;
use super::config::{self, ClientConfig, write_private};
use super::context::{Cluster, Context};
use super::exit::Exit;
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::types::api::Kind;
use crate::types::error::IoContext;
use crate::types::{DfsPath, Error, ErrorCode, Result};

pub(crate) use status::run as status;
pub(crate) use sync::{Direction, run as sync};

/// The directory of a workspace's own files.
pub(crate) const CONTROL: &str = ".holdfast";
const CONFIG: &str = "config.toml";
const CWD: &str = "cwd";
/// Holds files that are on their way out, until it is certain that they may go.
const ASIDE: &str = "aside";

/// What a workspace knows of its cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkspaceConfig {
    /// The remote directory that it is a copy of.
    pub(crate) remote: DfsPath,
    /// The cluster.
    #[serde(flatten)]
    pub(crate) client: ClientConfig,
}

impl WorkspaceConfig {
    /// Reads the content of `config.toml`. The error has none of the values, of which one is the token.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        toml::from_str(text).map_err(|error| config::without_values(error.message()))
    }
}

/// A workspace on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// Its host directory, without links in the path.
    pub(crate) root: PathBuf,
    pub(crate) config: WorkspaceConfig,
}

impl Workspace {
    /// The workspace around the process's directory.
    pub(crate) fn find() -> Result<Option<Self>> {
        // Whoever stands in a directory that was removed stands in no workspace.
        let Ok(here) = std::env::current_dir() else { return Ok(None) };
        Self::around(&here)
    }

    fn around(directory: &Path) -> Result<Option<Self>> {
        for root in directory.ancestors() {
            let path = root.join(CONTROL).join(CONFIG);
            if !path.is_file() {
                continue;
            }
            let shown = path.display();
            let text = std::fs::read_to_string(&path).io_context(|| format!("reading {shown}"))?;
            let config = WorkspaceConfig::parse(&text).map_err(|why| {
                Error::invalid(format!("{shown} is damaged: {why}; `holdfast init` elsewhere and pull"))
            })?;
            return Ok(Some(Self { root: root.into(), config }));
        }
        Ok(None)
    }

    /// Where its own files are.
    pub(crate) fn control(&self) -> PathBuf {
        self.root.join(CONTROL)
    }

    fn aside(&self) -> PathBuf {
        self.control().join(ASIDE)
    }

    /// The remote working directory.
    pub(crate) fn cwd(&self) -> Result<DfsPath> {
        let path = self.control().join(CWD);
        match std::fs::read_to_string(&path) {
            Ok(text) => DfsPath::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(self.config.remote.clone()),
            Err(error) => Err(Error::io(format!("reading {}", path.display()), error)),
        }
    }

    pub(crate) fn set_cwd(&self, path: &DfsPath) -> Result<()> {
        write_private(&self.control().join(CWD), path.as_str().as_bytes())
    }

    /// A host path as it was typed, relative to the workspace's root; empty for the root itself.
    fn relative(&self, typed: &Path) -> Result<String> {
        let outside =
            || Error::invalid(format!("{} is not inside the workspace {}", typed.display(), self.root.display()));
        let here = std::env::current_dir().io_context(|| "finding the current directory".into())?;
        let absolute = normal(&here.join(typed));
        let inside = match absolute.strip_prefix(&self.root) {
            Ok(inside) => inside.to_path_buf(),
            // A link may lead to it; the last name is not followed, it may be anything.
            Err(_) => {
                let parent = absolute.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
                let real = parent.ok_or_else(outside)?.join(absolute.file_name().unwrap_or_default());
                real.strip_prefix(&self.root).map_err(|_| outside())?.to_path_buf()
            }
        };
        let text = inside.to_str().ok_or_else(|| Error::invalid(format!("{} is not UTF-8", typed.display())))?;
        if super::merge::is_within(text, CONTROL) {
            return Err(Error::invalid(format!("{} belongs to the workspace itself", typed.display())));
        }
        Ok(text.to_string())
    }

    /// The parts of the workspace that a command is about; none lies inside another.
    fn scopes(&self, typed: &[PathBuf]) -> Result<Vec<String>> {
        if typed.is_empty() {
            return Ok(vec![String::new()]);
        }
        let mut scopes = typed.iter().map(|path| self.relative(path)).collect::<Result<Vec<_>>>()?;
        scopes.sort_by(|a, b| crate::types::path::walk_order(a, b));
        let mut outermost: Vec<String> = Vec::new();
        for scope in scopes {
            if !outermost.iter().any(|outer| super::merge::is_within(&scope, outer)) {
                outermost.push(scope);
            }
        }
        Ok(outermost)
    }
}

/// Takes `.` and `..` out of an absolute path.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// `holdfast init`.
pub(crate) async fn init(context: &Context, args: &InitArgs) -> Result<Exit> {
    let remote = DfsPath::root().resolve(&args.remote)?;
    let shown = args.dir.display();
    let client = config::find(&context.args, None)?;
    check_remote(&client, &remote).await?;
    std::fs::create_dir_all(&args.dir).io_context(|| format!("making the directory {shown}"))?;
    let root = std::fs::canonicalize(&args.dir).io_context(|| format!("looking at {shown}"))?;
    if let Some(other) = Workspace::around(&root)? {
        let what = format!("{shown} is already in the workspace {}", other.root.display());
        return Err(Error::new(ErrorCode::AlreadyExists, what));
    }
    // The workspace may be used from anywhere.
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let client = ClientConfig { ca_cert: client.ca_cert.map(absolute), ..client };
    let workspace = Workspace { root, config: WorkspaceConfig { remote, client } };
    workspace.create()?;
    let remote = &workspace.config.remote;
    super::progress::Progress::new("", context.args.quiet)
        .mention(&format!("{} is now a workspace for {remote}; `holdfast pull` fetches it", workspace.root.display()));
    Ok(Exit::Done)
}

impl Workspace {
    fn create(&self) -> Result<()> {
        let control = self.control();
        for directory in [&control, &self.aside()] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.io_context(|| format!("making the directory {}", directory.display()))?;
        }
        let text = toml::to_string(&self.config)
            .map_err(|error| Error::internal("the configuration cannot be written").with_source(error))?;
        self.set_cwd(&self.config.remote)?;
        // Last: only with it is it a workspace.
        write_private(&control.join(CONFIG), text.as_bytes())
    }
}

/// Finds out early whether the cluster answers, the token is good and the remote path can be a directory.
async fn check_remote(client: &ClientConfig, remote: &DfsPath) -> Result<()> {
    let http = HttpClient::new(client.ca_cert.as_deref())?;
    let credentials = client.token.clone().map_or(Credentials::None, Credentials::Token);
    let names = NameServerClient::new(http.clone(), client.name_servers.clone(), credentials)?;
    let cluster = Cluster { names, storage: StorageClient::new(http, Credentials::None) };
    match cluster.stat(remote).await? {
        Some(entry) if entry.kind == Kind::File => Err(Error::new(
            ErrorCode::NotADirectory,
            format!("{remote} is a file; a workspace is a copy of a directory"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn workspace(directory: &Path) -> Workspace {
        let root = std::fs::canonicalize(directory).unwrap();
        let client =
            ClientConfig { name_servers: vec!["http://127.0.0.1:1".into()], token: Some("hf_x".into()), ca_cert: None };
        let remote = DfsPath::parse("/proj").unwrap();
        Workspace { root, config: WorkspaceConfig { remote, client } }
    }

    #[test]
    fn a_workspace_is_found_from_below_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        workspace(directory.path()).create().unwrap();
        let below = directory.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let found = Workspace::around(&std::fs::canonicalize(below).unwrap()).unwrap().unwrap();
        assert_eq!(found.config.client.token.as_deref(), Some("hf_x"));
        assert_eq!(found.cwd().unwrap().as_str(), "/proj");
        found.set_cwd(&DfsPath::parse("/proj/x\ny").unwrap()).unwrap();
        assert_eq!(found.cwd().unwrap().as_str(), "/proj/x\ny");
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(found.control()), 0o700);
        for name in [CONFIG, CWD] {
            assert_eq!(mode(found.control().join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn host_paths_are_taken_relative_to_the_workspace() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = workspace(directory.path());
        let root = workspace.root.clone();
        assert_eq!(workspace.relative(&root).unwrap(), "");
        assert_eq!(workspace.relative(&root.join("gone/./x/../y")).unwrap(), "gone/y");
        for wrong in [root.join(".."), root.join("a/../../b"), root.join(".holdfast/state"), "/".into()] {
            assert!(workspace.relative(&wrong).is_err(), "{}", wrong.display());
        }
        let typed = ["b/c", "a", "b", "a/x"].map(|name| root.join(name));
        assert_eq!(workspace.scopes(&typed).unwrap(), ["a", "b"]);
    }
}
