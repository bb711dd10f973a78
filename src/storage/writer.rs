//! The `IndexWriter`: the one writer of the index, which drains what waits into one transaction.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diesel::prelude::*;
use futures_util::future::BoxFuture;

use super::store::index::{replicas, settings, small_bytes};
use super::store::{Layout, ReplicaRow, State, objects};
use crate::actors::batch::{BatchWork, Batcher};
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, ErrorCode, Result, Version};

/// The actor.
pub type IndexWriter = Batcher<WriteIndex>;

/// How long a change of the index may take, with what waits before it.
pub const INDEX_DEADLINE: Duration = Duration::from_secs(30);

/// Changes of one transaction.
const BATCH_ITEMS_MAX: usize = 512;

/// A change of the index.
#[derive(Debug, Clone)]
pub enum IndexChange {
    /// A replica whose bytes are durable, or come along.
    Insert {
        /// Its row.
        row: Box<ReplicaRow>,
        /// Bytes that live in the index.
        bytes: Option<Bytes>,
    },
    /// The metadata lists it.
    Committed {
        /// Which.
        key: ReplicaKey,
        /// The object's version.
        version: Version,
    },
    /// Copies that must go.
    Delete(Vec<ReplicaKey>),
    /// Numbers to remember.
    Settings(Vec<(&'static str, i64)>),
}

/// The work of the actor.
pub struct WriteIndex {
    /// The directory.
    pub layout: Arc<Layout>,
    /// The one writing connection.
    pub connection: Arc<Mutex<SqliteConnection>>,
}

impl BatchWork for WriteIndex {
    type Item = IndexChange;
    /// How many rows were changed.
    type Answer = usize;

    fn batch_items_max(&self) -> usize {
        BATCH_ITEMS_MAX
    }

    fn run(&self, items: Vec<IndexChange>) -> BoxFuture<'static, Vec<Result<usize>>> {
        let (layout, connection, count) = (self.layout.clone(), self.connection.clone(), items.len());
        Box::pin(async move {
            let task = tokio::task::spawn_blocking(move || {
                let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                write_with_ballast(&mut connection, &layout, &items)
            });
            match task.await {
                Ok(answers) => answers,
                Err(error) => {
                    let error = Error::internal("a change of the index panicked").with_source(error);
                    (0..count).map(|_| Err(error.clone())).collect()
                }
            }
        })
    }
}

/// Deletes must work on a full disk, because they are what makes room: then the ballast is given up for them.
fn write_with_ballast(connection: &mut SqliteConnection, layout: &Layout, items: &[IndexChange]) -> Vec<Result<usize>> {
    let answers = write(connection, layout, items);
    let starved = |(item, answer): (&IndexChange, &Result<usize>)| {
        let full = answer.as_ref().is_err_and(|error| error.code() == ErrorCode::OutOfSpace);
        full && matches!(item, IndexChange::Delete(_))
    };
    if !items.iter().zip(&answers).any(starved) {
        return answers;
    }
    log::warn!("the disk is full; the ballast is given up so that replicas can be deleted");
    if let Err(error) = std::fs::remove_file(layout.ballast_path()) {
        log::error!("there is no ballast to give up: {error}");
        return answers;
    }
    let again = items.iter().zip(answers).map(|(item, answer)| match (item, &answer) {
        (IndexChange::Delete(_), Err(_)) => {
            write(connection, layout, std::slice::from_ref(item)).pop().unwrap_or(answer)
        }
        _ => answer,
    });
    let answers = again.collect();
    if let Err(error) = layout.restore_ballast() {
        log::warn!("{}", error.chain());
    }
    answers
}

/// All in one transaction; when that fails, one by one, so that one item cannot fail its neighbours.
fn write(connection: &mut SqliteConnection, layout: &Layout, items: &[IndexChange]) -> Vec<Result<usize>> {
    match write_together(connection, layout, items) {
        Ok(counts) => counts.into_iter().map(Ok).collect(),
        Err(error) if items.len() > 1 => {
            log::warn!("{} changes of the index failed together: {}", items.len(), error.chain());
            items.iter().flat_map(|item| write(connection, layout, std::slice::from_ref(item))).collect()
        }
        Err(error) => vec![Err(error)],
    }
}

fn write_together(connection: &mut SqliteConnection, layout: &Layout, items: &[IndexChange]) -> Result<Vec<usize>> {
    let mut files = Vec::new();
    let counts = connection.immediate_transaction(|connection| {
        let counts = items.iter().map(|item| apply(connection, item, &mut files)).collect::<Result<Vec<_>>>();
        crate::types::failpoint::INDEX_WRITTEN.passed();
        counts
    })?;
    crate::types::failpoint::INDEX_COMMITTED.passed();
    // Only after the commit: a file without a row is found at the next start, a row without a file is a loss.
    for key in files {
        crate::types::failpoint::DELETE_ROWS_GONE.passed();
        if let Err(error) = objects::remove(layout, key) {
            log::error!("{}; it is swept up at the next start", error.chain());
        }
        crate::types::failpoint::DELETE_FILE_GONE.passed();
    }
    Ok(counts)
}

fn apply(connection: &mut SqliteConnection, item: &IndexChange, files: &mut Vec<ReplicaKey>) -> Result<usize> {
    match item {
        IndexChange::Insert { row, bytes } => insert(connection, row, bytes.as_ref()),
        IndexChange::Committed { key, version } => {
            let row = replicas::table.find((key.object.0, key.generation.0));
            let changes = (replicas::state.eq(State::Committed.word()), replicas::version.eq(version));
            Ok(diesel::update(row).set(changes).execute(connection)?)
        }
        IndexChange::Delete(keys) => {
            let mut deleted = 0;
            for key in keys {
                let id = (key.object.0, key.generation.0);
                let in_index: Option<bool> =
                    replicas::table.find(id).select(replicas::in_index).first(connection).optional()?;
                match in_index {
                    None => continue,
                    Some(true) => drop(diesel::delete(small_bytes::table.find(id)).execute(connection)?),
                    Some(false) => files.push(*key),
                }
                deleted += diesel::delete(replicas::table.find(id)).execute(connection)?;
            }
            Ok(deleted)
        }
        IndexChange::Settings(pairs) => {
            for (name, value) in pairs {
                diesel::insert_into(settings::table)
                    .values((settings::name.eq(name), settings::value.eq(value)))
                    .on_conflict(settings::name)
                    .do_update()
                    .set(settings::value.eq(value))
                    .execute(connection)?;
            }
            Ok(pairs.len())
        }
    }
}

fn insert(connection: &mut SqliteConnection, row: &ReplicaRow, bytes: Option<&Bytes>) -> Result<usize> {
    let (object, generation) = (row.object, row.generation);
    let taken: Option<i64> =
        replicas::table.find((object, generation)).select(replicas::size).first(connection).optional()?;
    if taken.is_some() {
        return Err(Error::new(ErrorCode::AlreadyExists, format!("the copy {} is stored already", row.key())));
    }
    diesel::insert_into(replicas::table).values(row).execute(connection)?;
    if let Some(bytes) = bytes {
        diesel::insert_into(small_bytes::table)
            .values((
                small_bytes::object.eq(object),
                small_bytes::generation.eq(generation),
                small_bytes::bytes.eq(bytes.as_ref()),
            ))
            .execute(connection)?;
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::store::{Index, index};
    use crate::types::{Generation, ObjectId, Sha256};

    fn row(object: i64, in_index: bool) -> Box<ReplicaRow> {
        let now = chrono::Utc::now().naive_utc();
        Box::new(ReplicaRow {
            object,
            generation: 1,
            size: 5,
            sha256: Sha256::of(b"bytes").0.to_vec(),
            label: "/x".into(),
            epoch: 1,
            version: None,
            ticket_expires: now,
            state: State::Pending.word().into(),
            in_index,
            created: now,
            verified: now,
        })
    }

    #[tokio::test]
    async fn one_bad_item_does_not_fail_its_neighbours_and_deletes_are_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let mut connection = index::make(&layout.index_path()).unwrap();
        let insert = |object| IndexChange::Insert { row: row(object, true), bytes: Some(Bytes::from_static(b"bytes")) };
        let answers = write(&mut connection, &layout, &[insert(1), insert(2), insert(1)]);
        assert!(answers[0].is_ok() && answers[1].is_ok());
        assert_eq!(answers[2].as_ref().unwrap_err().code(), ErrorCode::AlreadyExists);
        let key = ReplicaKey { object: ObjectId(1), generation: Generation(1) };
        write(&mut connection, &layout, &[IndexChange::Committed { key, version: 9 }]).pop().unwrap().unwrap();
        let index = Index::open(&layout.index_path()).unwrap();
        let (found, bytes, sums) = index
            .read(move |connection| {
                Ok((index::find(connection, key)?, index::bytes(connection, key)?, index::sums(connection)?))
            })
            .await
            .unwrap();
        let found = found.unwrap();
        assert_eq!((found.state.as_str(), found.version), ("committed", Some(9)));
        assert_eq!((bytes.unwrap().as_slice(), sums), (b"bytes".as_slice(), (2, 10)));
        for (want, sums) in [(1, (1, 5)), (0, (1, 5))] {
            let deleted = write(&mut connection, &layout, &[IndexChange::Delete(vec![key])]).pop().unwrap().unwrap();
            assert_eq!((deleted, index.read(index::sums).await.unwrap()), (want, sums));
        }
        assert!(index.read(move |connection| index::bytes(connection, key)).await.unwrap().is_none());
    }
}
