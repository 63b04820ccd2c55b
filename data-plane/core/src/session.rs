//! One session: who it is, what it is subscribed to, its queue, its limits. About 250 bytes while idle.

use std::hash::{DefaultHasher, Hash, Hasher};

use millrace_protocol::{ChannelId, Position, Producer, TenantId, UserId};

use crate::VerifiedToken;
use crate::agent::Agent;
use crate::barring::Barring;
use crate::grant::Access;
use crate::outbound::Outbound;
use crate::rate_limit::Bucket;
use crate::reads::ReadAt;
use crate::replay::Pacing;
use crate::wheel::Tick;

pub(crate) struct Session {
    pub(crate) state: State,
    /// Sorted by channel.
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) outbound: Outbound,
    pub(crate) publishes: Bucket,
    pub(crate) requests: Bucket,
    /// When the last frame came from the client.
    pub(crate) heard: Tick,
    /// The wheel's entry that counts.
    pub(crate) due: Tick,
    /// When it connected.
    pub(crate) since: Tick,
    /// What its id is drawn from; 0 before it has one.
    pub(crate) draw: u64,
    pub(crate) agent: Agent,
    /// Requests that wait for an answer.
    pub(crate) in_flight: u32,
    /// Subscriptions of its hello that are not answered.
    pub(crate) beginning: u32,
    /// Other sessions of the same user: places in the arena, or `NONE`.
    pub(crate) user_previous: u32,
    pub(crate) user_next: u32,
    pub(crate) pacing: Option<Box<Pacing>>,
    /// The client wants to hear where its user's read positions stand.
    pub(crate) hears_reads: bool,
    /// Only there while a refused publish is awaited again.
    pub(crate) barring: Option<Box<Barring<(ChannelId, Producer)>>>,
}

pub(crate) enum State {
    /// Waits for `hello`.
    Handshake,
    /// Its hello came, and waits while a crowd comes back.
    PutOff,
    Open(Identity),
    /// The shell was told to close it; its frames are ignored.
    Closing,
}

/// Whose session it is, by its present token.
pub(crate) struct Identity {
    pub(crate) tenant: TenantId,
    pub(crate) user: UserId,
    /// Hash of the token's id, to find it when it is revoked.
    pub(crate) token: u64,
    /// Mark of the key that vouches for it.
    pub(crate) key: u64,
    pub(crate) issued_ms: i64,
    pub(crate) expires_ms: i64,
}

/// A session's standing interest in a channel.
pub(crate) struct Subscription {
    pub(crate) channel: ChannelId,
    pub(crate) state: SubscriptionState,
    pub(crate) access: Access,
    /// Which join counts: answers to others are stale.
    pub(crate) number: u32,
    /// Place in the channel's list of subscriptions on this shard.
    pub(crate) member: u32,
    /// How far the user has read the channel.
    pub(crate) read: ReadAt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscriptionState {
    /// Waits for the first answer of the home; then the client hears `subscribed`, in answer to its `request`.
    Joining { request: u32, from: From },
    /// Messages up to this position are in its queue or beyond; the next page comes when there is room for it.
    Replaying { position: Position, phase: Phase },
    /// In the channel's list of live ones: it has what the channel's entry has.
    Live,
    /// Only to publish and to read history.
    Attached,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Tail,
    After(Position),
    Nowhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for its turn in the session's pace, or for its page.
    Paced,
    /// It is ahead of the shard's live subscriptions, which catch up; it goes on when they have.
    Parked,
}

impl Session {
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            state: State::Handshake,
            subscriptions: Vec::new(),
            outbound: Outbound::default(),
            publishes: Bucket::default(),
            requests: Bucket::default(),
            heard: now,
            due: 0,
            since: now,
            draw: 0,
            agent: Agent::default(),
            in_flight: 0,
            beginning: 0,
            user_previous: crate::user::NONE,
            user_next: crate::user::NONE,
            pacing: None,
            hears_reads: false,
            barring: None,
        }
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        match &self.state {
            State::Open(identity) => Some(identity),
            State::Handshake | State::PutOff | State::Closing => None,
        }
    }

    pub(crate) fn subscription(&self, channel: ChannelId) -> Option<&Subscription> {
        let place = self.subscriptions.binary_search_by_key(&channel, |subscription| subscription.channel).ok()?;
        self.subscriptions.get(place)
    }

    pub(crate) fn subscription_mut(&mut self, channel: ChannelId) -> Option<&mut Subscription> {
        let place = self.subscriptions.binary_search_by_key(&channel, |subscription| subscription.channel).ok()?;
        self.subscriptions.get_mut(place)
    }

    /// Makes room for so many subscriptions that come together, and no more: what sessions hold for hours is not rounded up.
    pub(crate) fn expect(&mut self, subscriptions: usize) {
        self.subscriptions.reserve_exact(subscriptions);
    }

    /// Adds a subscription to a channel that the session has none of.
    pub(crate) fn add(&mut self, subscription: Subscription) {
        let place = self.subscriptions.partition_point(|other| other.channel < subscription.channel);
        debug_assert!(self.subscriptions.get(place).is_none_or(|other| other.channel != subscription.channel));
        if self.subscriptions.is_empty() {
            // Most sessions have few: no spare room for the first.
            self.subscriptions.reserve_exact(1);
        }
        self.subscriptions.insert(place, subscription);
    }

    pub(crate) fn remove(&mut self, channel: ChannelId) -> Option<Subscription> {
        let place = self.subscriptions.binary_search_by_key(&channel, |subscription| subscription.channel).ok()?;
        let subscription = self.subscriptions.remove(place);
        if self.subscriptions.is_empty() {
            self.subscriptions = Vec::new();
        }
        Some(subscription)
    }

    /// Room kept in the queue for pages on their way, in bytes.
    #[inline]
    pub(crate) fn reserved_bytes(&self) -> u32 {
        self.pacing.as_ref().map_or(0, |pacing| pacing.reserved_bytes())
    }
}

impl Identity {
    pub(crate) fn new(token: VerifiedToken) -> Self {
        let VerifiedToken { tenant, user, id, key, issued_ms, expires_ms } = token;
        Self { tenant, user, token: token_hash(&id), key, issued_ms, expires_ms }
    }
}

/// 64 bits of SipHash tell a deployment's live tokens apart.
pub(crate) fn token_hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_is_small() {
        let bytes = size_of::<Session>() + size_of::<Subscription>();
        assert!(bytes <= 320, "{bytes}");
    }
}
