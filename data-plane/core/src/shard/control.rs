//! The control link: replies, pushes, and what happens when it is cut and comes back.

use std::collections::VecDeque;

use millrace_protocol::code::{Advice, Refusal};
use millrace_protocol::node::{Authorize, ChannelRef, Grant, NodeBody, NodeFrame, PublishOrder};
use millrace_protocol::{ChannelId, Code, Term};

use super::Shard;
use super::request::Waiter;
use super::time::Chore;
use crate::backplane::Pending;
use crate::grant::{ASK_BATCH_MAX, Access, Granted, Question};
use crate::hop::{Origin, Publish};
use crate::reads::ReadAt;
use crate::{Now, SessionKey, VerifyToken};

/// Grants that wait one by one to be asked for again. When there are more, all grants in use are asked for: that takes no memory.
const AGAIN_MAX: usize = 16_384;

/// Asks again for grants that are in use: for all of them after the link was cut, for a channel's after it changed.
#[derive(Debug, Default)]
pub(super) struct Reauthorize {
    /// Sessions at and after this place are still to be asked for.
    cursor: Option<u32>,
    /// After this pass another one begins: those before the place are to be asked for once more.
    another: bool,
    again: VecDeque<(SessionKey, ChannelId)>,
    asked: bool,
    failed: bool,
}

impl Reauthorize {
    /// Begins a pass over all grants in use, behind the one under way: beginning anew each time would never reach the last sessions.
    pub(super) fn begin(&mut self) {
        self.another = self.cursor.is_some();
        self.cursor.get_or_insert(0);
        self.failed = false;
    }

    fn end_pass(&mut self) {
        self.cursor = std::mem::take(&mut self.another).then_some(0);
    }

    pub(super) fn push(&mut self, key: SessionKey, channel: ChannelId) {
        if self.again.len() < AGAIN_MAX {
            self.again.push_back((key, channel));
        } else {
            self.again = VecDeque::new();
            self.begin();
        }
    }
}

impl<V: VerifyToken> Shard<V> {
    pub(super) fn link_up(&mut self, now: Now, term: Term) {
        if self.backplane.term().is_some() {
            self.link_down(now);
        }
        self.backplane.up(term);
        self.with_homes(now, crate::homes::Homes::handle_link_up);
        // Changes of the meantime were not heard of.
        self.reauthorize.begin();
    }

    pub(super) fn link_down(&mut self, now: Now) {
        let mut marked = Vec::new();
        for pending in self.backplane.down() {
            if let Pending::Marks(of) = pending {
                marked.extend(of);
            }
        }
        self.forget_marks(marked);
        self.reauthorize = Reauthorize::default();
        for (question, waiting) in self.grants.forget_all() {
            for waiter in waiting {
                let message = Code::Unavailable.meaning().trim();
                self.refuse_waiter(waiter, Code::Unavailable, message, 0, question.name.as_str());
            }
        }
        self.with_homes(now, crate::homes::Homes::handle_link_down);
    }

    pub(super) fn control_frame(&mut self, now: Now, frame: NodeFrame) {
        let NodeFrame { id, body } = frame;
        match body {
            NodeBody::Authorized(_)
            | NodeBody::HomesOpened(_)
            | NodeBody::Appended(_)
            | NodeBody::History(_)
            | NodeBody::HomesClosed
            | NodeBody::ReadsMarked(_)
            | NodeBody::Refused(_) => {
                if let Some(pending) = self.backplane.answered(id) {
                    self.control_reply(now, pending, body);
                }
            }
            NodeBody::Publish(order) => self.order(now, id, order),
            NodeBody::MemberChanged(change) => self.member_changed(&change),
            NodeBody::ChannelChanged { channel, archived, .. } => self.channel_changed(now, channel, archived),
            NodeBody::TokensRevoked(revoked) => self.tokens_revoked(&revoked),
            NodeBody::ReadsMoved(moved) => self.reads_moved(&moved),
            // What they say is the verifier's.
            NodeBody::Keys(_) | NodeBody::Synced => self.keys_told = true,
            // Requests that only we make, and the link's own frames.
            _ => {}
        }
    }

    fn control_reply(&mut self, now: Now, pending: Pending, body: NodeBody) {
        let refused = |body: NodeBody| match body {
            NodeBody::Refused(refusal) => refusal,
            _ => Refusal::new(Code::Internal, "the reply does not fit the request"),
        };
        match (pending, body) {
            (Pending::Authorize(questions), NodeBody::Authorized(grants)) if questions.len() == grants.len() => {
                for (question, result) in questions.into_iter().zip(grants) {
                    self.authorized(question, result);
                }
            }
            (Pending::Authorize(questions), body) => {
                let refusal = refused(body);
                for question in questions {
                    self.authorized(question, Err(refusal.clone()));
                }
            }
            (Pending::Reauthorize(asked), NodeBody::Authorized(grants)) if asked.len() == grants.len() => {
                self.reauthorize.asked = false;
                for ((key, channel), result) in asked.into_iter().zip(grants) {
                    self.reauthorized(key, channel, result);
                }
            }
            (Pending::Reauthorize(_), _) => {
                self.reauthorize.asked = false;
                self.reauthorize.failed = true;
            }
            (Pending::Open(keys), NodeBody::HomesOpened(heads)) => {
                self.with_homes(now, |homes, context| homes.handle_opened(context, keys, Ok(heads)));
            }
            (Pending::Open(keys), body) => {
                self.with_homes(now, |homes, context| homes.handle_opened(context, keys, Err(refused(body))));
            }
            (Pending::Append(keys), NodeBody::Appended(appended)) => {
                self.with_homes(now, |homes, context| homes.handle_appended(context, keys, Ok(appended)));
            }
            (Pending::Append(keys), body) => {
                let refusal = match refused(body) {
                    // Whatever was meant, whether anything is stored is not known.
                    refusal if refusal.code == Code::Internal => Refusal::new(Code::UnknownOutcome, refusal.message),
                    refusal => refusal,
                };
                self.with_homes(now, |homes, context| homes.handle_appended(context, keys, Err(refusal)));
            }
            (Pending::Read(key, number), NodeBody::History(history)) => {
                self.with_homes(now, |homes, context| homes.handle_history(context, key, number, Ok(history)));
            }
            (Pending::Read(key, number), body) => {
                self.with_homes(now, |homes, context| homes.handle_history(context, key, number, Err(refused(body))));
            }
            (Pending::Marks(marked), body) => self.marks_answered(now, marked, body),
            (Pending::Close(keys), body) => {
                let closed = matches!(body, NodeBody::HomesClosed);
                self.with_homes(now, |homes, context| homes.handle_closed(context, keys, closed));
            }
        }
    }

    /// A message that came in over REST.
    fn order(&mut self, now: Now, id: u64, order: PublishOrder) {
        let origin = Origin::Order { id, link: self.backplane.link() };
        let PublishOrder { channel, history, message, .. } = order;
        let publish = Publish { channel, history, origin, message, since: now.instant };
        self.with_homes(now, |homes, context| homes.publish(context, publish));
    }

    /// Asks for the grants that this turn needs.
    pub(super) fn ask_grants(&mut self) {
        while self.grants.has_unasked() && self.backplane.term().is_some() {
            let questions = self.grants.take_unasked();
            self.stats.grants_asked_total += questions.len() as u64;
            let body = NodeBody::Authorize(questions.iter().map(Question::to_authorize).collect());
            self.backplane.ask(body, Pending::Authorize(questions));
        }
    }

    fn authorized(&mut self, question: Question, result: Result<Grant, Refusal>) {
        let waiting = self.grants.answered(&question);
        match result {
            Ok(grant) => {
                // One name is shared by all who use the channel here.
                let entry = self.channels.get(grant.channel);
                let name = entry.map_or(&question.name, |entry| &entry.name).clone();
                let read = grant.read.map(ReadAt::new).unwrap_or_default();
                let granted = Granted { channel: grant.channel, name, access: Access::of(&grant), read };
                for waiter in waiting {
                    self.begin(&waiter, &granted);
                }
                self.grants.remember(question.tenant, question.user, granted);
            }
            Err(refusal) => {
                let retry_after_ms = u32::try_from(refusal.retry_after.as_millis()).unwrap_or(u32::MAX);
                for waiter in waiting {
                    let name = question.name.as_str();
                    self.refuse_waiter(waiter, refusal.code, &refusal.message, retry_after_ms, name);
                }
            }
        }
    }

    fn refuse_waiter(&mut self, waiter: Waiter, code: Code, message: &str, retry_after_ms: u32, name: &str) {
        self.subscribe_answered(waiter.session);
        self.send_error_about(waiter.session, waiter.request, code, message, retry_after_ms, name);
    }

    /// Asks again for grants in use: one bounded request at a time.
    pub(super) fn ask_again(&mut self) {
        if self.reauthorize.asked || self.backplane.term().is_none() {
            return;
        }
        let mut batch = Vec::new();
        while batch.len() < ASK_BATCH_MAX
            && let Some(next) = self.reauthorize.again.pop_front()
        {
            batch.push(next);
        }
        while batch.len() < ASK_BATCH_MAX
            && let Some(index) = self.reauthorize.cursor
        {
            if index >= self.sessions.end() {
                self.reauthorize.end_pass();
                break;
            }
            if let Some((key, session)) = self.sessions.entry_mut(index) {
                batch.extend(session.subscriptions.iter().map(|subscription| (key, subscription.channel)));
            }
            self.reauthorize.cursor = Some(index + 1);
        }
        let mut asked = Vec::with_capacity(batch.len());
        let mut questions = Vec::with_capacity(batch.len());
        for (key, channel) in batch {
            let Some(session) = self.sessions.get(key) else { continue };
            let Some(identity) = session.identity() else { continue };
            let (tenant, user) = (identity.tenant, identity.user.clone());
            questions.push(Authorize { tenant, user, channel: ChannelRef::Id(channel) });
            asked.push((key, channel));
        }
        if !asked.is_empty() {
            self.reauthorize.asked = true;
            self.backplane.ask(NodeBody::Authorize(questions), Pending::Reauthorize(asked));
        }
    }

    /// Whether grants in use are to be asked for again in the next turn.
    pub(super) fn asks_again(&self) -> bool {
        let reauthorize = &self.reauthorize;
        let due = !reauthorize.again.is_empty() || reauthorize.cursor.is_some();
        due && !reauthorize.asked && self.backplane.term().is_some()
    }

    /// After the last answer of a pass some of which failed: once more, later.
    pub(super) fn repeat_reauthorize(&mut self, now: Now) {
        let reauthorize = &mut self.reauthorize;
        if reauthorize.failed && !reauthorize.asked && reauthorize.again.is_empty() && reauthorize.cursor.is_none() {
            reauthorize.failed = false;
            self.later(now, self.config.home.retry * 10, Chore::Reauthorize);
        }
    }

    fn reauthorized(&mut self, key: SessionKey, channel: ChannelId, result: Result<Grant, Refusal>) {
        match result {
            Ok(grant) => {
                let subscription = self.sessions.get_mut(key).and_then(|session| session.subscription_mut(channel));
                if let Some(subscription) = subscription {
                    subscription.access = Access { history: subscription.access.history, ..Access::of(&grant) };
                }
                // It may have moved while the link was cut.
                if let Some(read) = grant.read {
                    self.read_moved(key, channel, read);
                }
            }
            Err(refusal) if refusal.code.advice() == Advice::Retry => self.reauthorize.failed = true,
            Err(refusal) => {
                let code = if refusal.code == Code::NoAccess { Code::Removed } else { refusal.code };
                self.unsubscribed(key, channel, code);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Channels may change faster than the control plane answers.
    #[test]
    fn what_is_asked_for_again_is_bounded_and_nobody_is_left_out() {
        let (key, channel) = (SessionKey { index: 0, generation: 1 }, ChannelId::new(1).unwrap());
        let mut reauthorize = Reauthorize::default();
        let mut push = |times: usize| {
            for _ in 0..times {
                reauthorize.push(key, channel);
                assert!(reauthorize.again.len() <= AGAIN_MAX);
            }
            (reauthorize.cursor, reauthorize.another)
        };
        assert_eq!(push(AGAIN_MAX), (None, false));
        assert_eq!(push(1), (Some(0), false), "everyone is asked for");
        assert_eq!(push(AGAIN_MAX + 1), (Some(0), true), "and once more, as those before the place changed too");
        reauthorize.end_pass();
        assert_eq!((reauthorize.cursor, reauthorize.another), (Some(0), false));
        reauthorize.end_pass();
        assert_eq!(reauthorize.cursor, None);
    }
}
