//! What people type: command lines, patterns, sizes, lifetimes, lines of the shell.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use holdfast::cli::inputs::{
    command_line, glob_matches, lifetime_seconds, name_server_line, shell_word, shell_words, shown_name, size_filter,
    storage_server_line,
};
use holdfast::security::ClusterSecret;

use super::{BETWEEN, each_text, joined, texts};

/// The options of one of the three programs; the first byte chooses it. Arguments need not be UTF-8.
pub fn command_lines(data: &[u8]) {
    let Some((program, rest)) = data.split_first() else { return };
    let args = rest.split(|byte| *byte == BETWEEN).map(|arg| OsString::from_vec(arg.to_vec()));
    let args: Vec<OsString> = std::iter::once("holdfast".into()).chain(args).collect();
    match program % 3 {
        0 => drop(command_line(args)),
        1 => drop(name_server_line(args)),
        _ => drop(storage_server_line(args)),
    }
}

pub fn command_line_seeds() -> Vec<Vec<u8>> {
    let lines: [(u8, &[&str]); 12] = [
        (0, &["ls", "-lR", "/a"]),
        (0, &["find", "/a", "-name", "*.rs", "-type", "f", "-size", "-1k", "-maxdepth", "2"]),
        (0, &["--json", "-q", "--token", "t", "-j", "4", "push", "--dry-run", "x"]),
        (0, &["token", "create", "n", "--role", "writer", "--prefix", "/a", "--ttl", "7d"]),
        (0, &["import", "-", "--", "-x"]),
        (0, &["up", "--data-dir=d", "--port", "70000", "--only", "storage-1"]),
        (0, &["events", "--object", "0123456789abcdef", "-n", "5"]),
        (0, &["member", "--with-parent", "name-server", "--", "--listen"]),
        (0, &["completions", "BASH"]),
        (1, &["--database", "sqlite://x", "--health-interval", "NaN", "--mass-down-share", "2", "--insecure-http"]),
        (2, &["--data-dir", "d", "--name-server", "http://a:1,http://b:2", "--scrub-rate", "-1"]),
        (2, &["salvage", "--data-dir", "d", "--to", "t", "--committed-only"]),
    ];
    lines.iter().map(|(program, args)| [&[*program][..], &joined(args)].concat()).collect()
}

/// A pattern and a name.
pub fn globs(data: &[u8]) {
    let Some([pattern, name]) = texts(data) else { return };
    let (found, characters) = (glob_matches(pattern, name), pattern.chars().count() * name.chars().count());
    // The reference takes its time.
    if characters <= 4_096 {
        let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
        assert_eq!(found, reference(&pattern, &name));
    }
    let escaped: String = name.chars().flat_map(|character| ['\\', character]).collect();
    assert!(glob_matches(&escaped, name) && glob_matches(&format!("*{escaped}"), name) && glob_matches("*", name));
}

/// By POSIX's rules for patterns (XCU 2.13), one rule for each line: which rests of the name can be reached.
fn reference(mut pattern: &[char], name: &[char]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    while let [first, rest @ ..] = pattern {
        let one = |takes: &dyn Fn(char) -> bool| {
            let mut next = vec![false; name.len() + 1];
            for (place, character) in name.iter().enumerate() {
                next[place + 1] = reached[place] && takes(*character);
            }
            next
        };
        (reached, pattern) = match (first, rest) {
            ('*', _) => {
                let start = reached.iter().position(|reached| *reached).unwrap_or(reached.len());
                ((0..reached.len()).map(|place| place >= start).collect(), rest)
            }
            ('?', _) => (one(&|_| true), rest),
            ('\\', [escaped, after @ ..]) => (one(&|character| character == *escaped), after),
            ('[', _) => match bracket(rest) {
                Some((negated, inside, after)) => (one(&|character| is_in(inside, character) != negated), after),
                None => (one(&|character| character == '['), rest),
            },
            (plain, _) => (one(&|character| character == *plain), rest),
        };
    }
    reached[name.len()]
}

/// What is between brackets, and what comes behind them.
fn bracket(rest: &[char]) -> Option<(bool, &[char], &[char])> {
    let negated = matches!(rest.first(), Some('!' | '^'));
    let inside = &rest[usize::from(negated)..];
    let close = inside.iter().skip(1).position(|character| *character == ']')? + 1;
    Some((negated, &inside[..close], &inside[close + 1..]))
}

fn is_in(inside: &[char], character: char) -> bool {
    match inside {
        [first, '-', last, rest @ ..] => (*first <= character && character <= *last) || is_in(rest, character),
        [only, rest @ ..] => *only == character || is_in(rest, character),
        [] => false,
    }
}

pub fn glob_seeds() -> Vec<Vec<u8>> {
    let pairs = [
        ("*.rs", "main.rs"),
        ("a*b*c", "a-b-b-c"),
        ("a?c", "aüc"),
        ("[!a-c]x", "dx"),
        ("[]]", "]"),
        ("[^]-]", "-"),
        ("[x", "[x"),
        ("[]", "[]"),
        ("\\*\\", "*\\"),
        ("*[a-z]*[0-9]", "x1y2"),
        ("", ""),
    ];
    pairs.iter().map(|(pattern, name)| joined(&[pattern, name])).collect()
}

/// One text, as each of the things that may be typed.
pub fn typed(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(seconds) = lifetime_seconds(text) {
        assert!(seconds > 0);
        assert_eq!(lifetime_seconds(&format!("{seconds}s")), Ok(seconds));
    }
    if let Ok((order, bytes)) = size_filter(text) {
        let sign = ["-", "", "+"][(order as i8 + 1) as usize];
        assert_eq!(size_filter(&format!("{sign}{bytes}")).unwrap(), (order, bytes));
    }
    if let Some(words) = shell_words(text) {
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let typed: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
        assert_eq!(shell_words(&typed.join(" ")), Some(words));
    }
    let shown = shown_name(text);
    assert!(!shown.chars().any(char::is_control), "{shown:?} does something on a terminal");
    // A backslash is escaped too, so that no two names look alike; what needs no escape has none.
    assert!(shown.matches('\\').count() >= 2 * text.matches('\\').count(), "{shown:?} is shown for {text:?}");
    if text.chars().all(|character| character.is_ascii_alphanumeric()) {
        assert_eq!(shown, text);
    }
    if let Ok(secret) = ClusterSecret::from_text(text) {
        assert!(text.trim().len() >= 32 && !format!("{secret:?}").contains(text.trim()));
    }
}

pub fn typed_seeds() -> Vec<Vec<u8>> {
    each_text(&[
        "12h",
        "18446744073709551615",
        "+10k",
        "-5",
        "1G",
        "ls 'a b' \"c \\\" d\" e\\ f",
        "a\\",
        "'",
        "a\u{1b}[2J\u{202e}ü\u{9b}",
        "0123456789abcdef0123456789abcdef",
    ])
}
