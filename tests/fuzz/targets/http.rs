//! Headers that clients send.

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use actix_web::test::TestRequest;
use holdfast::http::redirect;
use holdfast::security::Recipient;
use holdfast::storage::http::download::{Range, has_tag, range};
use holdfast::web::auth;

use super::tickets::signer;
use super::{each_text, joined, texts};

/// `Range`, and the size of the file.
pub fn ranges(data: &[u8]) {
    let Some([header, size]) = texts(data) else { return };
    let Ok(size) = size.parse::<u64>() else { return };
    let found = range(header, size);
    if let Range::Part { start, length } = found {
        let end = start.checked_add(length).unwrap();
        assert!(length > 0 && end <= size, "{header} of {size}: {found:?}");
    }
    if let Some(want) = reference(header, size) {
        assert_eq!(found, want, "{header} of {size}");
    }
}

/// RFC 9110, section 14.1.2, for a single range in its plain form.
fn reference(header: &str, size: u64) -> Option<Range> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let part = |start: u64, length: u64| if length == 0 { Range::Outside } else { Range::Part { start, length } };
    match (first, last) {
        ("", last) => {
            let length = number(last)?.min(size);
            Some(part(size - length, length))
        }
        (first, "") => {
            let start = number(first)?;
            Some(if start < size { part(start, size - start) } else { Range::Outside })
        }
        (first, last) => {
            let (start, last) = (number(first)?, number(last)?);
            // One that ends before it begins is no range; what it is answered with is open.
            (start <= last).then(|| {
                if start < size { part(start, last.saturating_add(1).min(size) - start) } else { Range::Outside }
            })
        }
    }
}

pub fn range_seeds() -> Vec<Vec<u8>> {
    let headers =
        ["bytes=0-3", "bytes=4-", "bytes=-3", "bytes=5-99", "bytes=10-", "bytes=0-1,4-5", "lines=1-2", "bytes=-0"];
    let mut seeds: Vec<Vec<u8>> = headers.iter().map(|header| joined(&[header, "10"])).collect();
    seeds.push(joined(&["bytes=0-18446744073709551615", "18446744073709551615"]));
    seeds.push(joined(&["bytes=-18446744073709551615", "0"]));
    seeds
}

fn request(headers: &[(HeaderName, &[u8])]) -> Option<HttpRequest> {
    headers
        .iter()
        .try_fold(TestRequest::default(), |request, (name, value)| {
            Some(request.insert_header((name.clone(), HeaderValue::from_bytes(value).ok()?)))
        })
        .map(TestRequest::to_http_request)
}

/// `If-Match` and `If-None-Match`, for reads and for writes.
pub fn conditions(data: &[u8]) {
    let parts: Vec<&[u8]> = data.split(|byte| *byte == super::BETWEEN).collect();
    let [if_match, if_none_match] = parts[..] else { return };
    let headers = [(IF_MATCH, if_match), (IF_NONE_MATCH, if_none_match)];
    for headers in [&headers[..1], &headers[1..], &headers[..]] {
        let Some(request) = request(headers) else { return };
        let Ok((version, absent)) = redirect::conditions(&request) else { continue };
        let sent = |name: &HeaderName| headers.iter().find(|(sent, _)| sent == name).map(|(_, value)| *value);
        assert_eq!(absent, sent(&IF_NONE_MATCH).is_some(), "only * is understood");
        // A condition that was sent is never taken for none.
        assert_eq!(version.is_some(), sent(&IF_MATCH).is_some());
        if let (Some(version), Some(value)) = (version, sent(&IF_MATCH)) {
            let digits: Vec<u8> = version.unsigned_abs().to_string().into_bytes();
            assert!(value.windows(digits.len()).any(|window| window == digits));
        }
    }
    if let Ok(list) = std::str::from_utf8(if_none_match) {
        let tag = "\"7\"";
        assert!(!has_tag(list, tag) || list.contains(tag) || list.contains('*'));
        assert!(has_tag(&format!("{tag},{list}"), tag) && has_tag(&format!("{list}, W/{tag}"), tag));
    }
}

pub fn condition_seeds() -> Vec<Vec<u8>> {
    let values =
        ["\"7\"", "*", "7", "W/\"7\"", "\"1\", \"7\"", "\"-9223372036854775808\"", "\"9223372036854775808\"", ""];
    values.iter().flat_map(|value| [joined(&[*value, "*"]), joined(&["\"7\"", value])]).collect()
}

/// `Authorization`.
pub fn authorization(data: &[u8]) {
    let Some(request) = request(&[(AUTHORIZATION, data)]) else { return };
    for scheme in ["Bearer", "Holdfast"] {
        let Some(text) = auth::credential(&request, scheme) else { continue };
        let sent = std::str::from_utf8(data).unwrap();
        let (given, rest) = sent.split_once(' ').unwrap();
        assert!(given.eq_ignore_ascii_case(scheme) && rest.contains(text) && text.trim() == text);
        assert!(!text.contains(['\r', '\n', '\0']));
    }
    let gate = auth::Gate::new(signer(), Recipient::NameServer);
    assert!(gate.server(&request, chrono::Utc::now()).is_err(), "nobody has signed it");
}

pub fn authorization_seeds() -> Vec<Vec<u8>> {
    let mut seeds =
        each_text(&["Bearer hf_0123", "bearer  x ", "Holdfast ", "Holdfast a.b", "Basic dTpw", "Bearer", " Bearer x"]);
    seeds.push(format!("Holdfast {}", super::tickets::strangers_credential()).into_bytes());
    seeds.push(b"Bearer \xfc".to_vec());
    seeds
}
