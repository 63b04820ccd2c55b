//! What the control plane takes back: memberships, channels, tokens. Open sessions hear of it at once.

use millrace_protocol::node::{MemberChanged, RevokedTokens, TokensRevoked};
use millrace_protocol::{ChannelId, Code};

use super::{Queue, Shard};
use crate::session::token_hash;
use crate::{Now, SessionKey, VerifyToken, home_of};

impl<V: VerifyToken> Shard<V> {
    pub(super) fn member_changed(&mut self, change: &MemberChanged) {
        self.grants.forget_member(change);
        for key in self.users.find(&self.sessions, change.tenant, &change.user) {
            match change.membership {
                Some((_, can_publish)) => {
                    let session = self.sessions.get_mut(key);
                    if let Some(subscription) = session.and_then(|session| session.subscription_mut(change.channel)) {
                        subscription.access.can_publish = can_publish;
                        // Who was removed and is back meanwhile is told as a change, and has another read position.
                        self.reauthorize.push(key, change.channel);
                    }
                }
                None => self.unsubscribed(key, change.channel, Code::Removed),
            }
        }
    }

    pub(super) fn channel_changed(&mut self, now: Now, channel: ChannelId, archived: bool) {
        self.grants.forget_channel(channel);
        let members = self.channels.get(channel).map(|entry| entry.members().to_vec()).unwrap_or_default();
        for index in members {
            let Some(key) = self.sessions.key(index) else { continue };
            if archived {
                self.unsubscribed(key, channel, Code::Archived);
            } else {
                self.reauthorize.push(key, channel);
            }
        }
        if archived && home_of(channel, self.shards) == self.index {
            self.with_homes(now, |homes, context| homes.archive(context, channel));
        }
    }

    pub(super) fn tokens_revoked(&mut self, revoked: &TokensRevoked) {
        match &revoked.which {
            RevokedTokens::Token(id) => {
                self.revoked.insert((revoked.tenant, token_hash(id)));
            }
            RevokedTokens::UserBefore(user, before_ms) => {
                for key in self.users.find(&self.sessions, revoked.tenant, user) {
                    let identity = self.sessions.get(key).and_then(|session| session.identity());
                    if identity.is_some_and(|identity| identity.issued_ms < *before_ms) {
                        self.end_revoked(key);
                    }
                }
            }
        }
    }

    /// Ends the sessions of the tokens that were revoked in this turn: one look at all sessions, however many they are. With a new link
    /// comes every revocation that still matters, and an index would cost every session memory for what is rare.
    pub(super) fn look_for_revoked(&mut self) {
        if self.revoked.is_empty() {
            return;
        }
        let revoked = std::mem::take(&mut self.revoked);
        for index in 0..self.sessions.end() {
            let identity = self.sessions.at(index).and_then(|session| session.identity());
            if identity.is_some_and(|identity| revoked.contains(&(identity.tenant, identity.token)))
                && let Some(key) = self.sessions.key(index)
            {
                self.end_revoked(key);
            }
        }
    }

    /// Ends the sessions whose token was signed with a key that is no more: one look at all sessions, as keys change rarely.
    pub(super) fn look_for_ended_keys(&mut self) {
        if !std::mem::take(&mut self.keys_told) || self.sessions.len() == 0 {
            return;
        }
        let keys = self.verifier.keys();
        for index in 0..self.sessions.end() {
            let identity = self.sessions.at(index).and_then(|session| session.identity());
            if identity.is_some_and(|identity| !keys.contains(&identity.key))
                && let Some(key) = self.sessions.key(index)
            {
                self.end_session(key, Code::TokenRevoked, "the key of the token was removed", Queue::Drop);
            }
        }
    }

    fn end_revoked(&mut self, key: SessionKey) {
        self.end_session(key, Code::TokenRevoked, "the token was revoked", Queue::Drop);
    }
}
