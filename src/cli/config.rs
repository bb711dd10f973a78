//! Finding the cluster: which name servers, with which token.
//!
//! In this order: `--config`; `--name-server` and `--token`; the workspace's configuration;
//! `./holdfast-data/client.toml`, which `holdfast up` writes; the user's configuration directory. (The first
//! two have environment variables as well.) The first source that names servers decides. A token is taken
//! from that source or one before it; from a later one only if that one names one of the same servers, so that
//! no cluster is ever shown another cluster's token.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::args::GlobalArgs;
use crate::client::name_server::normal_base_url;
use crate::types::error::IoContext;
use crate::types::{Error, Result};

/// Where `holdfast up` leaves the way to its cluster.
const UP_CONFIG: &str = "holdfast-data/client.toml";

/// The content of a `client.toml`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ClientConfig {
    /// URLs of name servers.
    #[serde(default)]
    pub(crate) name_servers: Vec<String>,
    /// The bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Certificates to trust besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_cert: Option<PathBuf>,
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("ClientConfig").field("name_servers", &self.name_servers).field("token", &token).finish()
    }
}

impl ClientConfig {
    /// Reads a file that must be there. A relative `ca_cert` is relative to it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("cannot read the configuration {}: {error}", path.display());
            match error.kind() {
                std::io::ErrorKind::NotFound => Error::invalid(message),
                _ => Error::internal(message),
            }
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self> {
        let shown = path.display();
        // The parser's message shows the line; it may hold the token, so only its place is told.
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            let why = without_values(error.message());
            Error::invalid(format!("{shown} is not a valid configuration: {why} (line {line})"))
        })?;
        if let (Some(ca_cert), Some(directory)) = (&mut config.ca_cert, path.parent()) {
            *ca_cert = directory.join(&ca_cert);
        }
        Ok(config)
    }

    fn read_if_there(path: &Path) -> Result<Option<Self>> {
        if path.exists() { Self::read(path).map(Some) } else { Ok(None) }
    }

    fn from_options(args: &GlobalArgs) -> Self {
        let urls = args.name_server.iter().flat_map(|list| list.split(','));
        let name_servers = urls.map(|url| url.trim().to_string()).filter(|url| !url.is_empty()).collect();
        let token = args.token.clone().filter(|token| !token.is_empty());
        Self { name_servers, token, ca_cert: args.ca_cert.clone() }
    }
}

/// Finds the cluster. `workspace` is the configuration of the workspace that the command runs in.
pub(crate) fn find(args: &GlobalArgs, workspace: Option<&ClientConfig>) -> Result<ClientConfig> {
    let mut sources = Vec::new();
    if let Some(path) = args.config.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        sources.push(ClientConfig::read(path)?);
    }
    sources.push(ClientConfig::from_options(args));
    sources.extend(workspace.cloned());
    // A file that is not needed must not be able to disturb by being damaged.
    if !sources.iter().any(|source| !source.name_servers.is_empty() && source.token.is_some()) {
        sources.extend(ClientConfig::read_if_there(Path::new(UP_CONFIG))?);
        if let Some(directory) = dirs::config_dir() {
            sources.extend(ClientConfig::read_if_there(&directory.join("holdfast/client.toml"))?);
        }
    }
    choose(&sources).ok_or_else(|| {
        Error::invalid(
            "no cluster is known here. Say where it is by --name-server URL and --token TOKEN (or HOLDFAST_NAME_SERVER \
             and HOLDFAST_TOKEN), by --config FILE (or HOLDFAST_CONFIG), in a workspace (`holdfast init`), or by \
             ./holdfast-data/client.toml, which `holdfast up` writes here when it starts a cluster",
        )
    })
}

/// The first source that names servers, with the token that may be shown to them.
fn choose(sources: &[ClientConfig]) -> Option<ClientConfig> {
    let at = sources.iter().position(|source| !source.name_servers.is_empty())?;
    let chosen = &sources[at];
    let same_cluster = |other: &ClientConfig| {
        other.name_servers.iter().any(|url| chosen.name_servers.iter().any(|known| same_url(url, known)))
    };
    let mut trusted = sources
        .iter()
        .enumerate()
        .filter(|(index, source)| *index <= at || same_cluster(source))
        .map(|(_, source)| source);
    let token = trusted.clone().find_map(|source| source.token.clone());
    let ca_cert = trusted.find_map(|source| source.ca_cert.clone());
    Some(ClientConfig { name_servers: chosen.name_servers.clone(), token, ca_cert })
}

/// What a parser says, without what it quotes from the file: that may be a token, or a URL with a password.
pub(crate) fn without_values(message: &str) -> String {
    // The name of a field is no value.
    if message.starts_with("missing field") {
        return message.into();
    }
    let (mut shown, mut rest) = (String::new(), message);
    while let Some((before, after)) = rest.split_once(['"', '`']) {
        // The quoted text may hold quotes itself, so everything up to the last one that closes it goes.
        let quote = rest.as_bytes()[before.len()];
        let end = after.as_bytes().iter().rposition(|byte| *byte == quote);
        shown.push_str(before);
        shown.push('…');
        rest = end.map_or("", |end| &after[end + 1..]);
    }
    shown + rest
}

fn same_url(a: &str, b: &str) -> bool {
    matches!((normal_base_url(a), normal_base_url(b)), (Ok(a), Ok(b)) if a == b)
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let context = || format!("writing {}", path.display());
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).io_context(context)?;
    // An older file that was left behind may have been made with other permissions.
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).io_context(context)?;
    file.write_all(content).and_then(|()| file.sync_all()).io_context(context)?;
    std::fs::rename(&new, path).io_context(context)?;
    sync_directory_of(path)
}

/// Makes a rename last.
pub(crate) fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.io_context(|| format!("syncing {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(urls: &[&str], token: Option<&str>) -> ClientConfig {
        let name_servers = urls.iter().map(|url| url.to_string()).collect();
        ClientConfig { name_servers, token: token.map(String::from), ca_cert: None }
    }

    #[test]
    fn a_token_goes_to_no_other_cluster() {
        let (a, b) = ("http://a:1", "http://b:1");
        let chosen = choose(&[source(&[a], None), source(&[b], Some("secret of b"))]).unwrap();
        assert_eq!(chosen, source(&[a], None));
        let chosen = choose(&[source(&[a], None), source(&["http://a:1/", b], Some("of a"))]).unwrap();
        assert_eq!(chosen, source(&[a], Some("of a")));
        let chosen = choose(&[source(&[], Some("typed")), source(&[b], Some("written"))]).unwrap();
        assert_eq!(chosen, source(&[b], Some("typed")));
        assert!(choose(&[source(&[], Some("t"))]).is_none());
    }

    #[test]
    fn options_come_before_the_workspace_and_a_file_before_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.toml");
        write_private(&path, b"name_servers = [\"http://file:1\"]\ntoken = \"f\"\n").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let workspace = source(&["http://workspace:1"], Some("w"));
        let mut args = GlobalArgs {
            name_server: Some("http://x:1, http://y:1".into()),
            token: Some("t".into()),
            ..Default::default()
        };
        assert_eq!(find(&args, Some(&workspace)).unwrap(), source(&["http://x:1", "http://y:1"], Some("t")));
        args.config = Some(path);
        assert_eq!(find(&args, Some(&workspace)).unwrap(), source(&["http://file:1"], Some("f")));
        assert_eq!(find(&GlobalArgs::default(), Some(&workspace)).unwrap(), workspace);
    }

    #[test]
    fn a_damaged_file_is_named_without_showing_its_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.toml");
        std::fs::write(&path, "name_servers = []\ntoken = hf_geheim\n").unwrap();
        let error = ClientConfig::read(&path).unwrap_err();
        assert!(error.message().contains("client.toml") && !error.chain().contains("geheim"), "{}", error.chain());
        for text in
            ["name_servers = \"hf_geheim\"", "token = 4711", "name_servers = []\n\"hf_geheim", "token = ge.heim"]
        {
            let error = ClientConfig::parse(text, &path).unwrap_err();
            assert!(!["geheim", "heim", "4711"].iter().any(|value| error.message().contains(value)), "{error}");
        }
        assert_eq!(
            without_values("invalid type: string \"a\"b\", expected a sequence"),
            "invalid type: string …, expected a sequence"
        );
        assert_eq!(without_values("missing field `port`"), "missing field `port`");
    }
}
