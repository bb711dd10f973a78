//! Options of the commands that look at the cluster and administer it.

use std::path::PathBuf;

use chrono::{Local, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use structopt::StructOpt;

use crate::types::api::Role;
use crate::types::limits::REPLICATION_MAX;
use crate::types::{EventKind, ObjectId, Time};

/// `report`.
#[derive(Debug, StructOpt)]
pub(crate) struct ReportArgs {
    /// One line for a monitor, and as exit code 0 healthy, 1 degraded, 2 danger, 3 unknown (as Nagios has them)
    #[structopt(long)]
    pub(crate) check: bool,
    /// Follows it until Ctrl-C; where it is no terminal, by a line for each change
    #[structopt(long, conflicts_with = "check")]
    pub(crate) watch: bool,
    /// Seconds from one look to the next: 1 to 3600
    #[structopt(long, value_name = "SECONDS", default_value = "2", parse(try_from_str = interval))]
    pub(crate) every: u64,
}

fn interval(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|seconds| (1..=3_600).contains(seconds)).ok_or_else(|| "must be 1 to 3600 seconds".into())
}

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
    /// Only what is of this kind, for instance server_down or replica_deleted; a wrong one lists all
    #[structopt(long, value_name = "KIND", parse(try_from_str = kind))]
    pub(crate) kind: Option<EventKind>,
    /// Only what the token of this name asked for; with changes of the namespace
    #[structopt(long, value_name = "TOKEN")]
    pub(crate) by: Option<String>,
    /// Only what is at or below this path in the cluster; with changes of the namespace
    #[structopt(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Only from this time on: 2h (ago), "2026-11-25 08:00" (local) or RFC 3339
    #[structopt(long, value_name = "TIME", parse(try_from_str = when))]
    pub(crate) since: Option<Time>,
    /// Only before this time
    #[structopt(long, value_name = "TIME", parse(try_from_str = when))]
    pub(crate) until: Option<Time>,
    /// Goes on with what comes, until it is interrupted
    #[structopt(short, long, conflicts_with = "until")]
    pub(crate) follow: bool,
}

/// `drain`.
#[derive(Debug, StructOpt)]
pub(crate) struct DrainArgs {
    #[structopt(flatten)]
    pub(crate) server: ServerArgs,
    /// Return when nothing needs the server any more, and show how far that is
    #[structopt(short, long)]
    pub(crate) wait: bool,
    /// Also when writes, or the copies that files want, would be short of servers
    #[structopt(long)]
    pub(crate) force: bool,
}

/// `remove`.
#[derive(Debug, StructOpt)]
pub(crate) struct RemoveArgs {
    #[structopt(flatten)]
    pub(crate) server: ServerArgs,
    /// Also one that runs, or that still has copies: they are given up, and what only it has is lost
    #[structopt(long)]
    pub(crate) force: bool,
}

/// `undrain`.
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
    /// Also when nothing could be written there then, because too few servers take copies
    #[structopt(long)]
    pub(crate) force: bool,
}

/// `servers`.
#[derive(Debug, StructOpt)]
pub(crate) struct ServersArgs {
    /// Also how long ago each server has read everything it has
    #[structopt(short, long)]
    pub(crate) long: bool,
}

/// `rebalance`.
#[derive(Debug, StructOpt)]
pub(crate) struct RebalanceArgs {
    /// Ends when servers are filled within so many percent of each other: 1 to 100 [default: 5]
    #[structopt(long, value_name = "PERCENT", parse(try_from_str = percent))]
    pub(crate) within: Option<u32>,
    /// Begins nothing; says what would be moved
    #[structopt(short = "n", long, conflicts_with_all = &["wait", "status", "stop"])]
    pub(crate) dry_run: bool,
    /// Returns when it has ended, and shows how far it is
    #[structopt(short, long, conflicts_with = "stop")]
    pub(crate) wait: bool,
    /// Begins nothing; shows how far it is, or what came of the last time
    #[structopt(long, conflicts_with_all = &["within", "stop"])]
    pub(crate) status: bool,
    /// Ends it; copies that are on their way still arrive
    #[structopt(long, conflicts_with = "within")]
    pub(crate) stop: bool,
}

/// `fsck`.
#[derive(Debug, StructOpt)]
pub(crate) struct FsckArgs {
    /// Puts right what can be put right without a person; names of files are never removed
    #[structopt(long)]
    pub(crate) repair: bool,
    /// Has all storage servers read every byte first, and counts what they find corrupt
    #[structopt(long)]
    pub(crate) deep: bool,
    /// Begins nothing; shows how far the one under way is, or what the last one found
    #[structopt(long, conflicts_with_all = &["repair", "deep"])]
    pub(crate) status: bool,
}

/// `scrub`.
#[derive(Debug, StructOpt)]
pub(crate) struct ScrubArgs {
    /// `now`, and the name or id of one server, or a path: what has a slash in it is one
    #[structopt(max_values = 2)]
    pub(crate) what: Vec<String>,
    /// Only says how far the servers are, and what came of the last time
    #[structopt(long)]
    pub(crate) status: bool,
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
    /// Goes on although the database is complete, and there is nothing to bring back
    #[structopt(long)]
    pub(crate) force: bool,
    /// Starts nothing; shows how the running restore goes on, or what the last one found
    #[structopt(long, conflicts_with_all = &["without", "accept-gap", "replicas", "force", "abort"])]
    pub(crate) status: bool,
    /// Ends the restore that is under way or was interrupted; the cluster is what it was before
    #[structopt(long, conflicts_with_all = &["without", "accept-gap", "replicas", "force"])]
    pub(crate) abort: bool,
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

fn percent(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..=100) => Ok(number),
        _ => Err("must be a number from 1 to 100".into()),
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
    let wrong = || "must be a number with its unit (s, m, h or d), for instance 12h".to_string();
    let (number, unit) = match text.char_indices().next_back() {
        Some((cut, unit)) => (&text[..cut], unit),
        None => return Err(wrong()),
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

fn kind(text: &str) -> Result<EventKind, String> {
    EventKind::asked(text).map_err(|error| error.message().to_string())
}

/// A time as people say it: how long ago, a local date and time, or RFC 3339.
pub(crate) fn when(text: &str) -> Result<Time, String> {
    if let Ok(time) = text.parse::<Time>() {
        return Ok(time);
    }
    let formats = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|day| day.and_time(NaiveTime::MIN));
    let local = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok()).or_else(day);
    if let Some(local) = local {
        // At the end of summer time an hour comes twice: the first one.
        let time = local.and_local_timezone(Local).earliest();
        return time.map(|time| time.with_timezone(&Utc)).ok_or_else(|| format!("{text} does not exist here"));
    }
    let ago = text.strip_suffix(|c: char| c.is_ascii_alphabetic()).and_then(|_| seconds(text).ok());
    ago.and_then(|seconds| TimeDelta::try_seconds(i64::try_from(seconds).ok()?))
        .and_then(|span| Utc::now().checked_sub_signed(span))
        .ok_or_else(|| "must be as 2h (ago), \"2026-11-25 08:00\" (local) or 2026-11-25T08:00:00Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!((seconds("90s"), seconds("2m"), seconds("7d")), (Ok(90), Ok(120), Ok(604_800)));
        for wrong in ["", "0s", "h", "5", "90", "5y", "99999999999999999999d", "ü"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times() {
        let ago = Utc::now() - when("2h").unwrap();
        assert!((ago - TimeDelta::hours(2)).abs() < TimeDelta::seconds(5), "{ago}");
        assert_eq!(when("2026-11-25T08:00:00Z").unwrap(), when("2026-11-25T09:00:00+01:00").unwrap());
        let local = when("2026-11-25 08:00").unwrap();
        assert_eq!(local.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string(), "2026-11-25 08:00:00");
        assert_eq!(when("2026-11-25 08:00:30").unwrap() - local, TimeDelta::seconds(30));
        assert_eq!(local - when("2026-11-25").unwrap(), TimeDelta::hours(8));
        for wrong in ["", "yesterday", "2", "2026-13-01", "08:00", "99999999999999999d", "-2h", "2026-11-25 25:00"] {
            assert!(when(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_of_copies() {
        assert_eq!((copies("1"), copies("16")), (Ok(1), Ok(16)));
        assert!(["0", "17", "two", "-1"].into_iter().all(|wrong| copies(wrong).is_err()));
    }
}
