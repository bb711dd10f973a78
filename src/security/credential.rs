//! What servers show each other: a credential for each request, and the proof of who answers at a URL.
//!
//! A credential is good for one request: it names its sender and its recipient, the method, the path with the query,
//! and the digest of the body; it ends after minutes, and a recipient takes it once ([`Seen`]). So what was overheard,
//! or found in a log, opens nothing. What is judged here is pure but for [`Seen`]; `web::auth` applies it to requests.
//!
//! The times are those of the cluster: storage servers learn it from the name server, name servers from the database.
//! Half of the clock's tolerance lies before and half behind, so servers may be [`CREDENTIAL_TTL`] apart.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ticket::{Claims, Signer};
use crate::types::storage_api::Answerer;
use crate::types::{Error, ErrorCode, Result, Sha256, Time};

/// How long a credential is good for.
pub const CREDENTIAL_TTL: TimeDelta = TimeDelta::minutes(2);
/// How long a used credential is remembered at least: longer than any that is taken can be good for, also when the
/// clock is set back a little meanwhile.
const REMEMBERED: Duration = Duration::from_secs(6 * 60);
/// Used credentials that are remembered in that time; with more, requests are refused as `busy`. About 32 MiB.
const REMEMBERED_MAX: usize = 2_000_000;

/// Who sends a request between servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Sender {
    /// A name server, acting under this term of the lease.
    NameServer {
        /// The lease's number.
        term: i64,
    },
    /// The storage server of this identity.
    Storage {
        /// Its UUID.
        identity: Uuid,
    },
}

/// Whom a request between servers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipient {
    /// Any name server of the cluster: they are one, over one database.
    NameServer,
    /// The storage server of this identity.
    Storage(Uuid),
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameServer => f.write_str("a name server"),
            Self::Storage(identity) => write!(f, "the storage server with the identity {identity}"),
        }
    }
}

/// A server's credential, in the `Authorization` header as `Holdfast …`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerCredential {
    /// Who sends.
    pub sender: Sender,
    /// Who is asked.
    pub recipient: Recipient,
    /// The method of the request.
    pub method: String,
    /// Its path and query, as they are sent.
    pub target: String,
    /// The digest of its body; `None` for a body that is made while it is sent, which only the journal's snapshots are:
    /// that one ends with a [`BodySeal`].
    pub body: Option<Sha256>,
    /// Random: no two credentials are the same.
    pub nonce: u64,
    /// When it ends.
    pub expires: Time,
}

impl Claims for ServerCredential {
    const PURPOSE: &'static str = "holdfast server credential v2";
    fn expires(&self) -> Time {
        self.expires
    }
}

/// Bytes of a sealed body's end: the text of a [`BodySeal`], filled up with spaces.
pub const SEAL_BYTES: usize = 1_024;

/// The end of a body that is made while it is sent: what its credential could not say at the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BodySeal {
    /// The random word in the request's query, which the credential covers: so the seal is for this request.
    pub request: String,
    /// The digest of all bytes before the seal.
    pub sha256: Sha256,
    /// When it ends.
    pub expires: Time,
}

impl Claims for BodySeal {
    const PURPOSE: &'static str = "holdfast body seal v1";
    fn expires(&self) -> Time {
        self.expires
    }
}

impl BodySeal {
    /// The bytes that end the body.
    pub fn bytes(&self, signer: &Signer, cluster: Option<Uuid>, epoch: i64) -> Result<Vec<u8>> {
        let mut bytes = signer.sign(cluster, epoch, self)?.into_bytes();
        if bytes.len() > SEAL_BYTES {
            return Err(Error::internal(format!("a seal has {} bytes; at most {SEAL_BYTES} fit", bytes.len())));
        }
        bytes.resize(SEAL_BYTES, b' ');
        Ok(bytes)
    }

    /// Refuses a body whose end is not the seal of this request over these bytes.
    pub fn check(end: &[u8], signer: &Signer, of: &Sealed<'_>) -> Result<()> {
        let wrong =
            |why| Error::new(ErrorCode::Unauthorized, format!("the body is not what its sender has sealed: {why}"));
        let text = std::str::from_utf8(end).map_err(|_| wrong("it has no seal"))?;
        let verified = signer.verify::<Self>(text.trim_end_matches(' ')).map_err(|_| wrong("it has no seal"))?;
        let seal = verified.valid(of.cluster, of.epoch, of.now)?;
        if seal.request != of.request {
            return Err(wrong("the seal is another request's"));
        }
        if seal.sha256 != of.sha256 {
            return Err(wrong("it was changed on its way"));
        }
        Ok(())
    }
}

/// What a seal must be for.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'r> {
    /// The cluster.
    pub cluster: Uuid,
    /// The epoch of the request's credential.
    pub epoch: i64,
    /// The random word in the request's query.
    pub request: &'r str,
    /// The digest of what came before the seal.
    pub sha256: Sha256,
    /// The cluster's time.
    pub now: Time,
}

/// What a server sees of a request that is to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Seeing<'r> {
    /// The server that was asked.
    pub me: Recipient,
    /// The request's method.
    pub method: &'r str,
    /// Its path and query, as they came.
    pub target: &'r str,
    /// The cluster's time.
    pub now: Time,
    /// How long this process has been running: what was signed before it started may have been used before.
    pub running: Duration,
}

impl ServerCredential {
    /// Checks that it was made for this request, and now. Cluster, epoch and term are still to be judged, and whether it
    /// was used before.
    pub fn judge(&self, seeing: &Seeing<'_>) -> Result<()> {
        let Seeing { me, method, target, now, running } = *seeing;
        if self.recipient != me {
            return Err(Error::new(
                ErrorCode::Forbidden,
                format!("another server answers here: the request is meant for {}, this is {me}", self.recipient),
            ));
        }
        if self.method != method || self.target != target {
            return Err(Error::new(ErrorCode::Unauthorized, "the credential was made for another request"));
        }
        let apart = |how: &str| {
            let message = format!(
                "the request's credential {how} (it ends at {}, the cluster's time here is {}): it was sent before, or \
                 the clocks of the servers are apart",
                self.expires.format("%Y-%m-%d %H:%M:%S UTC"),
                now.format("%Y-%m-%d %H:%M:%S UTC")
            );
            Err(Error::new(ErrorCode::TicketExpired, message))
        };
        if self.expires < now {
            return apart("has ended");
        }
        if self.expires > now + CREDENTIAL_TTL * 2 {
            return apart("is of a time to come");
        }
        let started = now - TimeDelta::from_std(running).unwrap_or(TimeDelta::MAX);
        if self.expires - CREDENTIAL_TTL < started {
            // Whoever sent it just now sends it again, with another credential.
            return Err(Error::unavailable("this server has just started; the request was signed before that"));
        }
        Ok(())
    }
}

/// Credentials that were used. Two generations, so that old ones go without being looked for.
#[derive(Debug)]
pub struct Seen(Mutex<Generations>);

#[derive(Debug)]
struct Generations {
    began: Instant,
    now: HashSet<u64>,
    before: HashSet<u64>,
}

impl Default for Seen {
    fn default() -> Self {
        Self(Mutex::new(Generations { began: Instant::now(), now: HashSet::new(), before: HashSet::new() }))
    }
}

impl Seen {
    /// Remembers a credential that was found right. An error when it was used before.
    pub fn use_once(&self, nonce: u64) -> Result<()> {
        self.use_at(nonce, Instant::now())
    }

    fn use_at(&self, nonce: u64, now: Instant) -> Result<()> {
        let mut generations = self.0.lock();
        if now.saturating_duration_since(generations.began) >= REMEMBERED {
            generations.before = std::mem::take(&mut generations.now);
            generations.began = now;
        }
        if generations.before.contains(&nonce) || generations.now.contains(&nonce) {
            return Err(Error::new(
                ErrorCode::Unauthorized,
                "this request was made before: a credential is good for one request",
            ));
        }
        if generations.now.len() >= REMEMBERED_MAX {
            return Err(Error::new(ErrorCode::Busy, "more requests between servers than can be told apart; try again"));
        }
        generations.now.insert(nonce);
        Ok(())
    }
}

/// A name server's question to whatever answers at a URL. It carries no permission: it is answered by a [`Proof`] and by
/// nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Challenge {
    /// Random; the proof repeats it.
    pub nonce: Uuid,
    /// When nobody waits for the answer any more.
    pub expires: Time,
}

impl Claims for Challenge {
    const PURPOSE: &'static str = "holdfast challenge v1";
    fn expires(&self) -> Time {
        self.expires
    }
}

/// The answer to a [`Challenge`]: who answers, signed with the cluster's secret. It names the URL that the process
/// believes to have, so that a proof cannot be had from one server for the URL of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Of the challenge.
    pub nonce: Uuid,
    /// Who answers.
    pub answerer: Answerer,
    /// As the challenge's.
    pub expires: Time,
}

impl Claims for Proof {
    const PURPOSE: &'static str = "holdfast proof v1";
    fn expires(&self) -> Time {
        self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(now: Time) -> ServerCredential {
        ServerCredential {
            sender: Sender::NameServer { term: 1 },
            recipient: Recipient::Storage(Uuid::from_u128(1)),
            method: "DELETE".into(),
            target: "/file".into(),
            body: Some(Sha256::of(b"{}")),
            nonce: 7,
            expires: now + CREDENTIAL_TTL,
        }
    }

    #[test]
    fn a_seal_is_for_one_request_and_its_bytes() {
        let signer =
            Signer::new(crate::security::ClusterSecret::from_text("0123456789abcdef0123456789abcdef").unwrap());
        let (cluster, now) = (Uuid::from_u128(7), Time::UNIX_EPOCH + TimeDelta::days(20_000));
        let sha256 = Sha256::of(b"bytes");
        let seal = BodySeal { request: "a".into(), sha256, expires: now + CREDENTIAL_TTL };
        let end = seal.bytes(&signer, Some(cluster), 3).unwrap();
        assert_eq!(end.len(), SEAL_BYTES);
        let right = Sealed { cluster, epoch: 3, request: "a", sha256, now };
        BodySeal::check(&end, &signer, &right).unwrap();
        for wrong in [
            Sealed { cluster: Uuid::nil(), ..right },
            Sealed { epoch: 4, ..right },
            Sealed { request: "b", ..right },
            Sealed { sha256: Sha256::of(b"other"), ..right },
            Sealed { now: now + CREDENTIAL_TTL * 2, ..right },
        ] {
            assert!(BodySeal::check(&end, &signer, &wrong).is_err(), "{wrong:?}");
        }
        let other =
            Signer::new(crate::security::ClusterSecret::from_text("other-56789abcdef0123456789abcdef").unwrap());
        for wrong in
            [seal.bytes(&other, Some(cluster), 3).unwrap(), vec![b' '; SEAL_BYTES], vec![], vec![0xff; SEAL_BYTES]]
        {
            assert_eq!(BodySeal::check(&wrong, &signer, &right).unwrap_err().code(), ErrorCode::Unauthorized);
        }
    }

    #[test]
    fn a_credential_is_for_its_recipient_its_request_and_its_time() {
        let now = chrono::Utc::now();
        let day = Duration::from_secs(86_400);
        let right =
            Seeing { me: Recipient::Storage(Uuid::from_u128(1)), method: "DELETE", target: "/file", now, running: day };
        let judge = |seeing: Seeing<'_>| credential(now).judge(&seeing).map_err(|error| error.code());
        assert_eq!(judge(right), Ok(()));
        let two = TimeDelta::minutes(2);
        let second = TimeDelta::seconds(1);
        for (seeing, want) in [
            (Seeing { me: Recipient::Storage(Uuid::from_u128(2)), ..right }, ErrorCode::Forbidden),
            (Seeing { me: Recipient::NameServer, ..right }, ErrorCode::Forbidden),
            (Seeing { method: "GET", ..right }, ErrorCode::Unauthorized),
            (Seeing { target: "/file?x", ..right }, ErrorCode::Unauthorized),
            (Seeing { now: now + two + second, ..right }, ErrorCode::TicketExpired),
            (Seeing { now: now + TimeDelta::days(365), ..right }, ErrorCode::TicketExpired),
            (Seeing { now: now - two - second, ..right }, ErrorCode::TicketExpired),
            (Seeing { now: now + second, running: Duration::ZERO, ..right }, ErrorCode::Unavailable),
        ] {
            assert_eq!(judge(seeing), Err(want), "{seeing:?}");
        }
        // Clocks that are apart by less than the life of a credential do no harm.
        for apart in [two - second, second - two] {
            assert_eq!(judge(Seeing { now: now + apart, ..right }), Ok(()), "{apart}");
        }
    }

    #[test]
    fn a_credential_is_used_once_while_it_could_be_good() {
        let (seen, start) = (Seen::default(), Instant::now());
        assert!(seen.use_at(1, start).is_ok());
        let longest = (CREDENTIAL_TTL * 2).to_std().unwrap();
        for later in [Duration::ZERO, longest, REMEMBERED - Duration::from_secs(1), REMEMBERED + longest] {
            assert_eq!(seen.use_at(1, start + later).unwrap_err().code(), ErrorCode::Unauthorized, "{later:?}");
        }
        assert!(seen.use_at(2, start + REMEMBERED).is_ok());
        assert!(seen.use_at(1, start + REMEMBERED * 3).is_ok(), "it ended long ago: it is refused by its time");
    }
}
