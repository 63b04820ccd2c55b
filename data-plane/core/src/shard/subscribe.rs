//! How a subscription begins, is replayed, goes live, and ends.

use millrace_protocol::client::{HistoryClass, Recovery, ServerBody, Subscribed};
use millrace_protocol::{ChannelId, ChannelName, Code, Position};

use super::Shard;
use super::request::Waiter;
use crate::grant::{Access, Granted};
use crate::hop::{Catch, HopBody, Join, JoinStart, Joined, Ticket};
use crate::outbound::ControlKind;
use crate::replay::Paced;
use crate::session::{From, Phase, Subscription, SubscriptionState};
use crate::subscription::{Interest, NOWHERE};
use crate::{Now, SessionKey, ShardIndex, VerifyToken, home_of};

impl<V: VerifyToken> Shard<V> {
    /// The user may: the subscription begins. One that the session has of this channel is replaced.
    pub(super) fn begin(&mut self, waiter: &Waiter, granted: &Granted) {
        let Waiter { session: key, request, from } = *waiter;
        let channel = granted.channel;
        // It may have ended while the grant was looked up.
        if self.sessions.get(key).is_none_or(|session| session.identity().is_none()) {
            return;
        }
        self.drop_queued(key, channel);
        if let Some(SubscriptionState::Joining { request, .. }) = self.drop_subscription(key, channel) {
            self.refuse_subscribe(key, request, Code::NotSubscribed, Some(&granted.name));
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.subscriptions.len() >= self.config.subscriptions_max as usize {
            self.subscribe_answered(key);
            let message = Code::TooManySubscriptions.meaning().trim();
            self.send_error_about(key, request, Code::TooManySubscriptions, message, 0, granted.name.as_str());
            return;
        }
        let history = granted.access.history;
        let entry = self.channels.entry(channel, &granted.name, history);
        let member = entry.add(key.index);
        self.joins = self.joins.wrapping_add(1);
        let number = self.joins;
        let from = match from {
            From::After(_) if history == HistoryClass::None => From::Tail,
            from => from,
        };
        let state = SubscriptionState::Joining { request, from };
        let access = granted.access;
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.add(Subscription { channel, state, access, number, member, read: granted.read });
        self.stats.subscriptions += 1;
        match from {
            From::Nowhere if entry.interest == Interest::Live => {
                let position = entry.position;
                self.attach(key, channel, position);
            }
            From::Nowhere => {
                let ticket = Ticket { session: Some(key), number, reserved: false };
                if !self.send_join(channel, ticket, JoinStart::Peek) {
                    self.unsubscribed(key, channel, Code::Busy);
                }
            }
            From::Tail if entry.interest == Interest::Live => self.go_live(key, channel),
            From::Tail => {
                entry.waiting.push((key, number));
                // Off => Joining: the first one asks for all who come meanwhile.
                if entry.interest == Interest::Off {
                    entry.interest = Interest::Joining;
                    self.groups.push(channel);
                }
            }
            From::After(_) => {
                self.stats.resumes_total += 1;
                session.pacing.get_or_insert_default().push(Paced::Replay(channel));
                self.pace_later(key);
            }
        }
    }

    pub(super) fn send_join(&mut self, channel: ChannelId, ticket: Ticket, start: JoinStart) -> bool {
        let to = home_of(channel, self.shards);
        let Some(entry) = self.channels.get_mut(channel) else { return false };
        if !self.links.admit(to) {
            return false;
        }
        entry.joins += 1;
        let history = entry.history;
        self.links.send(to, HopBody::Join(Box::new(Join { channel, history, ticket, start })));
        true
    }

    /// The next page of a subscription's replay.
    pub(super) fn start_replay(&mut self, key: SessionKey, channel: ChannelId) -> bool {
        let Some(subscription) = self.sessions.get(key).and_then(|session| session.subscription(channel)) else {
            return false;
        };
        let (number, start) = match subscription.state {
            SubscriptionState::Joining { from: From::After(position), .. } => {
                (subscription.number, JoinStart::Resume(position))
            }
            SubscriptionState::Replaying { position, phase: Phase::Paced } => {
                (subscription.number, JoinStart::Continue(position))
            }
            _ => return false,
        };
        let ticket = Ticket { session: Some(key), number, reserved: true };
        if self.send_join(channel, ticket, start) {
            return true;
        }
        self.unsubscribed(key, channel, Code::Busy);
        false
    }

    /// The home's answer to a join.
    pub(super) fn handle_joined(&mut self, now: Now, from: ShardIndex, joined: Joined) {
        let Joined { channel, ticket, result } = joined;
        self.links.answered(from, 1);
        let Some(entry) = self.channels.get_mut(channel) else {
            debug_assert!(false, "a channel is kept while joins of it are under way");
            return;
        };
        entry.listed |= result.as_ref().is_ok_and(|catch| catch.live);
        // It counts until the end: a session may meet its end on the way, and interest that came with the answer must still
        // be given back.
        match ticket.session {
            None if entry.group == Some(ticket.number) && entry.interest == Interest::Joining => {
                self.group_joined(now, channel, result);
            }
            // Somebody's page has made the entry live meanwhile, or a newer join counts.
            None => self.stale_join(channel, &result),
            Some(key) => {
                if ticket.reserved {
                    self.release(key);
                }
                if self.is_current(key, channel, ticket.number) {
                    self.session_joined(key, channel, result);
                } else {
                    self.stale_join(channel, &result);
                }
            }
        }
        if let Some(entry) = self.channels.get_mut(channel) {
            entry.joins -= 1;
        }
        self.left(channel);
    }

    /// Nobody waits for this answer, but it may have brought interest.
    fn stale_join(&mut self, channel: ChannelId, result: &Result<Catch, Code>) {
        if let Ok(catch) = result
            && catch.live
        {
            self.reached(channel, catch.position);
        }
    }

    /// The home counts this shard as interested from `position` on. Whether the channel's entry stands there and is live.
    fn reached(&mut self, channel: ChannelId, position: Position) -> bool {
        let Some(entry) = self.channels.get_mut(channel) else { return false };
        if entry.interest == Interest::Live {
            debug_assert!(entry.position.offset == position.offset, "hops are in order");
            return entry.position.offset == position.offset;
        }
        if entry.live() > 0 {
            // They stand further back and catch up first.
            return false;
        }
        // Off, Joining => Live. A join of the group that is under way is of before: should the shard lag again until its answer is
        // here, that answer would take those who are live now back to where the group stood.
        entry.interest = Interest::Live;
        entry.group = None;
        entry.position = position;
        self.serve_waiting(channel);
        true
    }

    fn session_joined(&mut self, key: SessionKey, channel: ChannelId, result: Result<Catch, Code>) {
        let Some(subscription) = self.sessions.get(key).and_then(|session| session.subscription(channel)) else {
            return;
        };
        let state = subscription.state;
        let catch = match result {
            Ok(catch) => catch,
            Err(code) => return self.unsubscribed(key, channel, code),
        };
        match state {
            SubscriptionState::Joining { from: From::Nowhere, .. } => return self.attach(key, channel, catch.tail),
            SubscriptionState::Joining { .. } => {
                let recovery = match catch.refused {
                    Some(code) => {
                        self.stats.resumes_refused_total += 1;
                        self.note_reload(key, channel, code);
                        Recovery::Reload(code.number())
                    }
                    None => Recovery::Whole,
                };
                self.send_subscribed(key, channel, catch.tail, recovery);
            }
            SubscriptionState::Replaying { .. } => {}
            SubscriptionState::Live | SubscriptionState::Attached => return,
        }
        self.push_page(key, catch.runs);
        if !catch.live {
            self.replay_from(key, channel, catch.position);
        } else if self.reached(channel, catch.position) {
            self.make_live(key, channel);
        } else if let Some(subscription) =
            self.sessions.get_mut(key).and_then(|session| session.subscription_mut(channel))
        {
            subscription.state = SubscriptionState::Replaying { position: catch.position, phase: Phase::Parked };
            let number = subscription.number;
            if let Some(entry) = self.channels.get_mut(channel) {
                entry.parked.push((key, number));
            }
        }
    }

    /// The channel's entry has become live: those who waited for the tail start there, those who were ahead go on.
    pub(super) fn serve_waiting(&mut self, channel: ChannelId) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        for (key, number) in std::mem::take(&mut entry.waiting) {
            if self.is_current(key, channel, number) {
                self.go_live(key, channel);
            }
        }
        self.serve_parked(channel);
    }

    /// Those who were ahead of the live ones go on: as one of them if they stand together now, else with the next page.
    pub(super) fn serve_parked(&mut self, channel: ChannelId) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        let at = (entry.interest == Interest::Live).then_some(entry.position.offset);
        for (key, number) in std::mem::take(&mut entry.parked) {
            if !self.is_current(key, channel, number) {
                continue;
            }
            let subscription = self.sessions.get(key).and_then(|session| session.subscription(channel));
            match subscription.map(|subscription| subscription.state) {
                Some(SubscriptionState::Replaying { position, phase: Phase::Parked })
                    if at == Some(position.offset) =>
                {
                    self.make_live(key, channel);
                }
                Some(SubscriptionState::Replaying { position, phase: Phase::Parked }) => {
                    self.replay_from(key, channel, position);
                }
                _ => {}
            }
        }
    }

    /// Joining => Live, at the entry's position.
    fn go_live(&mut self, key: SessionKey, channel: ChannelId) {
        let Some(entry) = self.channels.get(channel) else { return };
        let position = entry.position;
        self.send_subscribed(key, channel, position, Recovery::None);
        self.make_live(key, channel);
    }

    fn make_live(&mut self, key: SessionKey, channel: ChannelId) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        let Some(subscription) = self.sessions.get_mut(key).and_then(|session| session.subscription_mut(channel))
        else {
            return;
        };
        subscription.state = SubscriptionState::Live;
        let place = subscription.member;
        entry.make_live(&mut self.sessions, channel, place);
    }

    /// Joining => Attached.
    fn attach(&mut self, key: SessionKey, channel: ChannelId, position: Position) {
        self.send_subscribed(key, channel, position, Recovery::None);
        if let Some(subscription) = self.sessions.get_mut(key).and_then(|session| session.subscription_mut(channel)) {
            subscription.state = SubscriptionState::Attached;
        }
    }

    fn send_subscribed(&mut self, key: SessionKey, channel: ChannelId, position: Position, recovery: Recovery) {
        let Some(entry) = self.channels.get(channel) else { return };
        let name = entry.name.clone();
        let Some(subscription) = self.sessions.get(key).and_then(|session| session.subscription(channel)) else {
            return;
        };
        let SubscriptionState::Joining { request, from } = subscription.state else { return };
        let kind = match from {
            From::Nowhere => ControlKind::Attached(channel),
            From::Tail | From::After(_) => ControlKind::Opening(channel),
        };
        let Access { can_publish, history, .. } = subscription.access;
        self.subscribe_answered(key);
        let position = if history == HistoryClass::None { NOWHERE } else { position };
        let body = Subscribed { name: name.as_str(), channel, position, history, can_publish, recovery };
        self.send_as(key, request, ServerBody::Subscribed(body), kind);
        self.send_read(key, channel);
        self.renew_read(key, channel, position.epoch);
    }

    pub(super) fn name_of(&self, channel: ChannelId) -> Option<ChannelName> {
        self.channels.get(channel).map(|entry| entry.name.clone())
    }

    /// Answers the request to subscribe of a subscription that is gone.
    pub(super) fn refuse_subscribe(&mut self, key: SessionKey, request: u32, code: Code, name: Option<&ChannelName>) {
        self.subscribe_answered(key);
        let name = name.map_or("", ChannelName::as_str);
        self.send_error_about(key, request, code, code.meaning().trim(), 0, name);
    }

    pub(super) fn is_current(&self, key: SessionKey, channel: ChannelId, number: u32) -> bool {
        let subscription = self.sessions.get(key).and_then(|session| session.subscription(channel));
        subscription.is_some_and(|subscription| subscription.number == number)
    }

    /// Messages of a subscription that ends leave the queue with it: what follows, or its client's next resume, begins where
    /// the client itself stands.
    pub(super) fn drop_queued(&mut self, key: SessionKey, channel: ChannelId) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.subscription(channel).is_some()) else {
            return;
        };
        let before = session.outbound.queued_bytes();
        session.outbound.drop_channel(channel);
        self.stats.queued_bytes -= (before - session.outbound.queued_bytes()) as u64;
    }

    /// Ends a subscription without a word, and gives the state that it was in.
    pub(super) fn drop_subscription(&mut self, key: SessionKey, channel: ChannelId) -> Option<SubscriptionState> {
        let (state, place) = {
            let subscription = self.sessions.get(key)?.subscription(channel)?;
            (subscription.state, subscription.member)
        };
        if let Some(entry) = self.channels.get_mut(channel) {
            let mut place = place;
            if state == SubscriptionState::Live {
                entry.unmake_live(&mut self.sessions, channel, place);
                place = entry.live();
            }
            entry.remove(&mut self.sessions, channel, place);
        }
        let session = self.sessions.get_mut(key)?;
        session.remove(channel);
        if let Some(pacing) = &mut session.pacing {
            pacing.forget(channel);
            if pacing.is_idle() && !pacing.ready {
                session.pacing = None;
            }
        }
        self.stats.subscriptions -= 1;
        self.left(channel);
        Some(state)
    }

    /// Gives interest back when nobody needs it, and forgets a channel that nobody uses.
    pub(super) fn left(&mut self, channel: ChannelId) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        if entry.is_quiet() {
            // Not only when the entry is live: a page may have reached the tail while the group still read on.
            if std::mem::take(&mut entry.listed) {
                let to = home_of(channel, self.shards);
                self.links.send(to, HopBody::Leave(channel));
            }
            entry.interest = Interest::Off;
            self.serve_parked(channel);
            self.channels.tidy(channel);
        }
    }
}
