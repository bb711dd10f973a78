//! A storage server's directory.
//!
//! ```text
//! server.json        identity, cluster id, format version; the directory is locked by its daemon
//! index.sqlite       one row per (object, generation); bytes of small objects in a table of their own
//! objects/ab/cd/ID.G larger objects, one plain file each
//! journal/           the copy of the metadata's journal: snapshots, and the segments since the older one
//! journal/previous/  the journal of the history before the last restore
//! incoming/          uploads in flight; emptied at start
//! quarantine/        copies that are corrupt and files that no row knows, with the reason, kept for a while;
//!                    last copies of files that somebody wants, until a person removes their mark
//! ```
//!
//! # What a crash leaves behind
//!
//! A write streams to `incoming/` while hashing, then: fdatasync of the file, rename to its place, fsync of
//! the directory (and of parents that are new), index row in a group commit, answer. A crash before the rename
//! leaves a file in `incoming/`, which the next start empties; one before the row leaves a file that no row
//! knows, which the next start puts into quarantine; one after the row leaves a pending replica, whose fate the
//! collector asks for. A delete removes the row first and the file after it: a crash between them leaves a file
//! that no row knows. A copy goes into quarantine the other way round, bytes first and row after them
//! ([`quarantine`] says what each step leaves): a row without bytes is looked at again by the scrubber, bytes that
//! nobody knows would lose the reason. Nothing is ever changed in place.
//!
//! A file of the journal is checked whole in `incoming/`, then renamed to its place, and the directory is fsynced
//! before it is acknowledged. What a crash leaves behind between a snapshot's place and the removal of what it
//! replaces, the next start settles: which files count follows from the files alone.

pub mod dir;
pub mod incoming;
pub mod index;
pub mod inspect;
pub mod journal;
pub mod layout;
pub mod objects;
pub mod opening;
pub mod quarantine;
pub mod sweep;
pub mod verify;

pub use dir::{Dir, TempFile};
pub use incoming::{Content, Incoming, Received};
pub use index::{Index, ReplicaRow, State};
pub use journal::Journal;
pub use layout::{Layout, ServerFile};
