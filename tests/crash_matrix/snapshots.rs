//! Snapshots of the metadata that do not get on hold no segment up, and those that are broken off are begun again.

use std::time::Instant;

use serde_json::Value;

use crate::common::cluster::{Cluster, Plan};
use crate::common::restore::{lose_database, restore_when_all_are_there};
use crate::common::wait_for;

/// Each holder has outgrown its last snapshot as soon as it has a segment.
const AT_ONCE: &str = "snapshot-floor-bytes=return(1)";
/// So it has, and no page of a snapshot is read to its end: as if the holder or the database were slow beyond measure.
const WITHOUT_END: &str = "snapshot-floor-bytes=return(1);snapshot-page=return";

fn restart(cluster: &mut Cluster, failpoints: &str) {
    cluster.name_server.kill();
    cluster.name_server.env = vec![("FAILPOINTS".into(), failpoints.into())];
    cluster.name_server.start();
    cluster.wait_for_live(3);
}

fn journal(cluster: &Cluster) -> Option<Value> {
    Some(cluster.try_get("/api/v1/report")?["journal"].clone())
}

fn holders(cluster: &Cluster) -> Option<Vec<Value>> {
    journal(cluster)?["holders"].as_array().cloned()
}

fn files(cluster: &Cluster, number: usize, dir: &str, start: &str) -> Vec<String> {
    let files = std::fs::read_dir(cluster.storage_dir(number).join(dir)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(start)).collect()
}

/// Makes changes one after the other, and waits until each is on the copies. The longest time that one took, in seconds.
fn changes_are_copied(cluster: &Cluster, name: &str) -> f64 {
    let mut longest: f64 = 0.0;
    for number in 0..8 {
        let began = Instant::now();
        cluster.ok(&["mkdir", "-p", &format!("/{name}/{number}")]);
        let version = cluster.get("/api/v1/report")["version"].as_i64().unwrap();
        wait_for("the change is on the copies of the journal", 60, || {
            (journal(cluster)?["copied_version"].as_i64()? >= version).then_some(())
        });
        longest = longest.max(began.elapsed().as_secs_f64());
    }
    longest
}

#[test]
fn segments_go_on_beside_snapshots_that_do_not() {
    let args = ["--health-interval", "0.3", "--down-after", "2", "--journal-keep", "0"];
    let mut cluster = Cluster::start(&Plan { name_server_args: args.map(String::from).to_vec(), ..Plan::default() });
    cluster.ok(&["mkdir", "/before"]);
    restart(&mut cluster, WITHOUT_END);
    wait_for("a snapshot is on its way to each holder", 60, || {
        let holders = holders(&cluster)?;
        (holders.len() == 3 && holders.iter().all(|one| one["snapshot_seconds"].is_f64())).then_some(())
    });
    let longest = changes_are_copied(&cluster, "meanwhile");
    eprintln!("while no snapshot got on, a change was on the copies after {longest:.1} s at the latest");
    for number in 0..3 {
        assert!(files(&cluster, number, "journal", "snapshot-").is_empty(), "none was completed");
    }
    // The name server has died in the middle: the next one begins again, and nothing is left of the one before.
    restart(&mut cluster, AT_ONCE);
    for number in 0..3 {
        wait_for("each holder has a snapshot", 60, || {
            (!files(&cluster, number, "journal", "snapshot-").is_empty()).then_some(())
        });
    }
    changes_are_copied(&cluster, "then");

    // One holder has nothing any more, and the database's journal does not reach back: it must be filled, and is waited for
    // by nobody meanwhile.
    cluster.storage[2].kill();
    std::fs::remove_dir_all(cluster.storage_dir(2).join("journal")).unwrap();
    cluster.storage[2].start();
    restart(&mut cluster, WITHOUT_END);
    let empty = |holder: &&Value| holder["version"].is_null();
    wait_for("one is being filled", 60, || {
        let holders = holders(&cluster)?;
        let filled = holders.iter().find(empty)?;
        (holders.len() == 3 && filled["snapshot_seconds"].is_f64()).then_some(())
    });
    changes_are_copied(&cluster, "filling");
    assert!(holders(&cluster).unwrap().iter().any(|holder| empty(&holder)), "it still is");
    // The holder dies as well.
    cluster.storage[2].kill();
    cluster.storage[2].start();
    restart(&mut cluster, AT_ONCE);
    wait_for("all copies suffice again", 60, || {
        let report = cluster.try_get("/api/v1/report")?;
        let holders = report["journal"]["holders"].as_array()?;
        (holders.len() == 3 && holders.iter().all(|one| one["version"] == report["version"])).then_some(())
    });
    for number in 0..3 {
        wait_for("nothing is left in incoming/", 60, || {
            files(&cluster, number, "incoming", "").is_empty().then_some(())
        });
    }
    // Without a database, all of it is there.
    let before = cluster.ok(&["ls", "-R", "/"]);
    cluster.name_server.env.clear();
    lose_database(&mut cluster, &None);
    cluster.name_server.start();
    cluster.storage.iter_mut().for_each(|server| server.start());
    restore_when_all_are_there(&cluster, "{}");
    assert_eq!(cluster.ok(&["ls", "-R", "/"]), before);
}
