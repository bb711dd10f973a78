//! Ids of objects, entries, servers and copies.
//!
//! Ids of objects and entries are 63-bit, time-ordered with random low bits, and rise within a process.
//! Nothing is allocated, so nothing repeats after a database was rolled back; a collision is refused by a
//! primary key and the change is tried with another id. On the wire and in file names an id is 16
//! hexadecimal digits: JSON numbers lose precision beyond 2^53, and the text sorts as the number does.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Error, Result};

/// A number that is shown as 16 hexadecimal digits.
macro_rules! shown_in_hex {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// One that is read in this form only.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        shown_in_hex! {
            $(#[$doc])*
            $name
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let wrong = || Error::invalid(format!(concat!("{:?} is not ", $what, " id"), text));
                if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(wrong());
                }
                i64::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type! {
    /// The immutable bytes of one version of one file.
    ObjectId, "an object"
}
id_type! {
    /// A file or directory in the namespace.
    EntryId, "an entry"
}
id_type! {
    /// Tells one copy of an object on a server from another copy of it there. Compared only for equality.
    Generation, "a generation"
}
id_type! {
    /// A storage server; derived from the identity that it made for itself.
    ServerId, "a server"
}

shown_in_hex! {
    /// An event; rising. Read as a decimal number too: older programs have them as JSON numbers, which lose precision.
    EventId
}

impl FromStr for EventId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = |radix| i64::from_str_radix(text, radix).ok().filter(|id| *id >= 0 && !text.starts_with('+'));
        let id = if text.len() == 16 { digits(16) } else { digits(10) };
        id.map(Self).ok_or_else(|| Error::invalid(format!("{text:?} is not an event id")))
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl serde::de::Visitor<'_> for Either {
            type Value = EventId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event id")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<EventId, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, id: i64) -> Result<EventId, E> {
                Ok(EventId(id))
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<EventId, E> {
                i64::try_from(id).map(EventId).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// The root directory's entry, the only one without a parent that anyone can see.
pub const ROOT: EntryId = EntryId(1);

/// Bits of an id below the milliseconds. 2^22 ids a millisecond; 41 bits of milliseconds last until 2094.
const RANDOM_BITS: u32 = 22;
/// 2024-12-31T16:00:00Z in Unix milliseconds: where the ids' clock starts.
const EPOCH_MS: i64 = 1_735_660_800_000;

static LAST_ID: AtomicI64 = AtomicI64::new(0);

/// The next id of this process: rising, and unlikely to be any other process's.
fn next_id() -> i64 {
    let now_ms = (chrono::Utc::now().timestamp_millis() - EPOCH_MS).max(1);
    let candidate = (now_ms << RANDOM_BITS) | i64::from(rand::random::<u32>() >> (32 - RANDOM_BITS));
    let previous = LAST_ID.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(candidate.max(last + 1)));
    let last = previous.unwrap_or_else(|last| last);
    candidate.max(last + 1)
}

impl ObjectId {
    /// A new object's id.
    pub fn generate() -> Self {
        Self(next_id())
    }
}

/// The smallest id that is made at this time.
pub fn floor_at(time: super::Time) -> i64 {
    (time.timestamp_millis() - EPOCH_MS).clamp(0, i64::MAX >> RANDOM_BITS) << RANDOM_BITS
}

impl EntryId {
    /// A new entry's id.
    pub fn generate() -> Self {
        Self(next_id())
    }
}

impl Generation {
    /// A new copy's random number.
    pub fn generate() -> Self {
        Self(rand::random::<i64>() & i64::MAX)
    }
}

impl ServerId {
    /// The id of the server with this identity: its first 63 bits.
    pub fn of_identity(identity: uuid::Uuid) -> Self {
        let (high, _) = identity.as_u64_pair();
        Self((high >> 1) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_beyond_all_ids_is_their_end() {
        let far = chrono::DateTime::parse_from_rfc3339("2199-01-01T00:00:00Z").unwrap().to_utc();
        assert!(floor_at(far) > floor_at(chrono::Utc::now()) && floor_at(far) > 0);
        assert_eq!(floor_at(chrono::DateTime::UNIX_EPOCH), 0);
    }

    #[test]
    fn ids_rise_within_a_process_and_across_threads() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    let ids: Vec<_> = (0..10_000).map(|_| ObjectId::generate()).collect();
                    assert!(ids.is_sorted_by(|a, b| a < b));
                    ids
                })
            })
            .collect();
        let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn event_ids_are_texts_and_are_read_as_numbers_too() {
        let id = EventId(251_278_688_555_310_990);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"037cb8a2caf71f8e\"");
        for text in ["\"037cb8a2caf71f8e\"", "251278688555310990", "\"251278688555310990\""] {
            assert_eq!(serde_json::from_str::<EventId>(text).unwrap(), id, "{text}");
        }
        for wrong in ["", "-1", "+37cb8e0834ef78e", "ffffffffffffffff", "99999999999999999999", "x"] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_and_number_agree() {
        let id = ObjectId(0x0123_4567_89ab_cdef);
        assert_eq!(id.to_string(), "0123456789abcdef");
        assert_eq!("0123456789abcdef".parse::<ObjectId>().unwrap(), id);
        for wrong in ["", "1", "+123456789abcdef", "ffffffffffffffff", "0123456789abcdeg"] {
            assert!(wrong.parse::<ObjectId>().is_err(), "{wrong}");
        }
    }
}
