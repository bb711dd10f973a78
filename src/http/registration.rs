//! What a storage server may announce of itself. It is shown to people, logged, and asked by other servers: names are
//! names, URLs are a server's, and numbers are possible.

use reqwest::Url;

use crate::types::api::RegisterRequest;
use crate::types::limits::BOOTS_MAX;
use crate::types::{Error, Result, bounds, label};

/// Bytes of a URL.
const URL_BYTES_MAX: usize = 2_048;

/// Checks an announcement.
pub fn check(request: &RegisterRequest) -> Result<()> {
    label::check("the storage server's name", &request.name)?;
    label::check("the storage server's host", &request.host)?;
    if !request.zone.is_empty() {
        label::check("the storage server's zone", &request.zone)?;
    }
    check_url("url", &request.url)?;
    check_url("public_url", &request.public_url)?;
    if i64::try_from(request.capacity_bytes).is_err() || request.free_bytes > request.capacity_bytes {
        return Err(Error::invalid(format!(
            "{} bytes free of {} cannot be",
            request.free_bytes, request.capacity_bytes
        )));
    }
    if request.boots.len() > BOOTS_MAX {
        return Err(Error::invalid(format!(
            "{} starts are told, {BOOTS_MAX} at most are looked at",
            request.boots.len()
        )));
    }
    bounds::check_epoch(request.epoch).map(drop)
}

fn check_url(what: &str, text: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("the {what} is not a storage server's: {why}")));
    if text.len() > URL_BYTES_MAX {
        return wrong(&format!("it has more than {URL_BYTES_MAX} bytes"));
    }
    // The parser takes tabs and line breaks out in silence.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return wrong("it has control characters or white space");
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return wrong(&error.to_string()),
    };
    match () {
        () if !matches!(url.scheme(), "http" | "https") => wrong("it must start with http:// or https://"),
        () if url.host_str().is_none_or(str::is_empty) => wrong("it has no host"),
        () if !url.username().is_empty() || url.password().is_some() => wrong("it has a user name or a password"),
        () if url.query().is_some() || url.fragment().is_some() => wrong("it has a query or a fragment"),
        () if url.port() == Some(0) => wrong("nothing can be reached at port 0"),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::types::ErrorCode;

    fn good() -> RegisterRequest {
        RegisterRequest {
            identity: Uuid::new_v4(),
            name: "store-1".into(),
            host: "h".into(),
            url: "http://127.0.0.1:7401".into(),
            public_url: "https://store-1.example/holdfast".into(),
            zone: String::new(),
            boot_id: Uuid::new_v4(),
            cluster: None,
            epoch: 0,
            index_changes: 0,
            boots: Vec::new(),
            replace_newer: false,
            capacity_bytes: 10,
            free_bytes: 10,
        }
    }

    #[test]
    fn names_are_names() {
        check(&good()).unwrap();
        check(&RegisterRequest { name: "ü".repeat(127), zone: "rack 7".into(), ..good() }).unwrap();
        let long = "x".repeat(256);
        for wrong in ["", "a\nb", "\u{1b}[2J", "a\u{85}", "\u{7f}", &long] {
            let name = check(&RegisterRequest { name: wrong.into(), ..good() }).unwrap_err();
            assert_eq!(name.code(), ErrorCode::InvalidRequest, "{wrong:?}");
            assert!(!name.message().contains('\u{1b}') && name.message().len() < 200, "{name}");
            assert!(check(&RegisterRequest { host: wrong.into(), ..good() }).is_err(), "{wrong:?}");
            let zone = check(&RegisterRequest { zone: wrong.into(), ..good() });
            assert_eq!(zone.is_ok(), wrong.is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn urls_are_a_servers() {
        let long = format!("http://h/{}", "x".repeat(URL_BYTES_MAX));
        for wrong in [
            "",
            "h:7401",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "ftp://h",
            "http://",
            "http://user@h",
            "http://user:pw@h",
            "http://h/?a=b",
            "http://h/#a",
            "http://h:0",
            "http://h:99999",
            "http://h/\n",
            "http://h\t:7401",
            &long,
        ] {
            for request in [
                RegisterRequest { url: wrong.into(), ..good() },
                RegisterRequest { public_url: wrong.into(), ..good() },
            ] {
                let error = check(&request).unwrap_err();
                assert!(error.code() == ErrorCode::InvalidRequest && error.message().len() < 200, "{wrong}: {error}");
            }
        }
        for right in ["http://h", "https://[::1]:7401", "http://10.0.0.1:7401/base"] {
            check(&RegisterRequest { url: right.into(), ..good() }).unwrap();
        }
    }

    #[test]
    fn starts_are_few() {
        let with = |starts| check(&RegisterRequest { boots: vec![Uuid::nil(); starts], ..good() });
        with(BOOTS_MAX).unwrap();
        assert_eq!(with(BOOTS_MAX + 1).unwrap_err().code(), ErrorCode::InvalidRequest);
    }

    #[test]
    fn numbers_are_possible() {
        for (capacity_bytes, free_bytes, epoch, right) in [
            (0, 0, 0, true),
            (i64::MAX as u64, i64::MAX as u64, bounds::EPOCH_MAX, true),
            (10, 10, bounds::EPOCH_MAX + 1, false),
            (10, 10, i64::MAX, false),
            (10, 11, 0, false),
            (i64::MAX as u64 + 1, 0, 0, false),
            (u64::MAX, u64::MAX, 0, false),
            (10, 5, -1, false),
        ] {
            let request = RegisterRequest { capacity_bytes, free_bytes, epoch, ..good() };
            assert_eq!(check(&request).is_ok(), right, "{free_bytes} of {capacity_bytes} in epoch {epoch}");
        }
    }
}
