//! What is between the servers: slow links, name servers that are cut off or gone.

use std::time::Duration;

use rustix::process::Signal;

use crate::common::cluster::{Plan, Process};
use crate::common::relay::Relay;
use crate::common::{postgres, wait_for};
use crate::night::Act::Hands;
use crate::night::{NAMED_WITHIN, Night, Trouble, plan};

/// What each piece takes on a slow link: there and back it is more than a second, and less than a check may take.
const SLOWNESS: Duration = Duration::from_millis(600);

/// Puts a relay between a storage server, which does not run now, and everybody else.
pub fn relay_to(night: &mut Night, number: usize) {
    let server = &mut night.cluster.storage[number];
    let relay = Relay::to(server.port);
    server.add_args(&["--url", &relay.url()]);
    night.relay = Some(relay);
}

pub fn relay(night: &Night) -> &Relay {
    night.relay.as_ref().unwrap()
}

/// With checks as rare as they are by default: they may take two seconds.
fn with_patient_checks() -> Plan {
    let args = ["--health-interval", "2", "--down-after", "6", "--repair-delay", "10", "--read-ttl", "1"];
    Plan { name_server_args: args.map(String::from).to_vec(), ..Plan::default() }
}

pub fn a_server_is_slow() -> Trouble {
    Trouble {
        what: "A storage server, or the link to it, is slow",
        plan: with_patient_checks,
        make: |night| {
            night.cluster.storage[0].kill();
            relay_to(night, 0);
            night.cluster.storage[0].start();
            let url = relay(night).url();
            wait_for("it is known at the relay", 30, || {
                let server = night.cluster.server(0);
                (server["url"] == url.as_str() && server["health"] == "live" && server["syncing"] == false)
                    .then_some(())
            });
            night.wait_until_healthy();
            relay(night).delay(SLOWNESS);
        },
        code: "server_slow",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("look at its load, its disk and its network", |night| {
            night.write("/over-the-slow-link", vec![7; 900]);
            relay(night).delay(Duration::ZERO);
            night.wait_until_gone("server_slow");
        })],
    }
}

fn two_name_servers() -> Plan {
    Plan { name_servers: 2, database: Some(postgres::shared().database()), ..plan() }
}

/// Ends a name server in order: it lets the lease go.
fn end(server: &mut Process) {
    server.signal(Signal::TERM);
    wait_for("the name server has ended", 30, || server.ended());
}

fn acts(night: &Night) -> bool {
    let Some(actors) = night.cluster.try_get("/api/v1/actors") else { return false };
    let report = |actor: &serde_json::Value| actor["last_report"].as_str().unwrap_or_default().to_string();
    let keepers = actors["actors"].as_array().into_iter().flatten().filter(|actor| actor["name"] == "LeaseKeeper");
    keepers.map(report).any(|report| report.contains("holds the lease"))
}

pub fn a_name_server_is_cut_off() -> Trouble {
    Trouble {
        what: "Of two name servers, the one that acts is cut off from the database, and so from the other one",
        plan: two_name_servers,
        make: |night| {
            let (url, port) = (night.database.clone().unwrap(), postgres::shared().port);
            let relay = Relay::to(port);
            let around = url.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", relay.port));
            let first = &mut night.cluster.name_server;
            end(first);
            ["--database", &url].iter().for_each(|arg| first.drop_arg(arg));
            first.add_args(&["--database", &around]);
            end(&mut night.cluster.other_name_servers[0]);
            night.cluster.name_server.start();
            wait_for("the first one acts", 30, || acts(night).then_some(()));
            night.cluster.other_name_servers[0].start();
            night.wait_until_healthy();
            relay.cut();
            night.relay = Some(relay);
        },
        code: "name_server_away",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("make the database reachable for it", |night| {
            night.write("/while-one-is-cut-off", vec![8; 100_000]);
            relay(night).heal();
            night.wait_until_gone("name_server_away");
        })],
    }
}

pub fn one_of_two_name_servers_is_killed() -> Trouble {
    Trouble {
        what: "One of two name servers is killed",
        plan: two_name_servers,
        make: |night| night.cluster.name_server.kill(),
        code: "name_server_away",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("start it again", |night| {
            night.write("/while-one-is-gone", vec![8; 100_000]);
            night.cluster.name_server.start();
        })],
    }
}

pub fn the_name_server_hangs() -> Trouble {
    Trouble {
        what: "The name server hangs",
        plan,
        make: |night| night.cluster.name_server.signal(Signal::STOP),
        code: "unavailable",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("look at it, and start the server again", |night| {
            night.cluster.name_server.kill();
            night.cluster.name_server.start();
        })],
    }
}
