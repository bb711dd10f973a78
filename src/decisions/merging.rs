//! Which segments of the journal a storage server merges: pure, over their sizes alone.
//!
//! A segment comes each 0.7 s, so something must make few files of many. Sizes are sorted into levels, each eight times
//! the one before. From old to new, levels never rise: a small segment before a larger one is merged into it, and as many
//! as [`PER_LEVEL_MAX`] of one level become one of the next. So a line is written anew a few times for each level that it
//! goes through, as it grows from seconds to minutes to hours of changes, and never again once its file is *full*.
//!
//! What is left when there is nothing to merge has at most [`PER_LEVEL_MAX`] - 1 files of each level at its end, and in
//! front of that at most one that is not full before each full one.

use std::ops::Range;

/// As many files of one level are merged.
pub const PER_LEVEL_MAX: usize = 16;
/// A file of as many bytes is full: nothing is merged into it any more.
pub const FULL_BYTES: u64 = 16 << 20;
/// No merged file has more bytes, which is also what a merge needs of the disk.
pub const MERGED_BYTES_MAX: u64 = 2 * FULL_BYTES;
/// The first level ends here; each has eight times the bytes of the one before.
const FIRST_LEVEL_BYTES: u64 = 4 << 10;

/// The level of a file that is not full.
fn level(bytes: u64) -> u32 {
    (bytes / FIRST_LEVEL_BYTES).checked_ilog2().map_or(0, |log| log / 3 + 1)
}

/// The next files to merge into one, of files that continue each other, from old to new; at least two. `None` when all is
/// as it should be. Each merge makes fewer files, so it ends.
pub fn next(bytes: &[u64]) -> Option<Range<usize>> {
    let mut start = 0;
    while start < bytes.len() {
        if bytes[start] >= FULL_BYTES {
            start += 1;
            continue;
        }
        let length = bytes[start..].iter().take_while(|bytes| **bytes < FULL_BYTES).count();
        let run = start..start + length;
        let is_last = run.end == bytes.len();
        let found = if is_last { in_last_run(&bytes[run.clone()]) } else { Some(0..length) };
        let found = found.map(|range| start + range.start..start + range.end);
        if let Some(range) = found.map(|range| fitting(bytes, range)).filter(|range| range.len() > 1) {
            return Some(range);
        }
        start = run.end;
    }
    None
}

/// Of files behind which more will come.
fn in_last_run(bytes: &[u64]) -> Option<Range<usize>> {
    let levels: Vec<u32> = bytes.iter().map(|bytes| level(*bytes)).collect();
    // A small one before a larger one.
    if let Some(place) = levels.windows(2).position(|pair| pair[0] < pair[1]) {
        let larger = levels[place + 1];
        return Some(levels[..place].iter().rposition(|level| *level >= larger).map_or(0, |last| last + 1)..place + 2);
    }
    // From here on levels never rise, so those of one level stand together.
    let groups = levels.chunk_by(|a, b| a == b).scan(0, |start, group| {
        *start += group.len();
        Some(*start - group.len()..*start)
    });
    groups.filter(|group| group.len() >= PER_LEVEL_MAX).last()
}

/// As many of the files, from the oldest on, as one file may have.
fn fitting(bytes: &[u64], range: Range<usize>) -> Range<usize> {
    let mut sum = 0_u64;
    let fits = bytes[range.clone()].iter().take_while(|bytes| {
        sum = sum.saturating_add(**bytes);
        sum <= MERGED_BYTES_MAX
    });
    range.start..range.start + fits.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: u64 = FULL_BYTES;

    #[test]
    fn each_case_has_its_answer() {
        let many = |bytes: u64, count: usize| vec![bytes; count];
        for (bytes, want) in [
            (vec![], None),
            (vec![1], None),
            (many(700, PER_LEVEL_MAX - 1), None),
            (many(700, PER_LEVEL_MAX), Some(0..PER_LEVEL_MAX)),
            (many(FULL, 100), None),
            // Levels fall: nothing is to be done.
            (vec![FULL, 1 << 20, 100_000, 5_000, 700, 700], None),
            (vec![FULL, 5_000, 700, 100_000], Some(1..4)),
            (vec![1 << 20, 700, 700, 5_000], Some(1..4)),
            // What stands before a full one becomes one file.
            (vec![FULL, 700, 1 << 20, FULL, 700], Some(1..3)),
            (vec![FULL, 700, FULL, 700], None),
            (vec![FULL - 1, FULL - 1, FULL - 1, FULL], Some(0..2)),
            (vec![u64::MAX, 700, u64::MAX], None),
        ] {
            assert_eq!(next(&bytes), want, "{bytes:?}");
        }
        assert_eq!([0, 4_095, 4_096, 32_767, 32_768, FULL - 1].map(level), [0, 0, 1, 1, 2, 4]);
    }

    /// What is left of files when they come one by one and are merged after each, and the bytes that were written.
    fn merged(coming: &[u64]) -> (Vec<u64>, u64) {
        let (mut files, mut written) = (Vec::new(), 0);
        for bytes in coming {
            files.push(*bytes);
            while let Some(range) = next(&files) {
                assert!(range.len() > 1 && range.end <= files.len());
                let sum: u64 = files[range.clone()].iter().sum();
                assert!(sum <= MERGED_BYTES_MAX, "{sum}");
                written += sum;
                files.splice(range, [sum]);
            }
        }
        (files, written)
    }

    fn check_bounds(files: &[u64]) {
        let full = files.iter().filter(|bytes| **bytes >= FULL).count();
        // The levels of files that are not full are 0 to 4.
        assert!(files.len() <= 2 * full + 5 * (PER_LEVEL_MAX - 1), "{} files, {full} full", files.len());
    }

    #[test]
    fn weeks_of_light_writes_are_few_files_and_cheap() {
        let (files, written) = merged(&vec![1_500; 200_000]);
        let sum: u64 = files.iter().sum();
        check_bounds(&files);
        assert_eq!(sum, 300_000_000);
        assert!(files.len() < 100, "{}", files.len());
        assert!(written < 12 * sum, "each byte was written {} times", written / sum);
    }

    proptest! {
        #[test]
        fn whatever_comes_files_stay_few(
            coming in prop::collection::vec(prop_oneof![500_u64..5_000, 500_u64..2_000_000, 500_u64..64 << 20], 0..600)
        ) {
            let (files, _) = merged(&coming);
            prop_assert_eq!(files.iter().sum::<u64>(), coming.iter().sum::<u64>());
            check_bounds(&files);
        }

        /// Files of before: nothing has merged them while they came.
        #[test]
        fn it_ends_wherever_it_begins(files in prop::collection::vec(1_u64..40 << 20, 0..300)) {
            let mut files = files;
            let mut merges = 0;
            while let Some(range) = next(&files) {
                let sum: u64 = files[range.clone()].iter().sum();
                files.splice(range, [sum]);
                merges += 1;
                prop_assert!(merges <= 300);
            }
            check_bounds(&files);
        }
    }
}
