//! Reading one data directory with no server running: `salvage` and `rebuild`.

mod by_journal;

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use super::heard;
use super::store::index::{self, replicas, settings, small_bytes};
use super::store::inspect::{self, Inspected};
use super::store::layout::sync_dir;
use super::store::{Layout, ReplicaRow, objects};
use crate::types::error::IoContext;
use crate::types::hash::Hasher;
use crate::types::storage_api::ReplicaKey;
use crate::types::{DfsPath, Error, ErrorCode, Result, Version};

/// Rows that are looked at together.
const PAGE_ROWS: usize = 1_000;

/// What a salvage did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// The version up to which the paths are those of the journal here; `None` when there is none and the files stand
    /// under the paths of their commits.
    pub journal: Option<Version>,
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them whose commit this server had not heard of.
    pub unmarked: u64,
    /// Those of them that are newer than the journal here.
    pub newer: u64,
    /// Copies that were passed over: of files that are deleted or overwritten, and with `committed_only` what was
    /// neither marked as committed nor in the journal.
    pub passed_over: u64,
    /// What is worth knowing and did no harm.
    pub notes: Vec<String>,
    /// What could not be written, and why.
    pub problems: Vec<String>,
}

/// Writes the files of a data directory to `target`, each checked against its SHA-256. With a journal in the directory
/// they stand under their paths of today; what is newer than the journal, and everything when there is none, under
/// the paths of their commits. Nothing in the directory changes, and nothing in `target` is written over.
pub fn salvage(data_dir: &Path, target: &Path, committed_only: bool) -> Result<Salvaged> {
    let (layout, server) = Layout::open_read_only(data_dir)?;
    fs::create_dir_all(target).io_context(|| format!("making {}", target.display()))?;
    let index = open_copy(&layout)?;
    let mut work = Salvage { layout, index, target: target.into(), committed_only, done: Salvaged::default() };
    match by_journal::load(&mut work, server.cluster)? {
        Some((staging, head)) => by_journal::run(&mut work, staging, head)?,
        None => work.by_labels()?,
    }
    Ok(work.done)
}

/// A salvage under way.
struct Salvage {
    layout: Layout,
    index: Inspected,
    target: PathBuf,
    committed_only: bool,
    done: Salvaged,
}

impl Salvage {
    /// Writes files under the paths of their commits. Of several versions of a path the newest committed one is
    /// written; where this server has not heard of a commit yet (it asks a few seconds later), the youngest copy,
    /// unless `committed_only`.
    fn by_labels(&mut self) -> Result<()> {
        let newest = newest_versions(&mut self.index.connection, &self.layout, |row| {
            row.version.is_some() || !self.committed_only
        })?;
        let Self { layout, index, target, done, .. } = self;
        each_row(&mut index.connection, layout, |connection, row| {
            if newest.get(row.label.as_str()) != Some(&row.key()) {
                done.passed_over += 1;
                return Ok(());
            }
            let written = DfsPath::parse(&row.label)
                .and_then(|label| write_out(connection, layout, row, target, &host_path(target, label.as_str())));
            done.note(row, &row.label, written);
            Ok(())
        })
    }
}

impl Salvaged {
    fn note(&mut self, row: &ReplicaRow, path: &str, written: Result<()>) {
        match written {
            Ok(()) => {
                self.files += 1;
                self.unmarked += u64::from(row.version.is_none());
                self.bytes += row.size as u64;
            }
            Err(error) => self.problems.push(format!("{path}: {}", error.message())),
        }
    }
}

/// Where a DFS path lies on the host. Its names must have been checked.
fn host_path(target: &Path, path: &str) -> PathBuf {
    path.split('/').filter(|name| !name.is_empty()).fold(PathBuf::from(target), |path, name| path.join(name))
}

/// The index, to read it only.
fn open_copy(layout: &Layout) -> Result<Inspected> {
    let path = layout.index_path();
    inspect::reader(&path)?.map_err(|reason| {
        Error::new(
            ErrorCode::InvalidRequest,
            format!("the index {} cannot be read ({reason}); try rebuild first", path.display()),
        )
    })
}

/// Rows of all copies; those too whose files were missing when the daemon last looked, and are there now.
fn each_row(
    connection: &mut SqliteConnection,
    layout: &Layout,
    mut visit: impl FnMut(&mut SqliteConnection, &ReplicaRow) -> Result<()>,
) -> Result<()> {
    let mut after = None;
    loop {
        let rows = index::page(connection, after, PAGE_ROWS)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.key());
        for row in &rows {
            visit(connection, row)?;
        }
    }
    after = None;
    loop {
        let rows = index::missing_page(connection, after, PAGE_ROWS)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some(last.key());
        for row in &rows {
            if objects::is_there(layout, row.key())? {
                visit(connection, row)?;
            }
        }
    }
}

/// Of the wanted rows, for each label the copy with the highest version; among copies without one the youngest.
fn newest_versions(
    connection: &mut SqliteConnection,
    layout: &Layout,
    wanted: impl Fn(&ReplicaRow) -> bool,
) -> Result<HashMap<String, ReplicaKey>> {
    let mut newest: HashMap<String, (Option<i64>, ReplicaKey)> = HashMap::new();
    each_row(connection, layout, |_, row| {
        if wanted(row) {
            let candidate = (row.version, row.key());
            let best = newest.entry(row.label.clone()).or_insert(candidate);
            *best = (*best).max(candidate);
        }
        Ok(())
    })?;
    Ok(newest.into_iter().map(|(label, (_, key))| (label, key)).collect())
}

fn write_out(
    connection: &mut SqliteConnection,
    layout: &Layout,
    row: &ReplicaRow,
    target: &Path,
    path: &Path,
) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).io_context(|| format!("making {}", parent.display()))?;
    }
    let mut source: Box<dyn Read> = if row.in_index {
        let bytes =
            index::bytes(connection, row.key())?.ok_or_else(|| Error::not_found("its bytes are not in the index"))?;
        Box::new(std::io::Cursor::new(bytes))
    } else {
        Box::new(objects::open(layout, row.key())?.ok_or_else(|| Error::not_found("its file is missing"))?)
    };
    let mut partial =
        tempfile::NamedTempFile::new_in(target).io_context(|| format!("writing into {}", target.display()))?;
    copy_checked(&mut source, partial.as_file_mut(), row)?;
    partial.persist_noclobber(path).map_err(|error| Error::io(format!("writing {}", path.display()), error.error))?;
    Ok(())
}

/// Copies the bytes of a replica and checks their digest.
fn copy_checked(source: &mut dyn Read, target: &mut dyn Write, row: &ReplicaRow) -> Result<()> {
    let (mut hasher, mut buffer) = (Hasher::default(), vec![0; 256 << 10]);
    loop {
        let count = source.read(&mut buffer).io_context(|| "reading it".into())?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        target.write_all(&buffer[..count]).io_context(|| "writing it".into())?;
    }
    if hasher.finish() != row.digest()? {
        return Err(Error::new(ErrorCode::ChecksumMismatch, "its bytes are corrupt here"));
    }
    Ok(())
}

/// What a rebuild did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Replicas that were verified and kept.
    pub kept: u64,
    /// Replicas whose bytes were missing or wrong.
    pub dropped: u64,
    /// Why reading the old index ended early, if it did.
    pub ended_early: Option<String>,
}

/// Makes a new index from what the damaged one still tells, keeping only replicas whose bytes are right. The old
/// index stays beside it. Files that the new index does not know go into quarantine when the daemon starts.
///
/// The new index is built whole under another name, which the daemon refuses to start beside, and only then
/// takes the old one's place: an interrupted rebuild is run again, and never takes a part for the whole.
pub fn rebuild(data_dir: &Path) -> Result<Rebuilt> {
    let (layout, _) = Layout::open(data_dir)?;
    let path = layout.index_path();
    let new_path = index::interrupted_rebuild(&path);
    if !path.exists() {
        if !new_path.exists() {
            let message = format!(
                "{} does not exist: there is nothing to rebuild from; keep this directory and start with another, empty one",
                path.display()
            );
            return Err(Error::not_found(message));
        }
        // The last run built it whole and ended between the two renames below.
        put_in_place(&path, &new_path, None)?;
        return Ok(Rebuilt {
            ended_early: Some("the new index was ready from the last run".into()),
            ..Rebuilt::default()
        });
    }
    remove_database(&new_path)?;
    let done = build(&layout, &path, &new_path)?;
    let aside = path.with_extension(format!("damaged-{}", chrono::Utc::now().format("%Y%m%dT%H%M%S")));
    put_in_place(&path, &new_path, Some(&aside))?;
    Ok(done)
}

fn build(layout: &Layout, path: &Path, new_path: &Path) -> Result<Rebuilt> {
    let mut new = super::store::opening::make(new_path)?;
    // The old one stays as it is, its log too: it is put aside whole.
    let mut old = inspect::reader(path)?.map_err(|reason| {
        Error::internal(format!(
            "the old index {} cannot even be opened ({reason}); keep this directory and start with another, empty one",
            path.display()
        ))
    })?;
    let old = &mut old.connection;
    let mut done = Rebuilt::default();
    let mut epoch = index::setting(old, "epoch").unwrap_or(0);
    let ended = each_row(old, layout, |old, row| {
        epoch = epoch.max(row.epoch);
        match verified_bytes(old, layout, row) {
            Ok(bytes) => {
                keep(&mut new, row, bytes)?;
                done.kept += 1;
            }
            Err(error) => {
                log::warn!("{} ({}) is dropped: {}", row.key(), row.label, error.message());
                done.dropped += 1;
            }
        }
        Ok(())
    });
    done.ended_early = ended.err().map(|error| error.chain());
    // What was promised about older name servers, and what was heard of the journal, must hold on.
    let mut kept = |name| index::setting(old, name).unwrap_or(0);
    let [version, servers] = heard::SETTINGS;
    let values = [("epoch", epoch), ("term", kept("term")), (version, kept(version)), (servers, kept(servers))];
    for (name, value) in values {
        diesel::insert_into(settings::table)
            .values((settings::name.eq(name), settings::value.eq(value)))
            .execute(&mut new)?;
    }
    // Without a log of its own, so that one rename moves it whole.
    new.batch_execute("PRAGMA journal_mode = DELETE")?;
    drop(new);
    fs::File::open(new_path)
        .and_then(|file| file.sync_all())
        .io_context(|| format!("syncing {}", new_path.display()))?;
    Ok(done)
}

/// Moves the old index aside (its log is copied: until the rename it belongs to the old one), and the new one to
/// its place.
fn put_in_place(path: &Path, new_path: &Path, aside: Option<&Path>) -> Result<()> {
    let with = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let place = || -> std::io::Result<()> {
        if let Some(aside) = aside {
            if with(path, "-wal").exists() {
                fs::copy(with(path, "-wal"), with(aside, "-wal"))?;
            }
            fs::rename(path, aside)?;
        }
        for suffix in ["-wal", "-shm"] {
            if with(path, suffix).exists() {
                fs::remove_file(with(path, suffix))?;
            }
        }
        fs::rename(new_path, path)?;
        sync_dir(path.parent().unwrap_or(Path::new(".")))
    };
    place().io_context(|| format!("putting the new index in the place of {}", path.display()))
}

fn remove_database(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let file = PathBuf::from(format!("{}{suffix}", path.display()));
        if file.exists() {
            fs::remove_file(&file).io_context(|| format!("removing {}", file.display()))?;
        }
    }
    Ok(())
}

/// The inline bytes of a replica whose digest is right; `None` when they are in a file.
fn verified_bytes(old: &mut SqliteConnection, layout: &Layout, row: &ReplicaRow) -> Result<Option<Vec<u8>>> {
    if row.in_index {
        let bytes = index::bytes(old, row.key())?.ok_or_else(|| Error::not_found("its bytes are missing"))?;
        copy_checked(&mut bytes.as_slice(), &mut std::io::sink(), row)?;
        return Ok(Some(bytes));
    }
    let mut file = objects::open(layout, row.key())?.ok_or_else(|| Error::not_found("its file is missing"))?;
    copy_checked(&mut file, &mut std::io::sink(), row)?;
    Ok(None)
}

fn keep(new: &mut SqliteConnection, row: &ReplicaRow, bytes: Option<Vec<u8>>) -> Result<()> {
    new.immediate_transaction(|new| -> Result<()> {
        diesel::insert_into(replicas::table).values(row).execute(new)?;
        if let Some(bytes) = bytes {
            diesel::insert_into(small_bytes::table)
                .values((
                    small_bytes::object.eq(row.object),
                    small_bytes::generation.eq(row.generation),
                    small_bytes::bytes.eq(bytes),
                ))
                .execute(new)?;
        }
        Ok(())
    })
}
