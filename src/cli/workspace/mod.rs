//! Workspaces: host directories that are copies of a remote directory.
//!
//! A workspace has a directory `.holdfast` (for its owner alone, see [`super::host::trust`]) with the configuration,
//! the remote working directory, what it knows of its cluster and the state of the last push or pull. A file is compared three ways: what it was then, what it
//! is here, what it is there ([`decide`]). What changed on one side only travels; what changed on both sides is
//! a conflict. The state only saves work and tells deletions from additions: content that is the same on both
//! sides is never sent again, whatever the state says, so an interrupted run is simply repeated.

mod apply_pull;
mod apply_push;
pub(crate) mod decide;
mod preview;
pub(crate) mod rows;
mod standing;
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
use super::host::own::{self, CONTROL};
use super::host::trust::{self, Found};
use super::host::{HostDir, Look};
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::types::api::Kind;
use crate::types::error::IoContext;
use crate::types::{DfsPath, Error, ErrorCode, Result};

pub(crate) use decide::Direction;
pub(crate) use status::run as status;
pub(crate) use sync::run as sync;

const CONFIG: &str = "config.toml";
const CWD: &str = "cwd";
/// A file that is made to see what its time is.
const CLOCK: &str = "clock";
/// Where earlier versions put files that were on their way out; what a killed run has left there is still there.
const ASIDE: &str = "aside";

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
    fn around(directory: &Path) -> Result<Around> {
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

    fn aside(&self) -> PathBuf {
        self.control().join(ASIDE)
    }

    /// The same, with what its file system's clock shows: by that the times of files are judged.
    fn with_clock(self) -> Self {
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
        if let Some((_, own)) = own::own_part(text) {
            return Err(Error::invalid(format!("{}: {}", typed.display(), own.reason())));
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
    // Before anything else: inside a workspace no other cluster would be found, which says nothing of the reason.
    let absolute = std::path::absolute(&args.dir).io_context(|| format!("looking at {shown}"))?;
    if let Some(real) = absolute.ancestors().find_map(|above| std::fs::canonicalize(above).ok()) {
        no_workspace_around(&real, &shown.to_string())?;
    }
    let client = config::find(&context.args, None)?;
    let cluster = check_remote(&client, &remote).await?;
    std::fs::create_dir_all(&args.dir).io_context(|| format!("making the directory {shown}"))?;
    let root = std::fs::canonicalize(&args.dir).io_context(|| format!("looking at {shown}"))?;
    no_workspace_around(&root, &shown.to_string())?;
    // The workspace may be used from anywhere.
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let client = ClientConfig { ca_cert: client.ca_cert.map(absolute), ..client };
    let dir = HostDir::open(&root)?;
    let workspace = Workspace { root, dir, config: WorkspaceConfig { remote, client } };
    workspace.create()?;
    standing::Standing::bind(&workspace, &cluster).await?;
    let remote = &workspace.config.remote;
    super::progress::Progress::new("", context.args.quiet)
        .mention(&format!("{} is now a workspace for {remote}; `holdfast pull` fetches it", workspace.root.display()));
    Ok(Exit::Done)
}

impl Workspace {
    fn create(&self) -> Result<()> {
        let control = self.control();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&control);
        made.io_context(|| format!("making the directory {}", control.display()))?;
        let text = toml::to_string(&self.config)
            .map_err(|error| Error::internal("the configuration cannot be written").with_source(error))?;
        self.set_cwd(&self.config.remote)?;
        // Last: only with it is it a workspace.
        write_private(&control.join(CONFIG), text.as_bytes())
    }
}

/// A workspace cannot be inside another.
fn no_workspace_around(directory: &Path, shown: &str) -> Result<()> {
    match Workspace::around(directory)? {
        Around::Nothing => Ok(()),
        Around::Workspace(other) => {
            let (root, remote) = (other.root.display(), &other.config.remote);
            let what = match other.root == directory {
                true => format!("{root} is a workspace already, for {remote}; `holdfast status` shows how it stands"),
                false => format!("{shown} is inside the workspace {root}, for {remote}: one cannot be inside another"),
            };
            Err(Error::new(ErrorCode::AlreadyExists, what))
        }
        Around::Distrusted(why) => Err(Error::invalid(trust::remedy(&why))),
    }
}

/// Finds out early whether the cluster answers, the token is good and the remote path can be a directory.
async fn check_remote(client: &ClientConfig, remote: &DfsPath) -> Result<Cluster> {
    let http = HttpClient::new(client.ca_cert.as_deref())?;
    let credentials = client.token.clone().map_or(Credentials::None, Credentials::Token);
    let names = NameServerClient::new(http.clone(), client.name_servers.clone(), credentials)?;
    let cluster = Cluster::new(names, StorageClient::new(http, Credentials::None));
    match cluster.stat(remote).await? {
        Some(entry) if entry.kind == Kind::File => Err(Error::new(
            ErrorCode::NotADirectory,
            format!("{remote} is a file; a workspace is a copy of a directory"),
        )),
        _ => Ok(cluster),
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
        let dir = HostDir::open(&root).unwrap();
        Workspace { root, dir, config: WorkspaceConfig { remote, client } }
    }

    fn around(directory: &Path) -> Around {
        Workspace::around(&std::fs::canonicalize(directory).unwrap()).unwrap()
    }

    #[test]
    fn a_workspace_is_found_from_below_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        workspace(directory.path()).create().unwrap();
        let below = directory.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let Around::Workspace(found) = around(&below) else { panic!() };
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
    fn a_workspace_that_others_may_write_does_not_count_and_hides_those_above() {
        let directory = tempfile::tempdir().unwrap();
        workspace(directory.path()).create().unwrap();
        let below = directory.path().join("below");
        std::fs::create_dir(&below).unwrap();
        workspace(&below).create().unwrap();
        let config = below.join(CONTROL).join(CONFIG);
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o622)).unwrap();
        assert!(matches!(around(&below), Around::Distrusted(why) if why.contains("others may write")));
        std::fs::remove_file(&config).unwrap();
        assert!(
            matches!(around(&below), Around::Workspace(found) if found.root.ends_with(directory.path().file_name().unwrap()))
        );
    }

    #[test]
    fn an_unknown_key_is_an_error_that_shows_no_token() {
        let directory = tempfile::tempdir().unwrap();
        workspace(directory.path()).create().unwrap();
        let config = directory.path().join(CONTROL).join(CONFIG);
        let text = std::fs::read_to_string(&config).unwrap();
        write_private(&config, format!("{text}name_server = \"http://x:1\"\n").as_bytes()).unwrap();
        let error = Workspace::around(directory.path()).unwrap_err();
        assert!(error.message().contains("name_server") && !error.chain().contains("hf_x"), "{}", error.chain());
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
