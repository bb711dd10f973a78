//! How failures are told: a sentence for people; with `--json` an object for programs, one in each line of standard
//! error, whose `exit_code` is the one that this failure alone ends a command with.

use serde::Serialize;

use super::exit::{self, Exit};
use crate::types::{Error, ErrorCode};

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// The error's code, or `conflict`, `skipped`, `interrupted`, `terminated`.
    code: String,
    message: String,
    /// What it is about, when it is one of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// What can be done about it, where the message does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    exit_code: u8,
}

impl Failure {
    /// A failure of the command.
    pub(crate) fn of(error: &Error) -> Self {
        let remedy = exit::remedy(error).filter(|_| !error.message().contains('`'));
        Self {
            code: error.code().to_string(),
            message: error.message().into(),
            path: None,
            remedy: remedy.map(String::from),
            request_id: error.request_id().map(String::from),
            exit_code: Exit::from(error.code()) as u8,
        }
    }

    /// A failure of one thing among several.
    pub(crate) fn of_one(path: &str, error: &Error) -> Self {
        Self { path: Some(path.into()), remedy: None, ..Self::of(error) }
    }

    /// What was not done and is no error of anybody.
    pub(crate) fn plain(code: &str, message: &str, exit: Exit) -> Self {
        let (path, remedy, request_id) = (None, None, None);
        Self { code: code.into(), message: message.into(), path, remedy, request_id, exit_code: exit as u8 }
    }

    /// The same about one thing among several.
    pub(crate) fn about(self, path: &str) -> Self {
        Self { path: Some(path.into()), ..self }
    }

    /// Wrong usage, in the words of whoever reads the command line.
    pub(crate) fn usage(message: &str) -> Self {
        let message = message.strip_prefix("error: ").unwrap_or(message).trim_end();
        Self::plain(&ErrorCode::InvalidRequest.to_string(), message, Exit::Usage)
    }

    /// For people.
    pub(crate) fn sentence(&self) -> String {
        let about = self.path.as_ref().map(|path| format!("{path}: ")).unwrap_or_default();
        let what = match self.code.as_str() {
            what @ ("skipped" | "conflict") => format!("{what}: "),
            _ => String::new(),
        };
        let remedy = self.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
        let request = match (&self.request_id, &self.path) {
            (Some(id), None) if self.code == ErrorCode::Internal.to_string() => format!(" [request {id}]"),
            _ => String::new(),
        };
        format!("holdfast: {about}{what}{}{remedy}{request}", self.message)
    }

    /// For programs, in one line.
    pub(crate) fn json(&self) -> String {
        // A struct of texts and a number can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_a_sentence_and_programs_an_object() {
        let error = Error::new(ErrorCode::NotFound, "/a does not exist").with_request_id(Some("7".into()));
        let failure = Failure::of(&error);
        assert_eq!(failure.sentence(), "holdfast: /a does not exist");
        assert_eq!(
            failure.json(),
            r#"{"code":"not_found","message":"/a does not exist","request_id":"7","exit_code":3}"#
        );
        let internal = Failure::of(&Error::internal("broken\n").with_request_id(Some("7".into())));
        assert_eq!(internal.sentence(), "holdfast: broken\n [request 7]");
        assert_eq!(internal.json().lines().count(), 1, "one line, whatever is in the message");
        let unreached = Failure::of(&Error::unavailable("http://a:1 cannot be reached: refused"));
        assert!(unreached.sentence().contains("`holdfast up`") && unreached.json().contains("\"remedy\":"));
        let answered = Failure::of(&Error::unavailable("gone"));
        assert!(
            answered.sentence().ends_with("(`holdfast report` says how the cluster is)"),
            "{}",
            answered.sentence()
        );
        let told = Failure::of(&Error::unavailable("gone; see `holdfast report`"));
        assert_eq!(told.sentence(), "holdfast: gone; see `holdfast report`", "one remedy is enough");
    }

    #[test]
    fn one_of_several_is_named() {
        let failed = Failure::of_one("a/b", &Error::new(ErrorCode::Forbidden, "no"));
        assert_eq!(failed.sentence(), "holdfast: a/b: no");
        assert_eq!(failed.json(), r#"{"code":"forbidden","message":"no","path":"a/b","exit_code":5}"#);
        let skipped = Failure::plain("skipped", "it is a link", Exit::Partly).about("l");
        assert_eq!(skipped.sentence(), "holdfast: l: skipped: it is a link");
        assert_eq!(skipped.json(), r#"{"code":"skipped","message":"it is a link","path":"l","exit_code":7}"#);
        let usage = Failure::usage("error: Found argument 'x'\n\nUSAGE:\n    holdfast ls\n");
        assert_eq!((usage.exit_code, usage.message.starts_with("Found")), (2, true));
    }
}
