//! A metadata store of its own for each test, and short names for what the tests do with it.

use chrono::TimeDelta;
use diesel::prelude::*;
use holdfast::db::change::{Changes, ReleaseTimes};
use holdfast::db::commit::{Upload, commit};
use holdfast::db::rows::*;
use holdfast::db::{AnyConnection, DatabaseUrl, Db, Failure, Step, dialect, migrate, namespace, schema, server, tree};
use holdfast::security::{ClusterSecret, WriteTicket};
use holdfast::types::api::{Committed, Condition, RegisterRequest, Target};
use holdfast::types::{DfsPath, ErrorCode, Generation, ObjectId, Result, ServerId, Sha256, Version};

use crate::common::postgres;

/// Registers a server that was judged by what is known now.
pub fn register(changes: &mut Changes<'_>, request: &RegisterRequest) -> Step<ServerId> {
    let known = server::known(changes.connection, ServerId::of_identity(request.identity))?;
    server::register(changes, request, known.as_ref())
}

/// Runs each test on both backends.
#[macro_export]
macro_rules! both_backends {
    ($(async fn $name:ident($db:ident: TestDb) $body:block)+) => {
        $(mod $name {
            #[allow(unused_imports)]
            use super::*;
            async fn body($db: $crate::fixture::TestDb) $body
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() { body($crate::fixture::TestDb::sqlite()).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() { body($crate::fixture::TestDb::postgres()).await }
        })+
    };
}

pub const TIMES: ReleaseTimes = ReleaseTimes { read_ticket: TimeDelta::zero(), write_ticket: TimeDelta::hours(1) };

/// A store; a second handle stands for a second name server on the same database.
pub struct TestDb {
    pub db: Db,
    pub other: Db,
    _dir: Option<tempfile::TempDir>,
}

pub fn secret() -> ClusterSecret {
    ClusterSecret::from_text(&"s".repeat(40)).unwrap()
}

impl TestDb {
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::parse(&format!("sqlite://{}/m.sqlite", dir.path().display())).unwrap();
        let db = Db::open(&url).unwrap();
        migrate::prepare(&url, true, &secret(), 2).unwrap();
        // A second name server on SQLite is refused, so the same one stands for it.
        Self { other: db.clone(), db, _dir: Some(dir) }
    }

    pub fn postgres() -> Self {
        let url = DatabaseUrl::parse(&postgres::shared().database()).unwrap();
        let db = Db::open(&url).unwrap();
        migrate::prepare(&url, true, &secret(), 2).unwrap();
        Self { other: Db::open(&url).unwrap(), db, _dir: None }
    }

    pub async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Changes<'_>) -> Step<T> + Send + 'static,
    ) -> Result<T> {
        change(&self.db, work).await
    }

    pub async fn sql<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut AnyConnection) -> QueryResult<T> + Send + 'static,
    ) -> T {
        self.db.write(move |connection| Ok(work(connection)?)).await.unwrap()
    }

    /// Registers storage servers 1 to `count`; answers their ids.
    pub async fn servers(&self, count: u128) -> Vec<ServerId> {
        let mut ids = Vec::new();
        for number in 1..=count {
            let request = RegisterRequest {
                identity: uuid::Uuid::from_u128(number << 100),
                name: format!("s{number}"),
                host: format!("h{number}"),
                url: format!("http://h{number}:1"),
                public_url: format!("http://h{number}:1"),
                zone: String::new(),
                boot_id: uuid::Uuid::new_v4(),
                cluster: None,
                epoch: 0,
                index_changes: 0,
                boots: Vec::new(),
                replace_newer: false,
                capacity_bytes: 1 << 40,
                free_bytes: 1 << 39,
            };
            ids.push(self.change(move |changes| register(changes, &request)).await.unwrap());
        }
        ids
    }

    pub async fn mkdir(&self, path: &str) -> Result<()> {
        let path = p(path);
        self.change(move |changes| namespace::mkdir(changes, &path, false)).await
    }

    pub async fn mkdirs(&self, path: &str) {
        let path = p(path);
        self.change(move |changes| namespace::mkdir(changes, &path, true)).await.unwrap()
    }

    pub async fn mv(&self, from: &str, to: &str) -> Result<()> {
        mv(&self.db, from, to).await
    }

    pub async fn cp(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (p(from), p(to));
        self.change(move |changes| namespace::cp_file(changes, &from, &to, &TIMES)).await
    }

    pub async fn rm(&self, path: &str, recursive: bool) -> Result<()> {
        rm(&self.db, path, recursive).await
    }

    pub async fn commit_one(&self, upload: Upload) -> Result<Committed> {
        commit_all(&self.db, vec![upload]).await.pop().unwrap()
    }

    /// Writes a file with two copies.
    pub async fn write(&self, path: &str, content: &str) -> Committed {
        self.commit_one(upload(path, content)).await.unwrap()
    }

    pub async fn entry(&self, path: &str) -> Option<EntryRow> {
        let path = p(path);
        self.db
            .read(move |connection| Ok(tree::walk(connection, &path).map_err(Failure::into_error)?.entry().cloned()))
            .await
            .unwrap()
    }

    pub async fn object(&self, id: ObjectId) -> Option<ObjectRow> {
        self.sql(move |connection| {
            schema::objects::table.find(id.0).select(ObjectRow::as_select()).first(connection).optional()
        })
        .await
    }

    /// Every path, as `find` would print it; directories end with a slash.
    pub async fn tree(&self) -> Vec<String> {
        let rows = self
            .db
            .read(|connection| {
                holdfast::db::listing::page(connection, &p("/"), None, 1_000_000, true).map_err(Failure::into_error)
            })
            .await
            .unwrap();
        rows.into_iter().map(|row| if row.entry.is_directory() { format!("{}/", row.path) } else { row.path }).collect()
    }

    pub async fn last_version(&self) -> Version {
        self.sql(|connection| schema::cluster::table.select(schema::cluster::last_version).first(connection)).await
    }

    pub async fn journal(&self) -> Vec<JournalRow> {
        self.sql(|connection| {
            use schema::journal::dsl;
            dsl::journal.order((dsl::version, dsl::seq)).select(JournalRow::as_select()).load(connection)
        })
        .await
    }

    pub async fn outbox(&self) -> Vec<OutboxRow> {
        self.sql(|connection| schema::outbox::table.select(OutboxRow::as_select()).load(connection)).await
    }
}

pub fn p(path: &str) -> DfsPath {
    DfsPath::parse(path).unwrap()
}

pub async fn change<T: Send + 'static>(
    db: &Db,
    work: impl FnOnce(&mut Changes<'_>) -> Step<T> + Send + 'static,
) -> Result<T> {
    db.write(move |connection| {
        let mut changes = Changes::begin(connection)?;
        let answer = work(&mut changes)?;
        changes.finish()?;
        Ok(answer)
    })
    .await
}

pub async fn mv(db: &Db, from: &str, to: &str) -> Result<()> {
    let (from, to) = (p(from), p(to));
    change(db, move |changes| namespace::mv(changes, &from, &to, &TIMES)).await
}

pub async fn rm(db: &Db, path: &str, recursive: bool) -> Result<()> {
    let path = p(path);
    change(db, move |changes| namespace::remove(changes, &path, recursive, None, &TIMES)).await
}

pub async fn commit_all(db: &Db, uploads: Vec<Upload>) -> Vec<Result<Committed>> {
    change(db, move |changes| commit(changes, &uploads, &TIMES, TimeDelta::zero())).await.unwrap()
}

/// A target of an upload: one of the servers that [`TestDb::servers`] registers, where it is.
pub fn target(server: ServerId) -> Target {
    let number = (1..=64u128).find(|number| ServerId::of_identity(uuid::Uuid::from_u128(number << 100)) == server);
    Target { server, url: format!("http://h{}:1", number.unwrap()) }
}

/// An upload to servers 1 and 2 whose ticket is good for an hour.
pub fn upload(path: &str, content: &str) -> Upload {
    let holders: Vec<ServerId> = (1..=2u128).map(|n| ServerId::of_identity(uuid::Uuid::from_u128(n << 100))).collect();
    let ticket = WriteTicket {
        object: ObjectId::generate(),
        generation: Generation::generate(),
        path: p(path),
        size: Some(content.len() as u64),
        targets: holders.iter().copied().map(target).collect(),
        min_write_copies: 2,
        condition: Condition::Any,
        make_parents: false,
        by: None,
        expires: chrono::Utc::now() + TimeDelta::hours(1),
    };
    Upload { ticket, epoch: 1, size: content.len() as u64, sha256: Sha256::of(content.as_bytes()), holders }
}

pub fn code<T: std::fmt::Debug>(result: Result<T>) -> ErrorCode {
    result.unwrap_err().code()
}

pub fn now(connection: &mut AnyConnection) -> chrono::NaiveDateTime {
    dialect::clock(connection).unwrap()
}
