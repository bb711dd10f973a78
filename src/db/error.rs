//! Database failures as the crate's error, and the split between a failed condition and a failed database.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<DieselError> for Failure {
    fn from(error: DieselError) -> Self {
        Self::Database(error.into())
    }
}

/// Sorts diesel's failures: out of reach, overloaded, full, or a defect.
impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        let (code, message) = match &error {
            DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection, _)
            | DieselError::BrokenTransactionManager => (ErrorCode::Unavailable, "the database connection is lost"),
            DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => {
                (ErrorCode::Busy, "the database asks to try again")
            }
            DieselError::DatabaseError(_, info) => of_message(info.message()),
            _ => (ErrorCode::Internal, "a database operation failed"),
        };
        Self::new(code, message).with_source(error)
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
}
