//! Headers that clients send.

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use actix_web::test::TestRequest;
use holdfast::security::Recipient;
use holdfast::storage::http::download::{Range, range};
use holdfast::web::auth;
use holdfast::web::preconditions::{Judged, Preconditions, Wanted};

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
        // The last bytes of nothing are all of it, which no range can say.
        ("", last) if size == 0 && number(last)? > 0 => Some(Range::Whole),
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

fn headers(lines: &[(HeaderName, &[u8])]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.clone(), HeaderValue::from_bytes(value).ok()?);
    }
    Some(headers)
}

/// `If-Match` and `If-None-Match`, for reads and for writes.
pub fn conditions(data: &[u8]) {
    const VERSION: i64 = 7;
    let parts: Vec<&[u8]> = data.split(|byte| *byte == super::BETWEEN).collect();
    let [if_match, if_none_match] = parts[..] else { return };
    let lines = [(IF_MATCH, if_match), (IF_NONE_MATCH, if_none_match)];
    for lines in [&lines[..1], &lines[1..], &lines[..]] {
        let Some(headers) = headers(lines) else { return };
        let Ok(given) = Preconditions::of(&headers) else { continue };
        let names = |name: &HeaderName, what: &[u8]| {
            let sent = lines.iter().find(|(sent, _)| sent == name);
            sent.is_some_and(|(_, value)| value.windows(what.len()).any(|window| window == what))
        };
        let is_sent = |name: &HeaderName| lines.iter().any(|(sent, _)| sent == name);
        // A condition that was sent is never taken for none.
        assert_ne!(given.at_once(), Some(Wanted::Anything));
        if is_sent(&IF_MATCH) {
            assert_eq!(given.of_write(None), None, "nothing is there to match");
            if !names(&IF_MATCH, b"7") && !names(&IF_MATCH, b"*") {
                assert_eq!(given.of_read((VERSION, None)), Judged::Failed);
                assert_eq!(given.of_write(Some((VERSION, None))), None);
            }
        }
        if let Some(Wanted::Version(version)) = given.at_once() {
            assert!(names(&IF_MATCH, version.to_string().as_bytes()));
            let there = (version == VERSION).then_some(Wanted::Version(version));
            assert_eq!(given.of_write(Some((VERSION, None))), there, "a look finds the same");
        }
        if given.of_read((VERSION, None)) == Judged::NotModified {
            assert!(names(&IF_NONE_MATCH, b"7") || names(&IF_NONE_MATCH, b"*"));
            assert_eq!(given.of_write(Some((VERSION, None))), None);
        }
    }
}

pub fn condition_seeds() -> Vec<Vec<u8>> {
    let values =
        ["\"7\"", "*", "7", "W/\"7\"", "\"1\", \"7\"", "\"-9223372036854775808\"", "\"9223372036854775808\"", ""];
    values.iter().flat_map(|value| [joined(&[*value, "*"]), joined(&["\"7\"", value])]).collect()
}

/// `Authorization`.
pub fn authorization(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let request = TestRequest::default().insert_header((AUTHORIZATION, value)).to_http_request();
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
