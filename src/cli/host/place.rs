//! Giving a fetched file its name, or taking a file away, without losing what someone wrote meanwhile.
//!
//! A file that is to be replaced is exchanged with the new one and looked at once more: when it is not what was
//! expected, the two are exchanged back. So there is no moment at which a change could slip through between the look
//! and the replacement. A file that is to be removed is taken away under another name and looked at there. While a
//! file is taken away, its name says what it must be ([`super::own`]): after a kill the next run can tell a version
//! that was meant to go from one that is nowhere else.
//!
//! What was written within the same tick of the clock as the look leaves no trace in the times; such a file is read
//! again before it goes. File systems that can neither exchange nor link (FAT and its like) get the look just before.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, RenameFlags, linkat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::own::folded;
use super::stat::{FileStat, Look};
use super::temporary::{Temporary, name_for_old};
use super::tree::HostDir;
use crate::types::error::IoContext;
use crate::types::hash::Hasher;
use crate::types::{Error, ErrorCode, Result, Sha256};

/// Held between a look and the rename that relies on it.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// What a file is that may be replaced or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) stat: FileStat,
    /// Its digest, when the times alone cannot tell a later change: then it is read again.
    pub(crate) unsettled: Option<Sha256>,
}

impl Expected {
    /// The name under which it is taken away. Only what is certain may be removed by a later run.
    fn name_for_old(&self) -> String {
        name_for_old(self.certain().as_ref())
    }

    fn certain(&self) -> Option<FileStat> {
        self.unsettled.is_none().then_some(self.stat)
    }
}

/// What may be at a fetched file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Any file, which is replaced.
    AnyFile,
    /// Nothing.
    Absent,
    /// Exactly this file.
    Same(Expected),
}

/// A name that the file system takes for another one that is there.
#[derive(Debug)]
struct Folded;

impl std::fmt::Display for Folded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the file system does not tell the two names apart")
    }
}

impl std::error::Error for Folded {}

/// Whether an error says that the place is not as expected.
pub(crate) fn is_meanwhile_changed(error: &Error) -> bool {
    error.code() == ErrorCode::PreconditionFailed
}

fn meanwhile(dir: &HostDir, name: &OsStr) -> Error {
    let message = format!("{} changed meanwhile; it is left as it is", dir.shown().join(name).display());
    Error::new(ErrorCode::PreconditionFailed, message)
}

/// Whether an error says that the file system takes the name for another one that is there.
pub(crate) fn is_folded(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<Folded>())
}

/// The name that a file system which does not tell the two apart has in the place of `name`; nothing when that name
/// itself is there.
pub(crate) fn folded_twin(dir: &HostDir, name: &OsStr) -> Result<Option<OsString>> {
    let Some(there) = dir.look(name)? else { return Ok(None) };
    let names = dir.names().map_err(std::io::Error::from);
    let names = names.io_context(|| format!("reading {}", dir.shown().display()))?;
    if names.iter().any(|other| other == name) {
        return Ok(None);
    }
    let alike = |other: &OsStr| folded(&other.to_string_lossy()) == folded(&name.to_string_lossy());
    let same = |other: &OsStr| dir.look(other).is_ok_and(|look| look.is_some_and(|look| look.is_same_thing(&there)));
    let twin = names.iter().find(|other| alike(other)).or_else(|| names.iter().find(|other| same(other)));
    Ok(Some(twin.cloned().unwrap_or_else(|| OsString::from("another one"))))
}

/// Says that a name cannot be used beside another one.
pub(crate) fn folded_error(dir: &HostDir, name: &OsStr, twin: &OsStr) -> Error {
    let message = format!(
        "{} is not written: this file system takes {} for the same name",
        dir.shown().join(name).display(),
        twin.display()
    );
    Error::new(ErrorCode::AlreadyExists, message).with_source(Folded)
}

/// Why a new name is taken though it was not in the directory's list before.
fn taken(dir: &HostDir, name: &OsStr) -> Error {
    match folded_twin(dir, name) {
        Ok(Some(twin)) => folded_error(dir, name, &twin),
        Ok(None) => meanwhile(dir, name),
        Err(error) => error,
    }
}

/// Refuses a place where something is, before anything is fetched for it.
pub(crate) fn check_free(dir: &HostDir, name: &OsStr) -> Result<()> {
    match dir.look(name)? {
        Some(_) => Err(taken(dir, name)),
        None => Ok(()),
    }
}

/// Gives a written file its name in its directory. Its size and times are the answer.
pub(crate) fn place(mut new: Temporary, name: &OsStr, expect: Expect) -> Result<FileStat> {
    let dir = new.dir().clone();
    let context = || format!("writing {}", dir.shown().join(name).display());
    let present = dir.look(name)?;
    match (present, expect) {
        (None, Expect::AnyFile | Expect::Absent) => {}
        (Some(there), Expect::AnyFile) if there.is_file() => keep_mode(new.file(), &there).io_context(context)?,
        (Some(there), Expect::AnyFile) => {
            let message = format!("{} is in the way: it is {}", dir.shown().join(name).display(), there.what());
            return Err(Error::new(ErrorCode::AlreadyExists, message));
        }
        (Some(there), Expect::Same(expected)) if there.is_file() && there.stat == expected.stat => {
            keep_mode(new.file(), &there).io_context(context)?;
        }
        // A link or the like, which was seen.
        (Some(there), Expect::Same(expected)) if !there.is_directory() && there.stat == expected.stat => {}
        (Some(_), Expect::Absent) => return Err(taken(&dir, name)),
        _ => return Err(meanwhile(&dir, name)),
    }
    match expect {
        Expect::AnyFile => {
            renameat(&dir, new.name(), &dir, name).map_err(std::io::Error::from).io_context(context)?;
            new.done();
        }
        Expect::Absent => place_new(&mut new, name)?,
        Expect::Same(expected) => exchange(&mut new, name, expected)?,
    }
    // Its name is the last thing that changed about it.
    let look = Look::of_file(new.file()).map_err(std::io::Error::from).io_context(context)?;
    Ok(look.stat)
}

/// A file that was executable, or private, stays so, where the file system has such a thing.
fn keep_mode(file: &File, there: &Look) -> std::io::Result<()> {
    match file.set_permissions(Permissions::from_mode(there.mode & 0o777)) {
        Err(error) if is_unsupported(&error) => Ok(()),
        set => set,
    }
}

fn is_unsupported(error: &std::io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL))
}

/// Whether the file system does not know a way of renaming or linking.
fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM)
}

/// Gives a new file a name that nothing has.
fn place_new(new: &mut Temporary, name: &OsStr) -> Result<()> {
    let dir = new.dir().clone();
    match rename_to_free(&dir, new.name().as_ref(), name) {
        Ok(()) => {
            new.done();
            Ok(())
        }
        Err(Errno::EXIST) => Err(taken(&dir, name)),
        Err(error) => Err(Error::io(format!("writing {}", dir.shown().join(name).display()), error.into())),
    }
}

/// Renames to a name that nothing has; `EXIST` if something has.
fn rename_to_free(dir: &HostDir, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
    match renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Err(error) if is_unknown(error) => {}
        renamed => return renamed,
    }
    match linkat(dir, from, dir, to, AtFlags::empty()) {
        Ok(()) => {
            // Two names of one file are better than none.
            let _ = unlinkat(dir, from, AtFlags::empty());
            return Ok(());
        }
        Err(error) if is_unknown(error) || error == Errno::MLINK => {}
        Err(error) => return Err(error),
    }
    // The file system can do neither. What is left is a look just before, one transfer at a time: of two names that
    // it takes for one, both would be free.
    let _alone = ALONE.lock();
    match Look::at(dir, to) {
        Err(Errno::NOENT) => renameat(dir, from, dir, to),
        Err(error) => Err(error),
        Ok(_) => Err(Errno::EXIST),
    }
}

/// Exchanges the new file with the old one, which goes away if it is what was expected.
fn exchange(new: &mut Temporary, name: &OsStr, expected: Expected) -> Result<()> {
    let dir = new.dir().clone();
    let context = || format!("replacing {}", dir.shown().join(name).display());
    // From the exchange on this name is that of the old file, which no other run must take for a part.
    let old = new.become_old(expected.certain().as_ref())?;
    let old: &OsStr = old.as_ref();
    let drop_new = || {
        let _ = unlinkat(&dir, old, AtFlags::empty());
    };
    let swap = || renameat_with(&dir, old, &dir, name, RenameFlags::EXCHANGE);
    match swap() {
        Ok(()) => {}
        Err(Errno::NOENT) => {
            drop_new();
            return Err(meanwhile(&dir, name));
        }
        Err(error) if is_unknown(error) => {
            // The file system cannot exchange. What is left is the look just before.
            let replaced = match is_expected(&dir, name, &expected, |now| *now == expected.stat) {
                Ok(true) => renameat(&dir, old, &dir, name).map_err(std::io::Error::from).io_context(context),
                Ok(false) => Err(meanwhile(&dir, name)),
                Err(error) => Err(error),
            };
            if replaced.is_err() {
                drop_new();
            }
            return replaced;
        }
        Err(error) => {
            drop_new();
            return Err(Error::io(context(), error.into()));
        }
    }
    if matches!(is_expected(&dir, old, &expected, |now| now.is_renamed(&expected.stat)), Ok(true)) {
        return unlinkat(&dir, old, AtFlags::empty()).map_err(std::io::Error::from).io_context(context);
    }
    if let Err(error) = swap() {
        return Err(kept(&dir, name, old).with_source(std::io::Error::from(error)));
    }
    drop_new();
    Err(meanwhile(&dir, name))
}

/// Says where a version is that could not be put back.
fn kept(dir: &HostDir, name: &OsStr, old: &OsStr) -> Error {
    let (target, old) = (dir.shown().join(name), dir.shown().join(old));
    let message = format!("{} changed twice meanwhile; one version is in {}", target.display(), old.display());
    Error::new(ErrorCode::PreconditionFailed, message)
}

/// Whether what is at a name is what was expected, read again if its times cannot tell.
fn is_expected(dir: &HostDir, name: &OsStr, expected: &Expected, same: impl Fn(&FileStat) -> bool) -> Result<bool> {
    match dir.look(name)? {
        Some(there) if same(&there.stat) => {}
        _ => return Ok(false),
    }
    match expected.unsettled {
        Some(sha256) => Ok(digest(dir, name)? == sha256),
        None => Ok(true),
    }
}

fn digest(dir: &HostDir, name: &OsStr) -> Result<Sha256> {
    let (mut file, _) = dir.open_file(name)?;
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(&piece[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(format!("reading {}", dir.shown().join(name).display()), error)),
        }
    }
}

/// Removes a file (or a link, never a directory) if it still is what was expected. It is taken away first, and put
/// back if it is not.
pub(crate) fn remove(dir: &HostDir, name: &OsStr, expected: Expected) -> Result<()> {
    let context = || format!("removing {}", dir.shown().join(name).display());
    match dir.look(name)? {
        Some(there) if !there.is_directory() && there.stat == expected.stat => {}
        None => return Ok(()),
        Some(_) => return Err(meanwhile(dir, name)),
    }
    let old = expected.name_for_old();
    let old: &OsStr = old.as_ref();
    match renameat(dir, name, dir, old) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(Error::io(context(), error.into())),
    }
    if matches!(is_expected(dir, old, &expected, |now| now.is_renamed(&expected.stat)), Ok(true)) {
        return unlinkat(dir, old, AtFlags::empty()).map_err(std::io::Error::from).io_context(context);
    }
    match rename_to_free(dir, old, name) {
        Ok(()) => Err(meanwhile(dir, name)),
        // Someone has put another file there already; both are kept.
        Err(error) => Err(kept(dir, name, old).with_source(std::io::Error::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn temporary(dir: &HostDir, text: &str) -> Temporary {
        let mut new = Temporary::create(dir).unwrap();
        new.file_mut().write_all(text.as_bytes()).unwrap();
        new
    }

    fn names(dir: &HostDir) -> Vec<String> {
        dir.names().unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    fn expected(dir: &HostDir, name: &str) -> Expected {
        Expected { stat: dir.look(name.as_ref()).unwrap().unwrap().stat, unsettled: None }
    }

    fn directory() -> (tempfile::TempDir, HostDir) {
        let directory = tempfile::tempdir().unwrap();
        let dir = HostDir::open(directory.path()).unwrap();
        (directory, dir)
    }

    #[test]
    fn only_what_is_expected_is_replaced() {
        let (directory, dir) = directory();
        let name = "x".repeat(255);
        let target = directory.path().join(&name);
        let name: &OsStr = name.as_ref();
        place(temporary(&dir, "one"), name, Expect::Absent).unwrap();
        let one = expected(&dir, name.to_str().unwrap());
        assert!(is_meanwhile_changed(&place(temporary(&dir, "two"), name, Expect::Absent).unwrap_err()));
        for other in [
            FileStat { size: 1, ..one.stat },
            FileStat { mtime_ns: 1, ..one.stat },
            FileStat { ctime_ns: 1, ..one.stat },
            FileStat { inode: 1, ..one.stat },
        ] {
            let expect = Expect::Same(Expected { stat: other, unsettled: None });
            assert!(is_meanwhile_changed(&place(temporary(&dir, "two"), name, expect).unwrap_err()), "{other:?}");
        }
        std::fs::set_permissions(&target, Permissions::from_mode(0o750)).unwrap();
        let one = expected(&dir, name.to_str().unwrap());
        let stat = place(temporary(&dir, "two"), name, Expect::Same(one)).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "two");
        assert_eq!(stat, dir.look(name).unwrap().unwrap().stat);
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(names(&dir).len(), 1, "no temporary file is left");
    }

    #[test]
    fn a_change_between_look_and_exchange_is_put_back() {
        let (directory, dir) = directory();
        std::fs::write(directory.path().join("f"), "changed by someone").unwrap();
        let stat = FileStat { size: 3, ..expected(&dir, "f").stat };
        let error = exchange(&mut temporary(&dir, "remote"), "f".as_ref(), Expected { stat, unsettled: None });
        assert!(is_meanwhile_changed(&error.unwrap_err()));
        assert_eq!(std::fs::read_to_string(directory.path().join("f")).unwrap(), "changed by someone");
        assert_eq!(names(&dir), ["f"]);
    }

    #[test]
    fn what_the_times_cannot_tell_is_read_again() {
        let (directory, dir) = directory();
        std::fs::write(directory.path().join("f"), "here").unwrap();
        let stat = expected(&dir, "f").stat;
        let (seen, other) = (Sha256::of(b"here"), Sha256::of(b"seen"));
        let with = |unsettled| Expected { stat, unsettled: Some(unsettled) };
        assert!(is_meanwhile_changed(&remove(&dir, "f".as_ref(), with(other)).unwrap_err()));
        let stat = expected(&dir, "f").stat;
        let with = |unsettled| Expected { stat, unsettled: Some(unsettled) };
        let refused = place(temporary(&dir, "new"), "f".as_ref(), Expect::Same(with(other)));
        assert!(is_meanwhile_changed(&refused.unwrap_err()));
        assert_eq!(std::fs::read_to_string(directory.path().join("f")).unwrap(), "here");
        let stat = expected(&dir, "f").stat;
        place(temporary(&dir, "new"), "f".as_ref(), Expect::Same(Expected { stat, unsettled: Some(seen) })).unwrap();
        assert_eq!(names(&dir), ["f"]);
    }

    #[test]
    fn links_and_directories_are_never_replaced() {
        let (directory, dir) = directory();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
        std::fs::create_dir(directory.path().join("d")).unwrap();
        for name in ["link", "d"] {
            assert!(place(temporary(&dir, "x"), name.as_ref(), Expect::AnyFile).is_err());
            assert!(place(temporary(&dir, "x"), name.as_ref(), Expect::Absent).is_err());
        }
        assert_eq!(names(&dir), ["d", "link"]);
    }

    #[test]
    fn a_link_that_was_seen_gives_way() {
        let (directory, dir) = directory();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("l")).unwrap();
        let seen = expected(&dir, "l");
        place(temporary(&dir, "x"), "l".as_ref(), Expect::Same(seen)).unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("l")).unwrap(), "x");
        assert!(dir.look("l".as_ref()).unwrap().unwrap().is_file());
        assert!(is_meanwhile_changed(&check_free(&dir, "l".as_ref()).unwrap_err()));
        assert_eq!(names(&dir), ["l"]);
    }

    #[test]
    fn only_what_is_expected_is_removed() {
        let (directory, dir) = directory();
        std::fs::write(directory.path().join("f"), "x").unwrap();
        let right = expected(&dir, "f");
        let wrong = Expected { stat: FileStat { size: 9, ..right.stat }, unsettled: None };
        assert!(is_meanwhile_changed(&remove(&dir, "f".as_ref(), wrong).unwrap_err()));
        remove(&dir, "f".as_ref(), right).unwrap();
        remove(&dir, "f".as_ref(), right).unwrap();
        assert!(names(&dir).is_empty());
        std::os::unix::fs::symlink("/etc", directory.path().join("l")).unwrap();
        remove(&dir, "l".as_ref(), expected(&dir, "l")).unwrap();
        std::fs::create_dir(directory.path().join("d")).unwrap();
        assert!(remove(&dir, "d".as_ref(), expected(&dir, "d")).is_err());
        assert_eq!(names(&dir), ["d"]);
    }

    #[test]
    fn a_free_name_is_taken_and_another_is_not() {
        let (directory, dir) = directory();
        for name in ["a", "b"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        assert_eq!(rename_to_free(&dir, "a".as_ref(), "b".as_ref()), Err(Errno::EXIST));
        rename_to_free(&dir, "a".as_ref(), "c".as_ref()).unwrap();
        assert_eq!(names(&dir), ["b", "c"]);
        assert_eq!(folded_twin(&dir, "b".as_ref()).unwrap(), None);
        assert!(is_folded(&folded_error(&dir, "B".as_ref(), "b".as_ref())));
    }
}
