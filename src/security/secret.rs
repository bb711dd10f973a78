//! The cluster secret and the keys derived from it.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hmac::{Hmac, Mac};
use sha2::Sha256 as Sha256Hash;

use crate::types::{Error, ErrorCode, Result};

/// Shortest secret that is accepted, in bytes of its text.
const SECRET_BYTES_MIN: usize = 32;

/// The secret that all servers of a cluster share. Never printed.
#[derive(Clone)]
pub struct ClusterSecret(Vec<u8>);

impl ClusterSecret {
    /// A new random secret, as text for a file.
    pub fn generate_text() -> String {
        hex::encode(rand::random::<[u8; 32]>())
    }

    /// Takes the text of a secret; white space around it does not count.
    pub fn from_text(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() < SECRET_BYTES_MIN {
            return Err(Error::invalid(format!(
                "the cluster secret has {} characters; it needs at least {SECRET_BYTES_MIN} (make one with: openssl rand -hex 32)",
                text.len()
            )));
        }
        Ok(Self(text.as_bytes().to_vec()))
    }

    /// Reads a secret from a file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let shown = path.display();
        let wrong = |error: Error| {
            error.hint("where the cluster exists, put the file back from a backup or from another one of its servers")
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("cannot read the cluster secret from {shown}: {error}");
            wrong(Error::new(ErrorCode::InvalidRequest, message).with_source(error))
        })?;
        let readable_by_all = |metadata: std::fs::Metadata| metadata.permissions().mode() & 0o004 != 0;
        if std::fs::metadata(path).is_ok_and(readable_by_all) {
            // Some ways of handing secrets to containers give no other mode.
            log::warn!("every user of this machine may read the cluster secret in {shown}: `chmod o= {shown}`");
        }
        Self::from_text(&text).map_err(|error| wrong(error.context(shown)))
    }

    /// The secret, from the one place where it was given: the text itself, or a file.
    pub fn from_text_or_file(text: Option<&str>, file: Option<&Path>) -> Result<Self> {
        match (text, file) {
            (Some(text), _) => Self::from_text(text),
            (None, Some(file)) => Self::from_file(file),
            (None, None) => Err(Error::invalid(
                "the cluster secret is missing: give --cluster-secret-file or set HOLDFAST_CLUSTER_SECRET",
            )),
        }
    }

    /// The key for one purpose: HMAC-SHA256 (RFC 2104) of the purpose under the secret.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        mac(&self.0, &[purpose.as_bytes()])
    }

    /// The first superuser token. Derived, so that it survives the database.
    pub fn superuser_token(&self) -> String {
        format!("hf_{}", hex::encode(self.derive("holdfast superuser token v1")))
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

/// HMAC-SHA256 of the concatenated parts.
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    keyed(key, parts).finalize().into_bytes().into()
}

/// Whether `tag` is the HMAC-SHA256 of the parts; compares in constant time.
pub(super) fn mac_matches(key: &[u8], parts: &[&[u8]], tag: &[u8]) -> bool {
    keyed(key, parts).verify_slice(tag).is_ok()
}

#[allow(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104)")]
fn keyed(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256Hash> {
    let mut mac = Hmac::<Sha256Hash>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_secret_is_refused_and_a_good_one_never_printed() {
        assert!(ClusterSecret::from_text("hunter2").is_err());
        let text = ClusterSecret::generate_text();
        let secret = ClusterSecret::from_text(&format!(" {text}\n")).unwrap();
        assert!(!format!("{secret:?}").contains(&text));
        assert_ne!(secret.derive("a"), secret.derive("b"));
        assert_eq!(secret.superuser_token(), ClusterSecret::from_text(&text).unwrap().superuser_token());
    }
}
