//! Files that say who somebody is and where the cluster is, and database URLs. Secrets are in them: none comes out in
//! an error.

use std::path::Path;

use holdfast::cli::inputs::{client_config, cluster_config, recorded_process, workspace_config};
use holdfast::db::DatabaseUrl;
use holdfast::storage::store::layout::{FORMAT_VERSION, ServerFile};

use super::each_text;

/// What must not come out, wherever it stands.
const SECRET: &str = "geheim";

/// `client.toml`, a workspace's `config.toml`, `cluster.toml`.
pub fn configs(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for read in [client_config, workspace_config, cluster_config] {
        match read(text) {
            Ok(canonical) => assert_eq!(read(&canonical).as_ref(), Ok(&canonical), "{text}"),
            Err(error) => assert!(!error.contains(SECRET) || is_told(&error), "{error}"),
        }
    }
}

/// Whether an error is about what must be told to be put right, and where no secret belongs: the name of an unknown
/// setting, which is mistyped most of the time, or a server's address.
fn is_told(error: &str) -> bool {
    error.contains("unknown field `") || error.contains("is not a server's URL")
}

pub fn config_seeds() -> Vec<Vec<u8>> {
    each_text(&[
        "name_servers = [\"http://127.0.0.1:7400\"]\ntoken = \"hf_geheim\"\nca_cert = \"ca.pem\"\n",
        "remote = \"/a/b\"\nname_servers = ['http://h:1', 'https://h:2']\ntoken = 'hf_geheim'\n",
        "format_version = 1\nport = 7400\nstorage_servers = 3\nreplicas = 2\ninitialized = true\n",
        "format_version = 1\nport = 1\nstorage_servers = 3\nreplicas = 2\ndatabase = \"postgres://u:geheim@h/d\"\n",
        "token = geheim",
        "token = [\"geheim\"]",
        "name_servers = \"geheim\"",
        "remote = \"geheim\"",
        "port = \"\"\"\\\ngeheim\"\"\"",
        "\"geheim\" = 1\n\"geheim\" = 2",
        "\"geheim\" = 1",
        "\"geheim\" = 184467440737095516151",
        "name_servers = [\"geheim\"]",
        "format_version = 99",
        "",
    ])
}

/// `server.json` of a storage server, and the notes of processes in `run/`.
pub fn identity_files(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("server.json");
    if let Ok(file) = ServerFile::parse(text, path) {
        assert!(file.format_version <= FORMAT_VERSION, "a newer program's file is not understood");
        let written = serde_json::to_string_pretty(&file).unwrap();
        assert_eq!(ServerFile::parse(&written, path).unwrap(), file);
    }
    if let Some(canonical) = recorded_process(text) {
        assert_eq!(recorded_process(&canonical), Some(canonical));
    }
}

pub fn identity_file_seeds() -> Vec<Vec<u8>> {
    each_text(&[
        r#"{"format_version":1,"identity":"00000000-0000-0000-0000-000000000001","cluster":null}"#,
        r#"{"format_version":1,"identity":"00000000000000000000000000000001","cluster":"00000000-0000-0000-0000-000000000002"}"#,
        r#"{"format_version":2}"#,
        r#"{"name":"storage-1","pid":4711,"started":815}"#,
        r#"{"name":"","pid":-1,"started":0}"#,
        "[]",
    ])
}

/// `--database`.
pub fn database_urls(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match DatabaseUrl::parse(text) {
        Ok(url @ DatabaseUrl::Postgres(_)) => {
            let DatabaseUrl::Postgres(full) = &url else { return };
            assert!(full.starts_with(text), "nothing is taken away");
            assert_eq!(DatabaseUrl::parse(full).unwrap(), url, "nothing is added twice");
            assert_eq!(format!("{url:?}"), "DatabaseUrl::Postgres(…)", "there may be a password in it");
        }
        Ok(DatabaseUrl::Sqlite(path)) => assert_eq!(Some(path.to_str().unwrap()), text.strip_prefix("sqlite://")),
        Err(error) => assert!(!error.message().contains(&format!(":{SECRET}")), "{error}"),
    }
}

pub fn database_url_seeds() -> Vec<Vec<u8>> {
    each_text(&[
        "postgres://u:geheim@h/d",
        "postgresql://h/d?connect_timeout=9&application_name=x",
        "postgres://%2Frun%2Fpostgresql/d?sslmode=verify-full",
        "sqlite://data/metadata.sqlite",
        "sqlite://",
        "postgres:/u:geheim@h/d",
        "mysql://u:geheim@h/d",
        "u:geheim@h",
    ])
}
