//! Bearer tokens of people and programs. Only their SHA-256 is stored.

use percent_encoding::percent_decode_str;

use crate::types::api::Role;
use crate::types::limits::COMPONENT_BYTES_MAX;
use crate::types::{DfsPath, Error, ErrorCode, Result, Sha256, Time};

/// A new token's text: 256 random bits behind a prefix that secret scanners can look for.
pub fn generate() -> String {
    format!("hf_{}", hex::encode(rand::random::<[u8; 32]>()))
}

/// What is stored of a token. The token has 256 bits of entropy, so a plain hash cannot be reversed.
pub fn hash(token: &str) -> Sha256 {
    Sha256::of(token.as_bytes())
}

/// Checks the name of a new token. It stands in URLs as one component of a path, and what programs make of that on the
/// way must leave it as it is.
pub fn check_name(name: &str) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid(format!("{name:?} cannot be a token's name: {why}")));
    if name.is_empty() || name.len() > COMPONENT_BYTES_MAX {
        return Err(Error::invalid(format!("a token's name has 1 to {COMPONENT_BYTES_MAX} bytes, not {}", name.len())));
    }
    if name.chars().any(char::is_control) {
        return refuse("it has control characters".into());
    }
    let decoded = percent_decode_str(name).decode_utf8_lossy();
    if decoded.contains(['/', '\\']) {
        return refuse("it has a slash".into());
    }
    if matches!(&*decoded, "." | "..") {
        return refuse("URLs lose it on the way".into());
    }
    Ok(())
}

/// What the bearer of a request may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The token's name.
    pub name: String,
    /// The role.
    pub role: Role,
    /// Only at and below this path.
    pub prefix: Option<DfsPath>,
    /// What everything but starting and following a restore is answered: the cluster waits for one, and the token is the
    /// one that is derived from the secret. Which tokens there are is told by the journal only.
    pub only_restore: Option<(ErrorCode, String)>,
    /// When it ends, if it does.
    pub expires: Option<Time>,
}

impl Grant {
    /// Whether its time is over. Who remembers grants asks this of each request.
    pub fn has_ended(&self, now: Time) -> bool {
        self.expires.is_some_and(|expires| expires < now)
    }

    /// Checks that the grant has `role` at `path`. Nothing outside the prefix is even said to exist.
    pub fn check(&self, role: Role, path: &DfsPath) -> Result<()> {
        self.check_role(role)?;
        match &self.prefix {
            Some(prefix) if !path.is_within(prefix) => Err(Error::new(
                ErrorCode::Forbidden,
                format!("the token {:?} is only for paths at and below {prefix}", self.name),
            )),
            _ => Ok(()),
        }
    }

    /// Checks the role alone, for what is not about a path.
    pub fn check_role(&self, role: Role) -> Result<()> {
        if let Some((code, why)) = &self.only_restore {
            return Err(Error::new(*code, why.clone()));
        }
        if self.role >= role {
            return Ok(());
        }
        let have = format!("{:?}", self.role).to_lowercase();
        let want = format!("{role:?}").to_lowercase();
        Err(Error::new(ErrorCode::Forbidden, format!("the token {:?} is a {have}; this needs a {want}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_new_tokens_survive_in_urls() {
        for good in ["lab", "a.b", "...", ".a", "50%", "a b", "Ärzte 7", "%zz", &"x".repeat(255)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            ".",
            "..",
            "%2e",
            "%2E.",
            ".%2e",
            "a/b",
            "/",
            "a%2fb",
            "a\\b",
            "%5c",
            "a\nb",
            "\u{85}",
            &"x".repeat(256),
        ] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn roles_and_prefixes() {
        let path = |text: &str| DfsPath::parse(text).unwrap();
        let grant = Grant {
            name: "lab".into(),
            role: Role::Writer,
            prefix: Some(path("/lab")),
            only_restore: None,
            expires: None,
        };
        assert!(grant.check(Role::Writer, &path("/lab/x")).is_ok());
        assert!(grant.check(Role::Reader, &path("/lab")).is_ok());
        assert!(grant.check(Role::Superuser, &path("/lab")).is_err());
        assert!(grant.check(Role::Reader, &path("/laboratory")).is_err());
        let only_restore = Some((ErrorCode::ReadOnly, "it waits".into()));
        let first = Grant { role: Role::Superuser, prefix: None, only_restore, ..grant };
        assert_eq!(first.check(Role::Reader, &path("/")).unwrap_err().code(), ErrorCode::ReadOnly);
    }
}
