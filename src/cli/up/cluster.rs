//! The data directory of `holdfast up`.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::Recorded;
use super::write_private;
use crate::cli::config::ClientConfig;
use crate::db::DatabaseUrl;
use crate::security::ClusterSecret;
use crate::types::error::IoContext;
use crate::types::limits::REPLICATION_MAX;
use crate::types::{Error, Result};

/// The format of the directory that this program writes.
const FORMAT_VERSION: u32 = 1;
/// Port of the name server, unless it is said otherwise.
const PORT: u16 = 7400;
/// Storage servers, unless it is said otherwise.
const STORAGE_SERVERS: u16 = 3;
/// Storage servers at most, on one machine.
const STORAGE_SERVERS_MAX: u16 = 64;
/// Copies, unless it is said otherwise.
const REPLICAS: u32 = 2;

/// `cluster.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterConfig {
    pub(super) format_version: u32,
    pub(super) port: u16,
    pub(super) storage_servers: u16,
    pub(super) replicas: u32,
    /// Absent: SQLite in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) database: Option<String>,
    /// Whether the database has its cluster; until then the name server may make one.
    #[serde(default)]
    pub(super) initialized: bool,
}

/// The directory.
#[derive(Debug)]
pub(super) struct ClusterDir {
    path: PathBuf,
}

impl ClusterDir {
    /// Names the directory; nothing is made yet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).io_context(|| format!("finding {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn config_path(&self) -> PathBuf {
        self.path.join("cluster.toml")
    }

    pub(super) fn secret_path(&self) -> PathBuf {
        self.path.join("secret")
    }

    /// The token that may read metrics.
    pub(super) fn metrics_token_path(&self) -> PathBuf {
        self.path.join("metrics-token")
    }

    pub(super) fn client_config_path(&self) -> PathBuf {
        self.path.join("client.toml")
    }

    pub(super) fn log_path(&self, member: &str) -> PathBuf {
        self.path.join("logs").join(format!("{member}.log"))
    }

    fn process_path(&self, member: &str) -> PathBuf {
        self.path.join("run").join(format!("{member}.json"))
    }

    /// What the directory says, if `up` has run here before.
    pub(super) fn config(&self) -> Result<Option<ClusterConfig>> {
        let path = self.config_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
        };
        let wrong = |reason: String| Error::invalid(format!("{} cannot be read: {reason}", path.display()));
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(error.message().into()))?;
        let version = table.get("format_version").and_then(toml::Value::as_integer).unwrap_or(0);
        if version > FORMAT_VERSION.into() {
            let reason = format!(
                "it has format {version}, this program knows formats up to {FORMAT_VERSION}; use the newer program"
            );
            return Err(wrong(reason));
        }
        table.try_into().map(Some).map_err(|error: toml::de::Error| wrong(error.message().into()))
    }

    fn write_config(&self, config: &ClusterConfig) -> Result<()> {
        let text = toml::to_string(config).map_err(|e| Error::internal("cannot encode cluster.toml").with_source(e))?;
        write_private(&self.config_path(), &text)
    }

    /// Makes the directory, or goes on with what is in it. What is typed wins where that is possible.
    pub(super) fn configure(
        &self,
        port: Option<u16>,
        storage_servers: Option<u16>,
        replicas: Option<u32>,
        database: Option<&str>,
    ) -> Result<ClusterConfig> {
        let before = self.config()?;
        if before.is_none() {
            self.refuse_foreign()?;
        }
        let mut config = before.clone().unwrap_or(ClusterConfig {
            format_version: FORMAT_VERSION,
            port: PORT,
            storage_servers: STORAGE_SERVERS,
            replicas: REPLICAS,
            database: None,
            initialized: false,
        });
        let started_before = before.as_ref().is_some_and(|before| before.initialized);
        config.port = port.unwrap_or(config.port);
        if let Some(count) = storage_servers {
            if started_before && count < config.storage_servers {
                return Err(Error::invalid(format!(
                    "this cluster has {} storage servers; to have {count}, drain and remove the others first",
                    config.storage_servers
                )));
            }
            config.storage_servers = count;
        }
        if let Some(replicas) = replicas {
            if started_before && replicas != config.replicas {
                return Err(Error::invalid(format!(
                    "this cluster was made for {} copies; `holdfast setrep {replicas} /` changes that while it runs",
                    config.replicas
                )));
            }
            config.replicas = replicas;
        }
        if let Some(database) = database {
            DatabaseUrl::parse(database)?;
            if started_before && config.database.as_deref() != Some(database) {
                return Err(Error::invalid(
                    "this cluster's metadata is in another database; start without --database, or in another --data-dir",
                ));
            }
            config.database = Some(database.into());
        }
        check(&config)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .io_context(|| format!("making {}", self.path.display()))?;
        for dir in ["logs", "run"] {
            let dir = self.path.join(dir);
            fs::create_dir_all(&dir).io_context(|| format!("making {}", dir.display()))?;
        }
        if !self.secret_path().exists() {
            write_private(&self.secret_path(), &format!("{}\n", ClusterSecret::generate_text()))?;
        }
        if !self.metrics_token_path().exists() {
            write_private(&self.metrics_token_path(), &format!("{}\n", crate::security::token::generate()))?;
        }
        self.write_config(&config)?;
        Ok(config)
    }

    /// A directory with something else in it is not taken over.
    fn refuse_foreign(&self) -> Result<()> {
        let foreign = match fs::read_dir(&self.path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io(format!("reading {}", self.path.display()), error)),
        };
        if foreign {
            return Err(Error::invalid(format!(
                "{} is not empty and not a cluster's directory (it has no cluster.toml); choose another --data-dir",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// The database has its cluster now.
    pub(super) fn note_initialized(&self, config: &ClusterConfig) -> Result<()> {
        if config.initialized {
            return Ok(());
        }
        self.write_config(&ClusterConfig { initialized: true, ..config.clone() })
    }

    /// Where the metadata is.
    pub(super) fn database(&self, config: &ClusterConfig) -> String {
        let sqlite = || format!("sqlite://{}", self.path.join("name-server").join("metadata.sqlite").display());
        config.database.clone().unwrap_or_else(sqlite)
    }

    /// Writes `client.toml`.
    pub(super) fn write_client_config(&self, config: &ClusterConfig) -> Result<()> {
        let secret = ClusterSecret::from_file(&self.secret_path())?;
        let client = ClientConfig {
            name_servers: vec![format!("http://127.0.0.1:{}", config.port)],
            token: Some(secret.superuser_token()),
            ca_cert: None,
        };
        let text = toml::to_string(&client).map_err(|e| Error::internal("cannot encode client.toml").with_source(e))?;
        write_private(&self.client_config_path(), &text)
    }

    /// The name server's URL.
    pub(super) fn name_server_url(&self) -> Result<String> {
        let path = self.client_config_path();
        let url = ClientConfig::read(&path)?.name_servers.into_iter().next();
        url.ok_or_else(|| Error::invalid(format!("{} lacks name_servers", path.display())))
    }

    /// Notes a member's process.
    pub(super) fn record_process(&self, process: &Recorded) -> Result<()> {
        let text =
            serde_json::to_string(process).map_err(|e| Error::internal("cannot encode a process").with_source(e))?;
        write_private(&self.process_path(&process.name), &text)
    }

    /// Forgets a member's process.
    pub(super) fn forget_process(&self, member: &str) -> Result<()> {
        let path = self.process_path(member);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// A member's process, if it is alive.
    pub(super) fn running(&self, member: &str) -> Result<Option<Recorded>> {
        let path = self.process_path(member);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
        };
        // A note that cannot be read is from a crash; the port check tells whether its process lives.
        let recorded: Option<Recorded> = serde_json::from_str(&text).ok();
        Ok(recorded.filter(Recorded::is_alive))
    }

    /// All members whose processes are alive.
    pub(super) fn all_running(&self) -> Result<Vec<Recorded>> {
        let Some(config) = self.config()? else { return Ok(Vec::new()) };
        let mut running = Vec::new();
        for name in super::member::names(config.storage_servers) {
            running.extend(self.running(&name)?);
        }
        Ok(running)
    }
}

fn check(config: &ClusterConfig) -> Result<()> {
    if !(1..=STORAGE_SERVERS_MAX).contains(&config.storage_servers) {
        return Err(Error::invalid(format!("--storage-servers must be 1 to {STORAGE_SERVERS_MAX}")));
    }
    if !(1..=REPLICATION_MAX).contains(&config.replicas) {
        return Err(Error::invalid(format!("--replicas must be 1 to {REPLICATION_MAX}")));
    }
    if u32::from(config.storage_servers) < config.replicas {
        return Err(Error::invalid(format!(
            "{} copies need as many storage servers, {} are too few",
            config.replicas, config.storage_servers
        )));
    }
    if config.port == 0 || config.port.checked_add(config.storage_servers).is_none() {
        return Err(Error::invalid(format!(
            "--port {} leaves no ports for {} storage servers",
            config.port, config.storage_servers
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_on_as_it_began() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = ClusterDir::open(&temporary.path().join("data")).unwrap();
        let config = dir.configure(Some(9000), None, Some(3), None).unwrap();
        assert_eq!((config.port, config.storage_servers, config.replicas), (9000, 3, 3));
        dir.note_initialized(&config).unwrap();
        assert_eq!(dir.configure(None, None, None, None).unwrap(), ClusterConfig { initialized: true, ..config });
        assert_eq!(dir.configure(None, Some(5), None, None).unwrap().storage_servers, 5);
        assert!(dir.configure(None, Some(4), None, None).unwrap_err().message().contains("drain"));
        assert!(dir.configure(None, None, Some(2), None).is_err());
        assert!(dir.configure(None, None, None, Some("postgres://h/d")).is_err());
    }

    #[test]
    fn foreign_directories_and_newer_formats_are_refused() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("photo.jpg"), "x").unwrap();
        let dir = ClusterDir::open(temporary.path()).unwrap();
        assert!(dir.configure(None, None, None, None).unwrap_err().message().contains("not empty"));
        fs::write(temporary.path().join("cluster.toml"), "format_version = 7\nnew = true").unwrap();
        assert!(dir.config().unwrap_err().message().contains("newer program"));
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = ClusterDir::open(&temporary.path().join("data")).unwrap();
        assert!(dir.configure(None, Some(1), Some(2), None).is_err());
        assert!(dir.configure(Some(65_534), Some(3), None, None).is_err());
        assert!(dir.configure(None, Some(0), None, None).is_err());
        assert!(!temporary.path().join("data").exists(), "nothing is made before the numbers are checked");
    }
}
