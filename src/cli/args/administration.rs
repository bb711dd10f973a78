//! Options of the commands that look at the cluster and administer it.

use std::path::PathBuf;

use structopt::StructOpt;

use crate::types::ObjectId;
use crate::types::api::Role;
use crate::types::limits::REPLICATION_MAX;

/// `events`.
#[derive(Debug, StructOpt)]
pub(crate) struct EventsArgs {
    /// How many of the newest
    #[structopt(short = "n", long, value_name = "N", default_value = "50")]
    pub(crate) limit: usize,
    /// Only what is about this object (its id, as `holdfast stat` shows it)
    #[structopt(long, value_name = "ID")]
    pub(crate) object: Option<ObjectId>,
    /// Only what is about this storage server
    #[structopt(long, value_name = "NAME_OR_ID")]
    pub(crate) server: Option<String>,
    /// Only what is of this kind, for instance server_down or replica_trimmed
    #[structopt(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
}

/// `drain`.
#[derive(Debug, StructOpt)]
pub(crate) struct DrainArgs {
    #[structopt(flatten)]
    pub(crate) server: ServerArgs,
    /// Return when nothing needs the server any more, and show how far that is
    #[structopt(short, long)]
    pub(crate) wait: bool,
}

/// `undrain`, `remove`.
#[derive(Debug, StructOpt)]
pub(crate) struct ServerArgs {
    /// Name or id, as `holdfast servers` shows them
    pub(crate) server: String,
}

/// `setrep`.
#[derive(Debug, StructOpt)]
pub(crate) struct SetrepArgs {
    /// Copies wanted: 1 to 16
    #[structopt(value_name = "N", parse(try_from_str = copies))]
    pub(crate) copies: u32,
    /// A path in the cluster
    #[structopt(value_name = "PATH")]
    pub(crate) path: String,
}

/// `fsck`.
#[derive(Debug, StructOpt)]
pub(crate) struct FsckArgs {
    /// Puts right what can be put right without a person; names of files are never removed
    #[structopt(long)]
    pub(crate) repair: bool,
}

/// `restore`.
#[derive(Debug, StructOpt)]
pub(crate) struct RestoreArgs {
    /// A storage server (name or id) that is known to be absent and shall not be waited for; several times if need be
    #[structopt(long, value_name = "SERVER", number_of_values = 1)]
    pub(crate) without: Vec<String>,
    /// Goes on although the copies of the journal lack changes, which are lost then
    #[structopt(long)]
    pub(crate) accept_gap: bool,
    /// Copies wanted of all files, when there is no journal left that tells
    #[structopt(long, value_name = "N", parse(try_from_str = copies))]
    pub(crate) replicas: Option<u32>,
    /// Starts nothing; shows how the running restore goes on, or what the last one found
    #[structopt(long, conflicts_with_all = &["without", "accept-gap", "replicas"])]
    pub(crate) status: bool,
}

/// `token`.
#[derive(Debug, StructOpt)]
pub(crate) enum TokenCommand {
    /// Makes a token and prints it; it is shown only this once
    Create {
        /// The name by which it is revoked
        name: String,
        /// What it allows: reader, writer or superuser
        #[structopt(long, default_value = "reader", parse(try_from_str = role))]
        role: Role,
        /// Only for paths at and below this one
        #[structopt(long, value_name = "DFS_PATH")]
        prefix: Option<String>,
        /// For how long, as 90s, 30m, 12h or 7d [default: until it is revoked]
        #[structopt(long, value_name = "TIME", parse(try_from_str = seconds))]
        ttl: Option<u64>,
    },
    /// Prints the first superuser token, which is derived from the cluster secret
    First {
        /// File with the cluster secret
        #[structopt(long, value_name = "FILE", parse(from_os_str))]
        cluster_secret_file: PathBuf,
    },
    /// Lists the tokens, without their secrets
    List,
    /// Makes a token worthless
    Revoke {
        /// Its name
        name: String,
        /// The last superuser without a prefix too; nobody can make tokens any more then
        #[structopt(long)]
        force: bool,
    },
}

fn copies(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..=REPLICATION_MAX) => Ok(number),
        _ => Err(format!("must be a number from 1 to {REPLICATION_MAX}")),
    }
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "reader" => Ok(Role::Reader),
        "writer" => Ok(Role::Writer),
        "superuser" => Ok(Role::Superuser),
        _ => Err("must be reader, writer or superuser".into()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number with s, m, h or d, for instance 12h".to_string();
    let (number, unit) = match text.char_indices().next_back() {
        Some((cut, unit)) if unit.is_ascii_alphabetic() => (&text[..cut], unit),
        _ => (text, 's'),
    };
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!((seconds("90"), seconds("2m"), seconds("7d")), (Ok(90), Ok(120), Ok(604_800)));
        for wrong in ["", "0s", "h", "5y", "99999999999999999999d", "ü"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_of_copies() {
        assert_eq!((copies("1"), copies("16")), (Ok(1), Ok(16)));
        assert!(["0", "17", "two", "-1"].into_iter().all(|wrong| copies(wrong).is_err()));
    }
}
