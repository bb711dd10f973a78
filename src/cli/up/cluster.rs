//! The data directory of `holdfast up`.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::private_file::{TEMPORARY, write_private};
use super::recorded::Recorded;
use crate::cli::config::without_values;
use crate::cli::output::human_counted;
use crate::db::DatabaseUrl;
use crate::security::ClusterSecret;
use crate::types::error::IoContext;
use crate::types::limits::REPLICATION_MAX;
use crate::types::{Error, Hidden, Result};

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

/// Directories in it.
const LOGS: &str = "logs";
const RUN: &str = "run";
const NAME_SERVER: &str = "name-server";
/// What the directories of storage servers begin with.
const STORAGE: &str = "storage-";

/// `cluster.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct ClusterConfig {
    pub(super) format_version: u32,
    pub(super) port: u16,
    pub(super) storage_servers: u16,
    pub(super) replicas: u32,
    /// Absent: SQLite in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) database: Option<Hidden>,
    /// Whether the database has its cluster; until then the name server may make one.
    #[serde(default)]
    pub(super) initialized: bool,
}

impl ClusterConfig {
    /// Where the name server is reached.
    pub(super) fn name_server_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Reads the content of `cluster.toml`. The error has none of the values, of which one may be a password.
    pub(in crate::cli) fn parse(text: &str) -> std::result::Result<Self, String> {
        let wrong = |error: toml::de::Error| without_values(error.message());
        let table: toml::Table = text.parse().map_err(wrong)?;
        let version = table.get("format_version").and_then(toml::Value::as_integer).unwrap_or(0);
        if version > FORMAT_VERSION.into() {
            return Err(format!(
                "it has format {version}, this program knows formats up to {FORMAT_VERSION}; use the newer program"
            ));
        }
        let config: Self = table.try_into().map_err(wrong)?;
        check(&config).map_err(|error| error.message().to_string())?;
        Ok(config)
    }
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
        self.path.join(LOGS).join(format!("{member}.log"))
    }

    fn process_path(&self, member: &str) -> PathBuf {
        self.path.join(RUN).join(format!("{member}.json"))
    }

    /// What the directory says, if `up` has run here before.
    pub(super) fn config(&self) -> Result<Option<ClusterConfig>> {
        let path = self.config_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let unread = Error::invalid(format!("{} cannot be read: {error}", path.display()));
                return Err(unread.hint(self.config_remedy()));
            }
        };
        let parsed = ClusterConfig::parse(&text);
        parsed.map(Some).map_err(|reason| match reason.contains("newer program") {
            true => Error::invalid(format!("{} cannot be read: {reason}. Nothing was changed", path.display())),
            false => Error::invalid(format!("{} cannot be read: {reason}; {}", path.display(), self.config_remedy())),
        })
    }

    /// How the file is had again.
    fn config_remedy(&self) -> String {
        let found = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let servers = found.filter(|entry| entry.file_name().to_string_lossy().starts_with(STORAGE)).count().max(1);
        format!(
            "put it back from a backup, or write it anew with these lines: format_version = {FORMAT_VERSION}, port = {PORT}, \
             storage_servers = {servers}, replicas = {REPLICAS}, initialized = true (and database = \"postgres://…\", if the \
             metadata is there). Nothing was changed"
        )
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
        database: Option<&Hidden>,
    ) -> Result<ClusterConfig> {
        let before = self.config()?;
        match before {
            None => self.refuse_foreign()?,
            Some(_) => self.require_secret()?,
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
                    "this cluster has {}; to have {count}, drain and remove the others first",
                    human_counted(config.storage_servers.into(), "storage server")
                )));
            }
            config.storage_servers = count;
        }
        if let Some(replicas) = replicas {
            if started_before && replicas != config.replicas {
                return Err(Error::invalid(format!(
                    "this cluster was made for {}; `holdfast setrep {replicas} /` changes that while it runs",
                    human_counted(config.replicas.into(), "copy")
                )));
            }
            config.replicas = replicas;
        }
        if let Some(database) = database {
            DatabaseUrl::parse(database.reveal())?;
            if started_before && config.database.as_ref() != Some(database) {
                return Err(Error::invalid(
                    "this cluster's metadata is in another database; start without --database, or in another --data-dir",
                ));
            }
            config.database = Some(database.clone());
        }
        check(&config)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .io_context(|| format!("making {}", self.path.display()))?;
        for dir in [LOGS, RUN, NAME_SERVER] {
            make_private_dir(&self.path.join(dir))?;
        }
        if before.is_none() && !self.secret_path().exists() {
            write_private(&self.secret_path(), &format!("{}\n", ClusterSecret::generate_text()))?;
        }
        if !self.metrics_token_path().exists() {
            write_private(&self.metrics_token_path(), &format!("{}\n", crate::security::token::generate()))?;
        }
        self.write_config(&config)?;
        Ok(config)
    }

    /// A cluster without its secret is not started, and gets no new one: nothing that it has signed, and no server of
    /// it, would know that.
    pub(super) fn require_secret(&self) -> Result<()> {
        let path = self.secret_path();
        if path.exists() {
            return ClusterSecret::from_file(&path).map(drop);
        }
        Err(Error::invalid(format!(
            "{} is missing, and the cluster in {} cannot be started without its secret: put the file back from a backup \
             (one line, mode 0600). Only if nothing was ever stored in this cluster, remove the whole directory and start \
             anew. Nothing was changed",
            path.display(),
            self.path.display()
        )))
    }

    /// A directory with something else in it is not taken over. What a first start leaves when it is killed before it
    /// has written cluster.toml is ours.
    fn refuse_foreign(&self) -> Result<()> {
        let ours = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            [LOGS, RUN, NAME_SERVER, "secret", "metrics-token"].iter().any(|ours| name == *ours)
                || name.to_string_lossy().starts_with(TEMPORARY)
        };
        let foreign = match fs::read_dir(&self.path) {
            Ok(mut entries) => entries.any(|entry| entry.is_ok_and(|entry| !ours(&entry))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io(format!("reading {}", self.path.display()), error)),
        };
        let has = |name: &str| self.path.join(name).exists();
        if foreign && has("secret") && has(NAME_SERVER) {
            let lost =
                Error::invalid(format!("{} is missing, and a cluster is beside it", self.config_path().display()));
            return Err(lost.hint(self.config_remedy()));
        }
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
    pub(super) fn database(&self, config: &ClusterConfig) -> Hidden {
        let sqlite = || format!("sqlite://{}", self.path.join(NAME_SERVER).join("metadata.sqlite").display());
        config.database.clone().unwrap_or_else(|| sqlite().into())
    }

    /// The token that is derived from the secret.
    pub(super) fn first_token(&self) -> Result<String> {
        Ok(ClusterSecret::from_file(&self.secret_path())?.superuser_token())
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
        for name in names(config.storage_servers) {
            running.extend(self.running(&name)?);
        }
        Ok(running)
    }
}

/// Makes a directory that only its owner may enter, also when it was made by an older program.
fn make_private_dir(dir: &Path) -> Result<()> {
    let made = match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    made.and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
        .io_context(|| format!("making {}", dir.display()))
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
            "--replicas {} needs as many storage servers; --storage-servers {} is too few",
            config.replicas, config.storage_servers
        )));
    }
    if config.port == 0 || config.port.checked_add(config.storage_servers).is_none() {
        return Err(Error::invalid(format!(
            "--port {} leaves no ports for {}",
            config.port,
            human_counted(config.storage_servers.into(), "storage server")
        )));
    }
    Ok(())
}

/// The names of all members.
pub(super) fn names(storage_servers: u16) -> impl Iterator<Item = String> {
    std::iter::once("name-server".to_string()).chain((1..=storage_servers).map(|number| format!("storage-{number}")))
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
        assert!(dir.configure(None, None, None, Some(&"postgres://h/d".parse().unwrap())).is_err());
    }

    #[test]
    fn foreign_directories_and_newer_formats_are_refused() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("photo.jpg"), "x").unwrap();
        let dir = ClusterDir::open(temporary.path()).unwrap();
        assert!(dir.configure(None, None, None, None).unwrap_err().message().contains("not empty"));
        fs::write(temporary.path().join("cluster.toml"), "format_version = 7\nnew = true").unwrap();
        assert!(dir.config().unwrap_err().message().contains("newer program"));
        for text in [
            "format_version = 1\nport = 65535\nstorage_servers = 9\nreplicas = 2",
            "format_version = 1\nport = \"postgres://u:geheim@h/d\"\nstorage_servers = 3\nreplicas = 2",
            "format_version = 1\nport = 7400\nstorage_servers = 65535\nreplicas = 2",
        ] {
            fs::write(temporary.path().join("cluster.toml"), text).unwrap();
            let error = dir.config().unwrap_err();
            assert!(error.message().contains("cluster.toml") && !error.message().contains("geheim"), "{error}");
        }
    }

    #[test]
    fn a_cluster_without_its_secret_is_left_as_it_is() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = ClusterDir::open(&temporary.path().join("data")).unwrap();
        dir.configure(None, None, None, None).unwrap();
        let before = fs::read(dir.config_path()).unwrap();
        fs::remove_file(dir.secret_path()).unwrap();
        let error = dir.configure(Some(9000), None, None, None).unwrap_err();
        assert!(error.message().contains("secret") && error.message().contains("backup"), "{error}");
        assert!(!dir.secret_path().exists() && fs::read(dir.config_path()).unwrap() == before);
    }

    #[test]
    fn a_first_start_that_was_killed_can_be_repeated() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = ClusterDir::open(&temporary.path().join("data")).unwrap();
        dir.configure(None, None, None, None).unwrap();
        let secret = fs::read(dir.secret_path()).unwrap();
        fs::remove_file(dir.config_path()).unwrap();
        fs::write(dir.path().join(format!("{TEMPORARY}x")), "").unwrap();
        dir.configure(None, None, None, None).unwrap();
        assert_eq!(fs::read(dir.secret_path()).unwrap(), secret);
    }

    #[test]
    fn directories_are_private_whoever_made_them() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = ClusterDir::open(&temporary.path().join("data")).unwrap();
        dir.configure(None, None, None, None).unwrap();
        for name in [LOGS, RUN, NAME_SERVER] {
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        dir.configure(None, None, None, None).unwrap();
        for name in [LOGS, RUN, NAME_SERVER] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{name}");
        }
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
