//! The keys and revocations of one shard: what tokens are verified with, without asking anybody.

use millrace_core::{VerifiedToken, VerifyToken};
use millrace_protocol::Code;
use millrace_protocol::node::NodeBody;
use millrace_token::{KeyRing, KeyRingLimits};

/// A shard's key ring, kept in step with the control link.
pub(crate) struct Keys {
    current: KeyRing,
    /// A new link begins with a new ring, because keys may have ended while there was none. It takes over with the first
    /// keys, so that nobody is refused in between.
    next: Option<KeyRing>,
    /// Keys came at least once: a token that does not fit them is bad, and not just early.
    known: bool,
    limits: KeyRingLimits,
}

impl Keys {
    pub(crate) fn new(limits: KeyRingLimits) -> Self {
        Self { current: KeyRing::new(limits.clone()), next: None, known: false, limits }
    }

    /// The control link is up: what comes now is the whole of it.
    pub(crate) fn handle_link_up(&mut self) {
        self.next = Some(KeyRing::new(self.limits.clone()));
    }

    /// Takes in a frame of the link, if it is about keys or revocations.
    pub(crate) fn handle_frame(&mut self, body: &NodeBody, unix_ms: i64) {
        match body {
            NodeBody::Keys(keys) => {
                self.known = true;
                if let Some(next) = self.next.take() {
                    self.current = next;
                }
                for (key, error) in self.current.replace(keys) {
                    tracing::warn!(tenant = %key.tenant, key = key.id, %error, "token key was not taken");
                }
            }
            NodeBody::TokensRevoked(revoked) => {
                self.current.revoke(revoked, unix_ms);
                if let Some(next) = &mut self.next {
                    next.revoke(revoked, unix_ms);
                }
            }
            _ => {}
        }
    }

    /// Forgets what cannot matter any more; call it now and then.
    pub(crate) fn forget(&mut self, unix_ms: i64) {
        self.current.forget(unix_ms);
    }
}

impl VerifyToken for Keys {
    /// As [`VerifyToken`] says, and `Unavailable` before the control plane has told any keys: a good token must not be called
    /// bad because a node has just started.
    fn verify(&self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code> {
        if !self.known {
            return Err(Code::Unavailable);
        }
        let claims = self.current.verify(token, unix_ms).map_err(|error| error.code())?;
        Ok(VerifiedToken {
            tenant: claims.tenant,
            user: claims.user,
            id: claims.id,
            issued_ms: claims.issued_at_ms,
            expires_ms: claims.expires_at_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::node::{KeyAlgorithm, RevokedTokens, TokensRevoked};
    use millrace_protocol::{TenantId, UserId};
    use millrace_token::{Claims, SigningKey};

    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn tenant() -> TenantId {
        TenantId::new(1).expect("not 0")
    }

    fn key_frame(key: &SigningKey) -> NodeBody {
        NodeBody::Keys(vec![key.tenant_key(tenant(), "k1")])
    }

    fn token(key: &SigningKey, id: &str) -> String {
        let claims = Claims {
            tenant: tenant(),
            user: UserId::new("ann").expect("name"),
            issued_at_ms: NOW_MS,
            expires_at_ms: NOW_MS + 60_000,
            id: id.into(),
            roles: Vec::new(),
            device: None,
        };
        key.sign("k1", &claims).expect("sign")
    }

    fn revocation(id: &str) -> NodeBody {
        NodeBody::TokensRevoked(TokensRevoked {
            tenant: tenant(),
            which: RevokedTokens::Token(id.into()),
            forget_after_ms: NOW_MS + 60_000,
        })
    }

    /// Between the welcome and the first keys of a new link, sessions go on being opened with the keys of the old one.
    #[test]
    fn a_new_link_replaces_everything_at_once() {
        let (old, new) = (SigningKey::generate(KeyAlgorithm::Hs256), SigningKey::generate(KeyAlgorithm::Hs256));
        let (old, new) = (old.expect("key"), new.expect("key"));
        let mut keys = Keys::new(KeyRingLimits::default());
        let check = |keys: &Keys, key: &SigningKey, id: &str, expect: Result<&str, Code>| {
            let verified = keys.verify(&token(key, id), NOW_MS);
            assert_eq!(verified.as_ref().map(|token| token.id.as_str()).map_err(|&code| code), expect);
        };
        check(&keys, &old, "a", Err(Code::Unavailable));
        keys.handle_link_up();
        check(&keys, &old, "a", Err(Code::Unavailable));
        keys.handle_frame(&key_frame(&old), NOW_MS);
        check(&keys, &new, "a", Err(Code::BadToken));
        check(&keys, &old, "a", Ok("a"));

        keys.handle_link_up();
        check(&keys, &old, "a", Ok("a"));
        // Revocations come first on a new link, and count for both.
        keys.handle_frame(&revocation("a"), NOW_MS);
        check(&keys, &old, "a", Err(Code::TokenRevoked));
        check(&keys, &old, "b", Ok("b"));
        keys.handle_frame(&key_frame(&new), NOW_MS);
        check(&keys, &old, "b", Err(Code::BadToken));
        check(&keys, &new, "b", Ok("b"));
        check(&keys, &new, "a", Err(Code::TokenRevoked));
    }
}
