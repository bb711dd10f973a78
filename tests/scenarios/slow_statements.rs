//! A thousand requests that wait for slow statements take nothing from the actors: the lease is kept, and repair goes on.

use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::common::cluster::{Cluster, Plan};
use crate::common::postgres;
use crate::common::wait_for;

/// Programs that ask, and requests that each has under way.
const ASKERS: usize = 4;
const REQUESTS_OF_EACH: usize = 250;
const FILES: usize = 40;

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn number(connection: &mut PgConnection, query: &str) -> i64 {
    diesel::sql_query(query).get_result::<Number>(connection).unwrap().number
}

/// Keeps so many requests for files under way until it is told to stop; counts those that were answered.
fn ask(cluster: &Cluster, stop: &Arc<AtomicBool>, answered: &Arc<AtomicUsize>) -> Vec<std::thread::JoinHandle<()>> {
    let mut config = format!("header = \"Authorization: Bearer {}\"\n", cluster.token);
    for number in 0..REQUESTS_OF_EACH {
        let url = format!("{}/files/tree/{}", cluster.http().base, number % FILES);
        writeln!(config, "url = \"{url}\"\noutput = \"/dev/null\"").unwrap();
    }
    let file = cluster.path("requests");
    fs::write(&file, config).unwrap();
    let start = |_| {
        let (file, stop, answered) = (file.clone(), stop.clone(), answered.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let mut curl = Command::new("curl");
                curl.args(["--silent", "--parallel", "--parallel-immediate", "--max-time", "30"]);
                curl.args(["--parallel-max", &REQUESTS_OF_EACH.to_string(), "--write-out", "%{http_code}\\n"]);
                let done = curl.arg("--config").arg(&file).stderr(Stdio::null()).output().unwrap();
                let codes = String::from_utf8_lossy(&done.stdout);
                answered.fetch_add(codes.lines().filter(|code| *code != "000").count(), Ordering::SeqCst);
            }
        })
    };
    (0..ASKERS).map(start).collect()
}

#[test]
fn a_thousand_waiting_requests_keep_nobody_from_repairing() {
    let database = postgres::shared().database();
    let args = ["--health-interval", "0.3", "--down-after", "1", "--repair-delay", "1"];
    let name_server_args = args.map(String::from).to_vec();
    let mut cluster = Cluster::start(&Plan { database: Some(database.clone()), name_server_args, ..Plan::default() });
    let tree = cluster.path("tree");
    fs::create_dir_all(&tree).unwrap();
    (0..FILES).for_each(|number| fs::write(tree.join(number.to_string()), format!("file {number}")).unwrap());
    cluster.ok(&["import", tree.to_str().unwrap(), "/tree"]);
    let mut looking = PgConnection::establish(&database).unwrap();
    let term = "SELECT max(term) AS number FROM leases";
    let (before, mut holding) = (number(&mut looking, term), PgConnection::establish(&database).unwrap());

    // Whoever looks a path up waits now.
    holding.batch_execute("BEGIN; LOCK TABLE entries IN ACCESS EXCLUSIVE MODE").unwrap();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let askers = ask(&cluster, &stop, &answered);
    let waiting = "SELECT count(*) AS number FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    wait_for("requests wait for the table", 60, || (number(&mut looking, waiting) > 1).then_some(()));
    cluster.storage[0].kill();
    let here = "SELECT count(*) AS number FROM replicas r JOIN server_health h ON h.server = r.server \
                WHERE r.state = 'present' AND h.health = 'live'";
    wait_for("every file has both copies again while they wait", 120, || {
        (number(&mut looking, here) == 2 * FILES as i64).then_some(())
    });
    assert!(number(&mut looking, waiting) > 1, "the requests still wait");
    assert_eq!(number(&mut looking, term), before, "nobody else had to take the lease");

    holding.batch_execute("ROLLBACK").unwrap();
    stop.store(true, Ordering::SeqCst);
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    assert!(answered.load(Ordering::SeqCst) >= ASKERS * REQUESTS_OF_EACH, "each was told something");
    let log = cluster.name_server.log();
    assert!(!log.contains("did not answer in time"), "an actor was replaced: {log}");
    wait_for("files are read again", 30, || (cluster.run(&["cat", "/tree/7"]).1 == "file 7").then_some(()));
}
