//! The data directory: its places, its identity, its lock, its room.
//!
//! The directory and its parts are opened once, at the start, and everything is read and written through these
//! handles ([`Dir`]). What is acknowledged is moreover checked to be where the next start will look for it:
//! [`Layout::require_same`] compares what the paths mean now with what they meant at the start. The handles make wrong
//! places impossible, the comparison makes a detached one known.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dir::{Dir, FileId, TempFile};
use crate::types::error::IoContext;
use crate::types::storage_api::{ReplicaKey, Trouble, TroubleCode};
use crate::types::{Error, ErrorCode, Result};

/// What the directories begin with in which an index is looked at.
pub(super) const SCRATCH: &str = ".look-";
/// The format of the directory that this program writes.
pub const FORMAT_VERSION: u32 = 1;
/// Room that new objects leave free for deletes, the index and the journal: a twentieth, at most this.
const RESERVE_BYTES_MAX: u64 = 256 << 20;

/// Room that is kept taken, for deletes on a disk that is full: a fortieth, at most this.
const BALLAST_BYTES_MAX: u64 = 16 << 20;
/// A file that is given up when the disk is so full that not even a delete can be written down.
const BALLAST: &str = "ballast";

/// `server.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFile {
    /// The format of the directory.
    pub format_version: u32,
    /// The UUID that the server made for itself.
    pub identity: Uuid,
    /// The cluster that it belongs to, once it has joined one.
    pub cluster: Option<Uuid>,
    /// Its last starts: a copy of the directory has none of those that come after it was made.
    #[serde(default)]
    pub boots: Vec<Uuid>,
}

/// A path, and what it meant at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The part of the directory; empty for the whole.
    part: &'static str,
    path: PathBuf,
    id: FileId,
}

impl Place {
    fn of(part: &'static str, dir: &Dir) -> std::io::Result<Self> {
        Ok(Self { part, path: dir.path().into(), id: dir.look_at_self()?.id })
    }

    /// Whether the path still means the same.
    fn check(&self) -> std::result::Result<(), Trouble> {
        let place = self.path.display();
        let why = match fs::metadata(&self.path) {
            Ok(meta) if (meta.dev(), meta.ino()) == (self.id.device, self.id.inode) => return Ok(()),
            Ok(_) => place.to_string(),
            Err(error) => format!("{place}: {error}"),
        };
        let message = match self.part {
            "" => {
                format!("the data directory is another one than at the start: it was unmounted or replaced ({why})")
            }
            part => format!(
                "the data directory is another one than at the start: its {part} was unmounted, removed or replaced ({why})"
            ),
        };
        Err(Trouble { code: TroubleCode::Replaced, message })
    }
}

impl ServerFile {
    /// Reads the content of `server.json`, which lies at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| damaged(path, error))?;
        if let Some(version) = value["format_version"].as_u64().filter(|version| *version > FORMAT_VERSION.into()) {
            let shown = path.display();
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                format!(
                    "{shown} has format {version}, this program knows formats up to {FORMAT_VERSION}: use the newer program"
                ),
            ));
        }
        serde_json::from_value(value).map_err(|error| damaged(path, error))
    }
}

/// A locked data directory.
#[derive(Debug)]
pub struct Layout {
    root: Dir,
    objects: Dir,
    incoming: Dir,
    journal: Dir,
    quarantine: Dir,
    /// The directory and its parts.
    places: Vec<Place>,
    /// The index and its log, once they are open.
    index: OnceLock<Vec<Place>>,
    _lock: Option<File>,
}

impl Layout {
    /// Opens a directory to work with it: makes what is missing, locks it, empties `incoming/`.
    pub fn open(root: &Path) -> Result<(Self, ServerFile)> {
        Self::open_if(root, |_, _| Ok(()))
    }

    /// As [`Layout::open`]; `is_sound` is asked when the directory is locked and before anything in it changes, and what
    /// it refuses stays as it is. It is told who the directory says that it is, if it says so.
    pub fn open_if(
        root: &Path,
        is_sound: impl FnOnce(&Dir, Option<&ServerFile>) -> Result<()>,
    ) -> Result<(Self, ServerFile)> {
        make_private_dir(root)?;
        let root = Dir::open(root).io_context(|| format!("opening {}", root.display()))?;
        let lock = lock(&root)?;
        let server = read_server_file(&root)?;
        if server.is_none() {
            require_new(&root)?;
        }
        is_sound(&root, server.as_ref())?;
        // A process that was killed may have made directories whose names it had no time to make durable, and from now on
        // an old one is taken for durable (see `objects`).
        root.sync_all().io_context(|| format!("syncing the file system of {}", root.path().display()))?;
        remove_old_looks(&root);
        let part = |name: &str| -> Result<Dir> {
            let made = root.make_dir(name).and_then(|_| root.sub(name));
            made.io_context(|| format!("making {}", root.path().join(name).display()))
        };
        let (objects, incoming) = (part("objects")?, part("incoming")?);
        let (journal, quarantine) = (part("journal")?, part("quarantine")?);
        let places = [
            ("", &root),
            ("objects/", &objects),
            ("incoming/", &incoming),
            ("journal/", &journal),
            ("quarantine/", &quarantine),
        ];
        let places = places.map(|(part, dir)| Place::of(part, dir)).into_iter().collect::<std::io::Result<Vec<_>>>();
        let places = places.io_context(|| format!("looking at {}", root.path().display()))?;
        let index = OnceLock::new();
        let layout = Self { root, objects, incoming, journal, quarantine, places, index, _lock: Some(lock) };
        let server = match server {
            Some(server) => server,
            None => {
                let server = ServerFile {
                    format_version: FORMAT_VERSION,
                    identity: Uuid::new_v4(),
                    cluster: None,
                    boots: Vec::new(),
                };
                layout.write_server_file(&server)?;
                server
            }
        };
        layout.empty_incoming()?;
        layout.restore_ballast()?;
        Ok((layout, server))
    }

    /// Opens a directory to read it, without a lock and without changing anything. Parts that are missing are empty.
    pub fn open_read_only(root: &Path) -> Result<(Self, ServerFile)> {
        let part = |name: &str| {
            let path = if name.is_empty() { root.to_path_buf() } else { root.join(name) };
            Dir::open_if_there(&path).io_context(|| format!("opening {}", path.display()))
        };
        let layout = Self {
            root: part("")?,
            objects: part("objects")?,
            incoming: part("incoming")?,
            journal: part("journal")?,
            quarantine: part("quarantine")?,
            places: Vec::new(),
            index: OnceLock::new(),
            _lock: None,
        };
        match read_server_file(&layout.root)? {
            Some(server) => Ok((layout, server)),
            None => Err(Error::not_found(format!(
                "{} is not a storage server's data directory: it has no server.json",
                root.display()
            ))),
        }
    }

    /// As [`Layout::open_read_only`], of a directory that no daemon uses, nor begins to use meanwhile.
    pub fn open_to_verify(root: &Path) -> Result<(Self, ServerFile)> {
        let (mut layout, server) = Self::open_read_only(root)?;
        layout._lock = lock_to_read(&layout.root)?;
        Ok((layout, server))
    }

    /// Where the index is. SQLite works by paths; see [`Layout::remember_index`].
    pub fn index_path(&self) -> PathBuf {
        self.root.path().join("index.sqlite")
    }

    /// Notes which files the index that was just opened is in. SQLite keeps them open: it goes on with them, whatever
    /// the paths mean later.
    pub fn remember_index(&self) -> Result<()> {
        let mut places = Vec::new();
        for (part, is_needed) in [("index.sqlite", true), ("index.sqlite-wal", false)] {
            let look = self.root.look(part).io_context(|| format!("looking at the {part}"))?;
            match look {
                Some(look) => places.push(Place { part, path: self.root.path().join(part), id: look.id }),
                None if is_needed => {
                    return Err(Error::internal(format!("the {part} that was just opened is not there")));
                }
                None => {}
            }
        }
        // It is told once, at the start.
        let _ = self.index.set(places);
        Ok(())
    }

    /// Whether the directory, its parts and the index are those of the start; a few cheap looks.
    pub fn trouble(&self) -> Option<Trouble> {
        let index = self.index.get().into_iter().flatten();
        self.places.iter().chain(index).find_map(|place| place.check().err())
    }

    /// Nothing is acknowledged from a directory that is not the one of the start: the next start would not find it.
    pub fn require_same(&self) -> Result<()> {
        self.trouble().map_or(Ok(()), |trouble| Err(Error::unavailable(trouble.message)))
    }

    /// Whether no object was ever put here.
    pub fn holds_nothing(&self) -> Result<bool> {
        let names = self.objects.names().io_context(|| format!("reading {}", self.objects.path().display()))?;
        Ok(names.is_empty())
    }

    /// Makes the ballast's room free. Answers whether there was any.
    pub fn give_up_ballast(&self) -> bool {
        match self.root.remove(BALLAST) {
            Ok(()) => {
                log::warn!("the disk is full; the ballast is given up");
                true
            }
            Err(error) => {
                log::error!("the disk is full, and there is no ballast to give up: {error}");
                false
            }
        }
    }

    /// Puts the ballast back, when there is room for it.
    pub fn restore_ballast(&self) -> Result<()> {
        let (capacity, free) = self.room()?;
        let wanted = BALLAST_BYTES_MAX.min(capacity / 40);
        let context = || format!("writing {}", self.root.path().join(BALLAST).display());
        if free < wanted || self.root.look(BALLAST).io_context(context)?.is_some() {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let mut file = self.root.open_or_create(BALLAST)?;
            // Written, not only made long: a hole takes no room.
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0x55), wanted), &mut file)?;
            file.sync_all()
        };
        write().io_context(context)
    }

    /// Where larger objects are.
    pub fn objects(&self) -> &Dir {
        &self.objects
    }

    /// Where uploads in flight are.
    pub fn incoming(&self) -> &Dir {
        &self.incoming
    }

    /// Where the copy of the metadata's journal is.
    pub fn journal(&self) -> &Dir {
        &self.journal
    }

    /// Where corrupt and unknown files are.
    pub fn quarantine(&self) -> &Dir {
        &self.quarantine
    }

    /// Replaces `server.json` whole.
    pub fn write_server_file(&self, server: &ServerFile) -> Result<()> {
        let text = serde_json::to_vec_pretty(server)
            .map_err(|e| Error::internal("cannot encode server.json").with_source(e))?;
        let write = || -> std::io::Result<()> {
            let (mut file, temporary) = TempFile::new_in(&self.root, ".server-")?;
            file.write_all(&text)?;
            file.sync_all()?;
            temporary.put(&self.root, "server.json")?;
            self.root.sync()
        };
        write().io_context(|| format!("writing {}", self.root.path().join("server.json").display()))
    }

    fn empty_incoming(&self) -> Result<()> {
        let empty = || self.incoming.names()?.iter().try_for_each(|name| self.incoming.remove(name));
        empty().io_context(|| format!("emptying {}", self.incoming.path().display()))
    }

    /// Bytes of the file system, and bytes of it that new objects may take.
    pub fn room(&self) -> Result<(u64, u64)> {
        let stat = self.root.room().io_context(|| format!("asking for the room in {}", self.root.path().display()))?;
        let capacity = stat.f_blocks * stat.f_frsize;
        let available = stat.f_bavail * stat.f_frsize;
        Ok((capacity, available.saturating_sub(RESERVE_BYTES_MAX.min(capacity / 20))))
    }
}

fn read_server_file(root: &Dir) -> Result<Option<ServerFile>> {
    use std::io::ErrorKind;
    let path = root.path().join("server.json");
    match root.open_file("server.json").and_then(std::io::read_to_string) {
        Ok(text) => ServerFile::parse(&text, &path).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(Error::io(
            format!("reading {} (the user that the server runs as must be able to read it)", path.display()),
            error,
        )),
        Err(error) => Err(damaged(&path, error)),
    }
}

/// A directory that does not say who it is must never have been anybody: with a new identity its copies would be a
/// stranger's.
fn require_new(root: &Dir) -> Result<()> {
    let path = root.path().join("server.json");
    let looking = || format!("looking at {}", root.path().display());
    let index = root.look("index.sqlite").io_context(looking)?;
    let objects = Dir::open_if_there(&root.path().join("objects")).and_then(|objects| objects.names());
    if index.is_none() && objects.io_context(looking)?.is_empty() {
        return Ok(());
    }
    Err(damaged(&path, "it is missing, and there are copies beside it"))
}

/// What looks that were interrupted have left.
fn remove_old_looks(root: &Dir) {
    for name in root.names().unwrap_or_default() {
        if name.to_string_lossy().starts_with(SCRATCH)
            && let Err(error) = fs::remove_dir_all(root.path().join(&name))
        {
            log::warn!("{} cannot be removed: {error}", root.path().join(&name).display());
        }
    }
}

/// Locks a directory that is only read, when it has ever had a lock, so that no daemon begins to change it meanwhile.
fn lock_to_read(root: &Dir) -> Result<Option<File>> {
    match root.open_file("lock") {
        Ok(file) => held(root, file).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("opening {}/lock", root.path().display()), error)),
    }
}

/// A larger object's file below `objects/`. The directories are named by the random low bits of the id, so they fill
/// evenly.
pub fn object_name(key: ReplicaKey) -> PathBuf {
    let place = Shelf::of(key);
    [place.outer(), place.inner(), key.to_string()].iter().collect()
}

/// One of the directories of larger objects: `ab/cd`, the low bits of the ids in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shelf(pub u16);

impl Shelf {
    /// Where a copy belongs.
    pub fn of(key: ReplicaKey) -> Self {
        Self(key.object.0 as u16)
    }

    /// `ab`.
    pub fn outer(self) -> String {
        format!("{:02x}", self.0 >> 8)
    }

    /// `cd`.
    pub fn inner(self) -> String {
        format!("{:02x}", self.0 & 0xff)
    }

    /// `ab/cd`.
    pub fn path(self) -> PathBuf {
        [self.outer(), self.inner()].iter().collect()
    }
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    let message = format!(
        "{} is damaged ({error}): restore it from a backup. Or keep this directory (`salvage` reads its files, and no other \
         server may have them) and start with another, empty one, which is filled again",
        path.display()
    );
    Error::new(ErrorCode::InvalidRequest, message)
}

/// Makes a directory that only its owner may enter; one that is there keeps its mode.
fn make_private_dir(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.io_context(|| format!("making the data directory {}", path.display()))
}

fn lock(root: &Dir) -> Result<File> {
    let place = root.path().display();
    let file = root.open_or_create("lock").io_context(|| format!("creating {place}/lock"))?;
    held(root, file)
}

fn held(root: &Dir, file: File) -> Result<File> {
    let place = root.path().display();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::new(ErrorCode::InvalidRequest, format!("{place} is in use by another storage server")))?;
    Ok(file)
}

/// Makes the names in a directory durable.
pub fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Generation, ObjectId};

    #[test]
    fn a_directory_is_made_locked_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (first, made) = Layout::open(dir.path()).unwrap();
        fs::write(first.incoming().path().join("left"), "x").unwrap();
        assert!(Layout::open(dir.path()).unwrap_err().message().contains("in use"));
        drop(first);
        let (again, kept) = Layout::open(dir.path()).unwrap();
        assert_eq!(kept, made);
        assert!(again.incoming().names().unwrap().is_empty());
        let (capacity, free) = again.room().unwrap();
        assert!(free < capacity);
    }

    #[test]
    fn a_newer_format_and_damage_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("server.json"), r#"{"format_version": 99, "new": true}"#).unwrap();
        assert!(Layout::open(dir.path()).unwrap_err().message().contains("newer program"));
        fs::write(dir.path().join("server.json"), "{").unwrap();
        assert!(Layout::open(dir.path()).unwrap_err().message().contains("damaged"));
    }

    #[test]
    fn objects_spread_by_their_low_bits() {
        let key = ReplicaKey { object: ObjectId(0x1234_abcd), generation: Generation(1) };
        assert_eq!(object_name(key), Path::new("ab/cd/000000001234abcd.0000000000000001"));
        assert_eq!(Shelf::of(key).path(), Path::new("ab/cd"));
    }

    #[test]
    fn another_directory_at_the_same_path_is_noticed_and_the_same_one_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let (layout, _) = Layout::open(&root).unwrap();
        drop(super::super::opening::make(&layout.index_path()).unwrap());
        let mut connection = super::super::opening::open_writer(&layout.index_path()).unwrap();
        layout.remember_index().unwrap();
        super::super::index::sums(&mut connection).unwrap();
        assert_eq!(layout.trouble(), None);
        let aside = dir.path().join("aside");
        for part in ["", "objects", "incoming", "journal", "quarantine", "index.sqlite", "index.sqlite-wal"] {
            let path = root.join(part);
            fs::rename(&path, &aside).unwrap();
            let trouble = layout.trouble().expect(part);
            let says = ["the data directory is another one than at the start", part];
            assert!(says.iter().all(|text| trouble.message.contains(text)), "{}", trouble.message);
            assert_eq!(trouble.code, TroubleCode::Replaced);
            // Another one of the same name is no better.
            if part.contains("sqlite") {
                fs::write(&path, "").unwrap()
            } else {
                fs::create_dir(&path).unwrap()
            }
            assert!(layout.trouble().is_some(), "{part}");
            assert_eq!(layout.require_same().unwrap_err().code(), ErrorCode::Unavailable);
            if part.contains("sqlite") {
                fs::remove_file(&path).unwrap()
            } else {
                fs::remove_dir(&path).unwrap()
            }
            fs::rename(&aside, &path).unwrap();
            assert_eq!(layout.trouble(), None, "{part} is back");
        }
    }
}
