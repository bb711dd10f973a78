//! Looking at an index without changing a byte of it.
//!
//! SQLite changes what it opens: it rolls its write-ahead log forward, merges it when the last connection ends, and
//! throws away a log that does not fit. Over a damaged index that destroys what a person might still have used, after a
//! start that was refused and said that nothing had happened. So whoever only looks does it here: without a log in the
//! place itself, as a file that nobody changes; with one through a second name of the file (a hard link) beside a copy
//! of the log, in a directory of its own that goes when the look ends, or with the next start.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{Integer, Text};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;

use super::index::{self, IndexConnection};
use super::layout::SCRATCH;
use crate::types::{Error, Result};

/// A larger index is not read whole before each start; its root pages are.
const WHOLE_BYTES_MAX: u64 = 256 << 20;
/// Findings of SQLite's own check that are told.
const FINDINGS_MAX: usize = 20;
/// Shorter is no database.
const PAGE_BYTES_MIN: u64 = 512;
/// What the file of a SQLite database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// What must not stand in the path of a SQLite URI as it is.
const URI_ESCAPED: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// An index that is only read. Nothing of it changes.
pub struct Inspected {
    /// Reads it.
    pub connection: IndexConnection,
    bytes: u64,
    // After the connection: it goes last.
    _scratch: Option<TempDir>,
}

#[derive(QueryableByName)]
struct Said {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

/// Opens an index to look at it. The inner failure is what is wrong with it; one of a newer program is refused.
pub fn open(path: &Path) -> Result<std::result::Result<Inspected, String>> {
    if index::interrupted_rebuild(path).exists() {
        return Ok(Err("a rebuild of it was interrupted; run it again".into()));
    }
    let mut found = match reader(path)? {
        Ok(found) => found,
        Err(reason) => return Ok(Err(reason)),
    };
    let look = |connection: &mut IndexConnection| -> QueryResult<i32> {
        let version = diesel::select(diesel::dsl::sql::<Integer>("(SELECT user_version FROM pragma_user_version)"));
        let version = version.get_result(connection)?;
        index::touch(connection)?;
        Ok(version)
    };
    match look(&mut found.connection) {
        Ok(version) => index::refuse_newer(path, version).map(|()| Ok(found)),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Opens an index to read what can be read of it, however damaged it is.
pub fn reader(path: &Path) -> Result<std::result::Result<Inspected, String>> {
    let bytes = match look_at_files(path) {
        Ok(bytes) => bytes,
        Err(reason) => return Ok(Err(reason)),
    };
    let log = with_suffix(path, "-wal");
    let (uri, scratch) = if fs::metadata(&log).map_or(0, |meta| meta.len()) == 0 {
        (uri(path, "mode=ro&immutable=1"), None)
    } else {
        let scratch = copy(path, &log)
            .map_err(|error| Error::io(format!("making a copy of {} to look into it", log.display()), error))?;
        (uri(&scratch.path().join("index.sqlite"), "mode=ro"), Some(scratch))
    };
    let opened = SqliteConnection::establish(&uri).map_err(|error| error.to_string()).and_then(|mut connection| {
        let settings = connection.batch_execute("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON");
        settings.map(|()| connection).map_err(|error| error.to_string())
    });
    Ok(opened.map(|connection| Inspected { connection, bytes, _scratch: scratch }))
}

/// Refuses an index that is damaged, before anything is changed for a start. All pages of one that is not very large are
/// read.
pub fn require_sound(path: &Path) -> Result<()> {
    let mut index = open(path)?.map_err(|reason| index::damaged(path, &reason))?;
    if index.bytes > WHOLE_BYTES_MAX {
        return Ok(());
    }
    match index.check_pages()?.first() {
        Some(finding) => Err(index::damaged(path, finding)),
        None => Ok(()),
    }
}

impl Inspected {
    /// SQLite's own check of all pages and of what they say of one another. Answers what is wrong, the first findings.
    pub fn check_pages(&mut self) -> Result<Vec<String>> {
        let query = diesel::sql_query(format!("PRAGMA integrity_check({FINDINGS_MAX})"));
        let said: Vec<Said> = match query.load(&mut self.connection) {
            Ok(said) => said,
            Err(error) => return Ok(vec![error.to_string()]),
        };
        let lines = said.iter().flat_map(|said| said.integrity_check.lines()).filter(|line| *line != "ok");
        Ok(lines.take(FINDINGS_MAX).map(|line| line.trim().to_string()).collect())
    }
}

/// What can be told from the file alone: its size, or why it is no index.
fn look_at_files(path: &Path) -> std::result::Result<u64, String> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("it does not exist, though this server has joined a cluster".into());
        }
        Err(error) => return Err(error.to_string()),
    };
    if !meta.is_file() {
        return Err("it is not a file".into());
    }
    if meta.len() < PAGE_BYTES_MIN {
        return Err(format!("it has {} bytes, fewer than any index", meta.len()));
    }
    let mut magic = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).map_err(|error| error.to_string())?;
    if &magic == MAGIC { Ok(meta.len()) } else { Err("it does not begin as a SQLite database does".into()) }
}

/// Another name of the file and a copy of its log, in a directory of their own.
fn copy(path: &Path, log: &Path) -> std::io::Result<TempDir> {
    let parent = path.parent().unwrap_or(Path::new("."));
    // A directory that takes no writes is looked at too.
    let scratch = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(parent).or_else(|_| tempfile::tempdir())?;
    let other = scratch.path().join("index.sqlite");
    if fs::hard_link(path, &other).is_err() {
        fs::copy(path, &other)?;
    }
    fs::copy(log, with_suffix(&other, "-wal"))?;
    Ok(scratch)
}

fn uri(path: &Path, options: &str) -> String {
    format!("file:{}?{options}", utf8_percent_encode(&path.to_string_lossy(), &URI_ESCAPED))
}

/// The name of a file beside a SQLite database.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
