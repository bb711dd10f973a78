//! Bearer tokens of people and programs. Only their SHA-256 is stored.

use crate::types::api::Role;
use crate::types::{DfsPath, Error, ErrorCode, Result, Sha256};

/// A new token's text: 256 random bits behind a prefix that secret scanners can look for.
pub fn generate() -> String {
    format!("hf_{}", hex::encode(rand::random::<[u8; 32]>()))
}

/// What is stored of a token. The token has 256 bits of entropy, so a plain hash cannot be reversed.
pub fn hash(token: &str) -> Sha256 {
    Sha256::of(token.as_bytes())
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
}

impl Grant {
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
    fn roles_and_prefixes() {
        let path = |text: &str| DfsPath::parse(text).unwrap();
        let grant = Grant { name: "lab".into(), role: Role::Writer, prefix: Some(path("/lab")), only_restore: None };
        assert!(grant.check(Role::Writer, &path("/lab/x")).is_ok());
        assert!(grant.check(Role::Reader, &path("/lab")).is_ok());
        assert!(grant.check(Role::Superuser, &path("/lab")).is_err());
        assert!(grant.check(Role::Reader, &path("/laboratory")).is_err());
        let only_restore = Some((ErrorCode::ReadOnly, "it waits".into()));
        let first = Grant { role: Role::Superuser, prefix: None, only_restore, ..grant };
        assert_eq!(first.check(Role::Reader, &path("/")).unwrap_err().code(), ErrorCode::ReadOnly);
    }
}
