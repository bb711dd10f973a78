//! The data directory: its places, its identity, its lock, its room.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::types::error::IoContext;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, ErrorCode, Result};

/// The format of the directory that this program writes.
pub const FORMAT_VERSION: u32 = 1;
/// Room that new objects leave free for deletes, the index and the journal: a twentieth, at most this.
const RESERVE_BYTES_MAX: u64 = 256 << 20;

/// Room that is kept taken, for deletes on a disk that is full: a fortieth, at most this.
const BALLAST_BYTES_MAX: u64 = 16 << 20;

/// `server.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFile {
    /// The format of the directory.
    pub format_version: u32,
    /// The UUID that the server made for itself.
    pub identity: Uuid,
    /// The cluster that it belongs to, once it has joined one.
    pub cluster: Option<Uuid>,
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
    root: PathBuf,
    _lock: Option<File>,
}

impl Layout {
    /// Opens a directory for the daemon: makes what is missing, locks it, empties `incoming/`.
    pub fn open(root: &Path) -> Result<(Self, ServerFile)> {
        make_private_dir(root)?;
        let lock = lock(root)?;
        let layout = Self { root: root.into(), _lock: Some(lock) };
        for name in ["objects", "incoming", "journal", "quarantine"] {
            let path = root.join(name);
            fs::create_dir_all(&path).io_context(|| format!("making {}", path.display()))?;
        }
        let server = match layout.read_server_file()? {
            Some(server) => server,
            None => {
                let server = ServerFile { format_version: FORMAT_VERSION, identity: Uuid::new_v4(), cluster: None };
                layout.write_server_file(&server)?;
                server
            }
        };
        layout.empty_incoming()?;
        layout.restore_ballast()?;
        Ok((layout, server))
    }

    /// Opens a directory to read it, without a lock and without changing anything.
    pub fn open_read_only(root: &Path) -> Result<(Self, ServerFile)> {
        let layout = Self { root: root.into(), _lock: None };
        match layout.read_server_file()? {
            Some(server) => Ok((layout, server)),
            None => Err(Error::not_found(format!(
                "{} is not a storage server's data directory: it has no server.json",
                root.display()
            ))),
        }
    }

    /// Where the index is.
    pub fn index_path(&self) -> PathBuf {
        self.root.join("index.sqlite")
    }

    /// Whether no object was ever put here.
    pub fn holds_nothing(&self) -> Result<bool> {
        let dir = self.objects_dir();
        let mut entries = fs::read_dir(&dir).io_context(|| format!("reading {}", dir.display()))?;
        Ok(entries.next().is_none())
    }

    /// A file that is given up when the disk is so full that not even a delete can be written down.
    pub fn ballast_path(&self) -> PathBuf {
        self.root.join("ballast")
    }

    /// Makes the ballast's room free. Answers whether there was any.
    pub fn give_up_ballast(&self) -> bool {
        match std::fs::remove_file(self.ballast_path()) {
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
        let path = self.ballast_path();
        let (capacity, free) = self.room()?;
        let wanted = BALLAST_BYTES_MAX.min(capacity / 40);
        if path.exists() || free < wanted {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            // Written, not only made long: a hole takes no room.
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0x55), wanted), &mut file)?;
            file.sync_all()
        };
        write().io_context(|| format!("writing {}", path.display()))
    }

    /// Where larger objects are.
    pub fn objects_dir(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Where uploads in flight are.
    pub fn incoming_dir(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Where the copy of the metadata's journal is.
    pub fn journal_dir(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Where corrupt and unknown files are.
    pub fn quarantine_dir(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// A larger object's file. The directories are named by the random low bits of the id, so they fill evenly.
    pub fn object_path(&self, key: ReplicaKey) -> PathBuf {
        let low = key.object.0 as u16;
        self.objects_dir().join(format!("{:02x}", low >> 8)).join(format!("{:02x}", low & 0xff)).join(key.to_string())
    }

    fn read_server_file(&self) -> Result<Option<ServerFile>> {
        let path = self.root.join("server.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
        };
        ServerFile::parse(&text, &path).map(Some)
    }

    /// Replaces `server.json` whole.
    pub fn write_server_file(&self, server: &ServerFile) -> Result<()> {
        let path = self.root.join("server.json");
        let text = serde_json::to_vec_pretty(server)
            .map_err(|e| Error::internal("cannot encode server.json").with_source(e))?;
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.root)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            sync_dir(&self.root)
        };
        write().io_context(|| format!("writing {}", path.display()))
    }

    fn empty_incoming(&self) -> Result<()> {
        let dir = self.incoming_dir();
        let empty = || -> std::io::Result<()> {
            for entry in fs::read_dir(&dir)? {
                fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        empty().io_context(|| format!("emptying {}", dir.display()))
    }

    /// Bytes of the file system, and bytes of it that new objects may take.
    pub fn room(&self) -> Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|error| Error::io(format!("asking for the room in {}", self.root.display()), error.into()))?;
        let capacity = stat.f_blocks * stat.f_frsize;
        let available = stat.f_bavail * stat.f_frsize;
        Ok((capacity, available.saturating_sub(RESERVE_BYTES_MAX.min(capacity / 20))))
    }
}

fn damaged(path: &Path, error: serde_json::Error) -> Error {
    let message = format!(
        "{} is damaged ({error}): restore it from a backup, or join with an empty directory and be filled again",
        path.display()
    );
    Error::new(ErrorCode::InvalidRequest, message).with_source(error)
}

/// Makes a directory that only its owner may enter; one that is there keeps its mode.
fn make_private_dir(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.io_context(|| format!("making the data directory {}", path.display()))
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let file = File::create(&path).io_context(|| format!("creating {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::new(ErrorCode::InvalidRequest, format!("{} is in use by another storage server", root.display()))
    })?;
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
        fs::write(first.incoming_dir().join("left"), "x").unwrap();
        assert!(Layout::open(dir.path()).unwrap_err().message().contains("in use"));
        drop(first);
        let (again, kept) = Layout::open(dir.path()).unwrap();
        assert_eq!(kept, made);
        assert_eq!(fs::read_dir(again.incoming_dir()).unwrap().count(), 0);
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
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        let key = ReplicaKey { object: ObjectId(0x1234_abcd), generation: Generation(1) };
        assert!(layout.object_path(key).ends_with("objects/ab/cd/000000001234abcd.0000000000000001"));
    }
}
