//! Whether a storage server may leave: what would be left must be enough for writes, and for the copies that files want.

/// A storage server, as far as it can be given copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What people call it.
    pub name: String,
    /// The machine it runs on.
    pub host: String,
    /// It is in service, not down, and can keep files.
    pub takes_copies: bool,
}

/// What an operator set.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Copies that a write needs; by default the smaller of 2 and the number wanted.
    pub min_write_copies: Option<u32>,
    /// Whether two copies may be on one host.
    pub allow_same_host: bool,
}

impl Rules {
    /// Copies that a write of something needs that wants `copies`.
    pub fn write_needs(&self, copies: u32) -> u32 {
        self.min_write_copies.unwrap_or(2).min(copies).max(1)
    }
}

/// Copies that are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// By the root directory.
    pub root: u32,
    /// By the directory that wants most.
    pub most: u32,
}

/// What would happen to the cluster without the server of this name; `None` when nothing would. One that takes no
/// copies as it is changes nothing by leaving.
pub fn objection(all: &[Place], leaves: usize, wanted: Wanted, rules: Rules) -> Option<String> {
    if !all.get(leaves)?.takes_copies {
        return None;
    }
    let mut left: Vec<&Place> = Vec::new();
    for (index, place) in all.iter().enumerate().filter(|(_, place)| place.takes_copies) {
        let host_is_taken = left.iter().any(|other| other.host == place.host);
        if index != leaves && (rules.allow_same_host || !host_is_taken) {
            left.push(place);
        }
    }
    let count = left.len() as u32;
    let who = match (count, rules.allow_same_host) {
        (0, _) => "no storage server would be left that takes copies".to_string(),
        (1, _) => format!("only 1 storage server ({}) would be left that takes copies", left[0].name),
        (_, true) => format!("only {count} storage servers would be left that take copies"),
        (_, false) => format!("only {count} storage servers on hosts of their own would be left that take copies"),
    };
    let needed = rules.write_needs(wanted.root);
    if count < needed {
        return Some(format!("writes would be refused: {who}, and a write needs {needed}"));
    }
    (count < wanted.most).then(|| {
        format!(
            "its copies could not all be replaced, so it would never be drained: {who}, and there are files that want {}",
            wanted.most
        )
    })
}

/// What would happen if `copies` were wanted from now on, and nothing else changed; `None` when nothing would.
pub fn objection_to_copies(all: &[Place], copies: u32, rules: Rules) -> Option<String> {
    let mut hosts: Vec<&str> = all.iter().filter(|place| place.takes_copies).map(|place| place.host.as_str()).collect();
    if !rules.allow_same_host {
        hosts.sort_unstable();
        hosts.dedup();
    }
    let (count, needed) = (hosts.len() as u32, rules.write_needs(copies));
    (count < needed).then(|| {
        format!("writes there would be refused: {count} storage servers take copies, and a write would need {needed}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { min_write_copies: None, allow_same_host: false };

    fn places(hosts: &[(&str, bool)]) -> Vec<Place> {
        let place = |(number, (host, takes_copies)): (usize, &(&str, bool))| Place {
            name: format!("s{number}"),
            host: (*host).into(),
            takes_copies: *takes_copies,
        };
        hosts.iter().enumerate().map(place).collect()
    }

    #[test]
    fn what_would_hurt_is_said_with_its_numbers() {
        let (two, three) = (Wanted { root: 2, most: 2 }, Wanted { root: 2, most: 3 });
        let one = Wanted { root: 1, most: 1 };
        let same = Rules { allow_same_host: true, ..RULES };
        let strict = Rules { min_write_copies: Some(3), ..RULES };
        let all = |count: usize| (0..count).map(|_| ("", true)).collect::<Vec<_>>();
        let apart = [("a", true), ("b", true), ("c", true), ("d", true)];
        for (servers, leaves, wanted, rules, expected) in [
            (&apart[..3], 0, two, RULES, None),
            (&apart[..2], 0, two, RULES, Some("only 1 storage server (s1) would be left")),
            (&apart[..1], 0, two, RULES, Some("no storage server would be left")),
            (&apart[..2], 0, one, RULES, None),
            (&apart[..3], 0, three, RULES, Some("never be drained")),
            (&apart[..4], 0, three, RULES, None),
            // What a write needs is never more than what is wanted.
            (&apart[..3], 0, two, strict, None),
            (&apart[..3], 0, Wanted { root: 3, most: 3 }, strict, Some("a write needs 3")),
            // Those that are down, or leave already, are not there to be counted on.
            (&[("a", true), ("b", true), ("c", false)], 0, two, RULES, Some("a write needs 2")),
            (&[("a", true), ("b", true), ("c", false)], 2, two, RULES, None),
            // Two on one host are one place.
            (&[("a", true), ("b", true), ("b", true)], 0, two, RULES, Some("a write needs 2")),
            (&[("a", true), ("b", true), ("b", true)], 1, two, RULES, None),
            (&all(3)[..], 0, two, same, None),
            (&all(2)[..], 0, two, same, Some("a write needs 2")),
        ] {
            let said = objection(&places(servers), leaves, wanted, rules);
            match (&said, expected) {
                (None, None) => {}
                (Some(said), Some(part)) if said.contains(part) => {}
                _ => panic!("{servers:?} without {leaves}: {said:?} instead of {expected:?}"),
            }
        }
        assert_eq!(objection(&places(&apart), 9, two, RULES), None, "nobody leaves");
    }

    #[test]
    fn more_copies_than_a_write_finds_places_for_are_objected_to() {
        let all = places(&[("a", true), ("b", false)]);
        assert!(objection_to_copies(&all, 2, RULES).unwrap().contains("1 storage servers take copies"));
        assert_eq!(objection_to_copies(&all, 1, RULES), None);
        assert_eq!(objection_to_copies(&places(&[("a", true), ("b", true)]), 5, RULES), None, "a write needs 2 of 5");
    }
}
