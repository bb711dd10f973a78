//! The one typed error of the crate.
//!
//! An [`Error`] has a [`ErrorCode`] that programs decide by, a message for people that names the thing
//! and the remedy, and the cause that led to it. It knows nothing of HTTP statuses and exit codes: those
//! are mapped at the edges (`web::error`, `cli::exit`). `Display` prints the message alone; the log
//! prints the whole chain with [`Error::chain`].

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The numbers of "too many open files", in the system and in the process; they are the same on every Unix.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// What an operation answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it was; the `code` of an error's JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not an absolute path of allowed components.
    InvalidPath,
    /// The request makes no sense as it stands.
    InvalidRequest,
    /// No such file, directory, server or object.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A component of the path is a file.
    NotADirectory,
    /// A file was wanted where a directory is.
    IsADirectory,
    /// The directory has entries.
    DirectoryNotEmpty,
    /// A condition on the version did not hold.
    PreconditionFailed,
    /// No valid token or ticket.
    Unauthorized,
    /// The token does not allow it.
    Forbidden,
    /// The bytes are not those that were announced or stored.
    ChecksumMismatch,
    /// Fewer live servers than copies needed.
    NotEnoughServers,
    /// No room for the bytes.
    OutOfSpace,
    /// Larger than a limit.
    TooLarge,
    /// The request does not say how long its body is, and so may have none.
    LengthRequired,
    /// The ticket's time is over; ask for another.
    TicketExpired,
    /// The cluster takes no changes now.
    ReadOnly,
    /// A queue is full; try again.
    Busy,
    /// Something that is needed cannot be reached, or the outcome is unknown; try again.
    Unavailable,
    /// A defect or damage; the log has the detail.
    Internal,
}

impl ErrorCode {
    /// Whether the same request may succeed later without anyone doing anything.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable | Self::NotEnoughServers | Self::TicketExpired)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A failure: code, message and cause. Cheap to clone, so that one cause can answer a whole batch.
#[derive(Debug, Clone)]
pub struct Error {
    code: ErrorCode,
    message: String,
    request_id: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure without a deeper cause.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), request_id: None, source: None }
    }

    /// Keeps the cause, for the log.
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Notes the request that failed on the other side, so that its log lines can be found.
    pub fn with_request_id(mut self, request_id: Option<String>) -> Self {
        self.request_id = request_id;
        self
    }

    /// Puts more context in front of the message; code and cause stay.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Puts a remedy behind the message; code and cause stay.
    pub fn hint(mut self, remedy: impl fmt::Display) -> Self {
        self.message = format!("{}; {remedy}", self.message);
        self
    }

    /// What programs decide by.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What people read.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The other side's request id, where there is one.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The message and every cause below it, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// `not_found`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// `invalid_request`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// `unavailable`.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    /// `internal`.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// A failure of the operating system while doing `what` (for instance "writing /data/x"). A full disk
    /// or quota is `out_of_space`, too many open files are `busy`, the rest is `internal`.
    pub fn io(what: impl fmt::Display, error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let code = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ErrorCode::OutOfSpace,
            _ if matches!(os_error(&error), Some(ENFILE | EMFILE)) => ErrorCode::Busy,
            _ => ErrorCode::Internal,
        };
        Self::new(code, format!("{what}: {error}")).with_source(error)
    }
}

/// The system's number of a failure, also of one that somebody has put more words around.
fn os_error(error: &std::io::Error) -> Option<i32> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(one) = cause {
        if let Some(number) = one.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return Some(number);
        }
        // What an `io::Error` is made around is not its source, but has one.
        cause = match one.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => one.source(),
        };
    }
    None
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// Adds what was being done to a failure of the operating system.
pub trait IoContext<T> {
    /// Turns an [`std::io::Error`] into an [`Error`] that says what was being done.
    fn io_context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn io_context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::io(what(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_wire_names() {
        assert_eq!(ErrorCode::NotADirectory.to_string(), "not_a_directory");
        assert_eq!(serde_json::to_string(&ErrorCode::OutOfSpace).unwrap(), "\"out_of_space\"");
    }

    #[test]
    fn the_chain_names_each_cause_once() {
        let io = std::io::Error::other("the disk is on fire");
        let error = Error::internal("reading x").with_source(io).context("opening the store");
        assert_eq!(error.to_string(), "opening the store: reading x");
        assert_eq!(error.chain(), "opening the store: reading x: the disk is on fire");
    }

    #[test]
    fn too_many_open_files_pass() {
        let error = Error::io("opening x", std::io::Error::from_raw_os_error(EMFILE));
        assert_eq!(error.code(), ErrorCode::Busy);
        assert!(error.message().contains("Too many open files"), "{error}");
        let wrapped = std::io::Error::other(std::io::Error::from_raw_os_error(ENFILE));
        assert_eq!(Error::io("opening x", wrapped).code(), ErrorCode::Busy);
        assert_eq!(Error::io("opening x", std::io::Error::other("x")).code(), ErrorCode::Internal);
    }

    #[test]
    fn a_full_disk_is_out_of_space() {
        let error = Error::io("writing", std::io::ErrorKind::StorageFull.into());
        assert_eq!(error.code(), ErrorCode::OutOfSpace);
    }
}
