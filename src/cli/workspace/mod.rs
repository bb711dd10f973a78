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
mod place;
mod preview;
pub(crate) mod rows;
mod run;
mod sighting;
mod standing;
pub(super) mod state;
mod status;
mod sync;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::args::InitArgs;
use super::config::{self, ClientConfig, write_private};
use super::context::{Cluster, Context};
use super::exit::Exit;
use super::host::HostDir;
use super::host::trust::{self};
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::types::api::Kind;
use crate::types::error::IoContext;
use crate::types::{DfsPath, Error, ErrorCode, Result};

pub(crate) use decide::Direction;
pub(crate) use place::{Around, Workspace, WorkspaceConfig};
pub(crate) use status::run as status;
pub(crate) use sync::run as sync;

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
        write_private(&control.join(place::CONFIG), text.as_bytes())
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
    use super::place::{CONFIG, CWD};
    use super::*;
    use crate::cli::host::own::CONTROL;
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
