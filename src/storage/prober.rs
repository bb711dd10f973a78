//! The `Prober`: proves every few seconds that the disk takes a file, durably.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::io::Errno;

use super::server::Shared;
use super::store::{Layout, TempFile};
use crate::actors::pass::{PassReport, Timing, Work};
use crate::types::Result;
use crate::types::storage_api::{Trouble, TroubleCode};

/// Bytes of the file that is written; one block.
const PROBE_BYTES: usize = 4 << 10;

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
            let counts = vec![("probe begun", usize::from(due)), ("IN TROUBLE", usize::from(troubled))];
            Ok(PassReport { counts, more: false })
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
    write().map_or_else(|error| judged(&error, has_inodes(layout)), Ok)
}

/// Whether one more file can be made. File systems that make inodes as they need them count none at all.
fn has_inodes(layout: &Layout) -> bool {
    layout.incoming().room().is_ok_and(|room| room.f_files == 0 || room.f_favail > 0)
}

/// What a failure of the probe means. A disk that is full is in no trouble: its free bytes say it, and deletions, which
/// make room, have the ballast.
fn judged(error: &std::io::Error, has_inodes: bool) -> Result<(), Trouble> {
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    let (code, message) = match error.kind() {
        ErrorKind::StorageFull if has_inodes => return Ok(()),
        ErrorKind::StorageFull => (
            TroubleCode::OutOfInodes,
            "the file system has no inodes left: no more files can be made on it, whatever room it has".into(),
        ),
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
        for (errno, has_inodes, want) in [
            (Errno::NOSPC, true, None),
            (Errno::NOSPC, false, Some(TroubleCode::OutOfInodes)),
            (Errno::ROFS, true, Some(TroubleCode::ReadOnly)),
            (Errno::DQUOT, true, Some(TroubleCode::Quota)),
            (Errno::MFILE, true, Some(TroubleCode::OutOfFiles)),
            (Errno::NFILE, true, Some(TroubleCode::OutOfFiles)),
            (Errno::IO, true, Some(TroubleCode::IoError)),
            (Errno::NODEV, false, Some(TroubleCode::IoError)),
        ] {
            let code = judged(&errno.into(), has_inodes).err().map(|trouble| trouble.code);
            assert_eq!(code, want, "{errno:?}");
        }
    }
}
