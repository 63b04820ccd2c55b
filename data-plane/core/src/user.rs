//! Which sessions a user has on this shard: a chain through the sessions themselves, 24 bytes for each user.

use std::hash::BuildHasher;

use millrace_protocol::{TenantId, UserId};
use rustc_hash::FxHashMap;

use crate::SessionKey;
use crate::arena::Arena;
use crate::seeded::Seeded;
use crate::session::Session;

/// The end of a chain.
pub(crate) const NONE: u32 = u32::MAX;

/// Chains by the hash of tenant and user; users whose hashes collide share one.
pub(crate) struct Users {
    /// By a keyed hash, which is spread well already.
    heads: FxHashMap<u64, u32>,
    hasher: Seeded,
}

impl Users {
    pub(crate) fn new(hasher: Seeded) -> Self {
        Self { heads: FxHashMap::default(), hasher }
    }

    fn hash(&self, tenant: TenantId, user: &UserId) -> u64 {
        self.hasher.hash_one((tenant, user))
    }

    /// Takes in an open session.
    pub(crate) fn insert(&mut self, sessions: &mut Arena<Session>, key: SessionKey) {
        let Some(identity) = sessions.get(key).and_then(Session::identity) else { return };
        let hash = self.hash(identity.tenant, &identity.user);
        let next = self.heads.insert(hash, key.index).unwrap_or(NONE);
        if let Some(session) = sessions.get_mut(key) {
            session.user_previous = NONE;
            session.user_next = next;
        }
        if let Some(session) = sessions.at_mut(next) {
            session.user_previous = key.index;
        }
    }

    /// Lets go of a session that is still open.
    pub(crate) fn remove(&mut self, sessions: &mut Arena<Session>, key: SessionKey) {
        let Some(session) = sessions.get(key) else { return };
        let Some(identity) = session.identity() else { return };
        let (previous, next) = (session.user_previous, session.user_next);
        let hash = self.hash(identity.tenant, &identity.user);
        if let Some(previous) = sessions.at_mut(previous) {
            previous.user_next = next;
        } else {
            if next == NONE {
                self.heads.remove(&hash);
            } else {
                self.heads.insert(hash, next);
            }
            if self.heads.is_empty() {
                self.heads = FxHashMap::default();
            }
        }
        if let Some(next) = sessions.at_mut(next) {
            next.user_previous = previous;
        }
    }

    /// The open sessions of a user.
    pub(crate) fn find(&self, sessions: &Arena<Session>, tenant: TenantId, user: &UserId) -> Vec<SessionKey> {
        let mut found = Vec::new();
        let mut index = self.heads.get(&self.hash(tenant, user)).copied().unwrap_or(NONE);
        while let Some(session) = sessions.at(index) {
            if session.identity().is_some_and(|identity| identity.tenant == tenant && identity.user == *user) {
                found.extend(sessions.key(index));
            }
            index = session.user_next;
        }
        found
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Identity, State};

    #[test]
    fn sessions_of_a_user_are_found_until_they_end() {
        let mut sessions = Arena::new();
        let mut users = Users::new(Seeded::new(1));
        let tenant = TenantId::new(1).unwrap();
        let name = |n: usize| UserId::new(["ann", "bob", "cyd"][n % 3]).unwrap();
        let mut keys = Vec::new();
        for n in 0..12 {
            let mut session = Session::new(0);
            session.state =
                State::Open(Identity { tenant, user: name(n), token: 0, key: 0, issued_ms: 0, expires_ms: 0 });
            let key = sessions.insert(session);
            users.insert(&mut sessions, key);
            keys.push((n, key));
        }
        // Ends them in an order that takes heads, middles and tails.
        for at in [5, 0, 9, 3, 4, 6, 0, 2, 1, 2, 0, 0] {
            let (_, gone) = keys.remove(at);
            users.remove(&mut sessions, gone);
            sessions.remove(gone);
            for user in 0..3 {
                let mut found = users.find(&sessions, tenant, &name(user));
                found.sort_unstable();
                let expect: Vec<_> = keys.iter().filter(|(n, _)| n % 3 == user).map(|&(_, key)| key).collect();
                assert_eq!(found, expect);
            }
        }
        assert!(users.is_empty());
        assert_eq!(users.find(&sessions, TenantId::new(2).unwrap(), &name(0)), []);
    }
}
