//! The metadata's journal outside the database: its lines and tips, its files, and what several copies of it
//! have together.
//!
//! | module | what is in it |
//! |---|---|
//! | [`mod@format`] | segments and snapshots as bytes: the format, and writing it |
//! | [`reader`] | reading them, with every check |
//! | [`chain`] | pure: which base, which lines and which head the copies have in common |
//! | [`collection`] | files of several copies: verified, merged, replayed |
//! | [`staging`] | a temporary database into which they are replayed, to walk the tree that they describe |
//!
//! # Why this is enough to bring the metadata back
//!
//! Every changed row is a [`JournalLine`], with the whole new row or nothing. The lines are chained: the *tip*
//! after a line is a hash over the tip before it and the line, so a tip stands for everything that came before.
//! Two copies that have the same tip at the same version have the same past, whatever their files' boundaries
//! are. A snapshot is read while changes go on, in short pages, between versions V0 and V1: laid under the
//! lines from V0 + 1 to V1 it is whole, because applying a line twice is the same as once.

pub mod chain;
pub mod collection;
pub mod format;
pub mod reader;
pub mod staging;

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256 as Sha256Hasher};

pub use chain::{Base, Chain, Conflict, Gap, Merged, Piece};
pub use collection::Collection;
pub use format::{Defect, Header, Kind, MergedWriter, Origin, SnapshotLine, SnapshotWriter};
pub use reader::{Contents, Ends, Reader, Segment, Snapshot};
pub use staging::Staging;

use crate::types::{Sha256, Version};

/// Names and directories.
pub const ENTRIES: &str = "entries";
/// The immutable bytes of the files.
pub const OBJECTS: &str = "objects";
/// Who may do what.
pub const TOKENS: &str = "tokens";
/// The storage servers.
pub const SERVERS: &str = "servers";
/// What administrators have set.
pub const SETTINGS: &str = "settings";

/// The tip before the first change of a cluster.
pub const GENESIS_TIP: Sha256 = Sha256([0; 32]);

/// A changed row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    /// The change that it belongs to.
    pub version: Version,
    /// Numbers the rows of one change from 0.
    pub seq: i32,
    /// The table.
    pub table: String,
    /// Its primary key.
    pub key: String,
    /// Its new content, the text that the tip is made of; `None` when it is gone.
    pub content: Option<String>,
    /// When the change was made (UTC). Not part of the tip.
    pub created: NaiveDateTime,
}

impl JournalLine {
    /// The tip after this line.
    pub fn next_tip(&self, tip: Sha256) -> Sha256 {
        next_tip(tip, self.version, self.seq, &self.table, &self.key, self.content.as_deref())
    }
}

/// The tip after one more changed row: SHA-256 over the tip before, the row's place and its text. Each
/// text is preceded by its length, so that no two different rows hash the same bytes.
pub fn next_tip(tip: Sha256, version: Version, seq: i32, table: &str, key: &str, content: Option<&str>) -> Sha256 {
    let mut hasher = Sha256Hasher::new();
    hasher.update(tip.0);
    hasher.update(version.to_be_bytes());
    hasher.update(seq.to_be_bytes());
    for text in [Some(table), Some(key), content] {
        match text {
            Some(text) => {
                hasher.update((text.len() as u64).to_be_bytes());
                hasher.update(text);
            }
            None => hasher.update(u64::MAX.to_be_bytes()),
        }
    }
    Sha256(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let zero = GENESIS_TIP;
        let base = next_tip(zero, 1, 0, "entries", "1", Some("{}"));
        for other in [
            next_tip(Sha256([1; 32]), 1, 0, "entries", "1", Some("{}")),
            next_tip(zero, 2, 0, "entries", "1", Some("{}")),
            next_tip(zero, 1, 1, "entries", "1", Some("{}")),
            next_tip(zero, 1, 0, "entries1", "", Some("{}")),
            next_tip(zero, 1, 0, "entries", "1", None),
            next_tip(zero, 1, 0, "entries", "1", Some("")),
        ] {
            assert_ne!(base, other);
        }
    }
}
