//! A storage server's copy of the journal, over HTTP.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use holdfast::client::{Credentials, StorageClient};
use holdfast::journal::format::{Origin, SnapshotWriter, segment};
use holdfast::journal::{JournalLine, SETTINGS};
use holdfast::security::Sender;
use holdfast::types::storage_api::{Peer, Told};
use holdfast::types::{ErrorCode, Sha256};
use uuid::Uuid;

use crate::common::cluster::{Cluster, Plan};
use crate::common::servers;

const TIMEOUT: Duration = Duration::from_secs(10);

fn client(cluster: Uuid, epoch: i64, sender: Sender) -> StorageClient {
    servers::storage_client(servers::credentials(Some(cluster), epoch, sender))
}

fn line(version: i64) -> JournalLine {
    let (table, key) = (SETTINGS.into(), version.to_string());
    JournalLine { version, seq: 0, table, key, content: Some("{}".into()), created: Default::default() }
}

/// Sends a snapshot through somebody who sits on the line, changes a row and makes the file's own checksum right again.
/// The answer that the storage server gives.
async fn changed_on_its_way<S>(client: &StorageClient, peer: &Peer, snapshot: S) -> String
where
    S: futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    let line = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = Peer { url: format!("http://{}", line.local_addr().unwrap()), ..peer.clone() };
    let listening = std::thread::spawn(move || {
        let (mut stream, _) = line.accept().unwrap();
        let (mut heard, mut piece) = (Vec::new(), [0; 64 << 10]);
        while !heard.ends_with(b"\r\n0\r\n\r\n") {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "the request broke off");
            heard.extend_from_slice(&piece[..count]);
        }
        heard
    });
    client.journal_send_stream(&there, snapshot).await.unwrap_err();
    let heard = listening.join().unwrap();
    let head_ends = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(heard[..head_ends].to_vec()).unwrap();
    let header = |name: &str| {
        let of = |line: &str| {
            line.split_once(": ").filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|it| it.1.into())
        };
        head.lines().find_map(of).unwrap_or_else(|| panic!("{name} in {head}"))
    };
    let (target, authorization): (String, String) = (head.split(' ').nth(1).unwrap().into(), header("authorization"));
    let (mut body, mut rest) = (Vec::new(), &heard[head_ends + 4..]);
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 2 + length + 2..];
    }
    let body = String::from_utf8(body).unwrap();
    let trailer = body.rfind("{\"lines\"").unwrap();
    let digest = trailer + body[trailer..].find(",\"sha256\"").unwrap();
    let changed = body[..digest].replacen("\"content\":\"{}\"", "\"content\":\"[]\"", 1);
    assert_ne!(changed, body[..digest]);
    let own = format!(",\"sha256\":\"{}\"}}", Sha256::of(changed.as_bytes()));
    let changed = format!("{changed}{own}{}", &body[digest + own.len()..]);
    let request = reqwest::Client::new().post(format!("{}{target}", peer.url)).header("Authorization", authorization);
    request.body(changed).send().await.unwrap().text().await.unwrap()
}

#[test]
fn a_storage_server_keeps_and_returns_the_journal_for_name_servers_only() {
    let mut cluster = Cluster::start(&Plan { storage_servers: 1, ..Plan::default() });
    // From here on this test is the name server, after a restore: of a newer epoch, with a history of its own.
    let url = cluster.peer(0);
    let id = cluster.id();
    cluster.name_server.kill();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let nobody = servers::storage_client(Credentials::None);
        let before = client(id, 1, Sender::NameServer { term: 0 }).status(&url, TIMEOUT).await.unwrap();
        let epoch = before.epoch + 1;
        let name_server = client(id, epoch, Sender::NameServer { term: 1 });
        let origin = Origin { cluster: id, history: Uuid::new_v4(), epoch };
        let mut snapshot = Vec::new();
        let mut writer = SnapshotWriter::start(&origin, 5_000_000, Sha256([7; 32]), &mut snapshot).unwrap();
        for row in 0..20_000 {
            writer.row(SETTINGS, &row.to_string(), "{}", &mut snapshot).unwrap();
        }
        writer.finish(5_000_000, Sha256([7; 32]), &mut snapshot).unwrap();
        let pieces = |bytes: &[u8]| {
            let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            futures_util::stream::iter(pieces)
        };
        for (stranger, code) in [
            (nobody.clone(), ErrorCode::Unauthorized),
            (client(id, epoch, Sender::Storage { identity: before.identity }), ErrorCode::Forbidden),
            (client(id, before.epoch - 1, Sender::NameServer { term: 9 }), ErrorCode::Forbidden),
            (client(Uuid::new_v4(), epoch, Sender::NameServer { term: 1 }), ErrorCode::Forbidden),
        ] {
            assert_eq!(stranger.journal_send_stream(&url, pieces(&snapshot)).await.unwrap_err().code(), code);
            assert_eq!(stranger.journal_status(&url).await.unwrap_err().code(), code);
            // Nobody is told more than that it lives; an older name server may look.
            drop(stranger.check(&url, TIMEOUT, Some(Told { version: 9_000_000, servers: 9 })).await);
        }
        let status = client(id, 1, Sender::NameServer { term: 0 }).status(&url, TIMEOUT).await.unwrap();
        assert_eq!(status.heard_version, before.heard_version, "a stranger's word is not believed");
        assert_ne!(status.heard_servers, 9);
        let lines: Vec<_> = (5_000_001..5_000_003).map(line).collect();
        let (header, bytes) = segment(&origin, Sha256([7; 32]), &lines).unwrap();
        let refused = name_server.journal_send(&url, bytes.clone()).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::PreconditionFailed);
        let answer = changed_on_its_way(&name_server, &url, pieces(&snapshot)).await;
        assert!(answer.contains("unauthorized") && answer.contains("changed on its way"), "{answer}");
        let cut = name_server.journal_send_stream(&url, pieces(&snapshot[..snapshot.len() - 1])).await.unwrap_err();
        assert_eq!(cut.code(), ErrorCode::ChecksumMismatch);
        assert!(name_server.journal_send_stream(&url, pieces(&snapshot)).await.unwrap().complete);
        let accepted = name_server.journal_send(&url, bytes.clone()).await.unwrap();
        assert_eq!(accepted.position.tip, header.tip_after);
        assert_eq!(name_server.journal_send(&url, bytes.clone()).await.unwrap(), accepted);
        let status = name_server.check(&url, TIMEOUT, Some(Told { version: 6_000_000, servers: 7 })).await.unwrap();
        assert_eq!(status.journal, Some(accepted.position));
        assert_eq!(status.heard_version, 6_000_000);
        let listed = name_server.journal_status(&url).await.unwrap();
        assert_eq!((listed.segments_since_snapshot, listed.bytes_since_snapshot), (1, bytes.len() as u64));
        assert_eq!((listed.files, listed.bytes), (2, (bytes.len() + snapshot.len()) as u64));
        assert_eq!(listed.snapshot_version, Some(5_000_000));
        let files = name_server.journal_files(&url, None).await.unwrap().files;
        let after = name_server.journal_files(&url, Some(&files[0].name)).await.unwrap();
        assert_eq!((after.files.as_slice(), after.next), (&files[1..], None));
        for (file, want) in files.iter().zip([&bytes, &snapshot]) {
            let mut download = name_server.journal_file(&url, &file.name).await.unwrap();
            let mut read = Vec::new();
            while let Some(piece) = download.chunk().await.unwrap() {
                read.extend_from_slice(&piece);
            }
            assert!(read == *want && download.size == Some(file.bytes), "{}", file.name);
        }
        assert_eq!(name_server.journal_file(&url, "../server.json").await.err().unwrap().code(), ErrorCode::NotFound);
        // What was heard survives the daemon. It is written down a moment later, and not each time: so it is told again.
        let mut kept = false;
        for _ in 0..20 {
            name_server.check(&url, TIMEOUT, Some(Told { version: 6_000_000, servers: 7 })).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            cluster.storage[0].kill();
            cluster.storage[0].start();
            let status = name_server.status(&url, TIMEOUT).await.unwrap();
            assert_eq!(status.journal.unwrap().version, 5_000_002);
            kept = (status.heard_version, status.heard_servers) == (6_000_000, 7);
            if kept {
                break;
            }
        }
        assert!(kept, "what was heard is forgotten");
    });
}
