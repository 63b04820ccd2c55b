//! Where one subscription stands, and what the application gets to see: each message once, in order, or a word on why not.
//!
//! It is *live* while the node pushes and every message follows the one before. In every other case (the application
//! does not read, the position is too old to resume, a message is missing) it *pulls*: the session is only attached to
//! the channel, pages of history are read at the application's pace, and when it keeps up with them, or they reach the
//! newest message, the subscription resumes from there. So one slow channel costs its own queue, and nobody else's.

use std::collections::VecDeque;
use std::time::Instant;

use millrace_protocol::client::{self as wire, HistoryClass, Recovery};
use millrace_protocol::code::{Advice, Code};
use millrace_protocol::id::{Epoch, Position};

use super::backoff::{Backoff, BackoffLimits};
use super::random::Random;
use crate::error::Error;
use crate::event::{Event, Message, Skipped};

/// Most messages that one page is asked for.
const PAGE_MESSAGES_MAX: u32 = 256;

/// What may wait for the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    pub(crate) messages_max: u32,
    /// Exceeded by at most one page.
    pub(crate) bytes_max: u32,
}

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the next message.
    Live,
    /// With the first message after this position, as a resume. If that cannot be, the first event says so.
    After(Position),
    /// With the first message after this offset, whatever the epoch, read from the history; 0 starts with the oldest
    /// that is kept.
    AfterOffset(u64),
}

impl From<Position> for Start {
    fn from(position: Position) -> Self {
        Self::After(position)
    }
}

/// What the node is asked to do for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing is pushed.
    Attach,
    /// Messages are pushed.
    Read,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    place: Place,
    flow: Flow,
    room: Room,
    /// Newest epoch that the node named.
    epoch: Epoch,
    keeps_history: bool,
    /// It was live before.
    begun: bool,
    /// Messages of a channel without history that found no room since the last event.
    dropped: u64,
    can_publish: Option<bool>,
    /// The right changed and there was no room to say so.
    can_publish_untold: bool,
    /// The application was asked to say when there is room.
    starved: bool,
    backoff: Backoff,
    events: VecDeque<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first answer of a subscription that starts live.
    Unknown,
    /// Behind this offset of an epoch that the first message names.
    Offset(u64),
    At(Position),
}

#[derive(Debug)]
enum Flow {
    Live,
    Pulling(Pull),
}

#[derive(Debug, Default)]
struct Pull {
    /// A page is asked for, since then.
    asked_at: Option<Instant>,
    /// Messages up to this offset were seen or announced.
    target: u64,
    /// The node will not send so much again: only pages lead to the newest message.
    is_far: bool,
    retry_at: Option<Instant>,
}

/// What the application's queue can still take. Every event counts as a message.
#[derive(Debug)]
struct Room {
    limits: QueueLimits,
    messages: i64,
    bytes: i64,
}

/// A page to ask for: messages after an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageWanted {
    pub(crate) after: u64,
    pub(crate) messages_max: u32,
}

impl Subscription {
    pub(crate) fn new(start: Start, queue: QueueLimits, backoff: BackoffLimits) -> Self {
        let (place, flow) = match start {
            Start::Live => (Place::Unknown, Flow::Live),
            Start::After(position) => (Place::At(position), Flow::Live),
            Start::AfterOffset(offset) => (Place::Offset(offset), Flow::Pulling(Pull::default())),
        };
        Self {
            place,
            flow,
            room: Room { limits: queue, messages: i64::from(queue.messages_max), bytes: i64::from(queue.bytes_max) },
            epoch: Epoch::FIRST,
            keeps_history: true,
            begun: false,
            dropped: 0,
            can_publish: None,
            can_publish_untold: false,
            starved: false,
            backoff: Backoff::new(backoff),
            events: VecDeque::new(),
        }
    }

    /// The next event for the application.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the node should be asked for.
    pub(crate) fn wanted(&self) -> Mode {
        match self.flow {
            Flow::Live => Mode::Read,
            Flow::Pulling(_) => Mode::Attach,
        }
    }

    /// From where, when asked to be [`Mode::Read`].
    pub(crate) fn start(&self) -> wire::Start {
        match self.place {
            Place::At(position) if self.keeps_history => wire::Start::After(position),
            _ => wire::Start::Live,
        }
    }

    /// The place behind the last message delivered; `None` before the first answer.
    pub(crate) fn position(&self) -> Option<Position> {
        match self.place {
            // Of a channel that keeps nothing, only an answer to a subscription gives a place: the right to publish is none.
            _ if !self.keeps_history && !self.begun => None,
            Place::At(position) => Some(position),
            Place::Offset(offset) => Some(Position { epoch: self.epoch, offset }),
            Place::Unknown => None,
        }
    }

    /// Whether the application should say when it has read; true once per want of room.
    pub(crate) fn take_starved(&mut self) -> bool {
        let waits = match &self.flow {
            Flow::Pulling(pull) => pull.asked_at.is_none() && !self.room.is_wide(),
            Flow::Live => self.dropped > 0 || self.can_publish_untold,
        };
        waits && !std::mem::replace(&mut self.starved, true)
    }

    /// The node answered that the session is subscribed or attached, as asked.
    pub(crate) fn subscribed(&mut self, now: Instant, mode: Mode, answer: &wire::Subscribed<'_>, random: &mut Random) {
        self.keeps_history = answer.history != HistoryClass::None;
        self.epoch = answer.position.epoch;
        self.note_can_publish(answer.can_publish);
        let head = answer.position;
        if !self.keeps_history {
            self.flow = Flow::Live;
            // Attached only to read what there turns out not to be, it has heard nothing that could be interrupted.
            if mode == Mode::Read {
                if self.begun {
                    self.tell(Event::Skipped(Skipped::Interrupted));
                }
                self.place = Place::At(head);
                self.begun = true;
            }
            return;
        }
        match (mode, answer.recovery) {
            (Mode::Attach, _) => {
                if let Flow::Pulling(pull) = &mut self.flow {
                    pull.target = pull.target.max(head.offset);
                }
                if matches!(self.place, Place::Offset(offset) if offset > head.offset) {
                    self.reset(Code::PositionAhead, head);
                    self.flow = Flow::Live;
                }
            }
            (Mode::Read, Recovery::Whole) => {}
            (Mode::Read, Recovery::None) => match self.place {
                Place::At(position) if position != head => self.reset(Code::EpochChanged, head),
                _ => self.place = Place::At(head),
            },
            (Mode::Read, Recovery::Reload(code)) => match Code::from_number(code) {
                Some(Code::PositionTooOld) => {
                    self.pull_again(now, head.offset, random);
                    if let Flow::Pulling(pull) = &mut self.flow {
                        pull.is_far = true;
                    }
                }
                Some(code @ Code::PositionAhead) => self.reset(code, head),
                _ => self.reset(Code::EpochChanged, head),
            },
        }
        self.begun = true;
    }

    /// The node pushed a message.
    pub(crate) fn message(&mut self, now: Instant, message: &wire::Message<'_>, random: &mut Random) {
        let Flow::Live = self.flow else { return };
        if !self.keeps_history {
            if self.room.is_empty() {
                self.dropped += 1;
            } else {
                self.tell_dropped();
                self.tell(Event::Message(Message::from_wire(message)));
            }
            return;
        }
        let Place::At(at) = self.place else { return };
        let position = message.position;
        if position.epoch < at.epoch || position.epoch == at.epoch && position.offset <= at.offset {
            return;
        }
        if position.epoch > at.epoch {
            self.reset(Code::EpochChanged, before(position));
        } else if position.offset > at.offset + 1 {
            return self.pull_again(now, position.offset, random);
        }
        self.deliver(message);
        self.backoff.reset();
        if self.room.is_empty() {
            self.pull(position.offset);
        }
    }

    /// The node dropped messages, by the channel's policy.
    pub(crate) fn skipped(&mut self, now: Instant, first: Position, last: Position, random: &mut Random) {
        let (Flow::Live, Place::At(at)) = (&self.flow, self.place) else { return };
        if !self.keeps_history {
            if self.room.is_empty() {
                self.dropped += 1;
            } else {
                self.tell(Event::Skipped(Skipped::SlowConsumer { first, last }));
            }
            return;
        }
        if last.epoch < at.epoch || last.epoch == at.epoch && last.offset <= at.offset {
            return;
        }
        if first.epoch > at.epoch {
            self.reset(Code::EpochChanged, before(first));
        } else if first.offset > at.offset + 1 {
            return self.pull_again(now, last.offset, random);
        }
        let first = Position { offset: first.offset.max(at.offset + 1), ..first };
        self.place = Place::At(last);
        self.tell(Event::Skipped(Skipped::SlowConsumer { first, last }));
        if self.room.is_empty() {
            self.pull(last.offset);
        }
    }

    /// The right to publish, as the node tells it.
    pub(crate) fn note_can_publish(&mut self, can_publish: bool) {
        if self.can_publish.replace(can_publish).is_some_and(|before| before != can_publish) {
            self.can_publish_untold = !self.can_publish_untold;
            self.tell_can_publish();
        }
    }

    /// The page to ask for now. It is under way once [`Self::page_asked`] says so.
    pub(crate) fn page_wanted(&self, now: Instant) -> Option<PageWanted> {
        let Flow::Pulling(pull) = &self.flow else { return None };
        if pull.asked_at.is_some() || pull.retry_at.is_some_and(|at| now < at) || !self.room.is_wide() {
            return None;
        }
        let after = match self.place {
            Place::At(position) => position.offset,
            Place::Offset(offset) => offset,
            Place::Unknown => return None,
        };
        let room = u32::try_from(self.room.messages).unwrap_or(1);
        Some(PageWanted { after, messages_max: room.clamp(1, PAGE_MESSAGES_MAX) })
    }

    pub(crate) fn page_asked(&mut self, now: Instant) {
        if let Flow::Pulling(pull) = &mut self.flow {
            pull.asked_at = Some(now);
            pull.retry_at = None;
        }
    }

    /// Since when a page is under way.
    pub(crate) fn page_asked_at(&self) -> Option<Instant> {
        match &self.flow {
            Flow::Pulling(pull) => pull.asked_at,
            Flow::Live => None,
        }
    }

    /// When to look at [`Self::page_wanted`] again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        match &self.flow {
            Flow::Pulling(pull) => pull.retry_at,
            Flow::Live => None,
        }
    }

    /// The page that was asked for.
    pub(crate) fn page(&mut self, messages: &[wire::Message<'_>], more: bool) {
        let Flow::Pulling(pull) = &mut self.flow else { return };
        pull.asked_at = None;
        let Pull { target, is_far, .. } = *pull;
        let mut delivered = false;
        for message in messages {
            let position = message.position;
            let (expected, reason) = match self.place {
                Place::At(at) if position.epoch > at.epoch => (at.offset + 1, Some(Code::EpochChanged)),
                Place::At(at) => (at.offset + 1, None),
                // Whoever asks for everything gets what there is.
                Place::Offset(0) | Place::Unknown => (position.offset, None),
                Place::Offset(offset) => (offset + 1, None),
            };
            if position.offset < expected {
                continue;
            }
            let reason = if position.offset > expected { Some(Code::PositionTooOld) } else { reason };
            if let Some(reason) = reason {
                self.reset(reason, before(position));
            }
            self.deliver(message);
            self.backoff.reset();
            delivered = true;
        }
        // To an application that keeps up, the node sends the rest faster than pages come.
        if more && delivered && (is_far || !self.room.is_wide()) {
            return;
        }
        let offset = self.position().map_or(0, |position| position.offset);
        if !delivered && offset < target {
            // The store has nothing more, though there was more: it was swept.
            self.reset(Code::PositionTooOld, Position { epoch: self.epoch, offset: target });
        } else if let Some(position) = self.position() {
            self.place = Place::At(position);
        }
        if self.room.is_empty() {
            return;
        }
        self.flow = Flow::Live;
    }

    /// The page that was asked for cannot be had.
    pub(crate) fn page_refused(&mut self, now: Instant, error: &Error, random: &mut Random) {
        let Flow::Pulling(pull) = &mut self.flow else { return };
        pull.asked_at = None;
        if error.advice() == Advice::DoNotRetry {
            let position = Position { epoch: self.epoch, offset: pull.target };
            self.reset(Code::PositionTooOld, position);
            self.flow = Flow::Live;
        } else {
            let wait = self.backoff.next(random).max(error.retry_after().unwrap_or_default());
            pull.retry_at = Some(now + wait);
        }
    }

    /// The application took events out of its queue.
    pub(crate) fn taken(&mut self, events: u32, bytes: u64) {
        self.room.messages += i64::from(events);
        self.room.bytes += i64::try_from(bytes).unwrap_or(i64::MAX);
        debug_assert!(self.room.messages <= i64::from(self.room.limits.messages_max), "more taken than given");
        self.starved &= !self.room.is_wide();
        self.tell_dropped();
        self.tell_can_publish();
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        if let Flow::Pulling(pull) = &mut self.flow {
            pull.asked_at = None;
        }
    }

    fn deliver(&mut self, message: &wire::Message<'_>) {
        self.place = Place::At(message.position);
        self.tell(Event::Message(Message::from_wire(message)));
    }

    fn tell(&mut self, event: Event) {
        self.room.messages -= 1;
        self.room.bytes -= i64::try_from(event.bytes()).unwrap_or(i64::MAX);
        self.events.push_back(event);
    }

    fn tell_dropped(&mut self) {
        if self.dropped > 0 && !self.room.is_empty() {
            let messages = std::mem::take(&mut self.dropped);
            self.tell(Event::Skipped(Skipped::QueueFull { messages }));
        }
    }

    fn tell_can_publish(&mut self) {
        if self.can_publish_untold && !self.room.is_empty() {
            self.can_publish_untold = false;
            self.tell(Event::CanPublish(self.can_publish == Some(true)));
        }
    }

    fn reset(&mut self, reason: Code, position: Position) {
        self.place = Place::At(position);
        self.tell(Event::Reset { reason, position });
    }

    fn pull(&mut self, target: u64) {
        self.flow = Flow::Pulling(Pull { target, ..Pull::default() });
    }

    /// What should follow does not: read it. A node that leaves gaps again and again is asked less often.
    fn pull_again(&mut self, now: Instant, target: u64, random: &mut Random) {
        let first = self.backoff.attempt() == 0;
        let wait = self.backoff.next(random);
        self.flow = Flow::Pulling(Pull { target, retry_at: (!first).then(|| now + wait), ..Pull::default() });
    }
}

impl Room {
    fn is_empty(&self) -> bool {
        self.messages <= 0 || self.bytes <= 0
    }

    /// Whether at least half of the queue is free: asking earlier would ask often for little.
    fn is_wide(&self) -> bool {
        let half = |max: u32| i64::from(max.div_ceil(2));
        self.messages >= half(self.limits.messages_max) && self.bytes >= half(self.limits.bytes_max)
    }
}

fn before(position: Position) -> Position {
    Position { offset: position.offset.saturating_sub(1), ..position }
}

#[cfg(test)]
mod tests;
