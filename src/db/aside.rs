//! Putting a damaged database aside, so that a restore can begin an empty one in its place. Nothing of it is removed:
//! what it still tells is read by the restore ([`super::former`]), and whatever else is in it stays for people.
//!
//! - A SQLite database becomes a directory beside its place, `FILE.damaged-TIME/`, with the database and its write-ahead
//!   log under their own names, so that `sqlite3` opens it. Connections that are open meanwhile go on with the moved
//!   files; SQLite sees that they were moved and leaves the log alone when the last one ends.
//! - The tables of a Postgres database become a schema `holdfast_damaged_TIME`, their views one with `_admin` behind its
//!   name. That changes the catalogue only and reads no damaged page.

use std::fs;
use std::path::{Path, PathBuf};

use chrono::Utc;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::connection::{AnyConnection, Use, connect_once};
use super::file_name::{full_name, with_suffix};
use super::url::DatabaseUrl;
use super::{Failure, transaction};
use crate::types::error::IoContext;
use crate::types::{Error, Result};

/// What a SQLite database consists of besides its own file. The log is needed to read it, the other only while it is
/// in use.
const BESIDE: [&str; 2] = ["-wal", "-shm"];
/// Databases that were put aside and are looked at, the newest first.
const PLACES_MAX: usize = 10;
/// What the names of such databases have behind the name of the file, and of schemas at their beginning.
const MARK: &str = ".damaged-";
const SCHEMA_MARK: &str = "holdfast_damaged_";

/// Where a database is that was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A schema of the same database.
    Schema(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => f.write_str(&full_name(path)),
            Self::Schema(name) => write!(f, "the schema {name}"),
        }
    }
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Puts the database at this place aside. Nobody else may be using it. `None` when nothing is there.
pub fn put(url: &DatabaseUrl) -> Result<Option<Place>> {
    let place = match url {
        DatabaseUrl::Sqlite(path) => put_files(path)?,
        DatabaseUrl::Postgres(_) => put_tables(url)?,
    };
    if let Some(place) = &place {
        log::warn!("the damaged database is put aside: it is {place} now");
    }
    Ok(place)
}

fn now() -> String {
    Utc::now().format("%Y%m%dt%H%M%S%3fz").to_string()
}

/// The log gets its second name first and loses its old one last: it is never alone in a place where a database of
/// length zero could appear, for SQLite removes a log that lies beside one.
fn put_files(path: &Path) -> Result<Option<Place>> {
    if [""].iter().chain(&BESIDE).all(|suffix| !with_suffix(path, suffix).exists()) {
        return Ok(None);
    }
    let directory = with_suffix(path, &format!("{MARK}{}", now()));
    let moving = || format!("moving {} to {}", path.display(), directory.display());
    let here = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let there = |from: &Path| directory.join(from.file_name().unwrap_or_default());
    fs::create_dir(&directory).io_context(moving)?;
    let beside = BESIDE.map(|suffix| with_suffix(path, suffix));
    for from in beside.iter().filter(|from| from.exists()) {
        // Where a file system has no second names, it is moved below.
        let _ = fs::hard_link(from, there(from));
    }
    sync(&[here, &directory]).io_context(moving)?;
    crate::types::failpoint::RESTORE_MOVING.passed();
    if path.exists() {
        fs::rename(path, there(path)).io_context(moving)?;
    }
    sync(&[&directory, here]).io_context(moving)?;
    crate::types::failpoint::RESTORE_MOVED.passed();
    for from in beside.iter().filter(|from| from.exists()) {
        let moved = there(from);
        if moved.exists() { fs::remove_file(from) } else { fs::rename(from, moved) }.io_context(moving)?;
    }
    sync(&[&directory, here]).io_context(moving)?;
    Ok(Some(Place::Directory(directory)))
}

fn sync(directories: &[&Path]) -> std::io::Result<()> {
    directories.iter().try_for_each(|directory| fs::File::open(directory)?.sync_all())
}

fn put_tables(url: &DatabaseUrl) -> Result<Option<Place>> {
    let mut connection = connect_once(url, Use::Write)?;
    transaction(&mut connection, |connection| {
        // The tables that migrations have made, whatever they are by now.
        let tables: Vec<Name> = diesel::sql_query(
            "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public' AND tableowner = current_user",
        )
        .load(connection)?;
        if tables.is_empty() {
            return Ok(None);
        }
        let schema = format!("{SCHEMA_MARK}{}", now());
        connection.batch_execute(&format!("CREATE SCHEMA {schema}"))?;
        for table in tables {
            connection.batch_execute(&format!("ALTER TABLE public.{} SET SCHEMA {schema}", table.name))?;
        }
        let views: Vec<Name> =
            diesel::sql_query("SELECT nspname::text AS name FROM pg_namespace WHERE nspname = 'admin'").load(connection)?;
        if !views.is_empty() {
            connection.batch_execute(&format!("ALTER SCHEMA admin RENAME TO {schema}_admin"))?;
        }
        Ok(Some(Place::Schema(schema)))
    })
    .map_err(Failure::into_error)
}

/// The databases that were put aside from this place, the newest first; one that a person moved by hand comes before.
pub fn all(url: &DatabaseUrl) -> Result<Vec<Place>> {
    let mut places = match url {
        DatabaseUrl::Sqlite(path) => directories(path)?,
        DatabaseUrl::Postgres(_) => {
            let mut connection = connect_once(url, Use::Read)?;
            let names: Vec<Name> = diesel::sql_query(
                "SELECT nspname::text AS name FROM pg_namespace WHERE nspname ~ '^holdfast_damaged_[0-9tz]+$' ORDER BY nspname DESC",
            )
            .load(&mut connection)?;
            names.into_iter().map(|row| Place::Schema(row.name)).collect()
        }
    };
    places.truncate(PLACES_MAX);
    Ok(places)
}

fn directories(path: &Path) -> Result<Vec<Place>> {
    let here = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mark = format!("{}{MARK}", path.file_name().unwrap_or_default().to_string_lossy());
    let reading = || format!("reading {}", here.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(here).io_context(reading)? {
        let entry = entry.io_context(reading)?;
        if entry.file_name().to_string_lossy().starts_with(&mark) && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found.into_iter().map(Place::Directory).collect())
}

/// Opens a database that was put aside, to read it.
pub fn open(url: &DatabaseUrl, place: &Place) -> Result<AnyConnection> {
    match (url, place) {
        (DatabaseUrl::Sqlite(path), Place::Directory(directory)) => {
            let file = directory.join(path.file_name().unwrap_or_default());
            if !file.exists() {
                return Err(Error::not_found(format!("there is no {}", file.display())));
            }
            connect_once(&DatabaseUrl::Sqlite(file), Use::Inspect)
        }
        (DatabaseUrl::Postgres(_), Place::Schema(schema)) => {
            let mut connection = connect_once(url, Use::Inspect)?;
            connection.batch_execute(&format!("SET search_path = {schema}; SET default_transaction_read_only = on"))?;
            Ok(connection)
        }
        _ => Err(Error::internal("a database was put aside at a place of another kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_moved_together_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sqlite");
        assert_eq!(put_files(&path).unwrap(), None);
        for suffix in ["", "-wal", "-shm"] {
            fs::write(with_suffix(&path, suffix), format!("one{suffix}")).unwrap();
        }
        let Some(Place::Directory(first)) = put_files(&path).unwrap() else { panic!("nothing was there") };
        for suffix in ["", "-wal", "-shm"] {
            assert!(!with_suffix(&path, suffix).exists());
            let moved = with_suffix(&first.join("m.sqlite"), suffix);
            assert_eq!(fs::read_to_string(moved).unwrap(), format!("one{suffix}"));
        }
        // A log that was left behind by an interruption.
        fs::write(with_suffix(&path, "-wal"), "left").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = put_files(&path).unwrap().unwrap();
        let by_hand = dir.path().join("m.sqlite.damaged-by-hand");
        fs::create_dir(&by_hand).unwrap();
        assert_eq!(directories(&path).unwrap(), [Place::Directory(by_hand), second, Place::Directory(first)]);
    }
}
