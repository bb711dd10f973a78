//! Signs requests between servers, for scripts that test their endpoints: reads `METHOD PATH` from each line of standard
//! input and answers with the value of an `Authorization` header.
//!
//! ```text
//! sign SECRET_FILE storage|name-server CLUSTER EPOCH TERM
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a script that is used wrongly fails")]

use std::io::{BufRead, Write};

use holdfast::security::ticket::{Sender, ServerCredential};
use holdfast::security::{ClusterSecret, Signer};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [secret, role, cluster, epoch, term] = &args[..] else {
        panic!("usage: sign SECRET_FILE storage|name-server CLUSTER EPOCH TERM");
    };
    let signer = Signer::new(ClusterSecret::from_file(secret.as_ref()).expect("the secret"));
    let (cluster, epoch) = (cluster.parse().expect("the cluster's id"), epoch.parse().expect("the epoch"));
    let sender = match role.as_str() {
        "storage" => Sender::Storage { identity: uuid::Uuid::new_v4() },
        _ => Sender::NameServer { term: term.parse().expect("the term") },
    };
    for line in std::io::stdin().lock().lines() {
        // What is asked for is not a part of a credential yet.
        let _request = line.expect("a line");
        let expires = chrono::Utc::now() + chrono::TimeDelta::minutes(1);
        let claims = ServerCredential { sender: sender.clone(), expires };
        println!("Holdfast {}", signer.sign(Some(cluster), epoch, &claims).expect("a credential"));
        std::io::stdout().flush().expect("standard output");
    }
}
