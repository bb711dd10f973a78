//! Shell patterns for names: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before a character that means itself.

use crate::types::{Error, Result};

/// A pattern, read once and compared with many names. Reading takes time by its length, comparing at most by the
/// product of both lengths.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Vec<Piece>);

/// What stands for one character, or for any number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Is(char),
    Any,
    Star,
    /// One of these, or with `true` none of these.
    Class(bool, Vec<(char, char)>),
}

impl Piece {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Is(own) => *own == character,
            Self::Any => true,
            Self::Star => false,
            Self::Class(negated, ranges) => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&character)) != *negated
            }
        }
    }
}

impl Pattern {
    /// Reads a pattern as somebody typed it. A bracket that nothing closes is a slip of the fingers: it would match
    /// only itself.
    pub(crate) fn typed(text: &str) -> Result<Self> {
        match Self::read(text) {
            (pattern, false) => Ok(pattern),
            (_, true) => Err(Error::invalid(format!(
                "{text:?} is not a pattern: nothing closes its bracket [ (\\[ means the bracket itself)"
            ))),
        }
    }

    /// Reads a pattern; every text is one.
    pub(crate) fn new(text: &str) -> Self {
        Self::read(text).0
    }

    /// Reads a pattern, and whether it has a bracket that nothing closes.
    fn read(text: &str) -> (Self, bool) {
        let text: Vec<char> = text.chars().collect();
        let last_close = text.iter().rposition(|character| *character == ']');
        let (mut pieces, mut at, mut open) = (Vec::new(), 0, false);
        while let Some(&character) = text.get(at) {
            // What closes no bracket is looked for once, not again for each bracket.
            let closed = character == '[' && last_close.is_some_and(|close| close > at);
            let (piece, length) = match (character, text.get(at + 1)) {
                ('*', _) => (Piece::Star, 1),
                ('?', _) => (Piece::Any, 1),
                ('\\', Some(&escaped)) => (Piece::Is(escaped), 2),
                _ => closed.then(|| class(&text[at..])).flatten().unwrap_or((Piece::Is(character), 1)),
            };
            open |= character == '[' && piece == Piece::Is('[');
            pieces.push(piece);
            at += length;
        }
        (Self(pieces), open)
    }

    /// Whether a name matches as a whole.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut p, mut n) = (0, 0);
        // The last star, and how much of the name it has taken so far.
        let mut star: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(p), name.get(n)) {
                (Some(Piece::Star), _) => {
                    star = Some((p, n));
                    p += 1;
                }
                (None, None) => return true,
                (Some(piece), Some(&character)) if piece.takes(character) => (p, n) = (p + 1, n + 1),
                _ => match star {
                    Some((at, taken)) if taken < name.len() => {
                        star = Some((at, taken + 1));
                        (p, n) = (at + 1, taken + 1);
                    }
                    _ => return false,
                },
            }
        }
    }
}

/// A bracket expression and its length; `None` when it is not closed.
fn class(pattern: &[char]) -> Option<(Piece, usize)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let first = if negated { 2 } else { 1 };
    // A bracket that comes first means itself.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|c| *c == ']')?;
    let (mut ranges, mut at) = (Vec::new(), first);
    while at < end {
        let is_range = at + 2 < end && pattern[at + 1] == '-';
        let last = if is_range { at + 2 } else { at };
        ranges.push((pattern[at], pattern[last]));
        at = last + 1;
    }
    Some((Piece::Class(negated, ranges), end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_in_a_shell() {
        for (pattern, name, want) in [
            ("*.rs", "main.rs", true),
            ("*.rs", "main.rs.bak", false),
            ("", "", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a?c", "aüc", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[x", "[x", true),
            ("[]", "[]", true),
            ("[a-]", "-", true),
            ("[z-a]", "m", false),
            ("\\", "\\", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a", "b", false),
            ("🦀*", "🦀.txt", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn a_bracket_that_nothing_closes_is_no_pattern() {
        for wrong in ["[a", "x[", "[]", "*[!a", "[a]b["] {
            assert!(Pattern::typed(wrong).unwrap_err().message().contains("closes"), "{wrong}");
        }
        for right in ["\\[a", "[a]", "[]]", "a]", "[[]", "", "*"] {
            assert!(Pattern::typed(right).is_ok(), "{right}");
        }
    }

    /// A megabyte of brackets that nobody closes took a million looks at half a megabyte each before.
    #[test]
    fn a_long_pattern_is_read_in_time_by_its_length() {
        for pattern in ["[".repeat(1 << 20), "[]".repeat(1 << 19), "[!".repeat(1 << 19) + "]", "*[a".repeat(1 << 18)] {
            let started = std::time::Instant::now();
            assert!(!Pattern::new(&pattern).matches("name"));
            assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
        }
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_escaped_and_stars_match_all(name in "[ab*?\\[\\]\\\\!-]{0,12}", tail in "[a-z]{0,5}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(Pattern::new(&escaped).matches(&name));
            let starred = format!("{escaped}*");
            let longer = format!("{name}{tail}");
            prop_assert!(Pattern::new(&starred).matches(&longer));
        }

        #[test]
        fn nothing_panics(pattern in "\\PC{0,12}", name in "\\PC{0,12}") {
            Pattern::new(&pattern).matches(&name);
        }
    }
}
