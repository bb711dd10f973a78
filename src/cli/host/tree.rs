//! Open directories, and the places below them.
//!
//! A path below an open directory is resolved by `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`: in one
//! step, and without any link in it. On kernels that lack it (or where a filter forbids it) each component is opened
//! by itself with `O_NOFOLLOW`. Long paths are resolved in pieces. What was opened stays the same directory however
//! it is renamed meanwhile; so whatever is made or removed by its handle is made or removed in it, and nowhere else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, unlinkat};
use rustix::io::{Errno, Result as OsResult};

use super::stat::Look;
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

/// Bytes of a path that is resolved at once.
const PIECE_BYTES_MAX: usize = 2_048;
/// Permissions of new directories, less what the umask takes away.
const DIRECTORY_MODE: u32 = 0o777;

/// Whether this kernel has `openat2`; found out by trying.
static HAS_OPENAT2: AtomicBool = AtomicBool::new(true);

/// An open directory. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HostDir {
    fd: Arc<OwnedFd>,
    /// Its path as people may be told, which nothing is opened by.
    shown: Arc<Path>,
    /// By how much its file system's clock is ahead of this machine's.
    clock_ahead_ns: i64,
}

impl HostDir {
    /// Opens a directory that a person named: this path may lead through links.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fd = open_one(CWD, path.as_os_str(), OFlags::empty()).map_err(|error| match error {
            Errno::NOENT => Error::not_found(format!("{} does not exist on this machine", path.display())),
            Errno::NOTDIR => Error::new(ErrorCode::NotADirectory, format!("{} is no directory", path.display())),
            error => Error::io(format!("opening {}", path.display()), error.into()),
        })?;
        Ok(Self::new(fd, std::path::absolute(path).unwrap_or_else(|_| path.into())))
    }

    fn new(fd: OwnedFd, shown: PathBuf) -> Self {
        Self { fd: Arc::new(fd), shown: shown.into(), clock_ahead_ns: 0 }
    }

    /// Opens a directory that a person named, and makes what is missing of it. Only what was there before may be a
    /// link: what this has made itself is not exchanged for one unnoticed.
    pub(crate) fn make(path: &Path) -> Result<Self> {
        let start = if path.is_absolute() { "/" } else { "." };
        let mut at = Self::open(Path::new(start))?;
        let mut made = false;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                _ => continue,
            };
            let flags = if made { OFlags::NOFOLLOW } else { OFlags::empty() };
            let fd = match open_one(&at.fd, name, flags) {
                Err(Errno::NOENT) => {
                    at.make_directory(name)?;
                    made = true;
                    open_one(&at.fd, name, OFlags::NOFOLLOW)
                }
                opened => opened,
            };
            let shown = at.shown.join(name);
            let fd = fd.map_err(std::io::Error::from).io_context(|| format!("opening {}", shown.display()))?;
            at = Self::new(fd, shown);
        }
        at.shown = std::path::absolute(path).unwrap_or_else(|_| path.into()).into();
        Ok(at)
    }

    /// The same directory, with what is known of its file system's clock.
    pub(crate) fn with_clock(self, ahead_ns: i64) -> Self {
        Self { clock_ahead_ns: ahead_ns, ..self }
    }

    /// Its path as people may be told.
    pub(crate) fn shown(&self) -> &Path {
        &self.shown
    }

    /// A place below it; the empty path is itself.
    pub(crate) fn at(&self, relative: impl Into<PathBuf>) -> HostPath {
        HostPath { root: self.clone(), relative: relative.into() }
    }

    /// Opens a directory below. Nothing there is `not_found`; what is no directory, or a link to one, is
    /// `already_exists`: it is in the way.
    pub(crate) fn dir(&self, relative: &Path) -> Result<Self> {
        if relative.as_os_str().is_empty() {
            return Ok(self.clone());
        }
        match open_below(self.fd.as_fd(), relative) {
            Ok(fd) => {
                let shown = self.shown.join(relative).into();
                Ok(Self { fd: Arc::new(fd), shown, clock_ahead_ns: self.clock_ahead_ns })
            }
            Err(error) => Err(self.why_not(relative, error)),
        }
    }

    /// Names the component of a path that kept it from being opened.
    fn why_not(&self, relative: &Path, error: Errno) -> Error {
        let mut at = self.clone();
        for component in relative.components() {
            let Component::Normal(name) = component else { break };
            let shown = at.shown.join(name);
            match at.look(name) {
                Ok(None) => return Error::not_found(format!("{} does not exist", shown.display())),
                Ok(Some(look)) if !look.is_directory() => return in_the_way_of_a_directory(&shown, look.what()),
                Ok(Some(_)) => match open_one(&at.fd, name, OFlags::NOFOLLOW) {
                    Ok(fd) => at = Self::new(fd, shown),
                    Err(error) => return Error::io(format!("opening {}", shown.display()), error.into()),
                },
                Err(error) => return error,
            }
        }
        Error::io(format!("opening {}", self.shown.join(relative).display()), error.into())
    }

    /// The directory that this one is in; the root's is itself.
    pub(crate) fn parent(&self) -> OsResult<Self> {
        let fd = open_one(&self.fd, "..", OFlags::empty())?;
        Ok(Self::new(fd, self.shown.parent().unwrap_or(&self.shown).to_path_buf()))
    }

    /// What stands at a name, which is not followed; nothing if there is nothing.
    pub(crate) fn look(&self, name: &OsStr) -> Result<Option<Look>> {
        match Look::at(&self.fd, name) {
            Ok(look) => Ok(Some(look)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(Error::io(format!("looking at {}", self.shown.join(name).display()), error.into())),
        }
    }

    /// What it is itself.
    pub(crate) fn look_at_itself(&self) -> Result<Look> {
        let looked = Look::of_file(&self.fd).map_err(std::io::Error::from);
        looked.io_context(|| format!("looking at {}", self.shown.display()))
    }

    /// Makes a directory; one that is there already is fine, anything else in its place is not.
    pub(crate) fn make_directory(&self, name: &OsStr) -> Result<bool> {
        let shown = || self.shown.join(name);
        match mkdirat(&self.fd, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => match self.look(name)? {
                Some(look) if look.is_directory() => Ok(false),
                Some(look) => Err(in_the_way_of_a_directory(&shown(), look.what())),
                None => Err(in_the_way_of_a_directory(&shown(), "something that went away meanwhile")),
            },
            Err(error) => Err(Error::io(format!("making the directory {}", shown().display()), error.into())),
        }
    }

    /// Removes an empty directory.
    pub(crate) fn remove_directory(&self, name: &OsStr) -> OsResult<()> {
        unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }

    /// All names in it, in the order of their bytes.
    pub(crate) fn names(&self) -> OsResult<Vec<OsString>> {
        // A descriptor of its own: the place of a reader belongs to the open directory.
        let fd = openat(&self.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Writes all that lies on its file system to the disk.
    pub(crate) fn sync_file_system(&self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let synced = openat(&self.fd, ".", flags, Mode::empty()).and_then(rustix::fs::syncfs);
        synced.map_err(std::io::Error::from).io_context(|| format!("syncing {}", self.shown.display()))
    }

    /// Opens a regular file for reading, without waiting for anyone (a pipe would) and without following a link.
    pub(crate) fn open_file(&self, name: &OsStr) -> Result<(File, Look)> {
        let shown = || self.shown.join(name).display().to_string();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => Error::not_found(format!("{} does not exist", shown())),
            Errno::LOOP => Error::new(ErrorCode::Internal, format!("{} is a symbolic link", shown())),
            error => Error::io(format!("opening {}", shown()), error.into()),
        })?;
        let look = Look::of_file(&fd).map_err(std::io::Error::from);
        let look = look.io_context(|| format!("looking at {}", shown()))?;
        if !look.is_file() {
            return Err(Error::new(ErrorCode::Internal, format!("{} is not a regular file", shown())));
        }
        Ok((fd.into(), look))
    }
}

impl AsFd for HostDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn in_the_way_of_a_directory(shown: &Path, what: &str) -> Error {
    let message = format!("{} is in the way of a directory: it is {what}", shown.display());
    Error::new(ErrorCode::AlreadyExists, message)
}

/// A place below an open directory.
#[derive(Debug, Clone)]
pub(crate) struct HostPath {
    root: HostDir,
    relative: PathBuf,
}

impl HostPath {
    /// The place of a file that a person named. A link there is followed, as by `cp`; from then on no link is.
    pub(crate) fn named(path: &Path) -> Result<Self> {
        match std::fs::canonicalize(path) {
            Ok(real) => {
                let root = HostDir::open(Path::new("/"))?;
                let relative = real.strip_prefix("/").unwrap_or(&real).to_path_buf();
                Ok(Self { root, relative })
            }
            // It is to be made, or too long to be resolved at once.
            Err(_) => {
                let name =
                    path.file_name().ok_or_else(|| Error::invalid(format!("{} names no file", path.display())))?;
                let directory = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                Ok(HostDir::open(directory)?.at(name))
            }
        }
    }

    /// Its path as people may be told.
    pub(crate) fn shown(&self) -> PathBuf {
        if self.relative.as_os_str().is_empty() {
            self.root.shown.to_path_buf()
        } else {
            self.root.shown.join(&self.relative)
        }
    }

    pub(crate) fn clock_ahead_ns(&self) -> i64 {
        self.root.clock_ahead_ns
    }

    /// Its last name.
    pub(crate) fn name(&self) -> Result<&OsStr> {
        self.cut().map(|(_, name)| name)
    }

    /// The directory that it is in, and its name there.
    pub(crate) fn split(&self) -> Result<(HostDir, &OsStr)> {
        let (directory, name) = self.cut()?;
        Ok((self.root.dir(directory)?, name))
    }

    fn cut(&self) -> Result<(&Path, &OsStr)> {
        match (self.relative.parent(), self.relative.file_name()) {
            (Some(directory), Some(name)) => Ok((directory, name)),
            _ => Err(Error::invalid(format!("{} names no file", self.shown().display()))),
        }
    }

    /// The same, after the directories above it were made where they were missing. Nothing but a directory is
    /// passed through.
    pub(crate) fn split_made(&self) -> Result<(HostDir, &OsStr)> {
        let (directory, name) = self.cut()?;
        match self.root.dir(directory) {
            Err(error) if error.code() == ErrorCode::NotFound => {}
            opened => return opened.map(|opened| (opened, name)),
        }
        let mut at = self.root.clone();
        for component in directory {
            at.make_directory(component)?;
            at = at.dir(Path::new(component))?;
        }
        Ok((at, name))
    }

    /// What stands there; nothing also when a directory above is missing.
    pub(crate) fn look(&self) -> Result<Option<Look>> {
        if self.relative.as_os_str().is_empty() {
            return self.root.look_at_itself().map(Some);
        }
        match self.split() {
            Ok((directory, name)) => directory.look(name),
            Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::AlreadyExists) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens it as a directory.
    pub(crate) fn dir(&self) -> Result<HostDir> {
        self.root.dir(&self.relative)
    }

    /// Opens it as a regular file, for reading.
    pub(crate) fn open_file(&self) -> Result<(File, Look)> {
        let (directory, name) = self.split()?;
        directory.open_file(name)
    }
}

/// Opens a directory for reading its names where that is allowed, else only to pass through it.
fn open_one(at: impl AsFd, name: impl rustix::path::Arg + Copy, flags: OFlags) -> OsResult<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(&at, name, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => openat(&at, name, flags | OFlags::PATH, Mode::empty()),
        opened => opened,
    }
}

/// Opens a directory below another, through directories only.
fn open_below(root: BorrowedFd<'_>, relative: &Path) -> OsResult<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    for piece in pieces(relative.as_os_str().as_bytes()) {
        let from = at.as_ref().map_or(root, AsFd::as_fd);
        let next = open_piece(from, OsStr::from_bytes(piece))?;
        at = Some(next);
    }
    at.ok_or(Errno::INVAL)
}

fn open_piece(from: BorrowedFd<'_>, piece: &OsStr) -> OsResult<OwnedFd> {
    if HAS_OPENAT2.load(Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(from, piece, flags | OFlags::RDONLY, Mode::empty(), resolve) {
            Err(Errno::NOSYS) => HAS_OPENAT2.store(false, Relaxed),
            Err(Errno::ACCESS) => return openat2(from, piece, flags | OFlags::PATH, Mode::empty(), resolve),
            // A filter that does not know the call, or a rename at the same moment.
            Err(Errno::PERM | Errno::AGAIN | Errno::INVAL) => {}
            opened => return opened,
        }
    }
    open_stepwise(from, piece)
}

/// The same by plain `openat`, one component at a time.
fn open_stepwise(from: BorrowedFd<'_>, piece: &OsStr) -> OsResult<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    for component in Path::new(piece).components() {
        // Nothing that leads out, whoever wrote it.
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        let next = open_one(at.as_ref().map_or(from, AsFd::as_fd), name, OFlags::NOFOLLOW)?;
        at = Some(next);
    }
    at.ok_or(Errno::INVAL)
}

/// Cuts a path at slashes into pieces that can be resolved at once.
fn pieces(path: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut rest = path;
    while rest.len() > PIECE_BYTES_MAX {
        let slash = rest[..PIECE_BYTES_MAX].iter().rposition(|byte| *byte == b'/');
        // A name that is too long is for the system to refuse.
        let Some(cut) = slash.or_else(|| rest.iter().position(|byte| *byte == b'/')) else { break };
        pieces.push(&rest[..cut]);
        rest = &rest[cut + 1..];
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    type Opens = fn(BorrowedFd<'_>, &OsStr) -> OsResult<OwnedFd>;

    #[test]
    fn both_ways_of_opening_follow_no_link_and_lead_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::write(root.join("a/f"), "").unwrap();
        std::os::unix::fs::symlink("b", root.join("a/link")).unwrap();
        std::os::unix::fs::symlink("/", root.join("out")).unwrap();
        let open = HostDir::open(&root.join("a")).unwrap();
        let ways: [(&str, Opens); 2] = [("openat2", open_piece), ("openat", open_stepwise)];
        for (way, opens) in ways {
            let dir = HostDir::open(root).unwrap();
            assert!(opens(dir.as_fd(), "a/b/c".as_ref()).is_ok(), "{way}");
            for wrong in ["a/link", "a/link/c", "a/f", "out", "out/tmp", "gone", "a/f/x"] {
                assert!(opens(dir.as_fd(), wrong.as_ref()).is_err(), "{way} opened {wrong}");
            }
            for wrong in ["..", "/", "/tmp", "b/../.."] {
                assert!(opens(open.as_fd(), wrong.as_ref()).is_err(), "{way} opened {wrong}");
            }
        }
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir(root.join("a")).unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        std::fs::write(root.join("f"), "").unwrap();
        let dir = HostDir::open(root).unwrap();
        for (relative, code, word) in [
            ("link/x", ErrorCode::AlreadyExists, "symbolic link"),
            ("f/x/y", ErrorCode::AlreadyExists, "a file"),
            ("a/gone/x", ErrorCode::NotFound, "a/gone"),
        ] {
            let error = dir.at(relative).split().unwrap_err();
            assert_eq!(error.code(), code, "{relative}: {error}");
            assert!(error.message().contains(word), "{relative}: {error}");
        }
        assert!(dir.at("link/x").split_made().is_err() && dir.at("link/x").look().unwrap().is_none());
    }

    #[test]
    fn directories_above_are_made_and_what_was_made_is_not_exchanged_for_a_link() {
        let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = directory.path();
        let made = HostDir::make(&root.join("new/er/est")).unwrap();
        assert!(root.join("new/er/est").is_dir());
        // The handle leads to the directory that was made, wherever it is now.
        std::fs::rename(root.join("new"), root.join("moved")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("new")).unwrap();
        made.at("a/b").split_made().unwrap().0.make_directory("b".as_ref()).unwrap();
        assert!(root.join("moved/er/est/a/b").is_dir());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let dir = HostDir::open(root).unwrap();
        assert_eq!(dir.at("new/x/y").split_made().unwrap_err().code(), ErrorCode::AlreadyExists);
    }

    #[test]
    fn paths_beyond_the_systems_limit_work() {
        let directory = tempfile::tempdir().unwrap();
        let dir = HostDir::open(directory.path()).unwrap();
        let name = "n".repeat(200);
        let deep: PathBuf = (0..30).map(|_| name.as_str()).collect();
        let place = dir.at(deep.join("f"));
        assert!(place.shown().as_os_str().len() > 6_000);
        let (above, last) = place.split_made().unwrap();
        assert!(above.make_directory(last).unwrap());
        assert!(place.look().unwrap().unwrap().is_directory());
        assert!(std::fs::metadata(place.shown()).is_err(), "a path alone does not get there");
        // What is that deep cannot be removed by its path either.
        let mut at = dir.at(&deep).dir().unwrap();
        at.remove_directory("f".as_ref()).unwrap();
        for _ in 0..30 {
            at = at.parent().unwrap();
            at.remove_directory(name.as_ref()).unwrap();
        }
    }

    #[test]
    fn long_paths_are_cut_at_slashes() {
        let long = vec!["x".repeat(100); 60].join("/");
        let cut = pieces(long.as_bytes());
        assert!(cut.len() > 2 && cut.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX));
        assert_eq!(cut.join(&b'/'), long.as_bytes());
        assert_eq!(pieces(b"a/b"), [b"a/b"]);
    }
}
