//! Copies that are put aside: bytes, a note that says why, and a mark on those that must not be removed.
//!
//! ```text
//! quarantine/ID.G         the bytes; none when there were none
//! quarantine/ID.G.reason  why, since when, and what the index knew of the copy
//! quarantine/ID.G.keep    there when it must stay until a person takes the mark away
//! ```
//!
//! # What a crash leaves behind
//!
//! The steps are: mark, note, bytes, fsync of `quarantine/`, and only then the row of the index (the
//! `IndexWriter`'s part). Each can be done again. After the mark or the note: files that say something about a copy
//! that is still in its place. After the rename of a large copy: a row without its file; reads are refused and
//! another copy is taken, and the scrubber finds the row and comes back here. After the bytes of a small copy: two
//! of them, of which the one in the index goes the next time. After the fsync: the same, but certain. After the
//! row: nothing is left to do.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::dir::TempFile;
use super::index::ReplicaRow;
use super::layout::{Layout, object_name};
use crate::types::error::IoContext;
use crate::types::{Result, Sha256};

/// The end of a note's name.
const NOTE: &str = ".reason";
/// The end of a mark's name.
const MARK: &str = ".keep";

/// What a mark says, for people who find it.
const MARK_TEXT: &str = "This is the last copy of a file that somebody wants, and its bytes are not what they were.\n\
                         It stays here until this mark is removed; then it goes like the others.\n";

/// Why a copy is put aside.
#[derive(Debug, Clone, Copy)]
pub struct Aside<'a> {
    /// What is wrong with it.
    pub reason: &'a str,
    /// It must never be removed by itself.
    pub for_good: bool,
}

/// Puts a copy's bytes aside, durably: the file of a larger one, `small_bytes` of one in the index. Its row must go
/// after this, not before. A second time it finds less to do and comes to the same end.
pub fn put(layout: &Layout, row: &ReplicaRow, small_bytes: Option<&[u8]>, aside: &Aside<'_>) -> Result<()> {
    let key = row.key();
    let name = key.to_string();
    let failed = || format!("putting {key} into quarantine");
    if aside.for_good {
        write_durably(layout, &mark_of(&name), MARK_TEXT.as_bytes()).io_context(failed)?;
    }
    write_durably(layout, &note_of(&name), note(row, aside).as_bytes()).io_context(failed)?;
    crate::types::failpoint::ASIDE_NOTED.passed();
    match small_bytes {
        Some(bytes) => write_durably(layout, &name, bytes).io_context(failed)?,
        None => match layout.objects().rename(object_name(key), layout.quarantine(), &name) {
            // Moved the last time, or it was its absence that was found.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            moved => moved.io_context(failed)?,
        },
    }
    crate::types::failpoint::ASIDE_MOVED.passed();
    log::warn!("{key} ({}) is put into quarantine: {}", row.label, aside.reason);
    Ok(())
}

/// Makes what was put aside durable, before rows go.
pub fn sync(layout: &Layout) -> Result<()> {
    let dir = layout.quarantine();
    dir.sync().io_context(|| format!("syncing {}", dir.path().display()))
}

/// Puts a file below `objects/` aside that no row knows. Answers whether it was still there: it may have been on its
/// way out.
pub fn put_unknown(layout: &Layout, path: &Path, name: &str, reason: &str) -> Result<bool> {
    let (quarantine, note) = (layout.quarantine(), note_of(name));
    let text = format!("reason: {reason}\ntime: {}\n", now());
    // Not made durable: a note that is lost says less, and nothing is lost with it.
    write(layout, &note, text.as_bytes(), |_| Ok(())).io_context(|| format!("writing the note on {name}"))?;
    match layout.objects().rename(path, quarantine, name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let undo = || -> std::io::Result<()> {
                // Unless somebody else has moved it here a moment ago.
                if quarantine.look(name)?.is_none() { quarantine.remove(&note) } else { Ok(()) }
            };
            undo().io_context(|| format!("removing the note on {name}"))?;
            Ok(false)
        }
        moved => {
            moved.io_context(|| format!("moving {} into quarantine", path.display()))?;
            log::warn!("{} was moved into quarantine: {reason}", path.display());
            Ok(true)
        }
    }
}

/// The note on a file in quarantine.
pub fn note_of(name: &str) -> String {
    format!("{name}{NOTE}")
}

fn mark_of(name: &str) -> String {
    format!("{name}{MARK}")
}

/// The file that a note or a mark is about; `None` when it is neither.
pub fn subject(name: &str) -> Option<&str> {
    name.strip_suffix(NOTE).or_else(|| name.strip_suffix(MARK))
}

/// Whether a file in quarantine must not be removed.
pub fn is_kept_for_good(layout: &Layout, name: &str) -> bool {
    // What cannot be asked is not removed either.
    !layout.quarantine().look(mark_of(name)).is_ok_and(|mark| mark.is_none())
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn note(row: &ReplicaRow, aside: &Aside<'_>) -> String {
    let digest = Sha256::from_slice(&row.sha256).map_or_else(|_| hex::encode(&row.sha256), |digest| digest.to_string());
    let version = row.version.map_or_else(|| "not known to be committed".into(), |version| version.to_string());
    format!(
        "reason: {}\nlabel: {}\nsize: {}\nsha256: {digest}\nversion: {version}\nverified: {}Z\ntime: {}\n",
        aside.reason,
        row.label.escape_debug(),
        row.size,
        row.verified.format("%Y-%m-%dT%H:%M:%S"),
        now(),
    )
}

/// A file that appears whole or not at all, whatever stood there before. `incoming/` is emptied at each start.
fn write_durably(layout: &Layout, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    write(layout, name, bytes, File::sync_all)
}

fn write(
    layout: &Layout,
    name: &str,
    bytes: &[u8],
    sync: impl Fn(&File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let (mut file, temporary) = TempFile::new_in(layout.incoming(), "quarantine-")?;
    file.write_all(bytes)?;
    sync(&file)?;
    temporary.put(layout.quarantine(), name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::store::State;

    #[test]
    fn names_belong_together() {
        assert_eq!(note_of("1.2"), "1.2.reason");
        assert_eq!((subject("1.2.reason"), subject("1.2.keep"), subject("1.2")), (Some("1.2"), Some("1.2"), None));
    }

    #[test]
    fn notes_say_what_the_index_knew_and_stay_within_their_lines() {
        let time = chrono::DateTime::from_timestamp(0, 0).unwrap().naive_utc();
        let row = ReplicaRow {
            object: 1,
            generation: 2,
            size: 5,
            sha256: Sha256::of(b"bytes").0.to_vec(),
            label: "/a\nb".into(),
            epoch: 1,
            version: Some(7),
            ticket_expires: time,
            state: State::Committed.word().into(),
            in_index: false,
            created: time,
            verified: time,
        };
        let text = note(&row, &Aside { reason: "other bytes", for_good: false });
        let digest = Sha256::of(b"bytes").to_string();
        for part in
            ["reason: other bytes\n", "label: /a\\nb\n", "size: 5\n", &digest, "version: 7\n", "1970-01-01T00:00:00Z"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(text.lines().count(), 7);
    }
}
