//! Names, sizes, times and counts as people read them.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use chrono::Offset;

use crate::types::Time;
pub(crate) use crate::types::words::{counted as human_counted, grouped as human_count};

/// A name. On a terminal what cannot be seen or plays tricks there is shown as an escape, and so is the backslash: two
/// names never look alike. Elsewhere a name is itself.
pub(crate) fn shown(name: &str, terminal: bool) -> Cow<'_, str> {
    if !terminal {
        return Cow::Borrowed(name);
    }
    // Blanks at the ends cannot be seen.
    let ends = (name.len() - name.trim_start_matches(' ').len(), name.trim_end_matches(' ').len());
    escaped(name, |at, c| is_tricky(c) || c == '\\' || (c == ' ' && (at < ends.0 || at >= ends.1)))
}

/// Text that may have names in it: on a terminal without what plays tricks there.
pub(crate) fn safe(text: &str, terminal: bool) -> Cow<'_, str> {
    if terminal { escaped(text, |_, character| is_tricky(character)) } else { Cow::Borrowed(text) }
}

fn escaped(text: &str, is_wrong: impl Fn(usize, char) -> bool) -> Cow<'_, str> {
    if !text.char_indices().any(|(at, character)| is_wrong(at, character)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for (at, character) in text.char_indices() {
        match (is_wrong(at, character), character) {
            (false, _) => escaped.push(character),
            (true, ' ') => escaped.push_str("\\ "),
            (true, _) => escaped.extend(character.escape_default()),
        }
    }
    Cow::Owned(escaped)
}

/// Control characters, those that reverse the direction of text, and those that are not seen at all. (Joiners stay: they
/// belong to scripts and emoji.)
fn is_tricky(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// 1.5 GiB.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    // 1023.96 would be shown as 1024.0.
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// 2:05 or 1:02:05.
pub(crate) fn human_duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = if hours > 0 {
        write!(text, "{hours}:{minutes:02}:{seconds:02}")
    } else {
        write!(text, "{minutes}:{seconds:02}")
    };
    text
}

/// A span as one says it: 8 s, 4 min, 2 h, 3 days.
pub(crate) fn human_span(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{:.0} s", s.max(0.0)),
        s if s < 5_400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

/// A part in percent of the whole.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.0}%", part as f64 * 100.0 / whole as f64) }
}

/// A time in the reader's own zone, which stands behind it.
pub(crate) fn human_time(time: &Time) -> String {
    time_in(time, &chrono::Local)
}

fn time_in<Z: chrono::TimeZone<Offset: fmt::Display>>(time: &Time, zone: &Z) -> String {
    let time = time.with_timezone(zone);
    // What is no offset at all is UTC, which says more than +00:00.
    let zone = if time.offset().fix().local_minus_utc() == 0 { "UTC" } else { "%:z" };
    time.format(&format!("%Y-%m-%d %H:%M:%S {zone}")).to_string()
}

/// The same to the minute and without the zone, for columns whose heading says that times are local.
pub(crate) fn human_minute(time: &Time) -> String {
    time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M").to_string()
}

/// A time as seen from another: 5 min ago, in 3 days, now.
pub(crate) fn human_relative(time: &Time, now: &Time) -> String {
    let seconds = now.signed_duration_since(time).as_seconds_f64();
    match seconds {
        s if s.abs() < 0.5 => "now".into(),
        s if s > 0.0 => format!("{} ago", human_span(s)),
        s => format!("in {}", human_span(-s)),
    }
}

/// How long ago (or in how long) a time is.
pub(crate) fn human_ago(time: &Time) -> String {
    human_relative(time, &chrono::Utc::now())
}

/// The same, if there is a time.
pub(crate) fn human_ago_or(time: Option<&Time>, otherwise: &str) -> String {
    time.map_or_else(|| otherwise.to_string(), human_ago)
}

/// A time in full and how long ago it is, where there is room for both.
pub(crate) fn human_time_and_ago(time: &Time) -> String {
    format!("{} ({})", human_time(time), human_ago(time))
}

/// A time, if there is one.
pub(crate) fn human_time_or(time: Option<&Time>, otherwise: &str) -> String {
    time.map_or_else(|| otherwise.to_string(), human_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_durations() {
        let sizes =
            [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), ((1 << 20) - 1, "1.0 MiB"), (5 << 30, "5.0 GiB")];
        for (bytes, text) in sizes {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!(human_bytes(u64::MAX), "16.0 EiB");
        assert_eq!((human_duration(65), human_duration(3_725)), ("1:05".into(), "1:02:05".into()));
        for (seconds, text) in [(-1.0, "0 s"), (8.4, "8 s"), (130.0, "2 min"), (7_300.0, "2 h"), (260_000.0, "3 days")]
        {
            assert_eq!(human_span(seconds), text);
        }
    }

    #[test]
    fn names_are_safe_on_a_terminal_and_themselves_elsewhere() {
        let name = "a\nb\u{1b}[2Jü🦀\u{202e}";
        assert_eq!(shown(name, false), name);
        assert_eq!(shown(name, true), "a\\nb\\u{1b}[2Jü🦀\\u{202e}");
    }

    #[test]
    fn no_two_names_look_alike_on_a_terminal() {
        for (name, on_terminal) in [
            ("new\\nline", "new\\\\nline"),
            ("new\nline", "new\\nline"),
            ("a\u{200b}b", "a\\u{200b}b"),
            ("a b", "a b"),
            (" a ", "\\ a\\ "),
            ("  ", "\\ \\ "),
            ("", ""),
            ("👩\u{200d}🔬", "👩\u{200d}🔬"),
        ] {
            assert_eq!(shown(name, true), on_terminal);
            assert_eq!(shown(name, false), name);
        }
        assert_eq!(safe("a\\b\u{7}", true), "a\\b\\u{7}", "a sentence keeps its backslashes");
    }

    #[test]
    fn times_have_a_zone_and_are_told_as_one_says_them() {
        let time: Time = "2026-03-01T12:00:00Z".parse().unwrap();
        let zone = chrono::FixedOffset::east_opt(-(5 * 3_600 + 1_800)).unwrap();
        assert_eq!(time_in(&time, &zone), "2026-03-01 06:30:00 -05:30");
        assert_eq!(time_in(&time, &chrono::Utc), "2026-03-01 12:00:00 UTC");
        let after = |seconds| time + chrono::TimeDelta::seconds(seconds);
        for (seconds, text) in
            [(0, "now"), (5, "5 s ago"), (-240, "in 4 min"), (7_200, "2 h ago"), (-260_000, "in 3 days")]
        {
            assert_eq!(human_relative(&time, &after(seconds)), text);
        }
    }
}
