//! What a request wants to be true before it is carried out: RFC 9110, section 13.
//!
//! The version of a file is its entity tag, `"7"`, and a strong one: another version is another content. What cannot be
//! read is an error and not the absence of a condition, so that no write goes through without the condition that it was
//! sent with. Only dates that are none are ignored, as the RFC has it.

use std::str::FromStr;
use std::time::SystemTime;

use actix_web::http::header::{self, HeaderMap, HeaderName, HttpDate};
use chrono::{DateTime, Utc};

use crate::types::{Error, Result, Version};

/// An entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    weak: bool,
    opaque: String,
}

/// What `If-Match` and `If-None-Match` name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`: whatever is there.
    Any,
    These(Vec<Tag>),
}

impl Tags {
    fn of(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>> {
        let mut lines = Vec::new();
        for value in headers.get_all(name) {
            lines.push(value.to_str().map_err(|_| Error::invalid(format!("the header {name} is not text")))?);
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let list = lines.join(",");
        Self::parse(&list).map(Some).ok_or_else(|| {
            Error::invalid(format!("{name}: {list} is neither * nor a list of entity tags such as \"7\""))
        })
    }

    /// Quoted tags with commas between them; a bare number is taken for a tag too.
    fn parse(list: &str) -> Option<Self> {
        if list.trim() == "*" {
            return Some(Self::Any);
        }
        let (mut tags, mut rest) = (Vec::new(), list.trim_start());
        while !rest.is_empty() {
            if let Some(next) = rest.strip_prefix(',') {
                rest = next.trim_start();
                continue;
            }
            let (weak, start) = match rest.strip_prefix("W/") {
                Some(start) => (true, start),
                None => (false, rest),
            };
            let (opaque, after) = match start.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None if weak => return None,
                None => start.split_at(start.find(|c: char| !c.is_ascii_digit()).unwrap_or(start.len())),
            };
            let bare = !start.starts_with('"');
            if (bare && opaque.is_empty()) || opaque.contains(|c: char| c.is_ascii_whitespace() || c.is_control()) {
                return None;
            }
            tags.push(Tag { weak, opaque: opaque.into() });
            rest = after.trim_start();
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        }
        (!tags.is_empty()).then_some(Self::These(tags))
    }

    /// Whether a version is among them. The strong comparison takes no weak tags.
    fn has(&self, version: Version, strongly: bool) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => {
                let text = version.to_string();
                tags.iter().any(|tag| tag.opaque == text && !(strongly && tag.weak))
            }
        }
    }
}

/// A file as it is there: its version, and when that was made, where this is known.
pub type There = (Version, Option<DateTime<Utc>>);

/// What becomes of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It is carried out.
    Holds,
    /// The caller has it already: 304.
    NotModified,
    /// It is not what the caller wants: 412.
    Failed,
}

/// What a write has to find when it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever there is.
    Anything,
    /// Nothing.
    Nothing,
    /// Exactly this version.
    Version(Version),
}

/// The conditions of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preconditions {
    matches: Option<Tags>,
    unmodified_since: Option<DateTime<Utc>>,
    matches_none: Option<Tags>,
    modified_since: Option<DateTime<Utc>>,
}

impl Preconditions {
    /// Reads them.
    ///
    /// Errors: `invalid_request` when one is no list of tags.
    pub fn of(headers: &HeaderMap) -> Result<Self> {
        Ok(Self {
            matches: Tags::of(headers, &header::IF_MATCH)?,
            unmodified_since: date(headers, &header::IF_UNMODIFIED_SINCE),
            matches_none: Tags::of(headers, &header::IF_NONE_MATCH)?,
            modified_since: date(headers, &header::IF_MODIFIED_SINCE),
        })
    }

    /// What they say about a read of what is there.
    pub fn of_read(&self, (version, modified): There) -> Judged {
        if !self.still_is((version, modified)) {
            return Judged::Failed;
        }
        let is_known = match (&self.matches_none, self.modified_since, modified) {
            (Some(tags), _, _) => tags.has(version, false),
            (None, Some(since), Some(modified)) => modified <= since,
            _ => false,
        };
        if is_known { Judged::NotModified } else { Judged::Holds }
    }

    /// What a write must find, where that follows without a look at what is there.
    pub fn at_once(&self) -> Option<Wanted> {
        match (&self.matches, self.unmodified_since, &self.matches_none) {
            (None, None, None) => Some(Wanted::Anything),
            (None, None, Some(Tags::Any)) => Some(Wanted::Nothing),
            // The date does not count beside a tag.
            (Some(Tags::These(tags)), _, None) => match &tags[..] {
                [Tag { weak: false, opaque }] => {
                    let version: Version = opaque.parse().ok()?;
                    (version.to_string() == *opaque).then_some(Wanted::Version(version))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// What a write must find, given what is there now: exactly that, so that nothing comes between. `None` when they
    /// do not hold.
    pub fn of_write(&self, there: Option<There>) -> Option<Wanted> {
        match there {
            Some(there) => {
                let holds =
                    self.still_is(there) && !self.matches_none.as_ref().is_some_and(|tags| tags.has(there.0, false));
                holds.then_some(Wanted::Version(there.0))
            }
            None => self.matches.is_none().then_some(Wanted::Nothing),
        }
    }

    fn still_is(&self, (version, modified): There) -> bool {
        match (&self.matches, self.unmodified_since, modified) {
            (Some(tags), _, _) => tags.has(version, true),
            (None, Some(since), Some(modified)) => modified <= since,
            _ => true,
        }
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<DateTime<Utc>> {
    let date = HttpDate::from_str(headers.get(name)?.to_str().ok()?).ok()?;
    Some(SystemTime::from(date).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;
    use chrono::TimeDelta;

    fn preconditions(lines: &[(&str, &str)]) -> Result<Preconditions> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Preconditions::of(&headers)
    }

    #[test]
    fn reads_of_version_7() {
        use Judged::*;
        for (lines, want) in [
            (&[][..], Holds),
            (&[("if-match", "\"7\"")], Holds),
            (&[("if-match", "7")], Holds),
            (&[("if-match", "*")], Holds),
            (&[("if-match", "\"1\" , ,\"7\"")], Holds),
            (&[("if-match", "\"1\""), ("if-match", "\"7\"")], Holds),
            (&[("if-match", "W/\"7\"")], Failed),
            (&[("if-match", "\"6\"")], Failed),
            (&[("if-match", "\"07\"")], Failed),
            (&[("if-match", "\"a,7\"")], Failed),
            (&[("if-none-match", "\"7\"")], NotModified),
            (&[("if-none-match", "W/\"7\"")], NotModified),
            (&[("if-none-match", "\"a,b\",W/\"7\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"6\"")], Holds),
            (&[("if-match", "\"6\""), ("if-none-match", "\"7\"")], Failed),
            (&[("if-match", "\"7\""), ("if-none-match", "\"7\"")], NotModified),
            (&[("if-modified-since", "nonsense")], Holds),
        ] {
            assert_eq!(preconditions(lines).unwrap().of_read((7, None)), want, "{lines:?}");
        }
        for list in ["x", "\"7", "7\"", "W/7", "w/\"7\"", "\"1\" \"7\"", "\"7\"x", "", ",", "*, \"7\"", "\"a b\""] {
            for name in ["if-match", "if-none-match"] {
                assert!(preconditions(&[(name, list)]).is_err(), "{name}: {list}");
            }
        }
    }

    #[test]
    fn dates_count_where_there_is_no_tag() {
        use Judged::*;
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let at: DateTime<Utc> = "1994-11-06T08:49:37Z".parse().unwrap();
        for (lines, before, after) in [
            (&[("if-modified-since", date)][..], NotModified, Holds),
            (&[("if-modified-since", date), ("if-none-match", "\"6\"")], Holds, Holds),
            (&[("if-unmodified-since", date)], Holds, Failed),
            (&[("if-unmodified-since", date), ("if-match", "\"7\"")], Holds, Holds),
        ] {
            let given = preconditions(lines).unwrap();
            assert_eq!(given.of_read((7, Some(at))), before, "{lines:?}");
            assert_eq!(given.of_read((7, Some(at + TimeDelta::milliseconds(1)))), after, "{lines:?}");
        }
        let given = preconditions(&[("if-unmodified-since", date)]).unwrap();
        assert_eq!(given.at_once(), None);
        assert_eq!(given.of_write(Some((7, Some(at)))), Some(Wanted::Version(7)));
        assert_eq!(given.of_write(Some((7, Some(at + TimeDelta::milliseconds(1))))), None);
    }

    #[test]
    fn writes_where_version_7_or_nothing_is() {
        use Wanted::*;
        for (lines, at_once, there, not_there) in [
            (&[][..], Some(Anything), Some(Version(7)), Some(Nothing)),
            (&[("if-match", "\"7\"")], Some(Version(7)), Some(Version(7)), None),
            (&[("if-match", "\"6\"")], Some(Version(6)), None, None),
            (&[("if-match", "*")], None, Some(Version(7)), None),
            (&[("if-match", "\"6\", \"7\"")], None, Some(Version(7)), None),
            (&[("if-match", "W/\"7\"")], None, None, None),
            (&[("if-match", "\"x\"")], None, None, None),
            (&[("if-match", "\"07\"")], None, None, None),
            (&[("if-none-match", "*")], Some(Nothing), None, Some(Nothing)),
            (&[("if-none-match", "\"6\"")], None, Some(Version(7)), Some(Nothing)),
            (&[("if-none-match", "W/\"7\"")], None, None, Some(Nothing)),
            (&[("if-match", "\"7\""), ("if-none-match", "*")], None, None, None),
        ] {
            let given = preconditions(lines).unwrap();
            assert_eq!(given.at_once(), at_once, "{lines:?}");
            assert_eq!(given.of_write(Some((7, None))), there, "{lines:?}");
            assert_eq!(given.of_write(None), not_there, "{lines:?}");
        }
    }
}
