//! What the maintained numbers say of the cluster as it is now.
//!
//! They are kept by the set of servers that have a copy and by the copies wanted, not by health: a server that dies changes
//! what millions of objects are short of, and no row. Fifty servers with three copies of everything make about twenty
//! thousand sets, whatever the number of objects; what is asked is worked out from those.

use std::collections::BTreeMap;

use crate::types::ServerId;
use crate::types::api::CopiesCount;

/// Live objects that the same servers have copies of, and that want the same number of copies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// All servers that are listed for a copy which is present.
    pub servers: Vec<ServerId>,
    /// Copies wanted.
    pub copies_wanted: u32,
    /// How many.
    pub objects: u64,
    /// Their bytes, once each.
    pub bytes: u64,
}

/// What is on one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OnServer {
    /// Copies that are present.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that no other server which is up has a copy of; none, of a server that is not up itself.
    pub alone: u64,
    /// Their bytes.
    pub alone_bytes: u64,
}

/// The numbers of the report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Live objects.
    pub objects: u64,
    /// Their bytes, once each.
    pub bytes: u64,
    /// Those with fewer copies on servers that are up than they want, by that number of copies.
    pub short: Vec<CopiesCount>,
    /// Those that no server is listed for.
    pub lost: u64,
    /// By server.
    pub servers: BTreeMap<ServerId, OnServer>,
}

/// Works the numbers out; `is_up` tells the servers whose copies can be counted on.
pub fn figures(held: &[Held], is_up: impl Fn(ServerId) -> bool) -> Figures {
    let mut figures = Figures::default();
    let mut short: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for held in held {
        let (objects, bytes) = (held.objects, held.bytes);
        figures.objects += objects;
        figures.bytes += bytes;
        let up: Vec<ServerId> = held.servers.iter().copied().filter(|server| is_up(*server)).collect();
        if (up.len() as u64) < u64::from(held.copies_wanted) {
            let row = short.entry(up.len() as u32).or_default();
            *row = (row.0 + objects, row.1 + bytes);
        }
        if held.servers.is_empty() && held.copies_wanted > 0 {
            figures.lost += objects;
        }
        for server in &held.servers {
            let on = figures.servers.entry(*server).or_default();
            on.copies += objects;
            on.bytes += bytes;
            if up == [*server] {
                on.alone += objects;
                on.alone_bytes += bytes;
            }
        }
    }
    let row = |(copies, (objects, bytes)): (u32, (u64, u64))| CopiesCount { copies, objects, bytes };
    figures.short = short.into_iter().filter(|(_, (objects, _))| *objects > 0).map(row).collect();
    figures
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(servers: &[i64], copies_wanted: u32, objects: u64, bytes: u64) -> Held {
        Held { servers: servers.iter().copied().map(ServerId).collect(), copies_wanted, objects, bytes }
    }

    #[test]
    fn health_changes_the_figures_and_no_row() {
        let rows = [held(&[1, 2], 2, 10, 100), held(&[1, 3], 3, 5, 50), held(&[2], 2, 1, 7), held(&[], 2, 2, 9)];
        let all = figures(&rows, |_| true);
        assert_eq!((all.objects, all.bytes, all.lost), (18, 166, 2));
        let short = |copies, objects, bytes| CopiesCount { copies, objects, bytes };
        assert_eq!(all.short, [short(0, 2, 9), short(1, 1, 7), short(2, 5, 50)]);
        assert_eq!(all.servers[&ServerId(1)], OnServer { copies: 15, bytes: 150, alone: 0, alone_bytes: 0 });
        assert_eq!(all.servers[&ServerId(2)], OnServer { copies: 11, bytes: 107, alone: 1, alone_bytes: 7 });

        let without_1 = figures(&rows, |server| server != ServerId(1));
        assert_eq!(without_1.short, [short(0, 2, 9), short(1, 16, 157)]);
        assert_eq!(without_1.servers[&ServerId(1)], OnServer { copies: 15, bytes: 150, alone: 0, alone_bytes: 0 });
        assert_eq!(without_1.servers[&ServerId(2)].alone, 11);
        assert_eq!(without_1.servers[&ServerId(3)].alone, 5);
        assert_eq!(figures(&[], |_| true), Figures::default());
    }

    proptest! {
        /// Against the same question asked of each object.
        #[test]
        fn they_are_what_a_count_of_objects_says(
            objects in prop::collection::vec((prop::collection::btree_set(1i64..6, 0..4), 1u32..4, 0u64..9), 0..40),
            down in prop::collection::btree_set(1i64..6, 0..6),
        ) {
            let rows: Vec<Held> = objects.iter().map(|(servers, wanted, size)| {
                held(&servers.iter().copied().collect::<Vec<_>>(), *wanted, 1, *size)
            }).collect();
            let figures = figures(&rows, |server| !down.contains(&server.0));
            let up = |servers: &std::collections::BTreeSet<i64>| servers.difference(&down).count() as u32;
            for copies in 0..4 {
                let expected = objects.iter().filter(|(s, wanted, _)| up(s) == copies && up(s) < *wanted).count() as u64;
                let said = figures.short.iter().find(|row| row.copies == copies).map_or(0, |row| row.objects);
                prop_assert_eq!(said, expected);
            }
            for server in 1..6 {
                let on = figures.servers.get(&ServerId(server)).copied().unwrap_or_default();
                let has = |s: &std::collections::BTreeSet<i64>| s.contains(&server);
                prop_assert_eq!(on.copies, objects.iter().filter(|(s, ..)| has(s)).count() as u64);
                let alone = objects.iter().filter(|(s, ..)| has(s) && !down.contains(&server) && up(s) == 1);
                prop_assert_eq!(on.alone_bytes, alone.map(|(.., size)| size).sum::<u64>());
            }
            prop_assert_eq!(figures.lost, objects.iter().filter(|(s, ..)| s.is_empty()).count() as u64);
        }
    }
}
