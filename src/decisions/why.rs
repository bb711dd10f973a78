//! Why a file has the copies that it has: of each copy that is wanted and not there, what stands in its way and what will be
//! done, when.
//!
//! The answer comes first. The next step is that of [`super::repair::decide`], so that what is said is what will happen.

use chrono::TimeDelta;

use super::placement::has_room;
use super::repair::{CopyFacts, Object, ServerFacts, Step};
use crate::types::ServerId;
use crate::types::api::{AdminState, Health};

/// Servers that are named with what keeps them from taking a copy.
const SERVERS_NAMED_MAX: usize = 8;

/// What people call a server, and how long repair still waits for it.
#[derive(Debug, Clone)]
pub struct Named {
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Why it is not live, or cannot keep anything.
    pub reason: Option<String>,
    /// In this time its copies count as gone, unless it is well before.
    pub given_up_in: Option<TimeDelta>,
}

/// The object's place in the repair queue.
#[derive(Debug, Clone)]
pub struct Queued {
    /// Tries that failed.
    pub attempts: i32,
    /// Why the last one did.
    pub last_error: Option<String>,
    /// When it is looked at again; without a time, when the servers have changed.
    pub next_try_in: Option<TimeDelta>,
}

/// Everything that is explained.
#[derive(Debug, Clone)]
pub struct Facts<'s> {
    /// What is wanted.
    pub object: Object,
    /// Copies on servers that are not down, as listings count them.
    pub readable: u32,
    /// The copies.
    pub copies: Vec<CopyFacts<'s>>,
    /// All servers.
    pub servers: &'s [ServerFacts],
    /// Their names.
    pub names: &'s [Named],
    /// The next step of repair.
    pub step: Step,
    /// In the repair queue.
    pub queued: Option<Queued>,
    /// Why nothing is copied at all.
    pub paused: Option<String>,
}

impl Facts<'_> {
    fn named(&self, id: ServerId) -> Option<&Named> {
        self.names.iter().find(|named| named.server == id)
    }

    fn name(&self, id: ServerId) -> String {
        self.named(id).map_or_else(|| id.to_string(), |named| named.name.clone())
    }
}

/// The findings, the answer first.
pub fn explain(facts: &Facts<'_>) -> Vec<String> {
    let mut findings = vec![answer(facts)];
    findings.extend(facts.copies.iter().filter_map(|copy| about_copy(facts, copy)));
    findings.extend(what_is_done(facts));
    findings
}

fn answer(facts: &Facts<'_>) -> String {
    let (copies, wanted) = (facts.readable, facts.object.copies);
    match copies {
        0 if facts.copies.is_empty() => {
            "no copy is left on any server: it cannot be read. Whoever has the file sends it again \
                                         (`holdfast push`, `holdfast import`)"
                .into()
        }
        0 => "no server that answers has a copy: it cannot be read now".into(),
        1 if wanted > 1 => format!("it hangs on a single copy of {wanted} wanted"),
        _ if copies < wanted => format!("{copies} of {wanted} copies wanted are there"),
        _ => format!("all {wanted} copies wanted are there"),
    }
}

/// What is to be said of a copy that is not simply there.
fn about_copy(facts: &Facts<'_>, copy: &CopyFacts<'_>) -> Option<String> {
    let server = copy.server;
    let (name, named) = (facts.name(server.place.server), facts.named(server.place.server));
    let reason =
        named.and_then(|named| named.reason.as_deref()).map(|reason| format!(" ({reason})")).unwrap_or_default();
    if copy.copying {
        return Some(format!("a copy is on its way to {name}"));
    }
    let given_up_in = named.and_then(|named| named.given_up_in);
    let is_what = match server.health {
        Health::Down => format!("the server is down{reason}"),
        Health::Suspect => {
            return Some(format!("the copy on {name} cannot be counted on: the server is suspect{reason}"));
        }
        Health::Live if server.failing => format!("its disk is failing{reason}"),
        Health::Live if server.admin_state != AdminState::InService => {
            return Some(format!("the copy on {name} is to leave it: it is draining"));
        }
        Health::Live if server.alarmed => {
            return Some(format!("the copy on {name} is doubtful: it no longer trusts its disk or its memory"));
        }
        Health::Live if server.syncing => {
            return Some(format!("the copy on {name} is not certain yet: its inventory is being compared"));
        }
        Health::Live => return None,
    };
    let then = match given_up_in {
        _ if server.admin_state != AdminState::InService => {
            "; it is draining, and the copy is made anew elsewhere".into()
        }
        Some(left) if left > TimeDelta::zero() => {
            format!("; it is made anew elsewhere in {} s, unless the server is well before", left.num_seconds().max(1))
        }
        _ => "; it is to be made anew elsewhere, and counts again when the server is well".into(),
    };
    Some(format!("the copy on {name} cannot be counted on: {is_what}{then}"))
}

/// The next step, and what stands in its way.
fn what_is_done(facts: &Facts<'_>) -> Vec<String> {
    let step = match &facts.step {
        Step::Nothing => return Vec::new(),
        Step::Trim { server, why } => {
            return vec![format!("the copy on {} is given up next: {}", facts.name(*server), why.meaning())];
        }
        Step::Copy { source, target } => {
            format!(
                "a copy from {} to {}, or another server that may take it, is made next",
                facts.name(*source),
                facts.name(*target)
            )
        }
        Step::Wait { why } => format!("nothing can be done now: {why}"),
    };
    if let Some(paused) = &facts.paused {
        return vec![format!("nothing is copied now: {paused}")];
    }
    let mut findings = vec![step];
    if matches!(facts.step, Step::Wait { why } if why.contains("takes files")) {
        findings.extend(who_may_not(facts));
    }
    let seconds = |time: TimeDelta| time.num_seconds().max(0);
    match &facts.queued {
        // A transfer under way is looked at when it ends.
        Some(Queued { next_try_in: Some(time), .. }) if *time > TimeDelta::hours(1) => {}
        Some(Queued { next_try_in: None, .. }) => {
            findings
                .push("it waits in the repair queue, and is looked at as soon as the storage servers change".into());
        }
        Some(Queued { attempts, last_error: Some(error), next_try_in: Some(time) }) if *attempts > 0 => {
            findings.push(format!(
                "it was tried {attempts} times, the last time without success ({error}); the next try is in {} s",
                seconds(*time)
            ));
        }
        Some(Queued { next_try_in: Some(time), .. }) if *time > TimeDelta::zero() => {
            findings.push(format!("it is in the repair queue; the next look at it is in {} s", seconds(*time)));
        }
        Some(_) => findings.push("it is in the repair queue, and its turn comes by how endangered it is".into()),
        None if matches!(facts.step, Step::Copy { .. }) => {
            findings.push("it is not in the repair queue yet; a look at all objects puts it there".into());
        }
        None => {}
    }
    findings
}

/// Each server without a copy, and why it may not get one.
fn who_may_not(facts: &Facts<'_>) -> Vec<String> {
    let has = |server: &ServerFacts| facts.copies.iter().any(|copy| copy.server.place.server == server.place.server);
    let beside: Vec<&ServerFacts> =
        facts.copies.iter().filter(|copy| copy.server.lasts()).map(|copy| copy.server).collect();
    let mut hindered: Vec<String> = facts
        .servers
        .iter()
        .filter(|server| !has(server))
        .filter_map(|server| {
            let why = hindrance(server, &facts.object, &beside, facts)?;
            Some(format!("{} may not take a copy: {why}", facts.name(server.place.server)))
        })
        .collect();
    if hindered.is_empty() {
        hindered.push(format!(
            "there are {} storage servers, and {} copies are wanted: start more, or `holdfast setrep` a smaller number",
            facts.servers.len(),
            facts.object.copies
        ));
    } else if hindered.len() > SERVERS_NAMED_MAX {
        let more = hindered.split_off(SERVERS_NAMED_MAX).len();
        hindered.push(format!("and {more} other servers may not; `holdfast servers` shows them"));
    }
    hindered
}

fn hindrance(server: &ServerFacts, object: &Object, beside: &[&ServerFacts], facts: &Facts<'_>) -> Option<String> {
    let with_reason = |what: &str| {
        let reason = facts.named(server.place.server).and_then(|named| named.reason.as_deref());
        reason.map_or_else(|| what.to_string(), |reason| format!("{what} ({reason})"))
    };
    let same_host = beside.iter().find(|other| other.place.host == server.place.host);
    match server {
        _ if server.health == Health::Down => Some(with_reason("it is down")),
        _ if server.health == Health::Suspect => Some(with_reason("it is suspect")),
        _ if server.admin_state == AdminState::Draining => Some("it is draining".into()),
        _ if server.admin_state == AdminState::Drained => Some("it is drained".into()),
        _ if server.syncing => Some("its inventory is being compared".into()),
        _ if server.alarmed => Some("it no longer trusts its disk or its memory".into()),
        _ if server.failing || !server.can_keep => Some(with_reason("it cannot keep anything")),
        _ if !has_room(server.place.free_bytes, object.size) => {
            Some(format!("it has no room for {} bytes", object.size))
        }
        _ if !object.allow_same_host => same_host.map(|other| {
            format!("it is on the same host ({}) as {}", server.place.host, facts.name(other.place.server))
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::placement::Candidate;
    use crate::decisions::repair::decide;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn server(id: i64, host: &str) -> ServerFacts {
        ServerFacts {
            place: Candidate { server: ServerId(id), host: host.into(), zone: String::new(), free_bytes: 1 << 40 },
            health: Health::Live,
            gone: false,
            failing: false,
            can_keep: true,
            admin_state: AdminState::InService,
            syncing: false,
            alarmed: false,
            capacity_bytes: 1 << 41,
        }
    }

    struct Case {
        servers: Vec<ServerFacts>,
        on: Vec<(usize, bool)>,
        given_up_in: Option<i64>,
        queued: Option<Queued>,
        paused: Option<String>,
    }

    impl Case {
        fn new(change: impl FnOnce(&mut Self)) -> Self {
            let servers = vec![server(0, "a"), server(1, "b"), server(2, "c")];
            let mut case =
                Self { servers, on: vec![(0, false), (1, false)], given_up_in: None, queued: None, paused: None };
            change(&mut case);
            case
        }

        fn explained(&self) -> String {
            let names: Vec<Named> = (0..self.servers.len())
                .map(|id| Named {
                    server: ServerId(id as i64),
                    name: format!("s{id}"),
                    reason: (self.servers[id].health != Health::Live).then(|| "no answer".into()),
                    given_up_in: self.given_up_in.map(TimeDelta::seconds),
                })
                .collect();
            let object = Object { copies: 2, size: 7, allow_same_host: false };
            let copies: Vec<CopyFacts<'_>> = self
                .on
                .iter()
                .map(|(at, copying)| CopyFacts { server: &self.servers[*at], copying: *copying })
                .collect();
            let readable =
                copies.iter().filter(|copy| !copy.copying && copy.server.health != Health::Down).count() as u32;
            let step = decide(&object, &copies, &self.servers, &mut StdRng::seed_from_u64(1));
            let (queued, paused) = (self.queued.clone(), self.paused.clone());
            let facts = Facts { object, readable, copies, servers: &self.servers, names: &names, step, queued, paused };
            explain(&facts).join("\n")
        }
    }

    #[test]
    fn each_hindrance_is_named() {
        let down = |case: &mut Case, at: usize| case.servers[at].health = Health::Down;
        let queued = |attempts, error: Option<&str>, seconds| {
            let last_error = error.map(String::from);
            Some(Queued { attempts, last_error, next_try_in: Some(TimeDelta::seconds(seconds)) })
        };
        let two = |case: &mut Case| drop(case.servers.pop());
        let cases: Vec<(Case, &[&str])> = vec![
            (Case::new(|_| {}), &["all 2 copies wanted are there"]),
            (
                Case::new(|case| {
                    down(case, 1);
                    case.given_up_in = Some(21);
                }),
                &[
                    "hangs on a single copy of 2",
                    "s1 cannot be counted on: the server is down (no answer)",
                    "in 21 s, unless",
                ],
            ),
            (
                Case::new(|case| {
                    down(case, 1);
                    case.servers[1].gone = true;
                    case.queued = queued(0, None, -1);
                }),
                &["made anew elsewhere, and counts again", "a copy from s0 to s2", "in the repair queue"],
            ),
            (
                Case::new(|case| {
                    case.on.pop();
                    case.queued = queued(3, Some("connection reset"), 16);
                }),
                &["tried 3 times", "connection reset", "next try is in 16 s"],
            ),
            (
                Case::new(|case| {
                    case.on.pop();
                    case.paused = Some("3 of 5 are down".into());
                }),
                &["nothing is copied now: 3 of 5 are down"],
            ),
            (
                Case::new(|case| {
                    case.on = vec![(0, false), (2, true)];
                    case.queued = queued(0, None, 86_400);
                }),
                &["single copy", "a copy is on its way to s2"],
            ),
            (
                Case::new(|case| {
                    case.on.pop();
                    (case.servers[1].place.free_bytes, case.servers[2].admin_state) = (5, AdminState::Draining);
                }),
                &[
                    "nothing can be done now",
                    "s1 may not take a copy: it has no room for 7 bytes",
                    "s2 may not take a copy: it is draining",
                ],
            ),
            (
                Case::new(|case| {
                    case.on.pop();
                    case.servers[1].place.host = "a".into();
                    case.servers[2].alarmed = true;
                }),
                &["same host (a) as s0", "s2 may not take a copy: it no longer trusts"],
            ),
            (
                Case::new(|case| {
                    two(case);
                    case.servers[0].admin_state = AdminState::Draining;
                    case.queued = queued(2, Some("no other live server takes files"), 4);
                }),
                &[
                    "all 2 copies",
                    "s0 is to leave it",
                    "there are 2 storage servers, and 2 copies are wanted",
                    "next try is in 4 s",
                ],
            ),
            (Case::new(|case| case.on.clear()), &["no copy is left on any server"]),
            (
                Case::new(|case| {
                    down(case, 0);
                    down(case, 1);
                }),
                &["no server that answers has a copy"],
            ),
            (Case::new(|case| case.on.push((2, false))), &["all 2 copies", "is given up next"]),
        ];
        for (number, (case, want)) in cases.iter().enumerate() {
            let told = case.explained();
            for part in *want {
                assert!(told.contains(part), "case {number} lacks {part:?}:\n{told}");
            }
        }
        assert_eq!(cases[0].0.explained().lines().count(), 1, "nothing more is to be said");
    }

    #[test]
    fn many_servers_are_not_all_named() {
        let case = Case::new(|case| {
            case.on.pop();
            case.servers.extend((3..30).map(|id| server(id, "d")));
            case.servers[1..].iter_mut().for_each(|server| server.admin_state = AdminState::Drained);
        });
        let told = case.explained();
        assert!(told.contains("and 21 other servers may not") && told.lines().count() < 14, "{told}");
    }
}
