//! Bringing a database's tables up to date, and the first rows of a new cluster.

use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use uuid::Uuid;

use super::connection::{AnyConnection, Use, connect_once};
use super::damage::Damage;
use super::error::Step;
use super::rows::*;
use super::url::DatabaseUrl;
use super::{aside, change, check, dialect, schema, transaction};
use crate::security::{ClusterSecret, token};
use crate::types::api::Role;
use crate::types::{Error, ErrorCode, Mode, Result, id};

/// Longest time that another name server may take to prepare the database.
const PREPARATION_MAX: Duration = Duration::from_secs(60);
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The name of the token that is derived from the cluster secret.
pub const FIRST_TOKEN: &str = "superuser";

/// Checks a database and brings its tables up to date. In an empty one it makes a new cluster only when
/// `initialize` says so; else the database waits for a restore. A schema of a newer program is refused, and so is a
/// database whose journal does not fit the rest of it ([`check::end_fits`]).
pub fn prepare(url: &DatabaseUrl, initialize: bool, secret: &ClusterSecret, default_copies: u32) -> Result<()> {
    let mut connection = connect_once(url, Use::Write)?;
    wait_for_others(&mut connection)?;
    dialect::let_statements_take_time(&mut connection)?;
    run_migrations(&mut connection).map_err(|error| error.context(format!("the database {}", url.name())))?;
    let clusters: Vec<String> = schema::cluster::table.select(schema::cluster::cluster_id).load(&mut connection)?;
    let waits = clusters.first().is_some_and(|id| *id == Uuid::nil().to_string());
    let is_empty = clusters.is_empty() || waits;
    let initialize = initialize && is_empty && nothing_was_put_aside(url)?;
    if clusters.is_empty() || waits && initialize {
        transaction(&mut connection, |connection| {
            diesel::delete(schema::cluster::table).execute(connection)?;
            diesel::delete(schema::tokens::table).execute(connection)?;
            if initialize { first_rows(connection, secret, default_copies) } else { waiting_rows(connection, secret) }
        })
        .map_err(super::Failure::into_error)?;
    }
    if is_empty && !initialize {
        log::warn!("{WAITING}");
    }
    if is_of_another_secret(&mut connection, secret)? {
        return Err(of_another_secret(url));
    }
    transaction(&mut connection, |connection| {
        dialect::only_read_one_state(connection)?;
        Ok(check::end_fits(connection)?)
    })
    .map_err(super::Failure::into_error)
}

/// Refuses a SQLite database that a newer program or a cluster with another secret has made, by reading it only: opening it to
/// write would merge its log already. What cannot be read is for [`prepare`] to judge.
pub fn refuse_unfit(url: &DatabaseUrl, secret: &ClusterSecret) -> Result<()> {
    let DatabaseUrl::Sqlite(path) = url else { return Ok(()) };
    if std::fs::metadata(path).map_or(0, |metadata| metadata.len()) == 0 {
        return Ok(());
    }
    let Ok(mut connection) = connect_once(url, Use::Inspect) else { return Ok(()) };
    if let Ok(applied) = applied(&mut connection)
        && let Some(newer) = newer_of(applied, &names::<diesel::sqlite::Sqlite>(&SQLITE)?)
    {
        return Err(made_by_newer(&newer).context(url.name()));
    }
    match is_of_another_secret(&mut connection, secret) {
        Ok(true) => Err(of_another_secret(url)),
        _ => Ok(()),
    }
}

#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = diesel::sql_types::Text)]
    version: String,
}

/// The migrations that a database has, as diesel notes them.
fn applied(connection: &mut AnyConnection) -> QueryResult<Vec<String>> {
    let rows: Vec<Applied> =
        diesel::sql_query("SELECT version FROM __diesel_schema_migrations ORDER BY version").load(connection)?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

/// The migrations that this program knows.
fn names<DB: diesel::backend::Backend>(migrations: &EmbeddedMigrations) -> Result<Vec<String>> {
    use diesel::migration::MigrationSource;
    let known = MigrationSource::<DB>::migrations(migrations)
        .map_err(|error| Error::internal(format!("the program's own migrations cannot be read: {error}")))?;
    Ok(known.iter().map(|migration| migration.name().version().to_string()).collect())
}

fn newer_of(applied: Vec<String>, known: &[String]) -> Option<String> {
    applied.into_iter().find(|version| !known.contains(version))
}

fn made_by_newer(version: &str) -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        format!("it was made by a newer program (migration {version}); use that one. Nothing was changed"),
    )
}

/// Whether no damaged database was put aside here: beside one, an empty database is there to be restored, whatever options a
/// unit file has for ever.
fn nothing_was_put_aside(url: &DatabaseUrl) -> Result<bool> {
    let places = aside::all(url)?;
    if let Some(place) = places.first() {
        log::warn!(
            "no new cluster is made, because a damaged database was put aside: {place}; move that away if you want one"
        );
    }
    Ok(places.is_empty())
}

/// Several name servers that start together on one database prepare it one after the other.
fn wait_for_others(connection: &mut AnyConnection) -> Result<()> {
    let started = Instant::now();
    while !dialect::try_lock_preparation(connection)? {
        if started.elapsed() > PREPARATION_MAX {
            return Err(Error::unavailable("another name server has been preparing the database for too long"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What an empty database is told to wait for.
const WAITING: &str = "the database is empty: it waits for `holdfast restore`, which brings the metadata back from the \
                       storage servers (to make a new cluster instead, start the name server with --initialize)";

/// Rows of a database that waits for a restore: no cluster yet, and the token that may start it.
fn waiting_rows(connection: &mut AnyConnection, secret: &ClusterSecret) -> Step<()> {
    let now = dialect::clock(connection)?;
    let row = ClusterRow {
        cluster_id: Uuid::nil().to_string(),
        epoch: 0,
        mode: Mode::Restoring,
        mode_reason: Some(WAITING.into()),
        ..new_cluster(now)
    };
    diesel::insert_into(schema::cluster::table).values(&row).execute(connection)?;
    let token = TokenRow {
        name: FIRST_TOKEN.into(),
        sha256: token::hash(&secret.superuser_token()).0.to_vec(),
        role: "superuser".into(),
        prefix: None,
        created: now,
        expires: None,
    };
    diesel::insert_into(schema::tokens::table).values(&token).execute(connection)?;
    Ok(())
}

fn new_cluster(now: chrono::NaiveDateTime) -> ClusterRow {
    ClusterRow {
        id: 1,
        cluster_id: Uuid::new_v4().to_string(),
        history_id: Uuid::new_v4().to_string(),
        epoch: 1,
        mode: Mode::Normal,
        mode_reason: None,
        last_version: 0,
        tip: vec![0; 32],
        clock_floor: now,
        created: now,
        journal_copied: 0,
    }
}

/// The first token is derived from the secret: another secret than the cluster was made with would shut out
/// every storage server and every ticket.
fn is_of_another_secret(connection: &mut AnyConnection, secret: &ClusterSecret) -> QueryResult<bool> {
    use schema::tokens::dsl;
    let hash: Option<Vec<u8>> = dsl::tokens.find(FIRST_TOKEN).select(dsl::sha256).first(connection).optional()?;
    Ok(hash.is_some_and(|hash| hash != token::hash(&secret.superuser_token()).0))
}

fn of_another_secret(url: &DatabaseUrl) -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        format!(
            "the database {} belongs to a cluster with another secret; give that cluster's secret, or another database. \
             Nothing was changed",
            url.name()
        ),
    )
}

/// Applies what is missing.
pub fn run_migrations(connection: &mut AnyConnection) -> Result<()> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| match Damage::in_message(&error.to_string()) {
        Some(damage) => Error::from(damage),
        None => Error::internal(format!("cannot bring the database's tables up to date: {error}")),
    };
    match connection {
        AnyConnection::Postgres(connection) => apply(connection, POSTGRES).map_err(failed)?,
        AnyConnection::Sqlite(connection) => apply(connection, SQLITE).map_err(failed)?,
    }
    Ok(())
}

/// Takes all of it back, the newest first. For tests, and for administrators who want the tables gone.
pub fn revert_migrations(connection: &mut AnyConnection) -> Result<()> {
    let failed = |error| Error::internal(format!("cannot take the tables back: {error}"));
    match connection {
        AnyConnection::Postgres(connection) => connection.revert_all_migrations(POSTGRES).map(drop).map_err(failed),
        AnyConnection::Sqlite(connection) => connection.revert_all_migrations(SQLITE).map(drop).map_err(failed),
    }
}

fn apply<DB: diesel::backend::Backend>(
    connection: &mut impl MigrationHarness<DB>,
    migrations: EmbeddedMigrations,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let applied: Vec<String> = connection.applied_migrations()?.iter().map(ToString::to_string).collect();
    if let Some(version) = newer_of(applied, &names::<DB>(&migrations)?) {
        return Err(made_by_newer(&version).into());
    }
    connection.run_pending_migrations(migrations)?;
    Ok(())
}

/// The cluster, its root directory and its first token.
fn first_rows(connection: &mut AnyConnection, secret: &ClusterSecret, default_copies: u32) -> Step<()> {
    let now = dialect::clock(connection)?;
    let row = new_cluster(now);
    diesel::insert_into(schema::cluster::table).values(&row).execute(connection)?;
    let mut changes = change::Changes::begin(connection)?;
    let version = changes.version();
    changes.insert_entries(&[EntryRow {
        id: id::ROOT.0,
        parent: None,
        name: String::new(),
        kind: EntryRow::DIRECTORY.into(),
        object: None,
        replication: Some(default_copies as i32),
        version,
        created: now,
        modified: now,
    }])?;
    changes.end_item();
    let sha256 = token::hash(&secret.superuser_token());
    super::token::insert(&mut changes, FIRST_TOKEN, sha256, Role::Superuser, None, None)?;
    changes.finish()
}
