//! The copy of the metadata's journal: `journal/segment-FIRST-LAST.jsonl` and `journal/snapshot-V0.jsonl`.
//!
//! A segment is accepted only when it continues the position; a snapshot begins a new one. So the files of a server
//! are one journal without a gap, unless a disk loses some: then the position falls back to what is still linked,
//! and files beyond stay, because together with another server's they may be worth something.
//!
//! Segments that follow each other are merged (`merge`), so that files stay few: nothing that is asked or told each second
//! looks into the directory.

mod held;
mod merge;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::dir::{Dir, TempFile};
use super::incoming::not_stored;
use super::layout::Layout;
use super::{quarantine, verify};
use crate::journal::reader::{Reader, ends};
use crate::journal::{Contents, Defect, Ends, Header, Kind, Segment, collection};
use crate::types::error::IoContext;
use crate::types::limits::{JOURNAL_PAGE_FILES_MAX, JOURNAL_SEGMENT_BYTES_MAX};
use crate::types::storage_api::{JournalAccepted, JournalFile, JournalFiles, JournalPosition, JournalStatus};
use crate::types::{Error, ErrorCode, Result, Sha256, Version};
use held::{Held, HeldFile, file_name};

/// Segments that are received at the same time, and snapshots: these take long, and must hold up no segment.
const RECEIVED_AT_ONCE_MAX: usize = 2;
/// Where the files of the history before are.
const PREVIOUS: &str = "previous";

/// The copy of one storage server.
pub struct Journal {
    layout: Arc<Layout>,
    held: Mutex<Held>,
    /// Told to whoever asks, also while a file is being put in its place.
    position: Mutex<Option<JournalPosition>>,
    /// For receiving segments.
    pub segment_permits: Arc<Semaphore>,
    /// For receiving snapshots.
    pub snapshot_permits: Arc<Semaphore>,
    /// What merging remembers; locked while it is under way.
    merging: Mutex<merge::Memory>,
    /// When the names of files were last asked for, or a file.
    read: Mutex<Option<Instant>>,
    /// Files that were found damaged while they were merged, until the scrubber tells of them.
    damaged: Mutex<Vec<Checked>>,
}

impl Journal {
    /// Looks through the directory. Files that are damaged go into quarantine.
    pub fn open(layout: Arc<Layout>, cluster: Option<Uuid>) -> Result<Self> {
        let dir = layout.journal().clone();
        let mut files = Vec::new();
        refuse_newer_in(&dir, cluster)?;
        for name in names(&dir)? {
            match look(&dir, &name, cluster) {
                Ok(file) => files.push(file),
                Err(Defect::Failed(error)) if !is_of_disk(&error) => log::error!("{}; it is left out", error.chain()),
                Err(defect) => put_aside(&layout, &name, &defect.to_string())?,
            }
        }
        let newest = files.iter().map(HeldFile::header).max_by_key(|header| (header.epoch, header.last));
        let history = newest.map(|header| header.history);
        let (files, other): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| Some(file.header().history) == history);
        move_previous(&dir, &other)?;
        let held = Held::new(files, &|file, version| tip_inside(&dir, file, version));
        let journal = Self {
            layout,
            held: Mutex::new(held),
            position: Mutex::default(),
            segment_permits: Arc::new(Semaphore::new(RECEIVED_AT_ONCE_MAX)),
            snapshot_permits: Arc::new(Semaphore::new(RECEIVED_AT_ONCE_MAX)),
            merging: Mutex::default(),
            read: Mutex::default(),
            damaged: Mutex::default(),
        };
        journal.check_last(cluster)?;
        journal.note_position(&journal.held());
        Ok(journal)
    }

    /// Reads the last file whole: it is the one that a crash of the machine may have damaged.
    fn check_last(&self, cluster: Option<Uuid>) -> Result<()> {
        let dir = self.layout.journal();
        let mut held = self.held();
        let mut right: Vec<String> = Vec::new();
        // A segment, or the snapshot that was begun at its end, or both.
        loop {
            let unchecked = held.last_files().find(|name| !right.iter().any(|right| right == name)).map(String::from);
            let Some(name) = unchecked else { return Ok(()) };
            match open(dir, &name, cluster).and_then(|reader| reader.verify()) {
                Ok(_) => right.push(name),
                Err(Defect::Failed(error)) => return Err(error.context("checking the journal")),
                Err(defect) => {
                    put_aside(&self.layout, &name, &defect.to_string())?;
                    held.remove(&name, &|file, version| tip_inside(dir, file, version));
                }
            }
        }
    }

    /// Reads the next file after `after`, in the order of their names, to its end; every file is read in turn that way.
    /// One that is damaged is read a second time, and goes into quarantine then: the position falls back to what is
    /// still linked, and the name server sends anew what is missing. `None` when there is none after it.
    pub fn check_after(&self, after: &str, cluster: Option<Uuid>) -> Result<Option<Checked>> {
        let next = self.held().files().iter().find(|file| file.name.as_str() > after).cloned();
        let Some(file) = next else { return Ok(None) };
        self.check(&file, cluster).map(Some)
    }

    /// Files that were found damaged since this was last asked.
    pub fn take_damaged(&self) -> Vec<Checked> {
        std::mem::take(&mut self.damaged.lock())
    }

    fn check(&self, file: &HeldFile, cluster: Option<Uuid>) -> Result<Checked> {
        let dir = self.layout.journal();
        let read = || open(dir, &file.name, cluster).and_then(|reader| reader.verify());
        let mut checked = Checked { name: file.name.clone(), bytes: file.bytes, damage: None };
        // Not under the lock: it takes a while, and files come meanwhile.
        if read().is_ok() {
            return Ok(checked);
        }
        let Err(defect) = read() else {
            log::warn!("{} looked damaged, and was right the second time", file.name);
            return Ok(checked);
        };
        let mut held = self.held();
        if !held.files().contains(file) {
            // It was trimmed or replaced meanwhile.
            return Ok(checked);
        }
        match &defect {
            Defect::Failed(error) if is_absent(error) => {}
            Defect::Failed(error) if !is_of_disk(error) => return Err(error.clone().context("checking the journal")),
            defect => put_aside(&self.layout, &file.name, &defect.to_string())?,
        }
        held.remove(&file.name, &|file, version| tip_inside(dir, file, version));
        self.note_position(&held);
        checked.damage = Some(defect.to_string());
        Ok(checked)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }

    fn note_position(&self, held: &Held) {
        *self.position.lock() = held.position().cloned();
    }

    /// Where the copy ends. Never waits for a disk.
    pub fn position(&self) -> Option<JournalPosition> {
        self.position.lock().clone()
    }

    /// What is told of it. It is known in memory.
    pub fn status(&self) -> JournalStatus {
        self.held().status()
    }

    /// One page of the files, after a name. As long as the copy does not suffice, the files of the history before are told
    /// too: a restore that has nothing better takes them. May wait for a disk.
    pub fn files_after(&self, after: &str) -> JournalFiles {
        self.note_read();
        let is_behind = after.starts_with(PREVIOUS);
        let mut files: Vec<JournalFile> = Vec::new();
        let complete = {
            let held = self.held();
            let here = held.files().iter().filter(|file| !is_behind && file.name.as_str() > after);
            files.extend(here.take(JOURNAL_PAGE_FILES_MAX + 1).map(HeldFile::listed));
            held.is_complete()
        };
        if !complete && files.len() <= JOURNAL_PAGE_FILES_MAX {
            files.extend(self.previous().into_iter().filter(|file| !is_behind || file.name.as_str() > after));
        }
        let more = files.len() > JOURNAL_PAGE_FILES_MAX;
        files.truncate(JOURNAL_PAGE_FILES_MAX);
        JournalFiles { next: files.last().filter(|_| more).map(|file| file.name.clone()), files }
    }

    fn note_read(&self) {
        *self.read.lock() = Some(Instant::now());
    }

    fn previous(&self) -> Vec<JournalFile> {
        let Ok(dir) = self.layout.journal().sub(PREVIOUS) else { return Vec::new() };
        let names = names(&dir).unwrap_or_default().into_iter();
        let files = names.filter_map(|name| look(&dir, &name, None).ok());
        files.map(|file| JournalFile { name: format!("{PREVIOUS}/{}", file.name), ..file.listed() }).collect()
    }

    /// Opens a file that [`Journal::files_after`] lists, with its size.
    pub fn open_file(&self, name: &str) -> Result<(File, u64)> {
        self.note_read();
        // Under the lock, so that it is not removed in between.
        let held = self.held();
        let known = held.files().iter().any(|file| file.name == name)
            || name.starts_with(PREVIOUS) && self.previous().iter().any(|file| file.name == name);
        if !known {
            return Err(Error::not_found(format!("the journal here has no file {name:?}")));
        }
        let opened = self.layout.journal().open_file(name).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.io_context(|| format!("opening {name} of the journal"))?;
        Ok((file, bytes))
    }

    /// Checks a file that was received and takes it, if it continues the position or is a snapshot. When this
    /// answers, it is durable. Repeating a file changes nothing.
    pub fn accept(&self, file: TempFile, cluster: Uuid) -> Result<JournalAccepted> {
        self.layout.require_same()?;
        let opened = file.open().and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, opened) = opened.io_context(|| "looking at a received file".into())?;
        let reader = collection::read(opened, Some(cluster))?;
        let is_segment = reader.header().kind == Kind::Segment;
        // Before it is read: what is remembered of a segment grows with it.
        if is_segment && bytes > JOURNAL_SEGMENT_BYTES_MAX {
            let message = format!("a segment of {bytes} bytes; at most {JOURNAL_SEGMENT_BYTES_MAX} are taken");
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        let ends = match reader.verify()? {
            Contents::Segment(Segment { header, .. }) => Ends { end: (header.last, header.tip_after), header },
            Contents::Snapshot(snapshot) => Ends { end: (snapshot.v1, snapshot.tip1), header: snapshot.header },
        };
        let mut held = self.held();
        if !held.has(&ends) {
            if is_segment {
                held.check_segment(&ends.header)?
            } else {
                held.check_snapshot(&ends.header)?
            }
            let new = HeldFile { name: file_name(&ends.header), ends, bytes };
            self.put(&held, file, &new)?;
            if is_segment {
                held.add_segment(new)
            } else {
                self.take_snapshot(&mut held, new)
            }
            self.note_position(&held);
        }
        self.layout.require_same()?;
        match held.position().cloned() {
            Some(position) => Ok(JournalAccepted { position, complete: held.is_complete() }),
            None => Err(Error::internal("a file of the journal was accepted and leads nowhere")),
        }
    }

    /// Puts a checked file in its place.
    fn put(&self, held: &Held, file: TempFile, new: &HeldFile) -> Result<()> {
        let dir = self.layout.journal();
        // A snapshot may be replaced by one that took less time to read; anything else of the same name is another
        // branch, which somebody may want to look into.
        let other = |held: &HeldFile| {
            let (a, b) = (held.header(), new.header());
            held.name == new.name && (a.history, a.tip_before, a.tip_after) != (b.history, b.tip_before, b.tip_after)
        };
        if held.files().iter().any(other) {
            put_aside(&self.layout, &new.name, "a file with other changes of the same versions took its place")?;
        }
        let place = || -> std::io::Result<()> {
            file.open()?.sync_all()?;
            crate::types::failpoint::JOURNAL_RECEIVED.passed();
            file.put(dir, &new.name)?;
            crate::types::failpoint::JOURNAL_RENAMED.passed();
            dir.sync()
        };
        place().map_err(|error| not_stored(&format!("putting {} in its place", new.name), error))
    }

    /// What fails here is done by the next start: the snapshot is accepted all the same.
    fn take_snapshot(&self, held: &mut Held, new: HeldFile) {
        let dir = self.layout.journal();
        let released = held.add_snapshot(new, &|file, version| tip_inside(dir, file, version));
        if let Err(error) = move_previous(dir, &released.other_histories) {
            log::error!("{}", error.chain());
        }
        for file in &released.trimmed {
            if let Err(error) = dir.remove(&file.name) {
                log::error!("removing {} from the journal failed: {error}", file.name);
            }
        }
    }
}

/// A file of the journal that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What was wrong with it; then it is in quarantine.
    pub damage: Option<String>,
}

/// Refuses a directory in which a newer program has written files of the journal, before anything in it changes.
pub fn refuse_newer(root: &Dir, cluster: Uuid) -> Result<()> {
    let journal = root.path().join("journal");
    let dir = Dir::open_if_there(&journal).io_context(|| format!("opening {}", journal.display()))?;
    refuse_newer_in(&dir, Some(cluster))
}

fn refuse_newer_in(dir: &Dir, cluster: Option<Uuid>) -> Result<()> {
    for name in names(dir)? {
        if let Err(Defect::FormatTooNew(format)) = look(dir, &name, cluster) {
            let defect = Error::from(Defect::FormatTooNew(format));
            return Err(defect.context(dir.path().join(&name).display()));
        }
    }
    Ok(())
}

/// The kind of a failure of the system that is behind an error.
fn system_error(error: &Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether a file is not there.
fn is_absent(error: &Error) -> bool {
    system_error(error).is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Whether the disk knows that it cannot read a place, in the contrast to a bad moment.
fn is_of_disk(error: &Error) -> bool {
    system_error(error).is_some_and(verify::is_damage)
}

/// The names of the journal's files.
fn names(dir: &Dir) -> Result<Vec<String>> {
    let names = dir.names().io_context(|| format!("reading {}", dir.path().display()))?;
    let names = names.iter().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| name.ends_with(".jsonl") && (name.starts_with("segment-") || name.starts_with("snapshot-")))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// The files of the journal in a data directory that no daemon uses, those of the history before included.
pub fn paths(layout: &Layout) -> Result<Vec<PathBuf>> {
    let dir = layout.journal();
    let previous = Dir::open_if_there(&dir.path().join(PREVIOUS)).io_context(|| "opening the journal".into())?;
    let mut paths = Vec::new();
    for dir in [&previous, dir] {
        paths.extend(names(dir)?.into_iter().map(|name| dir.path().join(name)));
    }
    Ok(paths)
}

fn open(dir: &Dir, name: &str, cluster: Option<Uuid>) -> Result<Reader<BufReader<File>>, Defect> {
    let file = dir.open_file(name).io_context(|| format!("opening {}", dir.path().join(name).display()))?;
    collection::read(file, cluster)
}

fn look(dir: &Dir, name: &str, cluster: Option<Uuid>) -> Result<HeldFile, Defect> {
    let reading = || format!("reading {}", dir.path().join(name).display());
    let mut file = dir.open_file(name).io_context(reading)?;
    let bytes = file.metadata().io_context(reading)?.len();
    let ends = ends(&mut file, cluster)?;
    if file_name(&ends.header) != name {
        return Err(Defect::Malformed(format!(
            "its name does not go with its header, which is that of {}",
            file_name(&ends.header)
        )));
    }
    Ok(HeldFile { name: name.into(), ends, bytes })
}

/// The tip at a version inside a segment. A segment that cannot be read leads nowhere.
fn tip_inside(dir: &Dir, file: &HeldFile, version: Version) -> Option<Sha256> {
    match open(dir, &file.name, None).and_then(|reader| reader.segment(|_| Ok(()))) {
        Ok(segment) => segment.tip_at(version),
        Err(defect) => {
            log::error!("{} cannot be used: {defect}", dir.path().join(&file.name).display());
            None
        }
    }
}

fn put_aside(layout: &Layout, name: &str, reason: &str) -> Result<()> {
    let (quarantine, target) = (layout.quarantine(), format!("journal-{name}"));
    let work = || -> std::io::Result<()> {
        let (mut file, temporary) = TempFile::new_in(layout.incoming(), "quarantine-")?;
        writeln!(file, "{reason}")?;
        temporary.put(quarantine, quarantine::note_of(&target))?;
        layout.journal().rename(name, quarantine, &target)
    };
    work().io_context(|| format!("moving {name} of the journal into quarantine"))?;
    log::error!("{} was moved into quarantine: {reason}", layout.journal().path().join(name).display());
    Ok(())
}

/// Moves files of a history that has ended to a directory of their own, in the place of an older one there: so that a
/// restore that went wrong can be looked into. It can be interrupted anywhere and done again.
fn move_previous(dir: &Dir, files: &[HeldFile]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let moving = || format!("moving the journal of the history before to {}/{PREVIOUS}", dir.path().display());
    let previous = dir.make_dir(PREVIOUS).and_then(|_| dir.sub(PREVIOUS)).io_context(moving)?;
    let there = headers(&previous).io_context(moving)?;
    let known = there.iter().filter_map(|(_, header)| header.as_ref()).chain(files.iter().map(HeldFile::header));
    let Some(newest) = known.max_by_key(|header| (header.epoch, header.last)) else { return Ok(()) };
    let work = || -> std::io::Result<()> {
        for (name, header) in &there {
            if header.as_ref().is_none_or(|header| header.history != newest.history) {
                previous.remove(name)?;
            }
        }
        for file in files {
            if file.header().history == newest.history {
                dir.rename(&file.name, &previous, &file.name)?;
            } else {
                dir.remove(&file.name)?;
            }
        }
        previous.sync()?;
        dir.sync()
    };
    work().io_context(moving)?;
    log::warn!("the journal of history {} is kept in {}", newest.history, previous.path().display());
    Ok(())
}

/// The files of a directory with their headers, where they can be read.
fn headers(dir: &Dir) -> std::io::Result<Vec<(OsString, Option<Header>)>> {
    let header = |name: OsString| {
        let file = dir.open_file(&name).ok();
        let reader = file.and_then(|file| collection::read(file, None).ok());
        (name, reader.map(|reader| reader.header().clone()))
    };
    Ok(dir.names()?.into_iter().map(header).collect())
}

#[cfg(test)]
mod tests;
