//! Connections to either backend, and the pools of them.
//!
//! diesel's `MultiConnection` tries one backend after the other with the same URL; a Postgres that is down
//! would then become a SQLite file with a strange name. So the scheme decides here, and the pool's manager
//! makes exactly that kind of connection.
#![allow(missing_docs, reason = "diesel's derive makes public items without any")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::R2D2Connection;

use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

/// Statement, lock and idle timeouts of every Postgres connection, in milliseconds: what a takeover of the
/// lease waits for at most.
const PG_TIMEOUT_MS: u32 = 3_000;
/// How long a writer waits for another process's write lock on SQLite, in milliseconds.
const SQLITE_BUSY_TIMEOUT_MS: u32 = 3_000;
/// How long a request waits for a connection.
const POOL_TIMEOUT: Duration = Duration::from_secs(5);
/// Reading connections of SQLite, and all connections to Postgres.
pub(super) const POOL_CONNECTIONS_MAX: u32 = 8;

/// A connection to either backend.
#[derive(diesel::MultiConnection)]
pub enum AnyConnection {
    /// To a Postgres server.
    Postgres(PgConnection),
    /// To an embedded SQLite file.
    Sqlite(SqliteConnection),
}

/// How a database is named.
const DATABASE_URLS: &str = "postgres://USER@HOST/NAME or sqlite://PATH";

/// Where the metadata is.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A libpq URL.
    Postgres(String),
    /// A file.
    Sqlite(PathBuf),
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("Postgres(…)"),
            Self::Sqlite(path) => write!(f, "Sqlite({})", path.display()),
        }
    }
}

impl DatabaseUrl {
    /// Reads `postgres://…` or `sqlite://path`; any other scheme is refused.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(with_connection_limits(text)));
        }
        match text.strip_prefix("sqlite://") {
            Some("") => Err(Error::invalid("sqlite:// needs the path of a file behind it")),
            Some(path) => Ok(Self::Sqlite(path.into())),
            // What was typed is not shown: it may hold a password.
            None => Err(Error::invalid(match text.split_once("://") {
                Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                    format!("the database URL starts with {scheme:?}; it must be {DATABASE_URLS}")
                }
                _ => format!("the database URL must be {DATABASE_URLS}"),
            })),
        }
    }
}

/// Gives libpq a bound on connecting and on dead peers, where the URL does not.
fn with_connection_limits(url: &str) -> String {
    let mut url = url.to_string();
    for (name, value) in [
        ("connect_timeout", "3"),
        ("tcp_user_timeout", "5000"),
        ("keepalives_idle", "5"),
        ("target_session_attrs", "read-write"),
        ("application_name", "holdfast"),
    ] {
        if !url.contains(&format!("{name}=")) {
            let separator = if url.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{separator}{name}={value}"));
        }
    }
    url
}

/// What a connection of a pool is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Write,
    Read,
}

/// Makes and checks connections for the pool.
#[derive(Debug)]
pub(super) struct Manager {
    url: DatabaseUrl,
    purpose: Use,
}

impl r2d2::ManageConnection for Manager {
    type Connection = AnyConnection;
    type Error = diesel::r2d2::Error;

    fn connect(&self) -> std::result::Result<AnyConnection, Self::Error> {
        connect(&self.url, self.purpose)
    }

    fn is_valid(&self, connection: &mut AnyConnection) -> std::result::Result<(), Self::Error> {
        connection.ping().map_err(diesel::r2d2::Error::QueryError)
    }

    fn has_broken(&self, connection: &mut AnyConnection) -> bool {
        connection.is_broken()
    }
}

fn connect(url: &DatabaseUrl, purpose: Use) -> std::result::Result<AnyConnection, diesel::r2d2::Error> {
    let mut connection = match url {
        DatabaseUrl::Postgres(url) => PgConnection::establish(url).map(AnyConnection::Postgres),
        DatabaseUrl::Sqlite(path) => SqliteConnection::establish(&path.to_string_lossy()).map(AnyConnection::Sqlite),
    }
    .map_err(diesel::r2d2::Error::ConnectionError)?;
    let settings = match (&connection, purpose) {
        (AnyConnection::Postgres(_), _) => format!(
            "SET statement_timeout = {PG_TIMEOUT_MS}; SET lock_timeout = {PG_TIMEOUT_MS};
             SET idle_in_transaction_session_timeout = {PG_TIMEOUT_MS}; SET TIME ZONE 'UTC';
             SET synchronous_commit = on"
        ),
        // The timeout comes first, so that the switch to WAL waits for a checkpoint under way.
        (AnyConnection::Sqlite(_), Use::Write) => format!(
            "PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 67108864"
        ),
        (AnyConnection::Sqlite(_), Use::Read) => {
            format!("PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}; PRAGMA query_only = ON")
        }
    };
    connection.batch_execute(&settings).map_err(diesel::r2d2::Error::QueryError)?;
    Ok(connection)
}

pub(super) type Pool = r2d2::Pool<Manager>;
pub(super) type PooledConnection = r2d2::PooledConnection<Manager>;

/// A pool that connects when a connection is first needed.
pub(super) fn pool(url: &DatabaseUrl, purpose: Use) -> Pool {
    let size = match (url, purpose) {
        (DatabaseUrl::Sqlite(_), Use::Write) => 1,
        _ => POOL_CONNECTIONS_MAX,
    };
    r2d2::Pool::builder()
        .max_size(size)
        .min_idle(Some(0))
        .connection_timeout(POOL_TIMEOUT)
        .error_handler(Box::new(LogPoolErrors))
        .build_unchecked(Manager { url: url.clone(), purpose })
}

#[derive(Debug)]
struct LogPoolErrors;

impl<E: std::error::Error> r2d2::HandleError<E> for LogPoolErrors {
    fn handle_error(&self, error: E) {
        log::warn!("the database cannot be reached: {error}");
    }
}

/// Connects once, outside any pool, so that the reason of a failure is known at once.
pub(super) fn connect_once(url: &DatabaseUrl) -> Result<AnyConnection> {
    connect(url, Use::Write).map_err(|error| {
        Error::new(ErrorCode::Unavailable, format!("cannot connect to the database: {error}")).with_source(error)
    })
}

/// Keeps a second name server off a SQLite file: an exclusive lock on a file beside it, held while the
/// program lives.
pub(super) fn lock_sqlite(path: &Path) -> Result<std::fs::File> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).io_context(|| format!("making the directory {}", parent.display()))?;
    }
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let file = std::fs::File::create(&lock_path).io_context(|| format!("creating {}", lock_path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::new(
            ErrorCode::InvalidRequest,
            format!("{} is in use by another name server; several name servers need Postgres", path.display()),
        )
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_schemes() {
        assert!(
            matches!(DatabaseUrl::parse("postgres://u@h/d").unwrap(), DatabaseUrl::Postgres(url) if url.contains("connect_timeout=3"))
        );
        assert_eq!(DatabaseUrl::parse("sqlite://a/b").unwrap(), DatabaseUrl::Sqlite("a/b".into()));
        for wrong in ["mysql://h/d", "a.sqlite", "sqlite://", ""] {
            assert!(DatabaseUrl::parse(wrong).is_err(), "{wrong}");
        }
        let message = DatabaseUrl::parse("mysql://u:geheim@h/d").unwrap_err().message().to_string();
        assert!(message.contains("\"mysql\"") && !message.contains("geheim"), "{message}");
        for mistyped in ["postgres:/u:geheim@h/d", "u:geheim@h://d", "geheim"] {
            let error = DatabaseUrl::parse(mistyped).unwrap_err();
            assert!(!error.message().contains("geheim") && error.message().contains("sqlite://"), "{error}");
        }
        assert!(!format!("{:?}", DatabaseUrl::parse("postgres://u:geheim@h/d").unwrap()).contains("geheim"));
    }

    #[test]
    fn limits_do_not_override_the_url() {
        let url = with_connection_limits("postgres://h/d?connect_timeout=9");
        assert!(url.contains("connect_timeout=9") && !url.contains("connect_timeout=3"));
    }
}
