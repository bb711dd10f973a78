//! Journal rows and the chain of hashes over them.

use diesel::prelude::*;
use sha2::{Digest, Sha256};

use super::connection::AnyConnection;
use super::schema::journal::dsl;

/// The tip after a version, while the journal has it.
pub fn tip_at(connection: &mut AnyConnection, version: i64) -> QueryResult<Option<Vec<u8>>> {
    dsl::journal.filter(dsl::version.eq(version)).order(dsl::seq.desc()).select(dsl::tip).first(connection).optional()
}

/// The tip after one more changed row: SHA-256 over the tip before, the row's place and its text. Each
/// text is preceded by its length, so that no two different rows hash the same bytes.
pub fn next_tip(tip: &[u8], version: i64, seq: i32, table: &str, key: &str, content: Option<&str>) -> Vec<u8> {
    let mut hasher = Sha256::new();
    hasher.update(tip);
    hasher.update(version.to_be_bytes());
    hasher.update(seq.to_be_bytes());
    for text in [Some(table), Some(key), content] {
        match text {
            Some(text) => {
                hasher.update((text.len() as u64).to_be_bytes());
                hasher.update(text);
            }
            None => hasher.update(u64::MAX.to_be_bytes()),
        }
    }
    hasher.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let base = next_tip(&[0; 32], 1, 0, "entries", "1", Some("{}"));
        for other in [
            next_tip(&[1; 32], 1, 0, "entries", "1", Some("{}")),
            next_tip(&[0; 32], 2, 0, "entries", "1", Some("{}")),
            next_tip(&[0; 32], 1, 1, "entries", "1", Some("{}")),
            next_tip(&[0; 32], 1, 0, "entries1", "", Some("{}")),
            next_tip(&[0; 32], 1, 0, "entries", "1", None),
            next_tip(&[0; 32], 1, 0, "entries", "1", Some("")),
        ] {
            assert_ne!(base, other);
        }
    }
}
