//! Where the copies of a new object go.
//!
//! Copies go to different servers, to different hosts unless the cluster allows otherwise, and to different
//! zones while there are enough of them. Among equals the choice is random, weighted by free room, so that
//! servers fill evenly and a new one is not flooded.

use rand::Rng;

use crate::types::words::counted;
use crate::types::{Error, ErrorCode, Result, ServerId};

/// Bytes that are left free on every server beyond the object itself.
const MARGIN_BYTES: u64 = 16 << 20;

/// Whether a file of `size` bytes may be put where so many are free.
pub fn has_room(free_bytes: u64, size: u64) -> bool {
    free_bytes >= size.saturating_add(MARGIN_BYTES)
}

/// A server that may get a copy.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The server.
    pub server: ServerId,
    /// The machine it runs on.
    pub host: String,
    /// Rack, room or site; empty when not told.
    pub zone: String,
    /// Bytes that new objects may take.
    pub free_bytes: u64,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Copies.
    pub copies: u32,
    /// With fewer than these the write is refused.
    pub copies_min: u32,
    /// Bytes of the object, as far as known.
    pub size: u64,
    /// Whether two copies may be on one host.
    pub allow_same_host: bool,
}

/// Chooses servers among the live ones that take files. Answers at least `copies_min`.
pub fn choose(candidates: &[Candidate], wanted: &Wanted, random: &mut impl Rng) -> Result<Vec<ServerId>> {
    let fits = |candidate: &&Candidate| candidate.free_bytes >= wanted.size.saturating_add(MARGIN_BYTES);
    let mut open: Vec<&Candidate> = candidates.iter().filter(fits).collect();
    let mut chosen: Vec<&Candidate> = Vec::new();
    while chosen.len() < wanted.copies as usize {
        let Some(best_rank) = open.iter().filter_map(|candidate| rank(candidate, &chosen, wanted)).min() else { break };
        let equals: Vec<usize> =
            (0..open.len()).filter(|index| rank(open[*index], &chosen, wanted) == Some(best_rank)).collect();
        let pick = weighted(&equals, &open, random);
        chosen.push(open.swap_remove(pick));
    }
    if chosen.len() < wanted.copies_min as usize {
        return Err(too_few(candidates, wanted, chosen.len()));
    }
    Ok(chosen.into_iter().map(|candidate| candidate.server).collect())
}

/// One more server beside those that have copies already, or `None` when none is allowed and has room.
pub fn choose_one_more(
    candidates: &[Candidate],
    beside: &[Candidate],
    size: u64,
    allow_same_host: bool,
    random: &mut impl Rng,
) -> Option<ServerId> {
    let wanted = Wanted { copies: 1, copies_min: 1, size, allow_same_host };
    let beside: Vec<&Candidate> = beside.iter().collect();
    let open: Vec<&Candidate> =
        candidates.iter().filter(|candidate| candidate.free_bytes >= size.saturating_add(MARGIN_BYTES)).collect();
    let best_rank = open.iter().filter_map(|candidate| rank(candidate, &beside, &wanted)).min()?;
    let equals: Vec<usize> =
        (0..open.len()).filter(|index| rank(open[*index], &beside, &wanted) == Some(best_rank)).collect();
    Some(open[weighted(&equals, &open, random)].server)
}

/// How undesirable a candidate is beside those chosen; `None` when it is not allowed.
fn rank(candidate: &Candidate, chosen: &[&Candidate], wanted: &Wanted) -> Option<(bool, bool)> {
    let same_host = chosen.iter().any(|other| other.host == candidate.host);
    let same_zone = !candidate.zone.is_empty() && chosen.iter().any(|other| other.zone == candidate.zone);
    if same_host && !wanted.allow_same_host { None } else { Some((same_zone, same_host)) }
}

/// A random index among `equals`, weighted by free room.
fn weighted(equals: &[usize], open: &[&Candidate], random: &mut impl Rng) -> usize {
    // Whole mebibytes keep the sum far from overflow.
    let weight = |index: usize| (open[index].free_bytes >> 20).max(1);
    let sum: u64 = equals.iter().map(|index| weight(*index)).sum();
    let mut point = random.random_range(0..sum.max(1));
    for index in equals {
        match point.checked_sub(weight(*index)) {
            Some(rest) => point = rest,
            None => return *index,
        }
    }
    equals.last().copied().unwrap_or(0)
}

/// Names the constraint that failed: servers, hosts or room.
fn too_few(candidates: &[Candidate], wanted: &Wanted, possible: usize) -> Error {
    let needed = wanted.copies_min;
    let live = candidates.len();
    let mut hosts: Vec<&str> = candidates.iter().map(|candidate| candidate.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let enough = if wanted.allow_same_host { live } else { hosts.len() } >= needed as usize;
    if enough {
        let message = format!(
            "{} fit on {possible} of {live} live storage servers, {needed} {} needed; free some room or add a server",
            counted(wanted.size, "byte"),
            if needed == 1 { "is" } else { "are" },
        );
        return Error::new(ErrorCode::OutOfSpace, message);
    }
    let on_hosts = match (wanted.allow_same_host, live) {
        (true, _) | (_, 1) => String::new(),
        (false, _) => format!(" on {}", counted(hosts.len() as u64, "different host")),
    };
    let there = match live {
        1 => "1 storage server is live and takes files".to_string(),
        live => format!("{live} storage servers are live and take files"),
    };
    let message = format!(
        "{there}{on_hosts}, {needed} {} needed{}; `holdfast servers` shows them",
        if needed == 1 { "is" } else { "are" },
        if wanted.allow_same_host { "" } else { ", each on a host of its own" }
    );
    Error::new(ErrorCode::NotEnoughServers, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::collections::HashSet;

    fn candidate(server: i64, host: &str, zone: &str, free_bytes: u64) -> Candidate {
        Candidate { server: ServerId(server), host: host.into(), zone: zone.into(), free_bytes }
    }

    fn wanted(copies: u32, copies_min: u32) -> Wanted {
        Wanted { copies, copies_min, size: 1, allow_same_host: false }
    }

    #[test]
    fn errors_name_the_constraint() {
        let mut random = StdRng::seed_from_u64(1);
        let two_on_one_host = [candidate(1, "a", "", 1 << 40), candidate(2, "a", "", 1 << 40)];
        let error = choose(&two_on_one_host, &wanted(2, 2), &mut random).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotEnoughServers);
        assert!(error.message().contains("2 are needed"), "{error}");
        let same_host = Wanted { allow_same_host: true, ..wanted(2, 2) };
        assert_eq!(choose(&two_on_one_host, &same_host, &mut random).unwrap().len(), 2);
        let one_full = [candidate(1, "a", "", 1 << 40), candidate(2, "b", "", 5)];
        assert_eq!(choose(&one_full, &wanted(2, 2), &mut random).unwrap_err().code(), ErrorCode::OutOfSpace);
        assert_eq!(choose(&one_full, &wanted(2, 1), &mut random).unwrap(), [ServerId(1)]);
    }

    #[test]
    fn zones_differ_while_there_are_enough() {
        let servers =
            [candidate(1, "a", "x", 1 << 40), candidate(2, "b", "x", 1 << 40), candidate(3, "c", "y", 1 << 30)];
        for seed in 0..50 {
            let chosen = choose(&servers, &wanted(2, 2), &mut StdRng::seed_from_u64(seed)).unwrap();
            assert!(chosen.contains(&ServerId(3)), "{chosen:?}");
            assert_eq!(choose(&servers, &wanted(3, 2), &mut StdRng::seed_from_u64(seed)).unwrap().len(), 3);
        }
    }

    #[test]
    fn room_decides_how_often() {
        let servers = [candidate(1, "a", "", 3 << 30), candidate(2, "b", "", 1 << 30)];
        let mut random = StdRng::seed_from_u64(7);
        let first =
            (0..1_000).filter(|_| choose(&servers, &wanted(1, 1), &mut random).unwrap() == [ServerId(1)]).count();
        assert!((650..850).contains(&first), "{first}");
    }

    proptest! {
        #[test]
        fn choices_are_legal(
            hosts in proptest::collection::vec((0u8..5, 0u8..3, 0u64..(1 << 30)), 0..12),
            copies in 1u32..5, copies_min in 1u32..3, allow_same_host: bool, seed: u64,
        ) {
            let servers: Vec<Candidate> = hosts.iter().enumerate()
                .map(|(i, (host, zone, free))| candidate(i as i64, &format!("h{host}"), &format!("z{zone}"), *free))
                .collect();
            let wanted = Wanted { copies, copies_min: copies_min.min(copies), size: 1 << 20, allow_same_host };
            if let Ok(chosen) = choose(&servers, &wanted, &mut StdRng::seed_from_u64(seed)) {
                prop_assert!(chosen.len() >= wanted.copies_min as usize && chosen.len() <= copies as usize);
                let distinct: HashSet<_> = chosen.iter().collect();
                prop_assert_eq!(distinct.len(), chosen.len());
                let hosts: HashSet<_> = chosen.iter().map(|s| &servers[s.0 as usize].host).collect();
                prop_assert!(allow_same_host || hosts.len() == chosen.len());
                prop_assert!(chosen.iter().all(|s| servers[s.0 as usize].free_bytes > wanted.size));
            }
        }
    }
}
