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
    limits: KeyRingLimits,
}

impl Keys {
    pub(crate) fn new(limits: KeyRingLimits) -> Self {
        Self { current: KeyRing::new(limits.clone()), next: None, limits }
    }

    /// The control link is up: what comes now is the whole of it.
    pub(crate) fn handle_link_up(&mut self) {
        self.next = Some(KeyRing::new(self.limits.clone()));
    }

    /// Takes in a frame of the link, if it is about keys or revocations.
    pub(crate) fn handle_frame(&mut self, body: &NodeBody, unix_ms: i64) {
        match body {
            NodeBody::Keys(keys) => {
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
    fn verify(&self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code> {
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
