//! Hashes under a key that strangers do not know. They choose producers, names and users, and must not be able to choose ones that
//! collide; and from the session ids that they are told they must not find the key.
//!
//! `rustc-hash` would do neither: its seed is only added, so what collides under one seed collides under all, and what a counter
//! with a mixer yields can be turned back into the counter.

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// A keyed pseudorandom function, SipHash-1-3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seeded {
    keys: (u64, u64),
}

impl Seeded {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { keys: (seed, !seed) }
    }

    /// One for another purpose: what is known of its hashes tells nothing of this one's.
    pub(crate) fn derive(&self, purpose: &str) -> Self {
        Self { keys: (self.hash_one((purpose, 0)), self.hash_one((purpose, 1))) }
    }
}

impl BuildHasher for Seeded {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.keys.0, self.keys.1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Numbers that fall into one bucket under one key are spread under another. A seed that is only added does not do that.
    #[test]
    fn what_collides_under_one_key_does_not_under_another() {
        let bucket = |of: Seeded, number: u64| of.hash_one(number) % 1_024;
        let (one, other) = (Seeded::new(1), Seeded::new(2));
        let chosen: Vec<u64> = (0..).filter(|&number| bucket(one, number) == 0).take(64).collect();
        let spread: HashSet<u64> = chosen.iter().map(|&number| bucket(other, number)).collect();
        assert!(spread.len() > 48, "{} buckets", spread.len());
        let spread: HashSet<u64> = chosen.iter().map(|&number| bucket(one.derive("other"), number)).collect();
        assert!(spread.len() > 48, "{} buckets", spread.len());
    }
}
