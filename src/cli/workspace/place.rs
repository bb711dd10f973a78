//! Where a workspace is, and what its control directory says.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::config::{self, ClientConfig, write_private};
use crate::cli::host::own::{self, CONTROL};
use crate::cli::host::trust::{self, Found};
use crate::cli::host::{HostDir, Look};
use crate::types::error::IoContext;
use crate::types::{DfsPath, Error, ErrorCode, Result};

pub(super) const CONFIG: &str = "config.toml";
pub(super) const CWD: &str = "cwd";
/// A file that is made to see what its time is.
const CLOCK: &str = "clock";
/// Where earlier versions put files that were on their way out; what a killed run has left there is still there.
pub(super) const ASIDE: &str = "aside";

/// Where a workspace's cluster is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "ConfigFile", into = "ConfigFile")]
pub(crate) struct WorkspaceConfig {
    /// The remote directory that it is a copy of.
    pub(crate) remote: DfsPath,
    /// The cluster.
    pub(crate) client: ClientConfig,
}

impl WorkspaceConfig {
    /// Reads the content of `config.toml`. The error has none of the values, of which one is the token.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        toml::from_str(text).map_err(|error| config::without_values(error.message()))
    }
}

/// `config.toml`: both in one table, and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    remote: DfsPath,
    name_servers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_cert: Option<PathBuf>,
}

impl From<ConfigFile> for WorkspaceConfig {
    fn from(ConfigFile { remote, name_servers, token, ca_cert }: ConfigFile) -> Self {
        Self { remote, client: ClientConfig { name_servers, token, ca_cert } }
    }
}

impl From<WorkspaceConfig> for ConfigFile {
    fn from(WorkspaceConfig { remote, client }: WorkspaceConfig) -> Self {
        let ClientConfig { name_servers, token, ca_cert } = client;
        Self { remote, name_servers, token, ca_cert }
    }
}

/// A workspace on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// Its host directory, without links in the path.
    pub(crate) root: PathBuf,
    /// The same, open.
    pub(crate) dir: HostDir,
    pub(crate) config: WorkspaceConfig,
}

/// What stands around a directory.
#[derive(Debug)]
pub(crate) enum Around {
    Nothing,
    Workspace(Box<Workspace>),
    /// A workspace that does not count, and why.
    Distrusted(String),
}

impl Workspace {
    /// The workspace around the process's directory.
    pub(crate) fn find() -> Result<Around> {
        // Whoever stands in a directory that was removed stands in no workspace.
        let Ok(here) = std::env::current_dir() else { return Ok(Around::Nothing) };
        Self::around(&here)
    }

    /// The innermost control directory decides, whether it counts or not: to pass over one that does not would let
    /// whoever made it choose another workspace for the caller.
    pub(super) fn around(directory: &Path) -> Result<Around> {
        let mut dir = match HostDir::open(directory) {
            Ok(dir) => dir,
            Err(error) if error.code() == ErrorCode::NotFound => return Ok(Around::Nothing),
            Err(error) => return Err(error),
        };
        loop {
            match trust::read_control(&dir, CONTROL, CONFIG)? {
                Some(Found::Trusted(text)) => return Self::of(dir, &text).map(|it| Around::Workspace(Box::new(it))),
                Some(Found::Distrusted(why)) => return Ok(Around::Distrusted(why)),
                None => {}
            }
            let (Ok(above), here) = (dir.parent(), dir.look_at_itself()?) else { return Ok(Around::Nothing) };
            if above.look_at_itself()?.is_same_thing(&here) {
                return Ok(Around::Nothing);
            }
            dir = above;
        }
    }

    fn of(dir: HostDir, text: &str) -> Result<Self> {
        let root = dir.shown().to_path_buf();
        let shown = root.join(CONTROL).join(CONFIG);
        let config = WorkspaceConfig::parse(text).map_err(|why| {
            Error::invalid(format!("{} is damaged: {why}; `holdfast init` elsewhere and pull", shown.display()))
        })?;
        Ok(Self { root, dir, config })
    }

    /// The file that says where its cluster is.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.control().join(CONFIG)
    }

    /// Where its own files are.
    pub(crate) fn control(&self) -> PathBuf {
        self.root.join(CONTROL)
    }

    pub(super) fn aside(&self) -> PathBuf {
        self.control().join(ASIDE)
    }

    /// The same, with what its file system's clock shows: by that the times of files are judged.
    pub(super) fn with_clock(self) -> Self {
        let probe = self.control().join(CLOCK);
        let made = std::fs::File::create(&probe).and_then(|file| file.set_len(0).map(|()| file));
        let ahead_ns = made.map_err(drop).and_then(|file| Look::of_file(&file).map_err(drop));
        // Without a probe the clocks are taken for the same.
        let ahead_ns = ahead_ns.map_or(0, |look| look.clock_ahead_ns());
        let _ = std::fs::remove_file(&probe);
        Self { dir: self.dir.with_clock(ahead_ns), ..self }
    }

    /// The remote working directory.
    pub(crate) fn cwd(&self) -> Result<DfsPath> {
        let path = self.control().join(CWD);
        let damaged = |why: &dyn std::fmt::Display| {
            let shown = path.display();
            Error::invalid(format!(
                "{shown} is damaged: {why}; remove it, and `holdfast cd` begins at the workspace's root"
            ))
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => DfsPath::parse(&text).map_err(|error| damaged(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(self.config.remote.clone()),
            Err(error) => Err(damaged(&error)),
        }
    }

    pub(crate) fn set_cwd(&self, path: &DfsPath) -> Result<()> {
        write_private(&self.control().join(CWD), path.as_str().as_bytes())
    }

    /// A host path as it was typed, relative to the workspace's root; empty for the root itself.
    pub(super) fn relative(&self, typed: &Path) -> Result<String> {
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
        if let Some((_, own)) = own::own_part(text) {
            return Err(Error::invalid(format!("{}: {}", typed.display(), own.reason())));
        }
        Ok(text.to_string())
    }

    /// The parts of the workspace that a command is about; none lies inside another.
    pub(super) fn scopes(&self, typed: &[PathBuf]) -> Result<Vec<String>> {
        if typed.is_empty() {
            return Ok(vec![String::new()]);
        }
        let mut scopes = typed.iter().map(|path| self.relative(path)).collect::<Result<Vec<_>>>()?;
        scopes.sort_by(|a, b| crate::types::path::walk_order(a, b));
        let mut outermost: Vec<String> = Vec::new();
        for scope in scopes {
            if !outermost.iter().any(|outer| crate::cli::merge::is_within(&scope, outer)) {
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
