//! Shell patterns for names: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before a character that means itself.

/// Whether a name matches a pattern as a whole. Takes at most the product of both lengths in time.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        if n == name.len() && p == pattern.len() {
            return true;
        }
        if let Some(&character) = name.get(n)
            && let Some(length) = one(&pattern[p..], character)
        {
            p += length;
            n += 1;
            continue;
        }
        match star {
            Some((at, taken)) if taken < name.len() => {
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
            _ => return false,
        }
    }
}

/// How much of the pattern matches one character, if it does.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match *pattern {
        ['?', ..] => Some(1),
        ['\\', escaped, ..] => (escaped == character).then_some(2),
        ['[', ..] => match class(pattern, character) {
            Some((length, matched)) => matched.then_some(length),
            None => (character == '[').then_some(1),
        },
        [plain, ..] => (plain == character).then_some(1),
        [] => None,
    }
}

/// The length of a bracket expression and whether it has the character; `None` when it is not closed.
fn class(pattern: &[char], character: char) -> Option<(usize, bool)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let first = if negated { 2 } else { 1 };
    // A bracket that comes first means itself.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|c| *c == ']')?;
    let mut matched = false;
    let mut at = first;
    while at < end {
        if at + 2 < end && pattern[at + 1] == '-' {
            matched |= (pattern[at]..=pattern[at + 2]).contains(&character);
            at += 3;
        } else {
            matched |= pattern[at] == character;
            at += 1;
        }
    }
    Some((end + 1, matched != negated))
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
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a", "b", false),
            ("🦀*", "🦀.txt", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_escaped_and_stars_match_all(name in "[ab*?\\[\\]\\\\!-]{0,12}", tail in "[a-z]{0,5}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(matches(&escaped, &name));
            let starred = format!("{escaped}*");
            let longer = format!("{name}{tail}");
            prop_assert!(matches(&starred, &longer));
        }

        #[test]
        fn nothing_panics(pattern in "\\PC{0,12}", name in "\\PC{0,12}") {
            matches(&pattern, &name);
        }
    }
}
