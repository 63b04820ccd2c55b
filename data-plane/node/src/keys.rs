//! The keys and revocations of one shard: what tokens are verified with, without asking anybody.

use std::collections::HashSet;

use millrace_core::{VerifiedToken, VerifyToken};
use millrace_protocol::Code;
use millrace_protocol::node::NodeBody;
use millrace_token::{KeyRing, KeyRingLimits, TokenError};

/// A shard's key ring, kept in step with the control link.
pub(crate) struct Keys {
    current: KeyRing,
    state: State,
    limits: KeyRingLimits,
}

/// What the ring is worth.
enum State {
    /// No link: there may be keys that it has not heard of.
    Cut,
    /// A new link tells everything anew, because keys may have ended while there was none. The new ring takes over when it
    /// is whole, so that nobody is refused in between.
    Syncing(Box<KeyRing>),
    /// A key that it does not have does not exist.
    Synced,
}

impl Keys {
    pub(crate) fn new(limits: KeyRingLimits) -> Self {
        Self { current: KeyRing::new(limits.clone()), state: State::Cut, limits }
    }

    /// The control link is up: what comes until `synced` is the whole of it.
    pub(crate) fn handle_link_up(&mut self) {
        self.state = State::Syncing(Box::new(KeyRing::new(self.limits.clone())));
    }

    /// The control link is down: what changes now is not heard of.
    pub(crate) fn handle_link_down(&mut self) {
        self.state = State::Cut;
    }

    /// Takes in a frame of the link, if it is about keys or revocations.
    pub(crate) fn handle_frame(&mut self, body: &NodeBody, unix_ms: i64) {
        match body {
            NodeBody::Keys(keys) => {
                let ring = match &mut self.state {
                    State::Syncing(next) => next,
                    State::Cut | State::Synced => &mut self.current,
                };
                for (key, error) in ring.replace(keys) {
                    tracing::warn!(tenant = %key.tenant, key = key.id, %error, "token key was not taken");
                }
            }
            NodeBody::TokensRevoked(revoked) => {
                self.current.revoke(revoked, unix_ms);
                if let State::Syncing(next) = &mut self.state {
                    next.revoke(revoked, unix_ms);
                }
            }
            // Syncing => Synced: everything was told.
            NodeBody::Synced => {
                if let State::Syncing(next) = std::mem::replace(&mut self.state, State::Synced) {
                    self.current = *next;
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
    /// As [`VerifyToken`] says, and `Unavailable` for a key that may have been made since the control plane was last heard
    /// whole: a good token must not be called bad because the node does not know better yet.
    fn verify(&mut self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code> {
        let verified = self.current.verify_remembering(token, unix_ms).map_err(|error| match (error, &self.state) {
            (TokenError::UnknownKey, State::Cut | State::Syncing(_)) => Code::Unavailable,
            (error, _) => error.code(),
        })?;
        let claims = verified.claims;
        Ok(VerifiedToken {
            tenant: claims.tenant,
            user: claims.user,
            id: claims.id,
            key: verified.key,
            issued_ms: claims.issued_at_ms,
            expires_ms: claims.expires_at_ms,
        })
    }

    fn keys(&self) -> HashSet<u64> {
        self.current.marks()
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::node::{KeyAlgorithm, RevokedTokens, TenantKey, TokensRevoked};
    use millrace_protocol::{TenantId, UserId};
    use millrace_token::{Claims, SigningKey};

    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn tenant() -> TenantId {
        TenantId::new(1).expect("not 0")
    }

    fn tenant_key((key, kid): (&SigningKey, &str)) -> TenantKey {
        key.tenant_key(tenant(), kid)
    }

    fn key_frame(key: (&SigningKey, &str)) -> NodeBody {
        NodeBody::Keys(vec![tenant_key(key)])
    }

    fn token(key: &SigningKey, kid: &str, id: &str) -> String {
        let claims = Claims {
            tenant: tenant(),
            user: UserId::new("ann").expect("name"),
            issued_at_ms: NOW_MS,
            expires_at_ms: NOW_MS + 60_000,
            id: id.into(),
            roles: Vec::new(),
            device: None,
        };
        key.sign(kid, &claims).expect("sign")
    }

    fn revocation(id: &str) -> NodeBody {
        NodeBody::TokensRevoked(TokensRevoked {
            tenant: tenant(),
            which: RevokedTokens::Token(id.into()),
            forget_after_ms: NOW_MS + 60_000,
        })
    }

    fn keys_and<const N: usize>() -> (Keys, [SigningKey; N]) {
        let signing = std::array::from_fn(|_| SigningKey::generate(KeyAlgorithm::Hs256).expect("key"));
        (Keys::new(KeyRingLimits::default()), signing)
    }

    #[track_caller]
    fn check(keys: &mut Keys, (key, kid): (&SigningKey, &str), id: &str, expect: Result<(), Code>) {
        let verified = keys.verify(&token(key, kid, id), NOW_MS).map(|verified| assert_eq!(verified.id, id));
        assert_eq!(verified, expect);
    }

    /// Between the welcome and the end of what a new link tells, sessions go on being opened with the keys of the old one.
    #[test]
    fn a_new_link_replaces_everything_at_once() {
        let (mut keys, [old, new]) = keys_and();
        let (old, new) = ((&old, "k1"), (&new, "k2"));
        check(&mut keys, old, "a", Err(Code::Unavailable));
        keys.handle_link_up();
        check(&mut keys, old, "a", Err(Code::Unavailable));
        keys.handle_frame(&key_frame(old), NOW_MS);
        check(&mut keys, old, "a", Err(Code::Unavailable));
        keys.handle_frame(&NodeBody::Synced, NOW_MS);
        check(&mut keys, new, "a", Err(Code::BadToken));
        check(&mut keys, old, "a", Ok(()));

        keys.handle_link_down();
        keys.handle_link_up();
        check(&mut keys, old, "a", Ok(()));
        // Revocations come first on a new link, and count for both.
        keys.handle_frame(&revocation("a"), NOW_MS);
        check(&mut keys, old, "a", Err(Code::TokenRevoked));
        check(&mut keys, old, "b", Ok(()));
        keys.handle_frame(&key_frame(new), NOW_MS);
        check(&mut keys, old, "b", Ok(()));
        keys.handle_frame(&NodeBody::Synced, NOW_MS);
        check(&mut keys, old, "b", Err(Code::BadToken));
        check(&mut keys, new, "b", Ok(()));
        check(&mut keys, new, "a", Err(Code::TokenRevoked));
    }

    /// What an unknown key means depends on whether the node could know it.
    #[test]
    fn a_key_made_while_the_link_is_down_is_not_called_bad() {
        let (mut keys, [known, made, forged]) = keys_and();
        let (known, made) = ((&known, "k1"), (&made, "k2"));
        keys.handle_link_up();
        keys.handle_frame(&key_frame(known), NOW_MS);
        keys.handle_frame(&NodeBody::Synced, NOW_MS);
        check(&mut keys, made, "a", Err(Code::BadToken));
        keys.handle_link_down();
        check(&mut keys, known, "a", Ok(()));
        check(&mut keys, made, "a", Err(Code::Unavailable));
        // What is wrong whatever the keys are stays wrong.
        check(&mut keys, (&forged, "k1"), "a", Err(Code::BadToken));
        assert_eq!(keys.verify("no token", NOW_MS), Err(Code::BadToken));
        // All keys may not fit one frame.
        keys.handle_link_up();
        keys.handle_frame(&key_frame(known), NOW_MS);
        check(&mut keys, made, "a", Err(Code::Unavailable));
        let other = NodeBody::Keys(vec![made.0.tenant_key(TenantId::new(2).expect("not 0"), "k3")]);
        keys.handle_frame(&other, NOW_MS);
        check(&mut keys, made, "a", Err(Code::Unavailable));
        keys.handle_frame(&NodeBody::Keys([known, made].map(tenant_key).into()), NOW_MS);
        keys.handle_frame(&NodeBody::Synced, NOW_MS);
        check(&mut keys, made, "a", Ok(()));
        check(&mut keys, known, "a", Ok(()));
        // Changes come one by one.
        keys.handle_frame(&key_frame(made), NOW_MS);
        check(&mut keys, known, "a", Err(Code::BadToken));
    }
}
