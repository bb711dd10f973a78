//! The metadata store, over Postgres or embedded SQLite: one schema, one set of queries.
//!
//! # Rules of every transaction
//!
//! - What changes the namespace, or anything journaled, goes through [`change::Changes`]: it locks the
//!   `cluster` row before it reads anything, so that versions are commit order on any number of name
//!   servers and changes never deadlock or race with each other.
//! - Other transactions (replicas, queues, health) lock objects by id and never take that row.
//! - No call runs on an actor's thread: [`Db`] hands closures to the blocking pool, behind a semaphore.
//! - What differs between the backends is in [`dialect`].

pub mod branches;
pub mod change;
pub mod cluster;
pub mod commit;
pub mod connection;
pub mod copy_tree;
pub mod corrupt;
pub mod dialect;
pub mod error;
pub mod events;
pub mod fsck;
pub mod health;
pub mod journal;
pub mod lease;
pub mod listing;
pub mod migrate;
pub mod namespace;
pub mod outbox;
pub mod pending;
pub mod reap;
pub mod repair;
pub mod replication;
pub mod report;
pub mod restore;
pub mod rows;
pub mod schema;
pub mod server;
pub mod sync;
pub mod token;
pub mod tree;
pub mod url;

use std::sync::Arc;

use diesel::prelude::*;
use tokio::sync::Semaphore;

pub use connection::{AnyConnection, DatabaseUrl};
pub use error::{Failure, Step};

use crate::types::{Error, ErrorCode, Result};
use connection::{POOL_CONNECTIONS_MAX, Pool, PooledConnection, Use, lock_sqlite, pool};

/// Requests that wait for a connection; one more is answered `busy`.
const WAITERS_MAX: usize = 1_000;

/// The metadata store. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    write: Pool,
    read: Pool,
    write_permits: Semaphore,
    read_permits: Semaphore,
    waiters: Semaphore,
    /// Held while the program lives; see [`lock_sqlite`].
    _lock: Option<std::fs::File>,
}

impl Db {
    /// Pools for a database that [`migrate::prepare`] has found good.
    pub fn open(url: &DatabaseUrl) -> Result<Self> {
        let (lock, writers) = match url {
            DatabaseUrl::Sqlite(path) => (Some(lock_sqlite(path)?), 1),
            DatabaseUrl::Postgres(_) => (None, POOL_CONNECTIONS_MAX as usize),
        };
        let inner = Inner {
            write: pool(url, Use::Write),
            read: pool(url, Use::Read),
            write_permits: Semaphore::new(writers),
            read_permits: Semaphore::new(POOL_CONNECTIONS_MAX as usize),
            waiters: Semaphore::new(WAITERS_MAX),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs a read. It sees one state of the database only inside a single query.
    pub async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Result<T> + Send + 'static,
    {
        self.run(Use::Read, work).await
    }

    /// Runs reads that must all see the same state of the database: an overwrite between two of them would
    /// otherwise show a file without its bytes.
    pub async fn read_snapshot<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Step<T> + Send + 'static,
    {
        self.run(Use::Read, move |connection| {
            transaction(connection, |connection| {
                dialect::only_read_one_state(connection)?;
                work(connection)
            })
            .map_err(Failure::into_error)
        })
        .await
    }

    /// Runs a transaction; an error rolls it back.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Step<T> + Send + 'static,
    {
        self.run(Use::Write, move |connection| transaction(connection, work).map_err(Failure::into_error)).await
    }

    /// Runs a transaction and keeps the split between a refused change and a failed database.
    pub async fn write_step<T, F>(&self, work: F) -> Step<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Step<T> + Send + 'static,
    {
        let outcome = self.run(Use::Write, move |connection| Ok(transaction(connection, work))).await;
        outcome.map_err(Failure::Database)?
    }

    async fn run<T, F>(&self, purpose: Use, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Result<T> + Send + 'static,
    {
        let inner = self.inner.clone();
        let _waiting = inner
            .waiters
            .try_acquire()
            .map_err(|_| Error::new(ErrorCode::Busy, "too many requests wait for the database; try again"))?;
        let permits = if purpose == Use::Read { &inner.read_permits } else { &inner.write_permits };
        let _permit = permits.acquire().await.map_err(|e| Error::internal("the database is closed").with_source(e))?;
        let pool = if purpose == Use::Read { inner.read.clone() } else { inner.write.clone() };
        let task = tokio::task::spawn_blocking(move || work(&mut *get(&pool)?));
        match task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::internal("a database operation panicked").with_source(error)),
        }
    }
}

fn get(pool: &Pool) -> Result<PooledConnection> {
    pool.get().map_err(|error| Error::unavailable("the database cannot be reached").with_source(error))
}

/// Runs `work` in a transaction. A failed commit or roll-back is the database's failure.
pub fn transaction<T>(connection: &mut AnyConnection, work: impl FnOnce(&mut AnyConnection) -> Step<T>) -> Step<T> {
    connection.transaction(work)
}
