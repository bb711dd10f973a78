//! Both schemas agree, migrations go up and down, and people can look in.

use std::collections::BTreeMap;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use holdfast::db::{AnyConnection, DatabaseUrl, Db, migrate};
use holdfast::types::ErrorCode;

use crate::fixture::*;

#[derive(QueryableByName, Debug)]
struct Column {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Bool)]
    nullable: bool,
    #[diesel(sql_type = Integer)]
    key_position: i32,
}

/// What the schemas must agree on: kinds of values, nulls, primary keys.
type Shape = BTreeMap<(String, String), (String, bool, i32)>;

fn shape(columns: Vec<Column>) -> Shape {
    let kind = |column: &Column| match column.kind.to_lowercase().as_str() {
        "bytea" | "blob" => "bytes".to_string(),
        "timestamp without time zone" => "timestamp".into(),
        other => other.to_string(),
    };
    columns
        .iter()
        .map(|c| ((c.table_name.clone(), c.column_name.clone()), (kind(c), c.nullable, c.key_position)))
        .collect()
}

const POSTGRES: &str = "
    SELECT c.table_name::text, c.column_name::text, c.data_type::text AS kind, c.is_nullable = 'YES' AS nullable,
           coalesce(k.ordinal_position, 0)::int AS key_position
    FROM information_schema.columns c
    LEFT JOIN information_schema.table_constraints t
           ON t.table_name = c.table_name AND t.constraint_type = 'PRIMARY KEY' AND t.table_schema = 'public'
    LEFT JOIN information_schema.key_column_usage k
           ON k.constraint_name = t.constraint_name AND k.column_name = c.column_name AND k.table_name = c.table_name
    WHERE c.table_schema = 'public' AND c.table_name NOT LIKE '\\_\\_diesel%'";

const SQLITE: &str = "
    SELECT m.name AS table_name, p.name AS column_name, p.type AS kind, NOT p.\"notnull\" AS nullable, p.pk AS key_position
    FROM sqlite_master m JOIN pragma_table_info(m.name) p
    WHERE m.type = 'table' AND m.name NOT LIKE '\\_\\_diesel%' ESCAPE '\\'";

#[tokio::test]
async fn both_schemas_agree_and_are_what_the_program_believes() {
    let postgres = TestDb::postgres().sql(|connection| diesel::sql_query(POSTGRES).load(connection)).await;
    let sqlite = TestDb::sqlite().sql(|connection| diesel::sql_query(SQLITE).load(connection)).await;
    let (postgres, sqlite) = (shape(postgres), shape(sqlite));
    assert_eq!(postgres, sqlite);
    let source = include_str!("../../src/db/schema.rs");
    for (table, column) in postgres.keys() {
        let block = source.split("diesel::table!").find(|block| block.contains(&format!(" {table} ("))).expect(table);
        assert!(block.contains(&format!("        {column} -> ")), "schema.rs lacks {table}.{column}");
    }
    let written = source.matches(" -> ").count();
    assert_eq!(written, postgres.len(), "schema.rs has other columns than the databases");
}

#[tokio::test]
async fn every_table_and_column_has_a_comment() {
    #[derive(QueryableByName, Debug)]
    struct Bare {
        #[diesel(sql_type = Text)]
        #[allow(dead_code)]
        name: String,
    }
    let bare: Vec<Bare> = TestDb::postgres()
        .sql(|connection| {
            diesel::sql_query(
                "SELECT c.relname || coalesce('.' || a.attname, '') AS name
                 FROM pg_class c
                 JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname IN ('public', 'admin')
                 LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND c.relkind = 'r'
                 WHERE c.relkind IN ('r', 'v') AND c.relname NOT LIKE '\\_\\_diesel%'
                   AND (obj_description(c.oid) IS NULL OR (a.attnum IS NOT NULL AND col_description(c.oid, a.attnum) IS NULL))",
            )
            .load(connection)
        })
        .await;
    assert!(bare.is_empty(), "{bare:?}");
}

#[tokio::test]
async fn migrations_go_down_and_up_again() {
    for db in [TestDb::sqlite(), TestDb::postgres()] {
        db.sql(|connection| {
            migrate::revert_migrations(connection).unwrap();
            assert!(!holdfast::db::dialect::has_tables(connection)?);
            migrate::run_migrations(connection).unwrap();
            Ok(())
        })
        .await;
    }
}

#[test]
fn name_servers_that_start_together_prepare_the_database_once() {
    let url = DatabaseUrl::parse(&crate::common::postgres::shared().database()).unwrap();
    std::thread::scope(|scope| {
        let start = || scope.spawn(|| migrate::prepare(&url, true, &secret(), 2));
        let started: Vec<_> = (0..4).map(|_| start()).collect();
        started.into_iter().for_each(|name_server| name_server.join().unwrap().unwrap());
    });
}

const VIEWS: [&str; 6] =
    ["servers", "files", "under_replicated", "outbox_backlog", "recent_events", "usage_by_directory"];

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName, Debug, PartialEq)]
struct FileView {
    #[diesel(sql_type = Text)]
    path: String,
    #[diesel(sql_type = BigInt)]
    size: i64,
    #[diesel(sql_type = BigInt)]
    copies: i64,
    #[diesel(sql_type = Nullable<Text>)]
    servers: Option<String>,
    #[diesel(sql_type = Text)]
    object: String,
}

#[derive(QueryableByName, Debug, PartialEq)]
struct Named {
    #[diesel(sql_type = Text)]
    object: String,
}

#[tokio::test]
async fn the_views_for_people_show_the_same_on_both() {
    for (db, prefix) in [(TestDb::sqlite(), "admin_"), (TestDb::postgres(), "admin.")] {
        db.servers(2).await;
        db.mkdirs("/a/b").await;
        let kept = db.write("/a/b/f", "12345").await.object;
        let gone = db.write("/a/g", "1").await;
        db.rm("/a/g", false).await.unwrap();
        assert_eq!(db.object(gone.object).await.unwrap().state, "deleted");
        let mut counts = Vec::new();
        for view in VIEWS {
            let sql = format!("SELECT count(*) AS count FROM {prefix}{view}");
            counts.push(db.sql(move |connection| diesel::sql_query(sql).get_result::<Count>(connection)).await.count);
        }
        assert_eq!(counts, [2, 1, 0, 2, 3, 1], "{prefix}");
        let sql = format!("SELECT path, size, copies, servers, object FROM {prefix}files");
        let file = db.sql(move |connection| diesel::sql_query(sql).get_result::<FileView>(connection)).await;
        let object = kept.to_string();
        let servers = Some("s1, s2".into());
        assert_eq!(file, FileView { path: "/a/b/f".into(), size: 5, copies: 2, servers, object: object.clone() });
        // Wherever an object is named, it is by the digits that people find it by.
        db.sql(move |connection| {
            use holdfast::db::schema::{events, replicas};
            diesel::delete(replicas::table).execute(connection)?;
            diesel::update(events::table).set(events::object.eq(kept.0)).execute(connection)
        })
        .await;
        for view in ["under_replicated", "recent_events"] {
            let sql = format!("SELECT object FROM {prefix}{view} LIMIT 1");
            let named = db.sql(move |connection| diesel::sql_query(sql).get_result::<Named>(connection)).await;
            assert_eq!(named, Named { object: object.clone() }, "{prefix}{view}");
        }
    }
}

#[tokio::test]
async fn an_empty_database_waits_and_one_that_is_newer_or_taken_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let url = DatabaseUrl::parse(&format!("sqlite://{}/m", dir.path().display())).unwrap();
    let db = Db::open(&url).unwrap();
    migrate::prepare(&url, false, &secret(), 2).unwrap();
    let state = db.read(holdfast::db::cluster::state).await.unwrap();
    assert_eq!((state.mode.word(), state.cluster, state.epoch), ("restoring", uuid::Uuid::nil(), 0));
    assert!(state.mode_reason.unwrap().contains("--initialize"));
    migrate::prepare(&url, true, &secret(), 2).unwrap();
    let state = db.read(holdfast::db::cluster::state).await.unwrap();
    assert_eq!((state.mode.word(), state.epoch), ("normal", 1));
    assert!(Db::open(&url).err().unwrap().message().contains("another name server"));
    let stranger = holdfast::security::ClusterSecret::from_text(&"t".repeat(40)).unwrap();
    assert_eq!(migrate::prepare(&url, true, &stranger, 2).unwrap_err().code(), ErrorCode::InvalidRequest);
    db.write(|connection| {
        match connection {
            AnyConnection::Sqlite(connection) => connection
                .batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99991231000000')")?,
            AnyConnection::Postgres(_) => unreachable!(),
        }
        Ok(())
    })
    .await
    .unwrap();
    assert!(migrate::prepare(&url, false, &secret(), 2).unwrap_err().message().contains("newer program"));
}

#[tokio::test]
async fn the_read_only_role_sees_the_views_and_nothing_else() {
    let server = crate::common::postgres::shared();
    let database = server.database();
    let url = DatabaseUrl::parse(&database).unwrap();
    migrate::prepare(&url, true, &secret(), 2).unwrap();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres-readonly-role.sql");
    // Twice: it may be run again after an upgrade.
    for _ in 0..2 {
        let ran = server.psql(&database, &script, &[("role", "looker"), ("password", "p")]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    let mut connection = PgConnection::establish(&database.replace("holdfast@", "looker:p@")).unwrap();
    for view in VIEWS {
        connection.batch_execute(&format!("SELECT * FROM admin.{view}")).unwrap_or_else(|e| panic!("{view}: {e}"));
    }
    for forbidden in [
        "SELECT * FROM tokens",
        "SELECT * FROM journal",
        "SELECT * FROM cluster",
        "DELETE FROM events",
        "CREATE TABLE t (i int)",
    ] {
        assert!(connection.batch_execute(forbidden).is_err(), "{forbidden}");
    }
}
