//! Why a server could not be reached, in words that name what is wrong and whose it is.

use std::error::Error as StdError;

use reqwest::Url;
use rustls::{CertificateError, Error as TlsError};

use super::proxy;
use crate::types::Error;

/// Why a request got no answer. URL and proxy are shown without what is secret in them.
pub(super) fn explain(error: &reqwest::Error) -> String {
    let url = error.url().map(without_query).unwrap_or_default();
    let through = through(error.url());
    if !error.is_connect() {
        let what = if error.is_timeout() { "did not answer in time" } else { "broke off the connection" };
        return format!("{url} {what}{through}");
    }
    let why = match tls_error(error) {
        Some(tls) => of_tls(tls, &error.url().map(host_and_port).unwrap_or_default()),
        None => innermost(error),
    };
    format!("{url} cannot be reached{through}: {why}")
}

/// How a request went, when not directly.
pub(super) fn through(url: Option<&Url>) -> String {
    match url.and_then(proxy::of) {
        Some(proxy) => format!(" through {proxy} (`NO_PROXY` names hosts that need none)"),
        None => String::new(),
    }
}

/// Whether a failure is that nobody could be reached at the address: nothing was sent there.
pub fn is_unreached(error: &Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<reqwest::Error>());
    cause.is_some_and(reqwest::Error::is_connect)
}

/// Whether a failure is that a server's certificate, or its TLS, was not accepted: it is there, and trying again will not
/// help.
pub fn is_of_tls(error: &Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<reqwest::Error>());
    cause.is_some_and(|cause| tls_error(cause).is_some())
}

/// A URL as it may be shown: tickets are in the query.
pub(super) fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn host_and_port(url: &Url) -> String {
    let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

/// The cause below all others.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// The TLS error among the causes. An `io::Error` hides what it was made of from `source`.
fn tls_error(error: &reqwest::Error) -> Option<&TlsError> {
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<TlsError>() {
            return Some(found);
        }
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}

fn of_tls(error: &TlsError, whose: &str) -> String {
    let certificate = format!("the TLS certificate of {whose}");
    let day = |time: &rustls::pki_types::UnixTime| {
        let time = chrono::DateTime::<chrono::Utc>::from_timestamp(time.as_secs() as i64, 0);
        time.map_or_else(|| "an unknown time".into(), |time| time.format("%Y-%m-%d %H:%M UTC").to_string())
    };
    match error {
        TlsError::InvalidCertificate(wrong) => match wrong {
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("{certificate} has ended on {}; it must be replaced", day(not_after))
            }
            CertificateError::Expired => format!("{certificate} has ended; it must be replaced"),
            CertificateError::NotValidYetContext { not_before, .. } => {
                format!("{certificate} is not valid before {}; is the clock right?", day(not_before))
            }
            CertificateError::NotValidYet => format!("{certificate} is not valid yet; is the clock right?"),
            CertificateError::NotValidForNameContext { expected, presented } => {
                format!("{certificate} is not for {}: it is for {}", expected.to_str(), names(presented))
            }
            CertificateError::NotValidForName => format!("{certificate} is for other names"),
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "{certificate} is from an authority that is not trusted here; `--ca-cert` (in a client.toml: ca_cert) \
                 names the file with the right one"
            ),
            CertificateError::Revoked => format!("{certificate} was revoked"),
            other => format!("{certificate} is not accepted: {other}"),
        },
        TlsError::InvalidMessage(_) => {
            format!("{whose} does not speak TLS; if it serves plain HTTP, its URL begins with http://")
        }
        TlsError::AlertReceived(alert) => format!("{whose} refused the TLS connection: {alert:?}"),
        other => format!("the TLS connection to {whose} failed: {other}"),
    }
}

/// The names in a certificate, without how the library writes them.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| {
        let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inside.trim_matches('"').to_string()
    };
    match presented.is_empty() {
        true => "no name at all".into(),
        false => presented.iter().map(plain).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::time::Duration;

    #[test]
    fn a_shown_url_has_no_ticket() {
        let url = Url::parse("http://127.0.0.1:1/file?ticket=secret").unwrap();
        assert_eq!(without_query(&url), "http://127.0.0.1:1/file");
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_named() {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1_764_072_000));
        let expected = ServerName::try_from("store-1.example").unwrap();
        for (error, words) in [
            (CertificateError::ExpiredContext { time, not_after: time }, "has ended on 2025-11-25 12:00 UTC"),
            (CertificateError::NotValidYetContext { time, not_before: time }, "not valid before 2025-11-25"),
            (CertificateError::UnknownIssuer, "--ca-cert"),
            (
                CertificateError::NotValidForNameContext {
                    expected,
                    presented: vec!["DnsName(\"a.example\")".into(), "IpAddress(10.0.0.1)".into()],
                },
                "not for store-1.example: it is for a.example, 10.0.0.1",
            ),
        ] {
            let told = of_tls(&TlsError::InvalidCertificate(error), "store-1.example:7401");
            assert!(told.starts_with("the TLS certificate of store-1.example:7401 ") && told.contains(words), "{told}");
        }
    }
}
