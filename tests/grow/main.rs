//! A cluster with as many files as you like, and what things cost then: docs/performance.md.
//!
//! `scripts/grow` runs it with options (`run --help`). Under `cargo test` it fills a small cluster on each database and
//! looks whether everything is as if people had written the files.
//!
//! - `tree`: the files; `fill`: how they get into the metadata and onto the storage servers
//! - `study`, `measure`: a cluster that is filled, started and asked
//! - `figures`, `draw`: what is kept, and the table and drawings made of it
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod draw;
mod figures;
mod fill;
mod measure;
mod small;
mod study;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use structopt::StructOpt;

use figures::{BASE_FILES, Figures};
use study::Study;

/// Fills a cluster with many files and measures what things cost.
#[derive(Debug, StructOpt)]
#[structopt(name = "scripts/grow")]
enum Command {
    /// Measures; each size in a cluster of its own. Ten million files need 40 GB of disk and an hour
    Run {
        /// Numbers of files, separated by commas
        #[structopt(long, default_value = "10000,100000", use_delimiter = true)]
        files: Vec<usize>,
        /// Where the metadata is: sqlite, postgres, or both with a comma
        #[structopt(long, default_value = "sqlite,postgres", use_delimiter = true, possible_values = &["sqlite", "postgres"])]
        database: Vec<String>,
        /// The file that the figures are put into; those of other runs stay
        #[structopt(long, default_value = "docs/performance/figures.json")]
        out: PathBuf,
        /// Copies of the journal, each with a snapshot of everything
        #[structopt(long, default_value = "3")]
        journal_copies: usize,
        /// Also what is done once: fsck, a server that returns empty, a restore
        #[structopt(long)]
        disasters: bool,
    },
    /// Makes the table in docs/performance.md, and the drawings, of the figures
    Draw {
        /// The figures
        #[structopt(long, default_value = "docs/performance/figures.json")]
        from: PathBuf,
    },
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("run" | "draw" | "help") => match Command::from_iter(&args) {
            Command::Run { files, database, out, journal_copies, disasters } => {
                run(&files, &database, &out, journal_copies, disasters)
            }
            Command::Draw { from } => draw::draw(&Figures::load(&from), &from),
        },
        _ => return small::run_tests(&args[1..]),
    }
    ExitCode::SUCCESS
}

fn run(sizes: &[usize], databases: &[String], out: &Path, journal_copies: usize, disasters: bool) {
    if let Some(directory) = out.parent() {
        std::fs::create_dir_all(directory).unwrap();
    }
    for database in databases {
        let base = sizes
            .iter()
            .any(|files| *files != BASE_FILES)
            .then(|| Study::begin(database, BASE_FILES, journal_copies).0);
        for files in sizes {
            let (mut study, mut run) = Study::begin(database, *files, journal_copies);
            // What is measured only once of this size stays.
            let before =
                Figures::load(out).runs.into_iter().find(|other| (&other.database, other.files) == (database, *files));
            if let Some(before) = before {
                (run.fsck_seconds, run.restore, run.empty_return) =
                    (before.fsck_seconds, before.restore, before.empty_return);
            }
            let keep = |run: &figures::Run| {
                let mut figures = Figures::load(out);
                figures.put(run.clone());
                figures.save(out);
            };
            study.costs(base.as_ref().filter(|_| *files != BASE_FILES), &mut run);
            keep(&run);
            if disasters {
                study.fsck(&mut run);
                keep(&run);
                study.restore(&mut run);
                keep(&run);
                study.empty_return(&mut run);
                keep(&run);
            }
            study.end();
        }
    }
}
