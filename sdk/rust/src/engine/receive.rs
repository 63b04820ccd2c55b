//! Frames in: each is an answer to a request, or news of a channel or of the session.

use std::sync::Arc;
use std::time::Instant;

use millrace_protocol::client::{self as wire, HistoryClass, ServerBody, decode_server};
use millrace_protocol::code::{Advice, Code};
use millrace_protocol::id::{ChannelId, Position, ProducerSequence};

use super::channel::{Attach, Facts};
use super::subscription::Mode;
use super::transmit::Control;
use super::{Action, Engine, Key, Request, Ticket};
use crate::error::Error;
use crate::event::{Message, Page};

impl Engine {
    /// One whole frame from the node.
    pub(crate) fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        if !self.is_connected() {
            return;
        }
        self.heard(now);
        // Whoever goes on speaking did not close for what was said before.
        self.complaint = None;
        let frame = match decode_server(frame) {
            Ok(frame) => frame,
            Err(error) => return self.drop_connection(now, Error::Protocol(Arc::new(error))),
        };
        match frame.body {
            ServerBody::Welcome(welcome) => self.welcomed(now, &welcome),
            ServerBody::Subscribed(answer) => self.subscribed(now, frame.request, &answer),
            ServerBody::Unsubscribed { channel, code, reason } => {
                self.requests.remove(&frame.request);
                self.unsubscribed(now, channel, code, reason);
            }
            ServerBody::Published(published) => self.published(now, frame.request, &published),
            ServerBody::Message(message) => {
                let Some(&key) = self.by_number.get(&message.channel) else { return };
                // Before the answer, it is of a subscription that is replaced.
                let channel = self.channels.get_mut(&key).filter(|channel| channel.attach == Attach::On(Mode::Read));
                if let Some(channel) = channel
                    && let Some(subscription) = &mut channel.subscription
                {
                    channel.reads.seen(message.position);
                    subscription.message(now, &message, &mut self.random);
                    self.note_unread(key);
                    self.told(now, key);
                }
            }
            ServerBody::Page { channel: _, messages, more } => self.page(now, frame.request, &messages, more),
            ServerBody::Refreshed { token_expires_ms } => {
                self.requests.remove(&frame.request);
                self.refreshed(now, token_expires_ms);
            }
            ServerBody::Error { code, message, retry_after_ms, channel } => {
                let error = Error::refused(code, message, retry_after_ms);
                if self.is_hello(frame.request) {
                    self.hello_refused(now, channel, error);
                } else {
                    self.refused(now, frame.request, error);
                }
            }
            ServerBody::Ping => {
                if !self.control.iter().any(|control| matches!(control, Control::Pong)) {
                    self.control.push_back(Control::Pong);
                }
            }
            ServerBody::GoAway { code, after_ms, endpoints } => self.told_to_go(now, code, after_ms, &endpoints),
            ServerBody::Skipped { channel, first, last } => {
                let Some(&key) = self.by_number.get(&channel) else { return };
                let channel = self.channels.get_mut(&key).filter(|channel| channel.attach == Attach::On(Mode::Read));
                if let Some(subscription) = channel.and_then(|channel| channel.subscription.as_mut()) {
                    subscription.skipped(now, first, last, &mut self.random);
                    self.seen(key, last);
                    self.sync(now, key);
                }
            }
            ServerBody::Read { channel, position } => self.read_moved(now, frame.request, channel, position),
            ServerBody::Unknown => {}
        }
    }

    /// There is a message at this position.
    fn seen(&mut self, key: Key, position: Position) {
        if let Some(channel) = self.channels.get_mut(&key) {
            channel.reads.seen(position);
            self.note_unread(key);
        }
    }

    /// The node says where the user's read position stands, in answer to a mark or unasked.
    fn read_moved(&mut self, now: Instant, request: u32, channel: ChannelId, position: Position) {
        let key = match self.requests.remove(&request) {
            Some(Request::MarkRead(key)) => {
                if let Some(channel) = self.channels.get_mut(&key) {
                    channel.reads.answered(position);
                    channel.backoff.reset();
                }
                key
            }
            _ => {
                let Some(&key) = self.by_number.get(&channel) else { return };
                if let Some(channel) = self.channels.get_mut(&key) {
                    channel.reads.moved(position);
                }
                key
            }
        };
        self.note_unread(key);
        self.sync(now, key);
        self.finish_if_flushed(now);
    }

    /// After a message: as [`Engine::sync`], which only a subscription that stopped being live needs.
    fn told(&mut self, now: Instant, key: Key) {
        let Some(channel) = self.channels.get(&key) else { return };
        let steady = matches!(channel.attach, Attach::On(mode) if channel.wanted() == Some(mode));
        if steady { self.tell_events(key) } else { self.sync(now, key) }
    }

    fn subscribed(&mut self, now: Instant, request: u32, answer: &wire::Subscribed<'_>) {
        let Some(&key) = self.by_name.get(answer.name) else { return };
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let facts = Facts { head: answer.position, history: answer.history, can_publish: answer.can_publish };
        channel.facts = Some(facts);
        let keeps_history = answer.history != HistoryClass::None;
        channel.reads.subscribed(keeps_history.then_some(answer.position));
        self.note_unread(key);
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let mode = match channel.attach {
            Attach::Asked { mode, request: asked, .. } if asked == request => mode,
            // News of a channel that we have: only the rights can have changed.
            _ => {
                if let Some(subscription) = &mut channel.subscription {
                    subscription.note_can_publish(answer.can_publish);
                }
                return self.sync(now, key);
            }
        };
        self.requests.remove(&request);
        channel.attach = Attach::On(mode);
        channel.backoff.reset();
        if let Some(number) = channel.number.replace(answer.channel) {
            self.by_number.remove(&number);
        }
        self.by_number.insert(answer.channel, key);
        if std::mem::take(&mut channel.is_outdated) {
            if let Some(mode) = channel.wanted() {
                self.ask(now, key, mode);
            }
            return self.sync(now, key);
        }
        if let Some(subscription) = &mut channel.subscription {
            subscription.subscribed(now, mode, answer, &mut self.random);
        }
        self.opened(now, key);
    }

    fn unsubscribed(&mut self, now: Instant, channel: ChannelId, code: u16, reason: &str) {
        // We forget the number when we ask to be unsubscribed, so this is the node's own doing.
        let Some(&key) = self.by_number.get(&channel).filter(|_| code != 0) else { return };
        self.by_number.remove(&channel);
        let error = Error::refused(code, reason, 0);
        let Some(channel) = self.channels.get_mut(&key) else { return };
        channel.number = None;
        channel.attach = Attach::Off { retry_at: None };
        channel.is_listed = false;
        channel.reads.disconnected();
        self.ready.retain(|&ready| ready != key);
        // Answers to what is under way may come or not; whatever comes is not for what is sent from here on.
        self.requests.retain(|_, request| !request.is_of(key));
        for history in &mut channel.histories {
            history.is_asked = false;
        }
        if let Some(subscription) = &mut channel.subscription {
            subscription.disconnected();
        }
        channel.outbox.disconnected(now, self.linger, &mut self.random);
        match error.advice() {
            Advice::DoNotRetry => self.end_channel(now, key, &error),
            Advice::Authenticate => self.drop_connection(now, error),
            Advice::Retry | Advice::Reconnect | Advice::Reload => {
                let wait = channel.backoff.next(&mut self.random);
                channel.attach = Attach::Off { retry_at: Some(now + wait) };
                self.sync(now, key);
            }
        }
    }

    fn published(&mut self, now: Instant, request: u32, published: &wire::Published) {
        let key = match self.requests.remove(&request) {
            Some(Request::Publish(key, _)) => key,
            _ => return,
        };
        let Some(channel) = self.channels.get_mut(&key) else { return };
        if let Some(ticket) = channel.outbox.acknowledged(published.producer, published.sequence) {
            self.actions.push_back(Action::Sent { ticket, result: Ok(published.position) });
        }
        channel.outbox.answered(now, &mut self.random);
        channel.reads.seen(published.position);
        self.note_unread(key);
        self.touch_outbox(now, key);
        self.finish_if_flushed(now);
    }

    fn page(&mut self, now: Instant, request: u32, messages: &[wire::Message<'_>], more: bool) {
        match self.requests.remove(&request) {
            Some(Request::CatchUp(key)) => {
                if let Some(last) = messages.last() {
                    self.seen(key, last.position);
                }
                if let Some(subscription) = self.subscription(key) {
                    subscription.page(messages, more);
                    self.sync(now, key);
                }
            }
            Some(Request::History(key, ticket)) => {
                let page = Page { messages: messages.iter().map(Message::from_wire).collect(), more };
                if let Some(channel) = self.channels.get_mut(&key) {
                    channel.backoff.reset();
                }
                self.history_done(key, ticket, Ok(page));
                self.sync(now, key);
            }
            _ => {}
        }
    }

    /// An answer to a history request, unless it has been given up.
    fn history_done(&mut self, key: Key, ticket: Ticket, result: Result<Page, Error>) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        if let Some(index) = channel.histories.iter().position(|history| history.ticket == ticket && history.is_asked) {
            channel.histories.remove(index);
            self.actions.push_back(Action::Page { ticket, result });
        }
    }

    /// The node refused the session, or one of the subscriptions that came with the hello.
    fn hello_refused(&mut self, now: Instant, channel: &str, error: Error) {
        match self.by_name.get(channel) {
            Some(&key) if !ends_session(&error) => self.subscribe_refused(now, key, error),
            _ if !self.is_open() || ends_session(&error) => self.drop_connection(now, error),
            _ => tracing::warn!(%error, channel, "the node refuses what was not asked"),
        }
    }

    /// The node refused a request, or complains of the session.
    fn refused(&mut self, now: Instant, request: u32, error: Error) {
        let Some(asked) = self.requests.remove(&request) else {
            // An answer to what was taken back says nothing about the session.
            if request == 0 {
                tracing::warn!(%error, "the node complains");
                self.complaint = Some((now, error));
            }
            return;
        };
        // Whatever was asked, it is asked again on the next connection.
        let is_leaving = error.code() == Some(Code::GoingAway) && self.go_away.is_some();
        if ends_session(&error) && !is_leaving && !matches!(asked, Request::Refresh) {
            return self.drop_connection(now, error);
        }
        let is_lost = error.code() == Some(Code::NotSubscribed);
        match asked {
            Request::Subscribe(key) => self.subscribe_refused(now, key, error),
            Request::Unsubscribe => {}
            Request::Publish(key, sequence) => self.publish_refused(now, key, sequence, &error),
            Request::History(key, ticket) if is_lost || error.is_retryable() => {
                let Some(channel) = self.channels.get_mut(&key) else { return };
                let wait = channel.backoff.next(&mut self.random).max(error.retry_after().unwrap_or_default());
                if let Some(history) = channel.histories.iter_mut().find(|history| history.ticket == ticket) {
                    history.retry(now + wait, Some(error).filter(|_| !is_lost));
                }
            }
            Request::History(key, ticket) => self.history_done(key, ticket, Err(error)),
            Request::CatchUp(key) => {
                let random = &mut self.random;
                let channel = self.channels.get_mut(&key);
                match channel.and_then(|channel| channel.subscription.as_mut()) {
                    Some(subscription) if is_lost => subscription.disconnected(),
                    Some(subscription) => subscription.page_refused(now, &error, random),
                    None => {}
                }
            }
            Request::MarkRead(key) => {
                let Some(channel) = self.channels.get_mut(&key) else { return };
                if is_lost || error.is_retryable() {
                    let wait = channel.backoff.next(&mut self.random).max(error.retry_after().unwrap_or_default());
                    channel.reads.refused(Some(now + wait));
                } else {
                    tracing::warn!(%error, channel = %channel.name, "the node refuses a read position");
                    channel.reads.refused(None);
                }
                self.note_unread(key);
            }
            Request::Refresh => self.refresh_refused(now, &error),
        }
        if let Request::Publish(key, _) | Request::History(key, _) | Request::CatchUp(key) | Request::MarkRead(key) =
            asked
        {
            if is_lost {
                self.attach_again(now, key);
            }
            self.sync(now, key);
            self.finish_if_flushed(now);
        }
    }

    /// The node does not have what we think it has: ask anew, after a moment.
    fn attach_again(&mut self, now: Instant, key: Key) {
        if !self.channels.get(&key).is_some_and(|channel| matches!(channel.attach, Attach::On(_))) {
            return;
        }
        self.unsubscribe(key);
        if let Some(channel) = self.channels.get_mut(&key) {
            let wait = channel.backoff.next(&mut self.random);
            channel.attach = Attach::Off { retry_at: Some(now + wait) };
        }
    }

    fn publish_refused(&mut self, now: Instant, key: Key, sequence: ProducerSequence, error: &Error) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let code = error.code_number().unwrap_or_default();
        let retry_after = error.retry_after().unwrap_or_default();
        let given_up = channel.outbox.refused(now, sequence, code, retry_after, &mut self.random);
        channel.outbox.answered(now, &mut self.random);
        let is_stuck = channel.outbox.take_stuck();
        if error.code() == Some(Code::ReadOnly)
            && let Some(subscription) = &mut channel.subscription
        {
            subscription.note_can_publish(false);
        }
        if let Some(given_up) = given_up {
            self.send_failed(&given_up, error);
        }
        if is_stuck {
            // Only a new session can tell whether the message behind the one given up is stored.
            self.drop_connection(now, Error::disconnected("a message waits for one that was given up"));
        }
    }
}

fn ends_session(error: &Error) -> bool {
    matches!(error.advice(), Advice::Reconnect | Advice::Authenticate)
}

impl Request {
    fn is_of(&self, key: Key) -> bool {
        match *self {
            Self::Subscribe(of)
            | Self::Publish(of, _)
            | Self::History(of, _)
            | Self::CatchUp(of)
            | Self::MarkRead(of) => of == key,
            Self::Unsubscribe | Self::Refresh => false,
        }
    }
}
