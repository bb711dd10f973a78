//! What servers ask each other: inventory, replication, deletion, and who may ask.

use std::fs;

use holdfast::security::ReplicateTicket;
use holdfast::types::api::Target;
use holdfast::types::storage_api::{DeleteRequest, ReplicaKey, ReplicateRequest};
use holdfast::types::{ErrorCode, Generation};

use crate::common::cluster::{Cluster, Plan};
use crate::common::{servers, wait_for};

#[test]
fn inventories_replication_deletion_and_fences() {
    let cluster = Cluster::start(&Plan::default());
    let body = cluster.path("body");
    for size in [100usize, 500_000] {
        fs::write(&body, vec![4; size]).unwrap();
        assert_eq!(cluster.http().put(&format!("/f{size}"), &body, &[]).status, 201);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (client, signer, id) = (cluster.as_name_server(1, 1), servers::signer(), cluster.id());
        for size in [100usize, 500_000] {
            let entry = cluster.get(&format!("/api/v1/file?path=/f{size}"));
            let holders: Vec<&str> =
                entry["replicas"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
            let number = |name: &str| name.trim_start_matches("storage-").parse::<usize>().unwrap();
            let source = cluster.peer(number(holders[0]));
            let free = (0..3).find(|n| !holders.contains(&format!("storage-{n}").as_str())).unwrap();
            let target = cluster.peer(free);
            let object = entry["object"].as_str().unwrap().parse().unwrap();
            let line = client
                .inventory(&source, None)
                .await
                .unwrap()
                .into_iter()
                .find(|line| line.replica.object == object)
                .unwrap();
            assert_eq!((line.size, line.label.as_str()), (size as u64, format!("/f{size}").as_str()));
            // A page begins behind its cursor.
            assert!(
                client
                    .inventory(&source, Some(line.replica))
                    .await
                    .unwrap()
                    .iter()
                    .all(|other| other.replica > line.replica)
            );
            let status = client.status(&target, std::time::Duration::from_secs(5)).await.unwrap();
            let copy = ReplicaKey { object, generation: Generation::generate() };
            let expires = chrono::Utc::now() + chrono::TimeDelta::minutes(5);
            let mut ticket = ReplicateTicket {
                replica: copy,
                target: status.server.unwrap(),
                size: line.size,
                sha256: line.sha256,
                label: line.label.clone(),
                expires,
            };
            let to = Target { server: status.server.unwrap(), url: target.url.clone() };
            let ask = |ticket: &ReplicateTicket| ReplicateRequest {
                replica: line.replica,
                target: to.clone(),
                ticket: signer.sign(Some(id), 1, ticket).unwrap(),
            };
            // A ticket for other bytes: the target checks, and keeps nothing.
            ticket.sha256 = holdfast::types::Sha256::of(b"others");
            let refused = client.replicate(&source, &ask(&ticket)).await.unwrap_err();
            assert_eq!(refused.code(), ErrorCode::ChecksumMismatch, "{refused}");
            ticket.sha256 = line.sha256;
            let stored = client.replicate(&source, &ask(&ticket)).await.unwrap();
            assert_eq!((stored.object, stored.generation, stored.sha256), (object, copy.generation, line.sha256));
            let there = client.inventory(&target, None).await.unwrap();
            assert!(
                there.iter().any(|line| line.replica == copy && line.version.is_none()),
                "pending until it is asked for"
            );
            // A delete names a copy and touches no other; a second time it finds nothing.
            let delete = |replica| DeleteRequest { replicas: vec![replica], quarantine: None };
            let other = ReplicaKey { object, generation: Generation(7) };
            for (replica, want) in [(other, 0), (copy, 1), (copy, 0)] {
                assert_eq!(client.delete(&target, &delete(replica)).await.unwrap().deleted, want);
            }
            // Or it is put aside, with the reason; what is not there is done already.
            let aside =
                DeleteRequest { replicas: vec![line.replica, other], quarantine: Some("nobody knows it".into()) };
            for want in [1, 0] {
                assert_eq!(client.delete(&source, &aside).await.unwrap().deleted, want);
            }
            let quarantine = cluster.storage_dir(number(holders[0])).join("quarantine");
            assert_eq!(fs::read(quarantine.join(line.replica.to_string())).unwrap(), vec![4; size]);
            let note = fs::read_to_string(quarantine.join(format!("{}.reason", line.replica))).unwrap();
            assert!(note.contains("nobody knows it") && note.contains(&line.sha256.to_string()), "{note}");
        }
        // A newer term fences the older one off, across a restart of the storage server too.
        let nothing = DeleteRequest { replicas: Vec::new(), quarantine: None };
        let first = cluster.peer(0);
        cluster.as_name_server(1, 5).delete(&first, &nothing).await.unwrap();
        assert_eq!(client.delete(&first, &nothing).await.unwrap_err().code(), ErrorCode::Forbidden);
        cluster.as_name_server(1, 5).delete(&first, &nothing).await.unwrap();
    });
    let mut cluster = cluster;
    cluster.storage[0].kill();
    cluster.storage[0].start();
    // The name server itself is shut out now; the storage server has registered all the same.
    wait_for("it has joined again", 20, || {
        let status = cluster.storage_status(0)?;
        (status.server.is_some() && status.term == 5).then_some(())
    });
    runtime.block_on(async {
        let nothing = DeleteRequest { replicas: Vec::new(), quarantine: None };
        let refused = cluster.as_name_server(1, 4).delete(&cluster.peer(0), &nothing).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Forbidden);
    });
}
