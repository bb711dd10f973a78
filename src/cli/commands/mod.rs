//! The commands that work on the cluster, each kind in a file of its own.

pub(super) mod administration;
pub(super) mod certs;
pub(super) mod cluster;
pub(super) mod events;
pub(super) mod explore;
pub(super) mod files;
pub(super) mod fsck;
pub(super) mod glob;
pub(super) mod ls;
pub(super) mod move_copy;
pub(super) mod rebalance;
pub(super) mod report;
pub(super) mod restore;
pub(super) mod scrub;
pub(super) mod servers;
pub(super) mod show;
pub(super) mod tree;

use super::exit::Exit;
use super::output::{Output, is_of_output};
use super::progress::say;
use crate::types::{DfsPath, Error, ErrorCode, Result};

/// The outcome of a command that does the same to several things: each failure is said at once, and the exit
/// code is the failure's own if nothing was done, else "partly".
#[derive(Default)]
struct Each {
    done: usize,
    failures: Vec<Exit>,
}

impl Each {
    /// Notes one outcome. That nobody reads on, or that standard output takes no more, ends everything.
    fn note(&mut self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Ok(()) => self.done += 1,
            Err(error) if is_of_output(&error) => return Err(error),
            Err(error) => {
                crate::cli::complaint::complain(&error);
                // One code is enough to know whether all are the same.
                let exit = Exit::from(error.code());
                if !self.failures.contains(&exit) {
                    self.failures.push(exit);
                }
            }
        }
        Ok(())
    }

    /// Whether anything was done, so that a list of it, which may be empty, has to be ended.
    fn any_done(&self) -> bool {
        self.done > 0
    }

    fn exit(&self) -> Exit {
        match (self.done, self.failures.as_slice()) {
            (_, []) => Exit::Done,
            (0, [one]) => *one,
            (0, _) => Exit::Failed,
            _ => Exit::Partly,
        }
    }
}

/// A failure of one thing among several.
fn about(what: impl std::fmt::Display) -> impl FnOnce(Error) -> Error {
    move |error| {
        let what = what.to_string();
        // Most messages name the thing already.
        if error.message().contains(&what) { error } else { error.context(what) }
    }
}

/// For commands that take directories only when told to.
fn needs_recursive(error: Error) -> Error {
    if error.code() != ErrorCode::IsADirectory || error.message().contains("-r") {
        return error;
    }
    let message = format!("{} (-r takes directories too)", error.message());
    Error::new(error.code(), message).with_request_id(error.request_id().map(String::from))
}

/// What was written as a directory is not there.
pub(super) fn no_directory(path: &DfsPath) -> Error {
    Error::not_found(format!("the directory {path} does not exist; `holdfast mkdir -p {path}` makes it"))
}

/// `holdfast version`.
pub(super) fn version(json: bool) -> Result<Exit> {
    let mut output = Output::new();
    let version = env!("CARGO_PKG_VERSION");
    match json {
        true => output.json(&serde_json::json!({ "version": version }))?,
        false => output.line(format_args!("holdfast {version}"))?,
    }
    output.flush()?;
    Ok(Exit::Done)
}

/// A hint for people.
fn hint(text: &str) {
    say(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_failure_keeps_its_code_and_a_mixed_outcome_is_partly_done() {
        let failure = || Err(Error::not_found("x"));
        let exit_of = |outcomes: Vec<Result<()>>| {
            let mut each = Each::default();
            outcomes.into_iter().for_each(|outcome| each.note(outcome).unwrap());
            each.exit()
        };
        assert_eq!(exit_of(vec![Ok(())]), Exit::Done);
        assert_eq!(exit_of(vec![failure(), failure()]), Exit::NotFound);
        assert_eq!(exit_of(vec![Ok(()), failure()]), Exit::Partly);
        assert_eq!(exit_of(vec![failure(), Err(Error::internal("y"))]), Exit::Failed);
    }
}
