//! Speaking to servers as other servers do: signed with the cluster's secret.

use std::sync::Arc;

use holdfast::client::http::SignedAs;
use holdfast::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use holdfast::security::{ClusterSecret, Sender, Signer};
use holdfast::types::storage_api::Peer;
use uuid::Uuid;

use super::cluster::{Cluster, SECRET};

pub fn signer() -> Signer {
    Signer::new(ClusterSecret::from_text(SECRET).unwrap())
}

/// What a server of a cluster signs with, by this machine's clock.
pub fn credentials(cluster: Option<Uuid>, epoch: i64, sender: Sender) -> Credentials {
    let standing = move || SignedAs { cluster, epoch, sender: sender.clone(), now: chrono::Utc::now() };
    Credentials::Server { signer: signer(), standing: Arc::new(standing) }
}

pub fn storage_client(credentials: Credentials) -> StorageClient {
    StorageClient::new(HttpClient::new(None).unwrap(), credentials)
}

impl Cluster {
    /// The cluster's id; the name server must run.
    pub fn id(&self) -> Uuid {
        self.get("/status")["cluster"].as_str().unwrap().parse().unwrap()
    }

    /// A storage server as a recipient of requests.
    pub fn peer(&self, number: usize) -> Peer {
        let text = std::fs::read_to_string(self.storage_dir(number).join("server.json")).unwrap();
        let file: serde_json::Value = serde_json::from_str(&text).unwrap();
        Peer { identity: file["identity"].as_str().unwrap().parse().unwrap(), url: self.storage[number].url() }
    }

    /// A client that speaks as a name server of this cluster, under an epoch and a term.
    pub fn as_name_server(&self, epoch: i64, term: i64) -> StorageClient {
        storage_client(credentials(Some(self.id()), epoch, Sender::NameServer { term }))
    }

    /// A client that speaks as a name server whose database is lost: it may ask how a storage server is.
    pub fn as_lost_name_server(&self) -> StorageClient {
        storage_client(credentials(None, 0, Sender::NameServer { term: 0 }))
    }

    /// A client that speaks to the name server as the storage server of this identity.
    pub fn as_storage(&self, identity: Uuid, epoch: i64) -> NameServerClient {
        let credentials = credentials(Some(self.id()), epoch, Sender::Storage { identity });
        NameServerClient::new(HttpClient::new(None).unwrap(), self.urls(), credentials).unwrap().with_retries(0)
    }
}
