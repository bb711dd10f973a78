//! The `Prober`: proves every few seconds that the disk takes a file, durably.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::io::Errno;

use super::state::Shared;
use super::store::{Layout, TempFile};
use crate::actors::pass::{Timing, Work};
use crate::actors::pass_report::PassReport;
use crate::types::Result;
use crate::types::storage_api::{Trouble, TroubleCode};

/// Bytes of the file that is written; one block.
const PROBE_BYTES: usize = 4 << 10;
/// Inodes that new objects leave free: one of them may need three, and the journal and notes in quarantine some, too.
const INODES_RESERVED: u64 = 64;

/// The work of the actor. A probe runs on a thread of its own, which nobody waits for: a pass begins one, or sees
/// that the last one has not come back.
pub struct ProveWrites {
    /// The daemon.
    pub shared: Arc<Shared>,
}

impl ProveWrites {
    /// A pass each second; most have nothing to do.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(1), deadline: Duration::from_secs(10) };
}

impl Work for ProveWrites {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let due = shared.condition.is_probe_due();
            let troubled = shared.condition.known().is_some();
            if due {
                tokio::task::spawn_blocking(move || {
                    if let Some(begun) = shared.condition.begin_probe() {
                        begun.end(probe(&shared.layout));
                    }
                });
            }
            let note = troubled.then_some("the disk is in trouble");
            Ok(PassReport { note, ..PassReport::of(vec![("probes begun", usize::from(due))]) })
        })
    }
}

/// Makes a small file, fsyncs it and removes it, in the directory that is to be there.
fn probe(layout: &Layout) -> Result<(), Trouble> {
    if let Some(trouble) = layout.trouble() {
        return Err(trouble);
    }
    let write = || -> std::io::Result<()> {
        let (mut file, temporary) = TempFile::new_in(layout.incoming(), "probe-")?;
        file.write_all(&[0x5a; PROBE_BYTES])?;
        file.sync_all()?;
        temporary.remove()
    };
    judged(write(), inodes_left(layout))
}

/// How many more files can be made. File systems that make inodes as they need them count none at all.
fn inodes_left(layout: &Layout) -> Option<u64> {
    let room = layout.incoming().room().ok()?;
    (room.f_files > 0).then_some(room.f_favail)
}

/// What came of the probe. A disk that is full is in no trouble: its free bytes say it, and deletions, which make room,
/// have the ballast.
fn judged(written: std::io::Result<()>, inodes_left: Option<u64>) -> Result<(), Trouble> {
    let inodes = inodes_left.filter(|left| *left < INODES_RESERVED);
    let (error, full) = match written {
        Ok(()) => (None, true),
        Err(error) => {
            let full = error.kind() == ErrorKind::StorageFull;
            (Some(error), full)
        }
    };
    if let (true, Some(left)) = (full, inodes) {
        let message = format!(
            "the file system has {left} inodes left: hardly any more files can be made on it, whatever room it has"
        );
        return Err(Trouble { code: TroubleCode::OutOfInodes, message });
    }
    let Some(error) = error.filter(|_| !full) else { return Ok(()) };
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    let (code, message) = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => (
            TroubleCode::ReadOnly,
            format!(
                "the file system is read-only ({error}): it was mounted so, or has found an error (see the kernel's log)"
            ),
        ),
        ErrorKind::QuotaExceeded => (TroubleCode::Quota, format!("the quota is used up ({error})")),
        _ if is(Errno::MFILE) || is(Errno::NFILE) => {
            (TroubleCode::OutOfFiles, format!("no more files can be opened ({error}): raise the limit of open files"))
        }
        _ => (TroubleCode::IoError, format!("the disk cannot be written to ({error})")),
    };
    Err(Trouble { code, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_disk_passes_and_keeps_nothing_of_the_probe() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        assert_eq!(probe(&layout), Ok(()));
        assert!(layout.incoming().names().unwrap().is_empty());
        std::fs::remove_dir(layout.objects().path()).unwrap();
        assert_eq!(probe(&layout).unwrap_err().code, TroubleCode::Replaced);
    }

    #[test]
    fn failures_have_their_codes_and_a_full_disk_is_none() {
        let (few, many) = (Some(INODES_RESERVED - 1), Some(INODES_RESERVED));
        let failed = |errno: Errno| Err(std::io::Error::from(errno));
        for (written, inodes, want) in [
            (Ok(()), many, None),
            (Ok(()), None, None),
            (Ok(()), few, Some(TroubleCode::OutOfInodes)),
            (failed(Errno::NOSPC), many, None),
            (failed(Errno::NOSPC), None, None),
            (failed(Errno::NOSPC), Some(0), Some(TroubleCode::OutOfInodes)),
            (failed(Errno::ROFS), few, Some(TroubleCode::ReadOnly)),
            (failed(Errno::DQUOT), many, Some(TroubleCode::Quota)),
            (failed(Errno::MFILE), many, Some(TroubleCode::OutOfFiles)),
            (failed(Errno::NFILE), many, Some(TroubleCode::OutOfFiles)),
            (failed(Errno::IO), many, Some(TroubleCode::IoError)),
            (failed(Errno::NODEV), few, Some(TroubleCode::IoError)),
        ] {
            let said = format!("{written:?} with {inodes:?} inodes");
            assert_eq!(judged(written, inodes).err().map(|trouble| trouble.code), want, "{said}");
        }
    }
}
