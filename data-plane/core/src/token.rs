//! Verification of access tokens, which the shell provides: keys and signatures are not a shard's business.

use std::collections::HashSet;

use millrace_protocol::{Code, TenantId, UserId};

/// Verifies access tokens with what is in memory, now.
pub trait VerifyToken {
    /// Whose token it is. What it costs may be remembered; the answer must not depend on it.
    ///
    /// # Errors
    /// The code that the client is told: `BadToken`, `TokenExpired` or `TokenRevoked`; `Unavailable` when that cannot be known
    /// now.
    fn verify(&mut self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code>;

    /// The keys that it has now, by the marks that [`VerifiedToken::key`] shows. Asked for when keys have changed.
    fn keys(&self) -> HashSet<u64>;
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The user's tenant.
    pub tenant: TenantId,
    /// Who.
    pub user: UserId,
    /// The token's own id (`jti`), by which it can be revoked.
    pub id: String,
    /// Mark of the key that it was signed with, to find it when that ends.
    pub key: u64,
    /// When it was issued; Unix time, ms.
    pub issued_ms: i64,
    /// When it ends; Unix time, ms.
    pub expires_ms: i64,
}
