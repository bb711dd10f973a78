//! Database failures as the crate's error, and the split between a failed condition and a failed database.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use super::damage::Damage;
use crate::types::{Error, ErrorCode};

/// Why one change of a batch was not made.
///
/// The difference decides what becomes of the others: a refused change is its own result and the batch goes
/// on, a failed database rolls the whole batch back.
#[derive(Debug)]
pub enum Failure {
    /// A condition did not hold; nothing was written for this change.
    Refused(Error),
    /// The database failed; the transaction must be rolled back.
    Database(Error),
}

/// What a step inside a transaction answers.
pub type Step<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The error without the split.
    pub fn into_error(self) -> Error {
        match self {
            Self::Refused(error) | Self::Database(error) => error,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.into_error()
    }
}

/// A helper's error is a refusal, unless the database was its cause.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut cause = std::error::Error::source(&error);
        while let Some(error_below) = cause {
            if error_below.is::<DieselError>() || error_below.is::<Damage>() {
                return Self::Database(error);
            }
            cause = error_below.source();
        }
        Self::Refused(error)
    }
}

impl From<DieselError> for Failure {
    fn from(error: DieselError) -> Self {
        Self::Database(error.into())
    }
}

/// Sorts diesel's failures: damaged, out of reach, overloaded, full, or a defect.
impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        if let Some(damage) = Damage::in_diesel(&error).filter(|_| !is_full(&error)) {
            return damage.into();
        }
        let (code, message) = match &error {
            DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection, _)
            | DieselError::BrokenTransactionManager => (ErrorCode::Unavailable, "the database connection is lost"),
            DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => {
                (ErrorCode::Busy, "the database asks to try again")
            }
            DieselError::DatabaseError(_, info) => of_message(info.message()),
            DieselError::RollbackErrorOnCommit { commit_error, .. } if is_full(commit_error) => {
                (ErrorCode::OutOfSpace, "the database has no room left; free some on its disk")
            }
            _ => (ErrorCode::Internal, "a database operation failed"),
        };
        Self::new(code, message).with_source(error)
    }
}

/// A full disk makes some reads and writes fail in ways that look like damage.
fn is_full(error: &DieselError) -> bool {
    match error {
        DieselError::DatabaseError(_, info) => of_message(info.message()).0 == ErrorCode::OutOfSpace,
        DieselError::RollbackErrorOnCommit { commit_error, .. } => is_full(commit_error),
        _ => false,
    }
}

/// Failures that diesel passes on as text only, from libpq and from SQLite.
fn of_message(message: &str) -> (ErrorCode, &'static str) {
    let lower = message.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if has(&["database or disk is full", "no space left", "could not extend file"]) {
        (ErrorCode::OutOfSpace, "the database has no room left; free some on its disk")
    } else if has(&["lock timeout", "statement timeout", "database is locked", "database table is locked", "deadlock"])
    {
        (ErrorCode::Busy, "the database is overloaded; try again")
    } else if has(&[
        "server closed the connection",
        "terminating connection",
        "connection",
        "shutting down",
        "starting up",
        "no results",
    ]) {
        (ErrorCode::Unavailable, "the database connection is lost")
    } else if has(&["read-only transaction", "recovery is in progress", "readonly database"]) {
        (ErrorCode::Unavailable, "the database takes no writes now")
    } else {
        (ErrorCode::Internal, "a database operation failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sorted() {
        for (message, code) in [
            ("database or disk is full", ErrorCode::OutOfSpace),
            ("canceling statement due to lock timeout", ErrorCode::Busy),
            ("FATAL:  terminating connection due to administrator command", ErrorCode::Unavailable),
            ("cannot execute INSERT in a read-only transaction", ErrorCode::Unavailable),
            ("null value in column", ErrorCode::Internal),
        ] {
            assert_eq!(of_message(message).0, code, "{message}");
        }
    }

    #[test]
    fn damage_and_failed_databases_are_no_refusals() {
        let says =
            |message: &str| DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(message.to_string()));
        let damaged = Error::from(says("database disk image is malformed"));
        assert_eq!((damaged.code(), Damage::in_chain(&damaged).is_some()), (ErrorCode::Unavailable, true));
        let full = Error::from(says("could not read block 1: No space left on device"));
        assert_eq!((full.code(), Damage::in_chain(&full).is_some()), (ErrorCode::OutOfSpace, false));
        let at_commit = DieselError::RollbackErrorOnCommit {
            rollback_error: Box::new(DieselError::NotFound),
            commit_error: Box::new(says("disk I/O error")),
        };
        assert!(Damage::in_chain(&at_commit.into()).unwrap().of_disk);
        for error in [damaged, Error::from(says("out of shared memory")).context("a helper")] {
            assert!(matches!(Failure::from(error), Failure::Database(_)));
        }
        assert!(matches!(Failure::from(Error::not_found("/x")), Failure::Refused(_)));
    }
}
