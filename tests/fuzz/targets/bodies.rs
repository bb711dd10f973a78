//! What travels as JSON and in queries: it is refused, or what was read is written and read again.

use actix_web::web::Query;
use holdfast::types::api::*;
use holdfast::types::storage_api::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type that travels, with an example of it.
pub struct Body {
    name: &'static str,
    example: &'static str,
    /// Reads it, and answers whether it is one.
    read: fn(&[u8]) -> bool,
}

macro_rules! bodies {
    ($reader:ident: $($name:ident $example:literal)*) => {
        [$(Body { name: stringify!($name), example: $example, read: $reader::<$name> }),*]
    };
}

const ID: &str = "0123456789abcdef";
const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const UUID: &str = "00000000-0000-0000-0000-000000000001";
const TIME: &str = "2026-01-02T03:04:05.678901234Z";

/// Requests of each kind to either server, and the answers that are believed. ID, SHA, UUID and TIME stand for values.
const BODIES: [Body; 27] = bodies! { json:
    CommitRequest r#"{"reports":[{"ticket":"a.b","size":5,"sha256":"SHA","holders":["ID"]}]}"#
    PendingRequest r#"{"server":"ID","replicas":[{"object":"ID","generation":"ID","ticket_expires":"TIME","epoch":1}]}"#
    CorruptRequest r#"{"server":"ID","replicas":[{"object":"ID","generation":"ID","reason":"r","aside":true}],"alarm":true}"#
    RegisterRequest r#"{"identity":"UUID","name":"n","host":"h","url":"http://h:1","public_url":"http://h:1","zone":"z","boot_id":"UUID","cluster":"UUID","epoch":1,"capacity_bytes":2,"free_bytes":1}"#
    MkdirRequest r#"{"path":"/a/b","parents":true}"#
    PathQuery r#"{"path":"/a"}"#
    TransferRequest r#"{"from":"/a","to":"/b","recursive":true}"#
    SetrepRequest r#"{"path":"/a","copies":3}"#
    FsckRequest r#"{"repair":true}"#
    RestoreRequest r#"{"without":["n"],"accept_gap":true,"replicas":2,"force":true}"#
    TokenRequest r#"{"name":"n","role":"writer","prefix":"/a","ttl_seconds":60}"#
    DeleteRequest r#"{"replicas":[{"object":"ID","generation":"ID"}],"quarantine":"q"}"#
    ReplicateRequest r#"{"replica":{"object":"ID","generation":"ID"},"target":{"server":"ID","url":"http://h:1"},"ticket":"a.b"}"#
    RegisterResponse r#"{"server":"ID","cluster":"UUID","epoch":1,"time":"TIME"}"#
    AvailableResponse r#"{"placements":[{"object":"ID","generation":"ID","ticket":"a.b","servers":[{"server":"ID","url":"u"}],"min_write_copies":2,"expires":"TIME"}]}"#
    CommitResponse r#"{"outcomes":[{"committed":{"path":"/a","object":"ID","version":7,"size":5,"sha256":"SHA","copies":2,"copies_wanted":2,"listed":["ID"]}},{"failed":{"code":"busy","message":"m","request_id":"x"}}]}"#
    PendingResponse r#"{"fates":["wait","delete",{"keep":{"version":7,"label":"/a"}}]}"#
    CorruptResponse r#"{"fates":["quarantine","quarantine_for_good","wait","leave"]}"#
    ListResponse r#"{"entries":[{"path":"a","kind":"file","size":5,"sha256":"SHA","object":"ID","version":7,"created":"TIME","modified":"TIME","copies_wanted":2,"copies":1,"replicas":[{"server":"ID","name":"n","host":"h","url":"u","state":"present","health":"live","since":"TIME","verified":null}]}],"next":"a"}"#
    StorageStatus r#"{"status":"ok","identity":"UUID","cluster":null,"server":"ID","epoch":1,"term":2,"journal":{"history":"UUID","epoch":1,"version":7,"tip":"SHA"},"boot_id":"UUID","capacity_bytes":2,"free_bytes":1,"objects":0,"bytes":0,"program_version":"0"}"#
    JournalFiles r#"{"files":[{"name":"n","kind":"segment","first":1,"last":2,"bytes":3}],"next":"n"}"#
    JournalStatus r#"{"position":null,"complete":false,"bytes_since_snapshot":1,"segments_since_snapshot":1,"snapshot_bytes":1,"snapshot_version":1,"files":1,"bytes":1}"#
    CopyStored r#"{"object":"ID","generation":"ID","size":5,"sha256":"SHA"}"#
    Changed r#"{"version":7}"#
    ErrorBody r#"{"code":"not_found","message":"m","request_id":null}"#
    EventsResponse r#"{"events":[{"id":1,"time":"TIME","kind":"k","object":"ID","server":null,"detail":"d"}],"next":1}"#
    RestoreStatus r#"{"state":"done","step":"s","started":"TIME","ended":null,"error":null,"source":"journal","journal_version":7,"epoch":2,"servers":["n"],"without":[],"files":1,"directories":1,"replicas":1,"tail":0,"conflicts":["c"],"losses":[],"doubts":[],"conflicts_total":1,"losses_total":0,"doubts_total":0}"#
};

/// Queries of each kind.
const QUERIES: [Body; 5] = bodies! { query:
    AvailableQuery "path=%2Fa&size=5&count=2&object=ID&exclude=ID%2CID&if_match=7&if_none_match=true&parents=true"
    PathQuery "path=/a%20b"
    DeleteQuery "path=/a&recursive=true&if_match=7"
    ListQuery "path=/&after=a%2Fb&limit=10&recursive=true&locations=true"
    EventsQuery "before=7&limit=10&object=ID&server=n&kind=server_down"
};

fn json<T: Serialize + DeserializeOwned>(data: &[u8]) -> bool {
    serde_json::from_slice::<T>(data).is_ok_and(|value| is_kept(&value))
}

fn query<T: Serialize + DeserializeOwned>(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    Query::<T>::from_query(text).is_ok_and(|value| is_kept(&value.0))
}

/// What was read is written so that it is read as the same.
fn is_kept<T: Serialize + DeserializeOwned>(value: &T) -> bool {
    let written = serde_json::to_vec(value).unwrap();
    let again: T = serde_json::from_slice(&written).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&written));
    });
    assert_eq!(serde_json::to_vec(&again).unwrap(), written, "{}", String::from_utf8_lossy(&written));
    true
}

/// The first byte chooses the type.
fn run(kinds: &[Body], data: &[u8]) {
    if let Some((kind, rest)) = data.split_first() {
        (kinds[usize::from(*kind) % kinds.len()].read)(rest);
    }
}

fn seeds(kinds: &[Body]) -> Vec<Vec<u8>> {
    let with_values = |example: &str| {
        [("SHA", SHA), ("UUID", UUID), ("TIME", TIME), ("ID", ID)]
            .iter()
            .fold(example.to_string(), |text, (name, value)| text.replace(name, value))
    };
    let examples = kinds.iter().zip(0_u8..);
    examples
        .map(|(body, kind)| {
            let text = with_values(body.example);
            // An example that has gone stale would leave its type alone.
            assert!((body.read)(text.as_bytes()), "the example of {} is none any more: {text}", body.name);
            [&[kind][..], text.as_bytes()].concat()
        })
        .collect()
}

pub fn bodies(data: &[u8]) {
    run(&BODIES, data);
}

pub fn body_seeds() -> Vec<Vec<u8>> {
    seeds(&BODIES)
}

pub fn queries(data: &[u8]) {
    run(&QUERIES, data);
}

pub fn query_seeds() -> Vec<Vec<u8>> {
    seeds(&QUERIES)
}
