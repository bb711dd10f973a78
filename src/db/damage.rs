//! A database that is damaged: how its errors are told from those of one that is merely away, and what follows.
//!
//! A database that has lost or mixed up pages answers wrongly before it answers with an error. So the first sign of
//! damage, wherever it is seen, stops this name server at once and in memory ([`Soundness`]): no change is committed,
//! nothing is deleted, nobody acts. The database itself is not asked to take a note of that, because a write into
//! a damaged file may overwrite what could still be read. It lasts until the process ends, or until a restore has put
//! another database in its place ([`super::aside`]). What was not damaged is still read; that something is *not*
//! there, such a database cannot say.

use std::path::Path;
use std::sync::Arc;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use parking_lot::RwLock;

use super::file_name::full_name;
use super::room::Room;
use super::url::DatabaseUrl;
use crate::types::{Error, ErrorCode, Result};

/// What SQLite and Postgres (`data_corrupted`, `index_corrupted`) say of content that is not what it must be. Neither
/// backend's code reaches us through diesel; the words are those of the C locale, which connections ask for.
const CONTENT: [&str; 23] = [
    "database disk image is malformed",
    "malformed database schema",
    "file is not a database",
    "file is encrypted or is not a database",
    "unsupported file format",
    "invalid page in block",
    "could not read block",
    "unexpected data beyond eof in block",
    "missing chunk number",
    "unexpected chunk number",
    "unexpected chunk size",
    "contains unexpected zero page",
    "contains corrupted page",
    "compressed pglz data is corrupt",
    "compressed lz4 data is corrupt",
    "corrupted page pointers",
    "corrupted line pointer",
    "corrupted item lengths",
    "is not a btree",
    "left link changed unexpectedly",
    "could not access status of transaction",
    "found xmin",
    "found xmax",
];
/// What they say of a disk that does not give back, or does not take, what it should.
const DISK: [&str; 2] = ["disk i/o error", "input/output error"];
/// With less room than this a disk counts as full.
const ROOM_BYTES_MIN: u64 = 1 << 20;

/// A sign of damage. It is the cause of the errors that tell of it, so that it is found whatever context they got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What was seen.
    pub what: String,
    /// The disk fails; what is on it may be right.
    pub of_disk: bool,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Damage {}

impl Damage {
    /// Content that is not what it must be.
    pub fn of_content(what: impl Into<String>) -> Self {
        Self { what: what.into(), of_disk: false }
    }

    /// What a database's message tells of damage.
    pub fn in_message(message: &str) -> Option<Self> {
        let lower = message.to_lowercase();
        let says = |signs: &[&str]| signs.iter().any(|sign| lower.contains(sign));
        if says(&DISK) {
            return Some(Self { what: message.into(), of_disk: true });
        }
        says(&CONTENT).then(|| Self::of_content(message))
    }

    /// What diesel's error tells of damage.
    pub fn in_diesel(error: &DieselError) -> Option<Self> {
        match error {
            DieselError::DatabaseError(DatabaseErrorKind::Unknown, info) => Self::in_message(info.message()),
            DieselError::RollbackErrorOnCommit { rollback_error, commit_error } => {
                Self::in_diesel(commit_error).or_else(|| Self::in_diesel(rollback_error))
            }
            _ => None,
        }
    }

    /// The sign of damage among an error's causes.
    pub fn in_chain(error: &Error) -> Option<Self> {
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            if let Some(damage) = error.downcast_ref::<Self>() {
                return Some(damage.clone());
            }
            cause = error.source();
        }
        None
    }
}

impl From<Damage> for Error {
    fn from(damage: Damage) -> Self {
        Self::new(ErrorCode::Unavailable, format!("the database is damaged: {damage}")).with_source(damage)
    }
}

/// Why a database is not used any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What happened and the way out, for people.
    pub sentence: String,
    /// It cannot even be opened: nothing is tried.
    pub unreadable: bool,
}

/// Whether the database can be relied on. Shared by everything in the process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Soundness {
    place: Option<DatabaseUrl>,
    room: Room,
    trouble: Arc<RwLock<Option<Arc<Trouble>>>>,
}

impl Soundness {
    /// Of a database that nothing bad is known of.
    pub fn of(place: &DatabaseUrl) -> Self {
        Self { place: Some(place.clone()), room: Room::of(place), trouble: Arc::default() }
    }

    /// Whether its disk has room.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// What is wrong with the database, if anything is.
    pub fn trouble(&self) -> Option<Arc<Trouble>> {
        self.trouble.read().clone()
    }

    /// Refuses what changes, deletes or decides anything while the database is damaged, and what would tell that something
    /// is not there.
    pub fn require(&self) -> Result<()> {
        match self.trouble() {
            Some(trouble) => Err(refusal(&trouble)),
            None => Ok(()),
        }
    }

    /// As [`Self::require`], in the words for storage servers: they wait, whatever happened, and say so every second.
    pub fn require_for_servers(&self) -> Result<()> {
        match self.trouble() {
            Some(_) => {
                Err(Error::unavailable("the name server's database is damaged; it waits for `holdfast restore`"))
            }
            None => Ok(()),
        }
    }

    /// Stops everything. The first sign counts: what follows from it is not told again. A disk that is merely full is
    /// no damage; then nothing is answered.
    pub fn declare(&self, damage: &Damage, unreadable: bool) -> Option<Arc<Trouble>> {
        if damage.of_disk && self.disk_is_full() {
            return None;
        }
        let mut known = self.trouble.write();
        if let Some(trouble) = known.as_ref().filter(|trouble| trouble.unreadable || !unreadable) {
            return Some(trouble.clone());
        }
        let sentence = match known.take() {
            Some(before) => before.sentence.clone(),
            None => sentence(self.place.as_ref(), damage),
        };
        // Here, whoever saw it: nobody has to remember to say so.
        log::error!("{sentence}");
        Some(known.insert(Arc::new(Trouble { sentence, unreadable })).clone())
    }

    /// SQLite cannot even make its shared memory on a full disk, and calls that an I/O error.
    fn disk_is_full(&self) -> bool {
        let Some(DatabaseUrl::Sqlite(path)) = &self.place else { return false };
        // The room that the ballast has just left says nothing of the moment when the write failed.
        if self.room.trouble().is_some() {
            return true;
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        rustix::fs::statvfs(directory).is_ok_and(|stat| stat.f_bavail * stat.f_frsize < ROOM_BYTES_MIN)
    }

    /// Another database is in its place, or it was restored.
    pub fn clear(&self) {
        *self.trouble.write() = None;
    }
}

/// The refusal of what a damaged database must not or cannot do. It is not tried again: it needs a person.
pub fn refusal(trouble: &Trouble) -> Error {
    Error::new(ErrorCode::ReadOnly, trouble.sentence.clone())
}

/// What happened to a database, and the way out: a person reads this at night, in an error, in `report`, in the log.
fn sentence(place: Option<&DatabaseUrl>, damage: &Damage) -> String {
    let (what, out) = match place {
        Some(DatabaseUrl::Sqlite(path)) => of_sqlite(path, damage.of_disk),
        Some(url @ DatabaseUrl::Postgres(_)) => of_postgres(&url.name(), damage.of_disk),
        None => ("the database".into(), "run `holdfast restore`".into()),
    };
    let how = if damage.of_disk { "cannot be read and written" } else { "is damaged" };
    format!("{what} {how} ({damage}): nothing is changed or deleted any more. {out}")
}

fn of_sqlite(path: &Path, of_disk: bool) -> (String, String) {
    let file = full_name(path);
    if of_disk {
        let out = format!(
            "Look at its disk; when that is well, start the name server again. If the disk is lost, start it without {file} \
             (a path on another disk, by --database) and run `holdfast restore`, which brings the metadata back from the \
             storage servers"
        );
        return (format!("the database {file}"), out);
    }
    let out = format!(
        "`holdfast restore` moves it aside and brings the metadata back from the storage servers. By hand: stop the name \
         server, move {file}, {file}-wal and {file}-shm together into a new directory {file}.damaged-by-hand, start the \
         name server again, and run `holdfast restore`"
    );
    (format!("the database {file}"), out)
}

fn of_postgres(name: &str, of_disk: bool) -> (String, String) {
    let by_hand = "start the name server on a new, empty database (--database, on a machine that is well) and run `holdfast \
                   restore`, which brings the metadata back from the storage servers";
    let out = if of_disk {
        format!(
            "Look at the disk of Postgres; when that is well, start the name server again. If the disk is lost, {by_hand}"
        )
    } else {
        format!(
            "`holdfast restore` moves its tables aside, into a schema of their own, and brings the metadata back from the \
             storage servers. Or {by_hand}"
        )
    };
    (format!("the database {name}"), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_from_what_passes() {
        let message = |message: &str| Damage::in_message(message).map(|damage| damage.of_disk);
        for (text, of_disk) in [
            ("database disk image is malformed", Some(false)),
            ("malformed database schema (entries) - invalid rootpage", Some(false)),
            ("file is not a database", Some(false)),
            ("disk I/O error", Some(true)),
            ("invalid page in block 0 of relation base/5/16390", Some(false)),
            ("could not read block 3 in file \"base/5/16390\": read only 0 of 8192 bytes", Some(false)),
            ("could not read block 3 in file \"base/5/16390\": Input/output error", Some(true)),
            ("index \"entries_pkey\" contains unexpected zero page at block 1", Some(false)),
            ("database is locked", None),
            ("database or disk is full", None),
            ("UNIQUE constraint failed: entries.parent, entries.name", None),
            ("terminating connection due to administrator command", None),
            ("attempt to write a readonly database", None),
        ] {
            assert_eq!(message(text), of_disk, "{text}");
        }
    }

    #[test]
    fn a_sign_is_found_below_any_context() {
        let inner = Error::from(Damage::of_content("malformed"));
        let outer = Error::internal("reading the tree").with_source(inner.context("a step"));
        assert_eq!(Damage::in_chain(&outer).unwrap().what, "malformed");
        assert!(Damage::in_chain(&Error::internal("the database is damaged")).is_none());
    }

    #[test]
    fn the_first_sign_counts_and_names_file_and_way_out() {
        let soundness = Soundness::of(&DatabaseUrl::Sqlite("/srv/m.sqlite".into()));
        assert!(soundness.require().is_ok());
        let told = soundness.declare(&Damage::of_content("malformed"), false).unwrap().sentence.clone();
        for part in ["/srv/m.sqlite is damaged (malformed)", "/srv/m.sqlite-wal", "`holdfast restore`"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let later = soundness.clone().declare(&Damage::of_content("something else"), true).unwrap();
        assert_eq!(later.sentence, told);
        assert!(soundness.trouble().unwrap().unreadable);
        assert_eq!(soundness.require().unwrap_err().code(), ErrorCode::ReadOnly);
        soundness.clear();
        assert!(soundness.require().is_ok());
    }

    #[test]
    fn a_password_is_not_told() {
        let url = DatabaseUrl::parse("postgres://me:S3cret@db.example/holdfast").unwrap();
        let told = Soundness::of(&url).declare(&Damage::of_content("invalid page"), false).unwrap().sentence.clone();
        assert!(told.contains("db.example/holdfast") && !told.contains("S3cret") && !told.contains("me:"), "{told}");
    }
}
