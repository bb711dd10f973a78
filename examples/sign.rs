//! Signs requests between servers, for scripts that test their endpoints: reads `METHOD TARGET` (path and query) from each
//! line of standard input and answers with the value of an `Authorization` header, good for that request with any body.
//!
//! ```text
//! sign SECRET_FILE CLUSTER EPOCH storage
//! sign SECRET_FILE CLUSTER EPOCH name-server TERM RECIPIENT
//! ```
//!
//! RECIPIENT is the identity of the storage server that is asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a script that is used wrongly fails")]

use std::io::{BufRead, Write};

use holdfast::security::credential::CREDENTIAL_TTL;
use holdfast::security::{ClusterSecret, Recipient, Sender, ServerCredential, Signer};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [secret, cluster, epoch, rest @ ..] = &args[..] else { panic!("{USAGE}") };
    let signer = Signer::new(ClusterSecret::from_file(secret.as_ref()).expect("the secret"));
    let (cluster, epoch) = (cluster.parse().expect("the cluster's id"), epoch.parse().expect("the epoch"));
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let (sender, recipient) = match words[..] {
        ["storage"] => (Sender::Storage { identity: uuid::Uuid::new_v4() }, Recipient::NameServer),
        ["name-server", term, recipient] => (
            Sender::NameServer { term: term.parse().expect("the term") },
            Recipient::Storage(recipient.parse().expect("the recipient's identity")),
        ),
        _ => panic!("{USAGE}"),
    };
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let (method, target) = line.split_once(' ').expect("METHOD TARGET");
        let claims = ServerCredential {
            sender: sender.clone(),
            recipient,
            method: method.into(),
            target: target.into(),
            body: None,
            nonce: rand::random(),
            expires: chrono::Utc::now() + CREDENTIAL_TTL,
        };
        println!("Holdfast {}", signer.sign(Some(cluster), epoch, &claims).expect("a credential"));
        std::io::stdout().flush().expect("standard output");
    }
}

const USAGE: &str = "usage: sign SECRET_FILE CLUSTER EPOCH storage | name-server TERM RECIPIENT";
