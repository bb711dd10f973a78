//! `client.toml`: how clients reach the cluster.
//!
//! `up` writes it once. From then on it belongs to the person: it may have another token than the first one, which may
//! have been revoked. So a file that is there is replaced only when its token is known to be worthless and there is a
//! better one, and then it is put aside. Nothing else depends on the token; the cluster starts whatever it is.

use std::path::Path;

use super::cluster::{ClusterConfig, ClusterDir};
use super::life::Ready;
use super::private_file::write_private;
use crate::cli::config::ClientConfig;
use crate::client::{Credentials, HttpClient, NameServerClient};
use crate::types::{DfsPath, Error, ErrorCode, Result};

/// What is known of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The name server knows it.
    Works,
    /// It was revoked, has ended, or never was one.
    Worthless,
    /// That cannot be found out now.
    Unknown,
}

/// What becomes of the file.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Keep,
    /// Writes one with the first token.
    Write,
    /// Puts the file aside, and writes one with the first token.
    Replace,
    /// Writes one without a token, which somebody must put in.
    WriteWithout,
    /// Keeps the file, and says that its token is worthless.
    Complain,
}

/// What to do about a file that is `there`, with the verdicts on its token and on the first one.
fn decide(there: bool, token: Verdict, first: Verdict) -> Action {
    match (there, token, first) {
        (false, _, Verdict::Works | Verdict::Unknown) => Action::Write,
        (false, _, Verdict::Worthless) => Action::WriteWithout,
        (true, Verdict::Works | Verdict::Unknown, _) => Action::Keep,
        (true, Verdict::Worthless, Verdict::Works) => Action::Replace,
        (true, Verdict::Worthless, Verdict::Worthless | Verdict::Unknown) => Action::Complain,
    }
}

/// Before anything is started: a new cluster has its file at once, and one that moves to another port is followed.
pub(super) fn prepare(dir: &ClusterDir, before: Option<&ClusterConfig>, config: &ClusterConfig) -> Result<()> {
    let path = dir.client_config_path();
    match before {
        _ if !path.exists() && !config.initialized => write(dir, config, Some(dir.first_token()?)),
        Some(before) if path.exists() && before.port != config.port => follow(&path, before, config),
        _ => Ok(()),
    }
}

/// Puts the new URL in the place of the old one, and leaves the rest.
fn follow(path: &Path, before: &ClusterConfig, config: &ClusterConfig) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    // One that cannot be read is told of later.
    let Ok(mut table) = text.parse::<toml::Table>() else { return Ok(()) };
    let urls = table.get_mut("name_servers").and_then(toml::Value::as_array_mut);
    let old = before.name_server_url();
    let is_old = |url: &&mut toml::Value| url.as_str().is_some_and(|url| url.trim_end_matches('/') == old);
    let Some(url) = urls.and_then(|urls| urls.iter_mut().find(is_old)) else { return Ok(()) };
    *url = toml::Value::String(config.name_server_url());
    write_private(path, &table.to_string())
}

/// After the start: sees to it that clients find a token that works, if there is one. Answers what a person should know.
pub(super) async fn settle(dir: &ClusterDir, config: &ClusterConfig, ready: Ready) -> Result<Option<String>> {
    let path = dir.client_config_path();
    let shown = path.display();
    let there = path.exists();
    let mut token = None;
    if there {
        match ClientConfig::read(&path) {
            Ok(client)
                if client.name_servers.iter().any(|url| url.trim_end_matches('/') == config.name_server_url()) =>
            {
                token = client.token;
            }
            Ok(_) => {
                return Ok(Some(format!("{shown} names other name servers than this cluster's; it is left as it is")));
            }
            Err(error) => return Ok(Some(format!("{}; the file is left as it is", error.message()))),
        }
        // Without one it comes from the environment.
        if token.is_none() {
            return Ok(None);
        }
    }
    let first = dir.first_token()?;
    // A database that has lost something may have lost tokens too, and has them again after the restore.
    let judge = async |token: Option<&str>| match (token, ready) {
        (Some(token), Ready::ToServe) => verdict(config, token).await,
        _ => Verdict::Unknown,
    };
    let of_file = judge(token.as_deref()).await;
    let of_first = if of_file == Verdict::Works { Verdict::Unknown } else { judge(Some(&first)).await };
    Ok(match decide(there, of_file, of_first) {
        Action::Keep => None,
        Action::Write => {
            write(dir, config, Some(first))?;
            None
        }
        Action::Replace => {
            let aside = path.with_extension("toml.old");
            std::fs::rename(&path, &aside)
                .map_err(|error| Error::io(format!("renaming {shown} to {}", aside.display()), error))?;
            write(dir, config, Some(first))?;
            Some(format!(
                "The token in {shown} was not valid any more: it was revoked or has ended. The file is {} now; the new one \
                 has the first superuser token.",
                aside.display()
            ))
        }
        Action::WriteWithout => {
            write(dir, config, None)?;
            Some(format!(
                "The first superuser token was revoked, so {shown} has no token: put one in (token = \"hf_…\"), or set \
                 HOLDFAST_TOKEN."
            ))
        }
        Action::Complain => Some(format!(
            "The token in {shown} is not valid: it was revoked or has ended. The cluster runs; put a token in that works, \
             or set HOLDFAST_TOKEN."
        )),
    })
}

async fn verdict(config: &ClusterConfig, token: &str) -> Verdict {
    let Ok(http) = HttpClient::new(None) else { return Verdict::Unknown };
    let credentials = Credentials::Token(token.into());
    let Ok(names) = NameServerClient::new(http, vec![config.name_server_url()], credentials) else {
        return Verdict::Unknown;
    };
    match names.stat(&DfsPath::root()).await {
        Ok(_) => Verdict::Works,
        Err(error) => match error.code() {
            ErrorCode::Unauthorized => Verdict::Worthless,
            // It is known, and is for a part of the namespace.
            ErrorCode::Forbidden => Verdict::Works,
            _ => Verdict::Unknown,
        },
    }
}

fn write(dir: &ClusterDir, config: &ClusterConfig, token: Option<String>) -> Result<()> {
    let client = ClientConfig { name_servers: vec![config.name_server_url()], token, ca_cert: None };
    let text = toml::to_string(&client).map_err(|e| Error::internal("cannot encode client.toml").with_source(e))?;
    write_private(&dir.client_config_path(), &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_by_a_better_one() {
        use Verdict::*;
        for (there, token, first, want) in [
            (false, Unknown, Works, Action::Write),
            (false, Unknown, Unknown, Action::Write),
            (false, Unknown, Worthless, Action::WriteWithout),
            (true, Works, Worthless, Action::Keep),
            (true, Unknown, Works, Action::Keep),
            (true, Worthless, Works, Action::Replace),
            (true, Worthless, Worthless, Action::Complain),
            (true, Worthless, Unknown, Action::Complain),
        ] {
            assert_eq!(decide(there, token, first), want, "{there} {token:?} {first:?}");
        }
    }

    #[test]
    fn a_cluster_that_moves_is_followed_and_nothing_else_is_touched() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = ClusterDir::open(&temporary.path().join("data")).unwrap();
        let before = dir.configure(Some(9000), None, None, None).unwrap();
        let config = dir.configure(Some(9100), None, None, None).unwrap();
        let path = dir.client_config_path();
        let file = |urls: &str| format!("name_servers = [{urls}]\nown = 1\ntoken = \"mine\"\n");
        for (urls, want) in [
            ("\"http://127.0.0.1:9000/\", \"http://b:1\"", "\"http://127.0.0.1:9100\", \"http://b:1\""),
            ("\"http://elsewhere:1\"", "\"http://elsewhere:1\""),
        ] {
            write_private(&path, &file(urls)).unwrap();
            prepare(&dir, Some(&before), &config).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), file(want));
        }
        write_private(&path, "not toml").unwrap();
        prepare(&dir, Some(&before), &config).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not toml");
    }
}
