//! Fills the metadata, and the indexes of the storage servers, with files that are as if people had written them: the same
//! tables, triggers and journal rows (`db::change::Changes`), and copies whose bytes are there. What is left out is the way:
//! no request is sent, and nothing is flushed before the end.
//!
//! The cluster's processes must have ended.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use holdfast::db::change::Changes;
use holdfast::db::rows::{EntryRow, ObjectRow, ReplicaRow};
use holdfast::db::{AnyConnection, DatabaseUrl, Db, Step, counts, dialect, journal, schema};
use holdfast::storage::store::{index, opening};
use holdfast::types::{DfsPath, EventKind, Generation, ObjectId, ServerId, Sha256};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::tree::{Node, Tree, content};

/// Entries of one transaction.
const BATCH_ENTRIES: usize = 4_000;
/// Rows of a statement to an index: below SQLite's limit of values.
const INDEX_ROWS: usize = 1_000;
/// Batches that wait for an index.
const WAITING_MAX: usize = 4;
/// Copies of each file.
pub const COPIES: usize = 2;
/// Paths that are remembered, to be asked for.
const SAMPLES_MAX: usize = 20_000;

/// A storage server's directory and its id.
pub struct Shelf {
    pub server: ServerId,
    pub index: PathBuf,
}

/// What is in the cluster now.
#[derive(Default)]
pub struct Filled {
    pub files: usize,
    pub directories: usize,
    pub took: Duration,
    /// Files, evenly from all.
    pub samples: Vec<(DfsPath, usize)>,
    /// Directories with a hundred entries or more.
    pub large: Vec<DfsPath>,
}

/// A copy that an index is to have.
struct Copy {
    row: index::ReplicaRow,
    bytes: Vec<u8>,
}

/// One transaction's work, with where each file's copies go.
struct Batch {
    nodes: Vec<Node>,
    places: Vec<Vec<usize>>,
}

/// Fills; each file has its copies on [`COPIES`] of the servers.
pub async fn fill(database: &str, shelves: &[Shelf], files: usize, seed: u64) -> Filled {
    let url = DatabaseUrl::parse(database).unwrap();
    let db = Db::open(&url).unwrap();
    let began = Instant::now();
    let mut filled = Filled::default();
    let (senders, writers): (Vec<SyncSender<Vec<Copy>>>, Vec<_>) = shelves
        .iter()
        .map(|shelf| {
            let (sender, receiver) = sync_channel(WAITING_MAX);
            let path = shelf.index.clone();
            (sender, std::thread::spawn(move || write_index(&path, &receiver)))
        })
        .unzip();
    let servers: Vec<ServerId> = shelves.iter().map(|shelf| shelf.server).collect();
    let mut rng = StdRng::seed_from_u64(seed);
    let all: Vec<usize> = (0..servers.len()).collect();
    let mut tree = Tree::new(files, seed).peekable();
    let mut in_directory = (DfsPath::root(), 0);
    while tree.peek().is_some() {
        let nodes: Vec<Node> = tree.by_ref().take(BATCH_ENTRIES).collect();
        for node in &nodes {
            note(&mut filled, &mut in_directory, node, files, &mut rng);
        }
        let places = nodes.iter().map(|_| all.choose_multiple(&mut rng, COPIES).copied().collect()).collect();
        let (batch, members) = (Batch { nodes, places }, servers.clone());
        let copies = db.write(move |connection| write_batch(connection, batch, &members)).await.unwrap();
        for (sender, copies) in senders.iter().zip(copies) {
            sender.send(copies).unwrap();
        }
    }
    drop(senders);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    db.write(settle).await.unwrap();
    clean_up(&url);
    filled.took = began.elapsed();
    filled
}

/// Remembers what is to be asked for later.
fn note(filled: &mut Filled, current: &mut (DfsPath, usize), node: &Node, files: usize, rng: &mut StdRng) {
    let Some(size) = node.size else {
        filled.directories += 1;
        *current = (node.path.clone(), 0);
        return;
    };
    filled.files += 1;
    current.1 += 1;
    if current.1 == 100 {
        filled.large.push(current.0.clone());
    }
    if rng.random_range(0..files) < SAMPLES_MAX {
        filled.samples.push((node.path.clone(), size));
    }
}

/// Writes a batch; answers the copies for each server.
fn write_batch(connection: &mut AnyConnection, batch: Batch, servers: &[ServerId]) -> Step<Vec<Vec<Copy>>> {
    dialect::take_time(connection)?;
    let mut changes = Changes::begin(connection)?;
    let (mut objects, mut entries, mut replicas) = (Vec::new(), Vec::new(), Vec::new());
    let mut copies: Vec<Vec<Copy>> = servers.iter().map(|_| Vec::new()).collect();
    let now = changes.now;
    for (node, places) in batch.nodes.into_iter().zip(batch.places) {
        let version = changes.version();
        let mut entry = EntryRow {
            id: node.id.0,
            parent: Some(node.parent.0),
            name: node.name,
            kind: EntryRow::DIRECTORY.into(),
            object: None,
            replication: None,
            version,
            created: now,
            modified: now,
        };
        let mut kind = EventKind::DirectoryMade;
        if let Some(size) = node.size {
            let (id, generation, bytes) = (ObjectId::generate().0, Generation::generate().0, content(&node.path, size));
            let object = ObjectRow {
                id,
                state: ObjectRow::LIVE.into(),
                size: size as i64,
                sha256: Sha256::of(&bytes).0.to_vec(),
                copies_wanted: COPIES as i32,
                label: node.path.to_string(),
                version,
                created: now,
                forget_after: None,
            };
            for place in places {
                let state = ReplicaRow::PRESENT.into();
                let server = servers[place].0;
                replicas.push(ReplicaRow { object: id, server, generation, state, created: now, verified: Some(now) });
                let row = on_server(&object, generation, changes.epoch());
                copies[place].push(Copy { row, bytes: bytes.clone() });
            }
            changes.record("objects", id, Some(&object))?;
            objects.push(object);
            (entry.kind, entry.object, kind) = (EntryRow::FILE.into(), Some(id), EventKind::FileWritten);
        }
        changes.record("entries", entry.id, Some(&entry))?;
        entries.push(entry);
        changes.note(kind, &node.path, None);
        changes.end_item();
    }
    dialect::load_objects(changes.connection, &objects)?;
    dialect::load_entries(changes.connection, &entries)?;
    dialect::load_replicas(changes.connection, &replicas)?;
    changes.finish()?;
    copied(connection)?;
    Ok(copies)
}

/// The object's row in the index of a server that has it.
fn on_server(object: &ObjectRow, generation: i64, epoch: i64) -> index::ReplicaRow {
    index::ReplicaRow {
        object: object.id,
        generation,
        size: object.size,
        sha256: object.sha256.clone(),
        label: object.label.clone(),
        epoch,
        version: Some(object.version),
        ticket_expires: object.created,
        state: index::State::Committed.word().into(),
        in_index: true,
        created: object.created,
        verified: object.created,
    }
}

/// The journal's rows count as copied and go: the storage servers get a snapshot in their place, as soon as they run.
fn copied(connection: &mut AnyConnection) -> Step<()> {
    use schema::cluster::dsl;
    let (history, last): (String, i64) = dsl::cluster.select((dsl::history_id, dsl::last_version)).first(connection)?;
    journal::note_copied(connection, &history, last)?;
    let later = dialect::clock(connection)? + chrono::TimeDelta::days(1);
    journal::trim(connection, later, None, i64::MAX / 2)?;
    Ok(())
}

/// The numbers are summed up, as the `Auditor` does each minute.
fn settle(connection: &mut AnyConnection) -> Step<()> {
    dialect::take_time(connection)?;
    counts::fold(connection)?;
    Ok(())
}

/// What Postgres does by itself within the next minutes, and would do while things are measured: the planner knows what
/// there is, and the rows of the journal that went are really gone.
fn clean_up(url: &DatabaseUrl) {
    if let DatabaseUrl::Postgres(url) = url {
        PgConnection::establish(url).unwrap().batch_execute("VACUUM ANALYZE").unwrap();
    }
}

/// Writes what comes into an index, as the storage server would in the end have it.
fn write_index(path: &Path, batches: &Receiver<Vec<Copy>>) {
    use index::{replicas, small_bytes};
    let mut connection = opening::open_writer(path).unwrap();
    connection.batch_execute("PRAGMA synchronous = OFF").unwrap();
    for batch in batches {
        let write = |connection: &mut index::IndexConnection| -> QueryResult<()> {
            for part in batch.chunks(INDEX_ROWS) {
                let rows: Vec<&index::ReplicaRow> = part.iter().map(|copy| &copy.row).collect();
                diesel::insert_into(replicas::table).values(rows).execute(connection)?;
                let bytes = part.iter().map(|copy| {
                    let of = (small_bytes::object.eq(copy.row.object), small_bytes::generation.eq(copy.row.generation));
                    (of, small_bytes::bytes.eq(&copy.bytes))
                });
                diesel::insert_into(small_bytes::table).values(bytes.collect::<Vec<_>>()).execute(connection)?;
            }
            Ok(())
        };
        connection.immediate_transaction(write).unwrap();
    }
}

/// Takes everything out of an index: the server comes back with an empty disk.
pub fn empty_index(path: &Path) {
    let mut connection = opening::open_writer(path).unwrap();
    connection.batch_execute("DELETE FROM small_bytes; DELETE FROM replicas").unwrap();
}

/// Whether the kept numbers are those of the rows; the objects that there are.
pub async fn counts_are_true(database: &str) -> i64 {
    let db = Db::open(&DatabaseUrl::parse(database).unwrap()).unwrap();
    db.write(|connection| {
        dialect::take_time(connection)?;
        let told = counts::told(connection)?;
        assert_eq!(told, counts::truth(connection, i64::MIN, i64::MAX)?, "the kept numbers are those of the rows");
        Ok(told.iter().filter(|((what, ..), _)| what == "live").map(|(_, (objects, _))| objects).sum())
    })
    .await
    .unwrap()
}
