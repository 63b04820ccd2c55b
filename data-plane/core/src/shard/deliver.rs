//! From a home's hops into the queues of sessions.

use std::rc::Rc;

use millrace_protocol::client::{HistoryClass, ServerBody};
use millrace_protocol::code::Advice;
use millrace_protocol::node::SlowConsumer;
use millrace_protocol::{ChannelId, Code, Position};

use super::time::Chore;
use super::{Queue, Shard};
use crate::compression::OfRun;
use crate::hop::{Catch, JoinStart, Ticket};
use crate::outbound::ControlKind;
use crate::replay::Paced;
use crate::run::Run;
use crate::session::{Phase, SubscriptionState};
use crate::subscription::{Interest, NOWHERE};
use crate::{Now, SessionKey, VerifyToken};

impl<V: VerifyToken> Shard<V> {
    /// The next messages of a channel that this shard is interested in.
    pub(super) fn handle_live(&mut self, now: Now, run: Run) {
        let channel = run.channel;
        let Some(entry) = self.channels.get_mut(channel) else { return };
        // A group that is joining gets these in its page too.
        if entry.interest != Interest::Live {
            return;
        }
        if entry.history != HistoryClass::None {
            if run.last <= entry.position.offset {
                return;
            }
            if run.first != entry.position.offset + 1 {
                debug_assert!(false, "a gap in {channel}: {} after {:?}", run.first, entry.position);
                self.lag(channel);
                return;
            }
        }
        let (since, count) = (run.since, u64::from(run.count));
        let taken = self.deliver(channel, run);
        if let Some(since) = since {
            self.stats.delivery.record(now.instant.saturating_duration_since(since), taken * count);
        }
    }

    /// Gives a run to every live subscription of the channel. How many took it.
    fn deliver(&mut self, channel: ChannelId, run: Run) -> u64 {
        let Some(entry) = self.channels.get_mut(channel) else { return 0 };
        let before = entry.position;
        entry.position = run.position();
        let run = Rc::new(run);
        let bytes = u32::try_from(run.len()).unwrap_or(u32::MAX);
        // Who agreed to compression has a turn of their own: the many that did not pay nothing for it.
        let (mut full, mut agreed) = (Vec::new(), Vec::new());
        let (mut taken, mut saved) = (0_u64, 0_u64);
        for &index in &entry.members()[..entry.live() as usize] {
            let Some((key, session)) = self.sessions.entry_mut(index) else { continue };
            let reserved = session.reserved_bytes();
            let outbound = &mut session.outbound;
            if let Some(window) = outbound.window {
                agreed.push((key, window));
                continue;
            }
            if outbound.data_bytes() + reserved + bytes > self.config.queue_bytes_max {
                full.push((key, None));
                continue;
            }
            outbound.push_run(&run);
            taken += 1;
            if !outbound.flushing && !outbound.is_blocked() {
                outbound.flushing = true;
                self.flushes.push_back(key);
            }
        }
        let mut twins = OfRun::default();
        for (key, window) in agreed {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let reserved = session.reserved_bytes();
            let twin = self.twins.of_live(&mut twins, window, &run);
            let twin_bytes = u32::try_from(twin.len()).unwrap_or(u32::MAX);
            let outbound = &mut session.outbound;
            if outbound.data_bytes() + reserved + twin_bytes > self.config.queue_bytes_max {
                full.push((key, Some(window)));
                continue;
            }
            outbound.push_run(twin);
            taken += 1;
            saved += u64::from(bytes - twin_bytes);
            if !outbound.flushing && !outbound.is_blocked() {
                outbound.flushing = true;
                self.flushes.push_back(key);
            }
        }
        self.stats.deliveries_total += taken * u64::from(run.count);
        self.stats.outbound_bytes_total += taken * u64::from(bytes) - saved;
        self.stats.queued_bytes += taken * u64::from(bytes) - saved;
        self.stats.outbound_saved_bytes_total += saved;
        for (key, window) in full {
            let own = window.and_then(|window| twins[window.index()].as_ref()).unwrap_or(&run);
            self.overflow(channel, key, own, before);
        }
        taken
    }

    /// A session's queue is full. If its transport takes no more it is slow and the channel's policy decides; if not, this is a
    /// burst, and the session reads it from the home as its queue drains.
    fn overflow(&mut self, channel: ChannelId, key: SessionKey, run: &Rc<Run>, before: Position) {
        if self.relieve(channel, key, run) {
            return;
        }
        let Some(entry) = self.channels.get_mut(channel) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(subscription) = session.subscription(channel) else { return };
        let policy = subscription.access.slow_consumer;
        let ephemeral = entry.history == HistoryClass::None;
        let blocked = session.outbound.is_blocked() || session.outbound.holds(channel);
        if blocked && policy == SlowConsumer::Disconnect {
            self.end_session(key, Code::SlowConsumer, "the queue is full: read faster", Queue::Drop);
            return;
        }
        if blocked || ephemeral {
            let queued = session.outbound.queued_bytes();
            let max = self.config.queue_bytes_max - session.reserved_bytes();
            let skipped = session.outbound.push_skipping(&mut self.scratch, run, max);
            let now_queued = session.outbound.queued_bytes();
            self.stats.queued_bytes = self.stats.queued_bytes + now_queued as u64 - queued as u64;
            self.stats.skipped_total += skipped.messages;
            let unread = session.outbound.control_frames() > self.config.control_frames_max;
            if let Some(range) = skipped.range.filter(|_| !skipped.goes_on) {
                self.note_skipped(key, channel, range);
            }
            if unread {
                self.end_session(key, Code::SlowConsumer, "the queue is full: read faster", Queue::Drop);
            }
            return;
        }
        // Live => Replaying: after what it has.
        let place = subscription.member;
        entry.unmake_live(&mut self.sessions, channel, place);
        self.stats.fallbacks_total += 1;
        self.replay_from(key, channel, before);
    }

    /// Makes room in a queue that is full of what other channels' streams do not take: their policies decide, not this one's.
    /// Whether the run is dealt with.
    fn relieve(&mut self, channel: ChannelId, key: SessionKey, run: &Rc<Run>) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return true };
        if session.outbound.is_blocked() || session.outbound.holds(channel) {
            return false;
        }
        let others = session.outbound.held_channels();
        if others.is_empty() {
            return false;
        }
        for other in others {
            let Some(session) = self.sessions.get_mut(key) else { return true };
            let Some(subscription) = session.subscription(other) else { continue };
            if subscription.access.slow_consumer == SlowConsumer::Disconnect {
                self.end_session(key, Code::SlowConsumer, "the queue is full: read faster", Queue::Drop);
                return true;
            }
            let before = session.outbound.queued_bytes();
            let skipped = session.outbound.skip_waiting(&mut self.scratch, other);
            self.stats.queued_bytes = self.stats.queued_bytes + session.outbound.queued_bytes() as u64 - before as u64;
            self.stats.skipped_total += skipped.messages;
            if let Some(range) = skipped.range.filter(|_| !skipped.goes_on) {
                self.note_skipped(key, other, range);
            }
        }
        let Some(session) = self.sessions.get_mut(key) else { return true };
        let queued = session.outbound.data_bytes() + session.reserved_bytes();
        let bytes = run.len() as u64;
        if u64::from(queued) + bytes > u64::from(self.config.queue_bytes_max) {
            return false;
        }
        session.outbound.push_run(run);
        self.stats.deliveries_total += u64::from(run.count);
        self.stats.outbound_bytes_total += bytes;
        self.stats.queued_bytes += bytes;
        self.flush(key);
        true
    }

    /// The subscription goes on with a page after `position`, when its session's queue has room.
    pub(super) fn replay_from(&mut self, key: SessionKey, channel: ChannelId, position: Position) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(subscription) = session.subscription_mut(channel) else { return };
        subscription.state = SubscriptionState::Replaying { position, phase: Phase::Paced };
        session.pacing.get_or_insert_default().push(Paced::Replay(channel));
        self.pace_later(key);
    }

    /// Puts a page of replay into the session's queue; room was kept for it.
    pub(super) fn push_page(&mut self, key: SessionKey, runs: Vec<Run>) {
        // A session that has just met its end takes nothing any more.
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.identity().is_some()) else { return };
        for run in runs {
            let plain_bytes = run.len() as u64;
            let run = match session.outbound.window {
                None => Rc::new(run),
                Some(window) => self.twins.of_page(window, run),
            };
            self.stats.deliveries_total += u64::from(run.count);
            self.stats.outbound_bytes_total += run.len() as u64;
            self.stats.outbound_saved_bytes_total += plain_bytes - run.len() as u64;
            self.stats.queued_bytes += run.len() as u64;
            session.outbound.push_run(&run);
        }
        self.flush(key);
    }

    /// This shard fell behind: its interest is gone, its live subscriptions read on from what they have.
    pub(super) fn handle_lagged(&mut self, channel: ChannelId) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        entry.listed = false;
        if entry.interest == Interest::Live {
            self.lag(channel);
        }
    }

    fn lag(&mut self, channel: ChannelId) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        if entry.live() == 0 {
            entry.interest = Interest::Off;
            self.serve_parked(channel);
            self.left(channel);
            return;
        }
        entry.interest = Interest::Joining;
        self.groups.push(channel);
        if entry.history == HistoryClass::None {
            // Nothing of it can be read again: everyone is told.
            let live: Vec<_> = entry.members()[..entry.live() as usize].to_vec();
            for key in live.into_iter().filter_map(|index| self.sessions.key(index)).collect::<Vec<_>>() {
                self.send_lost(key, channel);
            }
        }
    }

    /// Tells a session that messages of a channel without history are lost. Who does not read that meets its end as with replies.
    fn send_lost(&mut self, key: SessionKey, channel: ChannelId) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let before = session.outbound.queued_bytes();
        session.outbound.push_mark(&mut self.scratch, channel, (NOWHERE, NOWHERE));
        self.stats.queued_bytes += (session.outbound.queued_bytes() - before) as u64;
        self.stats.ephemeral_dropped_total += 1;
        if session.outbound.control_frames() > self.config.control_frames_max {
            self.end_session(key, Code::SlowConsumer, "the queue is full: read faster", Queue::Drop);
            return;
        }
        self.flush(key);
    }

    /// The home ended: so do the live subscriptions.
    pub(super) fn handle_gone(&mut self, channel: ChannelId, code: Code) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        entry.listed = false;
        if entry.interest != Interest::Live {
            return;
        }
        entry.interest = Interest::Off;
        self.unsubscribe_live(channel, code);
        self.serve_parked(channel);
        self.left(channel);
    }

    fn unsubscribe_live(&mut self, channel: ChannelId, code: Code) {
        let Some(entry) = self.channels.get(channel) else { return };
        let live: Vec<_> = entry.members()[..entry.live() as usize].to_vec();
        for index in live {
            if let Some(key) = self.sessions.key(index) {
                self.unsubscribed(key, channel, code);
            }
        }
    }

    /// Ends a subscription that the client has, and tells it why. It hears no more of the channel, not even what waits in its queue.
    pub(super) fn unsubscribed(&mut self, key: SessionKey, channel: ChannelId, code: Code) {
        self.note_unsubscribed(key, channel, code);
        // With its last user the channel's entry goes, and with that its name.
        let name = self.name_of(channel);
        self.drop_queued(key, channel);
        match self.drop_subscription(key, channel) {
            Some(SubscriptionState::Joining { request, .. }) => {
                self.refuse_subscribe(key, request, code, name.as_ref())
            }
            Some(_) => {
                let body = ServerBody::Unsubscribed { channel, code: code.number(), reason: code.meaning().trim() };
                self.send_as(key, 0, body, ControlKind::Closing(channel));
            }
            None => {}
        }
        self.refuse_pages(key, channel);
    }

    /// Pages of the channel's history that wait in the session's queue are not read any more.
    fn refuse_pages(&mut self, key: SessionKey, channel: ChannelId) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let before = session.outbound.queued_bytes();
        let requests = session.outbound.drop_pages(channel);
        self.stats.queued_bytes -= (before - session.outbound.queued_bytes()) as u64;
        for request in requests {
            self.send_error(key, request, Code::NotSubscribed);
        }
    }

    /// Asks for what the group of live subscriptions and those who wait to start at the tail need next.
    pub(super) fn join_groups(&mut self, now: Now) {
        for channel in std::mem::take(&mut self.groups) {
            let Some(entry) = self.channels.get_mut(channel) else { continue };
            if entry.interest != Interest::Joining {
                continue;
            }
            let start = match entry.history {
                HistoryClass::Durable | HistoryClass::Windowed if entry.live() > 0 => {
                    JoinStart::Continue(entry.position)
                }
                _ => JoinStart::Tail,
            };
            self.joins = self.joins.wrapping_add(1);
            let ticket = Ticket { session: None, number: self.joins, reserved: false };
            entry.group = Some(ticket.number);
            if !self.send_join(channel, ticket, start) {
                self.group_refused(now, channel, Code::Busy);
            }
        }
    }

    /// The answer to the group.
    pub(super) fn group_joined(&mut self, now: Now, channel: ChannelId, result: Result<Catch, Code>) {
        let catch = match result {
            Ok(catch) => catch,
            Err(code) => return self.group_refused(now, channel, code),
        };
        for run in catch.runs {
            self.deliver(channel, run);
        }
        let Some(entry) = self.channels.get_mut(channel) else { return };
        entry.position = catch.position;
        if catch.live {
            entry.interest = Interest::Live;
            self.serve_waiting(channel);
        } else {
            self.groups.push(channel);
        }
    }

    fn group_refused(&mut self, now: Now, channel: ChannelId, code: Code) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        let waiting = std::mem::take(&mut entry.waiting);
        let retries = code.advice() == Advice::Retry && entry.live() > 0;
        entry.interest = if retries { Interest::Retrying } else { Interest::Off };
        for (key, number) in waiting {
            if self.is_current(key, channel, number) {
                self.unsubscribed(key, channel, code);
            }
        }
        if retries {
            // Those who are live stay: they miss nothing that they cannot read later.
            self.later(now, self.config.home.retry, Chore::Rejoin(channel));
        } else {
            self.unsubscribe_live(channel, code);
            self.serve_parked(channel);
        }
        self.left(channel);
    }

    pub(super) fn rejoin(&mut self, channel: ChannelId) {
        if let Some(entry) = self.channels.get_mut(channel)
            && entry.interest == Interest::Retrying
        {
            entry.interest = Interest::Joining;
            self.groups.push(channel);
        }
    }
}
