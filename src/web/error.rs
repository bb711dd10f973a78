//! The crate's error as an HTTP answer. The only place that knows statuses.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};

use crate::types::api::ErrorBody;
use crate::types::{Error, ErrorCode};

/// The status that goes with a code.
pub fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidPath | ErrorCode::InvalidRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized | ErrorCode::TicketExpired => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::AlreadyExists
        | ErrorCode::NotADirectory
        | ErrorCode::IsADirectory
        | ErrorCode::DirectoryNotEmpty => StatusCode::CONFLICT,
        ErrorCode::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::LengthRequired => StatusCode::LENGTH_REQUIRED,
        ErrorCode::ChecksumMismatch => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::NotEnoughServers | ErrorCode::ReadOnly | ErrorCode::Busy | ErrorCode::Unavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorCode::OutOfSpace => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// The body of an error. A defect's detail stays in the log; the caller gets the request id to find it by.
pub fn body_of(error: &Error, request_id: Option<&str>) -> ErrorBody {
    let message = match error.code() {
        ErrorCode::Internal => {
            "something is wrong inside the server; its log has the detail under this request id".into()
        }
        _ => error.message().to_string(),
    };
    ErrorBody { code: error.code(), message, request_id: request_id.map(String::from) }
}

/// The answer to a failed request.
pub fn response(error: &Error, request_id: Option<&str>) -> HttpResponse {
    let mut response = HttpResponse::build(status_of(error.code()));
    if error.code().is_temporary() && error.code() != ErrorCode::TicketExpired {
        response.insert_header(("Retry-After", "1"));
    }
    if error.code() == ErrorCode::Unauthorized {
        response.insert_header(("WWW-Authenticate", "Bearer"));
    }
    response.json(body_of(error, request_id))
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        status_of(self.code())
    }

    fn error_response(&self) -> HttpResponse {
        response(self, None)
    }
}
