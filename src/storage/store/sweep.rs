//! Files below `objects/` against the rows of the index, directory by directory, both ways: files that no row knows, and
//! rows without a file. At the start, once in each round of the scrubber, and when somebody has met a missing file.
//!
//! The names of one directory and the rows that belong there are all that is in memory, and no file is touched that
//! both sides know: of ten million files that is one reading of 65,536 directories.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::dir::is_absent;
use super::index::{self, Index, IndexConnection};
use super::layout::{Layout, Shelf};
use super::{objects, quarantine};
use crate::types::error::IoContext;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, Result};

/// Directories right below `objects/`.
pub const PARTS: u16 = 256;
/// Rows of missing files that are looked for at the start.
const MISSING_LOOKED_FOR: usize = 1_000;

/// What a look showed.
#[derive(Debug, Default)]
pub struct Swept {
    /// Files that no row knows, moved into quarantine.
    pub unknown: usize,
    /// Rows whose files are gone, as far as could be seen from here: the `IndexWriter` looks once more.
    pub gone: Vec<ReplicaKey>,
    /// Files that were missing and are there again.
    pub back: Vec<ReplicaKey>,
}

/// Compares one of the [`PARTS`] of `objects/` with the rows that belong there. Unknown files are moved away only when
/// they are older than `before`: newer ones may be waiting for their row.
pub async fn sweep(
    layout: &Arc<Layout>,
    index: &Index,
    part: u16,
    before: SystemTime,
    in_flight: impl Fn(ReplicaKey) -> bool + Clone + Send + 'static,
) -> Result<Swept> {
    let mut all = Swept::default();
    let here = layout.clone();
    for shelf in index.read(move |connection| shelves(&here, connection, part)).await? {
        let (here, in_flight) = (layout.clone(), in_flight.clone());
        let swept = index.read(move |connection| sweep_shelf(&here, connection, shelf, before, in_flight)).await?;
        all.unknown += swept.unknown;
        all.gone.extend(swept.gone);
        all.back.extend(swept.back);
    }
    Ok(all)
}

/// The directories of a part that are there, or that rows belong into.
fn shelves(layout: &Layout, connection: &mut IndexConnection, part: u16) -> Result<Vec<Shelf>> {
    let mut shelves = index::shelves(connection, part)?;
    let inner = names(layout, Path::new(&Shelf(part << 8).outer()))?;
    let of_name = |name: &String| Some(Shelf(part << 8 | u16::from_str_radix(name, 16).ok()?));
    shelves.extend(inner.iter().filter(|name| name.len() == 2).filter_map(of_name));
    shelves.sort_unstable();
    shelves.dedup();
    Ok(shelves)
}

/// Names that are not UTF-8 are none that this program gave.
fn names(layout: &Layout, dir: &Path) -> Result<Vec<String>> {
    let names = match layout.objects().sub(dir).and_then(|dir| dir.names()) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        names => names.io_context(|| format!("reading {} below objects/", dir.display()))?,
    };
    Ok(names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

fn sweep_shelf(
    layout: &Layout,
    connection: &mut IndexConnection,
    shelf: Shelf,
    before: SystemTime,
    in_flight: impl Fn(ReplicaKey) -> bool,
) -> Result<Swept> {
    let mut swept = Swept::default();
    // The rows first: whatever has one by now has its file, unless something is wrong. Or it is being deleted.
    let mut rows: HashSet<ReplicaKey> = index::on_shelf(connection, shelf)?.into_iter().collect();
    for name in names(layout, &shelf.path())? {
        let key = name.parse::<ReplicaKey>().ok();
        if key.is_some_and(|key| rows.remove(&key)) {
            continue;
        }
        // Its row comes in a moment. (Asked before the index is: the other way round, the row could come between the
        // two questions.)
        if key.is_some_and(&in_flight) {
            continue;
        }
        if let Some(key) = key {
            if index::find(connection, key)?.is_some_and(|row| !row.in_index) {
                continue;
            }
            if index::is_missing(connection, key)? {
                swept.back.push(key);
                continue;
            }
        }
        let path = shelf.path().join(&name);
        let look = match layout.objects().look(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            look => look.io_context(|| format!("looking at {}", path.display()))?,
        };
        if look.is_some_and(|look| look.modified < before) {
            let reason = "no row of the index knows this file: its upload or its deletion was interrupted";
            swept.unknown += usize::from(quarantine::put_unknown(layout, &path, &name, reason)?);
        }
    }
    swept.gone.extend(rows);
    Ok(swept)
}

/// Whether the files of this directory may be other ones than the index believes: a look at one file in each part, and
/// for some of those that are known to be missing. Cheap enough to wait for at the start, and enough to notice a disk
/// that is not mounted, was emptied, or is back.
pub fn is_doubtful(layout: &Layout, connection: &mut IndexConnection) -> Result<bool> {
    for part in 0..PARTS {
        if let Some(key) = index::first_in_part(connection, part)?
            && !objects::is_there(layout, key)?
        {
            return Ok(true);
        }
    }
    for row in index::missing_page(connection, None, MISSING_LOOKED_FOR)? {
        if objects::is_there(layout, row.key())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes what has been in quarantine for longer than `keep`, except what is there for good. Answers how many
/// files, notes not counted.
pub fn empty_quarantine(layout: &Layout, keep: Duration) -> Result<usize> {
    let dir = layout.quarantine();
    let names = dir.names().io_context(|| format!("reading {}", dir.path().display()))?;
    let mut removed = 0;
    for name in names.iter().map(|name| name.to_string_lossy()) {
        let (subject, is_note) = match quarantine::subject(&name) {
            // A note goes together with its file.
            Some(subject) if is_in(layout, subject) => continue,
            Some(subject) => (subject, true),
            None => (&*name, false),
        };
        if quarantine::is_kept_for_good(layout, subject) || !is_older(layout, &name, keep) {
            continue;
        }
        remove(layout, &name)?;
        if !is_note {
            remove(layout, &quarantine::note_of(&name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_in(layout: &Layout, name: &str) -> bool {
    layout.quarantine().look(name).is_ok_and(|look| look.is_some())
}

/// The note's time is that of the move; a file without one counts by its own.
fn is_older(layout: &Layout, name: &str, than: Duration) -> bool {
    let modified = |name: &str| Some(layout.quarantine().look(name).ok()??.modified);
    let since = modified(&quarantine::note_of(name)).or_else(|| modified(name));
    since.is_some_and(|time| time.elapsed().is_ok_and(|age| age > than))
}

fn remove(layout: &Layout, name: &str) -> Result<()> {
    match layout.quarantine().remove(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("removing {name} from quarantine"), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use parking_lot::Mutex;

    use super::*;
    use crate::actors::batch::BatchWork;
    use crate::storage::store::ReplicaRow;
    use crate::storage::store::layout::object_name;
    use crate::storage::writer::{IndexChange, WriteIndex};
    use crate::types::{Generation, ObjectId, Sha256};

    #[test]
    fn what_is_there_for_good_stays_and_the_rest_goes_with_its_notes() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let quarantine = layout.quarantine().path().to_path_buf();
        let write = |name: &str| fs::write(quarantine.join(name), "x").unwrap();
        let names = || {
            let mut names: Vec<String> = fs::read_dir(&quarantine)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        // A copy, one that stays, the note on a missing file, one that stays, and a file without a note.
        for name in ["1.1", "1.1.reason", "2.2", "2.2.reason", "2.2.keep", "3.3.reason", "4.4.reason", "4.4.keep", "5"]
        {
            write(name);
        }
        assert_eq!(empty_quarantine(&layout, Duration::from_secs(3_600)).unwrap(), 0);
        assert_eq!(names().len(), 9);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(empty_quarantine(&layout, Duration::ZERO).unwrap(), 2);
        assert_eq!(names(), ["2.2", "2.2.keep", "2.2.reason", "4.4.keep", "4.4.reason"]);
        // A person has looked at it and takes the mark away.
        fs::remove_file(quarantine.join("2.2.keep")).unwrap();
        assert_eq!(empty_quarantine(&layout, Duration::ZERO).unwrap(), 1);
        assert_eq!(names(), ["4.4.keep", "4.4.reason"]);
    }

    fn key(object: i64) -> ReplicaKey {
        ReplicaKey { object: ObjectId(object), generation: Generation(1) }
    }

    fn insert(object: i64) -> IndexChange {
        let now = chrono::Utc::now().naive_utc();
        let row = ReplicaRow {
            object,
            generation: 1,
            size: 5,
            sha256: Sha256::of(b"bytes").0.to_vec(),
            label: "/x".into(),
            epoch: 1,
            version: None,
            ticket_expires: now,
            state: "pending".into(),
            in_index: false,
            created: now,
            verified: now,
        };
        IndexChange::Insert { row: Box::new(row), bytes: None }
    }

    #[tokio::test]
    async fn files_and_rows_are_compared_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let layout = Arc::new(layout);
        let connection = Arc::new(Mutex::new(crate::storage::store::opening::make(&layout.index_path()).unwrap()));
        let writer = WriteIndex { layout: layout.clone(), connection: connection.clone(), changes: Default::default() };
        let index = Index::open(&layout).unwrap();
        let doubtful = || is_doubtful(&layout, &mut connection.lock()).unwrap();
        let write = async |changes: Vec<IndexChange>| {
            let count: usize = writer.run(changes).await.into_iter().map(Result::unwrap).sum();
            count
        };
        let put = |object| {
            let path = layout.objects().path().join(object_name(key(object)));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "bytes").unwrap();
        };
        // Some of them share a directory, some a part, and some are alone.
        let (there, gone, unknown, coming, back) = ([0xab12, 0x1_ab12], [0x77, 0xab34], 0x1_ab34, 0x2_ab34, 0x3_ab34);
        let with_row = there.into_iter().chain(gone).chain([back]);
        write(with_row.map(insert).collect()).await;
        assert_eq!(write(vec![IndexChange::Gone(key(back))]).await, 1);
        there.into_iter().chain([unknown, coming]).for_each(put);
        assert!(doubtful(), "a part has none of its files");
        put(0x77);
        assert!(!doubtful(), "each part has one of its files, and nothing that was missing is back");
        put(back);
        assert!(doubtful());
        fs::remove_file(layout.objects().path().join(object_name(key(0x77)))).unwrap();
        fs::write(layout.objects().path().join("ab/34/strange"), "x").unwrap();
        let look = async |before| {
            let mut all = Swept::default();
            for part in 0..PARTS {
                let in_flight = |other| other == key(0x2_ab34);
                let swept = sweep(&layout, &index, part, before, in_flight).await.unwrap();
                all.unknown += swept.unknown;
                all.gone.extend(swept.gone);
                all.back.extend(swept.back);
            }
            all.gone.sort_unstable();
            all
        };
        let minute = Duration::from_secs(60);
        let young = look(SystemTime::now() - minute).await;
        assert_eq!((young.unknown, young.back), (0, vec![key(back)]), "young files may get their row");
        let all = look(SystemTime::now() + minute).await;
        assert_eq!((all.unknown, all.gone), (2, gone.map(key).to_vec()));
        assert!(is_in(&layout, &key(unknown).to_string()) && is_in(&layout, "strange"));
        let changes = all.back.into_iter().map(IndexChange::Back).chain(gone.map(key).map(IndexChange::Gone));
        assert_eq!(write(changes.collect()).await, 3);
        let again = look(SystemTime::now() + minute).await;
        assert_eq!((again.unknown, again.gone.len(), again.back.len()), (0, 0, 0));
    }
}
