//! The `IndexWriter`: the one writer of the index, which drains what waits into one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::NaiveDateTime;
use diesel::prelude::*;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::store::index::{replicas, settings, small_bytes};
use super::store::quarantine::{self, Aside};
use super::store::{Layout, ReplicaRow, State, index, objects};
use crate::actors::batch::{BatchWork, Batcher};
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, ErrorCode, Result, Version};

/// The actor.
pub type IndexWriter = Batcher<WriteIndex>;

/// How long a change of the index may take, with what waits before it.
pub const INDEX_DEADLINE: Duration = Duration::from_secs(30);

/// Changes of one transaction.
const BATCH_ITEMS_MAX: usize = 512;
/// Rows of missing files that one change forgets.
pub const FORGOTTEN_ROWS_MAX: i64 = 5_000;

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
    /// Copies that are put aside, with their bytes; a few at a time, since each costs some fsyncs. Those that are not
    /// there count as done.
    Quarantine {
        /// Which.
        keys: Vec<ReplicaKey>,
        /// What is wrong with them.
        reason: String,
        /// They must never be removed by themselves.
        for_good: bool,
    },
    /// Copies whose bytes were read again and are right.
    Verified {
        /// Which.
        keys: Vec<ReplicaKey>,
        /// When (UTC).
        at: NaiveDateTime,
    },
    /// A copy whose file is gone. It counts as none from here on, unless the file is there after all.
    Gone(ReplicaKey),
    /// A copy whose file was missing and is back.
    Back(ReplicaKey),
    /// What has been missing since before this time (UTC) is forgotten, some rows at once.
    ForgetMissing(NaiveDateTime),
    /// The newest epoch and term that were seen. Older ones than what is noted change nothing: whoever was judged first may
    /// be written last.
    Fence {
        /// Of the cluster.
        epoch: i64,
        /// Of the lease, in this epoch.
        term: i64,
    },
    /// Numbers to remember.
    Settings(Vec<(&'static str, i64)>),
}

/// The work of the actor.
pub struct WriteIndex {
    /// The directory.
    pub layout: Arc<Layout>,
    /// The one writing connection.
    pub connection: Arc<Mutex<SqliteConnection>>,
    /// Changes of the index that are durable; told to the name server.
    pub changes: Arc<AtomicI64>,
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
        let changes = self.changes.clone();
        Box::pin(async move {
            let task = tokio::task::spawn_blocking(move || {
                let mut connection = connection.lock();
                let answers = write_where_it_counts(&mut connection, &layout, &items);
                match index::setting(&mut connection, index::CHANGES) {
                    Ok(now) => changes.store(now, Ordering::Relaxed),
                    Err(error) => log::warn!("{}", error.chain()),
                }
                answers
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

/// Nothing is written, and nothing that was written is answered for, when the next start would not find it: the disk was
/// unmounted, or the directory replaced.
fn write_where_it_counts(
    connection: &mut SqliteConnection,
    layout: &Layout,
    items: &[IndexChange],
) -> Vec<Result<usize>> {
    if let Err(error) = layout.require_same() {
        return items.iter().map(|_| Err(error.clone())).collect();
    }
    let answers = write_with_ballast(connection, layout, items);
    match layout.require_same() {
        Ok(()) => answers,
        Err(error) => answers.into_iter().map(|answer| answer.and(Err(error.clone()))).collect(),
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
        if items.iter().any(|item| matches!(item, IndexChange::Delete(_))) {
            put_ballast_back(layout);
        }
        return answers;
    }
    if !layout.give_up_ballast() {
        return answers;
    }
    let again = items.iter().zip(answers).map(|(item, answer)| match (item, &answer) {
        (IndexChange::Delete(_), Err(_)) => {
            write(connection, layout, std::slice::from_ref(item)).pop().unwrap_or(answer)
        }
        _ => answer,
    });
    let answers = again.collect();
    put_ballast_back(layout);
    answers
}

fn put_ballast_back(layout: &Layout) {
    if let Err(error) = layout.restore_ballast() {
        log::warn!("{}", error.chain());
    }
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
        let counts = items.iter().map(|item| apply(connection, layout, item, &mut files)).collect::<Result<Vec<_>>>();
        index::count_change(connection)?;
        crate::types::failpoint::INDEX_WRITTEN.passed();
        counts
    })?;
    crate::types::failpoint::INDEX_COMMITTED.passed();
    // Only after the commit: a file without a row is found at the next start, a row without a file is a loss.
    for (key, size) in files {
        crate::types::failpoint::DELETE_ROWS_GONE.passed();
        match objects::remove(layout, key, size) {
            // Its blocks are given back beside the next batch.
            Ok(removed) => drop(removed),
            Err(error) => log::error!("{}; it is swept up at the next start", error.chain()),
        }
        crate::types::failpoint::DELETE_FILE_GONE.passed();
    }
    Ok(counts)
}

fn apply(
    connection: &mut SqliteConnection,
    layout: &Layout,
    item: &IndexChange,
    files: &mut Vec<(ReplicaKey, u64)>,
) -> Result<usize> {
    match item {
        IndexChange::Insert { row, bytes } => insert(connection, row, bytes.as_ref()),
        IndexChange::Committed { key, version } => {
            let row = replicas::table.find((key.object.0, key.generation.0));
            let changes = (replicas::state.eq(State::Committed.word()), replicas::version.eq(version));
            Ok(diesel::update(row).set(changes).execute(connection)?)
        }
        IndexChange::Delete(keys) => delete(connection, keys, files),
        IndexChange::Quarantine { keys, reason, for_good } => {
            put_aside(connection, layout, keys, &Aside { reason, for_good: *for_good })
        }
        IndexChange::Verified { keys, at } => {
            let mut marked = 0;
            for key in keys {
                let row = replicas::table.find((key.object.0, key.generation.0));
                marked += diesel::update(row).set(replicas::verified.eq(at)).execute(connection)?;
            }
            Ok(marked)
        }
        IndexChange::Gone(key) => {
            // Asked here, because only here nobody removes it meanwhile.
            let row = index::find(connection, *key)?;
            if row.is_none_or(|row| row.in_index) || objects::is_there(layout, *key)? {
                return Ok(0);
            }
            Ok(index::set_missing(connection, *key)?)
        }
        IndexChange::Back(key) => {
            if !index::is_missing(connection, *key)? || !objects::is_there(layout, *key)? {
                return Ok(0);
            }
            Ok(index::set_found(connection, *key)?)
        }
        IndexChange::ForgetMissing(before) => Ok(index::forget_missing_since(connection, *before, FORGOTTEN_ROWS_MAX)?),
        IndexChange::Fence { epoch, term } => {
            let [of_epoch, of_term] = index::FENCE;
            let noted = (index::setting(connection, of_epoch)?, index::setting(connection, of_term)?);
            if (*epoch, *term) <= noted { Ok(0) } else { set(connection, &[(of_epoch, *epoch), (of_term, *term)]) }
        }
        IndexChange::Settings(pairs) => set(connection, pairs),
    }
}

fn set(connection: &mut SqliteConnection, pairs: &[(&'static str, i64)]) -> Result<usize> {
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

/// Takes rows away, and names the files that they leave with their sizes.
fn delete(connection: &mut SqliteConnection, keys: &[ReplicaKey], files: &mut Vec<(ReplicaKey, u64)>) -> Result<usize> {
    let mut deleted = 0;
    for key in keys {
        let id = (key.object.0, key.generation.0);
        let found: Option<(bool, i64)> =
            replicas::table.find(id).select((replicas::in_index, replicas::size)).first(connection).optional()?;
        match found {
            None => {
                index::forget_missing(connection, *key)?;
                continue;
            }
            Some((true, _)) => drop(diesel::delete(small_bytes::table.find(id)).execute(connection)?),
            Some((false, size)) => files.push((*key, size.max(0) as u64)),
        }
        deleted += diesel::delete(replicas::table.find(id)).execute(connection)?;
    }
    Ok(deleted)
}

/// The bytes first, durably, and the rows after them. When the transaction fails the rows stay, and the next try
/// finds the bytes aside already.
fn put_aside(
    connection: &mut SqliteConnection,
    layout: &Layout,
    keys: &[ReplicaKey],
    aside: &Aside<'_>,
) -> Result<usize> {
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let Some(row) = index::find(connection, *key)? else { continue };
        let small = if row.in_index { index::bytes(connection, *key)? } else { None };
        quarantine::put(layout, &row, small.as_deref(), aside)?;
        rows.push((row.object, row.generation));
    }
    if !rows.is_empty() {
        quarantine::sync(layout)?;
    }
    for id in &rows {
        diesel::delete(small_bytes::table.find(*id)).execute(connection)?;
        diesel::delete(replicas::table.find(*id)).execute(connection)?;
    }
    Ok(rows.len())
}

fn insert(connection: &mut SqliteConnection, row: &ReplicaRow, bytes: Option<&Bytes>) -> Result<usize> {
    let (object, generation) = (row.object, row.generation);
    let taken: Option<i64> =
        replicas::table.find((object, generation)).select(replicas::size).first(connection).optional()?;
    if taken.is_some() {
        return Err(Error::new(ErrorCode::AlreadyExists, format!("the copy {} is stored already", row.key())));
    }
    diesel::insert_into(replicas::table).values(row).execute(connection)?;
    if !row.in_index {
        // It has come anew.
        index::forget_missing(connection, row.key())?;
    }
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
    use crate::storage::store::layout::object_name;
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

    #[test]
    fn the_fence_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let mut connection = crate::storage::store::opening::make(&layout.index_path()).unwrap();
        // Judged in one order, written in another, in one batch or in several.
        for (batch, noted) in [
            (vec![(1, 6), (1, 5)], (1, 6)),
            (vec![(1, 5)], (1, 6)),
            (vec![(2, 0)], (2, 0)),
            (vec![(1, 9), (2, 3), (2, 0)], (2, 3)),
        ] {
            let changes: Vec<_> = batch.iter().map(|&(epoch, term)| IndexChange::Fence { epoch, term }).collect();
            assert!(write(&mut connection, &layout, &changes).iter().all(Result::is_ok));
            let [epoch, term] = index::FENCE.map(|name| index::setting(&mut connection, name).unwrap());
            assert_eq!((epoch, term), noted, "after {batch:?}");
        }
    }

    #[tokio::test]
    async fn one_bad_item_does_not_fail_its_neighbours_and_deletes_are_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let mut connection = crate::storage::store::opening::make(&layout.index_path()).unwrap();
        let insert = |object| IndexChange::Insert { row: row(object, true), bytes: Some(Bytes::from_static(b"bytes")) };
        let answers = write(&mut connection, &layout, &[insert(1), insert(2), insert(1)]);
        assert!(answers[0].is_ok() && answers[1].is_ok());
        assert_eq!(answers[2].as_ref().unwrap_err().code(), ErrorCode::AlreadyExists);
        let key = ReplicaKey { object: ObjectId(1), generation: Generation(1) };
        write(&mut connection, &layout, &[IndexChange::Committed { key, version: 9 }]).pop().unwrap().unwrap();
        let layout = Arc::new(layout);
        let index = Index::open(&layout).unwrap();
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

    /// What a quarantine of one copy leaves: the bytes aside, whether it has a mark, and the rows left.
    fn aside(layout: &Layout, key: ReplicaKey, connection: &mut SqliteConnection) -> (Option<Vec<u8>>, bool, u64) {
        let (place, name) = (layout.quarantine().path().join(key.to_string()), key.to_string());
        let note = std::fs::read_to_string(layout.quarantine().path().join(quarantine::note_of(&name))).unwrap();
        assert!(note.contains("reason: it is damaged") && note.contains("label: /x"), "{note}");
        let rows = index::sums(connection).unwrap().0;
        (std::fs::read(&place).ok(), quarantine::is_kept_for_good(layout, &name), rows)
    }

    #[test]
    fn copies_go_into_quarantine_with_their_bytes_and_a_second_time_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let mut connection = crate::storage::store::opening::make(&layout.index_path()).unwrap();
        let key = |object| ReplicaKey { object: ObjectId(object), generation: Generation(1) };
        let file = layout.objects().path().join(object_name(key(2)));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, b"bytes").unwrap();
        let small = IndexChange::Insert { row: row(1, true), bytes: Some(Bytes::from_static(b"small")) };
        // The third one's file is missing, and the fourth is not there at all.
        let inserts = [
            small,
            IndexChange::Insert { row: row(2, false), bytes: None },
            IndexChange::Insert { row: row(3, false), bytes: None },
        ];
        assert!(write(&mut connection, &layout, &inserts).iter().all(Result::is_ok));
        let change = |keys: &[i64], for_good| IndexChange::Quarantine {
            keys: keys.iter().map(|object| key(*object)).collect(),
            reason: "it is damaged".into(),
            for_good,
        };
        let mut quarantine = |change| write(&mut connection, &layout, &[change]).pop().unwrap().unwrap();
        assert_eq!(quarantine(change(&[1], false)), 1);
        assert_eq!(quarantine(change(&[2, 3, 4], true)), 2);
        for again in [change(&[1, 2, 3, 4], false), change(&[2], true)] {
            assert_eq!(quarantine(again), 0);
        }
        assert_eq!(aside(&layout, key(1), &mut connection), (Some(b"small".to_vec()), false, 0));
        assert_eq!(aside(&layout, key(2), &mut connection), (Some(b"bytes".to_vec()), true, 0));
        assert_eq!(aside(&layout, key(3), &mut connection), (None, true, 0));
        assert!(!file.exists());
        assert!(index::bytes(&mut connection, key(1)).unwrap().is_none());
        assert!(layout.incoming().names().unwrap().is_empty());
    }

    #[test]
    fn copies_without_a_file_are_kept_apart_and_come_back_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let mut connection = crate::storage::store::opening::make(&layout.index_path()).unwrap();
        let key = |object| row(object, false).key();
        let file = |object| layout.objects().path().join(object_name(key(object)));
        let put = |object| {
            std::fs::create_dir_all(file(object).parent().unwrap()).unwrap();
            std::fs::write(file(object), b"bytes").unwrap();
        };
        let small = IndexChange::Insert { row: row(1, true), bytes: Some(Bytes::from_static(b"small")) };
        let large = |object| IndexChange::Insert { row: row(object, false), bytes: None };
        (2..=4).for_each(put);
        let mut done = |change| write(&mut connection, &layout, &[change]).pop().unwrap().unwrap();
        [small, large(2), large(3), large(4)].into_iter().for_each(|change| assert_eq!(done(change), 1));
        // What is in the index has no file, and what has its file is not gone.
        assert_eq!([1, 2, 9].map(|object| done(IndexChange::Gone(key(object)))), [0; 3]);
        (2..=4).for_each(|object| std::fs::remove_file(file(object)).unwrap());
        assert_eq!([2, 3, 4, 4].map(|object| done(IndexChange::Gone(key(object)))), [1, 1, 1, 0]);
        assert_eq!(done(IndexChange::Back(key(2))), 0, "its file is not there yet");
        put(2);
        assert_eq!([2, 2, 1].map(|object| done(IndexChange::Back(key(object)))), [1, 0, 0]);
        // Deleted, or come anew, it is forgotten.
        done(IndexChange::Delete(vec![key(3)]));
        done(large(4));
        assert!(index::missing_page(&mut connection, None, 9).unwrap().is_empty());
        assert_eq!(index::sums(&mut connection).unwrap(), (3, 15));
        let found = index::find(&mut connection, key(2)).unwrap().unwrap();
        assert_eq!((found.size, found.label.as_str(), found.digest().unwrap()), (5, "/x", Sha256::of(b"bytes")));
        let mut done = |change| write(&mut connection, &layout, &[change]).pop().unwrap().unwrap();
        std::fs::remove_file(file(2)).unwrap();
        assert_eq!(done(IndexChange::Gone(key(2))), 1);
        let now = chrono::Utc::now().naive_utc();
        let hour = chrono::TimeDelta::hours(1);
        assert_eq!([now - hour, now + hour, now + hour].map(|at| done(IndexChange::ForgetMissing(at))), [0, 1, 0]);
    }

    #[test]
    fn nothing_is_written_to_an_index_that_is_not_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let mut connection = crate::storage::store::opening::make(&layout.index_path()).unwrap();
        layout.remember_index().unwrap();
        let insert = |object| IndexChange::Insert { row: row(object, true), bytes: Some(Bytes::from_static(b"bytes")) };
        assert!(write_where_it_counts(&mut connection, &layout, &[insert(1)])[0].is_ok());
        std::fs::rename(layout.index_path(), dir.path().join("aside")).unwrap();
        for change in [insert(2), IndexChange::Delete(vec![row(1, true).key()])] {
            let error = write_where_it_counts(&mut connection, &layout, &[change]).pop().unwrap().unwrap_err();
            assert_eq!(error.code(), ErrorCode::Unavailable);
            assert!(error.message().contains("another one than at the start"), "{error}");
        }
        assert_eq!(index::sums(&mut connection).unwrap(), (1, 5));
        std::fs::rename(dir.path().join("aside"), layout.index_path()).unwrap();
        assert!(write_where_it_counts(&mut connection, &layout, &[insert(2)])[0].is_ok());
    }

    #[test]
    fn a_quarantine_that_was_cut_off_before_the_row_went_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let mut connection = crate::storage::store::opening::make(&layout.index_path()).unwrap();
        let inserts = [
            IndexChange::Insert { row: row(1, true), bytes: Some(Bytes::from_static(b"small")) },
            IndexChange::Insert { row: row(2, false), bytes: None },
        ];
        write(&mut connection, &layout, &inserts);
        let file = layout.objects().path().join(object_name(row(2, false).key()));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, b"bytes").unwrap();
        let damage = Aside { reason: "it is damaged", for_good: true };
        for (object, small) in [(1, Some(b"small".as_slice())), (2, None)] {
            let row = row(object, small.is_some());
            // The crash: the bytes are aside, and the row is still there.
            for _ in 0..2 {
                quarantine::put(&layout, &row, small, &damage).unwrap();
            }
            let change =
                IndexChange::Quarantine { keys: vec![row.key()], reason: damage.reason.into(), for_good: true };
            assert_eq!(write(&mut connection, &layout, &[change]).pop().unwrap().unwrap(), 1);
            let bytes = small.unwrap_or(b"bytes").to_vec();
            assert_eq!(aside(&layout, row.key(), &mut connection), (Some(bytes), true, 2 - object as u64));
        }
    }
}
