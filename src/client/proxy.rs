//! Proxies, as the environment names them.
//!
//! A process obeys no proxy unless it says so ([`obey_environment`]): servers never do, because credentials, tickets
//! and contents travel between them. The command-line client does, as curl would, but never on the way to this
//! machine itself.

use std::net::IpAddr;
use std::sync::OnceLock;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// The proxies that this process obeys.
static OBEYED: OnceLock<Proxies> = OnceLock::new();

/// From now on the clients that this process makes go through the proxies that its environment names.
pub fn obey_environment() {
    OBEYED.get_or_init(|| Proxies::named_by(|name| std::env::var(name).ok()));
}

/// The proxy that a request of this process to `url` goes through.
pub fn of(url: &Url) -> Option<&'static Proxy> {
    OBEYED.get().and_then(|proxies| proxies.of(url))
}

/// Makes clients go through these proxies, and through no others.
pub(super) fn apply(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    match OBEYED.get() {
        None => builder.no_proxy(),
        Some(_) => builder.proxy(reqwest::Proxy::custom(|url| of(url).map(|proxy| proxy.url.clone()))),
    }
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// With user and password.
    url: Url,
    /// The variable of the environment that names it.
    variable: &'static str,
}

impl std::fmt::Display for Proxy {
    /// As it may be shown: without user and password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, host) = (self.url.scheme(), self.url.host_str().unwrap_or_default());
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "the proxy {scheme}://{host}{port} that {} names", self.variable)
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// For each scheme, and for whom there is none.
struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    /// Takes what NO_PROXY does not name.
    others: Matcher,
}

impl Proxies {
    /// As curl does it: for each variable the name in capitals and in small letters; ALL_PROXY when there is none for
    /// the scheme. Inside a CGI program HTTP_PROXY may come from a request's header, so nothing is believed there.
    fn named_by(variable: impl Fn(&str) -> Option<String>) -> Self {
        let cgi = variable("REQUEST_METHOD").is_some();
        let first = |names: [&'static str; 2]| {
            let set = |name| variable(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value));
            names.into_iter().find_map(set).filter(|_| !cgi)
        };
        let proxy = |names| first(names).and_then(|(variable, value)| proxy(variable, &value));
        let all = proxy(["ALL_PROXY", "all_proxy"]);
        let none = first(["NO_PROXY", "no_proxy"]).map(|(_, value)| value).unwrap_or_default();
        Self {
            http: proxy(["HTTP_PROXY", "http_proxy"]).or_else(|| all.clone()),
            https: proxy(["HTTPS_PROXY", "https_proxy"]).or(all),
            others: Matcher::builder().all("http://matched.invalid").no(none).build(),
        }
    }

    fn of(&self, url: &Url) -> Option<&Proxy> {
        let proxy = match url.scheme() {
            "http" => self.http.as_ref(),
            "https" => self.https.as_ref(),
            _ => None,
        }?;
        let taken = !is_this_machine(url) && self.others.intercept(&url.as_str().parse().ok()?).is_some();
        taken.then_some(proxy)
    }
}

fn proxy(variable: &'static str, value: &str) -> Option<Proxy> {
    let value = value.trim();
    let parsed = if value.contains("://") { Url::parse(value) } else { Url::parse(&format!("http://{value}")) };
    match parsed {
        Ok(url)
            if url.has_host()
                && matches!(url.scheme(), "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h") =>
        {
            Some(Proxy { url, variable })
        }
        _ => {
            // The value may have a password.
            log::warn!("{variable} names no proxy that can be used; it is ignored");
            None
        }
    }
}

/// Whether a URL's host is this machine itself, by its name or address.
pub fn is_this_machine(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        // A connection to the unspecified address ends at this machine.
        Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::named_by(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string()))
    }

    fn shown(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.of(&Url::parse(url).unwrap()).map(ToString::to_string)
    }

    #[test]
    fn this_machine_is_reached_directly() {
        let all = proxies(&[("ALL_PROXY", "http://p:1"), ("http_proxy", "http://p:2")]);
        for direct in [
            "http://127.0.0.1:7400/x",
            "https://127.99.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://[::1]:1/",
            "http://[::ffff:127.0.0.1]/",
            "http://localhost:7400/",
            "http://LOCALHOST./",
            "http://a.localhost/",
            "http://0.0.0.0/",
        ] {
            assert_eq!(shown(&all, direct), None, "{direct}");
        }
        for through in ["http://128.0.0.1/", "http://localhost.example/", "https://[::2]/", "http://127.0.0.1.example/"]
        {
            assert!(shown(&all, through).is_some(), "{through}");
        }
    }

    #[test]
    fn the_variables_are_read_as_curl_reads_them() {
        let some = proxies(&[
            ("http_proxy", "http://user:geheim@plain:3128/"),
            ("HTTPS_PROXY", "secure:8080"),
            ("NO_PROXY", "near.example, 10.0.0.0/8"),
        ]);
        let plain = shown(&some, "http://far.example/").unwrap();
        assert_eq!(plain, "the proxy http://plain:3128 that http_proxy names");
        assert_eq!(
            shown(&some, "https://far.example/").unwrap(),
            "the proxy http://secure:8080 that HTTPS_PROXY names"
        );
        assert!(!format!("{:?}", some.http).contains("geheim"));
        for near in ["http://near.example/", "https://a.near.example/", "http://10.1.2.3/"] {
            assert_eq!(shown(&some, near), None, "{near}");
        }
        let all = proxies(&[("all_proxy", "socks5://s:1080"), ("HTTP_PROXY", ""), ("http_proxy", "http://h:1")]);
        assert_eq!(shown(&all, "https://x/").unwrap(), "the proxy socks5://s:1080 that all_proxy names");
        assert_eq!(shown(&all, "http://x/").unwrap(), "the proxy http://h:1 that http_proxy names");
        assert_eq!(shown(&proxies(&[("ALL_PROXY", "http://p"), ("no_proxy", "*")]), "http://x/"), None);
        assert_eq!(shown(&proxies(&[("HTTP_PROXY", "http://p"), ("REQUEST_METHOD", "GET")]), "http://x/"), None);
        for wrong in ["ftp://p:1", "http://", "::"] {
            assert_eq!(shown(&proxies(&[("http_proxy", wrong)]), "http://x/"), None, "{wrong}");
        }
    }
}
