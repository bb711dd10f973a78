//! What every command works with: options, the cluster's clients, the workspace, the remote directory.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use super::config;
use super::host::trust;
use super::options::GlobalArgs;
use super::output::Output;
use super::progress::{Progress, Tally, say, tell_waits};
use super::workspace::{Around, Workspace};
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::types::api::Entry;
use crate::types::{DfsPath, Error, ErrorCode, Result, ServerId};
use parking_lot::Mutex;

/// Transfers at the same time unless told otherwise.
const JOBS_DEFAULT: usize = 16;

/// The clients. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) names: NameServerClient,
    pub(crate) storage: StorageClient,
    /// Storage servers that have hung since the program started: others are asked first.
    hung: Arc<Mutex<HashSet<ServerId>>>,
}

impl Cluster {
    /// Over one pool of connections.
    pub(crate) fn new(names: NameServerClient, storage: StorageClient) -> Self {
        Self { names, storage, hung: Arc::default() }
    }

    /// Remembers that a storage server has hung.
    pub(crate) fn note_hung(&self, server: ServerId) {
        self.hung.lock().insert(server);
    }

    /// The storage servers that have hung.
    pub(crate) fn hung_servers(&self) -> Vec<ServerId> {
        self.hung.lock().iter().copied().collect()
    }

    /// A file or directory, or nothing.
    pub(crate) async fn stat(&self, path: &DfsPath) -> Result<Option<Entry>> {
        match self.names.stat(path).await {
            Ok(entry) => Ok(Some(entry)),
            // A component that is a file means as well that nothing is at the path.
            Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the bytes of a file that is listed are nowhere any more, not even on a server that is away: then it counts as
    /// one that has to be sent.
    pub(crate) async fn is_lost(&self, path: &DfsPath, listed: &Entry) -> Result<bool> {
        if listed.copies != Some(0) {
            return Ok(false);
        }
        let now = self.stat(path).await?;
        Ok(now.is_some_and(|entry| entry.object == listed.object && entry.replicas.is_empty()))
    }
}

/// What a command works with.
pub(crate) struct Context {
    pub(crate) args: GlobalArgs,
    workspace: Option<Workspace>,
    /// Why a workspace that was found around the process's directory does not count.
    distrusted: Option<String>,
    cluster: OnceLock<Cluster>,
    cwd: Mutex<DfsPath>,
    /// Inside the shell `cd` works without a workspace too.
    pub(crate) in_shell: bool,
}

impl Context {
    /// Looks for the workspace around the process's directory.
    pub(crate) fn new(args: GlobalArgs, in_shell: bool) -> Result<Self> {
        let (workspace, distrusted) = match Workspace::find()? {
            Around::Nothing => (None, None),
            Around::Workspace(workspace) => (Some(*workspace), None),
            Around::Distrusted(why) => {
                say(&format!("holdfast: {}", trust::remedy(&why)));
                (None, Some(why))
            }
        };
        let cwd = match &workspace {
            Some(workspace) => workspace.cwd()?,
            None => DfsPath::root(),
        };
        Ok(Self { args, workspace, distrusted, cluster: OnceLock::new(), cwd: Mutex::new(cwd), in_shell })
    }

    /// The clients, made at the first call.
    pub(crate) fn cluster(&self) -> Result<Cluster> {
        if let Some(cluster) = self.cluster.get() {
            return Ok(cluster.clone());
        }
        let file = self.workspace.as_ref().map(Workspace::config_file);
        let workspace = self.workspace.as_ref().zip(file.as_deref());
        let found = config::find(&self.args, workspace.map(|(workspace, file)| (&workspace.config.client, file)))?;
        let http = HttpClient::new(found.ca_cert.as_deref())?;
        tell_waits(http.waits(), self.args.quiet);
        let credentials = found.token.map_or(Credentials::None, Credentials::Token);
        let names = NameServerClient::new(http.clone(), found.name_servers, credentials)?;
        let cluster = Cluster::new(names, StorageClient::new(http, Credentials::None));
        Ok(self.cluster.get_or_init(|| cluster).clone())
    }

    /// The same for one line of the shell, which may have options of its own.
    pub(crate) fn for_line(&self, line: GlobalArgs) -> Self {
        // Either of the two says where the cluster is.
        let (config, name_server) = match (line.config, line.name_server) {
            (None, None) => (self.args.config.clone(), self.args.name_server.clone()),
            typed => typed,
        };
        let args = GlobalArgs {
            config,
            name_server,
            token: line.token.or_else(|| self.args.token.clone()),
            ca_cert: line.ca_cert.or_else(|| self.args.ca_cert.clone()),
            jobs: line.jobs.or(self.args.jobs),
            json: line.json || self.args.json,
            quiet: line.quiet || self.args.quiet,
            verbose: self.args.verbose,
        };
        let same_cluster = args.same_cluster_as(&self.args);
        let cluster = if same_cluster { self.cluster.clone() } else { OnceLock::new() };
        let (workspace, distrusted) = (self.workspace.clone(), self.distrusted.clone());
        Self { args, workspace, distrusted, cluster, cwd: Mutex::new(self.cwd()), in_shell: true }
    }

    /// Goes where a line of the shell went.
    pub(crate) fn take_cwd_of(&self, line: &Self) -> Result<()> {
        let path = line.cwd();
        if path == self.cwd() { Ok(()) } else { self.set_cwd(path) }
    }

    /// The workspace, if the command runs in one.
    pub(crate) fn workspace(&self) -> Option<&Workspace> {
        self.workspace.as_ref()
    }

    /// The workspace that the command cannot do without.
    pub(crate) fn need_workspace(&self) -> Result<&Workspace> {
        self.workspace.as_ref().ok_or_else(|| match &self.distrusted {
            Some(why) => Error::invalid(trust::remedy(why)),
            None => {
                Error::invalid("this directory is in no workspace; `holdfast init [DIR] --remote DFS_PATH` makes one")
            }
        })
    }

    /// The remote directory that relative paths are resolved against.
    pub(crate) fn cwd(&self) -> DfsPath {
        self.cwd.lock().clone()
    }

    /// Changes it, for the workspace too.
    pub(crate) fn set_cwd(&self, path: DfsPath) -> Result<()> {
        if let Some(workspace) = &self.workspace {
            workspace.set_cwd(&path)?;
        }
        *self.cwd.lock() = path;
        Ok(())
    }

    /// A path as it was typed.
    pub(crate) fn resolve(&self, typed: &str) -> Result<DfsPath> {
        if typed.is_empty() {
            return Err(Error::new(ErrorCode::InvalidPath, "an empty path names nothing"));
        }
        // Relative to what? The answer of a stranger's workspace is not to be had, and another would surprise.
        if let (Some(why), false) = (&self.distrusted, typed.starts_with('/')) {
            return Err(Error::invalid(format!("{typed} is relative to a workspace that does not count: {why}")));
        }
        self.cwd().resolve(typed)
    }

    /// A path as it was typed, or the remote directory.
    pub(crate) fn resolve_or_cwd(&self, typed: Option<&str>) -> Result<DfsPath> {
        self.resolve(typed.unwrap_or("."))
    }

    /// Several of them.
    pub(crate) fn resolve_all_or_cwd(&self, typed: &[String]) -> Result<Vec<DfsPath>> {
        if typed.is_empty() {
            return Ok(vec![self.resolve(".")?]);
        }
        typed.iter().map(|typed| self.resolve(typed)).collect()
    }

    pub(crate) fn json(&self) -> bool {
        self.args.json
    }

    pub(crate) fn jobs(&self) -> usize {
        self.args.jobs.unwrap_or(JOBS_DEFAULT)
    }

    pub(crate) fn output(&self) -> Output {
        Output::new()
    }

    /// Counts and shows the outcome of transfers.
    pub(crate) fn tally(&self, verb: &'static str) -> Arc<Tally> {
        Tally::new(Progress::new(verb, self.args.quiet))
    }
}
