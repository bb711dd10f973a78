//! The metadata store, over Postgres or embedded SQLite: one schema, one set of queries.
//!
//! # Rules of every transaction
//!
//! - What changes the namespace, or anything journaled, goes through [`change::Changes`]: it locks the
//!   `cluster` row before it reads anything, so that versions are commit order on any number of name
//!   servers and changes never deadlock or race with each other.
//! - Other transactions (replicas, queues, health) lock objects by id and never take that row.
//! - No call runs on an actor's thread: [`Db`] hands closures to the blocking pool, in turns (`turns`).
//! - A sign of damage stops everything at once ([`damage`]): no transaction commits after it.
//! - What differs between the backends is in [`dialect`].

pub mod aside;
pub mod branches;
pub mod change;
pub mod check;
pub mod chunks;
pub mod cluster;
pub mod commit;
pub mod connection;
pub mod copy_tree;
pub mod corrupt;
pub mod counts;
pub mod damage;
pub mod dialect;
pub mod error;
pub mod events;
mod file_name;
pub mod former;
pub mod fsck;
pub mod health;
pub mod jobs;
pub mod journal;
pub mod lately;
pub mod lease;
pub mod leaving;
pub mod listing;
pub mod migrate;
pub mod moves;
pub mod namespace;
pub mod newcomer;
pub mod outbox;
pub mod pending;
pub mod queue;
pub mod reap;
pub mod rebalance;
pub mod removed;
pub mod repair;
pub mod replication;
pub mod report;
pub mod restore;
pub mod restores;
pub mod room;
pub mod rows;
pub mod scan;
pub mod schema;
pub mod server;
pub mod server_view;
pub mod sync;
pub mod timeline;
pub mod token;
pub mod tree;
mod turns;
pub mod url;
pub mod verify;
pub mod why;
mod words;

use std::sync::Arc;
use std::time::Duration;

pub use connection::AnyConnection;
pub use damage::Soundness;
use diesel::prelude::*;
pub use error::{Failure, Step};
use parking_lot::RwLock;
pub use room::Room;
pub use url::DatabaseUrl;

use crate::security::ClusterSecret;
use crate::types::{Error, ErrorCode, Result};
use connection::{POOL_CONNECTIONS_MAX, Pool, PooledConnection, Use, lock_sqlite, pool};
use damage::{Damage, refusal};
use turns::{Lane, Turns};

/// How long requests under way may take to let go of a damaged database.
const LET_GO_MAX: Duration = Duration::from_secs(30);

/// The metadata store. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
    lane: Lane,
}

struct Inner {
    url: DatabaseUrl,
    soundness: Soundness,
    /// Replaced when another database takes the place of a damaged one.
    pools: RwLock<Pools>,
    /// At the connections to write with, and at those to read with.
    write_turns: Turns,
    read_turns: Turns,
    /// Held while the program lives; see [`lock_sqlite`].
    _lock: Option<std::fs::File>,
}

#[derive(Clone)]
struct Pools {
    write: Pool,
    read: Pool,
}

impl Pools {
    fn new(url: &DatabaseUrl, soundness: &Soundness) -> Self {
        Self { write: pool(url, Use::Write, soundness), read: pool(url, Use::Read, soundness) }
    }

    /// Of a database that was damaged when the program started: whatever is read, its files stay as they are.
    fn to_inspect(url: &DatabaseUrl, soundness: &Soundness) -> Self {
        Self { write: pool(url, Use::Write, soundness), read: pool(url, Use::Inspect, soundness) }
    }
}

impl Db {
    /// Pools for a database that [`migrate::prepare`] has found good.
    pub fn open(url: &DatabaseUrl) -> Result<Self> {
        let (lock, writers) = match url {
            DatabaseUrl::Sqlite(path) => (Some(lock_sqlite(path)?), 1),
            DatabaseUrl::Postgres(_) => (None, POOL_CONNECTIONS_MAX),
        };
        let soundness = Soundness::of(url);
        let inner = Inner {
            url: url.clone(),
            pools: RwLock::new(Pools::new(url, &soundness)),
            soundness,
            write_turns: Turns::new(writers),
            read_turns: Turns::new(POOL_CONNECTIONS_MAX),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner), lane: Lane::Users })
    }

    /// The same store for the actors: they wait for no more than a user or two.
    pub fn for_actors(&self) -> Self {
        Self { lane: Lane::Acting, ..self.clone() }
    }

    /// Where it is.
    pub fn url(&self) -> &DatabaseUrl {
        &self.inner.url
    }

    /// Whether it can be relied on.
    pub fn soundness(&self) -> &Soundness {
        &self.inner.soundness
    }

    /// Whether its disk has room.
    pub fn room(&self) -> &Room {
        self.inner.soundness.room()
    }

    /// Looks at the disk, and keeps the ballast: see [`room`].
    pub async fn tend_room(&self) -> Result<()> {
        let room = self.room().clone();
        let task = tokio::task::spawn_blocking(move || room.tend());
        task.await.map_err(|error| Error::internal("looking at the database's disk panicked").with_source(error))
    }

    /// Looks at what may be damaged before anything is written to it, and brings its tables up to date when it is well
    /// ([`migrate::prepare`]). A damaged one is no failure: it is read as far as it can be, and waits for its restore.
    pub async fn prepare(&self, initialize: bool, secret: &ClusterSecret, default_copies: u32) -> Result<()> {
        let had_ballast = self.room().has_ballast();
        let mut outcome = self.prepare_once(initialize, secret, default_copies).await;
        if outcome.as_ref().is_err_and(|error| error.code() == ErrorCode::OutOfSpace) && had_ballast {
            // It was given up by that, and what it leaves is enough to start with.
            self.room().ran_out();
            outcome = self.prepare_once(initialize, secret, default_copies).await;
        }
        outcome?;
        self.tend_room().await
    }

    async fn prepare_once(&self, initialize: bool, secret: &ClusterSecret, default_copies: u32) -> Result<()> {
        let (url, soundness, secret) = (self.inner.url.clone(), self.inner.soundness.clone(), secret.clone());
        let task = tokio::task::spawn_blocking(move || {
            check::before_use(&url, &soundness)?;
            migrate::refuse_unfit(&url, &secret)?;
            migrate::prepare(&url, initialize, &secret, default_copies)
        });
        let outcome =
            task.await.map_err(|error| Error::internal("preparing the database panicked").with_source(error))?;
        match outcome {
            Err(error) if Damage::in_chain(&error).is_some() => {
                let error = self.judge(Use::Read, error);
                // A full disk looks like damage at first.
                self.inner.soundness.trouble().ok_or(error)?;
                self.set_pools(Pools::to_inspect(&self.inner.url, &self.inner.soundness));
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Puts a damaged database aside and begins an empty one in its place, which waits for a restore. Answers where
    /// the damaged one is now; nothing of it is removed. It is done again when it was interrupted.
    pub async fn begin_anew(&self, secret: &ClusterSecret) -> Result<Option<aside::Place>> {
        let busy = |_| Error::new(ErrorCode::Busy, "requests still hold on to the damaged database; try again");
        let inner = &self.inner;
        let alone = async { Ok::<_, Error>((inner.write_turns.take_all().await?, inner.read_turns.take_all().await?)) };
        let _alone = tokio::time::timeout(LET_GO_MAX, alone).await.map_err(busy)??;
        let (this, secret) = (self.clone(), secret.clone());
        let task = tokio::task::spawn_blocking(move || {
            let url = &this.inner.url;
            let place = aside::put(url)?;
            // Connections to what was moved end here.
            this.set_pools(Pools::new(url, &this.inner.soundness));
            migrate::prepare(url, false, &secret, 1)?;
            crate::types::failpoint::RESTORE_BEGUN_ANEW.passed();
            this.inner.soundness.clear();
            Ok(place)
        });
        task.await.map_err(|error| Error::internal("putting the database aside panicked").with_source(error))?
    }

    /// Whether this process is the only one that works on it: an embedded database has one name server.
    pub fn is_alone(&self) -> bool {
        matches!(self.inner.url, DatabaseUrl::Sqlite(_))
    }

    /// Free and all bytes of the disk that it is on, where this process sees that.
    pub fn disk(&self) -> Option<(u64, u64)> {
        let DatabaseUrl::Sqlite(path) = &self.inner.url else { return None };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let stat = rustix::fs::statvfs(directory.unwrap_or(std::path::Path::new("."))).ok()?;
        Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }

    /// Tries to leave a note in a damaged database, for others that use it.
    pub async fn note_damage<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Step<T> + Send + 'static,
    {
        let pool = self.inner.pools.read().write.clone();
        let task = tokio::task::spawn_blocking(move || transaction(&mut *get(&pool)?, work));
        let outcome = task.await.map_err(|error| Error::internal("noting damage panicked").with_source(error))?;
        outcome.map_err(Failure::into_error)
    }

    fn set_pools(&self, pools: Pools) {
        *self.inner.pools.write() = pools;
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
        self.write_step(work).await.map_err(Failure::into_error)
    }

    /// Runs a transaction and keeps the split between a refused change and a failed database.
    pub async fn write_step<T, F>(&self, work: F) -> Step<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Step<T> + Send + 'static,
    {
        let soundness = self.inner.soundness.clone();
        // Damage that was seen while the transaction ran stops it, too.
        let work = move |connection: &mut AnyConnection| {
            let answer = work(connection)?;
            soundness.require().map_err(Failure::Database)?;
            Ok(answer)
        };
        let outcome = self.run(Use::Write, move |connection| Ok(transaction(connection, work))).await;
        match outcome.map_err(Failure::Database)? {
            Err(Failure::Database(error)) => Err(Failure::Database(self.judge(Use::Write, error))),
            outcome => outcome,
        }
    }

    async fn run<T, F>(&self, purpose: Use, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Result<T> + Send + 'static,
    {
        let inner = &self.inner;
        let turns = if purpose == Use::Read { &inner.read_turns } else { &inner.write_turns };
        let turn = turns.take(self.lane).await?;
        let trouble = inner.soundness.trouble().filter(|trouble| purpose == Use::Write || trouble.unreadable);
        if let Some(trouble) = trouble {
            return Err(refusal(&trouble));
        }
        // Not before its turn: meanwhile another database may have taken the place.
        let pools = inner.pools.read().clone();
        let pool = if purpose == Use::Read { pools.read } else { pools.write };
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&mut *get(&pool)?)
        });
        match task.await {
            Ok(outcome) => outcome.map_err(|error| self.judge(purpose, error)),
            Err(error) => Err(Error::internal("a database operation panicked").with_source(error)),
        }
    }

    /// Looks for signs of damage in an error, and stops everything when there is one. What a damaged database does not
    /// find may be there all the same.
    fn judge(&self, purpose: Use, error: Error) -> Error {
        let soundness = &self.inner.soundness;
        let Some(damage) = Damage::in_chain(&error) else {
            if error.code() == ErrorCode::OutOfSpace && purpose == Use::Write && soundness.trouble().is_none() {
                return self.room().ran_out().with_source(error);
            }
            let trouble = soundness.trouble().filter(|_| error.code() == ErrorCode::NotFound);
            return trouble.map_or(error.clone(), |trouble| refusal(&trouble).with_source(error));
        };
        match soundness.declare(&damage, false) {
            // It may have been the commit that failed: nobody knows what became of it.
            Some(trouble) if purpose == Use::Write => Error::unavailable(trouble.sentence.clone()).with_source(error),
            Some(trouble) => refusal(&trouble).with_source(error),
            None => self.room().ran_out().with_source(error),
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
