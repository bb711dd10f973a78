//! Each supervised actor panics, hangs and never ends, in real servers; it is back, and the others do not notice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::arena::{Arena, Who, get};
use crate::common::cluster::{Http, SCRAPE_TOKEN};
use crate::common::wait_for;
use crate::model::{Driver, Op};

/// From the first moment of its trouble until an actor is found dead: a ping each second, answered within three.
const DETECTION: Duration = Duration::from_secs(4);
/// From then on until it works again.
const BACK: Duration = Duration::from_secs(5);
/// What a busy machine adds.
const SLACK: Duration = Duration::from_secs(6);

/// What is injected, and what is seen of it.
#[derive(Debug, Clone, Copy)]
struct Injury {
    /// `NAME` is the actor.
    failpoints: &'static str,
    restarts: u64,
    panics: bool,
    /// What the log says.
    log: &'static str,
}

const INJURIES: [Injury; 5] = [
    Injury { failpoints: "actor-NAME-shell=1*panic(of the shell)", restarts: 1, panics: true, log: "it is replaced" },
    Injury { failpoints: "actor-NAME-pass=1*panic(of the pass)", restarts: 0, panics: true, log: "panicked" },
    Injury { failpoints: "actor-NAME-shell=1*sleep(9000)", restarts: 1, panics: false, log: "did not answer in time" },
    Injury { failpoints: "actor-NAME-pass=1*sleep(9000)", restarts: 1, panics: false, log: "did not answer in time" },
    Injury {
        failpoints: "actor-NAME-pass=1*return;actor-NAME-deadline=return(1500)",
        restarts: 0,
        panics: false,
        log: "took longer than 1.5s",
    },
];

impl Injury {
    fn of(&self, actor: &str) -> String {
        self.failpoints.replace("NAME", actor)
    }
}

/// Writes and reads something.
fn works(driver: &mut Driver, round: &str, number: usize) -> bool {
    let unit = driver.unit(format!("{round}/{number}"), &[Op::Put("f", 2_000), Op::Put("g", 100_000)]);
    if unit.worlds.len() > 1 || unit.worlds[0].len() < 2 {
        return false;
    }
    let read = driver.http.curl(&["--max-time", "20", &format!("{}/files{}/f", driver.http.base, unit.root)]);
    read.is_some_and(|answer| answer.status == 200)
}

fn actors(http: &Http) -> Option<BTreeMap<String, Value>> {
    let listed = get(http, "/api/v1/actors")?;
    Some(listed["actors"].as_array()?.iter().map(|a| (a["name"].as_str().unwrap().into(), a.clone())).collect())
}

/// The actor was hit, has recovered, and has done a pass or a batch since then without an error.
fn has_recovered(actor: &Value, injury: &Injury) -> bool {
    actor["restarts"].as_u64() == Some(injury.restarts)
        && actor["last_panic"].is_null() != injury.panics
        && actor["last_error"].is_null()
        && !actor["last_pass"].is_null()
        && actor["state"] != "restarting"
}

#[test]
fn each_actor_of_the_name_server_comes_back() {
    let mut arena = Arena::start(None);
    let names: Vec<String> = actors(&arena.cluster.http()).unwrap().into_keys().collect();
    assert!(names.len() >= 6, "{names:?}");
    for name in &names {
        for injury in INJURIES {
            let started = Instant::now();
            injure_name_server(&mut arena, name, injury);
            eprintln!("{}: ok in {:.1} s", injury.of(name), started.elapsed().as_secs_f32());
        }
    }
}

fn injure_name_server(arena: &mut Arena, name: &str, injury: Injury) {
    let round = arena.round();
    let before = arena.cluster.name_server.log().len();
    arena.cluster.name_server.env = vec![("FAILPOINTS".into(), injury.of(name))];
    arena.cluster.name_server.kill();
    arena.revive(Who::NameServer);
    let (http, started) = (arena.cluster.http(), Instant::now());
    let mut driver = arena.driver(1);
    let (mut tries, mut worked, mut all) = (0, 0, BTreeMap::new());
    while started.elapsed() < DETECTION + BACK + SLACK {
        tries += 1;
        worked += usize::from(works(&mut driver, &round, tries));
        all = actors(&http).unwrap_or_default();
        if all.get(name).is_some_and(|actor| has_recovered(actor, &injury)) && worked > 0 {
            break;
        }
    }
    let what = injury.of(name);
    let log = arena.cluster.name_server.log()[before..].to_string();
    assert!(all.get(name).is_some_and(|actor| has_recovered(actor, &injury)), "{what}: {all:#?}\n{log}");
    assert!(log.contains(injury.log), "{what}: {log}");
    assert!(works(&mut driver, &round, tries + 1), "{what}: writing and reading do not work again");
    let others: Vec<&Value> = all.values().filter(|a| a["name"] != *name && a["restarts"] != 0).collect();
    assert!(others.is_empty(), "{what}: {others:#?}\n{log}");
}

/// The restarts of a storage server's actors.
fn restarts(url: &str) -> Option<BTreeMap<String, u64>> {
    let http = Http { token: Some(SCRAPE_TOKEN.into()), base: url.into() };
    let text = http.curl(&["--max-time", "5", &format!("{url}/metrics")])?.body;
    let one = |line: &str| {
        let (name, count) = line.strip_prefix("holdfast_actor_restarts_total{actor=\"")?.split_once("\"} ")?;
        Some((name.to_string(), count.parse().ok()?))
    };
    Some(text.lines().filter_map(one).collect())
}

#[test]
fn each_actor_of_a_storage_server_comes_back() {
    let mut arena = Arena::start(None);
    let url = arena.cluster.storage[0].url();
    let names: Vec<String> = restarts(&url).unwrap().into_keys().collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        for injury in INJURIES {
            let started = Instant::now();
            let round = arena.round();
            let storage = &mut arena.cluster.storage[0];
            let before = storage.log().len();
            storage.env = vec![("FAILPOINTS".into(), injury.of(name))];
            storage.kill();
            storage.start();
            let (mut driver, mut tries, what) = (arena.driver(1), 0, injury.of(name));
            wait_for(&format!("{what} is seen and healed"), 30, || {
                tries += 1;
                let _ = works(&mut driver, &round, tries);
                let log = arena.cluster.storage[0].log()[before..].to_string();
                let all = restarts(&url)?;
                let others = all.iter().filter(|(other, count)| *other != name && **count > 0).count();
                assert_eq!(others, 0, "{what}: {all:?}\n{log}");
                (log.contains(injury.log) && all.get(name) == Some(&injury.restarts)).then_some(())
            });
            arena.cluster.wait_for_live(3);
            // Until the name server has noticed that it was started again, it may still be chosen and refuse.
            let mut number = 1_000;
            wait_for(&format!("{what}: writing and reading work again"), 20, || {
                number += 10;
                (0..6).all(|step| works(&mut driver, &round, number + step)).then_some(())
            });
            eprintln!("{what}: ok in {:.1} s", started.elapsed().as_secs_f32());
        }
    }
}

#[test]
fn an_actor_that_keeps_dying_ends_the_process() {
    let mut arena = Arena::start(None);
    arena.cluster.name_server.env = vec![("FAILPOINTS".into(), "actor-Reaper-shell=panic".into())];
    arena.restart_condemned(Who::NameServer);
    let status = wait_for("the name server gives up", 40, || arena.cluster.name_server.ended());
    assert_eq!(status.code(), Some(70));
    assert!(arena.cluster.name_server.log().contains("the actor Reaper died more than 5 times within 60s"));
    arena.cluster.name_server.env.clear();
    arena.revive(Who::NameServer);
    arena.wait_for_rest();
}

/// A trouble of the scripted night that only a failpoint makes: there is no input that makes a pass panic.
#[test]
fn an_actor_that_panics_in_each_pass_is_told_with_the_reason_and_the_others_go_on() {
    let mut arena = Arena::start(None);
    arena.cluster.name_server.env = vec![("FAILPOINTS".into(), "actor-Reaper-pass=panic(of each pass)".into())];
    arena.cluster.name_server.kill();
    arena.revive(Who::NameServer);
    let told = wait_for("`report` tells it", 30, || {
        let (_, printed, _) = arena.cluster.run(&["report", "--json"]);
        let report: Value = serde_json::from_str(&printed).ok()?;
        let troubles = report["troubles"].as_array()?.clone();
        troubles.into_iter().find(|trouble| trouble["code"] == "actor_fails")
    });
    let text = format!("{} {}", told["what"], told["remedy"]);
    for words in ["Reaper has failed", "of each pass", "`holdfast actors`", "it tries again by itself"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    assert_eq!(told["severity"], "degraded");
    let shown = arena.cluster.ok(&["actors"]);
    assert!(shown.contains("of each pass"), "{shown}");
    let (mut driver, round) = (arena.driver(1), arena.round());
    assert!(works(&mut driver, &round, 1), "writing and reading go on");
    assert!(arena.cluster.name_server.ended().is_none(), "a pass that panics ends no process");
    arena.cluster.name_server.env.clear();
    arena.cluster.name_server.kill();
    arena.revive(Who::NameServer);
    arena.wait_for_rest();
}
