//! Tokens whose signature held, by the hash of the whole token: a client that comes back presents the token that it had.
//!
//! Only what cannot change is remembered. Time and revocations are checked each time; a change of keys forgets everything.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use crate::claims::Claims;

/// What a signature vouches for.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) claims: Claims,
    /// `nbf`; Unix time, ms.
    pub(crate) not_before_ms: Option<i64>,
    /// Mark of the key.
    pub(crate) key: u64,
}

/// Names a token. SHA-256, because another token with the same hash would be taken for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; SHA256_OUTPUT_LEN]);

impl TokenHash {
    pub(crate) fn of(token: &str) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }
}

/// Bounded by two generations: when the younger has half of what there may be, the older goes.
#[derive(Debug, Clone)]
pub(crate) struct Remembered {
    young: HashMap<TokenHash, Signed>,
    old: HashMap<TokenHash, Signed>,
    max: usize,
}

impl Remembered {
    /// With `max` 0 or 1 nothing is remembered.
    pub(crate) fn new(max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), max }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.max < 2
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(crate) fn get(&mut self, token: &TokenHash) -> Option<&Signed> {
        if let Some(signed) = self.old.remove(token) {
            self.insert(*token, signed);
        }
        self.young.get(token)
    }

    pub(crate) fn insert(&mut self, token: TokenHash, signed: Signed) {
        if self.young.len() >= self.max / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, signed);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.max);
    }
}
