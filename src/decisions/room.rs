//! Room: how fast a disk fills, and how much more can be stored with so many copies.

use chrono::TimeDelta;

use crate::types::Time;

/// Room is measured from day to day.
const MEASURED_FOR: TimeDelta = TimeDelta::days(1);
/// What was measured for less than this says nothing.
const MEASURED_MIN: TimeDelta = TimeDelta::hours(1);
const DAY_SECONDS: f64 = 86_400.0;

/// How fast a server's room becomes less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filling {
    /// Since when it is measured.
    pub since: Time,
    /// What was free then.
    pub free_bytes: u64,
    /// How many bytes fewer were free after the last full day; more, when it is negative.
    pub bytes_per_day: i64,
}

impl Filling {
    /// With what is free now. The measure is begun anew each day.
    pub fn after(self, now: Time, free_bytes: u64) -> Self {
        let measured = now - self.since;
        if measured < TimeDelta::zero() {
            // The clock was set back.
            return Self { since: now, free_bytes, ..self };
        }
        if measured < MEASURED_FOR {
            return self;
        }
        Self { since: now, free_bytes, bytes_per_day: self.rate(now, free_bytes) }
    }

    fn rate(&self, now: Time, free_bytes: u64) -> i64 {
        let days = ((now - self.since).num_milliseconds() as f64 / 1e3 / DAY_SECONDS).max(f64::EPSILON);
        ((self.free_bytes as f64 - free_bytes as f64) / days) as i64
    }

    /// After what time nothing is free any more, if it goes on as the last day and today.
    pub fn full_in(&self, now: Time, free_bytes: u64) -> Option<TimeDelta> {
        let measured = now - self.since;
        let rate = if measured < MEASURED_MIN {
            self.bytes_per_day
        } else {
            self.bytes_per_day.max(self.rate(now, free_bytes))
        };
        if rate <= 0 {
            return None;
        }
        let seconds = free_bytes as f64 / rate as f64 * DAY_SECONDS;
        TimeDelta::try_seconds(seconds.min(1e12) as i64)
    }
}

/// Bytes of files that can still be stored when each has so many copies on as many servers: what is free on the fullest
/// counts whole, and on one that is far larger than the others only as much as those can take beside it.
pub fn usable(free_bytes: &[u64], copies: u32) -> u64 {
    let mut free: Vec<u64> = free_bytes.to_vec();
    free.sort_unstable_by(|one, other| other.cmp(one));
    let mut copies = copies.max(1) as usize;
    if free.len() < copies {
        return 0;
    }
    let mut rest = free.as_slice();
    while let Some((largest, smaller)) = rest.split_first() {
        let share = rest.iter().map(|bytes| u128::from(*bytes)).sum::<u128>() / copies as u128;
        if u128::from(*largest) <= share || copies == 1 {
            return u64::try_from(share).unwrap_or(u64::MAX);
        }
        // Each file has one copy on it, and the others elsewhere.
        (rest, copies) = (smaller, copies - 1);
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Utc;
    use proptest::prelude::*;

    #[test]
    fn a_disk_that_fills_is_full_by_a_date() {
        let start = Utc::now();
        let fresh = Filling { since: start, free_bytes: 1_000, bytes_per_day: 0 };
        let minutes = |minutes| start + TimeDelta::minutes(minutes);
        assert_eq!(fresh.full_in(minutes(30), 500), None, "too short to say anything");
        assert_eq!(fresh.full_in(minutes(60 * 12), 900), Some(TimeDelta::hours(108)));
        assert_eq!(fresh.full_in(minutes(60 * 12), 1_100), None, "it becomes more");
        assert_eq!(fresh.after(minutes(60), 900), fresh);
        let later = fresh.after(minutes(60 * 24), 800);
        assert_eq!(later, Filling { since: minutes(60 * 24), free_bytes: 800, bytes_per_day: 200 });
        assert_eq!(later.full_in(minutes(60 * 24 + 1), 800), Some(TimeDelta::days(4)));
        assert_eq!(fresh.after(minutes(-5), 7).since, minutes(-5), "the clock was set back");
    }

    #[test]
    fn what_can_be_stored_with_so_many_copies() {
        for (free, copies, want) in [
            (&[][..], 1, 0),
            (&[10], 1, 10),
            (&[10], 2, 0),
            (&[10, 10], 2, 10),
            (&[10, 10, 10], 2, 15),
            (&[100, 10, 10], 2, 20),
            (&[100, 1], 2, 1),
            (&[100, 50, 2], 3, 2),
            (&[u64::MAX, u64::MAX], 1, u64::MAX),
        ] {
            assert_eq!(usable(free, copies), want, "{free:?} with {copies}");
        }
    }

    proptest! {
        /// The most for which the servers, each with at most one copy of a file, have room.
        #[test]
        fn usable_is_the_most_that_fits(free in proptest::collection::vec(0u64..1_000, 1..8), copies in 1u32..5) {
            let fits = |files: u64| free.iter().map(|bytes| (*bytes).min(files)).sum::<u64>() >= files * u64::from(copies);
            let most = usable(&free, copies);
            prop_assert!(fits(most) && !fits(most + 1) || free.len() < copies as usize && most == 0, "{most}");
        }
    }
}
