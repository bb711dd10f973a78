//! Merging segments, so that a copy of the journal is few files however long it is written: [`crate::decisions::merging`]
//! says which.
//!
//! The merged file is written to `incoming/`, read back whole, fsynced, renamed, and its directory fsynced; only then
//! its parts are removed. A crash leaves either the parts alone, or both: of two files that begin at one version the longer
//! one counts, and the next pass removes what another file has, after it has read that one whole. Lines that are there twice
//! are the same lines, for whoever reads the directory meanwhile.
//!
//! While somebody reads the files one by one, as a restore does, nothing is merged, so that names which were told stay.

use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;

use parking_lot::MutexGuard;
use uuid::Uuid;

use super::held::{HeldFile, file_name};
use super::{Journal, is_absent, is_of_disk, open, tip_inside};
use crate::journal::{Contents, Defect, Ends, Kind, MergedWriter, Segment, collection};
use crate::storage::store::dir::TempFile;
use crate::storage::store::incoming::not_stored;
use crate::types::Result;
use crate::types::failpoint;

/// As long after a name or a file was asked for nothing is merged.
const READING: Duration = Duration::from_secs(20);
/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 << 10;

/// Files that only seem to be covered by another one, and why it need not be looked at again: they and that one.
#[derive(Default)]
pub(super) struct Memory {
    on_other_branches: HashSet<(String, String)>,
}

/// Segments that are to be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    parts: Vec<HeldFile>,
}

impl Merge {
    /// About as many bytes the merged file will have.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|file| file.bytes).sum()
    }

    /// The number of files that become one.
    pub fn files(&self) -> usize {
        self.parts.len()
    }
}

impl Journal {
    fn merging(&self) -> Option<MutexGuard<'_, Memory>> {
        self.merging.try_lock()
    }

    fn is_read(&self) -> bool {
        let read = *self.read.lock();
        read.is_some_and(|at| at.elapsed() < READING)
    }

    /// What is to be merged next.
    pub fn next_merge(&self) -> Option<Merge> {
        if self.is_read() { None } else { self.held().next_merge().map(|parts| Merge { parts }) }
    }

    /// Merges. Answers whether it has: not when another merge is under way, or a part has gone or turns out to be damaged.
    pub fn merge(&self, merge: &Merge, cluster: Option<Uuid>) -> Result<bool> {
        let Some(_alone) = self.merging() else { return Ok(false) };
        self.layout.require_same()?;
        let Some((temporary, merged)) = self.write_merged(&merge.parts, cluster)? else { return Ok(false) };
        let dir = self.layout.journal();
        let mut held = self.held();
        // What has its name is of another branch, or would have been removed.
        let is_taken = held.files().iter().any(|file| file.name == merged.name);
        if is_taken || !merge.parts.iter().all(|part| held.files().contains(part)) {
            return Ok(false);
        }
        let place = || -> std::io::Result<()> {
            failpoint::MERGE_WRITTEN.passed();
            temporary.put(dir, &merged.name)?;
            failpoint::MERGE_RENAMED.passed();
            dir.sync()
        };
        place().map_err(|error| not_stored(&format!("putting {} in its place", merged.name), error))?;
        held.replace(&merge.parts, merged, &|file, version| tip_inside(dir, file, version));
        self.note_position(&held);
        drop(held);
        self.remove_parts(&merge.parts);
        Ok(true)
    }

    /// The merged file, fsynced and read back; `None` when a part is damaged, which is dealt with then.
    fn write_merged(&self, parts: &[HeldFile], cluster: Option<Uuid>) -> Result<Option<(TempFile, HeldFile)>> {
        let storing = |error| not_stored("merging segments of the journal", error);
        let headers: Vec<_> = parts.iter().map(|part| part.header().clone()).collect();
        let mut bytes = Vec::new();
        let mut writer = MergedWriter::start(&headers, &mut bytes)?;
        let (mut file, temporary) = TempFile::new_in(self.layout.incoming(), "merge-").map_err(storing)?;
        for part in parts {
            let mut written = Ok(());
            let read = open(self.layout.journal(), &part.name, cluster).and_then(|reader| {
                reader.segment(|line| {
                    writer.line(&line, &mut bytes)?;
                    if bytes.len() >= WRITE_BYTES {
                        written = file.write_all(&bytes);
                        bytes.clear();
                    }
                    match &written {
                        Ok(()) => Ok(()),
                        // What it was is said below.
                        Err(_) => Err(crate::types::Error::internal("the merged file was not written")),
                    }
                })
            });
            written.map_err(storing)?;
            match read {
                Ok(_) => {}
                // A snapshot has made it needless meanwhile.
                Err(Defect::Failed(error)) if is_absent(&error) => return Ok(None),
                Err(Defect::Failed(error)) if !is_of_disk(&error) => return Err(error.context(&part.name)),
                Err(_) => {
                    let checked = self.check(part, cluster)?;
                    if checked.damage.is_some() {
                        self.damaged.lock().push(checked);
                    }
                    return Ok(None);
                }
            }
        }
        let header = writer.header().clone();
        writer.finish(&mut bytes)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(storing)?;
        let read = temporary.open().and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = read.map_err(storing)?;
        // Its parts are removed on the strength of this.
        collection::read(file, cluster)?.verify()?;
        let ends = Ends { end: (header.last, header.tip_after), header };
        Ok(Some((temporary, HeldFile { name: file_name(&ends.header), ends, bytes })))
    }

    /// Removes files that have left the list. What stays is removed by [`Journal::remove_covered`] after the next start.
    fn remove_parts(&self, parts: &[HeldFile]) {
        for part in parts {
            if let Err(error) = self.layout.journal().remove(&part.name) {
                log::error!("removing {} from the journal failed: {error}", part.name);
            }
            failpoint::MERGE_PART_REMOVED.passed();
        }
    }

    /// Removes segments whose lines another one has, as far as that one is right. Answers how many.
    pub fn remove_covered(&self, cluster: Option<Uuid>) -> Result<usize> {
        if self.is_read() {
            return Ok(0);
        }
        let Some(mut memory) = self.merging() else { return Ok(0) };
        let found = self
            .held()
            .seem_covered(|cover, file| memory.on_other_branches.contains(&(cover.name.clone(), file.name.clone())));
        let Some((cover, files)) = found else { return Ok(0) };
        self.layout.require_same()?;
        let dir = self.layout.journal();
        let segment = match open(dir, &cover.name, cluster).and_then(|reader| reader.verify()) {
            Ok(Contents::Segment(segment)) => segment,
            Err(Defect::Failed(error)) if !is_of_disk(&error) => return Err(error.context(&cover.name)),
            _ => {
                let checked = self.check(&cover, cluster)?;
                if checked.damage.is_some() {
                    self.damaged.lock().push(checked);
                }
                return Ok(0);
            }
        };
        let has = |file: &&HeldFile| has_lines_of(&segment, file);
        let (covered, other): (Vec<&HeldFile>, Vec<&HeldFile>) = files.iter().partition(has);
        memory.on_other_branches.extend(other.iter().map(|file| (cover.name.clone(), file.name.clone())));
        let covered: Vec<HeldFile> = covered.into_iter().cloned().collect();
        {
            let mut held = self.held();
            if !held.files().contains(&cover) {
                return Ok(0);
            }
            held.replace(&covered, cover, &|file, version| tip_inside(dir, file, version));
            self.note_position(&held);
        }
        self.remove_parts(&covered);
        Ok(covered.len())
    }
}

fn has_lines_of(segment: &Segment, file: &HeldFile) -> bool {
    file.header().kind == Kind::Segment && segment.has_lines_of(file.header())
}
