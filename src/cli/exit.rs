//! From failures to exit codes, and to the remedy that is told with them.

use std::process::ExitCode;

use crate::client::is_of_tls;
use crate::types::{Error, ErrorCode};

/// How a command ended; the number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All is done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// It was called wrongly.
    Usage = 2,
    /// What it is about does not exist.
    NotFound = 3,
    /// Something else is there, or it changed meanwhile.
    Conflict = 4,
    /// No token, or one that does not allow it.
    NotPermitted = 5,
    /// The cluster, or enough of it, does not answer.
    Unavailable = 6,
    /// Some of it is done; what is not is listed on standard error.
    Partly = 7,
    /// Ctrl-C.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        use ErrorCode::*;
        match code {
            InvalidPath | InvalidRequest | LengthRequired => Self::Usage,
            NotFound => Self::NotFound,
            AlreadyExists | NotADirectory | IsADirectory | DirectoryNotEmpty | PreconditionFailed => Self::Conflict,
            Unauthorized | Forbidden => Self::NotPermitted,
            NotEnoughServers | ReadOnly | Busy | Unavailable | TicketExpired => Self::Unavailable,
            ChecksumMismatch | OutOfSpace | TooLarge | Internal => Self::Failed,
        }
    }
}

/// What a person can do about it, where the message alone does not say.
pub(crate) fn remedy(error: &Error) -> Option<&'static str> {
    match error.code() {
        ErrorCode::Unauthorized => Some(
            "give a valid token by --token, HOLDFAST_TOKEN or a client.toml; whoever has a superuser's token makes one: \
             `holdfast token create NAME`",
        ),
        ErrorCode::Unavailable if is_of_tls(error) => None,
        ErrorCode::Unavailable if error.message().contains(" hangs: ") => {
            Some("its machine is overloaded or stopped: if it stays so, look at it, and start the server again")
        }
        // It answers, and has said why not.
        ErrorCode::Unavailable if error.message().contains("`holdfast") => None,
        ErrorCode::Unavailable if !error.message().contains("cannot be reached") => {
            Some("`holdfast report` says how the cluster is")
        }
        ErrorCode::Unavailable => Some("is the cluster running? `holdfast up` starts one on this machine"),
        ErrorCode::NotEnoughServers => Some("`holdfast servers` shows which storage servers are live"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_map_to_the_documented_numbers() {
        for (code, number) in [
            (ErrorCode::Internal, 1),
            (ErrorCode::InvalidPath, 2),
            (ErrorCode::NotFound, 3),
            (ErrorCode::PreconditionFailed, 4),
            (ErrorCode::Forbidden, 5),
            (ErrorCode::Unavailable, 6),
        ] {
            assert_eq!(Exit::from(code) as u8, number, "{code:?}");
        }
    }
}
