//! Segments and snapshots as bytes, on the wire and in files: one JSON object per line.
//!
//! ```text
//! {"kind":"segment","format":1,"cluster":…,"history":…,"epoch":1,"first":41,"last":57,"tip_before":…,"tip_after":…}
//! {"version":41,"seq":0,"table":"entries","key":"4711","content":"{…}","created":…}
//! …
//! {"lines":23,"sha256":…}
//! ```
//!
//! A *segment* has the whole versions `first` to `last`; its tips must come out when its lines are chained. A
//! *snapshot* has rows of the tables (`{"table":…,"key":…,"content":…}`) as they were read, in short pages, from
//! version V0 (`first` and `last`, with its tip) to version V1, which its trailer names with its tip
//! (`{"lines":…,"v1":…,"tip1":…,"sha256":…}`): it counts only together with the lines from V0 + 1 to V1.
//! The trailer is the line that begins with `{"lines":`; its SHA-256 is that of all bytes of the file before
//! `,"sha256":`, so that the trailer itself is covered too.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::JournalLine;
pub use crate::types::bounds::VERSION_MAX;
use crate::types::hash::Hasher;
use crate::types::limits::JOURNAL_SEGMENT_BYTES_MAX;
pub use crate::types::storage_api::JournalFileKind as Kind;
use crate::types::{Error, ErrorCode, Result, Sha256, Version};

/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// Longest line, in bytes. A row comes from a JSON body of at most 4 MiB, and being quoted twice cannot make it
/// four times as long.
pub const LINE_BYTES_MAX: u64 = 16 << 20;

/// How a trailer begins, and no other line.
pub(super) const TRAILER_START: &[u8] = b"{\"lines\":";
/// What comes before the digest in a trailer, and is the first that the digest does not cover.
pub(super) const DIGEST_START: &[u8] = b",\"sha256\":";

/// Where a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The cluster.
    pub cluster: Uuid,
    /// The branch of its history.
    pub history: Uuid,
    /// The epoch in which the file was made.
    pub epoch: i64,
}

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// See [`FORMAT`].
    pub format: u32,
    /// The cluster.
    pub cluster: Uuid,
    /// The branch of its history.
    pub history: Uuid,
    /// The epoch in which the file was made.
    pub epoch: i64,
    /// The first version of a segment; V0 of a snapshot.
    pub first: Version,
    /// The last version of a segment; V0 of a snapshot.
    pub last: Version,
    /// The tip before the first version; that at V0.
    pub tip_before: Sha256,
    /// The tip after the last version; that at V0.
    pub tip_after: Sha256,
}

/// A row in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLine {
    /// The table.
    pub table: String,
    /// The primary key.
    pub key: String,
    /// The whole row as JSON, the same text as in the journal.
    pub content: String,
}

/// The last line of a file, without its digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) lines: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) v1: Option<Version>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tip1: Option<Sha256>,
}

impl Trailer {
    /// Appends the line; `hasher` has taken all bytes before it.
    fn seal(&self, mut hasher: Hasher, bytes: &mut Vec<u8>) -> Result<()> {
        let start = bytes.len();
        push_line(bytes, self)?;
        bytes.truncate(bytes.len() - b"}\n".len());
        hasher.update(&bytes[start..]);
        bytes.extend_from_slice(DIGEST_START);
        bytes.extend_from_slice(format!("\"{}\"}}\n", hasher.finish()).as_bytes());
        Ok(())
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone)]
pub enum Defect {
    /// It ends before its trailer.
    Truncated,
    /// Its bytes are not those that were written.
    Checksum,
    /// Its lines are not the versions that the header names, or do not lead from its first tip to its last.
    Chain(String),
    /// A newer program wrote it.
    FormatTooNew(u32),
    /// It belongs to another cluster.
    OtherCluster(Uuid),
    /// A line is too long.
    LineTooLong(u64),
    /// A line is not what it must be.
    Malformed(String),
    /// The file is not at fault: reading it failed, or whoever takes the lines did.
    Failed(Error),
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("it is truncated: it ends before its trailer"),
            Self::Checksum => f.write_str("its checksum is wrong"),
            Self::Chain(why) => write!(f, "its chain is broken: {why}"),
            Self::FormatTooNew(format) => {
                write!(f, "it has format {format}, this program knows formats up to {FORMAT}: use the newer program")
            }
            Self::OtherCluster(cluster) => write!(f, "it belongs to another cluster ({cluster})"),
            Self::LineTooLong(line) => write!(f, "its line {line} has more than {LINE_BYTES_MAX} bytes"),
            Self::Malformed(why) => f.write_str(why),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Defect {}

impl From<Error> for Defect {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Defect> for Error {
    fn from(defect: Defect) -> Self {
        let code = match &defect {
            Defect::Truncated | Defect::Checksum | Defect::Chain(_) => ErrorCode::ChecksumMismatch,
            Defect::FormatTooNew(_) | Defect::Malformed(_) => ErrorCode::InvalidRequest,
            Defect::OtherCluster(_) => ErrorCode::Forbidden,
            Defect::LineTooLong(_) => ErrorCode::TooLarge,
            Defect::Failed(error) => return error.clone(),
        };
        Error::new(code, format!("the file of the journal is refused: {defect}"))
    }
}

/// A segment of consecutive lines, which must be whole versions, as bytes. `tip_before` is the tip before the
/// first line; the tip after the last is in the header that is answered.
pub fn segment(origin: &Origin, tip_before: Sha256, lines: &[JournalLine]) -> Result<(Header, Vec<u8>)> {
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
        return Err(Error::internal("a segment of no lines"));
    };
    let mut chain = Follower::new(first.version, tip_before);
    for line in lines {
        chain.take(line).map_err(|defect| Error::internal("lines of the journal do not follow").with_source(defect))?;
    }
    let header = Header {
        kind: Kind::Segment,
        format: FORMAT,
        cluster: origin.cluster,
        history: origin.history,
        epoch: origin.epoch,
        first: first.version,
        last: last.version,
        tip_before,
        tip_after: chain.tip,
    };
    let mut bytes = Vec::new();
    push_line(&mut bytes, &header)?;
    for line in lines {
        push_line(&mut bytes, line)?;
    }
    let mut hasher = Hasher::default();
    hasher.update(&bytes);
    Trailer { lines: lines.len() as u64, v1: None, tip1: None }.seal(hasher, &mut bytes)?;
    if bytes.len() as u64 > JOURNAL_SEGMENT_BYTES_MAX {
        let message = format!("a segment of {} bytes; at most {JOURNAL_SEGMENT_BYTES_MAX} are allowed", bytes.len());
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    Ok((header, bytes))
}

/// Makes the bytes of a segment piece by piece, of lines that come from segments which continue each other.
pub struct MergedWriter {
    header: Header,
    chain: Follower,
    hasher: Hasher,
    lines: u64,
}

impl MergedWriter {
    /// Begins the segment that has what the segments of these headers have. Appends its first bytes to `bytes`, as the
    /// others do with theirs. Refused unless each continues the one before it.
    pub fn start(parts: &[Header], bytes: &mut Vec<u8>) -> Result<Self> {
        let continues = |pair: &[Header]| {
            let of = |header: &Header| (header.kind, header.cluster, header.history, header.epoch);
            of(&pair[0]) == of(&pair[1]) && (pair[0].last + 1, pair[0].tip_after) == (pair[1].first, pair[1].tip_before)
        };
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Err(Error::internal("a segment of no segments"));
        };
        if first.kind != Kind::Segment || !parts.windows(2).all(continues) {
            return Err(Error::internal("segments that are to be merged do not continue each other"));
        }
        let header = Header { format: FORMAT, last: last.last, tip_after: last.tip_after, ..first.clone() };
        let chain = Follower::new(header.first, header.tip_before);
        let mut writer = Self { chain, header, hasher: Hasher::default(), lines: 0 };
        let header = writer.header.clone();
        writer.push(bytes, &header)?;
        Ok(writer)
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next line of the parts.
    pub fn line(&mut self, line: &JournalLine, bytes: &mut Vec<u8>) -> Result<()> {
        self.chain.take(line)?;
        self.lines += 1;
        self.push(bytes, line)
    }

    /// The end, when all lines have come.
    pub fn finish(self, bytes: &mut Vec<u8>) -> Result<()> {
        if (self.chain.version, self.chain.tip) != (self.header.last, self.header.tip_after) {
            return Err(Error::internal("the lines of merged segments do not lead to their end"));
        }
        Trailer { lines: self.lines, v1: None, tip1: None }.seal(self.hasher, bytes)
    }

    fn push(&mut self, bytes: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
        let start = bytes.len();
        push_line(bytes, value)?;
        self.hasher.update(&bytes[start..]);
        Ok(())
    }
}

fn push_line(bytes: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    let start = bytes.len();
    serde_json::to_writer(&mut *bytes, value)
        .map_err(|error| Error::internal("cannot encode a line of the journal").with_source(error))?;
    bytes.push(b'\n');
    let length = (bytes.len() - start) as u64;
    if length > LINE_BYTES_MAX {
        let message = format!("a line of the journal has {length} bytes; at most {LINE_BYTES_MAX} are allowed");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    Ok(())
}

/// Makes a snapshot's bytes piece by piece, so that it need not be in memory whole.
pub struct SnapshotWriter {
    hasher: Hasher,
    lines: u64,
    v0: Version,
}

impl SnapshotWriter {
    /// Begins a snapshot whose reading starts when version `v0`, with its tip, is the newest one. Appends its first
    /// bytes to `bytes`, as the others do with theirs.
    pub fn start(origin: &Origin, v0: Version, tip: Sha256, bytes: &mut Vec<u8>) -> Result<Self> {
        let header = Header {
            kind: Kind::Snapshot,
            format: FORMAT,
            cluster: origin.cluster,
            history: origin.history,
            epoch: origin.epoch,
            first: v0,
            last: v0,
            tip_before: tip,
            tip_after: tip,
        };
        let mut writer = Self { hasher: Hasher::default(), lines: 0, v0 };
        writer.push(bytes, &header)?;
        Ok(writer)
    }

    /// One more row, as it is now.
    pub fn row(&mut self, table: &str, key: &str, content: &str, bytes: &mut Vec<u8>) -> Result<()> {
        #[derive(Serialize)]
        struct Line<'l> {
            table: &'l str,
            key: &'l str,
            content: &'l str,
        }
        self.push(bytes, &Line { table, key, content })?;
        self.lines += 1;
        Ok(())
    }

    /// The end: all rows were read when version `v1`, with its tip, was the newest one.
    pub fn finish(self, v1: Version, tip1: Sha256, bytes: &mut Vec<u8>) -> Result<()> {
        if v1 < self.v0 {
            return Err(Error::internal(format!("a snapshot that begins at version {} and ends at {v1}", self.v0)));
        }
        Trailer { lines: self.lines, v1: Some(v1), tip1: Some(tip1) }.seal(self.hasher, bytes)
    }

    fn push(&mut self, bytes: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
        let start = bytes.len();
        push_line(bytes, value)?;
        self.hasher.update(&bytes[start..]);
        Ok(())
    }
}

/// Follows lines: versions and their rows must be dense.
pub(super) struct Follower {
    first: Version,
    pub(super) version: Version,
    seq: i32,
    pub(super) tip: Sha256,
}

impl Follower {
    pub(super) fn new(first: Version, tip: Sha256) -> Self {
        Self { first, version: first - 1, seq: 0, tip }
    }

    /// Takes the next line. Answers whether it begins a version.
    pub(super) fn take(&mut self, line: &JournalLine) -> Result<bool, Defect> {
        let begins = (line.version, line.seq) == (self.version + 1, 0);
        let goes_on =
            self.version >= self.first && line.version == self.version && Some(line.seq) == self.seq.checked_add(1);
        if !begins && !goes_on {
            return Err(Defect::Chain(format!(
                "row {} of version {} follows row {} of version {}",
                line.seq, line.version, self.seq, self.version
            )));
        }
        (self.version, self.seq, self.tip) = (line.version, line.seq, line.next_tip(self.tip));
        Ok(begins)
    }
}
