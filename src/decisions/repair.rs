//! What an object needs: another copy, one less, or nothing.
//!
//! A copy *lasts* when its server is in service and not gone for long: it counts towards the copies wanted, so
//! that a reboot copies nothing. It *leaves* when its server is draining: it may be read from and is replaced
//! first. It is *gone* when its server has been down, or its disk has been failing, for longer than the repair delay;
//! from a failing disk it may be read still. A copy is *safe* when it lasts on a live server whose inventory has been
//! compared, whose disk works and that trusts it: only safe copies count when one is to be deleted, and only such a
//! server gets new ones, if it can keep them.

use std::collections::HashSet;

use rand::Rng;

use super::placement::{self, Candidate};
use crate::types::api::{AdminState, Health};
use crate::types::{Cause, CauseWord, ServerId};

/// A free share below this counts as this.
const FREE_SHARE_MIN: f64 = 1e-4;

/// A server, as far as repair is concerned.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// Id, host, zone and room.
    pub place: Candidate,
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// From checks.
    pub health: Health,
    /// It has been down, or its disk failing, for longer than the repair delay.
    pub gone: bool,
    /// It answers, and its disk takes no writes any more.
    pub failing: bool,
    /// It has no trouble that keeps it from keeping more.
    pub can_keep: bool,
    /// From a person.
    pub admin_state: AdminState,
    /// Its inventory is still to be compared.
    pub syncing: bool,
    /// It no longer trusts its own disk or memory.
    pub alarmed: bool,
}

impl ServerFacts {
    pub(super) fn in_service(&self) -> bool {
        self.admin_state == AdminState::InService
    }

    pub(super) fn lasts(&self) -> bool {
        self.in_service() && !self.gone
    }

    /// Whether a copy on it counts when another one is to be deleted.
    pub fn is_safe(&self) -> bool {
        self.in_service() && self.health == Health::Live && !self.syncing && !self.alarmed && !self.failing
    }

    pub(super) fn is_target(&self) -> bool {
        self.is_safe() && self.can_keep
    }
}

/// One copy of the object.
#[derive(Debug, Clone, Copy)]
pub struct CopyFacts<'s> {
    /// Where it is.
    pub server: &'s ServerFacts,
    /// It is still on its way.
    pub copying: bool,
}

/// What is wanted of the object.
#[derive(Debug, Clone, Copy)]
pub struct Object {
    /// Copies wanted.
    pub copies: u32,
    /// Its bytes.
    pub size: u64,
    /// Whether two copies may be on one host.
    pub allow_same_host: bool,
}

/// What to do next. One step at a time: after it the object is looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It has what it needs.
    Nothing,
    /// Make a copy.
    Copy {
        /// From here.
        source: ServerId,
        /// To there.
        target: ServerId,
    },
    /// One copy too many: delete this one.
    Trim {
        /// The server whose copy goes.
        server: ServerId,
        /// Why.
        why: CauseWord,
    },
    /// Something is needed and cannot be done now.
    Wait {
        /// Why.
        why: &'static str,
    },
}

/// Copies that can be counted on.
pub fn lasting(copies: &[CopyFacts<'_>]) -> usize {
    copies.iter().filter(|copy| !copy.copying && copy.server.lasts()).count()
}

/// Copies that are there now, on servers that stay: the priority of repair, and the number in its queue. A server that
/// was down for a moment counts in [`lasting`] and not here: nothing is copied for its sake yet, and whatever has to be
/// copied all the same is the more urgent.
pub fn at_hand(copies: &[CopyFacts<'_>]) -> usize {
    let is_there = |server: &ServerFacts| server.in_service() && server.health != Health::Down && !server.failing;
    copies.iter().filter(|copy| !copy.copying && is_there(copy.server)).count()
}

/// Why another copy of an object is made, whose copies are these: because of a server that is gone, of one that drains,
/// because there are too few, or to spread them better.
pub fn cause_of_copy(wanted: u32, copies: &[CopyFacts<'_>]) -> Cause {
    let of = |word: CauseWord, is_so: fn(&ServerFacts) -> bool| {
        let servers = copies.iter().filter(|copy| !copy.copying && is_so(copy.server));
        servers.map(|copy| copy.server.place.server).min().map(|server| word.of(server))
    };
    of(CauseWord::Down, |server| server.gone && server.in_service())
        .or_else(|| of(CauseWord::Draining, |server| !server.in_service()))
        .unwrap_or_else(|| if lasting(copies) < wanted as usize { CauseWord::Short } else { CauseWord::Spread }.into())
}

/// Decides. `servers` are all servers of the cluster.
pub fn decide(object: &Object, copies: &[CopyFacts<'_>], servers: &[ServerFacts], random: &mut impl Rng) -> Step {
    let wanted = object.copies as usize;
    let present: Vec<&ServerFacts> = copies.iter().filter(|copy| !copy.copying).map(|copy| copy.server).collect();
    let coming: Vec<&ServerFacts> =
        copies.iter().filter(|copy| copy.copying && copy.server.lasts()).map(|copy| copy.server).collect();
    let lasting: Vec<&ServerFacts> = present.iter().copied().filter(|server| server.lasts()).collect();
    let free = Targets { object, copies, servers };
    if lasting.len() + coming.len() < wanted {
        let beside: Vec<&ServerFacts> = lasting.iter().chain(&coming).copied().collect();
        return match (source(&present), free.best(&beside, random)) {
            (None, _) if present.is_empty() => Step::Wait { why: "no copy is left on any server" },
            (None, _) => Step::Wait { why: "no server that has a copy answers" },
            (_, None) => Step::Wait { why: "no other live server takes files, has room and is on a host of its own" },
            (Some(source), Some(target)) => Step::Copy { source, target },
        };
    }
    if !coming.is_empty() {
        return Step::Wait { why: "a copy is on its way" };
    }
    if lasting.len() == wanted
        && let (Some(source), Some(target)) = (source(&present), free.that_spreads(&lasting, random))
    {
        return Step::Copy { source, target };
    }
    surplus(object, &present, &lasting, random)
}

/// How well copies are spread: the more the better, in this order. Spreading and trimming must agree about it, or they
/// would undo each other for ever.
pub(super) fn spread(object: &Object, servers: &[&ServerFacts]) -> (usize, usize) {
    match object.allow_same_host {
        true => (zones(servers), hosts(servers)),
        false => (hosts(servers), zones(servers)),
    }
}

/// Which of `servers` can go best, when one of those that may go must: those whose absence leaves the others spread best,
/// and how the others are spread then.
pub(super) fn best_to_go<'s>(
    object: &Object,
    servers: &[&'s ServerFacts],
    may_go: impl Fn(&ServerFacts) -> bool,
) -> Option<(Vec<&'s ServerFacts>, (usize, usize))> {
    let without = |server: &ServerFacts| {
        let rest: Vec<&ServerFacts> =
            servers.iter().copied().filter(|other| other.place.server != server.place.server).collect();
        spread(object, &rest)
    };
    let may_go = servers.iter().copied().filter(|server| may_go(server));
    let candidates: Vec<(&ServerFacts, (usize, usize))> = may_go.map(|server| (server, without(server))).collect();
    let best = candidates.iter().map(|(_, spread)| *spread).max()?;
    Some((candidates.into_iter().filter(|(_, spread)| *spread == best).map(|(server, _)| server).collect(), best))
}

/// Draws the server whose copy goes, among equals. What is known of their room is seconds old, and what is trimmed makes
/// room later still; so whoever always took the fullest would empty it in one burst. Among servers that are as full as
/// each other each has the same chance, and one with half the free share of another has four times its chance.
fn draw<'s>(equals: &[&'s ServerFacts], random: &mut impl Rng) -> Option<&'s ServerFacts> {
    let weight = |server: &ServerFacts| {
        let share = server.place.free_bytes as f64 / server.capacity_bytes.max(1) as f64;
        share.clamp(FREE_SHARE_MIN, 1.0).powi(-2)
    };
    let sum: f64 = equals.iter().map(|server| weight(server)).sum();
    let mut point = random.random::<f64>() * sum;
    for server in equals {
        point -= weight(server);
        if point < 0.0 {
            return Some(server);
        }
    }
    equals.last().copied()
}

/// A live server to copy from; first one that trusts its disk, whose disk works, whose inventory is known and that does
/// not leave.
fn source(present: &[&ServerFacts]) -> Option<ServerId> {
    let live = present.iter().filter(|server| server.health == Health::Live);
    let best = live.min_by_key(|server| (server.alarmed, server.failing, server.syncing, !server.in_service()));
    best.map(|server| server.place.server)
}

/// Which copy is too many, if one is.
fn surplus(object: &Object, present: &[&ServerFacts], lasting: &[&ServerFacts], random: &mut impl Rng) -> Step {
    const UNCERTAIN: Step = Step::Wait { why: "a copy too many stays until enough others are certain" };
    let wanted = object.copies as usize;
    let leaving = present.iter().find(|server| !server.in_service());
    if leaving.is_none() && lasting.len() <= wanted {
        return Step::Nothing;
    }
    let safe = lasting.iter().filter(|server| server.is_safe()).count();
    if safe < wanted {
        return UNCERTAIN;
    }
    if let Some(leaving) = leaving {
        return Step::Trim { server: leaving.place.server, why: CauseWord::Draining };
    }
    if safe == wanted {
        return UNCERTAIN;
    }
    let best = best_to_go(object, lasting, ServerFacts::is_safe);
    match best.and_then(|(equals, _)| draw(&equals, random)) {
        Some(server) => Step::Trim { server: server.place.server, why: CauseWord::Surplus },
        None => Step::Nothing,
    }
}

fn hosts(servers: &[&ServerFacts]) -> usize {
    servers.iter().map(|server| server.place.host.as_str()).collect::<HashSet<_>>().len()
}

/// How many zones servers are in; those without one are together in one.
fn zones(servers: &[&ServerFacts]) -> usize {
    servers.iter().map(|server| server.place.zone.as_str()).collect::<HashSet<_>>().len()
}

/// Where another copy could go.
struct Targets<'a> {
    object: &'a Object,
    copies: &'a [CopyFacts<'a>],
    servers: &'a [ServerFacts],
}

impl Targets<'_> {
    fn open(&self) -> Vec<Candidate> {
        let has_row =
            |server: &ServerFacts| self.copies.iter().any(|copy| copy.server.place.server == server.place.server);
        self.servers
            .iter()
            .filter(|server| server.is_target() && !has_row(server))
            .map(|server| server.place.clone())
            .collect()
    }

    /// The best place beside these copies.
    fn best(&self, beside: &[&ServerFacts], random: &mut impl Rng) -> Option<ServerId> {
        let beside: Vec<Candidate> = beside.iter().map(|server| server.place.clone()).collect();
        placement::choose_one_more(&self.open(), &beside, self.object.size, self.object.allow_same_host, random)
    }

    /// A place for a copy after which another one can go, and the copies are spread better than before.
    fn that_spreads(&self, lasting: &[&ServerFacts], random: &mut impl Rng) -> Option<ServerId> {
        let target = self.best(lasting, random)?;
        let place = self.servers.iter().find(|server| server.place.server == target)?;
        let with: Vec<&ServerFacts> = lasting.iter().copied().chain([place]).collect();
        let (_, after) = best_to_go(self.object, &with, ServerFacts::is_safe)?;
        (after > spread(self.object, lasting)).then_some(target)
    }
}

/// Why nothing is copied now, if that is so: more than `share` of the servers in service are down, or their disks
/// failing, at once, so the trouble is more likely the network's or this name server's. A person who knows better drains those that
/// will not come back: they no longer count.
pub fn paused<'s>(servers: impl Iterator<Item = (Health, AdminState)> + 's, share: f64) -> Option<String> {
    let (mut down, mut all) = (0usize, 0usize);
    for (health, admin_state) in servers {
        if admin_state == AdminState::InService {
            all += 1;
            down += usize::from(health == Health::Down);
        }
    }
    (all > 0 && down as f64 > share * all as f64).then(|| {
        format!(
            "{down} of {all} storage servers are down or failing at once: nothing is copied until they are back, or until \
             those that will not come back are drained (`holdfast drain SERVER`)"
        )
    })
}

/// How long an object waits before its next try, in seconds: doubling from 2 s to 10 minutes.
pub fn back_off_seconds(attempts: i32) -> i64 {
    (2i64 << attempts.clamp(0, 9)).min(600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn server(id: i64, host: &str, zone: &str) -> ServerFacts {
        ServerFacts {
            place: Candidate { server: ServerId(id), host: host.into(), zone: zone.into(), free_bytes: 1 << 40 },
            capacity_bytes: 1 << 40,
            health: Health::Live,
            gone: false,
            admin_state: AdminState::InService,
            syncing: false,
            alarmed: false,
            failing: false,
            can_keep: true,
        }
    }

    const OBJECT: Object = Object { copies: 2, size: 10, allow_same_host: false };

    fn step(on: &[usize], servers: &[ServerFacts]) -> Step {
        let copies: Vec<CopyFacts<'_>> =
            on.iter().map(|index| CopyFacts { server: &servers[*index], copying: false }).collect();
        decide(&OBJECT, &copies, servers, &mut StdRng::seed_from_u64(1))
    }

    fn three() -> Vec<ServerFacts> {
        vec![server(0, "a", ""), server(1, "b", ""), server(2, "c", "")]
    }

    #[test]
    fn a_short_absence_copies_nothing_and_a_long_one_does() {
        let mut servers = three();
        assert_eq!(step(&[0, 1], &servers), Step::Nothing);
        servers[1].health = Health::Down;
        assert_eq!(step(&[0, 1], &servers), Step::Nothing);
        servers[1].gone = true;
        assert_eq!(step(&[0, 1], &servers), Step::Copy { source: ServerId(0), target: ServerId(2) });
        servers[0].health = Health::Suspect;
        assert!(matches!(step(&[0, 1], &servers), Step::Wait { .. }), "there is nobody to copy from");
    }

    #[test]
    fn a_server_that_distrusts_its_disk_gets_nothing_and_is_read_from_last() {
        let mut servers = three();
        servers[2].alarmed = true;
        assert!(matches!(step(&[0], &servers), Step::Copy { target: ServerId(1), .. }));
        assert!(matches!(step(&[0, 1, 2], &servers), Step::Wait { .. }), "its copy is not certain");
        assert_eq!(step(&[2, 0], &servers), Step::Nothing, "what it has is not copied elsewhere without need");
        assert!(matches!(step(&[2], &servers), Step::Copy { source: ServerId(2), .. }), "better than none");
        servers.push(server(3, "d", ""));
        servers[1].health = Health::Down;
        let wanted = Object { copies: 3, ..OBJECT };
        let copies = [0, 2].map(|index: usize| CopyFacts { server: &servers[index], copying: false });
        let step = decide(&wanted, &copies, &servers, &mut StdRng::seed_from_u64(1));
        assert_eq!(step, Step::Copy { source: ServerId(0), target: ServerId(3) });
    }

    #[test]
    fn a_failing_disk_is_read_from_and_replaced_after_the_delay() {
        let mut servers = three();
        (servers[1].failing, servers[1].can_keep) = (true, false);
        assert_eq!(step(&[0, 1], &servers), Step::Nothing, "it may be over in a moment");
        assert!(matches!(step(&[0], &servers), Step::Copy { target: ServerId(2), .. }), "it gets nothing");
        assert!(matches!(step(&[0, 1, 2], &servers), Step::Wait { .. }), "its copy is not certain");
        servers[1].gone = true;
        assert_eq!(step(&[0, 1], &servers), Step::Copy { source: ServerId(0), target: ServerId(2) });
        assert_eq!(step(&[0, 1, 2], &servers), Step::Nothing, "and it keeps what it has");
        servers[0].health = Health::Down;
        let wanted = Object { copies: 1, ..OBJECT };
        let copies = [CopyFacts { server: &servers[1], copying: false }];
        let step = decide(&wanted, &copies, &servers, &mut StdRng::seed_from_u64(1));
        assert_eq!(step, Step::Copy { source: ServerId(1), target: ServerId(2) }, "it is the only source");
    }

    #[test]
    fn a_disk_without_room_for_files_keeps_what_it_has_and_gets_nothing() {
        let mut servers = three();
        servers[1].can_keep = false;
        assert_eq!(step(&[0, 1], &servers), Step::Nothing);
        assert!(matches!(step(&[0], &servers), Step::Copy { target: ServerId(2), .. }));
        servers[1].place.free_bytes = 1;
        assert!(matches!(step(&[0, 1, 2], &servers), Step::Trim { server: ServerId(1), .. }), "that makes room");
    }

    #[test]
    fn a_surplus_is_trimmed_only_when_the_others_are_certain() {
        let mut servers = three();
        assert!(matches!(step(&[0, 1, 2], &servers), Step::Trim { .. }));
        servers[2].syncing = true;
        assert!(matches!(step(&[0, 1, 2], &servers), Step::Wait { .. }), "two are certain, none of them may go");
        servers.push(server(3, "d", ""));
        match step(&[0, 1, 2, 3], &servers) {
            Step::Trim { server, .. } => assert_ne!(server, ServerId(2)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn draining_copies_first_and_trims_then() {
        let mut servers = three();
        servers[0].admin_state = AdminState::Draining;
        assert_eq!(step(&[0, 1], &servers), Step::Copy { source: ServerId(1), target: ServerId(2) });
        assert!(matches!(step(&[0, 1, 2], &servers), Step::Trim { server: ServerId(0), .. }));
        // The only copy is on the server that leaves: it is the source.
        assert!(matches!(step(&[0], &servers), Step::Copy { source: ServerId(0), .. }));
        servers[0].health = Health::Down;
        servers[0].gone = true;
        assert!(
            matches!(step(&[0, 1, 2], &servers), Step::Trim { server: ServerId(0), .. }),
            "a dead one can be drained too"
        );
    }

    #[test]
    fn zones_are_repaired_and_kept() {
        let servers = vec![server(0, "a", "x"), server(1, "b", "x"), server(2, "c", "y")];
        assert!(matches!(step(&[0, 1], &servers), Step::Copy { target: ServerId(2), .. }));
        match step(&[0, 1, 2], &servers) {
            Step::Trim { server, .. } => assert_ne!(server, ServerId(2), "the only one in its zone stays"),
            other => panic!("{other:?}"),
        }
        assert_eq!(step(&[0, 2], &servers), Step::Nothing);
    }

    #[test]
    fn mass_trouble_pauses() {
        let of = |down: usize, all: usize| {
            paused((0..all).map(|n| (if n < down { Health::Down } else { Health::Live }, AdminState::InService)), 0.5)
        };
        assert!(of(1, 2).is_none() && of(2, 4).is_none() && of(0, 0).is_none());
        assert!(of(2, 3).is_some() && of(3, 3).is_some());
        let drained = [
            (Health::Down, AdminState::Draining),
            (Health::Down, AdminState::Draining),
            (Health::Live, AdminState::InService),
        ];
        assert!(paused(drained.into_iter(), 0.5).is_none());
    }

    #[test]
    fn waits_grow_and_end_growing() {
        assert_eq!([0, 1, 4, 9, 99].map(back_off_seconds), [2, 4, 32, 600, 600]);
    }

    /// Servers that are trimmed by a burst, during which nobody learns of their new room: copies that each has left.
    fn after_a_burst(free: &[u64], objects: usize, seed: u64) -> Vec<usize> {
        let servers: Vec<ServerFacts> = free
            .iter()
            .enumerate()
            .map(|(id, free)| {
                let mut server = server(id as i64, &format!("h{id}"), "");
                server.place.free_bytes = *free;
                server
            })
            .collect();
        let mut random = StdRng::seed_from_u64(seed);
        let mut left = vec![0; servers.len()];
        for number in 0..objects {
            let on: Vec<usize> = (0..servers.len()).filter(|index| *index != number % servers.len()).collect();
            let copies: Vec<CopyFacts<'_>> =
                on.iter().map(|index| CopyFacts { server: &servers[*index], copying: false }).collect();
            let object = Object { copies: on.len() as u32 - 1, ..OBJECT };
            let Step::Trim { server, .. } = decide(&object, &copies, &servers, &mut random) else { panic!() };
            on.iter().filter(|index| **index != server.0 as usize).for_each(|index| left[*index] += 1);
        }
        left
    }

    #[test]
    fn a_fuller_server_is_trimmed_more_often() {
        let left = after_a_burst(&[1 << 39, 1 << 39, 1 << 39, 1 << 37], 2_000, 1);
        assert!(left[3] < 400 && left[..3].iter().all(|count| *count > 1_000), "{left:?}");
    }

    fn any_server() -> impl Strategy<Value = (u8, u8, u8, bool, u8, bool, bool, u8)> {
        (0u8..4, 0u8..3, 0u8..3, any::<bool>(), 0u8..6, any::<bool>(), any::<bool>(), 0u8..5)
    }

    proptest! {
        /// A burst of trimming leaves equal servers equal, also when one of them is told to have a little less room.
        #[test]
        fn trimming_empties_nobody(count in 4usize..9, free in (1u64 << 34)..(1 << 40), seed: u64) {
            let mut room = vec![free; count];
            room[0] -= free / 100;
            let left = after_a_burst(&room, 500 * count, seed);
            let mean = left.iter().sum::<usize>() / count;
            prop_assert!(left.iter().all(|left| left.abs_diff(mean) < mean / 5), "{left:?}");
        }

        /// Whatever the state: a deletion leaves as many certain copies as wanted, a copy goes where none is, to a
        /// live server in service, and when everything is live the steps come to an end.
        #[test]
        fn steps_are_safe_and_end(
            drawn in proptest::collection::vec(any_server(), 1..8), wanted in 1u32..4, seed: u64, all_well: bool,
            on in proptest::collection::hash_set(0usize..8, 0..6), copying in proptest::collection::hash_set(0usize..8, 0..2),
        ) {
            let servers: Vec<ServerFacts> = drawn.iter().enumerate().map(|(id, drawn)| {
                let (host, zone, health, gone, admin, syncing, alarmed, trouble) = drawn;
                let health = if all_well { Health::Live } else { [Health::Live, Health::Suspect, Health::Down][*health as usize] };
                ServerFacts {
                    health,
                    gone: *gone && (health == Health::Down || *trouble == 1 && !all_well),
                    failing: *trouble == 1 && !all_well,
                    can_keep: *trouble > 1 || all_well,
                    admin_state: if *admin == 0 { AdminState::Draining } else { AdminState::InService },
                    syncing: *syncing && !all_well,
                    alarmed: *alarmed && !all_well,
                    ..server(id as i64, &format!("h{host}"), &format!("z{zone}"))
                }
            }).collect();
            let object = Object { copies: wanted, size: 1, allow_same_host: false };
            let mut random = StdRng::seed_from_u64(seed);
            let mut rows: Vec<(usize, bool)> =
                on.iter().filter(|index| **index < servers.len()).map(|index| (*index, !all_well && copying.contains(index))).collect();
            for round in 0..40 {
                let copies: Vec<CopyFacts<'_>> =
                    rows.iter().map(|(index, copying)| CopyFacts { server: &servers[*index], copying: *copying }).collect();
                match decide(&object, &copies, &servers, &mut random) {
                    Step::Copy { source, target } => {
                        let (source, target) = (source.0 as usize, target.0 as usize);
                        prop_assert!(rows.contains(&(source, false)) && servers[source].health == Health::Live);
                        prop_assert!(servers[target].is_target() && !rows.iter().any(|(index, _)| *index == target));
                        rows.push((target, false));
                    }
                    Step::Trim { server, .. } => {
                        rows.retain(|(index, _)| *index != server.0 as usize);
                        let safe = rows.iter().filter(|(index, copying)| !copying && servers[*index].is_safe()).count();
                        prop_assert!(safe >= wanted as usize, "{safe} safe copies are left of {wanted}");
                    }
                    Step::Nothing | Step::Wait { .. } => break,
                }
                prop_assert!(round < 39, "it never ends");
            }
        }
    }
}
