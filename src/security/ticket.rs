//! Tickets: short-lived signed permissions for one transfer; and how claims of every kind are signed.
//!
//! A ticket is `base64url(JSON claims).base64url(HMAC-SHA256)`. The key differs by purpose, so that a
//! read ticket can never pass for a write ticket. The claims name cluster and epoch.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::secret::{ClusterSecret, mac, mac_matches};
use crate::types::api::{Condition, Target};
use crate::types::storage_api::ReplicaKey;
use crate::types::{DfsPath, Error, ErrorCode, Generation, ObjectId, Result, ServerId, Sha256, Time, Version};

/// Longest text of a ticket, in bytes: a path of the greatest length in which each byte is escaped for JSON, all
/// targets, and a third more for base64.
const TICKET_BYTES_MAX: usize = 64 << 10;

/// Claims of one purpose.
pub trait Claims: Serialize + DeserializeOwned {
    /// What the key is derived for.
    const PURPOSE: &'static str;
    /// When they end.
    fn expires(&self) -> Time;
}

/// Permission to write one object under one path, and all that its commit will need: the name server
/// writes nothing down when it hands one out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriteTicket {
    /// The new object.
    pub object: ObjectId,
    /// The number of the copies that this ticket brings.
    pub generation: Generation,
    /// Where the file shall be.
    pub path: DfsPath,
    /// The exact size, if it was announced.
    pub size: Option<u64>,
    /// The servers chosen; the first one streams to the others and reports.
    pub targets: Vec<Target>,
    /// Copies that must be fsynced before the commit.
    pub min_write_copies: u32,
    /// Condition on what is replaced.
    pub condition: Condition,
    /// Directories above the path are made when they are missing.
    pub make_parents: bool,
    /// The name of the token that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When it ends.
    pub expires: Time,
}

impl Claims for WriteTicket {
    const PURPOSE: &'static str = "holdfast write ticket v1";
    fn expires(&self) -> Time {
        self.expires
    }
}

/// Permission to read one copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadTicket {
    /// The copy.
    pub replica: ReplicaKey,
    /// The server that has it.
    pub server: ServerId,
    /// The file's name, for the type and the name of a download.
    pub name: String,
    /// The file's version, for `ETag`.
    pub version: Version,
    /// When it ends.
    pub expires: Time,
}

impl Claims for ReadTicket {
    const PURPOSE: &'static str = "holdfast read ticket v1";
    fn expires(&self) -> Time {
        self.expires
    }
}

/// Permission for a server to take a copy of an object from another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicateTicket {
    /// The copy that will be made.
    pub replica: ReplicaKey,
    /// The server that takes it.
    pub target: ServerId,
    /// The object's size.
    pub size: u64,
    /// The object's digest.
    pub sha256: Sha256,
    /// The path at the commit.
    pub label: String,
    /// When it ends.
    pub expires: Time,
}

impl Claims for ReplicateTicket {
    const PURPOSE: &'static str = "holdfast replicate ticket v1";
    fn expires(&self) -> Time {
        self.expires
    }
}

/// Claims together with the cluster and epoch that they are for.
#[derive(Serialize, Deserialize)]
struct Envelope<C> {
    cluster: Option<Uuid>,
    epoch: i64,
    claims: C,
}

/// Claims whose signature is right; time, cluster and epoch are still to be judged.
#[derive(Debug, Clone)]
pub struct Verified<C> {
    /// The cluster that they are for; `None` from a storage server that has not joined one yet.
    pub cluster: Option<Uuid>,
    /// The epoch that they are for.
    pub epoch: i64,
    /// The claims.
    pub claims: C,
}

impl<C: Claims> Verified<C> {
    /// The claims, if they are for this cluster and epoch and have not expired at `now`.
    pub fn valid(self, cluster: Uuid, epoch: i64, now: Time) -> Result<C> {
        if self.cluster != Some(cluster) {
            return Err(Error::new(ErrorCode::Unauthorized, "the ticket is for another cluster"));
        }
        if self.epoch != epoch {
            let message =
                format!("the ticket is of epoch {}, the cluster is in epoch {epoch}; ask for a new one", self.epoch);
            return Err(Error::new(ErrorCode::TicketExpired, message));
        }
        if self.claims.expires() < now {
            return Err(Error::new(ErrorCode::TicketExpired, "the ticket's time is over; ask for a new one"));
        }
        Ok(self.claims)
    }
}

/// Signs and checks under one cluster secret.
#[derive(Debug, Clone)]
pub struct Signer {
    secret: ClusterSecret,
}

impl Signer {
    /// A signer for the cluster that has this secret.
    pub fn new(secret: ClusterSecret) -> Self {
        Self { secret }
    }

    /// The secret itself.
    pub fn secret(&self) -> &ClusterSecret {
        &self.secret
    }

    /// Signs claims for a cluster and an epoch.
    pub fn sign<C: Claims>(&self, cluster: Option<Uuid>, epoch: i64, claims: &C) -> Result<String> {
        let envelope = Envelope { cluster, epoch, claims };
        let body =
            serde_json::to_vec(&envelope).map_err(|e| Error::internal("cannot encode a ticket").with_source(e))?;
        let tag = mac(&self.secret.derive(C::PURPOSE), &[&body]);
        Ok(format!("{}.{}", BASE64.encode(&body), BASE64.encode(tag)))
    }

    /// Checks a signature.
    pub fn verify<C: Claims>(&self, text: &str) -> Result<Verified<C>> {
        let refuse = || Error::new(ErrorCode::Unauthorized, "the ticket is not valid for this operation");
        if text.len() > TICKET_BYTES_MAX {
            return Err(refuse());
        }
        let (body, tag) = text.split_once('.').ok_or_else(refuse)?;
        let body = BASE64.decode(body).map_err(|_| refuse())?;
        let tag = BASE64.decode(tag).map_err(|_| refuse())?;
        if !mac_matches(&self.secret.derive(C::PURPOSE), &[&body], &tag) {
            return Err(refuse());
        }
        let Envelope { cluster, epoch, claims } = serde_json::from_slice(&body).map_err(|e| refuse().with_source(e))?;
        Ok(Verified { cluster, epoch, claims })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn signer() -> Signer {
        Signer::new(ClusterSecret::from_text(&"s".repeat(32)).unwrap())
    }

    fn ticket(expires: Time) -> ReadTicket {
        let replica = ReplicaKey { object: ObjectId(7), generation: Generation(8) };
        ReadTicket { replica, server: ServerId(1), name: "x".into(), version: 3, expires }
    }

    #[test]
    fn a_ticket_is_good_for_its_cluster_epoch_and_time_only() {
        let (now, cluster) = (chrono::Utc::now(), Uuid::new_v4());
        let claims = ticket(now + TimeDelta::seconds(5));
        let text = signer().sign(Some(cluster), 2, &claims).unwrap();
        let check = |cluster, epoch, now| signer().verify::<ReadTicket>(&text).unwrap().valid(cluster, epoch, now);
        assert_eq!(check(cluster, 2, now).unwrap(), claims);
        assert_eq!(check(Uuid::new_v4(), 2, now).unwrap_err().code(), ErrorCode::Unauthorized);
        assert_eq!(check(cluster, 3, now).unwrap_err().code(), ErrorCode::TicketExpired);
        assert_eq!(check(cluster, 2, now + TimeDelta::seconds(6)).unwrap_err().code(), ErrorCode::TicketExpired);
    }

    #[test]
    fn a_changed_ticket_or_one_for_another_purpose_is_refused() {
        let text = signer().sign(None, 1, &ticket(chrono::Utc::now())).unwrap();
        assert!(signer().verify::<ReplicateTicket>(&text).is_err());
        let other = Signer::new(ClusterSecret::from_text(&"t".repeat(32)).unwrap());
        assert!(other.verify::<ReadTicket>(&text).is_err());
        for position in [0, text.len() / 2, text.len() - 1] {
            let mut bytes = text.clone().into_bytes();
            bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
            assert!(signer().verify::<ReadTicket>(&String::from_utf8(bytes).unwrap()).is_err());
        }
    }
}
