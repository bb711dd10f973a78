//! `/files` by the letter of RFC 9110: conditions, ranges, bodies that nobody meant. What has to come out is written down
//! beside each request.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::cluster::{Cluster, Http, Plan};

/// SHA-256 of nothing.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn requests_to_files_are_answered_by_the_letter() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    conditions(&cluster);
    ranges(&cluster);
    bodies_that_nobody_meant(&cluster);
    nobody_is_told_to_send_what_is_left_alone(&cluster);
    pipes(&cluster);
    what_stands_behind_the_question_mark(&cluster);
}

fn put(http: &Http, path: &str, text: &str) -> i64 {
    let answer = http.curl(&["-X", "PUT", "--data-binary", text, &format!("{}/files{path}", http.base)]).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.json()["version"].as_i64().unwrap()
}

/// The content of a file, if it is there.
fn content(http: &Http, path: &str) -> Option<String> {
    let answer = http.get(&format!("/files{path}"));
    match answer.status {
        200 => Some(answer.body),
        404 => None,
        other => panic!("{path}: {other} {}", answer.body),
    }
}

/// Where a request is redirected to.
fn location(cluster: &Cluster, method: &str, path: &str, more: &[&str]) -> String {
    let url = format!("{}/files{path}", cluster.http().base);
    let token = format!("Authorization: Bearer {}", cluster.http().token.unwrap());
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "60", "-o", "/dev/null", "-w", "%{redirect_url}", "-X", method, "-H", &token])
        .args(more)
        .arg(url)
        .output()
        .unwrap();
    let location = String::from_utf8(output.stdout).unwrap();
    assert!(location.contains("ticket="), "{method} {path}: {location}");
    location
}

fn conditions(cluster: &Cluster) {
    let http = cluster.http();
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    let future = "Fri, 01 Jan 2100 00:00:00 GMT";
    // The headers, with `{v}` for the file's version, and the statuses of GET (and HEAD), PUT and DELETE of what is there,
    // and of PUT of what is not. What is not there is 404 for the others, whatever they want.
    let since = |name: &str, date: &str| vec![format!("{name}: {date}")];
    let one = |line: &str| vec![line.to_string()];
    let two = |a: &str, b: &str| vec![a.to_string(), b.to_string()];
    let rows: Vec<(Vec<String>, [u16; 4])> = vec![
        (vec![], [200, 201, 200, 201]),
        (one("If-Match: \"{v}\""), [200, 201, 200, 412]),
        (one("If-Match: *"), [200, 201, 200, 412]),
        (one("If-Match: \"1000000\", \"{v}\""), [200, 201, 200, 412]),
        (two("If-Match: \"1000000\"", "If-Match: \"{v}\""), [200, 201, 200, 412]),
        (one("If-Match: W/\"{v}\""), [412, 412, 412, 412]),
        (one("If-Match: \"1000000\""), [412, 412, 412, 412]),
        (one("If-Match: \"no-version\""), [412, 412, 412, 412]),
        (one("If-Match: \"{v},\""), [412, 412, 412, 412]),
        (one("If-Match: nonsense"), [400, 400, 400, 400]),
        (one("If-Match: \"{v}"), [400, 400, 400, 400]),
        (one("If-None-Match: *"), [304, 412, 412, 201]),
        (one("If-None-Match: \"{v}\""), [304, 412, 412, 201]),
        (one("If-None-Match: W/\"{v}\""), [304, 412, 412, 201]),
        (one("If-None-Match: \"1000000\", W/\"{v}\""), [304, 412, 412, 201]),
        (one("If-None-Match: \"1000000\""), [200, 201, 200, 201]),
        (one("If-None-Match: nonsense"), [400, 400, 400, 400]),
        (two("If-Match: \"{v}\"", "If-None-Match: \"{v}\""), [304, 412, 412, 412]),
        (two("If-Match: \"1000000\"", "If-None-Match: \"{v}\""), [412, 412, 412, 412]),
        (two("If-Match: \"{v}\"", "If-None-Match: \"1000000\""), [200, 201, 200, 412]),
        (since("If-Modified-Since", past), [200, 201, 200, 201]),
        (since("If-Modified-Since", future), [304, 201, 200, 201]),
        (since("If-Modified-Since", "nonsense"), [200, 201, 200, 201]),
        (two("If-None-Match: \"1000000\"", &format!("If-Modified-Since: {future}")), [200, 201, 200, 201]),
        (since("If-Unmodified-Since", past), [412, 412, 412, 201]),
        (since("If-Unmodified-Since", future), [200, 201, 200, 201]),
        (two("If-Match: \"{v}\"", &format!("If-Unmodified-Since: {past}")), [200, 201, 200, 412]),
    ];
    let url = |name: &str| format!("{}/files/conditions/{name}", http.base);
    for (lines, [read, replaced, removed, made]) in rows {
        let version = put(&http, "/conditions/there", "old");
        let filled: Vec<String> = lines.iter().map(|line| line.replace("{v}", &version.to_string())).collect();
        let ask = |method: &[&str], name: &str| {
            let mut args = method.to_vec();
            filled.iter().for_each(|line| args.extend(["-H", line]));
            let url = url(name);
            args.push(&url);
            http.curl(&args).unwrap()
        };
        assert_eq!(ask(&[], "there").status, read, "GET {filled:?}");
        assert_eq!(ask(&["-I"], "there").status, read, "HEAD {filled:?}");
        let absent = if read == 400 { 400 } else { 404 };
        assert_eq!(ask(&[], "absent").status, absent, "GET of nothing {filled:?}");
        assert_eq!(ask(&["-X", "PUT", "--data-binary", "new"], "there").status, replaced, "PUT {filled:?}");
        let now = if replaced == 201 { "new" } else { "old" };
        assert_eq!(content(&http, "/conditions/there").as_deref(), Some(now), "PUT {filled:?}");
        assert_eq!(ask(&["-X", "PUT", "--data-binary", "new"], "absent").status, made, "PUT to nothing {filled:?}");
        assert_eq!(content(&http, "/conditions/absent").is_some(), made == 201, "PUT to nothing {filled:?}");
        if made == 201 {
            assert_eq!(http.curl(&["-X", "DELETE", &url("absent")]).unwrap().status, 200);
        }
        // The version is another one now where it was replaced.
        let version = put(&http, "/conditions/there", "old");
        let filled: Vec<String> = lines.iter().map(|line| line.replace("{v}", &version.to_string())).collect();
        let mut args = vec!["-X", "DELETE"];
        filled.iter().for_each(|line| args.extend(["-H", line]));
        let there = url("there");
        assert_eq!(http.curl(&[&args[..], &[there.as_str()]].concat()).unwrap().status, removed, "DELETE {filled:?}");
        assert_eq!(content(&http, "/conditions/there").is_none(), removed == 200, "DELETE {filled:?}");
        let absent = url("absent");
        let nothing = http.curl(&[&args[..], &[absent.as_str()]].concat()).unwrap().status;
        let refused = [
            404,
            if read == 400 {
                400
            } else if made == 412 {
                412
            } else {
                404
            },
        ];
        assert!(refused.contains(&nothing), "DELETE of nothing {filled:?}: {nothing}");
    }
    // The storage server judges by itself whoever asks it with a ticket.
    let version = put(&http, "/conditions/there", "old");
    let direct = location(cluster, "GET", "/conditions/there", &[]);
    for (line, want) in [
        (format!("If-Match: \"{version}\""), 200),
        ("If-Match: \"1000000\"".into(), 412),
        (format!("If-None-Match: W/\"{version}\""), 304),
    ] {
        assert_eq!(http.curl(&["-H", &line, &direct]).unwrap().status, want, "{line}");
    }
}

fn ranges(cluster: &Cluster) {
    let http = cluster.http();
    let version = put(&http, "/ranges/ten", "0123456789");
    put(&http, "/ranges/none", "");
    let v = version.to_string();
    for (range, condition, status, body) in [
        ("bytes=0-3", "", 206, "0123"),
        ("bytes=4-", "", 206, "456789"),
        ("bytes=-3", "", 206, "789"),
        ("bytes=-99", "", 206, "0123456789"),
        ("bytes=8-99", "", 206, "89"),
        ("Bytes=9-9", "", 206, "9"),
        ("bytes=10-", "", 416, ""),
        ("bytes=-0", "", 416, ""),
        ("bytes=3-1", "", 200, "0123456789"),
        ("bytes=0-1,4-5", "", 200, "0123456789"),
        ("lines=1-2", "", 200, "0123456789"),
        ("nonsense", "", 200, "0123456789"),
        ("bytes=0-3", "If-Range: \"{v}\"", 206, "0123"),
        ("bytes=0-3", "If-Range: \"1000000\"", 200, "0123456789"),
        ("bytes=0-3", "If-Range: W/\"{v}\"", 200, "0123456789"),
        ("bytes=0-3", "If-Range: Fri, 01 Jan 2100 00:00:00 GMT", 200, "0123456789"),
        ("bytes=0-3", "If-Match: \"{v}\"", 206, "0123"),
        ("bytes=0-3", "If-None-Match: \"{v}\"", 304, ""),
    ] {
        let (range, condition) = (format!("Range: {range}"), condition.replace("{v}", &v));
        let url = format!("{}/files/ranges/ten", http.base);
        let answer = http.curl(&["-H", &range, "-H", &condition, &url]).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{range} {condition}");
        // Ranges are for GET alone: a HEAD tells the whole length.
        if status != 304 {
            let head = http.curl(&["-I", "-H", &range, "-H", &condition, &url]).unwrap();
            let told = head.body.to_lowercase();
            let (_, last) = told.split_once("\r\n\r\n").unwrap();
            assert_eq!(head.status, 200, "HEAD {range} {condition}");
            assert!(last.contains("content-length: 10\r\n") && !last.contains("content-range"), "{last}");
        }
    }
    // A part of another version than the one that is wanted is never sent.
    let stale = http.curl(&[
        "-H",
        "Range: bytes=0-3",
        "-H",
        "If-Match: \"1000000\"",
        &format!("{}/files/ranges/ten", http.base),
    ]);
    assert_eq!(stale.unwrap().status, 412);
    for (range, status) in [("bytes=0-", 416), ("bytes=-5", 200), ("bytes=0-0", 416)] {
        let range = format!("Range: {range}");
        let answer = http.curl(&["-H", &range, &format!("{}/files/ranges/none", http.base)]).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{range} of nothing");
    }
}

fn bodies_that_nobody_meant(cluster: &Cluster) {
    let http = cluster.http();
    let part = cluster.path("part");
    fs::write(&part, "bar").unwrap();
    let part = part.to_str().unwrap();
    put(&http, "/bodies/f", "foobar");
    let url = format!("{}/files/bodies/f", http.base);
    let direct =
        || location(cluster, "PUT", "/bodies/f", &["-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"]);
    // An upload that says that it is a part, is packed or in an envelope; one without a body; and one whose body was
    // perhaps used up: at the name server, and at the storage server with a ticket.
    for (args, at_names, at_storage) in [
        (&["-T", part, "-H", "Content-Range: bytes 3-5/6"][..], 400, 400),
        (&["-T", part, "-H", "Content-Encoding: gzip"], 400, 400),
        (&["-X", "PUT", "-F", "file=@/dev/null"], 400, 400),
        (&["-X", "PUT"], 411, 411),
        (&["-T", "/dev/null"], 400, 400),
    ] {
        for (url, want) in [(url.clone(), at_names), (direct(), at_storage)] {
            let answer = http.curl(&[args, &[url.as_str()]].concat()).unwrap();
            assert_eq!(answer.status, want, "{args:?} {url}: {}", answer.body);
            assert!(answer.json()["message"].as_str().unwrap().contains("nothing was changed"), "{}", answer.body);
            assert_eq!(content(&http, "/bodies/f").as_deref(), Some("foobar"), "{args:?} {url}");
        }
    }
    assert_eq!(http.curl(&["-X", "PUT", &url]).unwrap().code(), "length_required");
    // Resuming an upload, as it loses data elsewhere.
    let whole = cluster.path("whole");
    fs::write(&whole, "foobar").unwrap();
    let resumed = http.curl(&["-T", whole.to_str().unwrap(), "-C", "3", &url]).unwrap();
    assert_eq!(resumed.status, 400, "{}", resumed.body);
    assert_eq!(content(&http, "/bodies/f").as_deref(), Some("foobar"));
    // What is meant to be empty is.
    for args in
        [&["-X", "PUT", "--data-binary", ""][..], &["-T", "/dev/null", "-H", &format!("Holdfast-Sha256: {OF_NOTHING}")]]
    {
        put(&http, "/bodies/f", "foobar");
        let answer = http.curl(&[args, &[url.as_str()]].concat()).unwrap();
        assert_eq!(answer.status, 201, "{args:?}: {}", answer.body);
        assert_eq!(content(&http, "/bodies/f").as_deref(), Some(""));
    }
    // Nothing is left behind by what was refused.
    let left = (0..2).map(|number| fs::read_dir(cluster.storage_dir(number).join("incoming")).unwrap().count());
    assert_eq!(left.sum::<usize>(), 0);
}

/// Sends the head of a request, which waits to be told to send its body, and reads what comes first.
fn first_answer(cluster: &Cluster, head: &str) -> String {
    let base = cluster.http().base;
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(format!("{head}\r\nHost: x\r\nExpect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

fn nobody_is_told_to_send_what_is_left_alone(cluster: &Cluster) {
    let token = cluster.http().token.unwrap();
    let chunked = "\r\nTransfer-Encoding: chunked";
    for (head, want) in [
        (format!("PUT /files/waits HTTP/1.1\r\nAuthorization: Bearer {token}{chunked}"), "307"),
        (format!("PUT /files/waits HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: 5"), "307"),
        (format!("PUT /files/waits HTTP/1.1\r\nAuthorization: Bearer wrong{chunked}"), "401"),
        (format!("PUT /files/waits HTTP/1.1\r\nAuthorization: Bearer {token}\r\nIf-Match: \"5\"{chunked}"), "412"),
        (
            format!("PUT /files/waits HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: 99999999999999999"),
            "413",
        ),
        (format!("PUT /files/waits//x HTTP/1.1\r\nAuthorization: Bearer {token}{chunked}"), "400"),
        // This one is read.
        (
            format!(
                "POST /api/v1/mkdir HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
                 Content-Length: 17"
            ),
            "100",
        ),
    ] {
        let answer = first_answer(cluster, &head);
        assert_eq!(answer.split_whitespace().nth(1), Some(want), "{head}: {answer}");
        assert_eq!(want == "307", answer.to_lowercase().contains("\r\nlocation: "), "{answer}");
        assert!(want == "100" || answer.to_lowercase().contains("x-request-id"), "as every answer: {answer}");
    }
    assert_eq!(content(&cluster.http(), "/waits"), None);
}

/// What comes from a pipe is stored whole, or not at all.
fn pipes(cluster: &Cluster) {
    let http = cluster.http();
    let token = format!("Authorization: Bearer {}", http.token.as_ref().unwrap());
    for size in [1, 1_000, 20_000, 65_000, 1_000_000] {
        let url = format!("{}/files/pipes/{size}", http.base);
        let mut curl = Command::new("curl")
            .args(["-sSL", "--max-time", "60", "--expect100-timeout", "60", "-H", &token, "-H", "Expect: 100-continue"])
            .args(["-T", "-", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let written = curl.stdin.take().unwrap().write_all(&vec![b'x'; size]);
        let output = curl.wait_with_output().unwrap();
        assert!(output.status.success() && written.is_ok(), "{size}: {output:?}");
        assert_eq!(cluster.get(&format!("/api/v1/file?path=/pipes/{size}"))["size"], size);
    }
}

fn what_stands_behind_the_question_mark(cluster: &Cluster) {
    let http = cluster.http();
    put(&http, "/q", "q");
    let body = cluster.path("body");
    fs::write(&body, "other").unwrap();
    let body = body.to_str().unwrap();
    for (args, target) in [
        (&["-X", "DELETE"][..], "/files/q?x=1"),
        (&["-X", "DELETE"], "/files/q?"),
        (&["-X", "DELETE"], "/files/q?recursive=true&x=1"),
        (&["-X", "DELETE"], "/files/q?recursive=perhaps"),
        (&["-T", body], "/files/q?x=1"),
        (&["-T", body], "/files/q?recursive=true"),
        (&[], "/files/q?x=1"),
        (&["-X", "DELETE"], "/api/v1/file?path=/q&if_mtch=1"),
        (&[], "/api/v1/available?path=/q&if_mtch=1"),
    ] {
        let answer = http.curl(&[args, &[&format!("{}{target}", http.base)]].concat()).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{target}: {}", answer.body);
        assert!(target.starts_with("/api") || answer.body.contains("%3F"), "{}", answer.body);
        assert_eq!(content(&http, "/q").as_deref(), Some("q"), "{args:?} {target}");
    }
    put(&http, "/q%3Fx=1", "of that name");
    assert_eq!(
        http.curl(&["-X", "DELETE", &format!("{}/files/q%3Fx=1?recursive=true", http.base)]).unwrap().status,
        200
    );
    assert_eq!(content(&http, "/q").as_deref(), Some("q"));
}
