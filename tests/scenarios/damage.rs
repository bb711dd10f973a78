//! The database is damaged: the name server notices, takes no changes, says the way out, and `restore` brings everything
//! back while the damaged database is still there.

use std::fs;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use serde_json::Value;

use crate::common::cluster::{Cluster, Http, Plan, Process};
use crate::common::postgres::{self, Postgres};
use crate::common::restore::*;
use crate::common::wait_for;

fn plan(database: Option<String>) -> Plan {
    let args = ["--health-interval", "0.3", "--down-after", "1", "--repair-delay", "3", "--read-ttl", "1"];
    Plan { database, name_server_args: args.map(String::from).to_vec(), ..Plan::default() }
}

fn databases() -> [Option<String>; 2] {
    [None, Some(postgres::shared().database())]
}

/// Runs SQL in the cluster's database, whose name server has ended.
fn sql(cluster: &Cluster, database: &Option<String>, statements: &str) {
    match database {
        Some(url) => PgConnection::establish(url).unwrap().batch_execute(statements).unwrap(),
        None => sqlite(&metadata(cluster)).batch_execute(statements).unwrap(),
    }
}

fn metadata(cluster: &Cluster) -> PathBuf {
    cluster.path("metadata.sqlite")
}

fn sqlite(path: &Path) -> SqliteConnection {
    SqliteConnection::establish(path.to_str().unwrap()).unwrap()
}

/// A tree, all of which is on the journal's copies. Nothing in it was removed: what the reaper does afterwards would be
/// changes of a later moment.
fn filled(cluster: &Cluster, files: usize) -> Vec<(String, Value, Value)> {
    let dir = cluster.path("in");
    for number in 0..files {
        let path = dir.join(format!("d{}/e{}", number % 7, number % 3));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(format!("f{number}")), vec![number as u8; if number % 20 == 0 { 90_000 } else { 300 }])
            .unwrap();
    }
    cluster.ok(&["import", dir.to_str().unwrap(), "/a"]);
    cluster.ok(&["mv", "/a/d1", "/moved"]);
    cluster.ok(&["cp", "-r", "/a/d3", "/copy"]);
    settle(cluster);
    tree(cluster)
}

/// Merges the write-ahead log into the database, as a name server does that ends in order.
fn merge_log(cluster: &Cluster) {
    sqlite(&metadata(cluster)).batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn number(path: &Path, query: &str) -> u64 {
    diesel::sql_query(query).get_result::<Number>(&mut sqlite(path)).unwrap().number as u64
}

/// The place of the root page of a table or an index in a database whose log is merged.
fn page_of(path: &Path, what: &str) -> std::ops::Range<u64> {
    let bytes = number(path, "SELECT page_size AS number FROM pragma_page_size");
    let page = number(path, &format!("SELECT rootpage AS number FROM sqlite_master WHERE name = '{what}'"));
    (page - 1) * bytes..page * bytes
}

fn overwrite(path: &Path, range: std::ops::Range<u64>, byte: u8) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&vec![byte; (range.end - range.start) as usize], range.start).unwrap();
}

/// Nothing is changed, nothing is told to be absent, and each refusal and the report say what happened and the way out.
fn refuses_and_tells(cluster: &Cluster, name: &str) {
    wait_for("the name server knows that its database is damaged", 20, || {
        (cluster.get("/status")["mode"] == "damaged").then_some(())
    });
    let file = cluster.path("to-import");
    fs::write(&file, "never acknowledged").unwrap();
    for command in [vec!["mkdir", "/not-acknowledged"], vec!["import", file.to_str().unwrap(), "/neither"]] {
        let (code, _, errors) = cluster.run(&command);
        assert_eq!(code, 6, "{command:?}: {errors}");
        assert!(errors.contains(name) && errors.contains("`holdfast restore`"), "{command:?}: {errors}");
    }
    assert_eq!(cluster.run(&["ls", "/"]).0, 6, "an empty listing would be believed");
    assert_eq!(cluster.run(&["stat", "/never-was"]).0, 6, "so would that it is not there");
    let report = cluster.get("/api/v1/report");
    assert_eq!(report["verdict"], "danger", "{report:#}");
    assert!(report["problems"][0].as_str().is_some_and(|text| text.contains(name)), "{report:#}");
    assert_eq!(cluster.run(&["fsck"]).0, 6, "nothing can be said of it");
}

/// One command, and everything is as it was.
fn restored_to(cluster: &Cluster, before: &[(String, Value, Value)]) -> Value {
    let status = restored(cluster, "{}");
    assert_eq!((&status["losses_total"], &status["lost_changes"]), (&0.into(), &0.into()), "{status:#}");
    cluster.wait_for_live(cluster.storage.len());
    assert_eq!(tree(cluster), before, "{status:#}");
    cluster.ok(&["mkdir", "/works-again"]);
    cluster.ok(&["rmdir", "/works-again"]);
    settle(cluster);
    status
}

/// Puts an old database beside the log of its successor, as somebody does who forgets the log.
fn blend(cluster: &mut Cluster, change: impl FnOnce(&Cluster)) -> Vec<(String, Value, Value)> {
    cluster.name_server.kill();
    merge_log(cluster);
    let backup = cluster.path("backup.sqlite");
    fs::copy(metadata(cluster), &backup).unwrap();
    cluster.name_server.start();
    cluster.wait_for_live(3);
    change(cluster);
    cluster.name_server.kill();
    merge_log(cluster);
    cluster.name_server.start();
    cluster.wait_for_live(3);
    cluster.ok(&["mkdir", "/the-last-one"]);
    settle(cluster);
    let before = tree(cluster);
    cluster.name_server.kill();
    fs::copy(&backup, metadata(cluster)).unwrap();
    cluster.name_server.start();
    before
}

#[test]
fn an_old_database_beside_the_log_of_its_successor_is_noticed_and_put_right() {
    let mut cluster = Cluster::start(&plan(None));
    filled(&cluster, 120);
    let many = |cluster: &Cluster| {
        cluster.ok(&["cp", "-r", "/a", "/b"]);
        cluster.ok(&["mv", "/moved", "/moved-again"]);
    };
    let before = blend(&mut cluster, many);
    let name = metadata(&cluster).display().to_string();
    refuses_and_tells(&cluster, &name);
    // Stopping and starting changes nothing of that, nor of the evidence.
    cluster.name_server.kill();
    cluster.name_server.start();
    refuses_and_tells(&cluster, &name);
    let status = restored_to(&cluster, &before);
    let aside = status["notes"][0].as_str().unwrap();
    assert!(aside.contains(&format!("{name}.damaged-")), "{status:#}");
    // A single change of one row, on the first page of the tree: every page is in order, and two do not belong together.
    cluster.ok(&["rmdir", "/the-last-one"]);
    let before = blend(&mut cluster, |cluster| drop(cluster.ok(&["mv", "/b", "/c"])));
    refuses_and_tells(&cluster, &name);
    restored_to(&cluster, &before);
    let kept = fs::read_dir(cluster.dir.path()).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("metadata.sqlite.damaged-")).count();
    assert_eq!(kept, 2, "nothing of a damaged database is removed");
    wait_until_healthy(&cluster);
}

#[test]
fn damage_of_every_kind_stops_all_changes_and_is_undone_by_one_command() {
    let mut cluster = Cluster::start(&plan(None));
    let (path, before) = (metadata(&cluster), filled(&cluster, 60));
    let name = path.display().to_string();
    type Damage = fn(&Path);
    let kinds: [(&str, Damage); 6] = [
        ("a page of the tree is overwritten", |path| overwrite(path, page_of(path, "entries"), 0x5a)),
        ("a page of zeros", |path| overwrite(path, page_of(path, "replicas"), 0)),
        ("the page of the cluster row", |path| overwrite(path, page_of(path, "cluster"), 0xff)),
        ("a truncated file", |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2 / 4096 * 4096).unwrap();
        }),
        ("its first page is zeros", |path| overwrite(path, 0..4096, 0)),
        ("a log is there without it", |path| {
            fs::write(format!("{}-wal", path.display()), vec![7; 5_000]).unwrap();
            fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        }),
    ];
    for (kind, damage) in kinds {
        eprintln!("{kind}");
        cluster.name_server.kill();
        merge_log(&cluster);
        damage(&path);
        cluster.name_server.start();
        refuses_and_tells(&cluster, &name);
        restored_to(&cluster, &before);
    }
}

#[test]
fn a_database_whose_beginning_is_lost_is_not_touched_and_the_way_out_works_by_hand() {
    let mut cluster = Cluster::start(&plan(None));
    let (path, before) = (metadata(&cluster), filled(&cluster, 40));
    let name = path.display().to_string();
    cluster.name_server.kill();
    overwrite(&path, 0..4096, 0x41);
    let damaged = fs::read(&path).unwrap();
    cluster.name_server.launch();
    let ended = wait_for("it refuses to start", 20, || cluster.name_server.ended());
    assert_ne!(ended.code(), Some(0));
    let log = cluster.name_server.log();
    let order = format!("move {name}, {name}-wal and {name}-shm together into a new directory {name}.damaged-by-hand");
    assert!(log.contains(&order) && log.contains("`holdfast restore`"), "{log}");
    assert_eq!(fs::read(&path).unwrap(), damaged, "nothing was changed");
    let by_hand = PathBuf::from(format!("{name}.damaged-by-hand"));
    fs::create_dir(&by_hand).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let from = PathBuf::from(format!("{name}{suffix}"));
        if from.exists() {
            fs::rename(&from, by_hand.join(from.file_name().unwrap())).unwrap();
        }
    }
    cluster.name_server.start();
    restored_to(&cluster, &before);
    // An empty file is an empty database: it waits, or with --initialize is a new cluster until it is restored.
    for initialize in [true, false] {
        cluster.name_server.kill();
        fs::write(&path, "").unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{name}{suffix}"));
        }
        if !initialize {
            cluster.name_server.drop_arg("--initialize");
        }
        cluster.name_server.start();
        restored_to(&cluster, &before);
    }
}

#[test]
fn damage_that_is_met_at_work_stops_everything_at_once() {
    let mut cluster = Cluster::start(&plan(None));
    let (path, before) = (metadata(&cluster), filled(&cluster, 60));
    let name = path.display().to_string();
    cluster.name_server.kill();
    merge_log(&cluster);
    cluster.name_server.start();
    cluster.wait_for_live(3);
    overwrite(&path, page_of(&path, "entries"), 0x5a);
    wait_for("a read meets it", 20, || (cluster.run(&["stat", "/a/d0/e1/f7"]).0 == 6).then_some(()));
    refuses_and_tells(&cluster, &name);
    wait_for("nobody acts", 10, || {
        let actors = cluster.get("/api/v1/actors").to_string();
        (actors.matches("the database is damaged").count() >= 6).then_some(())
    });
    restored_to(&cluster, &before);
    // A log that breaks off under a running name server.
    fs::File::options().write(true).open(format!("{name}-wal")).unwrap().set_len(32).unwrap();
    wait_for("a read meets it", 20, || {
        cluster.run(&["stat", "/a/d0/e1/f7"]);
        (cluster.get("/status")["mode"] == "damaged").then_some(())
    });
    assert_eq!(cluster.run(&["mkdir", "/not-acknowledged"]).0, 6);
}

/// Makes changes that no copy of the journal gets, and ends the name server.
fn changes_that_no_copy_has(cluster: &mut Cluster) -> i64 {
    cluster.storage.iter_mut().for_each(Process::kill);
    let version = cluster.get("/api/v1/report")["version"].as_i64().unwrap();
    for name in ["/one", "/two", "/three"] {
        cluster.ok(&["mkdir", name]);
    }
    cluster.name_server.kill();
    version
}

#[test]
fn changes_that_only_the_damaged_database_proves_are_brought_back() {
    for database in databases() {
        let mut cluster = Cluster::start(&plan(database.clone()));
        filled(&cluster, 40);
        let version = changes_that_no_copy_has(&mut cluster);
        sql(&cluster, &database, "UPDATE entries SET name = 'another name' WHERE name = 'two'");
        cluster.name_server.start();
        cluster.storage.iter_mut().for_each(|server| server.start());
        wait_for("it is noticed", 10, || (cluster.get("/status")["mode"] == "damaged").then_some(()));
        let status = restored(&cluster, "{}");
        assert_eq!((&status["losses_total"], &status["lost_changes"]), (&0.into(), &0.into()), "{status:#}");
        let told = format!("Changes {} to {} had not reached the journal's copies", version + 1, version + 3);
        assert!(status["notes"].to_string().contains(&told), "{status:#}");
        cluster.wait_for_live(3);
        for name in ["/one", "/two", "/three"] {
            cluster.ok(&["stat", name]);
        }
        wait_until_healthy(&cluster);
    }
}

#[test]
fn changes_that_nothing_proves_are_listed_as_lost() {
    for database in databases() {
        let mut cluster = Cluster::start(&plan(database.clone()));
        let before = filled(&cluster, 40);
        let version = changes_that_no_copy_has(&mut cluster);
        sql(&cluster, &database, &format!("DELETE FROM journal WHERE version = {}", version + 1));
        cluster.name_server.start();
        cluster.storage.iter_mut().for_each(|server| server.start());
        wait_for("it is noticed", 10, || (cluster.get("/status")["mode"] == "damaged").then_some(()));
        // By the command, as a person does it.
        let (code, told, _) = wait_for("the restore goes through", 60, || {
            let outcome = cluster.run(&["restore"]);
            (outcome.0 != 1).then_some(outcome)
        });
        assert_eq!(code, 7, "{told}");
        let sentence = format!("3 changes after version {version} are not back: the database that was put aside");
        assert!(told.contains(&sentence) && told.contains(&format!("knew of version {}", version + 3)), "{told}");
        for name in ["two", "three"] {
            assert!(told.contains("a row of entries, ") && told.contains(&format!("{name:?}")), "{told}");
        }
        let status = cluster.get("/api/v1/restore");
        assert_eq!(status["lost_changes"], 3, "{status:#}");
        let events = cluster.get("/api/v1/events?kind=changes_lost");
        assert!(events.to_string().contains(&sentence), "{events:#}");
        cluster.wait_for_live(3);
        assert_eq!(tree(&cluster), before);
    }
}

#[test]
fn a_damaged_postgres_is_noticed_and_its_tables_are_moved_aside() {
    let server = Postgres::start(true);
    let database = server.database();
    let mut cluster = Cluster::start(&Plan { name_servers: 2, ..plan(Some(database.clone())) });
    filled(&cluster, 60);
    let name = database.rsplit('@').next().unwrap().to_string();
    for table in ["entries", "replicas"] {
        settle(&cluster);
        let before = tree(&cluster);
        cluster.name_server.kill();
        cluster.other_name_servers[0].kill();
        damage_page(&server, &database, table);
        cluster.name_server.start();
        cluster.other_name_servers[0].start();
        wait_for("somebody meets it", 20, || {
            cluster.run(&["stat", "/a/d0/e1/f7"]);
            (cluster.get("/status")["mode"] == "damaged").then_some(())
        });
        refuses_and_tells(&cluster, &name);
        let other = cluster.other_name_servers[0].url();
        let other = Http { token: Some(cluster.token.clone()), base: other };
        wait_for("the other name server is told", 20, || {
            (other.get("/status").json()["mode"] != "normal").then_some(())
        });
        let refused = other.post("/api/v1/mkdir", "{\"path\": \"/not-acknowledged\"}");
        assert!(refused.status == 503 && refused.body.contains("is damaged"), "{}", refused.body);
        let status = restored_to(&cluster, &before);
        assert!(
            status["notes"][0].as_str().is_some_and(|note| note.contains("the schema holdfast_damaged_")),
            "{status:#}"
        );
        wait_for("the other name server takes changes again", 20, || {
            let answer = other.post("/api/v1/mkdir", &format!("{{\"path\": \"/by-the-other-{table}\"}}"));
            (answer.status == 200 || answer.status == 201).then_some(())
        });
    }
    wait_until_healthy(&cluster);
}

/// Overwrites the first page of a table of a server that is stopped meanwhile.
fn damage_page(server: &Postgres, database: &str, table: &str) {
    #[derive(QueryableByName)]
    struct File {
        #[diesel(sql_type = diesel::sql_types::Text)]
        file: String,
    }
    let mut connection = PgConnection::establish(database).unwrap();
    let query = format!("SELECT pg_relation_filepath('public.{table}') AS file");
    let file = diesel::sql_query(query).get_result::<File>(&mut connection).unwrap().file;
    connection.batch_execute("CHECKPOINT").unwrap();
    drop(connection);
    server.kill();
    overwrite(&server.dir().join("data").join(file), 0..8192, 0x5a);
    server.run();
}
