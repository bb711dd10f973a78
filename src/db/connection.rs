//! Connections to either backend, and the pools of them.
//!
//! diesel's `MultiConnection` tries one backend after the other with the same URL; a Postgres that is down
//! would then become a SQLite file with a strange name. So the scheme decides here, and the pool's manager
//! makes exactly that kind of connection.
#![allow(missing_docs, reason = "diesel's derive makes public items without any")]

use std::path::Path;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::R2D2Connection;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::damage::{Damage, Soundness};
use super::url::DatabaseUrl;
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

/// Statement, lock and idle timeouts of every Postgres connection, in milliseconds: what a takeover of the
/// lease waits for at most.
const PG_TIMEOUT_MS: u32 = 3_000;
/// Errors are told apart by their messages (see [`super::damage`]); only a role that may choose their language can.
const PG_PLAIN_MESSAGES: &str = "DO $$ BEGIN PERFORM set_config('lc_messages', 'C', false);
                                 EXCEPTION WHEN insufficient_privilege THEN NULL; END $$";
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

/// What a connection of a pool is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Write,
    Read,
    /// Reads what may be damaged and leaves every byte of it as it is: SQLite merges the write-ahead log into the
    /// database when its last connection ends, unless that may only read.
    Inspect,
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

/// What must not stand in the path of a SQLite URI as it is.
const URI_ESCAPED: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

fn connect(url: &DatabaseUrl, purpose: Use) -> std::result::Result<AnyConnection, diesel::r2d2::Error> {
    let mut connection = match url {
        DatabaseUrl::Postgres(url) => PgConnection::establish(url).map(AnyConnection::Postgres),
        DatabaseUrl::Sqlite(path) => {
            let name = match purpose {
                Use::Inspect => {
                    format!("file:{}?mode=ro", utf8_percent_encode(&path.to_string_lossy(), &URI_ESCAPED))
                }
                Use::Write | Use::Read => path.to_string_lossy().into_owned(),
            };
            SqliteConnection::establish(&name).map(AnyConnection::Sqlite)
        }
    }
    .map_err(diesel::r2d2::Error::ConnectionError)?;
    let settings = match (&connection, purpose) {
        (AnyConnection::Postgres(_), _) => format!(
            "SET statement_timeout = {PG_TIMEOUT_MS}; SET lock_timeout = {PG_TIMEOUT_MS};
             SET idle_in_transaction_session_timeout = {PG_TIMEOUT_MS}; SET TIME ZONE 'UTC';
             SET synchronous_commit = on; {PG_PLAIN_MESSAGES}"
        ),
        // The timeout comes first, so that the switch to WAL waits for a checkpoint under way.
        (AnyConnection::Sqlite(_), Use::Write) => format!(
            "PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 67108864"
        ),
        (AnyConnection::Sqlite(_), Use::Read | Use::Inspect) => {
            format!("PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}; PRAGMA query_only = ON")
        }
    };
    connection.batch_execute(&settings).map_err(diesel::r2d2::Error::QueryError)?;
    Ok(connection)
}

pub(super) type Pool = r2d2::Pool<Manager>;
pub(super) type PooledConnection = r2d2::PooledConnection<Manager>;

/// A pool that connects when a connection is first needed. When it cannot, because what is there is no database any
/// more, `soundness` learns of it at once.
pub(super) fn pool(url: &DatabaseUrl, purpose: Use, soundness: &Soundness) -> Pool {
    let size = match (url, purpose) {
        (DatabaseUrl::Sqlite(_), Use::Write) => 1,
        _ => POOL_CONNECTIONS_MAX,
    };
    r2d2::Pool::builder()
        .max_size(size)
        .min_idle(Some(0))
        .connection_timeout(POOL_TIMEOUT)
        .error_handler(Box::new(PoolErrors(soundness.clone())))
        .build_unchecked(Manager { url: url.clone(), purpose })
}

#[derive(Debug)]
struct PoolErrors(Soundness);

impl<E: std::error::Error> r2d2::HandleError<E> for PoolErrors {
    fn handle_error(&self, error: E) {
        match Damage::in_message(&error.to_string()) {
            Some(damage) => drop(self.0.declare(&damage, !damage.of_disk)),
            None => log::warn!("the database cannot be reached: {error}"),
        }
    }
}

/// Connects once, outside any pool, so that the reason of a failure is known at once.
pub(super) fn connect_once(url: &DatabaseUrl, purpose: Use) -> Result<AnyConnection> {
    connect(url, purpose).map_err(|error| match Damage::in_message(&error.to_string()) {
        Some(damage) => damage.into(),
        None => {
            let message = format!("cannot connect to the database {}: {error}", url.name());
            Error::new(ErrorCode::Unavailable, message).with_source(error)
        }
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
