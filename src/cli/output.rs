//! What goes to standard output: lines, tables, JSON; names made safe for terminals.
//!
//! Only data goes to standard output; what a person should know besides goes to standard error
//! ([`super::progress`]). A reader that closes the pipe early (`| head`) is no failure: the write error is
//! marked with [`ReaderGone`], and the command ends quietly.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use crate::types::{Error, ErrorCode, Result, Time};

/// Whoever read standard output wants no more.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for ReaderGone {}

/// Whether an error only says that nobody reads on.
pub(crate) fn is_reader_gone(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<ReaderGone>())
}

fn stdout_error(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(ErrorCode::Internal, ReaderGone.to_string()).with_source(ReaderGone);
    }
    Error::io("writing to standard output", error)
}

/// Standard output, buffered; on a terminal every line shows at once.
pub(crate) struct Output {
    writer: BufWriter<Stdout>,
    terminal: bool,
    /// An array of JSON is open.
    in_array: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self { writer: BufWriter::with_capacity(64 << 10, stdout), terminal, in_array: false }
    }

    /// A name as it may be shown.
    pub(crate) fn name<'a>(&self, name: &'a str) -> Cow<'a, str> {
        shown(name, self.terminal)
    }

    /// Whether somebody looks at it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Result<()> {
        writeln!(self.writer, "{text}").map_err(stdout_error)?;
        if self.terminal { self.flush() } else { Ok(()) }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(stdout_error)
    }

    /// One value as a document of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(unwritable)?;
        self.line(text)
    }

    /// The next element of a streamed array. An array that is not closed by [`Output::array_end`] tells a
    /// program that the rest is missing.
    pub(crate) fn array_item(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(unwritable)?;
        let before = if self.in_array { ",\n" } else { "[\n" };
        self.in_array = true;
        self.bytes(before.as_bytes())?;
        self.bytes(text.as_bytes())
    }

    /// Closes a streamed array, which may be empty.
    pub(crate) fn array_end(&mut self) -> Result<()> {
        let end = if std::mem::take(&mut self.in_array) { "\n]\n" } else { "[]\n" };
        self.bytes(end.as_bytes())
    }

    /// A table with these headings.
    pub(crate) fn table(&mut self, headings: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.to_vec());
        for row in rows {
            table.add_row(row.iter().map(|cell| self.name(cell).into_owned()).collect::<Vec<_>>());
        }
        for line in table.lines() {
            // The table starts with a space and pads to the right; neither helps `cut` or copying.
            let line = line.strip_prefix(' ').unwrap_or(&line).trim_end();
            self.line(line)?;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.terminal {
            super::progress::clear_waiting();
        }
        self.writer.flush().map_err(stdout_error)
    }
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::internal("the answer cannot be written as JSON").with_source(error)
}

/// On a terminal control characters are shown as escapes, so that no name can play tricks there; elsewhere
/// a name is itself.
pub(crate) fn shown(name: &str, terminal: bool) -> Cow<'_, str> {
    if !terminal || !name.chars().any(is_tricky) {
        return Cow::Borrowed(name);
    }
    let mut safe = String::with_capacity(name.len() + 8);
    for character in name.chars() {
        if is_tricky(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Control characters, and those that reverse the direction of text.
fn is_tricky(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

/// A number with its thousands apart.
pub(crate) fn human_count(count: u64) -> String {
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

/// How long ago something was: `3 s ago`.
pub(crate) fn human_ago(time: Option<&Time>, now: Time) -> String {
    time.map_or_else(
        || "never".into(),
        |time| format!("{} ago", human_span((now - *time).num_milliseconds() as f64 / 1e3)),
    )
}

/// A part in percent of the whole.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.0}%", part as f64 * 100.0 / whole as f64) }
}

/// A time in the reader's own zone.
pub(crate) fn human_time(time: &Time) -> String {
    time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string()
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
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(human_count(count), text);
        }
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
}
