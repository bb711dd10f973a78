//! Rebalancing: which copies move where, so that servers are filled evenly.
//!
//! How full a server is, is the share of its own room (what it has and what it may still take) that its copies fill. A
//! copy moves from one server to another when the first is fuller by more than the tolerance and the two are more even
//! afterwards. Then the sum, over all servers, of the squares of their levels weighted by their room becomes less with each
//! move, so that rebalancing comes to an end whatever the sizes are.
//!
//! A move is a copy more, and then one less by the rules of repair. It is begun only when the copy on the fuller server
//! would be among those that repair itself gives up best: so spreading and trimming agree with it, hosts and zones are
//! spread at least as well as before, and nothing undoes it.

use super::placement::has_room;
use super::repair::{self, CopyFacts, Object, ServerFacts, Step, best_to_go};
use crate::types::{CauseWord, ServerId};

/// What one server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The server.
    pub server: ServerId,
    /// Bytes of its copies.
    pub bytes: u64,
    /// Bytes of all the copies that it could have.
    pub room_bytes: u64,
}

impl Level {
    fn share(&self) -> f64 {
        self.bytes as f64 / self.room_bytes.max(1) as f64
    }
}

/// How full servers are, and how even they are to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    levels: Vec<Level>,
    /// A part of one.
    within: f64,
}

impl Levels {
    /// Of servers that are to be filled evenly, within as many percent of what each would have if all were even. Servers
    /// whose room is not known are left out.
    pub fn new(levels: impl IntoIterator<Item = Level>, within_percent: u32) -> Self {
        let levels = levels.into_iter().filter(|level| level.room_bytes > 0).collect();
        Self { levels, within: f64::from(within_percent) / 100.0 }
    }

    /// The share of its room that each server would have filled if all were even.
    pub fn even(&self) -> f64 {
        let sum = |of: fn(&Level) -> u64| self.levels.iter().map(|level| of(level) as f64).sum::<f64>();
        sum(|level| level.bytes) / sum(|level| level.room_bytes).max(1.0)
    }

    fn tolerance(&self) -> f64 {
        self.within * self.even()
    }

    /// What a server has.
    pub fn of(&self, server: ServerId) -> Option<&Level> {
        self.levels.iter().find(|level| level.server == server)
    }

    /// The difference between the fullest and the emptiest, in parts of the even share.
    pub fn difference(&self) -> f64 {
        let shares = || self.levels.iter().map(Level::share);
        let (most, least) = (shares().fold(0.0, f64::max), shares().fold(f64::INFINITY, f64::min));
        if self.levels.is_empty() || self.even() == 0.0 { 0.0 } else { (most - least) / self.even() }
    }

    /// Whether servers are as even as they are to be.
    pub fn is_even(&self) -> bool {
        self.difference() <= self.within
    }

    /// About how many bytes have to move.
    pub fn left_bytes(&self) -> u64 {
        if self.is_even() {
            return 0;
        }
        let (even, half) = (self.even(), self.within / 2.0);
        let sum = |of: &dyn Fn(&Level) -> f64| self.levels.iter().map(|level| of(level).max(0.0)).sum::<f64>();
        let over = sum(&|level| level.bytes as f64 - level.room_bytes as f64 * even * (1.0 + half));
        let under = sum(&|level| level.room_bytes as f64 * even * (1.0 - half) - level.bytes as f64);
        over.max(under) as u64
    }

    /// Servers that have more than they should beside the emptiest, the fullest first.
    pub fn givers(&self) -> Vec<ServerId> {
        let least = self.levels.iter().map(Level::share).fold(f64::INFINITY, f64::min);
        let mut over: Vec<&Level> =
            self.levels.iter().filter(|level| level.share() - least > self.tolerance()).collect();
        over.sort_by(|one, other| other.share().total_cmp(&one.share()).then(one.server.cmp(&other.server)));
        over.into_iter().map(|level| level.server).collect()
    }

    /// Whether a copy of this size is better there: the one server is fuller beyond the tolerance, and the two are more
    /// even afterwards. The latter is reckoned in whole numbers: with a rounded one a copy could go to and fro for ever.
    fn is_better(&self, from: ServerId, to: ServerId, size: u64) -> bool {
        let (Some(from), Some(to)) = (self.of(from), self.of(to)) else { return false };
        let difference = from.share() - to.share();
        // from - to > (size / room of from + size / room of to) / 2, times both rooms.
        let product = |one: u64, other: u64| u128::from(one).saturating_mul(u128::from(other));
        let rooms = u128::from(from.room_bytes) + u128::from(to.room_bytes);
        let there = product(to.bytes, from.room_bytes).saturating_mul(2);
        let with_it = there.saturating_add(u128::from(size).saturating_mul(rooms));
        size > 0 && difference > self.tolerance() && product(from.bytes, to.room_bytes).saturating_mul(2) > with_it
    }

    /// Notes that a copy moves.
    pub fn note_move(&mut self, from: ServerId, to: ServerId, size: u64) {
        for level in &mut self.levels {
            if level.server == from {
                level.bytes = level.bytes.saturating_sub(size);
            } else if level.server == to {
                level.bytes = level.bytes.saturating_add(size);
            }
        }
    }
}

/// Where the copy on `from` of an object that has all its copies, each of them certain, moves best: to the emptiest server
/// beside which repair would give up that copy. `None` when it stays.
pub fn target(
    object: &Object,
    copies: &[CopyFacts<'_>],
    from: ServerId,
    servers: &[ServerFacts],
    levels: &Levels,
) -> Option<ServerId> {
    if copies.len() != object.copies as usize || copies.iter().any(|copy| copy.copying || !copy.server.is_safe()) {
        return None;
    }
    let holders: Vec<&ServerFacts> = copies.iter().map(|copy| copy.server).collect();
    let has_copy = |server: &ServerFacts| holders.iter().any(|holder| holder.place.server == server.place.server);
    let is_crowded = |server: &ServerFacts| {
        let mut others = holders.iter().filter(|holder| holder.place.server != from);
        !object.allow_same_host && others.any(|holder| holder.place.host == server.place.host)
    };
    let may = |server: &&ServerFacts| {
        let id = server.place.server;
        server.is_target()
            && !has_copy(server)
            && !is_crowded(server)
            && has_room(server.place.free_bytes, object.size)
            && levels.is_better(from, id, object.size)
            && goes_best(object, holders.iter().copied().chain([*server]), from)
    };
    let share = |server: &ServerFacts| levels.of(server.place.server).map_or(f64::INFINITY, Level::share);
    let best = servers.iter().filter(may).min_by(|one, other| share(one).total_cmp(&share(other)))?;
    Some(best.place.server)
}

/// Whether the copy on `from` is among those that can go best.
fn goes_best<'s>(object: &Object, holders: impl Iterator<Item = &'s ServerFacts>, from: ServerId) -> bool {
    let holders: Vec<&ServerFacts> = holders.collect();
    best_to_go(object, &holders, ServerFacts::is_safe)
        .is_some_and(|(equals, _)| equals.iter().any(|server| server.place.server == from))
}

/// What an object needs whose copy on `from` is being moved: as [`repair::decide`], but for two things. The copy on its way
/// is nothing that repair has to wait for, and when there is one too many it is the one that moves.
pub fn decide(
    object: &Object,
    copies: &[CopyFacts<'_>],
    servers: &[ServerFacts],
    from: ServerId,
    random: &mut impl rand::Rng,
) -> Step {
    let is_coming = copies.iter().any(|copy| copy.copying);
    match repair::decide(object, copies, servers, random) {
        Step::Wait { .. } if is_coming && repair::lasting(copies) >= object.copies as usize => Step::Nothing,
        Step::Trim { why: CauseWord::Surplus, .. } if goes_best(object, lasting(copies), from) => {
            Step::Trim { server: from, why: CauseWord::Rebalanced }
        }
        step => step,
    }
}

fn lasting<'s>(copies: &'s [CopyFacts<'s>]) -> impl Iterator<Item = &'s ServerFacts> {
    copies.iter().filter(|copy| !copy.copying && copy.server.lasts()).map(|copy| copy.server)
}

/// Why nothing is moved while servers are so.
pub fn hindrance(servers: &[ServerFacts], name: impl Fn(ServerId) -> String) -> Option<String> {
    use crate::types::api::Health;
    let away = servers.iter().filter(|server| server.in_service() && !server.gone);
    let mut away = away.filter(|server| server.health != Health::Live || server.failing || server.syncing);
    away.next().map(|server| format!("it waits until {} is well", name(server.place.server)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::placement::Candidate;
    use crate::decisions::repair::spread;
    use crate::types::api::{AdminState, Health};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const ROOM: u64 = 1 << 40;

    fn server(id: i64, host: &str, zone: &str) -> ServerFacts {
        ServerFacts {
            place: Candidate { server: ServerId(id), host: host.into(), zone: zone.into(), free_bytes: ROOM },
            capacity_bytes: ROOM,
            health: Health::Live,
            gone: false,
            admin_state: AdminState::InService,
            syncing: false,
            alarmed: false,
            failing: false,
            can_keep: true,
        }
    }

    fn levels(bytes: &[u64], within: u32) -> Levels {
        let level = |(id, bytes): (usize, &u64)| Level { server: ServerId(id as i64), bytes: *bytes, room_bytes: ROOM };
        Levels::new(bytes.iter().enumerate().map(level), within)
    }

    fn copies<'s>(servers: &'s [ServerFacts], on: &[usize]) -> Vec<CopyFacts<'s>> {
        on.iter().map(|index| CopyFacts { server: &servers[*index], copying: false }).collect()
    }

    const OBJECT: Object = Object { copies: 2, size: 10, allow_same_host: false };

    #[test]
    fn levels_tell_who_gives_and_how_much() {
        let of = levels(&[300, 200, 100, 0], 5);
        assert_eq!((of.is_even(), of.givers()), (false, vec![ServerId(0), ServerId(1), ServerId(2)]));
        // Even are 150 each; the two that are over have 200 together, less the tolerance.
        assert!((190..=200).contains(&of.left_bytes()), "{}", of.left_bytes());
        let even = levels(&[100, 102, 98, 100], 5);
        assert_eq!((even.is_even(), even.left_bytes(), even.givers()), (true, 0, vec![]));
        assert!(levels(&[], 5).is_even() && levels(&[0, 0], 5).is_even(), "nothing is even");
        let one_unknown = Levels::new([Level { server: ServerId(1), bytes: 9, room_bytes: 0 }], 5);
        assert!(one_unknown.is_even() && one_unknown.givers().is_empty());
    }

    #[test]
    fn a_copy_moves_to_the_emptiest_server_that_may_have_it() {
        let mut servers: Vec<ServerFacts> = (0..4).map(|id| server(id, &format!("h{id}"), "")).collect();
        let of = levels(&[300, 300, 200, 0], 5);
        let to = |servers: &[ServerFacts], object: &Object, on: &[usize]| {
            target(object, &copies(servers, on), ServerId(0), servers, &of).map(|id| id.0)
        };
        assert_eq!(to(&servers, &OBJECT, &[0, 1]), Some(3));
        assert_eq!(to(&servers, &OBJECT, &[0, 3]), Some(2), "the emptiest has one");
        assert_eq!(to(&servers, &Object { size: 700, ..OBJECT }, &[0, 1]), None, "it would tip over");
        assert_eq!(to(&servers, &Object { size: 300, ..OBJECT }, &[0, 1]), None, "they would only change places");
        assert_eq!(to(&servers, &Object { size: 0, ..OBJECT }, &[0, 1]), None, "nothing is more even then");
        assert_eq!(to(&servers, &OBJECT, &[0]), None, "it is short");
        assert_eq!(to(&servers, &OBJECT, &[0, 1, 2]), None, "it has one too many");
        servers[1].health = Health::Suspect;
        assert_eq!(to(&servers, &OBJECT, &[0, 1]), None, "the other copy is not certain");
        assert_eq!(to(&servers, &OBJECT, &[0, 2]), Some(3));
        type Change = fn(&mut ServerFacts);
        let no_targets: [Change; 6] = [
            |server| server.admin_state = AdminState::Draining,
            |server| server.health = Health::Down,
            |server| server.alarmed = true,
            |server| server.can_keep = false,
            |server| server.syncing = true,
            |server| server.place.free_bytes = 5,
        ];
        for change in no_targets {
            let mut servers = servers.clone();
            change(&mut servers[3]);
            assert_ne!(to(&servers, &OBJECT, &[0, 2]), Some(3), "{:?}", servers[3]);
        }
    }

    #[test]
    fn hosts_and_zones_do_not_get_worse() {
        let of = levels(&[300, 300, 0], 5);
        let to = |servers: &[ServerFacts]| target(&OBJECT, &copies(servers, &[0, 1]), ServerId(0), servers, &of);
        assert_eq!(to(&[server(0, "a", "x"), server(1, "b", "y"), server(2, "c", "y")]), None, "two would be in y");
        assert_eq!(to(&[server(0, "a", "x"), server(1, "b", "y"), server(2, "c", "x")]), Some(ServerId(2)));
        assert_eq!(to(&[server(0, "a", ""), server(1, "b", ""), server(2, "b", "")]), None, "two would be on b");
        assert_eq!(
            to(&[server(0, "a", ""), server(1, "b", ""), server(2, "a", "")]),
            Some(ServerId(2)),
            "another disk"
        );
    }

    #[test]
    fn the_copy_that_moves_is_the_one_that_goes() {
        let servers: Vec<ServerFacts> = (0..3).map(|id| server(id, &format!("h{id}"), "")).collect();
        let mut on = copies(&servers, &[0, 1, 2]);
        for seed in 0..50 {
            let step = decide(&OBJECT, &on, &servers, ServerId(0), &mut StdRng::seed_from_u64(seed));
            assert_eq!(step, Step::Trim { server: ServerId(0), why: CauseWord::Rebalanced });
        }
        on[2].copying = true;
        let random = &mut StdRng::seed_from_u64(1);
        assert_eq!(decide(&OBJECT, &on, &servers, ServerId(0), random), Step::Nothing, "it is on its way");
        let short = Object { copies: 3, ..OBJECT };
        assert!(matches!(decide(&short, &on, &servers, ServerId(0), random), Step::Wait { .. }));
    }

    #[test]
    fn nothing_moves_while_a_server_is_away() {
        let mut servers = vec![server(0, "a", ""), server(1, "b", "")];
        let waits = |servers: &[ServerFacts]| hindrance(servers, |id| format!("s{id}"));
        assert_eq!(waits(&servers), None);
        servers[1].health = Health::Down;
        assert!(waits(&servers).is_some_and(|why| why.contains('1')));
        servers[1].gone = true;
        assert_eq!(waits(&servers), None, "its copies were made anew elsewhere");
    }

    /// Files on servers, moved until nothing moves any more; each step as repair and rebalancing decide it.
    struct World {
        servers: Vec<ServerFacts>,
        rooms: Vec<u64>,
        files: Vec<(Object, Vec<usize>)>,
    }

    impl World {
        fn levels(&self, within: u32) -> Levels {
            let bytes = |server: usize| {
                self.files.iter().filter(|(_, on)| on.contains(&server)).map(|(object, _)| object.size).sum()
            };
            let level = |server: usize| Level {
                server: ServerId(server as i64),
                bytes: bytes(server),
                room_bytes: self.rooms[server],
            };
            Levels::new((0..self.servers.len()).map(level), within)
        }

        /// Lets repair settle what a file needs; answers whether it has settled.
        fn settle(&mut self, file: usize, random: &mut StdRng) -> bool {
            for _ in 0..20 {
                let (object, on) = &self.files[file];
                match repair::decide(object, &copies(&self.servers, on), &self.servers, random) {
                    Step::Copy { target, .. } => self.files[file].1.push(target.0 as usize),
                    Step::Trim { server, .. } => {
                        self.files[file].1.retain(|index| *index != server.0 as usize);
                        assert!(self.files[file].1.len() >= self.files[file].0.copies as usize, "never short");
                    }
                    _ => return true,
                }
            }
            false
        }

        fn spread(&self, file: usize) -> (usize, usize) {
            let (object, on) = &self.files[file];
            spread(object, &on.iter().map(|index| &self.servers[*index]).collect::<Vec<_>>())
        }

        /// One move, if any is left.
        fn step(&mut self, within: u32, random: &mut StdRng) -> Option<usize> {
            let levels = self.levels(within);
            for from in levels.givers() {
                for file in 0..self.files.len() {
                    let (object, on) = &self.files[file];
                    if !on.contains(&(from.0 as usize)) {
                        continue;
                    }
                    let Some(to) = target(object, &copies(&self.servers, on), from, &self.servers, &levels) else {
                        continue;
                    };
                    let before = self.spread(file);
                    self.files[file].1.push(to.0 as usize);
                    let (object, on) = &self.files[file];
                    let next = decide(object, &copies(&self.servers, on), &self.servers, from, random);
                    assert_eq!(
                        next,
                        Step::Trim { server: from, why: CauseWord::Rebalanced },
                        "the one that moves goes"
                    );
                    self.files[file].1.retain(|index| *index != from.0 as usize);
                    let (moved, on) = (self.spread(file), self.files[file].1.clone());
                    assert!(moved >= before, "spread worse");
                    assert!(self.settle(file, random), "repair goes on for ever");
                    // Repair draws among places, and may find only now one that spreads a file better.
                    let is_better = self.spread(file) > moved;
                    assert!(self.files[file].1 == on || is_better, "repair undoes a move");
                    return Some(file);
                }
            }
            None
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever the servers and files are: rebalancing ends, with servers as even as they are to be or with no move
        /// left; on the way no file is short or spread worse, and repair undoes nothing.
        #[test]
        fn it_ends_and_nothing_undoes_it(
            places in proptest::collection::vec((0u8..4, 0u8..3, 1u64..4, 0u8..12), 2..7),
            sizes in proptest::collection::vec((0u64..100_000, 1u32..4), 1..40),
            within in 1u32..30, allow_same_host: bool, seed: u64,
        ) {
            let mut random = StdRng::seed_from_u64(seed);
            let servers: Vec<ServerFacts> = places.iter().enumerate().map(|(id, (host, zone, _, sick))| ServerFacts {
                can_keep: *sick != 1,
                alarmed: *sick == 2,
                admin_state: if *sick == 3 { AdminState::Draining } else { AdminState::InService },
                ..server(id as i64, &format!("h{host}"), &format!("z{zone}"))
            }).collect();
            let count = servers.len();
            let files = sizes.iter().map(|(size, wanted)| {
                let wanted = (*wanted).min(count as u32);
                let first = random.random_range(0..count);
                let on = (0..wanted as usize).map(|copy| (first + copy) % count).collect();
                (Object { copies: wanted, size: *size, allow_same_host }, on)
            }).collect();
            let rooms = places.iter().map(|(.., room, _)| room << 30).collect();
            let mut world = World { servers, rooms, files };
            // Whatever repair has to do comes first.
            for file in 0..world.files.len() {
                prop_assert!(world.settle(file, &mut random));
            }
            let mut moves = 0;
            while world.step(within, &mut random).is_some() {
                moves += 1;
                prop_assert!(moves < 5_000, "it never ends");
            }
            let levels = world.levels(within);
            if levels.is_even() {
                prop_assert_eq!(levels.left_bytes(), 0);
            }
        }

        /// With many small files and nothing in the way servers end as even as they are to be, whatever their room.
        #[test]
        fn small_files_end_even(rooms in proptest::collection::vec(1u64..5, 3..7), within in 2u32..20, seed: u64) {
            let mut random = StdRng::seed_from_u64(seed);
            let servers: Vec<ServerFacts> =
                (0..rooms.len()).map(|id| server(id as i64, &format!("h{id}"), "")).collect();
            let files = (0..300).map(|_| (Object { size: 10, copies: 1, ..OBJECT }, vec![random.random_range(0..2)]));
            let rooms = rooms.iter().map(|room| room << 30).collect();
            let mut world = World { servers, rooms, files: files.collect() };
            while world.step(within, &mut random).is_some() {}
            let levels = world.levels(within);
            // One file more or less is finer than nothing.
            let finest = 10.0 / (levels.even() * f64::from(1 << 30));
            prop_assert!(levels.difference() <= f64::from(within) / 100.0 + finest, "{levels:?}");
        }
    }
}
