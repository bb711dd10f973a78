//! Which objects are looked at next, because something has changed for them: the order of scans.
//!
//! The copies of a server that is gone come before everything else that could be looked at, and those that wait for the
//! servers to change beside them; scans that are equally urgent take turns, page by page. Nothing of this is in the
//! database: whoever begins to act scans everything.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::db::scan::{Cursor, Range};
use crate::decisions::repair::ServerFacts;
use crate::types::api::{AdminState, Health};

/// Between two pages of the slow scan.
const SLOW_SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// A server has got room when it has so much more than at its fullest since that was told last, and at least a quarter
/// more. What is written and removed all the time is no news.
const ROOM_BYTES_MIN: u64 = 256 << 20;

/// What of a server decides about its copies; when it changes, they are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    gone: bool,
    syncing: bool,
    alarmed: bool,
    failing: bool,
    can_keep: bool,
    admin_state: AdminState,
    host: String,
    zone: String,
}

/// A server, as far as it may change what can be done for objects.
#[derive(Debug, Clone)]
struct Seen {
    class: Class,
    live: bool,
    /// The least free bytes since more of them were told as news.
    low_bytes: u64,
}

impl Seen {
    fn of(facts: &ServerFacts) -> Self {
        let class = Class {
            gone: facts.gone,
            syncing: facts.syncing,
            alarmed: facts.alarmed,
            failing: facts.failing,
            can_keep: facts.can_keep,
            admin_state: facts.admin_state,
            host: facts.place.host.clone(),
            zone: facts.place.zone.clone(),
        };
        Self { class, live: facts.health == Health::Live, low_bytes: facts.place.free_bytes }
    }
}

/// A scan under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scan {
    range: Range,
    after: Cursor,
    /// The smaller the more urgent.
    urgency: u8,
}

/// Scans under way. Lost when the process ends: the next one begins with a scan of everything.
#[derive(Default)]
pub struct Scans {
    term: i64,
    servers: HashMap<i64, Seen>,
    /// One for each range at most.
    fast: VecDeque<Scan>,
    slow_after: Option<Cursor>,
    slow_last: Option<Instant>,
}

impl Scans {
    fn want(&mut self, range: Range, urgency: u8) {
        self.fast.retain(|scan| scan.range != range);
        self.fast.push_back(Scan { range, after: Cursor::START, urgency });
    }

    /// Notes how the servers are.
    pub fn note(&mut self, term: i64, servers: &[ServerFacts]) {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
        let mut before = std::mem::take(&mut self.servers);
        let mut news = false;
        let mut wanted = Vec::new();
        for facts in servers {
            let id = facts.place.server.0;
            let mut now = Seen::of(facts);
            match before.remove(&id) {
                // Another place may crowd any object, and a new server may take any.
                None => wanted.push((Range::All, 2)),
                Some(seen) if (&seen.class.host, &seen.class.zone) != (&now.class.host, &now.class.zone) => {
                    wanted.push((Range::All, 2));
                }
                Some(seen) => {
                    if seen.class != now.class {
                        let endangers = now.class.gone || now.class.failing;
                        wanted.push((Range::Server(id), u8::from(!endangers)));
                    }
                    let low = seen.low_bytes.min(now.low_bytes);
                    let has_room = now.low_bytes - low >= (low / 4).max(ROOM_BYTES_MIN);
                    news |= has_room || now.live && !seen.live;
                    now.low_bytes = if has_room { now.low_bytes } else { low };
                }
            }
            self.servers.insert(id, now);
        }
        news |= !wanted.is_empty() || !before.is_empty();
        wanted.into_iter().for_each(|(range, urgency)| self.want(range, urgency));
        if news {
            self.want(Range::Waiting, 0);
        }
    }

    /// The next page to scan: the most urgent one, else a slow one when its time has come. The first value says which.
    pub fn next_page(&mut self) -> Option<(bool, Range, Cursor)> {
        // The first of those that are equally urgent.
        if let Some(scan) = self.fast.iter().min_by_key(|scan| scan.urgency) {
            return Some((true, scan.range, scan.after));
        }
        if self.slow_last.is_some_and(|last| last.elapsed() < SLOW_SCAN_INTERVAL) {
            return None;
        }
        self.slow_last = Some(Instant::now());
        Some((false, Range::All, self.slow_after.unwrap_or(Cursor::START)))
    }

    /// Notes that a page was scanned, and where the next one begins.
    pub fn scanned(&mut self, fast: bool, range: Range, next: Option<Cursor>) {
        if !fast {
            self.slow_after = next;
        } else if let Some(index) = self.fast.iter().position(|scan| scan.range == range)
            && let Some(scan) = self.fast.remove(index)
            && let Some(after) = next
        {
            self.fast.push_back(Scan { after, ..scan });
        }
    }

    /// Whether there is more to scan at once.
    pub fn is_busy(&self) -> bool {
        !self.fast.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::placement::Candidate;
    use crate::types::ServerId;

    fn server(id: i64) -> ServerFacts {
        ServerFacts {
            place: Candidate { server: ServerId(id), host: "h".into(), zone: String::new(), free_bytes: 1 << 40 },
            capacity_bytes: 1 << 41,
            health: Health::Live,
            gone: false,
            failing: false,
            can_keep: true,
            admin_state: AdminState::InService,
            syncing: false,
            alarmed: false,
        }
    }

    fn object(object: i64) -> Cursor {
        Cursor { object, ..Cursor::START }
    }

    /// Scans that have looked at everything once.
    fn settled(servers: &[ServerFacts]) -> Scans {
        let mut scans = Scans::default();
        scans.note(1, servers);
        while let Some((true, range, _)) = scans.next_page() {
            scans.scanned(true, range, None);
        }
        scans
    }

    /// What is scanned, in which order, when nothing comes in between.
    fn order(scans: &mut Scans) -> Vec<Range> {
        let mut order = Vec::new();
        while let Some((true, range, _)) = scans.next_page() {
            order.push(range);
            scans.scanned(true, range, None);
        }
        order
    }

    #[test]
    fn what_changes_is_scanned() {
        let mut servers = vec![server(1), server(2)];
        let mut scans = Scans::default();
        scans.note(1, &servers);
        assert_eq!(order(&mut scans), [Range::Waiting, Range::All], "a new term looks at everything");
        scans.note(1, &servers);
        assert!(!scans.is_busy());
        servers[1].gone = true;
        scans.note(1, &servers);
        assert_eq!(order(&mut scans), [Range::Server(2), Range::Waiting], "a server that is gone");
        servers[1].place.zone = "z".into();
        scans.note(1, &servers);
        assert_eq!(order(&mut scans), [Range::Waiting, Range::All], "another zone may crowd any object");
        scans.note(2, &servers);
        assert!(scans.is_busy(), "a new term");
    }

    #[test]
    fn what_endangers_goes_before_what_was_begun() {
        let mut servers = vec![server(1), server(2), server(3)];
        let mut scans = Scans::default();
        scans.note(1, &servers);
        scans.scanned(true, Range::Waiting, None);
        assert_eq!(scans.next_page(), Some((true, Range::All, Cursor::START)));
        scans.scanned(true, Range::All, Some(object(7)));
        servers[1].admin_state = AdminState::Draining;
        servers[2].gone = true;
        scans.note(1, &servers);
        let want = [Range::Server(3), Range::Waiting, Range::Server(2), Range::All];
        let (mut rest, mut first) = (Vec::new(), scans.next_page());
        while let Some((true, range, after)) = first {
            assert_eq!(after, if range == Range::All { object(7) } else { Cursor::START }, "the long one goes on");
            rest.push(range);
            scans.scanned(true, range, None);
            first = scans.next_page();
        }
        assert_eq!(rest, want);
    }

    #[test]
    fn equally_urgent_scans_take_turns() {
        let mut servers = vec![server(1), server(2)];
        let mut scans = settled(&servers);
        servers[0].gone = true;
        scans.note(1, &servers);
        let mut ranges = Vec::new();
        for page in 1..=4 {
            let Some((true, range, _)) = scans.next_page() else { panic!() };
            scans.scanned(true, range, Some(object(page)));
            ranges.push(range);
        }
        assert_eq!(ranges, [Range::Server(1), Range::Waiting, Range::Server(1), Range::Waiting]);
    }

    #[test]
    fn those_that_wait_are_looked_at_when_a_server_answers_again_or_has_room() {
        let mut servers = vec![server(1), server(2)];
        let mut scans = settled(&servers);
        servers[0].health = Health::Suspect;
        scans.note(1, &servers);
        assert!(!scans.is_busy(), "that helps nobody");
        servers[0].health = Health::Live;
        scans.note(1, &servers);
        assert_eq!(order(&mut scans), [Range::Waiting]);
        for (free_bytes, want) in [
            (1 << 30, false),
            ((1 << 30) + 5, false),
            ((1 << 30) + (300 << 20), true),
            ((1 << 30) + (400 << 20), false),
            (3 << 30, true),
        ] {
            servers[1].place.free_bytes = free_bytes;
            scans.note(1, &servers);
            assert_eq!(!order(&mut scans).is_empty(), want, "{free_bytes}");
        }
    }

    #[test]
    fn the_slow_scan_goes_round() {
        let mut scans = Scans::default();
        assert_eq!(scans.next_page(), Some((false, Range::All, Cursor::START)));
        scans.scanned(false, Range::All, Some(object(9)));
        assert_eq!(scans.next_page(), None, "not so soon");
        scans.slow_last = None;
        assert_eq!(scans.next_page(), Some((false, Range::All, object(9))));
    }
}
