//! Fifty storage servers, and one name server that looks after them.

use std::time::Duration;

use rustix::process::Signal;

use crate::common::cluster::{Cluster, Plan};
use crate::common::wait_for;

const SERVERS_FULL: usize = 50;
/// The default.
const INTERVAL: Duration = Duration::from_secs(2);

/// The longest of some rounds of health checks.
fn longest_round(cluster: &Cluster, rounds: usize) -> Duration {
    let last = || {
        let actors = cluster.get("/api/v1/actors");
        let actor = actors["actors"].as_array()?.iter().find(|actor| actor["name"] == "HealthMonitor")?.clone();
        Some((actor["last_pass"].as_str()?.to_string(), actor["last_pass_seconds"].as_f64()?))
    };
    let (mut seen, mut longest) = (last().unwrap().0, 0.0_f64);
    for _ in 0..rounds {
        let (pass, seconds) = wait_for("another round", 20, || last().filter(|(pass, _)| *pass != seen));
        (seen, longest) = (pass, longest.max(seconds));
    }
    Duration::from_secs_f64(longest)
}

#[test]
fn a_round_of_health_checks_of_fifty_servers_is_short_and_cheap() {
    let _alone = crate::alone();
    // Never so few that those that hang are most of them.
    let servers = crate::scaled(SERVERS_FULL).max(20);
    let cluster = Cluster::start(&Plan { storage_servers: servers, ..Plan::default() });
    let quiet = longest_round(&cluster, 5);
    let share = crate::share_of_a_core(&[&cluster.name_server], Duration::from_secs(10));
    println!(
        "{servers} servers: a round takes {quiet:.1?} at most, every {INTERVAL:?}; the name server, with everything that \
         it does, uses {:.1} % of one core",
        share * 100.0
    );
    assert!(quiet < INTERVAL, "{quiet:?}");
    assert!(share < 0.25, "{share}");
    // Servers that hang are waited for, but not one after the other.
    let hanging = &cluster.storage[..servers / 5];
    hanging.iter().for_each(|server| server.signal(Signal::STOP));
    let down = || cluster.get("/api/v1/report")["servers_down"] == hanging.len();
    wait_for("those that hang are down", 30, || down().then_some(()));
    let hung = longest_round(&cluster, 3);
    println!("with {} of them hanging a round takes {hung:.1?} at most", hanging.len());
    assert!(hung < INTERVAL + Duration::from_millis(500), "{hung:?}");
    hanging.iter().for_each(|server| server.signal(Signal::CONT));
    cluster.wait_for_live(servers);
}
