//! Read positions: marks of clients on their way to the control plane, and what is told to a user's sessions.

use millrace_protocol::client::{HistoryClass, ServerBody};
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{NodeBody, ReadMark};
use millrace_protocol::{ChannelId, Code, Epoch, Position};

use super::Shard;
use super::time::Chore;
use crate::backplane::Pending;
use crate::outbound::ControlKind;
use crate::reads::{MarkWaiter, Marked, ReadAt};
use crate::session::{From, SubscriptionState};
use crate::{Now, SessionKey, VerifyToken};

impl<V: VerifyToken> Shard<V> {
    /// A client says how far its user has read. What moves nothing is answered here; the rest waits a moment, so that who scrolls
    /// costs the store one write and not one for each message.
    pub(super) fn mark_read(
        &mut self,
        now: Now,
        key: SessionKey,
        request: u32,
        (channel, position): (ChannelId, Position),
    ) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(identity) = session.identity() else { return };
        let Some(subscription) = session.subscription(channel) else {
            return self.send_error(key, request, Code::NotSubscribed);
        };
        if subscription.access.history == HistoryClass::None {
            return self.send_error(key, request, Code::NoHistory);
        }
        let read = subscription.read;
        if !read.is_behind(position) {
            if request != 0 {
                self.send(key, request, ServerBody::Read { channel, position: read.position() });
            }
            return;
        }
        let mark = ReadMark { tenant: identity.tenant, user: identity.user.clone(), channel, position };
        if self.backplane.term().is_none() {
            return self.send_error(key, request, Code::Unavailable);
        }
        if !self.marks.admits(&mark, self.config.marks_max) || !self.take_in_flight(key) {
            return self.send_error(key, request, Code::Busy);
        }
        self.stats.marks_total += 1;
        self.marks.add(mark, key, request);
        self.send_marks_later(now);
    }

    fn send_marks_later(&mut self, now: Now) {
        if !self.marks.due {
            self.marks.due = true;
            self.later(now, self.config.mark_delay, Chore::Marks);
        }
    }

    /// The delay is over. While the control plane has not answered the marks before, those that wait go on growing together.
    pub(super) fn send_marks(&mut self, now: Now) {
        self.marks.due = false;
        if self.marks.is_empty() {
            return;
        }
        if self.marks.under_way > 0 {
            return self.send_marks_later(now);
        }
        self.send_all_marks();
    }

    /// Sends the marks that wait.
    pub(super) fn send_all_marks(&mut self) {
        if self.backplane.term().is_none() {
            return;
        }
        for (marks, marked) in self.marks.take() {
            self.marks.under_way += 1;
            self.stats.marks_sent_total += marks.len() as u64;
            self.backplane.ask(NodeBody::MarkReads(marks), Pending::Marks(marked));
        }
    }

    /// The control plane's answer to a request with marks.
    pub(super) fn marks_answered(&mut self, now: Now, marked: Vec<Marked>, body: NodeBody) {
        self.marks.under_way -= 1;
        match body {
            NodeBody::ReadsMarked(results) if results.len() == marked.len() => {
                for (marked, result) in marked.into_iter().zip(results) {
                    match result {
                        Ok(position) => self.mark_stored(marked, position),
                        Err(refusal) if refusal.code == Code::PositionAhead => self.mark_ahead(now, marked, &refusal),
                        Err(refusal) => self.refuse_mark(marked.waiters, &refusal),
                    }
                }
            }
            NodeBody::Refused(refusal) => self.refuse_marks(marked, &refusal),
            _ => self.refuse_marks(marked, &Refusal::new(Code::Internal, "the reply does not fit the request")),
        }
    }

    fn refuse_marks(&mut self, marked: Vec<Marked>, refusal: &Refusal) {
        for marked in marked {
            self.refuse_mark(marked.waiters, refusal);
        }
    }

    fn refuse_mark(&mut self, waiters: Vec<MarkWaiter>, refusal: &Refusal) {
        let retry_after_ms = u32::try_from(refusal.retry_after.as_millis()).unwrap_or(u32::MAX);
        for MarkWaiter { session: key, request, .. } in waiters {
            self.answered(key);
            self.send_error_about(key, request, refusal.code, &refusal.message, retry_after_ms, "");
        }
    }

    /// Nobody can have read so far, says the control plane. Who asked for less than that has no part in it: the furthest of the
    /// rest is the next mark.
    fn mark_ahead(&mut self, now: Now, marked: Marked, refusal: &Refusal) {
        let Marked { mark, waiters } = marked;
        let (rest, ahead): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|waiter| ReadAt::new(waiter.position).is_behind(mark.position));
        self.refuse_mark(ahead, refusal);
        for waiter in rest {
            let mark = ReadMark { position: waiter.position, ..mark.clone() };
            if self.marks.admits(&mark, self.config.marks_max) {
                self.marks.add(mark, waiter.session, waiter.request);
                self.send_marks_later(now);
            } else {
                self.refuse_mark(vec![waiter], &Refusal::new(Code::Busy, Code::Busy.meaning().trim()));
            }
        }
    }

    fn mark_stored(&mut self, marked: Marked, position: Position) {
        let channel = marked.mark.channel;
        for MarkWaiter { session: key, request, .. } in marked.waiters {
            self.answered(key);
            if request == 0 {
                // There is no answer to tell it by.
                self.read_moved(key, channel, position);
                continue;
            }
            // Who asked hears it in the answer, and not again when all are told.
            let session = self.sessions.get_mut(key);
            if let Some(subscription) = session.and_then(|session| session.subscription_mut(channel)) {
                subscription.read.advance(position);
            }
            self.send(key, request, ServerBody::Read { channel, position });
        }
    }

    /// The link is cut: whether marks under way are stored is not known, and to send them again is harmless.
    pub(super) fn forget_marks(&mut self, under_way: Vec<Marked>) {
        let refusal = Refusal::new(Code::Unavailable, Code::Unavailable.meaning().trim());
        self.refuse_marks(under_way, &refusal);
        for (_, marked) in self.marks.take() {
            self.refuse_marks(marked, &refusal);
        }
        self.marks.under_way = 0;
    }

    /// Read positions moved, by whichever way.
    pub(super) fn reads_moved(&mut self, moved: &[ReadMark]) {
        for mark in moved {
            self.grants.note_read(mark);
            for key in self.users.find(&self.sessions, mark.tenant, &mark.user) {
                self.read_moved(key, mark.channel, mark.position);
            }
        }
    }

    /// A session's user has read the channel so far. Before `subscribed` the client does not know the channel's number; it hears of the
    /// position right behind it.
    pub(super) fn read_moved(&mut self, key: SessionKey, channel: ChannelId, position: Position) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let told = session.hears_reads;
        let Some(subscription) = session.subscription_mut(channel) else { return };
        let joining = matches!(subscription.state, SubscriptionState::Joining { .. });
        if subscription.read.advance(position) && told && !joining {
            self.send_read(key, channel);
        }
    }

    /// A subscription has found its channel in an epoch. A position that was looked up before that began is one of messages that may be
    /// lost, and only the control plane knows how many are: it is asked again, and sessions to come do not take the old one for granted.
    pub(super) fn renew_read(&mut self, key: SessionKey, channel: ChannelId, epoch: Epoch) {
        let Some(session) = self.sessions.get(key) else { return };
        let (Some(identity), Some(subscription)) = (session.identity(), session.subscription(channel)) else { return };
        let read = subscription.read.position();
        if read.offset > 0 && read.epoch < epoch {
            self.grants.forget(identity.tenant, &identity.user, channel);
            self.reauthorize.push(key, channel);
        }
    }

    /// Tells where the position stands, in order behind `subscribed`: before that the client does not know the channel's number.
    pub(super) fn send_read(&mut self, key: SessionKey, channel: ChannelId) {
        let Some(session) = self.sessions.get(key).filter(|session| session.hears_reads) else { return };
        let Some(subscription) = session.subscription(channel) else { return };
        if subscription.access.history != HistoryClass::None {
            let kind = match subscription.state {
                SubscriptionState::Attached | SubscriptionState::Joining { from: From::Nowhere, .. } => {
                    ControlKind::Attached(channel)
                }
                _ => ControlKind::Channel(channel),
            };
            let position = subscription.read.position();
            self.send_as(key, 0, ServerBody::Read { channel, position }, kind);
        }
    }
}
