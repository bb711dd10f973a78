//! Numbers as people read them, with what they count.

/// A number with its thousands apart: 1,234,567.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with what it counts, which is given as one of them: 1 file, 2,000 files, 0 copies.
pub fn counted(count: u64, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{} {}", grouped(count), several(one)),
    }
}

/// Several of what is given as one: "copy" is "copies".
fn several(one: &str) -> String {
    let consonant_before = |stem: &str| !stem.ends_with(['a', 'e', 'i', 'o', 'u']);
    match one.strip_suffix('y') {
        Some(stem) if consonant_before(stem) => format!("{stem}ies"),
        _ if one.ends_with(['s', 'x']) || one.ends_with("ch") || one.ends_with("sh") => format!("{one}es"),
        _ => format!("{one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_all_else_is_several() {
        for (count, one, text) in [
            (0, "file", "0 files"),
            (1, "file", "1 file"),
            (2, "copy", "2 copies"),
            (1, "copy", "1 copy"),
            (3, "directory", "3 directories"),
            (1_234, "entry", "1,234 entries"),
            (2, "loss", "2 losses"),
            (2, "key", "2 keys"),
            (2, "day", "2 days"),
            (2, "storage server", "2 storage servers"),
            (2, "batch", "2 batches"),
            (5, "byte", "5 bytes"),
        ] {
            assert_eq!(counted(count, one), text);
        }
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(count), text);
        }
    }
}
