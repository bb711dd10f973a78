//! The index: one row per (object, generation), and the bytes of small objects.
//!
//! Written by one connection (the `IndexWriter`'s), read by a few others. WAL and `synchronous=FULL`: what a
//! transaction has committed survives the power.
//!
//! A row of `replicas` is a copy, one of `missing` was one: its file is gone, so nobody is told of it, and when the file
//! is back it moves back.
//!
//! SQLite works by paths, but what it has open stays open: when the disk is unmounted under the daemon, the
//! connections of the start go on with the right file, and a new one would open whatever lies at the path by then. So
//! all are opened at the start, none is ever closed for its age, and one that is opened later (after a panic) is
//! compared with the start.
#![allow(missing_docs, reason = "diesel's table macro makes public items without any")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::NaiveDateTime;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection};
use diesel::sql_types::{BigInt, Timestamp};

use super::layout::{Layout, Shelf};
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, ErrorCode, Generation, ObjectId, Result, Sha256};

diesel::table! {
    replicas (object, generation) {
        object -> BigInt,
        generation -> BigInt,
        size -> BigInt,
        sha256 -> Binary,
        label -> Text,
        epoch -> BigInt,
        version -> Nullable<BigInt>,
        ticket_expires -> Timestamp,
        state -> Text,
        in_index -> Bool,
        created -> Timestamp,
        verified -> Timestamp,
    }
}

diesel::table! {
    missing (object, generation) {
        object -> BigInt,
        generation -> BigInt,
        noticed -> Timestamp,
    }
}

diesel::table! {
    small_bytes (object, generation) {
        object -> BigInt,
        generation -> BigInt,
        bytes -> Binary,
    }
}

diesel::table! {
    settings (name) {
        name -> Text,
        value -> BigInt,
    }
}

diesel::table! {
    totals (id) {
        id -> Integer,
        objects -> BigInt,
        bytes -> BigInt,
    }
}

/// The format of the index that this program writes.
const INDEX_VERSION: i32 = 3;
/// Connections for reads.
const READERS_MAX: u32 = 4;

/// Whether a replica is known to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not yet: it is kept or deleted when the name server says so.
    Pending,
    /// The metadata lists it.
    Committed,
}

impl State {
    /// The stored word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Committed => "committed",
        }
    }
}

/// A row of the index.
#[derive(Debug, Clone, PartialEq, Queryable, QueryableByName, Selectable, Insertable)]
#[diesel(table_name = replicas, treat_none_as_default_value = false)]
pub struct ReplicaRow {
    /// The object.
    pub object: i64,
    /// The copy.
    pub generation: i64,
    /// Bytes.
    pub size: i64,
    /// Their digest.
    pub sha256: Vec<u8>,
    /// The path at which the upload aimed.
    pub label: String,
    /// The epoch of the ticket that brought it.
    pub epoch: i64,
    /// The object's version, once it is committed.
    pub version: Option<i64>,
    /// When that ticket ends (UTC).
    pub ticket_expires: NaiveDateTime,
    /// `pending` or `committed`.
    pub state: String,
    /// The bytes are in `small_bytes`, not in a file.
    pub in_index: bool,
    /// When it was stored (UTC).
    pub created: NaiveDateTime,
    /// When its bytes were last checked (UTC).
    pub verified: NaiveDateTime,
}

impl ReplicaRow {
    /// Its name.
    pub fn key(&self) -> ReplicaKey {
        ReplicaKey { object: ObjectId(self.object), generation: Generation(self.generation) }
    }

    /// Its digest.
    pub fn digest(&self) -> Result<Sha256> {
        Sha256::from_slice(&self.sha256)
    }
}

/// A connection to an index, for those who pass it on.
pub type IndexConnection = SqliteConnection;

/// The reading side of an index.
#[derive(Clone)]
pub struct Index {
    readers: r2d2::Pool<ConnectionManager<SqliteConnection>>,
}

/// Where a rebuild builds.
pub fn interrupted_rebuild(path: &Path) -> PathBuf {
    path.with_extension("sqlite.new")
}

/// Touches the root pages of the table, its index and the totals.
pub fn touch(connection: &mut SqliteConnection) -> QueryResult<()> {
    totals::table.select(totals::objects).first::<i64>(connection)?;
    replicas::table.select(replicas::object).limit(1).load::<i64>(connection)?;
    Ok(())
}

/// Refuses an index that a newer program wrote.
pub fn refuse_newer(path: &Path, version: i32) -> Result<()> {
    if version <= INDEX_VERSION {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidRequest,
        format!(
            "{} has format {version}, this program knows formats up to {INDEX_VERSION}: use the newer program",
            path.display()
        ),
    ))
}

/// An index that cannot be used, and the way out.
pub fn damaged(path: &Path, reason: &str) -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        format!(
            "the index {} cannot be read ({reason}). Nothing was changed. Either run `holdfast-storage-server rebuild \
             --data-dir DIR`, which keeps every replica that can be verified, or move the directory away and join with \
             an empty one, which is filled again from the other servers",
            path.display()
        ),
    )
}

#[derive(Debug)]
struct ReadOnly(Arc<Layout>);

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for ReadOnly {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> std::result::Result<(), diesel::r2d2::Error> {
        connection
            .batch_execute("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON")
            .map_err(diesel::r2d2::Error::QueryError)?;
        // The log is opened by its path too, when it is first needed.
        totals::table.select(totals::objects).first::<i64>(connection).map_err(diesel::r2d2::Error::QueryError)?;
        let same = self.0.require_same();
        same.map_err(|error| diesel::r2d2::Error::ConnectionError(ConnectionError::BadConnection(error.chain())))
    }
}

impl Index {
    /// Opens the reading side of an index that exists.
    pub fn open(layout: &Arc<Layout>) -> Result<Self> {
        let path = layout.index_path();
        let manager = ConnectionManager::new(path.to_string_lossy());
        let readers = r2d2::Pool::builder()
            .max_size(READERS_MAX)
            .max_lifetime(None)
            .idle_timeout(None)
            .connection_customizer(Box::new(ReadOnly(layout.clone())))
            .build(manager)
            .map_err(|error| Error::internal(format!("cannot open the index {}", path.display())).with_source(error))?;
        Ok(Self { readers })
    }

    /// Runs a read on the blocking pool.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let index = self.clone();
        let task = tokio::task::spawn_blocking(move || index.read_here(work));
        task.await.map_err(|error| Error::internal("a read of the index panicked").with_source(error))?
    }

    /// Runs a read on this thread, which may wait for a disk.
    pub fn read_here<T>(&self, work: impl FnOnce(&mut SqliteConnection) -> Result<T>) -> Result<T> {
        let connection = self.readers.get();
        work(&mut *connection.map_err(|e| Error::unavailable("the index is overloaded").with_source(e))?)
    }
}

/// A replica's row.
pub fn find(connection: &mut SqliteConnection, key: ReplicaKey) -> Result<Option<ReplicaRow>> {
    let row = replicas::table
        .find((key.object.0, key.generation.0))
        .select(ReplicaRow::as_select())
        .first(connection)
        .optional()?;
    Ok(row)
}

/// The bytes of a small object.
pub fn bytes(connection: &mut SqliteConnection, key: ReplicaKey) -> Result<Option<Vec<u8>>> {
    let bytes = small_bytes::table
        .find((key.object.0, key.generation.0))
        .select(small_bytes::bytes)
        .first(connection)
        .optional()?;
    Ok(bytes)
}

/// Replicas after a key, in the order of their keys.
pub fn page(connection: &mut SqliteConnection, after: Option<ReplicaKey>, limit: usize) -> Result<Vec<ReplicaRow>> {
    let (object, generation) = after.map_or((-1, -1), |key| (key.object.0, key.generation.0));
    let rows = replicas::table
        .filter(replicas::object.gt(object).or(replicas::object.eq(object).and(replicas::generation.gt(generation))))
        .filter(replicas::object.ge(object))
        .order((replicas::object, replicas::generation))
        .limit(limit as i64)
        .select(ReplicaRow::as_select())
        .load(connection)?;
    Ok(rows)
}

/// Pending replicas stored before `before`, the oldest first, behind one of them.
pub fn pending(
    connection: &mut SqliteConnection,
    before: NaiveDateTime,
    behind: Option<(NaiveDateTime, ReplicaKey)>,
    limit: usize,
) -> Result<Vec<ReplicaRow>> {
    let mut query = replicas::table
        .filter(replicas::state.eq("pending").and(replicas::created.lt(before)))
        .order((replicas::created, replicas::object, replicas::generation))
        .limit(limit as i64)
        .select(ReplicaRow::as_select())
        .into_boxed();
    if let Some((created, key)) = behind {
        let of_object = replicas::object.eq(key.object.0).and(replicas::generation.gt(key.generation.0));
        let of_time = replicas::created.gt(created).or(replicas::object.gt(key.object.0).or(of_object));
        // The first condition is the index's.
        query = query.filter(replicas::created.ge(created)).filter(of_time);
    }
    Ok(query.load(connection)?)
}

#[derive(QueryableByName)]
struct KeyRow {
    #[diesel(sql_type = BigInt)]
    object: i64,
    #[diesel(sql_type = BigInt)]
    generation: i64,
}

impl KeyRow {
    fn key(&self) -> ReplicaKey {
        ReplicaKey { object: ObjectId(self.object), generation: Generation(self.generation) }
    }
}

/// The directories of a part of `objects/` that rows belong into. (The expressions are those of an index.)
pub fn shelves(connection: &mut SqliteConnection, part: u16) -> Result<Vec<Shelf>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        shelf: i64,
    }
    let query = "SELECT DISTINCT (object & 65535) AS shelf FROM replicas \
                 WHERE in_index = 0 AND (object & 65535) BETWEEN ? AND ?";
    let (first, last) = (i64::from(part) << 8, i64::from(part) << 8 | 0xff);
    let rows: Vec<Row> = diesel::sql_query(query).bind::<BigInt, _>(first).bind::<BigInt, _>(last).load(connection)?;
    Ok(rows.into_iter().map(|row| Shelf(row.shelf as u16)).collect())
}

/// The copies whose files belong into a directory.
pub fn on_shelf(connection: &mut SqliteConnection, shelf: Shelf) -> Result<Vec<ReplicaKey>> {
    let query = "SELECT object, generation FROM replicas WHERE in_index = 0 AND (object & 65535) = ?";
    let rows: Vec<KeyRow> = diesel::sql_query(query).bind::<BigInt, _>(i64::from(shelf.0)).load(connection)?;
    Ok(rows.iter().map(KeyRow::key).collect())
}

/// One of the copies whose files belong into a part of `objects/`.
pub fn first_in_part(connection: &mut SqliteConnection, part: u16) -> Result<Option<ReplicaKey>> {
    let query = "SELECT object, generation FROM replicas \
                 WHERE in_index = 0 AND (object & 65535) BETWEEN ? AND ? ORDER BY (object & 65535) LIMIT 1";
    let (first, last) = (i64::from(part) << 8, i64::from(part) << 8 | 0xff);
    let rows: Vec<KeyRow> =
        diesel::sql_query(query).bind::<BigInt, _>(first).bind::<BigInt, _>(last).load(connection)?;
    Ok(rows.first().map(KeyRow::key))
}

/// Whether a copy is one whose file is missing.
pub fn is_missing(connection: &mut SqliteConnection, key: ReplicaKey) -> Result<bool> {
    let id = (key.object.0, key.generation.0);
    Ok(diesel::select(diesel::dsl::exists(missing::table.find(id))).get_result(connection)?)
}

/// Copies whose files are missing, in the order of their keys. An index of an older format knows of none.
pub fn missing_page(
    connection: &mut SqliteConnection,
    after: Option<ReplicaKey>,
    limit: usize,
) -> Result<Vec<ReplicaRow>> {
    let (object, generation) = after.map_or((-1, -1), |key| (key.object.0, key.generation.0));
    let query = "SELECT * FROM missing WHERE (object, generation) > (?, ?) ORDER BY object, generation LIMIT ?";
    let has_table: i64 = diesel::select(diesel::dsl::sql::<BigInt>(
        "(SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'missing')",
    ))
    .get_result(connection)?;
    if has_table == 0 {
        return Ok(Vec::new());
    }
    let query = diesel::sql_query(query).bind::<BigInt, _>(object).bind::<BigInt, _>(generation);
    Ok(query.bind::<BigInt, _>(limit as i64).load(connection)?)
}

/// Counts a copy out whose file is gone. Answers how many rows that were.
pub(in crate::storage) fn set_missing(connection: &mut SqliteConnection, key: ReplicaKey) -> QueryResult<usize> {
    move_row(connection, key, ("replicas", "missing", &format!("{COLUMNS}, strftime('%Y-%m-%d %H:%M:%f', 'now')")))
}

/// Counts a copy again whose file is back.
pub(in crate::storage) fn set_found(connection: &mut SqliteConnection, key: ReplicaKey) -> QueryResult<usize> {
    move_row(connection, key, ("missing", "replicas", COLUMNS))
}

const COLUMNS: &str =
    "object, generation, size, sha256, label, epoch, version, ticket_expires, state, in_index, created, verified";

fn move_row(
    connection: &mut SqliteConnection,
    key: ReplicaKey,
    (from, to, values): (&str, &str, &str),
) -> QueryResult<usize> {
    let one =
        |text: String| diesel::sql_query(text).bind::<BigInt, _>(key.object.0).bind::<BigInt, _>(key.generation.0);
    let which = "WHERE object = ? AND generation = ?";
    one(format!("INSERT OR REPLACE INTO {to} SELECT {values} FROM {from} {which}")).execute(connection)?;
    one(format!("DELETE FROM {from} {which}")).execute(connection)
}

/// Forgets what is known of a missing file.
pub(in crate::storage) fn forget_missing(connection: &mut SqliteConnection, key: ReplicaKey) -> QueryResult<usize> {
    diesel::delete(missing::table.find((key.object.0, key.generation.0))).execute(connection)
}

/// Forgets what has been missing since before a time, some rows at once.
pub(in crate::storage) fn forget_missing_since(
    connection: &mut SqliteConnection,
    before: NaiveDateTime,
    limit: i64,
) -> QueryResult<usize> {
    let query = "DELETE FROM missing WHERE (object, generation) IN \
                 (SELECT object, generation FROM missing WHERE noticed < ? LIMIT ?)";
    diesel::sql_query(query).bind::<Timestamp, _>(before).bind::<BigInt, _>(limit).execute(connection)
}

/// How many replicas there are, and their bytes.
pub fn sums(connection: &mut SqliteConnection) -> Result<(u64, u64)> {
    let (objects, bytes): (i64, i64) = totals::table.select((totals::objects, totals::bytes)).first(connection)?;
    Ok((objects as u64, bytes as u64))
}

/// When the copy that was not checked for the longest time was checked; `None` when there are no copies.
pub fn oldest_verified(connection: &mut SqliteConnection) -> Result<Option<NaiveDateTime>> {
    Ok(replicas::table.select(diesel::dsl::min(replicas::verified)).first(connection)?)
}

/// A number that is remembered across starts; 0 when it was never set.
pub fn setting(connection: &mut SqliteConnection, name: &str) -> Result<i64> {
    let value: Option<i64> = settings::table.find(name).select(settings::value).first(connection).optional()?;
    Ok(value.unwrap_or(0))
}

/// The settings that remember the newest epoch and term that were seen.
pub const FENCE: [&str; 2] = ["epoch", "term"];

/// The setting that counts the transactions that have changed the index: see [`count_change`].
pub const CHANGES: &str = "changes";

/// Counts a change, in its transaction. The count begins with the time in microseconds, so that it rises from one index
/// of a directory to the next as well (a rebuilt one begins anew), and tells which of two copies is newer.
pub fn count_change(connection: &mut SqliteConnection) -> Result<()> {
    let begin = chrono::Utc::now().timestamp_micros();
    diesel::insert_into(settings::table)
        .values((settings::name.eq(CHANGES), settings::value.eq(begin)))
        .on_conflict(settings::name)
        .do_update()
        .set(settings::value.eq(settings::value + 1))
        .execute(connection)?;
    Ok(())
}
