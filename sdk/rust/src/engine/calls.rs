//! What the application asks for: handles of channels, messages to send, pages of history, and an end.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use millrace_protocol::client::{HistoryClass, HistoryRange};
use millrace_protocol::id::{ChannelName, Position};

use super::backoff::Backoff;
use super::channel::{Attach, Channel, History, Waiter};
use super::connection::Link;
use super::outbox::{GivenUp, Outbox, random_producer};
use super::subscription::{Mode, Start, Subscription};
use super::{Action, Engine, Handle, Key, Opened, Ticket};
use crate::error::{Awaited, Error};
use crate::event::Event;

/// Most history requests that wait for an answer in one channel.
const HISTORIES_MAX: usize = 64;

impl Engine {
    /// Opens a handle: a reader if `start` is given, else a sender. Unless it is refused here, the channel's key is known
    /// at once, and an [`Action::Opened`] follows.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        name: &str,
        start: Option<Start>,
        ticket: Ticket,
    ) -> Result<Key, Error> {
        if let Some(error) = self.why_closed() {
            return Err(error);
        }
        ChannelName::new(name)?;
        let key = self.by_name.get(name).copied().unwrap_or_else(|| self.add_channel(name));
        let Some(channel) = self.channels.get_mut(&key) else { return Err(Error::Closed) };
        let handle = match start {
            Some(_) if channel.subscription.is_some() => {
                return Err(Error::AlreadySubscribed { channel: channel.name.clone() });
            }
            Some(start) => {
                let mut subscription = Subscription::new(start, self.config.queue, self.config.backoff);
                if let Some(facts) = channel.facts {
                    subscription.note_can_publish(facts.can_publish);
                }
                channel.subscription = Some(subscription);
                Handle::Reader
            }
            None => Handle::Sender,
        };
        // A reader comes with a sender, which is released on its own.
        channel.senders += 1;
        let deadline = now + self.config.request_timeout;
        channel.waiters.push(Waiter { ticket, handle, deadline, error: None });
        match channel.attach {
            Attach::On(_) if handle == Handle::Sender => self.opened(now, key),
            // A subscription begins with an answer, and with one of its own.
            Attach::On(_) => {
                if let Some(mode) = channel.wanted() {
                    self.ask(now, key, mode);
                }
                self.sync(now, key);
            }
            Attach::Asked { mode: Mode::Read, .. } if handle == Handle::Reader => channel.is_outdated = true,
            _ => self.sync(now, key),
        }
        Ok(key)
    }

    fn add_channel(&mut self, name: &str) -> Key {
        self.keys += 1;
        let key = Key(self.keys);
        let name: Arc<str> = name.into();
        let outbox = Outbox::new(random_producer(&mut self.random), self.config.backoff);
        self.channels.insert(key, Channel::new(name.clone(), outbox, Backoff::new(self.config.backoff)));
        self.by_name.insert(name, key);
        key
    }

    /// Tells those who wait for a handle what the node has answered.
    pub(super) fn opened(&mut self, now: Instant, key: Key) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let Some(facts) = channel.facts else { return };
        let position = channel.subscription.as_ref().and_then(Subscription::position);
        let is_open = |waiter: &mut Waiter| waiter.handle == Handle::Sender || position.is_some();
        for waiter in channel.waiters.extract_if(.., is_open) {
            let position = position.filter(|_| waiter.handle == Handle::Reader).unwrap_or(facts.head);
            let unread = channel.reads.unread();
            let opened = Opened { position, history: facts.history, can_publish: facts.can_publish, unread };
            self.actions.push_back(Action::Opened { ticket: waiter.ticket, key, result: Ok(opened) });
        }
        self.sync(now, key);
    }

    /// Nobody waits for a handle any more; returns its channel.
    pub(crate) fn abandon(&mut self, now: Instant, ticket: Ticket) -> Option<Key> {
        let key = self.channels.iter_mut().find_map(|(&key, channel)| {
            let index = channel.waiters.iter().position(|waiter| waiter.ticket == ticket)?;
            let waiter = channel.waiters.remove(index);
            channel.refuse_handle(waiter.handle);
            Some(key)
        })?;
        self.sync(now, key);
        Some(key)
    }

    /// A handle was dropped. A sender's messages still go out.
    pub(crate) fn release(&mut self, now: Instant, key: Key, handle: Handle) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        match handle {
            Handle::Reader => channel.subscription = None,
            Handle::Sender => channel.senders = channel.senders.saturating_sub(1),
        }
        self.sync(now, key);
    }

    /// Sends a message; an [`Action::Sent`] follows.
    pub(crate) fn send(&mut self, now: Instant, key: Key, ticket: Ticket, body: Bytes) {
        let bytes_max = self.payload_bytes_max;
        let error = match self.channels.get(&key) {
            _ if self.why_closed().is_some() => self.why_closed(),
            None => Some(Error::Closed),
            Some(channel) if channel.ended.is_some() => channel.ended.clone(),
            Some(_) if body.len() > bytes_max => Some(Error::TooLarge { bytes: body.len(), bytes_max }),
            Some(_) => None,
        };
        if let Some(error) = error {
            self.actions.push_back(Action::Sent { ticket, result: Err(error) });
            return;
        }
        let deadline = self.config.send_timeout.and_then(|timeout| now.checked_add(timeout));
        if let Some(channel) = self.channels.get_mut(&key) {
            channel.outbox.push(ticket, body, deadline);
        }
        self.touch_outbox(now, key);
    }

    /// The short way of [`Engine::sync`] for a channel where only the outbox has changed.
    pub(super) fn touch_outbox(&mut self, now: Instant, key: Key) {
        match self.channels.get_mut(&key) {
            Some(channel) if matches!(channel.attach, Attach::On(_)) && channel.outbox.is_ready(now) => {
                if !channel.is_listed {
                    channel.is_listed = true;
                    self.ready.push_back(key);
                }
                self.arm_tick(now);
            }
            _ => self.sync(now, key),
        }
    }

    /// The user has read a channel so far.
    pub(crate) fn mark_read(&mut self, now: Instant, key: Key, position: Position) {
        if !self.has_reads || self.why_closed().is_some() {
            return;
        }
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let keeps_nothing = channel.facts.is_some_and(|facts| facts.history == HistoryClass::None);
        if keeps_nothing || channel.ended.is_some() {
            return;
        }
        channel.reads.mark(position);
        self.note_unread(key);
        self.sync(now, key);
    }

    /// Reads a page of history; an [`Action::Page`] follows.
    pub(crate) fn history(&mut self, now: Instant, key: Key, ticket: Ticket, range: HistoryRange, messages_max: u32) {
        let closed = self.why_closed();
        let error = match self.channels.get(&key) {
            _ if closed.is_some() => closed,
            None => Some(Error::Closed),
            Some(channel) if channel.ended.is_some() => channel.ended.clone(),
            Some(channel) if channel.histories.len() >= HISTORIES_MAX => Some(Error::TooManyRequests),
            Some(_) => None,
        };
        if let Some(error) = error {
            self.actions.push_back(Action::Page { ticket, result: Err(error) });
            return;
        }
        let deadline = now + self.config.request_timeout;
        if let Some(channel) = self.channels.get_mut(&key) {
            channel.histories.push_back(History::new(ticket, range, messages_max, deadline));
        }
        self.sync(now, key);
    }

    /// Nobody waits for a page any more.
    pub(crate) fn abandon_history(&mut self, now: Instant, key: Key, ticket: Ticket) {
        if let Some(channel) = self.channels.get_mut(&key) {
            channel.histories.retain(|history| history.ticket != ticket);
            self.sync(now, key);
        }
    }

    /// The application took events of a subscription out of its queue.
    pub(crate) fn taken(&mut self, now: Instant, key: Key, events: u32, bytes: u64) {
        if let Some(subscription) = self.subscription(key) {
            subscription.taken(events, bytes);
            self.sync(now, key);
        }
    }

    /// Ends the client once every message has had its end, or the time for that is over.
    pub(crate) fn close(&mut self, now: Instant) {
        if self.closing.is_none() && !matches!(self.link, Link::Closed(_)) {
            self.closing = Some(now + self.config.close_timeout);
        }
        self.finish_if_flushed(now);
    }

    /// Why the engine takes no calls any more, if it does not.
    fn why_closed(&self) -> Option<Error> {
        match &self.link {
            Link::Closed(error) => Some(error.clone().unwrap_or(Error::Closed)),
            _ => self.closing.map(|_| Error::Closed),
        }
    }

    /// Gives up what has waited too long in a channel.
    pub(super) fn expire(&mut self, now: Instant, key: Key) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        while let Some(given_up) = channel.outbox.expire(now, &mut self.random) {
            let result = Err(given_up_error(&given_up, &Error::TimedOut(Awaited::Acknowledgement)));
            self.actions.push_back(Action::Sent { ticket: given_up.ticket, result });
        }
        while let Some(history) = channel.histories.pop_front_if(|history| history.deadline <= now) {
            let error = history.error.unwrap_or(Error::TimedOut(Awaited::Answer));
            self.actions.push_back(Action::Page { ticket: history.ticket, result: Err(error) });
        }
        let late: Vec<_> = channel.waiters.extract_if(.., |waiter| waiter.deadline <= now).collect();
        for waiter in late {
            channel.refuse_handle(waiter.handle);
            let error = waiter.error.unwrap_or(Error::TimedOut(Awaited::Answer));
            self.actions.push_back(Action::Opened { ticket: waiter.ticket, key, result: Err(error) });
        }
    }

    /// The node refused a channel for good: everything that wants something of it fails.
    pub(super) fn end_channel(&mut self, now: Instant, key: Key, error: &Error) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        channel.ended = Some(error.clone());
        channel.reads.give_up();
        if self.by_name.get(&channel.name) == Some(&key) {
            self.by_name.remove(&channel.name);
        }
        for waiter in std::mem::take(&mut channel.waiters) {
            channel.refuse_handle(waiter.handle);
            self.actions.push_back(Action::Opened { ticket: waiter.ticket, key, result: Err(error.clone()) });
        }
        while let Some(given_up) = channel.outbox.give_up_next() {
            let result = Err(given_up_error(&given_up, error));
            self.actions.push_back(Action::Sent { ticket: given_up.ticket, result });
        }
        for history in channel.histories.drain(..) {
            self.actions.push_back(Action::Page { ticket: history.ticket, result: Err(error.clone()) });
        }
        if channel.subscription.is_some() {
            self.tell_events(key);
            self.actions.push_back(Action::Deliver { key, event: Event::Ended(error.clone()) });
        }
        self.sync(now, key);
    }

    /// The error of a message that is given up.
    pub(super) fn send_failed(&mut self, given_up: &GivenUp, error: &Error) {
        let result = Err(given_up_error(given_up, error));
        self.actions.push_back(Action::Sent { ticket: given_up.ticket, result });
    }

    /// The node refused to subscribe the session.
    pub(super) fn subscribe_refused(&mut self, now: Instant, key: Key, error: Error) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        if !error.is_retryable() {
            channel.attach = Attach::Off { retry_at: None };
            return self.end_channel(now, key, &error);
        }
        let wait = channel.backoff.next(&mut self.random);
        let wait = wait.max(error.retry_after().unwrap_or_default());
        channel.attach = Attach::Off { retry_at: Some(now + wait) };
        for waiter in &mut channel.waiters {
            waiter.error = Some(error.clone());
        }
        self.sync(now, key);
    }
}

pub(super) fn given_up_error(given_up: &GivenUp, error: &Error) -> Error {
    if given_up.uncertain { error.clone().unconfirmed() } else { error.clone() }
}
