//! Changing seeds at random, so that each run of the tests tries some thousand inputs that nobody wrote down.
//!
//! This is no search: nothing tells which change led further. `scripts/fuzz` does that, with libFuzzer.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Words of the formats, in libFuzzer's form: one in quotes on each line.
const TOKENS: &str = include_str!("tokens.dict");
/// Longest input, in bytes.
const INPUT_BYTES_MAX: usize = 16 << 10;
/// Changes of one seed at most.
const EDITS_MAX: usize = 8;

/// An input, shown as it would be written in Rust.
#[derive(Clone)]
pub struct Input(pub Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, Index, usize),
    /// From another seed on.
    Splice(Index, Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (place(), select(tokens())).prop_map(|(at, token)| Edit::Insert(at, token)),
        (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Insert(at, vec![byte])),
        (place(), 1_usize..32).prop_map(|(at, length)| Edit::Remove(at, length)),
        (place(), place(), 1_usize..64).prop_map(|(from, to, length)| Edit::Repeat(from, to, length)),
        (place(), place(), place()).prop_map(|(seed, from, to)| Edit::Splice(seed, from, to)),
    ]
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let place = |at: &Index, input: &[u8]| at.index(input.len() + 1);
        match self {
            Self::Set(at, byte) => {
                let at = place(at, input);
                if let Some(there) = input.get_mut(at) {
                    *there = *byte;
                }
            }
            Self::Insert(at, new) => {
                let at = place(at, input);
                input.splice(at..at, new.iter().copied());
            }
            Self::Remove(at, length) => {
                let at = place(at, input);
                input.drain(at..(at + length).min(input.len()));
            }
            Self::Repeat(from, to, length) => {
                let (from, to) = (place(from, input), place(to, input));
                let piece = input[from..(from + length).min(input.len())].to_vec();
                input.splice(to..to, piece);
            }
            Self::Splice(seed, from, to) => {
                let other = &seeds[seed.index(seeds.len())];
                input.truncate(place(to, input));
                input.extend_from_slice(&other[place(from, other)..]);
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}

/// One of the seeds with some changes.
pub fn changed(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Input> {
    (any::<Index>(), proptest::collection::vec(edit(), 0..=EDITS_MAX)).prop_map(move |(seed, edits)| {
        let mut input = seeds[seed.index(seeds.len())].clone();
        edits.iter().for_each(|edit| edit.apply(&mut input, &seeds));
        Input(input)
    })
}

fn tokens() -> Vec<Vec<u8>> {
    TOKENS.lines().filter(|line| line.starts_with('"')).map(token).collect()
}

/// A quoted word: `\\`, `\"` and `\xAB` stand for what they cannot be written as.
fn token(line: &str) -> Vec<u8> {
    let inside = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("a word in quotes");
    let (mut bytes, mut rest) = (Vec::new(), inside.as_bytes());
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [b'x', digits @ ..]) => {
                let (digits, after) = digits.split_at(2);
                bytes.extend(hex::decode(digits).expect("two hexadecimal digits"));
                after
            }
            (b'\\', [escaped, after @ ..]) => {
                bytes.push(*escaped);
                after
            }
            (plain, after) => {
                bytes.push(*plain);
                after
            }
        };
    }
    bytes
}

#[test]
fn words_are_read_as_libfuzzer_reads_them() {
    assert_eq!(token(r#""a\"\\\xff""#), b"a\"\\\xff");
    assert!(tokens().len() > 50 && tokens().iter().all(|token| !token.is_empty()));
}
