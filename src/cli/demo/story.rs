//! What the tour says.

use std::time::{Duration, Instant};

use crate::cli::output::Output;
use crate::types::Result;

/// Prints the tour in plain sentences, with the time since its start.
pub(super) struct Story {
    output: Output,
    started: Instant,
    chapters: usize,
    quiet: bool,
}

impl Story {
    pub(super) fn new(quiet: bool) -> Self {
        Self { output: Output::new(), started: Instant::now(), chapters: 0, quiet }
    }

    /// Begins a new part.
    pub(super) fn chapter(&mut self, title: &str) -> Result<()> {
        self.chapters += 1;
        let (number, seconds) = (self.chapters, self.started.elapsed().as_secs());
        self.line(&format!("\n{number}. {title}  [{seconds} s]"))
    }

    /// Says a sentence.
    pub(super) fn tell(&mut self, text: impl AsRef<str>) -> Result<()> {
        self.line(&format!("   {}", text.as_ref()))
    }

    /// The first and the last words.
    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        self.output.line(text)?;
        self.output.flush()
    }

    /// Whether nobody wants to hear it.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A time as the tour tells it.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
