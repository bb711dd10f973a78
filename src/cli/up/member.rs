//! The members of a cluster on one machine: names, ports, directories, options.

use std::ffi::OsString;
use std::path::PathBuf;

use super::cluster::{ClusterConfig, ClusterDir, names};
use crate::types::{Error, ErrorCode, Hidden, Result};

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    NameServer,
    StorageServer,
}

/// One member.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) port: u16,
    pub(super) data_dir: PathBuf,
    /// The options of its program.
    pub(super) args: Vec<OsString>,
    /// What it is told in its environment, which other users cannot read.
    pub(super) env: Vec<(&'static str, Hidden)>,
}

/// How soon things happen; by default as the servers themselves have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::cli) enum Timings {
    /// As in production.
    #[default]
    Usual,
    /// Within seconds, for those who watch.
    Quick,
}

impl Timings {
    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Usual => &[],
            Self::Quick => {
                &["--health-interval", "0.5", "--down-after", "1.5", "--repair-delay", "3", "--read-ttl", "2"]
            }
        }
    }
}

/// All members, the name server first.
pub(super) fn all(dir: &ClusterDir, config: &ClusterConfig, timings: Timings) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for (offset, name) in names(config.storage_servers).enumerate() {
        let port = config.port + offset as u16;
        let role = if offset == 0 { Role::NameServer } else { Role::StorageServer };
        let data_dir = dir.path().join(&name);
        let (args, env) = match role {
            Role::NameServer => (name_server_args(config, timings), vec![("HOLDFAST_DATABASE", dir.database(config))]),
            Role::StorageServer => (storage_server_args(config, &name, &data_dir), Vec::new()),
        };
        let common = [
            "--listen".into(),
            format!("127.0.0.1:{port}").into(),
            "--cluster-secret-file".into(),
            dir.secret_path().into(),
        ];
        let mut args: Vec<OsString> = args.into_iter().chain(common).collect();
        // A directory that was made before has none until it is started as a whole.
        if dir.metrics_token_path().exists() {
            args.extend(["--metrics-token-file".into(), dir.metrics_token_path().into()]);
        }
        members.push(Member { name, role, port, data_dir, args, env });
    }
    Ok(members)
}

fn name_server_args(config: &ClusterConfig, timings: Timings) -> Vec<OsString> {
    // All members share this host.
    let mut args: Vec<OsString> = vec!["--allow-same-host".into()];
    args.extend(["--replicas".into(), config.replicas.to_string().into()]);
    args.extend(timings.args().iter().map(OsString::from));
    if !config.initialized {
        args.push("--initialize".into());
    }
    args
}

fn storage_server_args(config: &ClusterConfig, name: &str, data_dir: &std::path::Path) -> Vec<OsString> {
    vec![
        "--data-dir".into(),
        data_dir.into(),
        "--name".into(),
        name.into(),
        "--name-server".into(),
        config.name_server_url().into(),
    ]
}

impl Member {
    /// Where it is reached.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whether its port is free, before anything is started.
    pub(super) fn check_port(&self) -> Result<()> {
        match std::net::TcpListener::bind(("127.0.0.1", self.port)) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new(
                ErrorCode::AlreadyExists,
                format!(
                    "port {} for {} cannot be taken ({error}); choose other ports with --port",
                    self.port, self.name
                ),
            )),
        }
    }
}
