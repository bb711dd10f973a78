//! Two writers and some readers on one path: every read is one of the versions, whole.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::cluster::{Cluster, Plan};

#[test]
fn every_read_is_one_of_the_versions_whole() {
    let cluster = Cluster::start(&Plan { name_server_args: vec!["--read-ttl".into(), "5".into()], ..Plan::default() });
    // Larger than what is kept in the index, and smaller.
    for size in [200_000usize, 500] {
        let versions: Vec<Vec<u8>> = (b'a'..=b'd').map(|letter| vec![letter; size]).collect();
        for (number, version) in versions.iter().enumerate() {
            fs::write(cluster.path(&format!("v{number}")), version).unwrap();
        }
        let path = format!("/f{size}");
        assert_eq!(cluster.http().put(&path, &cluster.path("v0"), &[]).status, 201);
        let (done, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let (cluster, versions, done, reads, path) = (&cluster, &versions, &done, &reads, &path);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        // By the client, which verifies, and by curl, which does not.
                        let bytes = if reader == 0 {
                            cluster.ok(&["cat", path]).into_bytes()
                        } else {
                            let answer = cluster.http().get(&format!("/files{path}"));
                            assert_eq!(answer.status, 200, "{}", answer.body);
                            answer.body.into_bytes()
                        };
                        assert!(versions.contains(&bytes), "a mixture of {} bytes", bytes.len());
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let (cluster, path) = (&cluster, &path);
                    scope.spawn(move || {
                        for round in 0..12 {
                            let source = cluster.path(&format!("v{}", (round + writer * 2) % 4));
                            assert_eq!(cluster.http().put(path, &source, &[]).status, 201);
                        }
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
        assert!(reads.load(Ordering::Relaxed) > 5);
    }
}
