//! Files of one or several copies of the journal: verified one by one, merged, and replayed.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::chain::{self, Base, Chain, Merged, Piece};
use super::reader::{Contents, Reader, Segment, Snapshot};
use super::{Defect, Header, JournalLine, Kind, Staging};
use crate::types::error::IoContext;
use crate::types::{Result, Sha256, Version};

/// Bytes that are read from a file at once.
const READ_BYTES: usize = 256 << 10;

/// Verified files. It keeps 32 bytes for each version in memory, and no lines.
#[derive(Debug, Default)]
pub struct Collection {
    cluster: Option<Uuid>,
    snapshots: Vec<Snapshot>,
    snapshot_paths: Vec<PathBuf>,
    segments: Vec<Segment>,
    segment_paths: Vec<PathBuf>,
    /// Headers, with V1 of snapshots.
    known: HashSet<(Header, Option<Version>)>,
}

/// What became of a file that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is kept, and must stay where it is.
    Kept,
    /// Another copy has brought the same lines: this file is not needed.
    Known,
}

impl Collection {
    /// An empty one, for files of this cluster; without one the first file decides.
    pub fn new(cluster: Option<Uuid>) -> Self {
        Self { cluster, ..Self::default() }
    }

    /// Reads a file to its end and keeps it when it is right.
    pub fn add(&mut self, path: &Path) -> Result<Added, Defect> {
        let reader = open(path, self.cluster)?;
        // The same range with the same tips is the same lines.
        if reader.header().kind == Kind::Segment && self.has_lines_of(reader.header()) {
            return Ok(Added::Known);
        }
        match reader.verify()? {
            Contents::Segment(segment) => {
                self.cluster = Some(segment.header.cluster);
                self.known.insert((segment.header.clone(), None));
                self.segments.push(segment);
                self.segment_paths.push(path.into());
            }
            Contents::Snapshot(snapshot) => {
                self.cluster = Some(snapshot.header.cluster);
                // Rows may differ between two snapshots from V0 to V1, but either will do.
                if !self.known.insert((snapshot.header.clone(), Some(snapshot.v1))) {
                    return Ok(Added::Known);
                }
                self.snapshots.push(snapshot);
                self.snapshot_paths.push(path.into());
            }
        }
        Ok(Added::Kept)
    }

    /// Whether a segment that is here has all lines of another one: servers merge theirs at other places.
    fn has_lines_of(&self, header: &Header) -> bool {
        self.known.contains(&(header.clone(), None)) || self.segments.iter().any(|segment| segment.has_lines_of(header))
    }

    /// The cluster, once it is known.
    pub fn cluster(&self) -> Option<Uuid> {
        self.cluster
    }

    /// What all files have together.
    pub fn merge(&self) -> Merged {
        chain::merge(&self.snapshots, &self.segments)
    }

    /// The tip of a chain at a version, where its lines tell it.
    pub fn tip_at(&self, chain: &Chain, version: Version) -> Option<Sha256> {
        chain.tip_at(&self.segments, version)
    }

    /// About how many rows [`Collection::replay`] applies: those of the base, and one for each change.
    pub fn rows_of(&self, chain: &Chain) -> u64 {
        let base = match chain.base {
            Base::Snapshot(number) => self.snapshots[number].rows,
            Base::Genesis => 0,
        };
        base + chain.pieces_after(chain.base_version).map(|piece| (piece.last - piece.first + 1) as u64).sum::<u64>()
    }

    /// Applies a chain, base and lines, to an empty staging database.
    pub fn replay(&self, chain: &Chain, staging: &mut Staging) -> Result<()> {
        if let Base::Snapshot(number) = chain.base {
            let path = &self.snapshot_paths[number];
            open(path, self.cluster)
                .and_then(|reader| reader.snapshot(|row| staging.apply_row(&row)))
                .map_err(|defect| of(path, defect))?;
        }
        self.each_line(chain.pieces_after(chain.base_version), |line| staging.apply_line(&line))
    }

    /// Hands out the lines of pieces of a chain or of another branch, in order. They were verified when their files were added, and
    /// are again: a file that was damaged since ends it with an error.
    pub fn each_line(
        &self,
        pieces: impl IntoIterator<Item = Piece>,
        mut visit: impl FnMut(JournalLine) -> Result<()>,
    ) -> Result<()> {
        for piece in pieces {
            let path = &self.segment_paths[piece.segment];
            let wanted = piece.first..=piece.last;
            open(path, self.cluster)
                .and_then(|reader| {
                    reader.segment(|line| if wanted.contains(&line.version) { visit(line) } else { Ok(()) })
                })
                .map_err(|defect| of(path, defect))?;
        }
        Ok(())
    }
}

/// Opens a file and reads its header.
pub fn open(path: &Path, cluster: Option<Uuid>) -> Result<Reader<BufReader<File>>, Defect> {
    read(File::open(path).io_context(|| format!("opening {}", path.display()))?, cluster)
}

/// Reads the header of an open file.
pub fn read(file: File, cluster: Option<Uuid>) -> Result<Reader<BufReader<File>>, Defect> {
    Reader::open(BufReader::with_capacity(READ_BYTES, file), cluster)
}

fn of(path: &Path, defect: Defect) -> crate::types::Error {
    crate::types::Error::from(defect).context(path.display())
}
