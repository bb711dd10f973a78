//! Files of this machine, reached through open directories.
//!
//! A command opens the directory that it works in once ([`HostDir`]); everything below is opened, made, renamed and
//! removed relative to it. No symbolic link below is followed, whenever it was put there, no name leads out of it,
//! and paths may be longer than the system's limit. Four commands go through here, `import`, `export`, `push` and
//! `pull`, and nothing else of theirs touches the trees that they work on.

pub(crate) mod own;
mod place;
mod stat;
mod temporary;
mod tree;
pub(crate) mod trust;
mod walk;

pub(crate) use place::{
    Expect, Expected, check_free, folded_error, folded_twin, is_folded, is_meanwhile_changed, place, remove,
};
pub(crate) use stat::{FileStat, Look};
pub(crate) use temporary::{Temporary, remove_all as remove_temporaries};
pub(crate) use tree::{HostDir, HostPath};
pub(crate) use walk::{LocalEntry, LocalKind, Walk};
