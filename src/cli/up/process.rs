//! Members' processes: starting, recognising, ending.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use super::cluster::ClusterDir;
use super::logs;
use super::member::{Member, Role};
use super::recorded::Recorded;
use crate::cli::exit::Exit;
use crate::types::error::IoContext;
use crate::types::{Error, Result};

/// How much of a log's end is searched for its last error, in bytes.
const LOG_TAIL_BYTES: u64 = 16 << 10;

/// A member that this process has started.
pub(super) struct Running {
    pub(super) name: String,
    child: Child,
    /// Where its log ended before this start.
    log_from: u64,
}

impl Running {
    /// Whether it has ended because its cluster refuses it.
    pub(super) fn was_refused(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if status.code() == Some(Exit::NotPermitted as i32))
    }

    /// The last error that it has logged since this start, for a message.
    pub(super) fn last_words(&self, dir: &ClusterDir) -> String {
        last_words(dir, &self.name, self.log_from)
    }

    /// What stands in the way of a storage server that lives and that the name server does not take, and what only a person
    /// can put right.
    pub(super) fn refusal(&self, dir: &ClusterDir) -> Option<String> {
        let words = self.last_words(dir);
        ["data of another one", "data of another cluster", "wrong cluster secret"]
            .iter()
            .any(|sign| words.contains(sign))
            .then_some(words)
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(format!("has ended ({status})")),
            Ok(None) => None,
            Err(error) => Some(format!("cannot be watched ({error})")),
        }
    }
}

/// Starts a member. Its output goes to its log, which it begins anew itself when that has `log_bytes_max`.
pub(super) fn start(dir: &ClusterDir, member: &Member, with_parent: bool, log_bytes_max: u64) -> Result<Running> {
    let log = dir.log_path(&member.name);
    let output = logs::open(&log).and_then(|file| {
        // One of an older program may be readable by others.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok((file.try_clone()?, file))
    });
    let (output, errors) = output.io_context(|| format!("opening {}", log.display()))?;
    let log_from = output.metadata().map_or(0, |metadata| metadata.len());
    let program = std::env::current_exe().io_context(|| "finding this program".into())?;
    let mut command = Command::new(program);
    command.arg("member");
    if with_parent {
        command.arg("--with-parent");
    }
    command.arg(match member.role {
        Role::NameServer => "name-server",
        Role::StorageServer => "storage-server",
    });
    command.arg("--log").arg(&log).arg("--log-bytes").arg(log_bytes_max.to_string());
    command.arg("--").args(&member.args);
    // What is meant for this command must not reach the servers.
    for name in
        ["HOLDFAST_NAME_SERVER", "HOLDFAST_TOKEN", "HOLDFAST_CLUSTER_SECRET", "HOLDFAST_CONFIG", "HOLDFAST_DATABASE"]
    {
        command.env_remove(name);
    }
    command.envs(member.env.iter().map(|(name, value)| (name, value.reveal())));
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let child = command.spawn().io_context(|| format!("starting {}", member.name))?;
    dir.record_process(&Recorded::of(&member.name, child.id() as i32))?;
    Ok(Running { name: member.name.clone(), child, log_from })
}

/// Called first in a member's process: gives it a session of its own, so that a Ctrl-C at the terminal reaches
/// only `up`, which then stops the members in order; and ties it to its parent, if that is wanted.
pub(super) fn settle(with_parent: bool) -> Result<()> {
    let failed = |error: rustix::io::Errno| Error::io("starting as a member", error.into());
    rustix::process::setsid().map_err(failed)?;
    if with_parent {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(failed)?;
        // The parent may have ended before the line above.
        if rustix::process::getppid().is_none_or(|parent| parent == Pid::INIT) {
            return Err(Error::unavailable("the process that started this member has ended"));
        }
    }
    Ok(())
}

/// The last error in a member's log after `from`, for a message. A log that was begun anew since is shorter than that.
fn last_words(dir: &ClusterDir, member: &str, from: u64) -> String {
    let path = dir.log_path(member);
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(&path)?;
        let length = file.metadata()?.len();
        let from = if from <= length { from } else { 0 };
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES).max(from)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let telling = |line: &&str| line.starts_with("holdfast") || line.contains("ERROR") || line.contains("WARN");
    let line = text.lines().rev().find(telling).unwrap_or("it logged no error");
    format!("{line} (log: {})", path.display())
}
