//! What travels to and from the name server about tokens.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::DfsPath;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads and writes.
    Writer,
    /// Everything.
    Superuser,
}

/// Makes a token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenRequest {
    /// Its name, by which it is revoked.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Only at and below this path.
    pub prefix: Option<DfsPath>,
    /// For how long from now; for ever when absent.
    #[schema(minimum = 1, maximum = 3_153_599_999_u64)]
    pub ttl_seconds: Option<u64>,
}

/// A new token; the only time that its text is shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// Its name.
    pub name: String,
    /// The secret text.
    pub token: String,
}

/// A token without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Only at and below this path.
    pub prefix: Option<String>,
    /// When it ends.
    pub expires: Option<DateTime<Utc>>,
}

/// Names a token to revoke.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RevokeQuery {
    /// Its name.
    pub name: String,
    /// The last superuser without a prefix too.
    #[serde(default)]
    pub force: bool,
}

/// How a token is revoked.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ForceQuery {
    /// The last superuser without a prefix too.
    #[serde(default)]
    pub force: bool,
}

/// All tokens.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokensResponse {
    /// By name.
    pub tokens: Vec<TokenInfo>,
}
