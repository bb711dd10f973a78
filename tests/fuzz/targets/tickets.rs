//! Tickets of each kind and the servers' credentials: what was not signed is never accepted.

use arbitrary::{Result, Unstructured};
use chrono::{DateTime, TimeDelta};
use holdfast::security::ticket::Claims;
use holdfast::security::{
    ClusterSecret, ReadTicket, Recipient, ReplicateTicket, Sender, ServerCredential, Signer, WriteTicket,
};
use holdfast::types::api::{Condition, Target};
use holdfast::types::storage_api::ReplicaKey;
use holdfast::types::{DfsPath, Generation, ObjectId, ServerId, Sha256, Time};
use uuid::Uuid;

/// The cluster's signer.
pub fn signer() -> Signer {
    of_secret("s")
}

fn of_secret(character: &str) -> Signer {
    Signer::new(ClusterSecret::from_text(&character.repeat(32)).unwrap())
}

/// A credential that another cluster has signed.
pub fn strangers_credential() -> String {
    let mut choices = Unstructured::new(&[0; 64]);
    of_secret("t").sign(Some(Uuid::nil()), 1, &credential(&mut choices).unwrap()).unwrap()
}

/// The first byte says what it is: text from outside, or choices by which something is signed and then changed.
pub fn tickets(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 5 {
        0 => from_outside(&String::from_utf8_lossy(rest)),
        kind => {
            let mut choices = Unstructured::new(rest);
            // Too few choices make no ticket.
            let _ = match kind {
                1 => write(&mut choices).and_then(|claims| signed(&claims, &mut choices)),
                2 => read(&mut choices).and_then(|claims| signed(&claims, &mut choices)),
                3 => replicate(&mut choices).and_then(|claims| signed(&claims, &mut choices)),
                _ => credential(&mut choices).and_then(|claims| signed(&claims, &mut choices)),
            };
        }
    }
}

/// No text is a ticket of any kind.
fn from_outside(text: &str) {
    let signer = signer();
    assert!(signer.verify::<WriteTicket>(text).is_err());
    assert!(signer.verify::<ReadTicket>(text).is_err());
    assert!(signer.verify::<ReplicateTicket>(text).is_err());
    assert!(signer.verify::<ServerCredential>(text).is_err());
}

/// Signed claims are good for their purpose, cluster, epoch and time, and as they were signed.
fn signed<C: Claims + PartialEq + std::fmt::Debug>(claims: &C, choices: &mut Unstructured) -> Result<()> {
    let (signer, cluster, epoch) = (signer(), Uuid::from_u128(choices.arbitrary()?), choices.arbitrary()?);
    let text = signer.sign(Some(cluster), epoch, claims).unwrap();
    assert!(
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')),
        "safe in a URL"
    );
    let check = |cluster, epoch, now| signer.verify::<C>(&text).unwrap().valid(cluster, epoch, now);
    assert_eq!(&check(cluster, epoch, claims.expires()).unwrap(), claims);
    assert!(check(Uuid::from_u128(cluster.as_u128() ^ 1), epoch, claims.expires()).is_err());
    assert!(check(cluster, epoch ^ 1, claims.expires()).is_err());
    assert!(check(cluster, epoch, claims.expires() + TimeDelta::nanoseconds(1)).is_err());
    assert!(of_secret("t").verify::<C>(&text).is_err());
    let purposes = [WriteTicket::PURPOSE, ReadTicket::PURPOSE, ReplicateTicket::PURPOSE, ServerCredential::PURPOSE];
    let passes = [
        signer.verify::<WriteTicket>(&text).is_ok(),
        signer.verify::<ReadTicket>(&text).is_ok(),
        signer.verify::<ReplicateTicket>(&text).is_ok(),
        signer.verify::<ServerCredential>(&text).is_ok(),
    ];
    assert_eq!(passes, purposes.map(|purpose| purpose == C::PURPOSE), "a ticket has one purpose");
    let changed = changed(&text, choices)?;
    if changed != text {
        from_outside(&changed);
    }
    Ok(())
}

/// The text with a few changes of the kind that somebody would try.
fn changed(text: &str, choices: &mut Unstructured) -> Result<String> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..choices.int_in_range(1..=4)? {
        let place = choices.choose_index(bytes.len() + 1)?;
        let new = *choices.choose(b"Aa0-_.=+/ \0")?;
        match choices.int_in_range(0..=5)? {
            0 => bytes.insert(place, new),
            1 => bytes.truncate(place),
            2 => drop((place < bytes.len()).then(|| bytes.remove(place))),
            3 => bytes.extend_from_within(place..),
            4 => bytes.rotate_left(place),
            _ => drop(bytes.get_mut(place).map(|byte| *byte = new)),
        }
        if bytes.is_empty() {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn key(choices: &mut Unstructured) -> Result<ReplicaKey> {
    Ok(ReplicaKey { object: ObjectId(id(choices)?), generation: Generation(id(choices)?) })
}

fn id(choices: &mut Unstructured) -> Result<i64> {
    Ok(choices.arbitrary::<i64>()? & i64::MAX)
}

/// A time that a clock may show.
fn time(choices: &mut Unstructured) -> Result<Time> {
    let (seconds, nanos) = (choices.int_in_range(0..=253_402_300_799)?, choices.int_in_range(0..=999_999_999)?);
    DateTime::from_timestamp(seconds, nanos).ok_or(arbitrary::Error::IncorrectFormat)
}

fn path(choices: &mut Unstructured) -> Result<DfsPath> {
    Ok(DfsPath::root().resolve(choices.arbitrary()?).unwrap_or_else(|_| DfsPath::root()))
}

fn write(choices: &mut Unstructured) -> Result<WriteTicket> {
    let mut targets = Vec::new();
    for _ in 0..choices.int_in_range(0..=3)? {
        targets.push(Target { server: ServerId(id(choices)?), url: choices.arbitrary()? });
    }
    Ok(WriteTicket {
        object: ObjectId(id(choices)?),
        generation: Generation(id(choices)?),
        path: path(choices)?,
        size: choices.arbitrary()?,
        targets,
        min_write_copies: choices.arbitrary()?,
        condition: match choices.int_in_range(0..=2)? {
            0 => Condition::Any,
            1 => Condition::Absent,
            _ => Condition::Version(choices.arbitrary()?),
        },
        make_parents: choices.arbitrary()?,
        by: choices.arbitrary()?,
        expires: time(choices)?,
    })
}

fn read(choices: &mut Unstructured) -> Result<ReadTicket> {
    Ok(ReadTicket {
        replica: key(choices)?,
        server: ServerId(id(choices)?),
        name: choices.arbitrary()?,
        version: choices.arbitrary()?,
        expires: time(choices)?,
    })
}

fn replicate(choices: &mut Unstructured) -> Result<ReplicateTicket> {
    Ok(ReplicateTicket {
        replica: key(choices)?,
        target: ServerId(id(choices)?),
        size: choices.arbitrary()?,
        sha256: Sha256(choices.arbitrary()?),
        label: choices.arbitrary()?,
        expires: time(choices)?,
    })
}

fn credential(choices: &mut Unstructured) -> Result<ServerCredential> {
    let sender = match choices.arbitrary()? {
        true => Sender::NameServer { term: choices.arbitrary()? },
        false => Sender::Storage { identity: Uuid::from_u128(choices.arbitrary()?) },
    };
    let recipient = match choices.arbitrary()? {
        true => Recipient::NameServer,
        false => Recipient::Storage(Uuid::from_u128(choices.arbitrary()?)),
    };
    Ok(ServerCredential {
        sender,
        recipient,
        method: choices.arbitrary()?,
        target: choices.arbitrary()?,
        body: Some(Sha256(choices.arbitrary()?)),
        nonce: choices.arbitrary()?,
        expires: time(choices)?,
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let outside = ["", ".", "e30.e30", "a.b.c", "=.=", &strangers_credential()];
    let mut seeds: Vec<Vec<u8>> = outside.iter().map(|text| [b"\0", text.as_bytes()].concat()).collect();
    // Choices are taken from the front and lengths from the end, so that any bytes make some ticket.
    for kind in 1..5 {
        seeds.push(std::iter::once(kind).chain((0..200_u8).map(|number| number.wrapping_mul(7))).collect());
        seeds.push([&[kind][..], &[0; 120]].concat());
    }
    seeds
}
