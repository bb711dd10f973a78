//! `verify`: reads every byte of a data directory with no server running, and says what is damaged. Nothing is changed.
//!
//! Three looks: SQLite's own at the index, each copy against the digest that was acknowledged, and each file of the
//! metadata's journal against its checksum, its chain and the others. What is damaged is named one by one; what to do
//! is the daemon's, which replaces it from other servers.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use structopt::StructOpt;

use super::store::layout::object_name;
use super::store::verify::{Reading, Step, check_small};
use super::store::{Layout, ReplicaRow, index, inspect, journal};
use crate::journal::Defect;
use crate::journal::collection::Collection;
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

/// Rows that are looked at together.
const PAGE_ROWS: usize = 1_000;
/// Bytes of a copy that are read between two looks at the clock.
const STEP_BYTES: u64 = 8 << 20;
/// Damaged things that `--json` lists; all are counted, and without it all are printed.
const LISTED_MAX: usize = 100_000;
/// How often progress is shown.
const SHOW_INTERVAL: Duration = Duration::from_millis(500);

// A doc comment here would become the command's description.
#[allow(missing_docs, reason = "each option has its help")]
#[derive(Debug, Clone, StructOpt)]
pub struct VerifyArgs {
    /// The storage server's data directory
    pub dir: PathBuf,
    /// Print the outcome as JSON
    #[structopt(long)]
    pub json: bool,
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The index, the copies and the journal.
    Everything,
    /// The journal.
    Journal,
}

/// Something that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// `index`, `copy` or `journal`.
    pub kind: &'static str,
    /// The file.
    pub file: PathBuf,
    /// The copy, if it is one, and the path under which it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// The outcome, as `--json` prints it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Nothing is damaged.
    pub clean: bool,
    /// Copies that were read.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files of the journal that were read.
    pub journal_files: u64,
    /// The version that they lead to, if they do.
    pub journal_version: Option<i64>,
    /// Damaged things.
    pub damaged_total: u64,
    /// The first of them.
    pub damaged: Vec<Damaged>,
}

/// Reads a directory and prints what was found. Damage is an error of the code `checksum_mismatch`.
pub fn verify(args: &VerifyArgs, what: What) -> Result<()> {
    let mut work = Work::new(!args.json);
    let outcome = work.run(&args.dir, what)?;
    let mut out = std::io::stdout().lock();
    let printed = if args.json {
        let text = serde_json::to_string_pretty(&outcome)
            .map_err(|error| Error::internal("cannot encode the outcome").with_source(error))?;
        writeln!(out, "{text}")
    } else {
        writeln!(
            out,
            "{} copies ({} bytes) and {} files of the journal were read; {} are damaged",
            outcome.copies, outcome.bytes, outcome.journal_files, outcome.damaged_total
        )
    };
    printed.and_then(|()| out.flush()).io_context(|| "printing the outcome".into())?;
    if outcome.clean {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::ChecksumMismatch,
        format!(
            "{} is damaged in {} places. Nothing was changed: start its storage server, which puts damaged copies and files \
             of the journal aside and has them replaced from other servers; a damaged index is made anew by `rebuild`",
            args.dir.display(),
            outcome.damaged_total
        ),
    ))
}

/// Reads a directory without printing anything.
pub fn examine(dir: &Path, what: What) -> Result<Outcome> {
    Work { prints: false, ..Work::new(false) }.run(dir, what)
}

/// A verification under way.
struct Work {
    outcome: Outcome,
    prints: bool,
    shows: bool,
    shown: Instant,
}

impl Work {
    fn new(prints: bool) -> Self {
        let shows = prints && std::io::stderr().is_terminal();
        Self { outcome: Outcome::default(), prints, shows, shown: Instant::now() }
    }

    fn run(&mut self, dir: &Path, what: What) -> Result<Outcome> {
        let (layout, server) = Layout::open_to_verify(dir)?;
        if what == What::Everything {
            let path = layout.index_path();
            match inspect::open(&path)? {
                Ok(mut index) => {
                    for reason in index.check_pages()? {
                        self.found(Damaged { kind: "index", file: path.clone(), copy: None, reason });
                    }
                    self.copies(&layout, &mut index.connection).unwrap_or_else(|error| {
                        self.found(Damaged { kind: "index", file: path.clone(), copy: None, reason: error.chain() })
                    });
                }
                // A server that has never joined may have none.
                Err(_) if server.cluster.is_none() && !path.exists() => {}
                Err(reason) => self.found(Damaged { kind: "index", file: path, copy: None, reason }),
            }
        }
        self.journal(&layout, server.cluster)?;
        self.hide();
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.clean = outcome.damaged_total == 0;
        Ok(outcome)
    }

    fn copies(&mut self, layout: &Layout, connection: &mut index::IndexConnection) -> Result<()> {
        let mut after = None;
        loop {
            let rows = index::page(connection, after, PAGE_ROWS)?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(last.key());
            for row in rows {
                let key = row.key();
                let (name, bytes) = (format!("{key} ({})", row.label), row.size as u64);
                let (file, read) = if row.in_index {
                    let small = index::bytes(connection, key)?;
                    (layout.index_path(), check_small(&row, small.as_deref()))
                } else {
                    (layout.objects().path().join(object_name(key)), self.read(layout, row))
                };
                if let Err(reason) = read {
                    self.found(Damaged { kind: "copy", file, copy: Some(name), reason });
                }
                self.outcome.copies += 1;
                self.outcome.bytes += bytes;
                self.show();
            }
        }
    }

    fn read(&mut self, layout: &Layout, row: ReplicaRow) -> std::result::Result<(), String> {
        let failed = |error: std::io::Error| format!("it could not be read: {error}");
        let mut step = Reading::start(layout, row).map_err(failed)?;
        loop {
            step = match step {
                Step::More(reading) => reading.advance(STEP_BYTES).map_err(failed)?,
                Step::Good => return Ok(()),
                Step::Bad(reason) => return Err(reason),
                Step::Gone => return Err("its file is missing".into()),
            };
            self.show();
        }
    }

    fn journal(&mut self, layout: &Layout, cluster: Option<uuid::Uuid>) -> Result<()> {
        let mut files = Collection::new(cluster);
        let paths = journal::paths(layout)?;
        for path in &paths {
            match files.add(path) {
                Ok(_) => {}
                Err(Defect::FormatTooNew(format)) => {
                    return Err(Error::from(Defect::FormatTooNew(format)).context(path.display()));
                }
                Err(defect) => {
                    let reason = defect.to_string();
                    self.found(Damaged { kind: "journal", file: path.clone(), copy: None, reason });
                }
            }
            self.outcome.journal_files += 1;
            self.show();
        }
        self.outcome.journal_version = files.merge().chain.map(|chain| chain.head.version);
        if self.outcome.journal_version.is_none() && !paths.is_empty() {
            let file = layout.journal().path().to_path_buf();
            let reason = "its files do not lead from a beginning to an end: some are missing".into();
            self.found(Damaged { kind: "journal", file, copy: None, reason });
        }
        Ok(())
    }

    fn found(&mut self, damaged: Damaged) {
        self.outcome.damaged_total += 1;
        if self.prints {
            self.hide();
            let copy = damaged.copy.as_deref().map(|copy| format!(" (copy {copy})")).unwrap_or_default();
            println!("{} {}{copy}: {}", damaged.kind, damaged.file.display(), damaged.reason);
        }
        if self.outcome.damaged.len() < LISTED_MAX {
            self.outcome.damaged.push(damaged);
        }
    }

    fn show(&mut self) {
        if self.shows && self.shown.elapsed() >= SHOW_INTERVAL {
            self.shown = Instant::now();
            let Outcome { copies, bytes, journal_files, damaged_total, .. } = &self.outcome;
            eprint!(
                "\r{copies} copies, {} MiB, {journal_files} files of the journal, {damaged_total} damaged ",
                bytes >> 20
            );
        }
    }

    /// Makes room for a line.
    fn hide(&self) {
        if self.shows {
            eprint!("\r{:79}\r", "");
        }
    }
}
