//! All that differs between the backends: locks, clocks, bulk inserts, tree walks.
//!
//! diesel's multi-backend has no batch inserts and no `ON CONFLICT`; both backends have them, so those
//! statements are built here once per backend, from one macro.

use std::time::Duration;

use chrono::{NaiveDateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamp};

use super::connection::AnyConnection;
use super::rows::*;
use super::schema;

/// Rows of one INSERT statement: well below both backends' limits on bound values.
const INSERT_ROWS_MAX: usize = 500;

/// An `INSERT` of many rows; rows whose key exists already are skipped when `$ignore` says so.
macro_rules! bulk_insert {
    ($(#[$doc:meta])* $name:ident, $row:ty, $table:ident) => {
        $(#[$doc])*
        pub fn $name(connection: &mut AnyConnection, rows: &[$row]) -> QueryResult<usize> {
            let mut inserted = 0;
            for chunk in rows.chunks(INSERT_ROWS_MAX) {
                let statement = diesel::insert_into(schema::$table::table).values(chunk);
                inserted += match connection {
                    AnyConnection::Postgres(connection) => statement.execute(connection)?,
                    AnyConnection::Sqlite(connection) => statement.execute(connection)?,
                };
            }
            Ok(inserted)
        }
    };
    ($(#[$doc:meta])* $name:ident, $row:ty, $table:ident, ignore) => {
        $(#[$doc])*
        pub fn $name(connection: &mut AnyConnection, rows: &[$row]) -> QueryResult<usize> {
            let mut inserted = 0;
            for chunk in rows.chunks(INSERT_ROWS_MAX) {
                let table = schema::$table::table;
                inserted += match connection {
                    AnyConnection::Postgres(connection) => {
                        diesel::insert_into(table).values(chunk).on_conflict_do_nothing().execute(connection)?
                    }
                    AnyConnection::Sqlite(connection) => {
                        diesel::insert_or_ignore_into(table).values(chunk).execute(connection)?
                    }
                };
            }
            Ok(inserted)
        }
    };
}

/// Many rows at once into a table that nobody else writes: on Postgres by `COPY`.
macro_rules! load {
    ($(#[$doc:meta])* $name:ident, $row:ty, $table:ident, $insert:ident) => {
        $(#[$doc])*
        pub fn $name(connection: &mut AnyConnection, rows: &[$row]) -> QueryResult<()> {
            if rows.is_empty() {
                return Ok(());
            }
            match connection {
                AnyConnection::Postgres(connection) => {
                    diesel::copy_from(schema::$table::table).from_insertable(rows).execute(connection)?;
                }
                AnyConnection::Sqlite(_) => drop($insert(connection, rows)?),
            }
            Ok(())
        }
    };
}

load! {
    /// New objects, of a restore.
    load_objects, ObjectRow, objects, insert_objects
}
load! {
    /// New entries, of a restore; each directory comes before what is in it, or with it.
    load_entries, EntryRow, entries, insert_entries
}

/// As [`insert_replicas_if_absent`], with one value for each column, so that the statement is as short for many rows as for
/// one: `COPY` cannot leave rows out.
const LOAD_REPLICAS: &str = "
    INSERT INTO replicas (object, server, generation, state, created, verified)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";

/// New replicas, of a restore; where the object already has one on the server, that one stays.
pub fn load_replicas(connection: &mut AnyConnection, rows: &[ReplicaRow]) -> QueryResult<()> {
    match connection {
        AnyConnection::Postgres(connection) => {
            let column = |of: fn(&ReplicaRow) -> i64| rows.iter().map(of).collect::<Vec<i64>>();
            diesel::sql_query(LOAD_REPLICAS)
                .bind::<Array<BigInt>, _>(column(|row| row.object))
                .bind::<Array<BigInt>, _>(column(|row| row.server))
                .bind::<Array<BigInt>, _>(column(|row| row.generation))
                .bind::<Array<Text>, _>(rows.iter().map(|row| row.state.as_str()).collect::<Vec<&str>>())
                .bind::<Array<Timestamp>, _>(rows.iter().map(|row| row.created).collect::<Vec<NaiveDateTime>>())
                .bind::<Array<Nullable<Timestamp>>, _>(rows.iter().map(|row| row.verified).collect::<Vec<_>>())
                .execute(connection)?;
        }
        AnyConnection::Sqlite(_) => drop(insert_replicas_if_absent(connection, rows)?),
    }
    Ok(())
}

bulk_insert! {
    /// New objects.
    insert_objects, ObjectRow, objects
}
bulk_insert! {
    /// New objects; those whose id is taken are left as they are.
    insert_objects_if_absent, ObjectRow, objects, ignore
}
bulk_insert! {
    /// New entries.
    insert_entries, EntryRow, entries
}
bulk_insert! {
    /// New replicas; where the object already has one on the server, that one stays.
    insert_replicas_if_absent, ReplicaRow, replicas, ignore
}
bulk_insert! {
    /// Objects to look at again; those that are queued already keep their place.
    queue_repairs, RepairRow, repair_queue, ignore
}
bulk_insert! {
    /// Objects of which a copy is being moved; those that are known keep their server.
    insert_moves, MoveRow, moves, ignore
}
bulk_insert! {
    /// Deletions to carry out.
    insert_outbox, OutboxRow, outbox, ignore
}
bulk_insert! {
    /// Journal rows.
    insert_journal, JournalRow, journal
}
bulk_insert! {
    /// Events, as they are; [`super::events::tell`] sums up what is about copies.
    insert_events, EventRow, events
}
bulk_insert! {
    /// Who asked for which change.
    insert_audit, AuditRow, audit
}

/// The number of the lock that whoever does a restore holds: "restore" in ASCII.
const RESTORE_LOCK: i64 = 0x72_6573_746f_7265;

/// Tries to be the only one that does a restore, until the connection ends. SQLite has only one name server.
pub fn try_lock_restore(connection: &mut AnyConnection) -> QueryResult<bool> {
    match connection {
        AnyConnection::Postgres(connection) => {
            diesel::select(diesel::dsl::sql::<Bool>(&format!("pg_try_advisory_lock({RESTORE_LOCK})")))
                .get_result(connection)
        }
        AnyConnection::Sqlite(_) => Ok(true),
    }
}

/// Whether somebody does a restore now, on Postgres.
pub fn is_restore_locked(connection: &mut AnyConnection) -> QueryResult<bool> {
    match connection {
        AnyConnection::Postgres(connection) => {
            let (high, low) = (RESTORE_LOCK >> 32, RESTORE_LOCK & 0xffff_ffff);
            let held = format!(
                "EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = {high} \
                 AND objid = {low} AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
            );
            diesel::select(diesel::dsl::sql::<Bool>(&held)).get_result(connection)
        }
        AnyConnection::Sqlite(_) => Ok(false),
    }
}

/// Tries to be the only one that prepares the database, until the connection ends. SQLite has only one name server.
pub fn try_lock_preparation(connection: &mut AnyConnection) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Locked {
        #[diesel(sql_type = diesel::sql_types::Bool)]
        locked: bool,
    }
    match connection {
        // The number is ours: "holdfast" in ASCII.
        AnyConnection::Postgres(connection) => {
            let query = diesel::sql_query("SELECT pg_try_advisory_lock(x'686f6c6466617374'::bigint) AS locked");
            Ok(query.get_result::<Locked>(connection)?.locked)
        }
        AnyConnection::Sqlite(_) => Ok(true),
    }
}

/// Locks the cluster row until the end of the transaction. The first statement of each change: on SQLite,
/// being a write, it takes the write lock before anything is read (as `BEGIN IMMEDIATE` does).
pub fn lock_cluster(connection: &mut AnyConnection) -> QueryResult<ClusterRow> {
    use schema::cluster::dsl;
    match connection {
        AnyConnection::Postgres(connection) => {
            dsl::cluster.select(ClusterRow::as_select()).for_update().first(connection)
        }
        AnyConnection::Sqlite(connection) => {
            diesel::update(dsl::cluster).set(dsl::epoch.eq(dsl::epoch)).execute(connection)?;
            dsl::cluster.select(ClusterRow::as_select()).first(connection)
        }
    }
}

/// Makes a transaction see one state from its first read to its last. SQLite's do so anyway.
pub fn only_read_one_state(connection: &mut AnyConnection) -> QueryResult<()> {
    if let AnyConnection::Postgres(connection) = connection {
        connection.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")?;
    }
    Ok(())
}

/// Lets the statements of a connection take as long as they need: a new index on a large table takes a while.
pub fn let_statements_take_time(connection: &mut AnyConnection) -> QueryResult<()> {
    match connection {
        AnyConnection::Postgres(connection) => connection.batch_execute("SET statement_timeout = 0"),
        AnyConnection::Sqlite(_) => Ok(()),
    }
}

/// Lets a transaction take as long as it needs: a restore writes everything in one.
pub fn take_time(connection: &mut AnyConnection) -> QueryResult<()> {
    if let AnyConnection::Postgres(connection) = connection {
        connection.batch_execute(
            "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0",
        )?;
    }
    Ok(())
}

/// Prepares a transaction that fills tables from nothing. Postgres keeps the plans by which it checks references as they
/// were made: for a table of a few rows, by reading all of it, which it would then do for each row of a large one.
pub fn begin_load(connection: &mut AnyConnection) -> QueryResult<()> {
    if let AnyConnection::Postgres(connection) = connection {
        connection.batch_execute("SET LOCAL enable_seqscan = off; DISCARD PLANS")?;
    }
    Ok(())
}

/// Has what was filled so far be known to whatever is planned next.
pub fn look_at_loaded(connection: &mut AnyConnection) -> QueryResult<()> {
    if let AnyConnection::Postgres(connection) = connection {
        connection.batch_execute("ANALYZE objects, entries, replicas")?;
    }
    Ok(())
}

/// The tables are filled: from here on plans may be any.
pub fn end_load(connection: &mut AnyConnection) -> QueryResult<()> {
    look_at_loaded(connection)?;
    if let AnyConnection::Postgres(connection) = connection {
        connection.batch_execute("SET LOCAL enable_seqscan = DEFAULT")?;
    }
    Ok(())
}

/// Switches the triggers off that keep the counts, and answers the statements that switch them on again. Whatever ends the
/// transaction before its commit undoes it: both backends change their catalogue in transactions. On Postgres nobody else
/// writes the tables until the transaction ends.
pub fn stop_counting(connection: &mut AnyConnection) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Trigger {
        #[diesel(sql_type = Text)]
        off: String,
        #[diesel(sql_type = Text)]
        on: String,
    }
    let triggers: Vec<Trigger> = match connection {
        AnyConnection::Postgres(connection) => diesel::sql_query(
            "SELECT format('ALTER TABLE %s DISABLE TRIGGER %I', tgrelid::regclass, tgname) AS off,
                    format('ALTER TABLE %s ENABLE TRIGGER %I', tgrelid::regclass, tgname) AS \"on\"
             FROM pg_trigger WHERE NOT tgisinternal AND starts_with(tgname, 'counts_') AND tgenabled <> 'D'
               AND pg_table_is_visible(tgrelid)
             ORDER BY tgrelid, tgname",
        )
        .load(connection)?,
        AnyConnection::Sqlite(connection) => diesel::sql_query(
            "SELECT 'DROP TRIGGER ' || name AS off, sql AS \"on\" FROM sqlite_master
             WHERE type = 'trigger' AND substr(name, 1, 7) = 'counts_' ORDER BY name",
        )
        .load(connection)?,
    };
    for trigger in &triggers {
        connection.batch_execute(&trigger.off)?;
    }
    Ok(triggers.into_iter().map(|trigger| trigger.on).collect())
}

/// Locks objects by id, in the order of their ids, until the end of the transaction. SQLite has one writer.
pub fn lock_objects(connection: &mut AnyConnection, ids: &[i64]) -> QueryResult<()> {
    if let AnyConnection::Postgres(connection) = connection {
        diesel::sql_query("SELECT id FROM objects WHERE id = ANY($1) ORDER BY id FOR UPDATE")
            .bind::<Array<BigInt>, _>(ids)
            .execute(connection)?;
    }
    Ok(())
}

/// How often somebody who is to be alone with the counts asks for it, and how long it waits in between.
const COUNT_ALONE_TRIES: usize = 20;
const COUNT_ALONE_PAUSE: Duration = Duration::from_millis(5);

/// Makes this transaction the only one that changes what is counted, until its end; `false` when others are at it. It never
/// waits for them while they may wait for it: whoever changes counted rows shares a lock that this one only tries to take.
/// Changes of the namespace wait for the cluster row.
pub fn count_alone(connection: &mut AnyConnection) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Alone {
        #[diesel(sql_type = diesel::sql_types::Bool)]
        alone: bool,
    }
    lock_cluster(connection)?;
    let AnyConnection::Postgres(connection) = connection else { return Ok(true) };
    for _ in 0..COUNT_ALONE_TRIES {
        // The number is ours: "holdcnts" in ASCII.
        let tried = diesel::sql_query("SELECT pg_try_advisory_xact_lock(x'686f6c64636e7473'::bigint) AS alone");
        if tried.get_result::<Alone>(connection)?.alone {
            return Ok(true);
        }
        std::thread::sleep(COUNT_ALONE_PAUSE);
    }
    Ok(false)
}

/// Sums up the counts of all connections. SQLite has one writer, which counts in one row.
pub fn sum_up_counts(connection: &mut AnyConnection) -> QueryResult<()> {
    if let AnyConnection::Postgres(connection) = connection {
        connection.batch_execute(
            "WITH parts AS (
                 DELETE FROM counts WHERE part <> 0 RETURNING tally, what, servers, copies_wanted, objects, bytes)
             INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
             SELECT tally, what, servers, copies_wanted, 0, sum(objects)::bigint, sum(bytes)::bigint
             FROM parts GROUP BY tally, what, servers, copies_wanted
             ON CONFLICT (tally, what, servers, copies_wanted, part)
             DO UPDATE SET objects = counts.objects + EXCLUDED.objects, bytes = counts.bytes + EXCLUDED.bytes",
        )?;
    }
    Ok(())
}

/// A query for what there is to count of objects with ids behind `after`, up to `up_to`, from the rows themselves.
pub fn counts_truth(connection: &AnyConnection, after: i64, up_to: i64) -> String {
    match connection {
        AnyConnection::Postgres(_) => format!("SELECT * FROM counts_truth(({after})::bigint, ({up_to})::bigint)"),
        AnyConnection::Sqlite(_) => format!(
            "SELECT 'live' AS what, held.servers AS servers, held.copies_wanted AS copies_wanted, count(*) AS objects,
                    sum(held.size) AS bytes
             FROM (
                 SELECT o.copies_wanted, o.size,
                        coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
                            SELECT r.server AS server FROM replicas r
                            WHERE r.object = o.id AND r.state = 'present' ORDER BY server)), '') AS servers
                 FROM objects o WHERE o.state = 'live' AND o.id > {after} AND o.id <= {up_to}) AS held
             GROUP BY held.servers, held.copies_wanted
             UNION ALL
             SELECT 'repair', '', 0, count(*), sum(o.size)
             FROM repair_queue q CROSS JOIN objects o ON o.id = q.object WHERE q.object > {after} AND q.object <= {up_to}
             GROUP BY 1 HAVING count(*) > 0
             UNION ALL
             SELECT 'outbox', printf('%016x', s.id), 0, count(*), 0
             FROM servers s CROSS JOIN outbox b ON b.server = s.id WHERE b.object > {after} AND b.object <= {up_to}
             GROUP BY s.id"
        ),
    }
}

/// Locks a lease so that nobody else can hold a share of it, until the end of the transaction.
pub fn lock_lease(connection: &mut AnyConnection, name: &str) -> QueryResult<Option<LeaseRow>> {
    use schema::leases::dsl;
    match connection {
        AnyConnection::Postgres(connection) => {
            dsl::leases.find(name).select(LeaseRow::as_select()).for_update().first(connection).optional()
        }
        AnyConnection::Sqlite(connection) => {
            dsl::leases.find(name).select(LeaseRow::as_select()).first(connection).optional()
        }
    }
}

/// Holds a share of a lease until the end of the transaction: it can be renewed meanwhile, not taken over.
pub fn share_lease(connection: &mut AnyConnection, name: &str) -> QueryResult<Option<LeaseRow>> {
    use schema::leases::dsl;
    match connection {
        AnyConnection::Postgres(connection) => {
            dsl::leases.find(name).select(LeaseRow::as_select()).for_key_share().first(connection).optional()
        }
        AnyConnection::Sqlite(connection) => {
            dsl::leases.find(name).select(LeaseRow::as_select()).first(connection).optional()
        }
    }
}

/// The database's clock, in UTC: it moves on inside a transaction.
pub fn clock(connection: &mut AnyConnection) -> QueryResult<NaiveDateTime> {
    match connection {
        AnyConnection::Postgres(connection) => {
            diesel::select(diesel::dsl::sql::<Timestamp>("clock_timestamp() AT TIME ZONE 'UTC'")).get_result(connection)
        }
        // SQLite's clock is this machine's.
        AnyConnection::Sqlite(_) => Ok(Utc::now().naive_utc()),
    }
}

/// Whether the tables exist.
pub fn has_tables(connection: &mut AnyConnection) -> QueryResult<bool> {
    let count: i64 = match connection {
        AnyConnection::Postgres(connection) => diesel::select(diesel::dsl::sql::<BigInt>(
            "(SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public' AND table_name = 'cluster')",
        ))
        .get_result(connection)?,
        AnyConnection::Sqlite(connection) => diesel::select(diesel::dsl::sql::<BigInt>(
            "(SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'cluster')",
        ))
        .get_result(connection)?,
    };
    Ok(count > 0)
}

/// The columns of an entry, for the walks below.
macro_rules! entry_columns {
    () => {
        "e.id, e.parent, e.name, e.kind, e.object, e.replication, e.version, e.created, e.modified"
    };
}

/// One level down in each step: `$1` is a JSON list of names.
const WALK_POSTGRES: &str = concat!(
    "WITH RECURSIVE names AS (
         SELECT ordinality AS depth, value COLLATE \"C\" AS name
         FROM json_array_elements_text($1::json) WITH ORDINALITY),
     walk AS (
         SELECT 0::bigint AS depth, ",
    entry_columns!(),
    " FROM entries e WHERE e.id = 1
         UNION ALL
         SELECT w.depth + 1, ",
    entry_columns!(),
    " FROM walk w JOIN names n ON n.depth = w.depth + 1 JOIN entries e ON e.parent = w.id AND e.name = n.name)
     SELECT ",
    entry_columns!(),
    " FROM walk e ORDER BY e.depth"
);

const WALK_SQLITE: &str = concat!(
    "WITH RECURSIVE names AS MATERIALIZED (SELECT key + 1 AS depth, value AS name FROM json_each(?1)),
     walk AS (
         SELECT 0 AS depth, ",
    entry_columns!(),
    " FROM entries e WHERE e.id = 1
         UNION ALL
         SELECT w.depth + 1, ",
    entry_columns!(),
    " FROM walk w CROSS JOIN names n ON n.depth = w.depth + 1 CROSS JOIN entries e ON e.parent = w.id AND e.name = n.name)
     SELECT ",
    entry_columns!(),
    " FROM walk e ORDER BY e.depth"
);

/// The entries from the root down along `names` (JSON list), as far as they exist: one query for any depth.
pub fn walk(connection: &mut AnyConnection, names_json: &str) -> QueryResult<Vec<EntryRow>> {
    match connection {
        AnyConnection::Postgres(connection) => {
            diesel::sql_query(WALK_POSTGRES).bind::<Text, _>(names_json).load(connection)
        }
        AnyConnection::Sqlite(connection) => {
            diesel::sql_query(WALK_SQLITE).bind::<Text, _>(names_json).load(connection)
        }
    }
}
