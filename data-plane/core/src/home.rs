//! A channel's home: the one place that orders its messages. One channel, no timer and no socket of its own.
//!
//! | class | ack and delivery | who finds duplicates | what is behind |
//! |---|---|---|---|
//! | durable | after the commit | control, in the transaction | one append under way, the next batch collects |
//! | windowed | at the end of the turn | the home, bounded | written within a second |
//! | none | at the end of the turn | nobody | nothing |
//!
//! **Invariant:** what was delivered is exactly what is stored (durable) or will be (windowed), in order: [`Home::next`] is one more
//! than the last offset that went into the window and to every interested shard.
//! **Invariant:** a shard joins the interest in the same step in which it is answered up to the tail.

mod acks;
mod answer;
mod append;
mod lease;
pub(crate) mod producers;
mod view;
pub(crate) mod window;

use std::collections::VecDeque;
use std::time::Instant;

use millrace_protocol::client::{HistoryClass, NO_EPOCH};
use millrace_protocol::node::{NewMessage, ReadHistory};
use millrace_protocol::{ChannelId, Code, Epoch, Position, Producer, UserId};

use self::acks::Answers;
pub(crate) use self::acks::out_of_order;
use self::producers::Producers;
use self::window::{Window, WindowLimits};
use crate::backplane::Backplane;
use crate::barring::Barring;
use crate::hop::{HopBody, Join, Origin, Publish, Read};
use crate::links::Links;
use crate::run::Run;
use crate::seeded::Seeded;
use crate::wheel::Tick;
use crate::{Config, ShardIndex, Stats};

/// Names one life of a home, so that a late answer never meets the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HomeKey {
    pub(crate) channel: ChannelId,
    pub(crate) life: u32,
}

/// What a home works with.
pub(crate) struct Context<'a> {
    pub(crate) config: &'a Config,
    pub(crate) now_ms: u64,
    pub(crate) unix_ms: i64,
    pub(crate) draining: bool,
    pub(crate) hasher: Seeded,
    pub(crate) links: &'a mut Links,
    pub(crate) backplane: &'a mut Backplane,
    pub(crate) wants: &'a mut Wants,
    pub(crate) scratch: &'a mut Vec<u8>,
    pub(crate) stats: &'a mut Stats,
}

/// What homes want of this turn; [`Homes`](crate::homes::Homes) batches it.
#[derive(Default)]
pub(crate) struct Wants {
    /// Have messages to offer.
    pub(crate) offers: Vec<ChannelId>,
    pub(crate) opens: VecDeque<HomeKey>,
    pub(crate) reads: VecDeque<(HomeKey, u32, ReadHistory)>,
    pub(crate) closes: VecDeque<HomeKey>,
}

pub(crate) struct Home {
    pub(crate) key: HomeKey,
    history: HistoryClass,
    pub(crate) state: State,
    lease: Lease,
    epoch: Epoch,
    /// The oldest epoch whose positions still count: this home went on from it without losing anything.
    epoch_oldest: Epoch,
    /// Offset of the next message.
    next: u64,
    /// Oldest offset that is stored.
    first: u64,
    window: Window,
    interest: Vec<ShardIndex>,
    /// Accepted for the next batch.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Durable: offered to control; kept until the outcome is known.
    offered: Vec<Waiting>,
    appending: bool,
    /// Joins and reads that wait for the home to open, or for the read under way.
    held: VecDeque<Held>,
    reading: Option<Reading>,
    /// Reads so far: the answer to an older one than the last is nobody's.
    reads: u32,
    behind: Option<Box<Behind>>,
    barring: Barring<(UserId, Producer)>,
    used_ms: u64,
    /// Since when the lease has been missed while something waits for it.
    stuck_since_ms: Option<u64>,
    retry_ms: u64,
    retry_at_ms: Option<u64>,
    /// The wheel's entry that counts.
    pub(crate) due: Tick,
    /// In `Wants::offers` already.
    wanted: bool,
    /// Counted by [`Homes`](crate::homes::Homes) as one that a drain waits for.
    pub(crate) undrained: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing is known yet, or (durable) the lease was lost.
    Opening,
    /// Reads what was stored without being delivered, up to this offset.
    CatchingUp {
        end: u64,
    },
    Open,
    /// The channel is archived. What was delivered is still stored, then the head is given back.
    Archived,
    /// Waits to have given the head back.
    Closing,
    /// To be forgotten.
    Dead,
}

/// The right to append under the present term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    Missing,
    Asked,
    Held,
}

/// A publish on its way through the home.
#[derive(Debug)]
struct Waiting {
    origin: Origin,
    message: NewMessage,
    /// When it came to the node.
    since: Instant,
}

#[derive(Debug)]
enum Held {
    Join { shard: ShardIndex, join: Box<Join> },
    Read { shard: ShardIndex, read: Box<Read> },
}

/// Whom the read under way is for.
#[derive(Debug)]
enum Reading {
    /// The home itself, catching up.
    CatchUp,
    /// The home itself: whether its own unknown append landed.
    Verify,
    Held(Held),
}

/// What a windowed channel's home keeps besides.
struct Behind {
    producers: Producers,
    /// Delivered but not known to be stored, with the time of delivery.
    unsaved: VecDeque<(u64, NewMessage)>,
    unsaved_bytes: usize,
    /// Offset of the first of them.
    saved: u64,
    /// How many of them are in the append under way, or in one whose outcome is not known.
    offered: usize,
}

impl Behind {
    fn oldest_ms(&self) -> Option<u64> {
        self.unsaved.front().map(|&(ms, _)| ms)
    }
}

impl Home {
    pub(crate) fn new(key: HomeKey, history: HistoryClass, now_ms: u64) -> Self {
        let state = if history == HistoryClass::None { State::Open } else { State::Opening };
        Self {
            key,
            history,
            state,
            lease: Lease::Missing,
            epoch: NO_EPOCH,
            epoch_oldest: NO_EPOCH,
            next: 0,
            first: 0,
            window: Window::default(),
            interest: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            offered: Vec::new(),
            appending: false,
            held: VecDeque::new(),
            reading: None,
            reads: 0,
            behind: None,
            barring: Barring::default(),
            used_ms: now_ms,
            stuck_since_ms: None,
            retry_ms: 0,
            retry_at_ms: None,
            due: 0,
            wanted: false,
            undrained: false,
        }
    }

    fn channel(&self) -> ChannelId {
        self.key.channel
    }

    /// The head was read at least once in this life.
    fn is_known(&self) -> bool {
        self.next > 0
    }

    fn tail(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    fn tail_position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.tail() }
    }

    fn window_limits(&self, config: &Config) -> WindowLimits {
        WindowLimits { messages_max: config.home.window_messages_max, bytes_max: config.home.window_bytes_max as usize }
    }

    /// What is not stored yet must stay in the window.
    fn keep_from(&self) -> u64 {
        self.behind.as_ref().map_or(u64::MAX, |behind| behind.saved)
    }

    /// A message to be accepted: taken for the next batch, or refused at once.
    pub(crate) fn publish(&mut self, context: &mut Context<'_>, publish: Publish) {
        self.used_ms = context.now_ms;
        let Publish { origin, mut message, since, .. } = publish;
        let of = (message.user.clone(), message.producer);
        let barred =
            if self.barring.is_empty() { Ok(()) } else { self.barring.check(context.now_ms, &of, message.sequence) };
        if let Err(code) = barred.and_then(|()| self.admit(context, message.body.len())) {
            if code == Code::Busy {
                self.barring.bar(context.now_ms, of, message.sequence);
            }
            let mut answers = Answers::new(self.channel());
            answers.refuse(context, &Waiting { origin, message, since }, code);
            answers.send(context);
            return;
        }
        message.time_ms = context.unix_ms;
        self.waiting_bytes += message.body.len();
        self.waiting.push_back(Waiting { origin, message, since });
        self.want_offer(context);
        self.want_lease(context);
    }

    fn admit(&self, context: &Context<'_>, bytes: usize) -> Result<(), Code> {
        let limits = &context.config.home;
        if self.state == State::Archived {
            return Err(Code::Archived);
        }
        if context.draining {
            return Err(Code::GoingAway);
        }
        let unsaved = self.behind.as_ref().map_or(0, |behind| behind.unsaved.len());
        let unsaved_bytes = self.behind.as_ref().map_or(0, |behind| behind.unsaved_bytes);
        if self.waiting.len() + unsaved >= limits.waiting_messages_max as usize
            || self.waiting_bytes + unsaved_bytes + bytes > limits.waiting_bytes_max as usize
        {
            return Err(Code::Busy);
        }
        match (self.history, context.backplane.term()) {
            (HistoryClass::None, _) | (HistoryClass::Durable, Some(_)) => Ok(()),
            (HistoryClass::Durable, None) => Err(Code::Unavailable),
            (HistoryClass::Windowed, None) if !self.is_known() => Err(Code::Unavailable),
            (HistoryClass::Windowed, term) => {
                // What a crash may lose is bounded in time, so a channel whose writing behind is stuck takes no more.
                let oldest = self.behind.as_ref().and_then(|behind| behind.oldest_ms()).unwrap_or(context.now_ms);
                if u128::from(context.now_ms - oldest) < limits.write_behind_max.as_millis() {
                    Ok(())
                } else if term.is_some() {
                    Err(Code::Busy)
                } else {
                    Err(Code::Unavailable)
                }
            }
        }
    }

    fn want_offer(&mut self, context: &mut Context<'_>) {
        if !self.wanted {
            self.wanted = true;
            context.wants.offers.push(self.channel());
        }
    }

    fn refuse_all<'w>(&self, context: &mut Context<'_>, publishes: impl IntoIterator<Item = &'w Waiting>, code: Code) {
        let mut answers = Answers::new(self.channel());
        for waiting in publishes {
            answers.refuse(context, waiting, code);
        }
        answers.send(context);
    }

    /// The next messages of the channel: into the window and to every interested shard.
    fn deliver(&mut self, context: &mut Context<'_>, run: Run) {
        self.send_live(context, &run);
        let limits = self.window_limits(context.config);
        let keep_from = self.keep_from();
        self.window.push(run, limits, keep_from);
    }

    fn send_live(&mut self, context: &mut Context<'_>, run: &Run) {
        let channel = self.channel();
        self.interest.retain(|&shard| {
            if context.links.takes_live(shard) {
                context.links.send(shard, HopBody::Live(Box::new(run.clone())));
                return true;
            }
            // Its ring is full: it joins again from what it has when it gets there.
            context.stats.lagged_total += 1;
            context.links.send(shard, HopBody::Lagged(channel));
            false
        });
        self.used_ms = context.now_ms;
    }

    /// A shard has no live subscription any more.
    pub(crate) fn leave(&mut self, context: &Context<'_>, shard: ShardIndex) {
        self.used_ms = context.now_ms;
        self.interest.retain(|&other| other != shard);
        self.interest.shrink_to_fit();
    }

    /// The channel is archived: whoever uses it is told so. A windowed one stores first what it has acknowledged.
    pub(crate) fn archive(&mut self, context: &mut Context<'_>) {
        if matches!(self.state, State::Archived | State::Dead) {
            return;
        }
        let unsaved = self.behind.as_ref().is_some_and(|behind| !behind.unsaved.is_empty());
        self.end(context, Code::Archived);
        // Without the lease it cannot be had any more.
        if unsaved && self.lease == Lease::Held {
            self.state = State::Archived;
            self.want_offer(context);
        }
    }

    /// The home is no more, for a reason that its users are told.
    pub(crate) fn end(&mut self, context: &mut Context<'_>, code: Code) {
        if code == Code::Fenced {
            context.stats.homes_fenced_total += 1;
        }
        // Whether these landed is not known; a retry elsewhere finds out.
        let offered = std::mem::take(&mut self.offered);
        self.refuse_all(context, &offered, Code::UnknownOutcome);
        let waiting = std::mem::take(&mut self.waiting);
        self.refuse_all(context, &waiting, code);
        self.waiting_bytes = 0;
        self.refuse_held(context, code);
        for shard in std::mem::take(&mut self.interest) {
            context.links.send(shard, HopBody::Gone(self.channel(), code));
        }
        self.state = State::Dead;
    }

    /// Nothing in it that anybody waits for or that is not stored.
    fn is_unused(&self) -> bool {
        self.interest.is_empty() && self.is_settled()
    }

    /// Nothing is under way and everything delivered is stored.
    pub(crate) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
            && self.offered.is_empty()
            && self.held.is_empty()
            && self.reading.is_none()
            && !self.appending
            && self.behind.as_ref().is_none_or(|behind| behind.unsaved.is_empty())
    }

    /// Its head comes with the producers that stored last.
    pub(crate) fn tells_producers(&self) -> bool {
        self.history == HistoryClass::Windowed
    }

    /// A clean stop need not wait for it: everything delivered is stored, and nothing is left to give back to the control plane.
    pub(crate) fn is_drained(&self) -> bool {
        self.state == State::Dead || self.is_settled() && self.history != HistoryClass::Windowed
    }
}

#[cfg(test)]
mod tests;
