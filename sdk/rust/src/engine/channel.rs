//! All that the client knows of one channel: what its handles want, what the node was asked, what waits to be sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use millrace_protocol::client::{HistoryClass, HistoryRange};
use millrace_protocol::id::{ChannelId, Position};

use super::Ticket;
use super::backoff::Backoff;
use super::outbox::Outbox;
use super::reads::Reads;
use super::subscription::{Mode, Subscription};
use crate::error::Error;

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: Arc<str>,
    /// Its number, while this connection has it.
    pub(crate) number: Option<ChannelId>,
    pub(crate) attach: Attach,
    /// The answer that is under way is for a subscription that is no more.
    pub(crate) is_outdated: bool,
    pub(crate) subscription: Option<Subscription>,
    /// Handles that publish and read history.
    pub(crate) senders: u32,
    pub(crate) outbox: Outbox,
    pub(crate) reads: Reads,
    /// It is in the engine's list of channels with something to tell about what is unread.
    pub(crate) has_unread_news: bool,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) histories: VecDeque<History>,
    /// Between tries to subscribe.
    pub(crate) backoff: Backoff,
    /// What the node said last.
    pub(crate) facts: Option<Facts>,
    /// The node refused the channel for good, while handles were left.
    pub(crate) ended: Option<Error>,
    /// It is in the engine's list of channels with something to send.
    pub(crate) is_listed: bool,
    /// Messages sent since others had their turn.
    pub(crate) turn: usize,
    /// When the engine looks at it next.
    pub(crate) wake_at: Option<Instant>,
}

/// What the node counts the session as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attach {
    /// Nothing, and it was not asked.
    Off { retry_at: Option<Instant> },
    /// It was asked and has not answered.
    Asked { mode: Mode, request: u32, at: Instant },
    /// As asked.
    On(Mode),
}

/// What a node says of a channel in its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) head: Position,
    pub(crate) history: HistoryClass,
    pub(crate) can_publish: bool,
}

/// A call that opens a handle.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) ticket: Ticket,
    pub(crate) handle: Handle,
    pub(crate) deadline: Instant,
    /// Why the last try failed.
    pub(crate) error: Option<Error>,
}

/// What a handle does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handle {
    Reader,
    Sender,
}

/// A page that the application asked for.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) ticket: Ticket,
    pub(crate) range: HistoryRange,
    pub(crate) messages_max: u32,
    pub(crate) deadline: Instant,
    pub(crate) is_asked: bool,
    retry_at: Option<Instant>,
    /// Why the last try failed.
    pub(crate) error: Option<Error>,
}

impl History {
    pub(crate) fn new(ticket: Ticket, range: HistoryRange, messages_max: u32, deadline: Instant) -> Self {
        Self { ticket, range, messages_max, deadline, is_asked: false, retry_at: None, error: None }
    }

    /// Whether it should be asked for now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        !self.is_asked && self.retry_at.is_none_or(|at| at <= now)
    }

    /// The node refused, for now.
    pub(crate) fn retry(&mut self, at: Instant, error: Option<Error>) {
        self.is_asked = false;
        self.retry_at = Some(at);
        self.error = error.or(self.error.take());
    }
}

impl Channel {
    pub(crate) fn new(name: Arc<str>, outbox: Outbox, backoff: Backoff) -> Self {
        Self {
            name,
            number: None,
            attach: Attach::Off { retry_at: None },
            is_outdated: false,
            subscription: None,
            senders: 0,
            outbox,
            reads: Reads::default(),
            has_unread_news: false,
            waiters: Vec::new(),
            histories: VecDeque::new(),
            backoff,
            facts: None,
            ended: None,
            is_listed: false,
            turn: 0,
            wake_at: None,
        }
    }

    /// What the node should count the session as; `None` if nobody needs the channel.
    pub(crate) fn wanted(&self) -> Option<Mode> {
        match &self.subscription {
            _ if self.ended.is_some() => None,
            Some(subscription) => Some(subscription.wanted()),
            None if self.senders > 0 || !self.outbox.is_empty() || self.reads.is_pending() => Some(Mode::Attach),
            None => None,
        }
    }

    /// Whether any handle is left.
    pub(crate) fn is_held(&self) -> bool {
        self.subscription.is_some() || self.senders > 0
    }

    /// A handle that was asked for will not be.
    pub(crate) fn refuse_handle(&mut self, handle: Handle) {
        if handle == Handle::Reader {
            self.subscription = None;
        }
        self.senders = self.senders.saturating_sub(1);
    }

    /// Whether time may run out for anything here.
    pub(crate) fn is_waiting(&self) -> bool {
        let asked = matches!(self.attach, Attach::Asked { .. });
        let pulls = self.subscription.as_ref().is_some_and(|subscription| subscription.page_asked_at().is_some());
        let marks = self.reads.asked_at().is_some();
        asked || pulls || marks || !self.outbox.is_empty() || !self.waiters.is_empty() || !self.histories.is_empty()
    }

    /// Since when the oldest request has no answer.
    pub(crate) fn oldest_asked(&self) -> Option<Instant> {
        let asked = match self.attach {
            Attach::Asked { at, .. } => Some(at),
            _ => None,
        };
        let page = self.subscription.as_ref().and_then(Subscription::page_asked_at);
        [asked, page, self.outbox.oldest_sent(), self.reads.asked_at()].into_iter().flatten().min()
    }

    /// When something that pauses goes on.
    pub(crate) fn resume_at(&self) -> Option<Instant> {
        let retry = match self.attach {
            Attach::Off { retry_at } => retry_at,
            Attach::On(_) => self.outbox.resume_at(),
            Attach::Asked { .. } => None,
        };
        let pull = self.subscription.as_ref().and_then(Subscription::retry_at);
        let page =
            self.histories.iter().filter(|history| !history.is_asked).filter_map(|history| history.retry_at).min();
        [retry, pull, page, self.reads.retry_at()].into_iter().flatten().min()
    }

    /// The connection is gone, and with it what the node knew of the session.
    pub(crate) fn disconnected(&mut self) {
        self.number = None;
        self.attach = Attach::Off { retry_at: None };
        self.is_listed = false;
        self.reads.disconnected();
        if let Some(subscription) = &mut self.subscription {
            subscription.disconnected();
        }
        for history in &mut self.histories {
            history.is_asked = false;
        }
    }
}
