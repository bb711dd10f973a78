//! Reading a copy again and comparing its bytes with what was acknowledged, piece by piece.
//!
//! What is wrong with a copy (other bytes, too few, no file, a disk that cannot read it) is told apart from what
//! is wrong with this moment (no file handles left, no memory, no permission): the latter is an error, says nothing
//! about the copy, and is tried again.

use std::fs::File;
use std::io::Read;

use super::index::{self, IndexConnection, ReplicaRow};
use super::layout::{Layout, object_name};
use crate::decisions::scrub;
use crate::types::Sha256;
use crate::types::hash::Hasher;
use crate::types::storage_api::ReplicaKey;

/// Bytes that are read from the disk at a time.
const READ_BYTES: usize = 256 << 10;

/// What a step of a reading came to.
pub enum Step {
    /// There is more to read.
    More(Box<Reading>),
    /// The bytes are right.
    Good,
    /// They are not, and this is what is wrong.
    Bad(String),
    /// Its file is not there.
    Gone,
}

/// A copy that is being read.
pub struct Reading {
    row: ReplicaRow,
    file: File,
    hasher: Hasher,
    position: u64,
}

/// Checks bytes that are in memory, or the absence of those that should be in the index.
pub fn check_small(row: &ReplicaRow, bytes: Option<&[u8]>) -> Result<(), String> {
    let bytes = bytes.ok_or("its bytes are missing in the index")?;
    if bytes.len() as i64 != row.size {
        return Err(format!("it has {} bytes instead of {}", bytes.len(), row.size));
    }
    compare(row, Sha256::of(bytes))
}

/// Small copies that were checked, up to the next larger one.
pub struct Page {
    /// Right.
    pub good: Vec<ReplicaKey>,
    /// Not right, and why.
    pub bad: Vec<(ReplicaKey, String)>,
    /// The last one; `None` when there was none.
    pub cursor: Option<ReplicaKey>,
    /// What reading them cost, see [`scrub::cost`].
    pub cost: u64,
    /// What comes after them.
    pub next: Next,
}

/// What comes after a page.
pub enum Next {
    /// Perhaps more small copies.
    Unknown,
    /// A copy in a file.
    Large(ReplicaRow),
    /// Nothing.
    End,
}

/// Checks small copies behind `after`, as many as `copies_max` and about as many bytes as `bytes_max`.
pub fn check_page(
    connection: &mut IndexConnection,
    after: ReplicaKey,
    copies_max: usize,
    bytes_max: u64,
) -> crate::types::Result<Page> {
    let rows = index::page(connection, Some(after), copies_max)?;
    let next = if rows.len() < copies_max { Next::End } else { Next::Unknown };
    let mut page = Page { good: Vec::new(), bad: Vec::new(), cursor: None, cost: 0, next };
    for row in rows {
        if !row.in_index {
            page.next = Next::Large(row);
            break;
        }
        if page.cost >= bytes_max {
            page.next = Next::Unknown;
            break;
        }
        let key = row.key();
        match check_small(&row, index::bytes(connection, key)?.as_deref()) {
            Ok(()) => page.good.push(key),
            Err(reason) => page.bad.push((key, reason)),
        }
        page.cursor = Some(key);
        page.cost += scrub::cost(1, row.size as u64);
    }
    Ok(page)
}

impl Reading {
    /// Opens the file of a larger copy. What the page cache has of it is let go, so that the disk is asked.
    pub fn start(layout: &Layout, row: ReplicaRow) -> std::io::Result<Step> {
        let opened = layout.objects().open_file(object_name(row.key()));
        let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return judged(error),
        };
        if !meta.is_file() || meta.len() as i64 != row.size {
            return Ok(Step::Bad(format!("its file has {} bytes instead of {}", meta.len(), row.size)));
        }
        forget(&file, 0, meta.len());
        Ok(Step::More(Box::new(Self { row, file, hasher: Hasher::default(), position: 0 })))
    }

    /// Its row.
    pub fn row(&self) -> &ReplicaRow {
        &self.row
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes still to be read.
    pub fn left(&self) -> u64 {
        (self.row.size as u64).saturating_sub(self.position)
    }

    /// Reads on, at most `bytes`.
    pub fn advance(mut self: Box<Self>, bytes: u64) -> std::io::Result<Step> {
        let from = self.position;
        let until = self.position + bytes.min(self.left());
        let mut buffer = vec![0; READ_BYTES];
        while self.position < until {
            let wanted = READ_BYTES.min((until - self.position) as usize);
            let count = match self.file.read(&mut buffer[..wanted]) {
                Ok(0) => {
                    return Ok(Step::Bad(format!("its file ended after {} of {} bytes", self.position, self.row.size)));
                }
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return judged(error),
            };
            self.hasher.update(&buffer[..count]);
            self.position += count as u64;
        }
        forget(&self.file, from, self.position - from);
        if self.left() > 0 {
            return Ok(Step::More(self));
        }
        Ok(match compare(&self.row, self.hasher.finish()) {
            Ok(()) => Step::Good,
            Err(reason) => Step::Bad(reason),
        })
    }
}

fn compare(row: &ReplicaRow, read: Sha256) -> Result<(), String> {
    if row.sha256 == read.0 {
        return Ok(());
    }
    Err(format!("its bytes have SHA-256 {read} instead of {}", hex::encode(&row.sha256)))
}

/// Whether an error is the copy's or the moment's.
fn judged(error: std::io::Error) -> std::io::Result<Step> {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Ok(Step::Gone);
    }
    if is_damage(&error) {
        return Ok(Step::Bad(format!("it cannot be read: {error}")));
    }
    Err(error)
}

/// Whether an error says that a place on the disk is damaged.
pub fn is_damage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    // What disks and file systems answer when they know that a place is damaged. A device that has gone answers
    // other things.
    const DAMAGE: [Errno; 4] = [Errno::IO, Errno::BADMSG, Errno::ILSEQ, Errno::NOTDIR];
    #[cfg(target_os = "linux")]
    const DAMAGE_LINUX: [Errno; 2] = [Errno::UCLEAN, Errno::NODATA];
    #[cfg(not(target_os = "linux"))]
    const DAMAGE_LINUX: [Errno; 0] = [];
    let is = |errno: &Errno| error.raw_os_error() == Some(errno.raw_os_error());
    DAMAGE.iter().chain(&DAMAGE_LINUX).any(is)
}

/// Lets the page cache go of what was read: a scrub must not push out what clients read, nor be shown memory in the
/// place of the disk.
fn forget(file: &File, offset: u64, length: u64) {
    #[cfg(target_os = "linux")]
    if let Some(length) = std::num::NonZeroU64::new(length) {
        // Only advice: a file system that does not know it loses nothing.
        let _ = rustix::fs::fadvise(file, offset, Some(length), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn stored(bytes: &[u8]) -> (tempfile::TempDir, Layout, ReplicaRow) {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let now = chrono::Utc::now().naive_utc();
        let row = ReplicaRow {
            object: 0x1234,
            generation: 5,
            size: bytes.len() as i64,
            sha256: Sha256::of(bytes).0.to_vec(),
            label: "/x".into(),
            epoch: 1,
            version: Some(1),
            ticket_expires: now,
            state: "committed".into(),
            in_index: false,
            created: now,
            verified: now,
        };
        let path = layout.objects().path().join(object_name(row.key()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        (dir, layout, row)
    }

    fn read(layout: &Layout, row: &ReplicaRow, pieces: u64) -> Result<(), String> {
        let mut step = Reading::start(layout, row.clone()).unwrap();
        loop {
            step = match step {
                Step::More(reading) => reading.advance(pieces).unwrap(),
                Step::Good => return Ok(()),
                Step::Bad(reason) => return Err(reason),
                Step::Gone => return Err("its file is missing".into()),
            };
        }
    }

    #[test]
    fn copies_are_checked_in_pieces_and_what_is_wrong_is_said() {
        let bytes: Vec<u8> = (0..700_000u32).map(|i| (i % 253) as u8).collect();
        let (_dir, layout, row) = stored(&bytes);
        let path = layout.objects().path().join(object_name(row.key()));
        for pieces in [1_000, 300_000, 1 << 30] {
            assert_eq!(read(&layout, &row, pieces), Ok(()));
        }
        let mut damaged = bytes.clone();
        damaged[699_999] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(read(&layout, &row, 100_000).unwrap_err().contains("SHA-256"));
        fs::write(&path, &bytes[..600_000]).unwrap();
        assert!(read(&layout, &row, 100_000).unwrap_err().contains("600000 bytes instead of 700000"));
        fs::remove_file(&path).unwrap();
        assert!(read(&layout, &row, 100_000).unwrap_err().contains("missing"));
        fs::create_dir(&path).unwrap();
        assert!(read(&layout, &row, 100_000).is_err());
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_bad() {
        let (_dir, layout, row) = stored(&[7; 500_000]);
        let Step::More(reading) = Reading::start(&layout, row.clone()).unwrap() else { panic!("more") };
        let Step::More(reading) = reading.advance(100_000).unwrap() else { panic!("more") };
        assert_eq!((reading.position(), reading.left()), (100_000, 400_000));
        fs::OpenOptions::new()
            .write(true)
            .open(layout.objects().path().join(object_name(row.key())))
            .unwrap()
            .set_len(200_000)
            .unwrap();
        assert!(matches!(reading.advance(400_000).unwrap(), Step::Bad(reason) if reason.contains("200000 of 500000")));
    }

    #[test]
    fn small_copies() {
        let (_dir, _, row) = stored(b"bytes");
        assert_eq!(check_small(&row, Some(b"bytes")), Ok(()));
        assert!(check_small(&row, Some(b"bytez")).unwrap_err().contains("SHA-256"));
        assert!(check_small(&row, Some(b"byte")).unwrap_err().contains("4 bytes instead of 5"));
        assert!(check_small(&row, None).unwrap_err().contains("missing"));
    }

    #[test]
    fn a_bad_moment_is_not_a_bad_copy() {
        use rustix::io::Errno;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::PERM, Errno::STALE] {
            assert!(judged(errno.into()).is_err(), "{errno:?}");
        }
        for errno in [Errno::IO, Errno::BADMSG] {
            assert!(matches!(judged(errno.into()).unwrap(), Step::Bad(_)), "{errno:?}");
        }
        assert!(matches!(judged(Errno::NOENT.into()).unwrap(), Step::Gone));
    }
}
