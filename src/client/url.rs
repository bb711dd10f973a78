//! Addresses of servers: what may be one, what others may be told, and what stands in a path.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::types::{Error, Result};

/// Checks a base URL and takes its trailing slash away. A user or password in it is refused: URLs are shown in logs,
/// errors and tables.
pub fn normal_base_url(url: &str) -> Result<String> {
    let shown = match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (None, Some((_, rest))) => format!("…@{rest}"),
        _ => url.to_string(),
    };
    let wrong = |why: &str| {
        Error::invalid(format!("{shown:?} is not a server's URL: {why} (for instance http://127.0.0.1:7400)"))
    };
    let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(wrong("it must start with http:// or https://"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("it has a query or a fragment"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("it has a user or a password, which would be shown to everybody"));
    }
    Ok(url.trim_end_matches('/').to_string())
}

/// Checks a base URL that others are told to reach a server by. An unspecified address (0.0.0.0, `[::]`) is where a
/// server listens; from another machine it leads nowhere, or to that machine itself.
pub fn announced_url(url: &str) -> Result<String> {
    let normal = normal_base_url(url)?;
    let host = reqwest::Url::parse(&normal).ok().and_then(|url| url.host_str().map(String::from)).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if address.is_ok_and(|address| address.to_canonical().is_unspecified()) {
        return Err(Error::invalid(format!(
            "{normal} leads nowhere: {host} stands for every address of a machine, and others cannot connect to it; give \
             the name or address by which they reach this one"
        )));
    }
    Ok(normal)
}

/// The host in a base URL.
pub fn host_of(url: &str) -> Option<String> {
    reqwest::Url::parse(url).ok()?.host_str().map(String::from)
}

/// All but the unreserved characters of RFC 3986.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Text as one component of a URL's path.
pub fn encode_component(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        assert_eq!(normal_base_url("http://h:1/").unwrap(), "http://h:1");
        for wrong in ["", "h:1", "ftp://h", "http://", "http://h/?a=b", "http://u@h", "http://u:p@h"] {
            assert!(normal_base_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_showing_its_password() {
        for url in ["http://me:geheim@h:1", "http://me:geheim@h:x", "ftp://geheim@h", "me:geheim@h", "x://a:geheim@b@h"]
        {
            let told = normal_base_url(url).unwrap_err();
            assert!(!told.message().contains("geheim"), "{told}");
        }
    }

    #[test]
    fn an_unspecified_address_is_never_announced() {
        for nowhere in [
            "http://0.0.0.0:7401",
            "https://[::]:7401/",
            "http://0:1",
            "http://0x0.0/",
            "http://[0:0:0:0:0:0:0:0]",
            "http://[::ffff:0.0.0.0]:1",
        ] {
            assert!(announced_url(nowhere).unwrap_err().message().contains("leads nowhere"), "{nowhere}");
            assert!(normal_base_url(nowhere).is_ok(), "a client may try to connect there: {nowhere}");
        }
        for good in ["http://127.0.0.1:7401", "https://[::1]:7401", "http://0.0.0.1", "http://store-1.example"] {
            assert_eq!(announced_url(good).unwrap(), good);
        }
        assert!(announced_url("store-1").is_err());
    }

    #[test]
    fn components_are_encoded() {
        assert_eq!(encode_component("a b/ü%"), "a%20b%2F%C3%BC%25");
        assert_eq!(encode_component("a-b.c_d~9"), "a-b.c_d~9");
    }
}
