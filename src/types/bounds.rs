//! Numbers and times that others claim: servers, databases, files. What is beyond these bounds was never given out by
//! anybody who counted up to it, so it is refused where it comes in, and whoever counts on from it cannot overflow.
//!
//! The functions named after a value read it with serde: `#[serde(deserialize_with = "bounds::epoch")]`.

use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::de::{Deserialize, Deserializer, Error as _};

use super::{Error, ErrorCode, Result, Time, Version};

/// The highest epoch. A restore each second reaches it after thirty thousand years.
pub const EPOCH_MAX: i64 = 1 << 40;
/// The highest term of the lease.
pub const TERM_MAX: i64 = 1 << 40;
/// The highest version. A cluster that changes something a million times a second reaches it after seventy thousand
/// years.
pub const VERSION_MAX: Version = 1 << 61;
/// Storage servers of a cluster that anybody may have heard of.
pub const SERVERS_MAX: i64 = 1 << 20;
/// Years within which every time lies.
pub const YEARS: std::ops::RangeInclusive<i32> = 1970..=9999;

fn within(what: &str, number: i64, highest: i64) -> Result<i64> {
    if (0..=highest).contains(&number) {
        return Ok(number);
    }
    Err(Error::invalid(format!("there is no {what} {number}: they are from 0 to {highest}")))
}

/// An epoch that somebody claims.
pub fn check_epoch(epoch: i64) -> Result<i64> {
    within("epoch", epoch, EPOCH_MAX)
}

/// A term of the lease.
pub fn check_term(term: i64) -> Result<i64> {
    within("term", term, TERM_MAX)
}

/// A version.
pub fn check_version(version: Version) -> Result<Version> {
    within("version", version, VERSION_MAX)
}

/// A time.
pub fn check_time(time: Time) -> Result<Time> {
    if YEARS.contains(&time.year()) {
        return Ok(time);
    }
    Err(Error::invalid(format!("{time} is no time of today: years are from {} to {}", YEARS.start(), YEARS.end())))
}

/// The number after `last`, or that there is none: it was set by damage, or by somebody's hand.
pub fn next(what: &str, last: i64, highest: i64) -> Result<i64> {
    if (0..highest).contains(&last) {
        return Ok(last + 1);
    }
    let message = format!(
        "{what} {last} cannot be followed by another one: they are from 0 to {highest}, and nobody has counted that far; \
         somebody claims it wrongly, or the database is damaged"
    );
    Err(Error::new(ErrorCode::Internal, message))
}

/// A time that was told so long ago; there is a last one, behind which nothing comes.
pub fn moved_on(time: Time, ago: Duration) -> Time {
    let moved = TimeDelta::from_std(ago).ok().and_then(|ago| time.checked_add_signed(ago));
    moved.unwrap_or(Time::MAX_UTC)
}

fn read<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
    check: impl FnOnce(T) -> Result<T>,
) -> Result<T, D::Error> {
    check(T::deserialize(deserializer)?).map_err(|error| D::Error::custom(error.message()))
}

/// Reads an epoch.
pub fn epoch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    read(deserializer, check_epoch)
}

/// Reads a term.
pub fn term<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    read(deserializer, check_term)
}

/// Reads a version.
pub fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
    read(deserializer, check_version)
}

/// Reads a version that may be absent.
pub fn version_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Version>, D::Error> {
    read(deserializer, |version: Option<Version>| version.map(check_version).transpose())
}

/// Reads a number of storage servers.
pub fn servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    read(deserializer, |servers| within("number of storage servers such as", servers, SERVERS_MAX))
}

/// Reads a time.
pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    read(deserializer, check_time)
}

/// Reads the size of an object.
pub fn object_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    read(deserializer, |bytes: u64| {
        let most = super::limits::OBJECT_BYTES_MAX;
        if bytes <= most {
            Ok(bytes)
        } else {
            Err(Error::invalid(format!("no object has {bytes} bytes, {most} at most")))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::api::{RegisterRequest, RegisterResponse};
    use crate::types::storage_api::{InventoryLine, JournalPosition, StorageStatus, Told};
    use serde_json::{Value, json};

    #[test]
    fn what_nobody_can_have_counted_up_to_is_refused() {
        for (number, right) in [(0, true), (EPOCH_MAX, true), (EPOCH_MAX + 1, false), (i64::MAX, false), (-1, false)] {
            assert_eq!(check_epoch(number).is_ok(), right, "{number}");
        }
        assert_eq!(next("epoch", 4, EPOCH_MAX).unwrap(), 5);
        for last in [EPOCH_MAX, i64::MAX, -1, i64::MIN] {
            let message = next("epoch", last, EPOCH_MAX).unwrap_err();
            assert!(message.message().starts_with(&format!("epoch {last} cannot be followed")), "{message}");
        }
        assert!(check_time(Time::MAX_UTC).is_err() && check_time(Time::MIN_UTC).is_err());
        assert_eq!(moved_on(Time::MAX_UTC, Duration::from_secs(1)), Time::MAX_UTC);
        assert_eq!(moved_on(Time::UNIX_EPOCH, Duration::MAX), Time::MAX_UTC);
        assert!(check_time("9999-12-31T23:59:59Z".parse().unwrap()).is_ok());
    }

    /// Each number of a value that another program sends, at the end of its range.
    fn refused<T: serde::de::DeserializeOwned>(right: &Value, fields: &[&str]) {
        let read = |value: Value| serde_json::from_value::<T>(value).map(drop);
        read(right.clone()).unwrap();
        for field in fields {
            let ends = match &right[field] {
                Value::Number(_) => vec![json!(i64::MAX), json!(i64::MIN)],
                _ => vec![json!("+262142-12-31T23:59:59Z"), json!("-0001-01-01T00:00:00Z")],
            };
            for end in ends {
                let mut wrong = right.clone();
                wrong[field] = end.clone();
                assert!(read(wrong).is_err(), "{field} {end}");
            }
        }
    }

    #[test]
    fn every_number_on_the_wire_is_bounded() {
        let id = uuid::Uuid::nil();
        let sha256 = "0".repeat(64);
        refused::<StorageStatus>(
            &json!({ "status": "ok", "identity": id, "cluster": id, "server": null, "epoch": 1, "term": 1,
                "heard_version": 1, "heard_servers": 1, "boot_id": id, "index_changes": 1, "capacity_bytes": 1,
                "free_bytes": 1, "objects": 1, "bytes": 1, "program_version": "0" }),
            &["epoch", "term", "heard_version", "heard_servers"],
        );
        refused::<JournalPosition>(
            &json!({ "history": id, "epoch": 1, "version": 1, "tip": sha256 }),
            &["epoch", "version"],
        );
        refused::<Told>(&json!({ "journal_head": 1, "servers": 1 }), &["journal_head", "servers"]);
        refused::<InventoryLine>(
            &json!({ "object": "0".repeat(16), "generation": "0".repeat(16), "size": 1, "sha256": sha256, "label": "/a",
                "epoch": 1, "version": 1, "ticket_expires": "2026-01-01T00:00:00Z", "verified": "2026-01-01T00:00:00Z" }),
            &["size", "epoch", "version", "ticket_expires", "verified"],
        );
        refused::<RegisterResponse>(
            &json!({ "server": "0".repeat(16), "cluster": id, "epoch": 1, "time": "2026-01-01T00:00:00Z" }),
            &["epoch", "time"],
        );
        refused::<RegisterRequest>(
            &json!({ "identity": id, "name": "a", "host": "h", "url": "http://h", "public_url": "http://h", "boot_id": id,
                "cluster": null, "epoch": 1, "capacity_bytes": 1, "free_bytes": 1 }),
            &["epoch"],
        );
    }
}
