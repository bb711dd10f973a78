//! Room for the database on its disk.
//!
//! A full disk must not keep anybody from making room: removing files, letting go of what they had, the lease and the
//! health checks write a little, too. So a file lies beside a SQLite database that only takes room, the *ballast*. It is
//! given up when the disk is full, or nearly so, and made again when there is room for it. Meanwhile the database is
//! *short of room*: what makes it grow (new files, copies, directories, tokens) is refused at once with a sentence that
//! names the directory, and everything else goes on with the ballast's room.
//!
//! A Postgres server keeps its own disk; here it is only noted that it had no room, for a moment, so that people are told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file_name::{full_name, with_suffix};
use super::url::DatabaseUrl;
use crate::types::{Error, ErrorCode, Result};
use parking_lot::RwLock;

/// The most that is kept: several times what SQLite's write-ahead log grows to.
const BALLAST_BYTES_MAX: u64 = 16 << 20;
/// And the most of a small disk, as a part of it.
const BALLAST_CAPACITY_PART: u64 = 10;
/// Below this part of the ballast the disk counts as full: SQLite is given the ballast's room before it fails.
const LOW_PART: u64 = 4;
/// How long a Postgres that had no room is believed to have none.
const POSTGRES_TRUST: Duration = Duration::from_secs(5);

/// Whether the database's disk has room. Shared by everything in the process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Room {
    place: Option<DatabaseUrl>,
    short: Arc<RwLock<Option<Short>>>,
}

#[derive(Debug, Clone)]
struct Short {
    since: Instant,
    sentence: Arc<str>,
}

/// What the disk has, and what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    free: u64,
    ballast: u64,
    has_ballast: bool,
}

/// What to do about the ballast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tending {
    /// There is room, and the ballast is there.
    Keep,
    /// There is room for it again.
    Make,
    /// The disk is full: it goes.
    GiveUp,
    /// It is gone, and there is no room for it.
    StayShort,
}

fn tending(disk: Disk) -> Tending {
    match (disk.has_ballast, disk.free) {
        (true, free) if free < disk.ballast / LOW_PART => Tending::GiveUp,
        (true, _) => Tending::Keep,
        // More than it takes, or it would be given up at once.
        (false, free) if free >= disk.ballast + disk.ballast / 2 => Tending::Make,
        (false, _) => Tending::StayShort,
    }
}

impl Room {
    /// Of the database at this place.
    pub fn of(place: &DatabaseUrl) -> Self {
        Self { place: Some(place.clone()), short: Arc::default() }
    }

    /// Why nothing that makes the database grow is taken, if that is so.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.short.read().as_ref().map(|short| short.sentence.clone())
    }

    /// Refuses what makes the database grow while it is short of room.
    pub fn require(&self) -> Result<()> {
        match self.refusal() {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    /// As [`Self::require`], for those who pass it on.
    pub fn refusal(&self) -> Option<Error> {
        self.trouble().map(|sentence| Error::new(ErrorCode::OutOfSpace, sentence.to_string()))
    }

    /// A write has failed because there was no room: the ballast goes, so that what frees room can be tried again.
    /// Answers the refusal of what cannot.
    pub(super) fn ran_out(&self) -> Error {
        if let Some(DatabaseUrl::Sqlite(path)) = &self.place {
            give_up(path);
        }
        Error::new(ErrorCode::OutOfSpace, self.note_short().to_string())
    }

    /// Whether there is a ballast that can be given up.
    pub(super) fn has_ballast(&self) -> bool {
        matches!(&self.place, Some(DatabaseUrl::Sqlite(path)) if ballast_of(path).exists())
    }

    /// Looks at the disk and keeps the ballast. Blocks for as long as making a file takes.
    pub fn tend(&self) {
        let path = match &self.place {
            Some(DatabaseUrl::Sqlite(path)) => path,
            _ => return self.forget_old(),
        };
        let disk = match look(path) {
            Ok(disk) => disk,
            Err(error) => return log::warn!("the disk of {} does not say what room it has: {error}", path.display()),
        };
        match tending(disk) {
            Tending::Keep => self.note_room(),
            Tending::Make => {
                if let Err(error) = make(path, disk.ballast) {
                    log::warn!("the ballast {} cannot be made: {error}", ballast_of(path).display());
                }
                self.note_room();
            }
            Tending::GiveUp => {
                give_up(path);
                self.note_short();
            }
            Tending::StayShort => drop(self.note_short()),
        }
    }

    fn note_short(&self) -> Arc<str> {
        let mut short = self.short.write();
        if let Some(before) = short.as_mut() {
            before.since = Instant::now();
            return before.sentence.clone();
        }
        let sentence: Arc<str> = sentence(self.place.as_ref()).into();
        // Here, whoever saw it: nobody has to remember to say so.
        log::error!("{sentence}");
        *short = Some(Short { since: Instant::now(), sentence: sentence.clone() });
        sentence
    }

    fn note_room(&self) {
        if self.short.write().take().is_some() {
            log::info!("the database has room again");
        }
    }

    fn forget_old(&self) {
        let mut short = self.short.write();
        if short.as_ref().is_some_and(|short| short.since.elapsed() >= POSTGRES_TRUST) {
            *short = None;
        }
    }
}

fn ballast_of(database: &Path) -> PathBuf {
    with_suffix(database, ".ballast")
}

fn directory_of(database: &Path) -> &Path {
    database.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn look(database: &Path) -> std::io::Result<Disk> {
    let stat = rustix::fs::statvfs(directory_of(database))?;
    let ballast = BALLAST_BYTES_MAX.min(stat.f_blocks * stat.f_frsize / BALLAST_CAPACITY_PART);
    Ok(Disk { free: stat.f_bavail * stat.f_frsize, ballast, has_ballast: ballast_of(database).exists() })
}

fn give_up(database: &Path) {
    match std::fs::remove_file(ballast_of(database)) {
        Ok(()) => log::warn!("the database's disk is full; the ballast is given up"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => log::error!("the ballast {} cannot be given up: {error}", ballast_of(database).display()),
    }
}

fn make(database: &Path, bytes: u64) -> std::io::Result<()> {
    let path = ballast_of(database);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&path)?;
        // A hole would take no room. Where a file system cannot reserve, the bytes are written.
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).is_err() {
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0x55), bytes), &mut file)?;
            file.sync_all()?;
        }
        Ok(())
    };
    // A part of it is worth nothing.
    write().inspect_err(|_| drop(std::fs::remove_file(&path)))
}

/// What happened, and the way out.
fn sentence(place: Option<&DatabaseUrl>) -> String {
    let place = match place {
        Some(DatabaseUrl::Sqlite(path)) => full_name(directory_of(path)),
        Some(url @ DatabaseUrl::Postgres(_)) => {
            return format!(
                "the database {} has no room left: nothing new is stored; free some room on the disk of Postgres",
                url.name()
            );
        }
        None => "the database's directory".into(),
    };
    format!(
        "the disk of the name server's database is full: nothing new is stored, and files can be read and removed; free \
         some room on the disk that has {place}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_goes_before_the_last_byte_and_comes_back_with_room_to_spare() {
        for (has_ballast, free, want) in [
            (true, 100, Tending::Keep),
            (true, 4, Tending::Keep),
            (true, 3, Tending::GiveUp),
            (true, 0, Tending::GiveUp),
            (false, 0, Tending::StayShort),
            (false, 23, Tending::StayShort),
            (false, 24, Tending::Make),
        ] {
            assert_eq!(tending(Disk { free, ballast: 16, has_ballast }), want, "{has_ballast} {free}");
        }
        // What is given up is not made again at once with the room that it leaves, and what is made is kept.
        for free in 0..4 {
            assert_eq!(tending(Disk { free: free + 16, ballast: 16, has_ballast: false }), Tending::StayShort);
        }
        assert_eq!(tending(Disk { free: 24 - 16, ballast: 16, has_ballast: true }), Tending::Keep);
    }

    #[test]
    fn it_is_made_given_up_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("m.sqlite");
        let room = Room::of(&DatabaseUrl::Sqlite(database.clone()));
        room.tend();
        assert!(room.has_ballast() && room.trouble().is_none());
        let length = std::fs::metadata(ballast_of(&database)).unwrap();
        assert!(std::os::unix::fs::MetadataExt::blocks(&length) * 512 >= length.len(), "it takes its room");
        let told = room.ran_out();
        assert!(!room.has_ballast());
        assert_eq!(told.code(), ErrorCode::OutOfSpace);
        assert!(told.message().contains(dir.path().to_str().unwrap()), "{told}");
        assert_eq!(room.require().unwrap_err().message(), told.message());
        room.tend();
        assert!(room.has_ballast() && room.require().is_ok(), "there is room again");
    }
}
