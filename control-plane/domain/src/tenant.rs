//! Tenants and what belongs to them: users, API keys, keys that verify tokens. Each is the shape that is stored.

use std::fmt;
use std::str::FromStr;

use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::KeyAlgorithm;
use serde::{Deserialize, Serialize};

use crate::text::{DisplayName, Metadata};
use crate::word;

/// Longest tenant name, in bytes: it fits into a DNS label.
const TENANT_NAME_BYTES_MAX: usize = 63;

/// Why a string is no tenant name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tenant name is 1 to {TENANT_NAME_BYTES_MAX} lower-case letters, digits and hyphens, and begins and ends with none of the latter"
)]
pub struct TenantNameError;

/// A tenant by name: 1 to 63 of `a-z`, `0-9` and `-`, as a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TenantName(String);

impl TenantName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantName {
    type Err = TenantNameError;

    fn from_str(name: &str) -> Result<Self, TenantNameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = (1..=TENANT_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if valid { Ok(Self(name.to_owned())) } else { Err(TenantNameError) }
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One customer's world of users and channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its number, which tokens carry.
    #[serde(with = "word::as_number")]
    pub id: TenantId,
    /// Its name, unique in the deployment.
    #[serde(with = "word::as_text")]
    pub name: TenantName,
    /// For people to read.
    pub display_name: Option<DisplayName>,
    /// When it began; Unix time, ms.
    pub created_ms: i64,
    /// Id of the key that signs the tokens that we issue for it.
    pub issuing_key: String,
}

/// A user of a tenant. Whoever is named as a member or gets a token becomes one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// The tenant's own name for them.
    #[serde(with = "word::as_text")]
    pub id: UserId,
    /// For people to read.
    pub display_name: Option<DisplayName>,
    /// The application's own.
    #[serde(default)]
    pub metadata: Metadata,
    /// When they were first named; Unix time, ms.
    pub created_ms: i64,
    /// When the record last changed; Unix time, ms.
    pub updated_ms: i64,
}

/// A key of an application server, or of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Names it; no secret.
    pub id: String,
    /// Number of the tenant whose application server it is; `None` for an operator's.
    pub tenant: Option<u32>,
    /// What it is used for, in the words of whoever made it.
    pub label: Option<DisplayName>,
    /// SHA-256 of the secret, in hex.
    pub secret_sha256: String,
    /// When it was made; Unix time, ms.
    pub created_ms: i64,
}

/// A key that verifies a tenant's access tokens, and perhaps signs them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// Its `kid`: `<tenant number>.<random>`, unique in the deployment.
    pub id: String,
    /// How it signs.
    #[serde(with = "word::as_word")]
    pub algorithm: KeyAlgorithm,
    /// What verifies, in base64: the secret (HS256), the uncompressed point (ES256), the 32 public bytes (EdDSA).
    pub material: String,
    /// What signs, in base64, for the one key that we sign with ourselves.
    pub private: Option<String>,
    /// What it is used for, in the words of whoever made it.
    pub label: Option<DisplayName>,
    /// When it was registered; Unix time, ms.
    pub created_ms: i64,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the material: an HS256 key is a secret.
        f.debug_struct("SigningKey").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_names_are_dns_labels() {
        let check = |name: &str, valid: bool| assert_eq!(name.parse::<TenantName>().is_ok(), valid, "{name:?}");
        check("dev", true);
        check("a-1", true);
        check(&"x".repeat(63), true);
        check(&"x".repeat(64), false);
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ü"] {
            check(bad, false);
        }
    }
}
