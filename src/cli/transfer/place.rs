//! Giving a fetched file its name, or taking a file away, without losing what someone wrote meanwhile.
//!
//! A file that is to be replaced is exchanged with the new one and looked at once more: when it is not what
//! was expected, the two are exchanged back. So there is no moment at which a change could slip through
//! between the look and the replacement.

use std::fs::{Metadata, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::{NamedTempFile, TempPath};

use crate::cli::local::{FileStat, is_absent};
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

/// What may be at a fetched file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Any file, which is replaced.
    AnyFile,
    /// Nothing.
    Absent,
    /// Exactly this file.
    Same(FileStat),
}

/// Whether an error says that the place is not as expected.
pub(crate) fn is_meanwhile_changed(error: &Error) -> bool {
    error.code() == ErrorCode::PreconditionFailed
}

fn meanwhile(target: &Path) -> Error {
    Error::new(ErrorCode::PreconditionFailed, format!("{} changed meanwhile; it is left as it is", target.display()))
}

/// A temporary file in a directory: its name is short whatever the target's is, and it goes away if unused.
pub(super) fn temporary_in(directory: &Path) -> Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".holdfast-")
        .suffix(".part")
        // Less what the umask takes away: the file becomes an ordinary one.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .io_context(|| format!("making a temporary file in {}", directory.display()))
}

/// The directory of a path.
pub(super) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn look(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::io(format!("looking at {}", path.display()), error)),
    }
}

fn is_file_as(metadata: &Metadata, stat: FileStat) -> bool {
    metadata.is_file() && FileStat::of(metadata) == stat
}

/// Gives a written file its name. Its size and time are the answer.
pub(super) fn place(file: NamedTempFile, target: &Path, expect: Expect) -> Result<FileStat> {
    let context = || format!("writing {}", target.display());
    let stat = FileStat::of(&file.as_file().metadata().io_context(context)?);
    let present = look(target)?;
    match (&present, expect) {
        (None, Expect::AnyFile | Expect::Absent) => {}
        (Some(there), Expect::AnyFile) if there.is_file() => keep_mode(&file, there).io_context(context)?,
        (Some(_), Expect::AnyFile) => {
            let what = format!("{} is in the way: it is no regular file", target.display());
            return Err(Error::new(ErrorCode::AlreadyExists, what));
        }
        (Some(there), Expect::Same(stat)) if is_file_as(there, stat) => keep_mode(&file, there).io_context(context)?,
        _ => return Err(meanwhile(target)),
    }
    let path = file.into_temp_path();
    match (present, expect) {
        (_, Expect::AnyFile) => path.persist(target).map_err(|error| error.error).io_context(context)?,
        (None, _) => match path.persist_noclobber(target) {
            Ok(()) => {}
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => return Err(meanwhile(target)),
            Err(error) => return Err(Error::io(context(), error.error)),
        },
        (Some(_), Expect::Same(stat)) => exchange(path, target, stat)?,
        (Some(_), Expect::Absent) => return Err(meanwhile(target)),
    }
    Ok(stat)
}

/// A file that was executable, or private, stays so.
fn keep_mode(file: &NamedTempFile, there: &Metadata) -> std::io::Result<()> {
    file.as_file().set_permissions(Permissions::from_mode(there.permissions().mode() & 0o777))
}

/// Exchanges the new file with the old one, which goes away if it is what was expected.
fn exchange(new: TempPath, target: &Path, expected: FileStat) -> Result<()> {
    let context = || format!("replacing {}", target.display());
    let swap = || renameat_with(CWD, new.to_path_buf(), CWD, target, RenameFlags::EXCHANGE);
    match swap() {
        Ok(()) => {}
        Err(Errno::NOENT) => return Err(meanwhile(target)),
        // The file system cannot exchange. What is left is the look just before.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            return new.persist(target).map_err(|error| Error::io(context(), error.error));
        }
        Err(error) => return Err(Error::io(context(), error.into())),
    }
    if look(&new)?.is_some_and(|old| is_file_as(&old, expected)) {
        return Ok(());
    }
    swap().map_err(std::io::Error::from).io_context(context)?;
    Err(meanwhile(target))
}

/// A file that was taken out of its place, to be removed.
pub(crate) struct Retired;

impl Retired {
    /// Removes a file if it still is what was expected. It is moved into `aside` first (on the same file
    /// system), and back if it is not.
    pub(crate) fn remove(target: &Path, expected: FileStat, aside: &Path) -> Result<()> {
        let context = || format!("removing {}", target.display());
        match look(target)? {
            Some(there) if is_file_as(&there, expected) => {}
            None => return Ok(()),
            Some(_) => return Err(meanwhile(target)),
        }
        // Reserves a name that nobody else has.
        let place = temporary_in(aside)?.into_temp_path();
        match std::fs::rename(target, &place) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => return Ok(()),
            // Another file system is mounted there. What is left is the look just before.
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                return std::fs::remove_file(target).io_context(context);
            }
            Err(error) => return Err(Error::io(context(), error)),
        }
        if look(&place)?.is_some_and(|old| is_file_as(&old, expected)) {
            return Ok(());
        }
        let back = renameat_with(CWD, place.to_path_buf(), CWD, target, RenameFlags::NOREPLACE);
        if let Err(error) = back {
            // Someone has put another file there already; both are kept.
            let kept = place.keep().map_err(|error| Error::io(context(), error.error))?;
            let what = format!("{} changed twice meanwhile; one version is in {}", target.display(), kept.display());
            return Err(Error::new(ErrorCode::PreconditionFailed, what).with_source(std::io::Error::from(error)));
        }
        Err(meanwhile(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn temporary(directory: &Path, text: &str) -> NamedTempFile {
        let mut file = temporary_in(directory).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_is_expected_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (root, target) = (directory.path(), directory.path().join("x".repeat(255)));
        place(temporary(root, "one"), &target, Expect::Absent).unwrap();
        let one = FileStat::look(&target).unwrap().unwrap();
        assert!(is_meanwhile_changed(&place(temporary(root, "two"), &target, Expect::Absent).unwrap_err()));
        let other = FileStat { size: 1, mtime_ns: 1 };
        assert!(is_meanwhile_changed(&place(temporary(root, "two"), &target, Expect::Same(other)).unwrap_err()));
        std::fs::set_permissions(&target, Permissions::from_mode(0o750)).unwrap();
        place(temporary(root, "two"), &target, Expect::Same(one)).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "two");
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(names(root).len(), 1, "no temporary file is left");
    }

    #[test]
    fn a_change_between_look_and_exchange_is_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let (root, target) = (directory.path(), directory.path().join("f"));
        std::fs::write(&target, "changed by someone").unwrap();
        let new = temporary(root, "remote").into_temp_path();
        let error = exchange(new, &target, FileStat { size: 3, mtime_ns: 0 }).unwrap_err();
        assert!(is_meanwhile_changed(&error));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "changed by someone");
        assert_eq!(names(root), ["f"]);
    }

    #[test]
    fn links_and_directories_are_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        for name in ["link", "d"] {
            assert!(place(temporary(root, "x"), &root.join(name), Expect::AnyFile).is_err());
            assert!(place(temporary(root, "x"), &root.join(name), Expect::Absent).is_err());
        }
        assert_eq!(names(root), ["d", "link"]);
    }

    #[test]
    fn only_what_is_expected_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (root, target) = (directory.path(), directory.path().join("f"));
        std::fs::create_dir(root.join("aside")).unwrap();
        let aside = root.join("aside");
        std::fs::write(&target, "x").unwrap();
        let stat = FileStat::look(&target).unwrap().unwrap();
        let other = FileStat { size: 9, ..stat };
        assert!(is_meanwhile_changed(&Retired::remove(&target, other, &aside).unwrap_err()));
        Retired::remove(&target, stat, &aside).unwrap();
        Retired::remove(&target, stat, &aside).unwrap();
        assert!(!target.exists() && names(&aside).is_empty());
    }
}
