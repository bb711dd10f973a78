//! Finding the cluster: which name servers, with which token.
//!
//! What was typed comes first, then the environment, then files: the workspace's, `./holdfast-data/client.toml`, which
//! `holdfast up` writes, and the one in the user's configuration directory. The first that says where the cluster is
//! decides; when it says it wrongly that is an error, never a reason to ask the next.
//!
//! A token goes to the servers that it was given with. One that was typed goes to whatever was chosen. The
//! environment's goes to servers that the caller has named: by an option, by the environment or in the user's own
//! directory, but never to servers that were found where the command happens to run. A token of another file is taken
//! only if that file names one of the same servers, so that no cluster is ever shown another cluster's token.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::host::HostDir;
use super::host::trust::{self, Found};
use super::options::GlobalArgs;
use super::progress::say;
use crate::client::url::normal_base_url;
use crate::types::error::IoContext;
use crate::types::{Error, Result};

/// Where `holdfast up` leaves the way to its cluster.
const UP_DIRECTORY: &str = "holdfast-data";
const UP_FILE: &str = "client.toml";

/// What a file must have that is damaged or lost.
const REMEDY: &str = "it has two lines, name_servers = [\"http://HOST:7400\"] and token = \"hf_…\" (`holdfast token create NAME` \
                      makes one, by somebody with a superuser's token), and must be readable for you";

/// The content of a `client.toml`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
            let message = format!("cannot read the configuration {}: {error}; {REMEDY}", path.display());
            match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::IsADirectory => Error::invalid(message),
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
            Error::invalid(format!("{shown} is not a valid configuration: {why} (line {line}); {REMEDY}"))
        })?;
        if let (Some(ca_cert), Some(directory)) = (&mut config.ca_cert, path.parent()) {
            *ca_cert = directory.join(&ca_cert);
        }
        config.check(&shown.to_string()).map_err(|error| error.hint(REMEDY))?;
        Ok(config)
    }

    /// A configuration must say where the cluster is.
    fn check(&self, source: &str) -> Result<()> {
        if self.name_servers.is_empty() {
            let message = format!("{source} names no name server (`name_servers = [\"http://127.0.0.1:7400\"]`)");
            return Err(Error::invalid(message));
        }
        self.name_servers
            .iter()
            .try_for_each(|url| normal_base_url(url).map(drop))
            .map_err(|error| error.context(source))
    }

    /// The servers of an option or a variable.
    fn listed(urls: &str, source: &str) -> Result<Self> {
        let urls = urls.split(',').map(|url| url.trim().to_string()).filter(|url| !url.is_empty());
        let config = Self { name_servers: urls.collect(), ..Self::default() };
        if config.name_servers.is_empty() {
            return Err(Error::invalid(format!("{source} names no name server (for instance http://127.0.0.1:7400)")));
        }
        config.check(source)?;
        Ok(config)
    }
}

/// What the environment says; what is empty there says nothing.
#[derive(Debug, Default)]
struct Environment {
    config: Option<PathBuf>,
    name_server: Option<String>,
    token: Option<String>,
    ca_cert: Option<PathBuf>,
}

impl Environment {
    fn read() -> Result<Self> {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| match std::env::var(name) {
            Ok(value) if value.is_empty() => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(Error::invalid(format!("{name} is not UTF-8"))),
        };
        Ok(Self {
            config: path("HOLDFAST_CONFIG"),
            name_server: text("HOLDFAST_NAME_SERVER")?,
            token: text("HOLDFAST_TOKEN")?,
            ca_cert: path("HOLDFAST_CA_CERT"),
        })
    }
}

/// Who has named the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The caller: by an option, the environment, or in a directory of the user's own.
    Caller,
    /// A file where the command runs.
    Place,
}

/// Something that says where a cluster is.
#[derive(Debug, Clone)]
struct Source {
    origin: Origin,
    /// As it is called in messages.
    name: String,
    config: ClientConfig,
}

/// What an option (or a variable) and its neighbour say.
fn said(config: Option<&Path>, urls: Option<&str>, names: [&str; 2]) -> Result<Option<Source>> {
    let [config_name, urls_name] = names;
    let (name, config) = match (config, urls) {
        (Some(_), Some(_)) => {
            let message = format!("{config_name} and {urls_name} both say where the cluster is; give one of them");
            return Err(Error::invalid(message));
        }
        (Some(path), None) => (config_name, ClientConfig::read(path)?),
        (None, Some(urls)) => (urls_name, ClientConfig::listed(urls, urls_name)?),
        (None, None) => return Ok(None),
    };
    Ok(Some(Source { origin: Origin::Caller, name: name.into(), config }))
}

/// The configuration of the workspace that a command runs in, and the file that it stands in.
pub(crate) type OfWorkspace<'a> = (&'a ClientConfig, &'a Path);

/// Finds the cluster.
pub(crate) fn find(args: &GlobalArgs, workspace: Option<OfWorkspace<'_>>) -> Result<ClientConfig> {
    find_with(args, &Environment::read()?, workspace)
}

fn find_with(args: &GlobalArgs, env: &Environment, workspace: Option<OfWorkspace<'_>>) -> Result<ClientConfig> {
    let typed = said(args.config.as_deref(), args.name_server.as_deref(), ["--config", "--name-server"])?;
    let mut sources: Vec<Source> = match typed {
        Some(typed) => vec![typed],
        None => {
            let names = ["HOLDFAST_CONFIG", "HOLDFAST_NAME_SERVER"];
            said(env.config.as_deref(), env.name_server.as_deref(), names)?.into_iter().collect()
        }
    };
    sources.extend(workspace.map(|(config, file)| Source {
        origin: Origin::Place,
        name: file.display().to_string(),
        config: config.clone(),
    }));
    let typed_token = args.token.as_deref().filter(|token| !token.is_empty());
    // A file that is not needed must not be able to disturb by being damaged.
    let has_token = |first: &Source| {
        typed_token.is_some() || first.config.token.is_some() || (env.token.is_some() && first.origin == Origin::Caller)
    };
    let mut ignored = None;
    if !sources.first().is_some_and(has_token) {
        match found_here()? {
            Some(Ok(source)) => sources.push(source),
            Some(Err(why)) => ignored = Some(why),
            None => {}
        }
        sources.extend(of_user()?);
    }
    if let (Some(why), true) = (&ignored, sources.is_empty()) {
        return Err(Error::invalid(trust::remedy(why)));
    }
    if let Some(why) = &ignored {
        say(&format!("holdfast: {}", trust::remedy(why)));
    }
    let ca_cert = args.ca_cert.clone();
    choose(&sources, typed_token, env, ca_cert)?.ok_or_else(|| {
        Error::invalid(
            "no cluster is known here. Say where it is by --name-server URL and --token TOKEN (or HOLDFAST_NAME_SERVER \
             and HOLDFAST_TOKEN), by --config FILE (or HOLDFAST_CONFIG), in a workspace (`holdfast init`), or by \
             ./holdfast-data/client.toml, which `holdfast up` writes here when it starts a cluster",
        )
    })
}

/// `./holdfast-data/client.toml`; why not, when it does not count.
fn found_here() -> Result<Option<Result<Source, String>>> {
    let Ok(here) = HostDir::open(Path::new(".")) else { return Ok(None) };
    let path = Path::new(UP_DIRECTORY).join(UP_FILE);
    Ok(match trust::read_control(&here, UP_DIRECTORY, UP_FILE)? {
        None => None,
        Some(Found::Distrusted(why)) => Some(Err(why)),
        Some(Found::Trusted(text)) => {
            let config = ClientConfig::parse(&text, &path)?;
            Some(Ok(Source { origin: Origin::Place, name: path.display().to_string(), config }))
        }
    })
}

/// The file in the user's configuration directory.
fn of_user() -> Result<Option<Source>> {
    let Some(path) = dirs::config_dir().map(|directory| directory.join("holdfast/client.toml")) else {
        return Ok(None);
    };
    if !path.exists() {
        return Ok(None);
    }
    let config = ClientConfig::read(&path)?;
    Ok(Some(Source { origin: Origin::Caller, name: path.display().to_string(), config }))
}

/// The first source, with the token that may be shown to its servers.
fn choose(
    sources: &[Source],
    typed_token: Option<&str>,
    env: &Environment,
    ca_cert: Option<PathBuf>,
) -> Result<Option<ClientConfig>> {
    let Some((chosen, others)) = sources.split_first() else { return Ok(None) };
    let same_cluster = |other: &&Source| {
        let urls = &chosen.config.name_servers;
        other.config.name_servers.iter().any(|url| urls.iter().any(|known| same_url(url, known)))
    };
    let of_env = env.token.clone().filter(|_| chosen.origin == Origin::Caller);
    let token = typed_token
        .map(String::from)
        .or_else(|| chosen.config.token.clone())
        .or(of_env)
        .or_else(|| others.iter().filter(same_cluster).find_map(|other| other.config.token.clone()));
    if token.is_none() && env.token.is_some() {
        return Err(Error::invalid(format!(
            "the token in HOLDFAST_TOKEN is not shown to the name servers that {} names, because that file was found \
             where this command runs; write the token into it, or say by --config or --name-server that you mean them",
            chosen.name
        )));
    }
    let ca_cert = ca_cert
        .or_else(|| chosen.config.ca_cert.clone())
        .or_else(|| env.ca_cert.clone())
        .or_else(|| others.iter().filter(same_cluster).find_map(|other| other.config.ca_cert.clone()));
    Ok(Some(ClientConfig { name_servers: chosen.config.name_servers.clone(), token, ca_cert }))
}

/// What a parser says, without what it quotes from the file: that may be a token, or a URL with a password.
pub(crate) fn without_values(message: &str) -> String {
    // The name of a field is no value.
    if message.starts_with("missing field") || message.starts_with("unknown field") {
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

/// Writes a file that only its owner may read, whole or not at all. Until then it has a name that nobody can foresee, and
/// nothing is there: in a directory that others may write to, a link that waits under a fixed name would lead the
/// content elsewhere.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let context = || format!("writing {}", path.display());
    // The name is one of those that never travel (`host::own`), should it be left behind.
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix(".holdfast-").suffix(".part").rand_bytes(6);
    let new = builder.permissions(Permissions::from_mode(0o600)).tempfile_in(directory_of(path));
    let mut new = new.io_context(context)?;
    new.write_all(content).and_then(|()| new.as_file().sync_all()).io_context(context)?;
    new.persist(path).map_err(|error| Error::io(context(), error.error))?;
    sync_directory_of(path)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename last.
pub(crate) fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = directory_of(path);
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.io_context(|| format!("syncing {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_written_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("client.toml"), dir.path().join("theirs"));
        std::fs::write(&theirs, "theirs").unwrap();
        std::os::unix::fs::symlink(&theirs, dir.path().join("client.toml.new")).unwrap();
        write_private(&path, b"secret").unwrap();
        // A link in the place itself is replaced, not followed.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&theirs, &path).unwrap();
        write_private(&path, b"secret").unwrap();
        assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
        let meta = std::fs::symlink_metadata(&path).unwrap();
        assert!(
            meta.is_file() && meta.permissions().mode() & 0o777 == 0o600 && std::fs::read(&path).unwrap() == b"secret"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left behind");
    }

    fn config(urls: &[&str], token: Option<&str>) -> ClientConfig {
        let name_servers = urls.iter().map(|url| url.to_string()).collect();
        ClientConfig { name_servers, token: token.map(String::from), ca_cert: None }
    }

    fn source(origin: Origin, urls: &[&str], token: Option<&str>) -> Source {
        Source { origin, name: "a file".into(), config: config(urls, token) }
    }

    fn token_in_env() -> Environment {
        Environment { token: Some("of the environment".into()), ..Environment::default() }
    }

    #[test]
    fn a_token_goes_to_no_other_cluster_and_the_environments_to_no_found_one() {
        use Origin::*;
        let (a, b) = ("http://a:1", "http://b:1");
        let none = Environment::default();
        let chosen = |sources: &[Source], typed, env: &Environment| choose(sources, typed, env, None);
        let others = [source(Caller, &[a], None), source(Place, &[b], Some("secret of b"))];
        assert_eq!(chosen(&others, None, &none).unwrap().unwrap(), config(&[a], None));
        let same = [source(Caller, &[a], None), source(Place, &["http://a:1/", b], Some("of a"))];
        assert_eq!(chosen(&same, None, &none).unwrap().unwrap().token.as_deref(), Some("of a"));
        assert_eq!(chosen(&same, None, &token_in_env()).unwrap().unwrap().token.as_deref(), Some("of the environment"));
        let found = [source(Place, &[b], None)];
        assert_eq!(chosen(&found, Some("typed"), &none).unwrap().unwrap().token.as_deref(), Some("typed"));
        let error = chosen(&found, None, &token_in_env()).unwrap_err();
        assert!(error.message().contains("HOLDFAST_TOKEN") && error.message().contains("a file"), "{error}");
        let own = [source(Place, &[b], Some("its own"))];
        assert_eq!(chosen(&own, None, &token_in_env()).unwrap().unwrap().token.as_deref(), Some("its own"));
        assert_eq!(chosen(&own, Some("typed"), &token_in_env()).unwrap().unwrap().token.as_deref(), Some("typed"));
        assert!(chosen(&[], Some("t"), &none).unwrap().is_none());
    }

    #[test]
    fn options_come_before_the_environment_and_that_before_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.toml");
        write_private(&path, b"name_servers = [\"http://file:1\"]\ntoken = \"f\"\n").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let of_workspace = config(&["http://workspace:1"], Some("w"));
        let workspace = Some((&of_workspace, Path::new(".holdfast/config.toml")));
        let env = Environment { config: Some(path.clone()), ..token_in_env() };
        let listed = |token: Option<&str>| GlobalArgs {
            name_server: Some("http://x:1, http://y:1".into()),
            token: token.map(String::from),
            ..Default::default()
        };
        let find = |args: &GlobalArgs, env: &Environment| find_with(args, env, workspace);
        assert_eq!(find(&listed(Some("t")), &env).unwrap(), config(&["http://x:1", "http://y:1"], Some("t")));
        let both = config(&["http://x:1", "http://y:1"], Some("of the environment"));
        assert_eq!(find(&listed(None), &env).unwrap(), both);
        assert_eq!(find(&GlobalArgs::default(), &env).unwrap(), config(&["http://file:1"], Some("f")));
        assert_eq!(find(&GlobalArgs::default(), &token_in_env()).unwrap(), of_workspace);
        let typed = GlobalArgs { config: Some(path), ..Default::default() };
        let env = Environment { name_server: Some("http://env:1".into()), ..Environment::default() };
        assert_eq!(find(&typed, &env).unwrap(), config(&["http://file:1"], Some("f")));
    }

    #[test]
    fn what_says_it_wrongly_is_an_error_and_the_next_is_not_asked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.toml");
        let fallback = config(&["http://workspace:1"], Some("w"));
        let workspace = Some((&fallback, Path::new(".holdfast/config.toml")));
        let args = GlobalArgs { config: Some(path.clone()), ..Default::default() };
        for text in [
            "",
            "name_servers = []",
            "name_server = \"http://a:1\"",
            "[cluster]\nname_servers = [\"http://a:1\"]",
            "name_servers = [\"a:1\"]",
            "name_servers = [\"http://a:1\"]\ntokne = \"x\"",
            "name_servers = [\"http://a:1\", \"ftp://b\"]",
        ] {
            std::fs::write(&path, text).unwrap();
            for (args, env) in [
                (&args, Environment::default()),
                (&GlobalArgs::default(), Environment { config: Some(path.clone()), ..Environment::default() }),
            ] {
                let error = find_with(args, &env, workspace).unwrap_err();
                assert_eq!(error.code(), crate::types::ErrorCode::InvalidRequest, "{text:?}");
                assert!(error.message().contains("client.toml"), "{text:?}: {error}");
            }
        }
        std::fs::write(&path, "name_servers = [\"http://a:1\"]").unwrap();
        let both = GlobalArgs { name_server: Some("http://b:1".into()), ..args };
        for args in [
            both,
            GlobalArgs { name_server: Some(" , ".into()), ..Default::default() },
            GlobalArgs { name_server: Some("b:1".into()), ..Default::default() },
            GlobalArgs { config: Some(directory.path().join("gone")), ..Default::default() },
            GlobalArgs { config: Some(directory.path().into()), ..Default::default() },
        ] {
            let error = find_with(&args, &Environment::default(), workspace).unwrap_err();
            assert_eq!(error.code(), crate::types::ErrorCode::InvalidRequest, "{args:?}: {error}");
        }
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
