//! How far a transfer is, and what went wrong on the way, on standard error.
//!
//! On a terminal there is one bar: files, bytes, rate, time left. Elsewhere a plain line comes at most every
//! [`LINE_INTERVAL`], and one at the end. `--quiet` leaves only what went wrong. [`Tally`] counts outcomes,
//! prints each failure when it happens (nothing is kept, however many there are) and knows the exit code.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::human::{human_bytes, human_count, human_counted, human_duration, safe};
use crate::client::Waits;
use crate::types::{Error, ErrorCode};

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two lines of [`StatusLine`].
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// Silence after which it is said who is waited for.
const WAIT_TOLD_AFTER: Duration = Duration::from_secs(2);
/// How often that is looked at.
const WAIT_LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Plain lines that say who is waited for, in one run.
const WAIT_LINES_MAX: usize = 10;
/// Failed transfers in a row, with none done between, after which going on is pointless.
const FAILURES_IN_A_ROW_MAX: u64 = 32;

/// All that moves on the terminal is drawn together.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5)));
/// The line that says who is waited for, on a terminal.
static WAITING: Mutex<Option<ProgressBar>> = Mutex::new(None);

struct Inner {
    verb: &'static str,
    bar: Option<ProgressBar>,
    quiet: bool,
    silent: bool,
    started: Instant,
    files_total: AtomicU64,
    files_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    /// The totals grow no more.
    complete: AtomicBool,
    last_line: Mutex<Instant>,
}

/// Shows how far it is. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Inner>);

impl Progress {
    /// Shows `verb` ("sent", "fetched") with what is counted from now on.
    pub(crate) fn new(verb: &'static str, quiet: bool) -> Self {
        Self::build(verb, quiet, false)
    }

    fn build(verb: &'static str, quiet: bool, silent: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(new_bar);
        Self(Arc::new(Inner {
            verb,
            bar,
            quiet,
            silent,
            started: Instant::now(),
            files_total: AtomicU64::new(0),
            files_done: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            last_line: Mutex::new(Instant::now()),
        }))
    }

    /// Shows nothing but what is said.
    pub(crate) fn hidden() -> Self {
        Self::build("", true, false)
    }

    /// Shows nothing at all.
    pub(crate) fn silent() -> Self {
        Self::build("", true, true)
    }

    /// One more file, of so many bytes, is to be transferred.
    pub(crate) fn expect(&self, bytes: u64) {
        self.0.files_total.fetch_add(1, Relaxed);
        self.0.bytes_total.fetch_add(bytes, Relaxed);
        self.refresh();
    }

    /// No more files will be expected.
    pub(crate) fn expect_no_more(&self) {
        self.0.complete.store(true, Relaxed);
    }

    /// A file is over, well or not.
    pub(crate) fn file_over(&self) {
        self.0.files_done.fetch_add(1, Relaxed);
        self.refresh();
    }

    fn refresh(&self) {
        let (done, total) = (self.0.files_done.load(Relaxed), self.0.files_total.load(Relaxed));
        if let Some(bar) = &self.0.bar {
            bar.set_length(self.0.bytes_total.load(Relaxed));
            bar.set_position(self.0.bytes_done.load(Relaxed));
            bar.set_message(format!("{}/{}", human_count(done), human_counted(total, "file")));
            return;
        }
        if self.0.quiet {
            return;
        }
        {
            let mut last = self.0.last_line.lock();
            if last.elapsed() < LINE_INTERVAL {
                return;
            }
            *last = Instant::now();
        }
        self.say(&self.line());
    }

    fn line(&self) -> String {
        let inner = &self.0;
        let (bytes, bytes_total) = (inner.bytes_done.load(Relaxed), inner.bytes_total.load(Relaxed));
        let seconds = inner.started.elapsed().as_secs_f64().max(0.001);
        let rate = bytes as f64 / seconds;
        let mut text = format!(
            "{} {} of {}, {} of {}, {}/s",
            inner.verb,
            human_count(inner.files_done.load(Relaxed)),
            human_counted(inner.files_total.load(Relaxed), "file"),
            human_bytes(bytes),
            human_bytes(bytes_total),
            human_bytes(rate as u64),
        );
        if inner.complete.load(Relaxed) && rate > 0.0 {
            let left = bytes_total.saturating_sub(bytes) as f64 / rate;
            text.push_str(&format!(", about {} left", human_duration(left as u64)));
        }
        text
    }

    /// Prints a line for people, past the bar.
    pub(crate) fn say(&self, text: &str) {
        if self.0.silent {
            return;
        }
        clear_waiting();
        let line = notice(text);
        match &self.0.bar {
            Some(bar) => bar.suspend(|| print(&line)),
            None => print(&line),
        }
    }

    /// Tells a failure, past the bar.
    fn tell(&self, failure: &Failure) {
        if self.0.silent {
            return;
        }
        match &self.0.bar {
            Some(bar) => bar.suspend(|| tell(failure)),
            None => tell(failure),
        }
    }

    /// Prints a line for people unless they want quiet.
    pub(crate) fn mention(&self, text: &str) {
        if !self.0.quiet {
            self.say(text);
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.0.bar {
            bar.finish_and_clear();
        }
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }
}

fn new_bar() -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(0));
    let template = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// One line that says what is going on. On a terminal it is written over; elsewhere a new one comes when the text
/// has changed, at most every [`STATUS_INTERVAL`].
pub(crate) struct StatusLine {
    bar: Option<ProgressBar>,
    quiet: bool,
    last: Option<(Instant, String)>,
}

impl StatusLine {
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = BARS.add(ProgressBar::no_length());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, quiet, last: None }
    }

    /// Shows a text.
    pub(crate) fn show(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(safe(text, true).into_owned());
        } else if !self.quiet
            && self.last.as_ref().is_none_or(|(at, last)| last != text && at.elapsed() >= STATUS_INTERVAL)
        {
            say(text);
            self.last = Some((Instant::now(), text.into()));
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Says who is waited for, whenever that takes long: on a terminal in a line that goes away, elsewhere once in a plain
/// line for each.
pub(crate) fn tell_waits(waits: &Waits, quiet: bool) {
    if quiet {
        return;
    }
    let waits = waits.clone();
    let on_terminal = std::io::stderr().is_terminal();
    tokio::spawn(async move {
        let mut told = HashSet::new();
        while !waits.is_abandoned() {
            tokio::time::sleep(WAIT_LOOK_INTERVAL).await;
            match waits.longest(WAIT_TOLD_AFTER) {
                Some(text) if on_terminal => show_waiting(&text),
                Some(text) if told.len() < WAIT_LINES_MAX && told.insert(text.clone()) => {
                    say(&format!("holdfast: {text}"));
                }
                Some(_) => {}
                None => clear_waiting(),
            }
        }
    });
}

fn show_waiting(text: &str) {
    let mut waiting = WAITING.lock();
    let bar = waiting.get_or_insert_with(|| {
        let bar = BARS.add(ProgressBar::new_spinner());
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    });
    bar.set_message(safe(text, true).into_owned());
}

/// Takes the line away that says who is waited for: something else is written now.
pub(crate) fn clear_waiting() {
    if let Some(bar) = WAITING.lock().take() {
        bar.finish_and_clear();
    }
}

/// Whether each line on standard error is an object of JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// From now on what is said is JSON, or is text.
pub(crate) fn speak_json(json: bool) {
    JSON.store(json, Relaxed);
}

/// What is no failure, as it stands on standard error.
fn notice(text: &str) -> Cow<'_, str> {
    if JSON.load(Relaxed) { serde_json::json!({ "notice": text }).to_string().into() } else { text.into() }
}

/// Says something on standard error that is no failure; with `--json` as `{"notice": …}`.
pub(crate) fn say(text: &str) {
    clear_waiting();
    print(&notice(text));
}

/// Tells a failure on standard error.
pub(crate) fn tell(failure: &Failure) {
    clear_waiting();
    print(&if JSON.load(Relaxed) { failure.json() } else { failure.sentence() });
}

/// Prints a line on standard error; that nobody reads it is no failure.
fn print(line: &str) {
    let mut stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    let _ = writeln!(stderr, "{}", safe(line, terminal));
}

/// Counts the bytes of one transfer; a try that failed is taken back.
pub(crate) struct Meter {
    progress: Progress,
    counted: AtomicU64,
}

impl Meter {
    pub(crate) fn new(progress: &Progress) -> Arc<Self> {
        Arc::new(Self { progress: progress.clone(), counted: AtomicU64::new(0) })
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.counted.fetch_add(bytes as u64, Relaxed);
        self.progress.0.bytes_done.fetch_add(bytes as u64, Relaxed);
        self.progress.refresh();
    }

    pub(crate) fn restart(&self) {
        let counted = self.counted.swap(0, Relaxed);
        self.progress.0.bytes_done.fetch_sub(counted, Relaxed);
    }
}

/// What a run did, as numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Counts {
    /// Transferred files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Directories made.
    pub(crate) directories: u64,
    /// Files and directories removed.
    pub(crate) removed: u64,
    /// Files that were the same already.
    pub(crate) unchanged: u64,
    /// What cannot be stored (links, sockets, …) and was left out.
    pub(crate) skipped: u64,
    /// What changed on both sides and was left alone.
    pub(crate) conflicts: u64,
    /// What failed.
    pub(crate) failed: u64,
}

impl Counts {
    /// What was done, in words.
    fn sentence(&self, verb: &str) -> String {
        let mut text = format!("{verb} {} ({})", human_counted(self.files, "file"), human_bytes(self.bytes));
        let plain = |count, what: &str| (count, format!("{} {what}", human_count(count)));
        for (count, what) in [
            (self.directories, format!("{} made", human_counted(self.directories, "directory"))),
            plain(self.removed, "removed"),
            plain(self.unchanged, "unchanged"),
            plain(self.skipped, "skipped"),
            (self.conflicts, human_counted(self.conflicts, "conflict")),
            plain(self.failed, "failed"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {what}"));
            }
        }
        text
    }
}

/// Counts outcomes and prints what went wrong. Shared by the transfers of one run.
pub(crate) struct Tally {
    pub(crate) progress: Progress,
    counts: Mutex<Counts>,
    in_a_row: AtomicU64,
    last_code: Mutex<Option<ErrorCode>>,
    said_single: AtomicBool,
}

impl Tally {
    pub(crate) fn new(progress: Progress) -> Arc<Self> {
        Arc::new(Self {
            progress,
            counts: Mutex::default(),
            in_a_row: AtomicU64::new(0),
            last_code: Mutex::new(None),
            said_single: AtomicBool::new(false),
        })
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock());
    }

    pub(crate) fn transferred(&self, bytes: u64) {
        self.in_a_row.store(0, Relaxed);
        self.count(|counts| {
            counts.files += 1;
            counts.bytes += bytes;
        });
    }

    /// A file was sent. With one copy wanted nothing protects it, which is said once.
    pub(crate) fn sent(&self, bytes: u64, copies_wanted: u32) {
        self.transferred(bytes);
        if copies_wanted < 2 && !self.said_single.swap(true, Relaxed) {
            self.progress.mention("holdfast: only one copy of these files is kept; a lost disk loses them");
        }
    }

    pub(crate) fn directory_made(&self) {
        self.count(|counts| counts.directories += 1);
    }

    pub(crate) fn removed(&self) {
        self.count(|counts| counts.removed += 1);
    }

    pub(crate) fn unchanged(&self) {
        self.count(|counts| counts.unchanged += 1);
    }

    pub(crate) fn failed(&self, what: &str, error: &Error) {
        log::debug!("{what}: {}", error.chain());
        self.progress.tell(&Failure::of_one(what, error));
        self.count(|counts| counts.failed += 1);
        *self.last_code.lock() = Some(error.code());
        // What the rest of the run will meet again: nobody answers, nobody may, or nothing fits.
        let hopeless = Exit::from(error.code());
        if matches!(hopeless, Exit::Unavailable | Exit::NotPermitted) || error.code() == ErrorCode::OutOfSpace {
            self.in_a_row.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn skipped(&self, what: &str, reason: &str) {
        self.progress.tell(&Failure::plain("skipped", reason, Exit::Partly).about(what));
        self.count(|counts| counts.skipped += 1);
    }

    pub(crate) fn conflict(&self, what: &str, reason: &str) {
        self.progress.tell(&Failure::plain("conflict", reason, Exit::Conflict).about(what));
        self.count(|counts| counts.conflicts += 1);
    }

    /// So many transfers failed in a row that the rest would fail too.
    pub(crate) fn check_hope(&self) -> Result<(), Error> {
        if self.in_a_row.load(Relaxed) < FAILURES_IN_A_ROW_MAX {
            return Ok(());
        }
        let code = self.last_code.lock().unwrap_or(ErrorCode::Unavailable);
        let message =
            format!("{FAILURES_IN_A_ROW_MAX} transfers in a row failed; stopped. Run it again to send what is missing");
        Err(Error::new(code, message))
    }

    /// The numbers so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    /// The exit code: conflicts first, then whatever was not done.
    pub(crate) fn exit(&self) -> Exit {
        let counts = self.counts();
        match counts {
            Counts { conflicts: 1.., .. } => Exit::Conflict,
            Counts { failed: 0, skipped: 0, .. } => Exit::Done,
            _ => Exit::Partly,
        }
    }

    /// Takes the bar away and says in one line what was done.
    pub(crate) fn summary(&self, verb: &str) -> Counts {
        self.progress.finish();
        let counts = self.counts();
        let seconds = self.progress.elapsed().as_secs_f64();
        self.progress.mention(&format!("{} in {seconds:.1} s", counts.sentence(verb)));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_come_before_what_is_partly_done() {
        let tally = Tally::new(Progress::hidden());
        assert_eq!(tally.exit(), Exit::Done);
        tally.skipped("link", "it is a symbolic link");
        assert_eq!(tally.exit(), Exit::Partly);
        tally.conflict("a", "changed on both sides");
        assert_eq!(tally.exit(), Exit::Conflict);
        assert_eq!(tally.counts().skipped, 1);
        assert_eq!(tally.counts().skipped, 1, "looking does not change");
    }

    #[test]
    fn one_file_is_one_file() {
        let counts = Counts { files: 1, bytes: 5, directories: 1, conflicts: 1, removed: 1, ..Counts::default() };
        assert_eq!(counts.sentence("sent"), "sent 1 file (5 B), 1 directory made, 1 removed, 1 conflict");
        let counts = Counts { files: 2_000, directories: 2, failed: 3, ..Counts::default() };
        assert_eq!(counts.sentence("fetched"), "fetched 2,000 files (0 B), 2 directories made, 3 failed");
    }

    #[test]
    fn a_cluster_that_is_gone_stops_the_run() {
        let tally = Tally::new(Progress::hidden());
        for _ in 0..FAILURES_IN_A_ROW_MAX {
            assert!(tally.check_hope().is_ok());
            tally.failed("x", &Error::unavailable("gone"));
        }
        assert_eq!(tally.check_hope().unwrap_err().code(), ErrorCode::Unavailable);
        tally.transferred(1);
        assert!(tally.check_hope().is_ok());
    }
}
