//! What goes to standard output: lines, tables, JSON; names made safe for terminals.
//!
//! Only data goes to standard output; what a person should know besides goes to standard error
//! ([`super::progress`]). A reader that closes the pipe early (`| head`) is no failure: the write error is
//! marked with [`ReaderGone`], and the command ends quietly.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Table};
use serde::Serialize;

pub(crate) use super::human::*;
use crate::types::{Error, ErrorCode, Result};

/// Standard output takes no more: its disk is full, for instance.
#[derive(Debug)]
struct Unwritable(io::Error);

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unwritable {}

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

/// Whether an error says that standard output takes no more, for whatever reason: then nothing more is to be written.
pub(crate) fn is_of_output(error: &Error) -> bool {
    is_reader_gone(error) || std::error::Error::source(error).is_some_and(|source| source.is::<Unwritable>())
}

fn stdout_error(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(ErrorCode::Internal, ReaderGone.to_string()).with_source(ReaderGone);
    }
    let code = Error::io("", io::Error::from(error.kind())).code();
    Error::new(code, format!("writing to standard output: {error}")).with_source(Unwritable(error))
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

    /// A table with these headings. On a terminal it is as wide as that, and long cells have several lines; elsewhere
    /// a row is a line.
    pub(crate) fn table(&mut self, headings: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
        let mut table = Table::new();
        let cell = |cell: &String| safe(cell, self.terminal).into_owned();
        let rows = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let width = if self.terminal { table.width() } else { None };
        for line in lay_out(&mut table, headings, rows, width) {
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

/// The lines of a table, no wider than this unless single words are.
fn lay_out(table: &mut Table, headings: &[&str], rows: Vec<Vec<String>>, width: Option<u16>) -> Vec<String> {
    // No word is broken: ids and URLs are copied.
    let longest_word = |text: &str| text.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
    let needed = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| longest_word(cell));
        cells.max().unwrap_or(0).max(longest_word(headings[column])) as u16
    };
    let needed: Vec<u16> = (0..headings.len()).map(needed).collect();
    // Each column has a space on both sides; the first one at the left is taken away.
    let least: usize = needed.iter().map(|needed| usize::from(*needed) + 2).sum();
    table.load_preset(comfy_table::presets::NOTHING).set_header(headings.to_vec()).add_rows(rows);
    match width.map(|width| width.saturating_add(1)) {
        Some(width) if least <= usize::from(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            let at_least = |needed| ColumnConstraint::LowerBoundary(comfy_table::Width::Fixed(needed + 2));
            table.set_constraints(needed.into_iter().map(at_least));
        }
        _ => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    // Neither the space before nor the padding behind helps `cut` or copying.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_string()).collect()
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::internal("the answer cannot be written as JSON").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_a_terminal_and_has_a_line_for_each_row_elsewhere() {
        let row = || vec!["storage-1".to_string(), "0123456789abcdef".into(), "word ".repeat(60)];
        let lines = lay_out(&mut Table::new(), &["NAME", "ID", "WHY"], vec![row(), row()], Some(100));
        assert!(lines.len() > 4 && lines.iter().all(|line| line.chars().count() <= 100), "{lines:#?}");
        assert!(lines[1].starts_with("storage-1  0123456789abcdef  word"), "{lines:#?}");
        let lines = lay_out(&mut Table::new(), &["NAME", "ID", "WHY"], vec![row(), row()], None);
        assert_eq!(lines.len(), 3);
        // The id is copied from the screen.
        let row = || vec!["word ".repeat(20), "0123456789abcdef".into(), "word ".repeat(60)];
        let lines = lay_out(&mut Table::new(), &["A", "ID", "WHY"], vec![row()], Some(50));
        assert!(lines.iter().all(|line| line.chars().count() <= 50), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("0123456789abcdef")), "{lines:#?}");
        let lines = lay_out(&mut Table::new(), &["A", "ID", "WHY"], vec![row()], Some(20));
        assert_eq!(lines.len(), 2, "where words alone are wider a row is a line");
    }
}
