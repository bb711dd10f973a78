//! Bringing a database's tables up to date, and the first rows of a new cluster.

use diesel::migration::MigrationVersion;
use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use uuid::Uuid;

use super::connection::{AnyConnection, DatabaseUrl, connect_once};
use super::error::Step;
use super::rows::*;
use super::{change, dialect, schema, transaction};
use crate::security::{ClusterSecret, token};
use crate::types::api::Role;
use crate::types::{Error, ErrorCode, Result, id};

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The name of the token that is derived from the cluster secret.
pub const FIRST_TOKEN: &str = "superuser";

/// Checks a database, brings its tables up to date and, only when `initialize` says so, makes a new cluster
/// in an empty one. A schema of a newer program is refused.
pub fn prepare(url: &DatabaseUrl, initialize: bool, secret: &ClusterSecret, default_copies: u32) -> Result<()> {
    let mut connection = connect_once(url)?;
    let empty = !dialect::has_tables(&mut connection)?;
    if empty && !initialize {
        return Err(Error::new(
            ErrorCode::InvalidRequest,
            "the database is empty; start with --initialize to make a new cluster in it, or restore into it",
        ));
    }
    run_migrations(&mut connection)?;
    let clusters: i64 = schema::cluster::table.count().get_result(&mut connection)?;
    if clusters == 0 {
        if !initialize {
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                "the database has no cluster; start with --initialize to make one",
            ));
        }
        transaction(&mut connection, |connection| first_rows(connection, secret, default_copies))
            .map_err(super::Failure::into_error)?;
    }
    check_secret(&mut connection, secret)
}

/// The first token is derived from the secret: another secret than the cluster was made with would shut out
/// every storage server and every ticket.
fn check_secret(connection: &mut AnyConnection, secret: &ClusterSecret) -> Result<()> {
    use schema::tokens::dsl;
    let hash: Option<Vec<u8>> = dsl::tokens.find(FIRST_TOKEN).select(dsl::sha256).first(connection).optional()?;
    if hash.is_some_and(|hash| hash != token::hash(&secret.superuser_token()).0) {
        return Err(Error::new(
            ErrorCode::InvalidRequest,
            "the database belongs to a cluster with another secret; give that cluster's secret, or another database",
        ));
    }
    Ok(())
}

/// Applies what is missing.
pub fn run_migrations(connection: &mut AnyConnection) -> Result<()> {
    let failed = |error| Error::internal(format!("cannot bring the database's tables up to date: {error}"));
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
    use diesel::migration::MigrationSource;
    let mut known = Vec::new();
    for migration in MigrationSource::<DB>::migrations(&migrations)? {
        known.push(migration.name().version().as_owned());
    }
    let newer: Vec<MigrationVersion<'_>> =
        connection.applied_migrations()?.into_iter().filter(|version| !known.contains(version)).collect();
    if let Some(version) = newer.first() {
        return Err(format!("it was made by a newer program (migration {version}); use that one").into());
    }
    connection.run_pending_migrations(migrations)?;
    Ok(())
}

/// The cluster, its root directory and its first token.
fn first_rows(connection: &mut AnyConnection, secret: &ClusterSecret, default_copies: u32) -> Step<()> {
    let now = dialect::clock(connection)?;
    let row = ClusterRow {
        id: 1,
        cluster_id: Uuid::new_v4().to_string(),
        history_id: Uuid::new_v4().to_string(),
        epoch: 1,
        mode: "normal".into(),
        mode_reason: None,
        last_version: 0,
        tip: vec![0; 32],
        clock_floor: now,
        created: now,
        journal_copied: 0,
    };
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
