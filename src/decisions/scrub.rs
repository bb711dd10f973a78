//! Scrubbing: how fast a storage server re-reads what it has, and what becomes of a copy that is corrupt.
//!
//! A round reads everything once and is spread over the period. Its cost is counted in bytes, each copy with
//! [`COPY_COST_BYTES`] on top, so that a million empty files are not free. Two limits hold at any time: the share
//! of the round that is due by now, and a bucket of credit that fills at the rate. A round that has fallen behind
//! (the server was off, the store has grown) therefore goes on at the rate, never faster.

use std::time::Duration;

use crate::types::api::CorruptFate;

/// What a copy costs beyond its bytes: about what finding and opening it takes from a disk.
pub const COPY_COST_BYTES: u64 = 4 << 10;
/// Less than that is not worth a pass; it waits until as much is due, or the period is over.
pub const QUANTUM_BYTES: u64 = 1 << 20;
/// How much credit may be saved up: reading may pause for as long and make up for it.
pub const CREDIT_MAX: Duration = Duration::from_secs(2);
/// Corrupt copies found on one server within [`CORRUPT_WINDOW`] that are taken for what happens to disks. One more
/// and the disk or the memory is not believed any longer.
pub const SCRUB_CORRUPT_MAX: usize = 10;
/// See [`SCRUB_CORRUPT_MAX`].
pub const CORRUPT_WINDOW: Duration = Duration::from_secs(3_600);

/// How fast to go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Everything is read once within it.
    pub period: Duration,
    /// Never more than this in a second.
    pub rate_bytes: u64,
}

/// How far a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What everything costs now.
    pub total: u64,
    /// What has been read in this round.
    pub done: u64,
    /// Since the round's start.
    pub elapsed: Duration,
}

/// What copies of so many bytes cost together.
pub fn cost(copies: u64, bytes: u64) -> u64 {
    copies.saturating_mul(COPY_COST_BYTES).saturating_add(bytes)
}

/// The credit after a pause; it may be negative, when the last step took more than there was.
pub fn credit_after(before: i64, rate_bytes: u64, pause: Duration) -> i64 {
    let earned = rate_bytes as f64 * pause.as_secs_f64();
    let most = rate_bytes as f64 * CREDIT_MAX.as_secs_f64();
    // A cast from a float stops at the limits of the integer.
    (before as f64 + earned).min(most) as i64
}

/// How much of the round to read now.
pub fn bytes_now(pace: &Pace, progress: &Progress, credit: i64) -> u64 {
    let credit = u64::try_from(credit).unwrap_or(0);
    if progress.elapsed >= pace.period {
        // Only the rate counts: what `total` said may have changed since.
        return credit;
    }
    let share = progress.elapsed.as_secs_f64() / pace.period.as_secs_f64();
    let due = ((progress.total as f64 * share) as u64).saturating_sub(progress.done);
    if due < QUANTUM_BYTES { 0 } else { due.min(credit) }
}

/// Whether so many corrupt copies within [`CORRUPT_WINDOW`] mean that the server itself is broken.
pub fn is_alarming(found: usize) -> bool {
    found > SCRUB_CORRUPT_MAX
}

/// What the metadata says about a copy that is reported as corrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// The server has raised an alarm: its word is doubtful and it moves nothing.
    pub alarm: bool,
    /// The bytes are in quarantine already; only the metadata may have to be put right.
    pub aside: bool,
    /// Somebody still wants the object.
    pub live: bool,
    /// The row of exactly this copy, if there is one.
    pub listed: Option<Listed>,
    /// Other copies that are certain, as far as is known: present on servers that are live, compared and trusted.
    pub others: usize,
}

/// The state of a replica's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// It is being made.
    Copying,
    /// It counts.
    Present,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What the storage server does with the bytes.
    pub fate: CorruptFate,
    /// The row goes, and the object is looked at by repair.
    pub count_out: bool,
}

/// Judges a corrupt copy. Asked again after a lost answer it comes to the same end, row or no row: the last copy
/// of a live object is never let go because its row went with the first answer.
pub fn judge(reported: &Reported) -> Judgement {
    let present = reported.listed == Some(Listed::Present);
    let last = reported.live && reported.others == 0;
    if reported.listed == Some(Listed::Copying) {
        // It has its own watcher, which a row that vanishes would confuse.
        return Judgement { fate: CorruptFate::Wait, count_out: false };
    }
    if reported.alarm && !reported.aside {
        // It may be the memory that is bad and not the copy: only what others have is copied anew from them.
        return Judgement { fate: CorruptFate::Leave, count_out: present && !last };
    }
    let fate = if last { CorruptFate::QuarantineForGood } else { CorruptFate::Quarantine };
    Judgement { fate, count_out: present }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_due_is_read_when_it_is_worth_a_pass_and_within_the_credit() {
        let pace = Pace { period: Duration::from_secs(1_000), rate_bytes: 16 * MIB };
        let plenty = 100 * MIB as i64;
        for (total, done, elapsed, credit, want) in [
            (1_000 * MIB, 0, 0, plenty, 0),
            (1_000 * MIB, 0, 10, plenty, 10 * MIB),
            (1_000 * MIB, 7 * MIB, 10, plenty, 3 * MIB),
            (1_000 * MIB, 7 * MIB, 10, 2, 2),
            (1_000 * MIB, 12 * MIB, 10, plenty, 0),
            // Too little to begin with.
            (100 * MIB, 0, 5, plenty, 0),
            (100 * MIB, 0, 10, plenty, MIB),
            // The period is over: the rest, at the rate.
            (MIB / 2, 0, 999, plenty, 0),
            (MIB / 2, 0, 1_000, plenty, plenty as u64),
            (1_000 * MIB, 1_200 * MIB, 1_001, plenty, plenty as u64),
            (1_000 * MIB, 0, 2_000, -5, 0),
        ] {
            let progress = Progress { total, done, elapsed: Duration::from_secs(elapsed) };
            assert_eq!(bytes_now(&pace, &progress, credit), want, "{progress:?} with {credit}");
        }
    }

    #[test]
    fn credit_fills_at_the_rate_up_to_its_limit_and_debts_are_paid() {
        for (before, seconds, want) in
            [(0, 1.0, 100), (0, 0.5, 50), (150, 1.0, 200), (0, 3_600.0, 200), (-300, 1.0, -200)]
        {
            assert_eq!(credit_after(before, 100, Duration::from_secs_f64(seconds)), want);
        }
    }

    #[test]
    fn one_more_than_the_limit_is_alarming() {
        assert!(!is_alarming(SCRUB_CORRUPT_MAX) && is_alarming(SCRUB_CORRUPT_MAX + 1));
    }

    #[test]
    fn fates() {
        use CorruptFate::*;
        let usual = Reported { alarm: false, aside: false, live: true, listed: Some(Listed::Present), others: 1 };
        for (reported, fate, count_out) in [
            (usual, Quarantine, true),
            (Reported { others: 0, ..usual }, QuarantineForGood, true),
            // Asked again after the first answer was lost.
            (Reported { listed: None, ..usual }, Quarantine, false),
            (Reported { listed: None, others: 0, ..usual }, QuarantineForGood, false),
            // Nobody wants it.
            (Reported { live: false, listed: None, others: 0, ..usual }, Quarantine, false),
            (Reported { listed: Some(Listed::Copying), ..usual }, Wait, false),
            // A server that may be wrong about everything.
            (Reported { alarm: true, ..usual }, Leave, true),
            (Reported { alarm: true, others: 0, ..usual }, Leave, false),
            (Reported { alarm: true, listed: None, ..usual }, Leave, false),
            // Listed again after it was moved.
            (Reported { aside: true, alarm: true, others: 0, ..usual }, QuarantineForGood, true),
        ] {
            assert_eq!(judge(&reported), Judgement { fate, count_out }, "{reported:?}");
        }
    }

    proptest! {
        /// A round of a store that does not change: never faster than the rate, never ahead of its share, and
        /// done within the period, or as soon after it as the rate allows.
        #[test]
        fn a_round_is_spread_over_the_period_and_keeps_to_the_rate(
            total in 1u64..(1 << 36), period_s in 10u64..100_000, rate_mib in 1u64..64, pass_ms in 100u64..2_000,
        ) {
            let pace = Pace { period: Duration::from_secs(period_s), rate_bytes: rate_mib * MIB };
            // Few enough passes for a test: long ones stand for many short ones.
            let pass = Duration::from_millis(pass_ms).max(pace.period / 500).min(CREDIT_MAX);
            let (mut done, mut credit, mut now) = (0u64, 0i64, Duration::ZERO);
            for _ in 0..2_000 {
                credit = credit_after(credit, pace.rate_bytes, pass);
                now += pass;
                let read = bytes_now(&pace, &Progress { total, done, elapsed: now }, credit).min(total - done);
                done += read;
                credit -= read as i64;
                prop_assert!(credit >= 0);
                prop_assert!(done as f64 <= pace.rate_bytes as f64 * now.as_secs_f64() + 1.0);
                let share = (now.as_secs_f64() / pace.period.as_secs_f64()).min(1.0);
                prop_assert!(done as f64 <= total as f64 * share + 1.0);
                if pace.rate_bytes as f64 * pace.period.as_secs_f64() > total as f64 * 1.1 {
                    let step = total as f64 * pass.as_secs_f64() / pace.period.as_secs_f64();
                    let lag = QUANTUM_BYTES as f64 + step + 2.0;
                    prop_assert!(share >= 1.0 || done as f64 >= total as f64 * share - lag);
                }
            }
        }

        #[test]
        fn the_last_copy_of_a_live_object_is_never_simply_quarantined(
            alarm: bool, aside: bool, live: bool, listed in 0u8..3, others in 0usize..3,
        ) {
            let listed = [None, Some(Listed::Copying), Some(Listed::Present)][listed as usize];
            let reported = Reported { alarm, aside, live, listed, others };
            let judgement = judge(&reported);
            prop_assert!(!(live && others == 0 && judgement.fate == CorruptFate::Quarantine));
            prop_assert!(!judgement.count_out || listed == Some(Listed::Present));
            // Once the row is gone the answer is still the same.
            if judgement.count_out && judgement.fate != CorruptFate::Leave {
                prop_assert_eq!(judge(&Reported { listed: None, ..reported }).fate, judgement.fate);
            }
        }
    }
}
