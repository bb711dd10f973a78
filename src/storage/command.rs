//! What the command line of a storage server's program says to do.

use std::path::Path;

use super::options::{Action, Command, JournalAction};
use super::server::serve;
use super::{offline, salvage};
use crate::types::words::counted;
use crate::types::{Error, Result};

/// Runs what the command line says, until the end. Must be called inside an actix system.
pub async fn run(command: Command) -> Result<()> {
    match command.action {
        Some(Action::Salvage { data_dir, to, committed_only }) => {
            print_salvaged(&salvage::salvage(&data_dir, &to, committed_only)?, &to)
        }
        Some(Action::Verify(args)) => offline::verify(&args, offline::What::Everything),
        Some(Action::Journal(JournalAction::Verify(args))) => offline::verify(&args, offline::What::Journal),
        Some(Action::Rebuild { data_dir }) => {
            let done = salvage::rebuild(&data_dir)?;
            println!("{} kept, {} dropped", counted(done.kept, "copy"), counted(done.dropped, "copy"));
            if let Some(reason) = done.ended_early {
                println!("the old index could be read only in part: {reason}");
            }
            Ok(())
        }
        None => serve(command.options).await,
    }
}

fn print_salvaged(done: &salvage::Salvaged, to: &Path) -> Result<()> {
    println!(
        "{} files ({} bytes) written to {}; {} older copies passed over",
        done.files,
        done.bytes,
        to.display(),
        done.passed_over
    );
    match done.journal {
        Some(version) => println!(
            "paths are those of the journal here, which reaches version {version}; {} newer files stand under the paths \
             of their commits",
            done.newer
        ),
        None => println!("there is no journal here that counts: paths are those of the commits"),
    }
    for note in done.notes.iter().chain(&done.problems) {
        eprintln!("holdfast-storage-server: {note}");
    }
    if done.problems.is_empty() {
        Ok(())
    } else {
        Err(Error::internal(format!("{} files could not be written", done.problems.len())))
    }
}
