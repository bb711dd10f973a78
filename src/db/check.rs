//! Looking for damage before anybody is hurt by it.
//!
//! Three looks, from cheap to thorough:
//!
//! - [`end_fits`], on both backends, at the start and every minute: the cluster row has the tip of the journal's newest
//!   row, the last rows of the journal follow one another without a gap and hash to their tips, and the tables say of
//!   each row what the journal said last. It reads [`END_ROWS`] rows, however large the database is. A database of
//!   which a part is older than the rest (a backup that was put beside the write-ahead log of its successor, a page that
//!   was never written) does not stand it when the parts differ by anything near the end.
//! - SQLite's own `quick_check` of all pages, at the start and once a day, on a thread and a read transaction of its
//!   own. The start waits for it for [`START_WAIT_MAX`]; a larger database is served meanwhile.
//! - Whatever an ordinary statement stumbles over: [`super::damage`].

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sql_types::Text;
use serde_json::Value;
use sha2::{Digest, Sha256 as Sha256Hasher};

use super::connection::{AnyConnection, Use, connect_once};
use super::damage::{Damage, Soundness};
use super::file_name::{full_name, with_suffix};
use super::rows::{EntryRow, JournalRow, ObjectRow, ServerRow, TokenRow};
use super::url::DatabaseUrl;
use super::{dialect, schema};
use crate::journal::{ENTRIES, GENESIS_TIP, OBJECTS, SERVERS, TOKENS, next_tip};
use crate::types::{Error, ErrorCode, Result, Sha256, Version};

/// Rows of the journal's end that are looked at.
pub const END_ROWS: i64 = 2_000;
/// How long a start waits for SQLite's own check. About 2 million files are checked in it when they are in memory.
pub const START_WAIT_MAX: Duration = Duration::from_secs(5);
/// What the file of a SQLite database begins with.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Looks at a database before anything is written to it. SQLite only: Postgres knows its own files, and its journal's end
/// is looked at with the tables.
pub fn before_use(url: &DatabaseUrl, soundness: &Soundness) -> Result<()> {
    let DatabaseUrl::Sqlite(path) = url else { return Ok(()) };
    if !look_at_files(path, soundness)? {
        return Ok(());
    }
    let looked = connect_once(url, Use::Inspect).and_then(|mut connection| {
        if dialect::has_tables(&mut connection)? { end_fits(&mut connection) } else { Ok(()) }
    });
    match looked {
        Ok(()) => {}
        Err(error) if Damage::in_chain(&error).is_some() => return Err(error),
        // Tables of an earlier program may lack columns, and whoever opens it to write says what else hinders it. It is
        // looked at again then.
        Err(error) => log::debug!("the database could not be looked at: {}", error.chain()),
    }
    let ended = all_pages(url, soundness);
    match ended.recv_timeout(START_WAIT_MAX) {
        Ok(outcome) => outcome,
        Err(_) => {
            log::info!("all pages of the database are being checked; that goes on in the background");
            Ok(())
        }
    }
}

/// What can be told from the files alone. Answers whether there is a database at all.
fn look_at_files(path: &Path, soundness: &Soundness) -> Result<bool> {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let log = with_suffix(path, "-wal");
    if length(path) == 0 {
        if length(&log) == 0 {
            return Ok(false);
        }
        // SQLite would remove the log.
        let damage = Damage::of_content(format!("its write-ahead log {} is there without it", full_name(&log)));
        soundness.declare(&damage, true);
        return Err(damage.into());
    }
    let mut magic = [0; 16];
    let opened = File::options().read(true).write(true).open(path);
    let read = opened.map_err(|error| cannot_be_opened(path, &error))?.read_exact(&mut magic);
    // A file that is too short for it is SQLite's to judge; a header of zeros is what a crashed file system leaves.
    if read.is_ok() && &magic != SQLITE_MAGIC && magic != [0; 16] {
        let file = full_name(path);
        return Err(Error::new(
            ErrorCode::InvalidRequest,
            format!(
                "{file} does not begin as a SQLite database does: it is another file, or its first page is lost. Nothing was \
                 changed. If it is the name server's database, move {file}, {file}-wal and {file}-shm together into a new \
                 directory {file}.damaged-by-hand, start the name server again, and run `holdfast restore`, which brings \
                 the metadata back from the storage servers"
            ),
        ));
    }
    Ok(true)
}

fn cannot_be_opened(path: &Path, error: &std::io::Error) -> Error {
    let file = full_name(path);
    Error::new(
        ErrorCode::InvalidRequest,
        format!(
            "the database {file} cannot be opened: {error}. Nothing was changed. It is a file that belongs to the user that \
             the name server runs as, in a directory of that user (`chown`). If something else is in its place, move that \
             away and put the database back; if that is lost, start the name server without it, and run `holdfast restore`, \
             which brings the metadata back from the storage servers"
        ),
    )
}

#[derive(QueryableByName)]
struct Said {
    #[diesel(sql_type = Text)]
    quick_check: String,
}

/// Begins SQLite's own check of all pages. It cannot be interrupted, so it runs on a thread that nobody has to wait
/// for, not even the end of the process; what it finds stops everything. Nothing is done on Postgres.
pub fn all_pages(url: &DatabaseUrl, soundness: &Soundness) -> mpsc::Receiver<Result<()>> {
    let (sender, ended) = mpsc::channel();
    let (url, soundness) = (url.clone(), soundness.clone());
    let check = move || {
        let started = Instant::now();
        let outcome = quick_check(&url);
        if let Err(error) = &outcome {
            match Damage::in_chain(error) {
                Some(damage) => drop(soundness.declare(&damage, false)),
                None => log::warn!("the pages of the database could not be checked: {}", error.chain()),
            }
        } else if started.elapsed() > START_WAIT_MAX {
            log::info!("all pages of the database are well, after {:.0?}", started.elapsed());
        }
        // Whoever began it may have gone on without it.
        let _ = sender.send(outcome);
    };
    if let Err(error) = std::thread::Builder::new().name("quick-check".into()).spawn(check) {
        log::warn!("the pages of the database are not checked: {error}");
    }
    ended
}

fn quick_check(url: &DatabaseUrl) -> Result<()> {
    let DatabaseUrl::Sqlite(_) = url else { return Ok(()) };
    let mut connection = connect_once(url, Use::Inspect)?;
    let said: Vec<Said> = diesel::sql_query("PRAGMA quick_check(1)").load(&mut connection)?;
    match said.first() {
        Some(said) if said.quick_check != "ok" => {
            Err(Damage::of_content(said.quick_check.replace('\n', " ").trim().to_string()).into())
        }
        _ => Ok(()),
    }
}

/// Checks that cluster row, journal and tables belong together, at the journal's end. Must see one state of the
/// database.
pub fn end_fits(connection: &mut AnyConnection) -> Result<()> {
    use schema::cluster::dsl;
    let row: Option<(String, Version, Vec<u8>)> =
        readable(dsl::cluster.select((dsl::history_id, dsl::last_version, dsl::tip)).first(connection).optional())?;
    let Some((history, version, tip)) = row else { return Ok(()) };
    let mut rows: Vec<JournalRow> = readable(
        schema::journal::table
            .order((schema::journal::version.desc(), schema::journal::seq.desc()))
            .limit(END_ROWS)
            .select(JournalRow::as_select())
            .load(connection),
    )?;
    rows.reverse();
    follow(&rows, version, &tip, &history)?;
    let mut last: HashMap<(&str, &str), Option<&str>> = HashMap::new();
    for row in &rows {
        last.insert((&row.table_name, &row.row_key), row.content.as_deref());
    }
    for table in [ENTRIES, OBJECTS, SERVERS, TOKENS] {
        let told: HashMap<&str, Option<&str>> =
            last.iter().filter(|((of, _), _)| *of == table).map(|((_, key), content)| (*key, *content)).collect();
        compare(connection, table, &told)?;
    }
    Ok(())
}

/// What cannot be read as what it must be is damage as well.
fn readable<T>(outcome: QueryResult<T>) -> Result<T> {
    outcome.map_err(|error| match error {
        DieselError::DeserializationError(error) => Damage::of_content(format!("a row cannot be read: {error}")).into(),
        error => error.into(),
    })
}

fn damaged<T>(what: String) -> Result<T> {
    Err(Damage::of_content(what).into())
}

/// Checks that the journal's last rows follow one another and end where the cluster row says.
fn follow(rows: &[JournalRow], version: Version, tip: &[u8], history: &str) -> Result<()> {
    let Some(last) = rows.last() else {
        // Nothing was changed yet, or nothing since the restore that began this history.
        let start = history.parse::<uuid::Uuid>().map(|history| Sha256Hasher::digest(history.as_bytes()).to_vec());
        let is_new = version == 0 && tip == GENESIS_TIP.0;
        return if is_new || start.is_ok_and(|start| start == tip) {
            Ok(())
        } else {
            damaged(format!("it is at version {version}, and its journal is empty"))
        };
    };
    if last.version != version || last.tip != tip {
        return damaged(format!(
            "it is at version {version}, and its journal ends with another version {}",
            last.version
        ));
    }
    let mut before: Option<&JournalRow> = None;
    for row in rows {
        let (place, tip) = match before {
            Some(before) => (is_next((before.version, before.seq), (row.version, row.seq)), Some(&before.tip)),
            // What came before the first row is told only where the journal begins with everything.
            None => (true, None),
        };
        if !place {
            return damaged(format!("changes are missing in its journal before version {}", row.version));
        }
        let genesis = GENESIS_TIP.0.to_vec();
        let tip = tip.or_else(|| ((row.version, row.seq) == (1, 0)).then_some(&genesis));
        let fits = tip.map(|tip| Sha256::from_slice(tip).is_ok_and(|tip| tip_after(tip, row).0 == *row.tip));
        if fits == Some(false) {
            return damaged(format!("version {} of its journal does not follow from what is before it", row.version));
        }
        before = Some(row);
    }
    Ok(())
}

/// Whether a journal's row can come right behind another one.
pub(super) fn is_next(before: (Version, i32), row: (Version, i32)) -> bool {
    row == (before.0, before.1 + 1) || row == (before.0 + 1, 0)
}

/// The tip after a row of the journal.
pub(super) fn tip_after(tip: Sha256, row: &JournalRow) -> Sha256 {
    next_tip(tip, row.version, row.seq, &row.table_name, &row.row_key, row.content.as_deref())
}

/// Compares a table's rows with what the journal told of them last.
fn compare(connection: &mut AnyConnection, table: &str, told: &HashMap<&str, Option<&str>>) -> Result<()> {
    if told.is_empty() {
        return Ok(());
    }
    let stored = stored(connection, table, told.keys().copied())?;
    for (key, content) in told {
        let fits = match (content, stored.get(*key)) {
            (None, None) => true,
            (Some(content), Some(row)) => serde_json::from_str(content).is_ok_and(|content: Value| same(&content, row)),
            _ => false,
        };
        if !fits {
            return damaged(format!("its table {table} does not have what its journal says of {key}"));
        }
    }
    Ok(())
}

/// The rows of a table that have some keys, as the journal would write them.
fn stored<'k>(
    connection: &mut AnyConnection,
    table: &str,
    keys: impl Iterator<Item = &'k str>,
) -> Result<HashMap<String, Value>> {
    use schema::{entries, objects, servers, tokens};
    let keys: Vec<&str> = keys.collect();
    let ids = || {
        let ids = keys.iter().map(|key| key.parse::<i64>());
        ids.collect::<std::result::Result<Vec<i64>, _>>()
            .map_err(|_| Error::from(Damage::of_content(format!("a key of the table {table} in its journal is no id"))))
    };
    match table {
        ENTRIES => {
            let rows = entries::table.filter(entries::id.eq_any(ids()?)).select(EntryRow::as_select());
            encoded(readable(rows.load(connection))?, |row| row.id.to_string())
        }
        OBJECTS => {
            let rows = objects::table
                .filter(objects::id.eq_any(ids()?).and(objects::state.ne(ObjectRow::ABORTED)))
                .select(ObjectRow::as_select());
            encoded(readable(rows.load(connection))?, |row| row.id.to_string())
        }
        SERVERS => {
            let rows = servers::table.filter(servers::id.eq_any(ids()?)).select(ServerRow::as_select());
            encoded(readable(rows.load(connection))?, |row| row.id.to_string())
        }
        _ => {
            let rows = tokens::table.filter(tokens::name.eq_any(keys)).select(TokenRow::as_select());
            encoded(readable(rows.load(connection))?, |row| row.name.clone())
        }
    }
}

fn encoded<T: serde::Serialize>(rows: Vec<T>, key: impl Fn(&T) -> String) -> Result<HashMap<String, Value>> {
    let row = |row: &T| {
        let value =
            serde_json::to_value(row).map_err(|error| Error::internal("cannot encode a row").with_source(error))?;
        Ok((key(row), value))
    };
    rows.iter().map(row).collect()
}

/// Whether a row has what the journal wrote of it. Columns that came with a later version of the program are not in an
/// old line, and Postgres cuts times off.
fn same(told: &Value, row: &Value) -> bool {
    let (Some(told), Some(row)) = (told.as_object(), row.as_object()) else { return false };
    let is_time = |value: &Value| {
        value.as_str().is_some_and(|text| text.parse::<chrono::NaiveDateTime>().is_ok() || text.is_empty())
    };
    told.iter()
        .all(|(column, told)| row.get(column).is_none_or(|stored| stored == told || is_time(stored) && is_time(told)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(versions: &[(Version, i32)]) -> Vec<JournalRow> {
        let mut tip = GENESIS_TIP;
        let row = |(version, seq): &(Version, i32)| {
            let mut row = JournalRow {
                version: *version,
                seq: *seq,
                table_name: ENTRIES.into(),
                row_key: version.to_string(),
                content: None,
                tip: Vec::new(),
                created: chrono::NaiveDateTime::default(),
            };
            tip = tip_after(tip, &row);
            row.tip = tip.0.to_vec();
            row
        };
        versions.iter().map(row).collect()
    }

    fn said(rows: &[JournalRow], version: Version, tip: &[u8]) -> String {
        match follow(rows, version, tip, &uuid::Uuid::nil().to_string()) {
            Ok(()) => String::new(),
            Err(error) => Damage::in_chain(&error).unwrap().what,
        }
    }

    #[test]
    fn the_end_of_the_journal_follows_and_ends_at_the_cluster_row() {
        let whole = rows(&[(1, 0), (1, 1), (2, 0), (3, 0)]);
        let tip = |rows: &[JournalRow]| rows.last().unwrap().tip.clone();
        assert_eq!(said(&whole, 3, &tip(&whole)), "");
        assert_eq!(said(&whole[2..], 3, &tip(&whole)), "", "older rows are trimmed");
        assert!(said(&whole, 4, &tip(&whole)).contains("at version 4"));
        assert!(said(&whole, 3, &[7; 32]).contains("another version 3"));
        let mut gap = whole.clone();
        gap.remove(2);
        assert!(said(&gap, 3, &tip(&gap)).contains("missing in its journal before version 3"));
        for number in [0, 1, 2] {
            let mut other = whole.clone();
            other[number].content = Some("other".into());
            assert!(said(&other, 3, &tip(&other)).contains("does not follow"), "row {number}");
        }
    }

    #[test]
    fn an_empty_journal_is_that_of_a_new_history() {
        let start = Sha256Hasher::digest(uuid::Uuid::nil().as_bytes()).to_vec();
        assert_eq!(said(&[], 0, &GENESIS_TIP.0), "");
        assert_eq!(said(&[], 1_000_007, &start), "");
        assert!(said(&[], 7, &GENESIS_TIP.0).contains("its journal is empty"));
    }

    #[test]
    fn columns_of_later_programs_and_cut_times_are_no_damage() {
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let told = value(r#"{"id": 1, "name": "a", "created": "2026-01-01T00:00:00.123456789"}"#);
        for (row, fits) in [
            (r#"{"id": 1, "name": "a", "created": "2026-01-01T00:00:00.123456", "later": 3}"#, true),
            (r#"{"id": 1, "name": "b", "created": "2026-01-01T00:00:00.123456789"}"#, false),
            (r#"{"id": 1, "name": null, "created": "2026-01-01T00:00:00.123456789"}"#, false),
        ] {
            assert_eq!(same(&told, &value(row)), fits, "{row}");
        }
    }
}
