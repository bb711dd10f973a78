//! Where the metadata is, and what of that may be shown.
//!
//! libpq quotes pieces of a URL that it does not understand in its errors, and what it does not understand is often a
//! password with a `@`, `/` or `%` in it. So a URL is checked before libpq sees it, by the same rules, and the refusal
//! quotes nothing.

use std::fmt;
use std::path::PathBuf;

use super::file_name::full_name;
use crate::types::{Error, Result};

/// Where the metadata is.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A libpq URL.
    Postgres(String),
    /// A file.
    Sqlite(PathBuf),
}

impl DatabaseUrl {
    /// Reads `postgres://…` or `sqlite://path`; any other scheme is refused.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("postgres" | "postgresql", rest)) => {
                Parts::of(rest)?;
                Ok(Self::Postgres(with_connection_limits(text)))
            }
            Some(("sqlite", "")) => Err(Error::invalid("sqlite:// needs the path of a file behind it")),
            Some(("sqlite", path)) => Ok(Self::Sqlite(path.into())),
            _ => {
                // What stands before a colon may be a name, and what stands after it a password.
                let scheme = text.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| is_scheme(scheme));
                let begins = scheme.map_or_else(|| "has no scheme".into(), |scheme| format!("starts with {scheme}://"));
                Err(Error::invalid(format!(
                    "the database URL {begins}; it must be postgres://USER@HOST/NAME or sqlite://PATH"
                )))
            }
        }
    }

    /// What people call it: the file's full name, or hosts and database; never a password.
    pub fn name(&self) -> String {
        match self {
            Self::Sqlite(path) => full_name(path),
            Self::Postgres(url) => {
                let (_, place) = split_userinfo(url.split_once("://").map_or(url.as_str(), |(_, rest)| rest));
                place.split('?').next().unwrap_or_default().into()
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("DatabaseUrl::Postgres(…)"),
            Self::Sqlite(path) => f.debug_tuple("DatabaseUrl::Sqlite").field(path).finish(),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Whether a database URL, as it was typed, has a password in it. One that cannot be read may have.
pub fn has_password(text: &str) -> bool {
    match text.split_once("://") {
        Some(("sqlite", _)) => false,
        Some(("postgres" | "postgresql", rest)) => Parts::of(rest).map_or(true, |parts| parts.has_password()),
        Some(_) => true,
        None => text.contains(['@', ':']),
    }
}

/// What stands behind `postgres://`.
struct Parts<'t> {
    userinfo: Option<&'t str>,
    options: Vec<(&'t str, &'t str)>,
}

impl<'t> Parts<'t> {
    /// Takes a URL apart as libpq does.
    fn of(rest: &'t str) -> Result<Self> {
        let wrong = |why: &str| Err(Error::invalid(format!("the database URL cannot be read: {why}")));
        let (userinfo, rest) = split_userinfo(rest);
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        if place.contains('@') {
            return wrong("in a user or password @ is written %40, / is %2F, and in a database's name @ is %40");
        }
        let hosts = place.split_once('/').map_or(place, |(hosts, _)| hosts);
        if !hosts.split(',').all(is_host) {
            return wrong("before its path stands HOST or HOST:PORT, or several with commas between");
        }
        let mut pairs = Vec::new();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some((name, value)) if is_option(name) && !value.contains('=') => pairs.push((name, value)),
                _ => {
                    return wrong(
                        "its options are NAME=VALUE with & between; in a value = is written %3D and & is %26",
                    );
                }
            }
        }
        let whole = [userinfo.unwrap_or_default(), place, options];
        if !whole.into_iter().all(is_percent_encoded) {
            return wrong("behind each % stand two hexadecimal digits; % itself is written %25");
        }
        Ok(Self { userinfo, options: pairs })
    }

    fn has_password(&self) -> bool {
        let in_front = self.userinfo.is_some_and(|userinfo| userinfo.contains(':'));
        in_front || self.options.iter().any(|(name, _)| matches!(*name, "password" | "sslpassword"))
    }
}

/// User and password, and what stands behind them: they end at the first `@` before any `/`.
fn split_userinfo(rest: &str) -> (Option<&str>, &str) {
    match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => (Some(&rest[..at]), &rest[at + 1..]),
        _ => (None, rest),
    }
}

fn is_host(text: &str) -> bool {
    let port = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((_, port)) => port.strip_prefix(':').or(port.is_empty().then_some("")),
            None => None,
        },
        None => Some(text.split_once(':').map_or("", |(_, port)| port)),
    };
    port.is_some_and(|port| port.is_empty() || port.parse::<u16>().is_ok())
}

fn is_option(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_percent_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00")
    })
}

/// Gives libpq a bound on connecting and on dead peers, where the URL does not.
fn with_connection_limits(url: &str) -> String {
    let mut url = url.to_string();
    for (name, value) in [
        ("connect_timeout", "3"),
        ("tcp_user_timeout", "5000"),
        ("keepalives_idle", "5"),
        ("target_session_attrs", "read-write"),
        ("application_name", "holdfast"),
    ] {
        // A password may have a ? in it too.
        let (_, rest) = split_userinfo(url.split_once("://").map_or("", |(_, rest)| rest));
        if !rest.contains(&format!("{name}=")) {
            let separator = if rest.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{separator}{name}={value}"));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_schemes() {
        assert!(
            matches!(DatabaseUrl::parse("postgres://u@h/d").unwrap(), DatabaseUrl::Postgres(url) if url.contains("connect_timeout=3"))
        );
        assert_eq!(DatabaseUrl::parse("sqlite://a/b").unwrap(), DatabaseUrl::Sqlite("a/b".into()));
        for wrong in ["mysql://h/d", "a.sqlite", "sqlite://", ""] {
            assert!(DatabaseUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_have_no_passwords() {
        for (url, name) in [
            ("postgres://me:pass@h:5432/d", "h:5432/d"),
            ("postgres://me:pa?ss@h/d?sslmode=require", "h/d"),
            ("postgresql://h,g/d?password=x%40y", "h,g/d"),
            ("sqlite:///srv/a", "/srv/a"),
        ] {
            assert_eq!(DatabaseUrl::parse(url).unwrap().name(), name);
        }
    }

    #[test]
    fn limits_do_not_override_the_url() {
        let url = with_connection_limits("postgres://h/d?connect_timeout=9");
        assert!(url.contains("connect_timeout=9") && !url.contains("connect_timeout=3"));
        assert!(with_connection_limits("postgres://u:a?b@h/d").contains("/d?connect_timeout=3&"));
        assert!(with_connection_limits("postgres://h/d?sslcert=a@b").contains("a@b&connect_timeout=3&"));
    }

    #[test]
    fn what_libpq_takes_is_taken() {
        for good in [
            "postgres://",
            "postgres://h",
            "postgres:///d",
            "postgres://u@h/d",
            "postgresql://u:p%40%2F@h:5432/d?sslmode=require",
            "postgres://u:a?b:c@h/d",
            "postgres://h1:1,h2:2/d?target_session_attrs=any",
            "postgres://[::1]:5432/d",
            "postgres://%2Frun%2Fpostgresql/d",
            "postgres:///d?host=/run/postgresql&user=u",
        ] {
            DatabaseUrl::parse(good).unwrap();
        }
    }

    #[test]
    fn nothing_of_a_url_that_cannot_be_read_is_shown() {
        for wrong in [
            "postgres://me:gehe@im@h/d",
            "postgres://me:gehe/im@h/d",
            "postgres://me:gehe%im@h/d",
            "postgres://me:geheim%00@h/d",
            "postgres://gehe:im",
            "postgres://h/d?password=gehe&im",
            "postgres://h/d?password=gehe=im",
            "postgres://[gehe/im",
            "gehe:im@h/d",
            "gehe im://h",
            "me:gehe@h",
        ] {
            let error = DatabaseUrl::parse(wrong).unwrap_err().chain();
            assert!(!error.contains("gehe") && !error.contains("im@"), "{error}");
            assert!(has_password(wrong), "{wrong} may have one");
        }
        for shown in ["postgres://me:geheim@h/d", "postgres://h/d?password=geheim"] {
            assert!(!format!("{:?}", DatabaseUrl::parse(shown).unwrap()).contains("geheim"));
        }
    }

    #[test]
    fn passwords_are_found_in_both_places() {
        for with in ["postgres://u:p@h/d", "postgres://u:@h/d", "postgresql://h/d?user=u&password=p"] {
            assert!(has_password(with), "{with}");
        }
        for without in ["postgres://u@h:5432/d", "postgres://h/d?passfile=x", "sqlite:///a:b@c", "metadata.sqlite"] {
            assert!(!has_password(without), "{without}");
        }
    }
}
