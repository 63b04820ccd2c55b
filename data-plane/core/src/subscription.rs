//! Who on this shard uses a channel: one entry holds the live subscriptions, which all stand at the same position, and the others.

use millrace_protocol::client::{HistoryClass, NO_EPOCH};
use millrace_protocol::{ChannelId, ChannelName, Position};
use rustc_hash::FxHashMap;

use crate::SessionKey;
use crate::arena::Arena;
use crate::session::Session;

/// Where a channel without a known position stands.
pub(crate) const NOWHERE: Position = Position { epoch: NO_EPOCH, offset: 0 };

#[derive(Default)]
pub(crate) struct Channels {
    entries: FxHashMap<ChannelId, Box<Entry>>,
}

/// One channel on this shard.
pub(crate) struct Entry {
    pub(crate) name: ChannelName,
    pub(crate) history: HistoryClass,
    pub(crate) interest: Interest,
    /// The home counts this shard among those that get live messages, whatever the entry makes of them: it has to be told when
    /// nobody here needs them any more.
    pub(crate) listed: bool,
    /// What every live subscription has. Meaningless while there is none and the interest is off.
    pub(crate) position: Position,
    /// Places of all sessions subscribed; the first `live` of them are live.
    members: Vec<u32>,
    live: u32,
    /// Sessions that start at the tail and wait for the group's join, with the join's number; some may have left.
    pub(crate) waiting: Vec<(SessionKey, u32)>,
    /// Sessions that are ahead of the live ones and go on when those have caught up, or are gone.
    pub(crate) parked: Vec<(SessionKey, u32)>,
    /// The group's join that counts, while the group still needs it.
    pub(crate) group: Option<u32>,
    /// Joins that the home has not answered. While there are some the shard does not leave: an answer may carry interest.
    pub(crate) joins: u32,
}

/// What the entry does with the live messages that its home sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Off,
    /// The group asked for it; live messages that come meanwhile are in the pages of the answer too.
    Joining,
    /// Joining failed; a timer tries again.
    Retrying,
    Live,
}

impl Entry {
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }

    /// Nobody needs live messages and no answer can bring any.
    pub(crate) fn is_quiet(&self) -> bool {
        self.live == 0 && self.joins == 0 && self.waiting.is_empty()
    }

    fn swap(&mut self, sessions: &mut Arena<Session>, channel: ChannelId, a: u32, b: u32) {
        if a == b {
            return;
        }
        self.members.swap(a as usize, b as usize);
        for place in [a, b] {
            if let Some(subscription) =
                sessions.at_mut(self.members[place as usize]).and_then(|session| session.subscription_mut(channel))
            {
                subscription.member = place;
            }
        }
    }

    /// Adds a session that is not live, and gives its place.
    pub(crate) fn add(&mut self, session: u32) -> u32 {
        if self.members.is_empty() {
            self.members.reserve_exact(1);
        }
        self.members.push(session);
        u32::try_from(self.members.len() - 1).unwrap_or(u32::MAX)
    }

    /// The subscription at `place` has what the live ones have.
    pub(crate) fn make_live(&mut self, sessions: &mut Arena<Session>, channel: ChannelId, place: u32) {
        debug_assert!(place >= self.live);
        self.swap(sessions, channel, place, self.live);
        self.live += 1;
    }

    pub(crate) fn unmake_live(&mut self, sessions: &mut Arena<Session>, channel: ChannelId, place: u32) {
        debug_assert!(place < self.live);
        self.live -= 1;
        self.swap(sessions, channel, place, self.live);
    }

    /// Removes the subscription at `place`, which must not be live. Its session still has it.
    pub(crate) fn remove(&mut self, sessions: &mut Arena<Session>, channel: ChannelId, place: u32) {
        debug_assert!(place >= self.live);
        let last = u32::try_from(self.members.len() - 1).unwrap_or(u32::MAX);
        self.swap(sessions, channel, place, last);
        self.members.pop();
        if self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
    }
}

impl Channels {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, channel: ChannelId) -> Option<&Entry> {
        self.entries.get(&channel).map(|entry| &**entry)
    }

    pub(crate) fn get_mut(&mut self, channel: ChannelId) -> Option<&mut Entry> {
        self.entries.get_mut(&channel).map(|entry| &mut **entry)
    }

    pub(crate) fn entry(&mut self, channel: ChannelId, name: &ChannelName, history: HistoryClass) -> &mut Entry {
        self.entries.entry(channel).or_insert_with(|| {
            Box::new(Entry {
                name: name.clone(),
                history,
                interest: Interest::Off,
                listed: false,
                position: NOWHERE,
                members: Vec::new(),
                live: 0,
                waiting: Vec::new(),
                parked: Vec::new(),
                group: None,
                joins: 0,
            })
        })
    }

    /// Forgets a channel that nobody uses and no answer is awaited for.
    pub(crate) fn tidy(&mut self, channel: ChannelId) {
        if let Some(entry) = self.entries.get(&channel)
            && entry.members.is_empty()
            && entry.is_quiet()
        {
            debug_assert!(!entry.listed, "interest is given back first");
            self.entries.remove(&channel);
            if self.entries.is_empty() {
                self.entries = FxHashMap::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_protocol::node::SlowConsumer;

    use crate::grant::Access;
    use crate::reads::ReadAt;
    use crate::session::{Subscription, SubscriptionState};

    #[test]
    fn live_ones_come_first_and_everyone_knows_their_place() {
        let channel = ChannelId::new(3).unwrap();
        let access =
            Access { can_publish: true, history: HistoryClass::Durable, slow_consumer: SlowConsumer::Disconnect };
        let mut sessions = Arena::new();
        let mut channels = Channels::default();
        let name = ChannelName::new("general").unwrap();
        let entry = channels.entry(channel, &name, access.history);
        let keys: Vec<_> = (0..5)
            .map(|_| {
                let key = sessions.insert(Session::new(0));
                let member = entry.add(key.index);
                let state = SubscriptionState::Attached;
                sessions.get_mut(key).unwrap().add(Subscription {
                    channel,
                    state,
                    access,
                    number: 0,
                    member,
                    read: ReadAt::default(),
                });
                key
            })
            .collect();
        let place =
            |sessions: &Arena<Session>, n: usize| sessions.get(keys[n]).unwrap().subscription(channel).unwrap().member;
        let check = |sessions: &Arena<Session>, entry: &Entry, live: &[usize], all: &[usize]| {
            assert_eq!((entry.live() as usize, entry.members().len()), (live.len(), all.len()));
            for &n in all {
                let place = place(sessions, n);
                assert_eq!(entry.members()[place as usize], keys[n].index);
                assert_eq!(place < entry.live(), live.contains(&n), "{n}");
            }
        };
        for n in [3, 1, 4] {
            let at = place(&sessions, n);
            entry.make_live(&mut sessions, channel, at);
        }
        check(&sessions, entry, &[3, 1, 4], &[0, 1, 2, 3, 4]);
        let at = place(&sessions, 3);
        entry.unmake_live(&mut sessions, channel, at);
        check(&sessions, entry, &[1, 4], &[0, 1, 2, 3, 4]);
        for n in [3, 0] {
            let at = place(&sessions, n);
            entry.remove(&mut sessions, channel, at);
            sessions.get_mut(keys[n]).unwrap().remove(channel);
        }
        check(&sessions, entry, &[1, 4], &[1, 2, 4]);
    }
}
