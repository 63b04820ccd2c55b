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

mod answer;
mod lease;
pub(crate) mod producers;
pub(crate) mod window;

use std::collections::VecDeque;

use millrace_protocol::client::{HistoryClass, NO_EPOCH};
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{AppendOutcome, ChannelAppend, NewMessage, NodeBody, PublishedAt, ReadHistory};
use millrace_protocol::{ChannelId, Code, Epoch, Offset, Position, ProducerSequence};

use self::producers::{Check, Producers};
use self::window::{Window, WindowLimits};
use crate::backplane::Backplane;
use crate::hop::{Ack, Acks, HopBody, Join, Origin, Outcome, Publish, Read};
use crate::links::Links;
use crate::run::{Run, RunBuilder};
use crate::wheel::Tick;
use crate::{Config, SessionKey, ShardIndex, Stats};

/// Runs are cut at this size, in bytes: a slow session drops and a fast one writes in steps of it.
const RUN_BYTES: usize = 32 << 10;

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
    pub(crate) reads: VecDeque<(HomeKey, ReadHistory)>,
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
    behind: Option<Box<Behind>>,
    used_ms: u64,
    /// Since when the lease has been missed while something waits for it.
    stuck_since_ms: Option<u64>,
    retry_ms: u64,
    retry_at_ms: Option<u64>,
    /// The wheel's entry that counts.
    pub(crate) due: Tick,
    /// In `Wants::offers` already.
    wanted: bool,
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
            behind: None,
            used_ms: now_ms,
            stuck_since_ms: None,
            retry_ms: 0,
            retry_at_ms: None,
            due: 0,
            wanted: false,
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
        let Publish { origin, mut message, .. } = publish;
        if let Err(code) = self.admit(context, message.body.len()) {
            let mut answers = Answers::new(self.channel());
            answers.refuse(context, &Waiting { origin, message }, code);
            answers.send(context);
            return;
        }
        message.time_ms = context.unix_ms;
        self.waiting_bytes += message.body.len();
        self.waiting.push_back(Waiting { origin, message });
        self.want_offer(context);
        self.want_lease(context);
    }

    fn admit(&self, context: &Context<'_>, bytes: usize) -> Result<(), Code> {
        let limits = &context.config.home;
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

    /// At the end of a turn: what arrived together leaves together. Gives what to append, if anything.
    pub(crate) fn offer(&mut self, context: &mut Context<'_>) -> Option<ChannelAppend> {
        self.wanted = false;
        match self.history {
            HistoryClass::None => {
                self.pass_on(context);
                None
            }
            HistoryClass::Windowed if self.state == State::Open => {
                self.accept(context);
                self.write_behind(context)
            }
            HistoryClass::Durable if self.state == State::Open => self.append(context),
            _ => None,
        }
    }

    /// None: everything that waits is delivered and acknowledged.
    fn pass_on(&mut self, context: &mut Context<'_>) {
        let nowhere = Position { epoch: NO_EPOCH, offset: 0 };
        let mut runs = Runs::new(self.channel(), NO_EPOCH);
        let mut answers = Answers::new(self.channel());
        for waiting in std::mem::take(&mut self.waiting) {
            runs.push(context.scratch, nowhere, &waiting.message);
            context.stats.messages_accepted_total += 1;
            answers.add(context, &waiting, Outcome::Accepted(nowhere));
        }
        self.waiting_bytes = 0;
        for run in runs.finish() {
            self.send_live(context, &run);
        }
        answers.send(context);
    }

    /// Windowed: everything that waits gets its offset, is delivered and acknowledged.
    fn accept(&mut self, context: &mut Context<'_>) {
        let Some(mut behind) = self.behind.take() else { return };
        let mut runs = Runs::new(self.channel(), self.epoch);
        let mut answers = Answers::new(self.channel());
        for waiting in std::mem::take(&mut self.waiting) {
            let message = &waiting.message;
            let outcome = match behind.producers.check(&message.user, message.producer, message.sequence) {
                Check::Next => {
                    let position = Position { epoch: self.epoch, offset: self.next };
                    let offset = Offset::FIRST.plus(self.next - 1);
                    self.next += 1;
                    behind.producers.accept(&message.user, message.producer, message.sequence, offset);
                    runs.push(context.scratch, position, message);
                    behind.unsaved_bytes += message.body.len();
                    behind.unsaved.push_back((context.now_ms, message.clone()));
                    context.stats.messages_accepted_total += 1;
                    Outcome::Accepted(position)
                }
                Check::Duplicate(offset) => self.duplicate(offset),
                Check::OutOfOrder { expected } => Outcome::OutOfOrder { expected },
            };
            answers.add(context, &waiting, outcome);
        }
        self.waiting_bytes = 0;
        self.behind = Some(behind);
        for run in runs.finish() {
            self.deliver(context, run);
        }
        answers.send(context);
    }

    fn duplicate(&self, offset: Option<Offset>) -> Outcome {
        Outcome::Duplicate(Position { epoch: self.epoch, offset: offset.map_or(0, Offset::get) })
    }

    /// Windowed: the append of what is old or much enough, if none is under way.
    fn write_behind(&mut self, context: &mut Context<'_>) -> Option<ChannelAppend> {
        let limits = &context.config.home;
        let term = context.backplane.term()?;
        let behind = self.behind.as_mut()?;
        let oldest = behind.oldest_ms()?;
        if self.lease != Lease::Held || self.appending || matches!(self.reading, Some(Reading::Verify)) {
            return None;
        }
        let old = u128::from(context.now_ms - oldest) >= limits.write_behind.as_millis();
        if !old && !context.draining && behind.unsaved_bytes < limits.batch_bytes_max as usize / 2 {
            return None;
        }
        let mut bytes = 0;
        let messages: Vec<_> = behind
            .unsaved
            .iter()
            .map(|(_, message)| message)
            .take(limits.batch_messages_max as usize)
            .take_while(|message| {
                bytes += message.body.len();
                bytes <= limits.batch_bytes_max as usize
            })
            .cloned()
            .collect();
        behind.offered = messages.len();
        let expected_offset = Offset::FIRST.plus(behind.saved - 1);
        self.appending = true;
        context.stats.appends_total += 1;
        Some(ChannelAppend { channel: self.key.channel, term, epoch: self.epoch, expected_offset, messages })
    }

    /// Durable: the append of what waits, if none is under way. A batch whose outcome was not known goes first, as it was.
    fn append(&mut self, context: &mut Context<'_>) -> Option<ChannelAppend> {
        let limits = &context.config.home;
        let term = context.backplane.term()?;
        if self.lease != Lease::Held || self.appending {
            return None;
        }
        if self.offered.is_empty() {
            let mut bytes = 0;
            while let Some(waiting) = self.waiting.front() {
                bytes += waiting.message.body.len();
                let full =
                    bytes > limits.batch_bytes_max as usize || self.offered.len() >= limits.batch_messages_max as usize;
                if full && !self.offered.is_empty() {
                    break;
                }
                self.waiting_bytes -= waiting.message.body.len();
                self.offered.extend(self.waiting.pop_front());
            }
            if self.waiting.is_empty() {
                self.waiting = VecDeque::new();
            }
        }
        if self.offered.is_empty() {
            return None;
        }
        self.appending = true;
        context.stats.appends_total += 1;
        Some(ChannelAppend {
            channel: self.channel(),
            term,
            epoch: self.epoch,
            expected_offset: Offset::FIRST.plus(self.next - 1),
            messages: self.offered.iter().map(|waiting| waiting.message.clone()).collect(),
        })
    }

    /// What became of the append under way.
    pub(crate) fn handle_appended(&mut self, context: &mut Context<'_>, result: Result<Vec<AppendOutcome>, Refusal>) {
        if !std::mem::take(&mut self.appending) {
            return;
        }
        match (result, self.history) {
            (Ok(outcomes), HistoryClass::Durable) => self.committed(context, &outcomes),
            (Ok(outcomes), _) => self.saved(context, &outcomes),
            (Err(refusal), _) => self.append_refused(context, &refusal),
        }
        self.want_offer(context);
    }

    /// Durable: offsets are assigned; deliver, then acknowledge.
    fn committed(&mut self, context: &mut Context<'_>, outcomes: &[AppendOutcome]) {
        let mut expected = self.next;
        let fits = outcomes.len() == self.offered.len()
            && outcomes.iter().all(|outcome| match outcome {
                AppendOutcome::Stored(offset) => {
                    expected += 1;
                    offset.get() == expected - 1
                }
                AppendOutcome::Duplicate(_) | AppendOutcome::OutOfOrder { .. } => true,
            });
        if !fits {
            // The store and we disagree on where the channel stands: read it again, offer the batch again.
            self.reopen(context);
            return;
        }
        let mut runs = Runs::new(self.channel(), self.epoch);
        let mut answers = Answers::new(self.channel());
        for (waiting, outcome) in std::mem::take(&mut self.offered).iter().zip(outcomes) {
            let outcome = match *outcome {
                AppendOutcome::Stored(offset) => {
                    let position = Position::behind(self.epoch, offset);
                    runs.push(context.scratch, position, &waiting.message);
                    context.stats.messages_accepted_total += 1;
                    Outcome::Accepted(position)
                }
                AppendOutcome::Duplicate(offset) => self.duplicate(offset),
                AppendOutcome::OutOfOrder { expected } => Outcome::OutOfOrder { expected },
            };
            answers.add(context, waiting, outcome);
        }
        self.next = expected;
        self.retry_ms = 0;
        self.stuck_since_ms = None;
        for run in runs.finish() {
            self.deliver(context, run);
        }
        answers.send(context);
    }

    /// Windowed: the oldest unsaved messages are stored.
    fn saved(&mut self, context: &mut Context<'_>, outcomes: &[AppendOutcome]) {
        let Some(behind) = &mut self.behind else { return };
        let stored = (behind.saved..).zip(outcomes).all(|(expected, outcome)| match outcome {
            AppendOutcome::Stored(offset) => offset.get() == expected,
            AppendOutcome::Duplicate(_) | AppendOutcome::OutOfOrder { .. } => false,
        });
        if outcomes.len() != behind.offered || !stored {
            self.reopen(context);
            return;
        }
        self.forget_saved(context, outcomes.len());
        self.retry_ms = 0;
    }

    fn forget_saved(&mut self, context: &Context<'_>, count: usize) {
        let limits = self.window_limits(context.config);
        let Some(behind) = &mut self.behind else { return };
        let bytes: usize = behind.unsaved.drain(..count).map(|(_, message)| message.body.len()).sum();
        behind.unsaved_bytes -= bytes;
        behind.saved += count as u64;
        behind.offered = 0;
        if behind.unsaved.is_empty() {
            behind.unsaved = VecDeque::new();
        }
        let saved = behind.saved;
        self.window.trim(limits, saved);
    }

    fn append_refused(&mut self, context: &mut Context<'_>, refusal: &Refusal) {
        context.stats.appends_failed_total += 1;
        match refusal.code {
            Code::UnknownOutcome => self.reopen(context),
            code if self.history == HistoryClass::Windowed => match code.advice() {
                // Nothing is stored: it is still to be.
                millrace_protocol::code::Advice::Retry => self.reopen_later(context),
                _ => self.end(context, code),
            },
            code if code.advice() == millrace_protocol::code::Advice::Retry => {
                let offered = std::mem::take(&mut self.offered);
                self.refuse_all(context, &offered, code);
            }
            code => {
                let offered = std::mem::take(&mut self.offered);
                self.refuse_all(context, &offered, code);
                self.end(context, code);
            }
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

    /// Nothing is left to give back to the control plane.
    pub(crate) fn is_given_back(&self) -> bool {
        self.history != HistoryClass::Windowed
    }
}

/// Cuts messages into runs of a bounded size.
struct Runs {
    channel: ChannelId,
    epoch: Epoch,
    done: Vec<Run>,
    open: RunBuilder,
}

impl Runs {
    fn new(channel: ChannelId, epoch: Epoch) -> Self {
        Self { channel, epoch, done: Vec::new(), open: RunBuilder::new(channel, epoch) }
    }

    fn push(&mut self, scratch: &mut Vec<u8>, position: Position, message: &NewMessage) {
        self.open.push(scratch, position, message);
        if self.open.len() >= RUN_BYTES {
            let full = std::mem::replace(&mut self.open, RunBuilder::new(self.channel, self.epoch));
            self.done.extend(full.finish());
        }
    }

    fn finish(mut self) -> Vec<Run> {
        self.done.extend(self.open.finish());
        self.done
    }
}

/// Acknowledgements of one channel, one hop for each shard.
struct Answers {
    channel: ChannelId,
    shards: Vec<(ShardIndex, Vec<Ack>)>,
}

impl Answers {
    fn new(channel: ChannelId) -> Self {
        Self { channel, shards: Vec::new() }
    }

    fn refuse(&mut self, context: &mut Context<'_>, waiting: &Waiting, code: Code) {
        let retry_after_ms = match code {
            // A batch takes some milliseconds; this spreads those that come back.
            Code::Busy => 50,
            _ => 0,
        };
        self.add(context, waiting, Outcome::Refused { code, retry_after_ms });
    }

    fn add(&mut self, context: &mut Context<'_>, waiting: &Waiting, outcome: Outcome) {
        if matches!(outcome, Outcome::Duplicate(_)) {
            context.stats.duplicates_total += 1;
        }
        match waiting.origin {
            Origin::Session { shard, session, request } => self.add_session(shard, session, request, waiting, outcome),
            Origin::Order { id, link } => {
                let result = published(outcome, waiting.message.time_ms);
                context.backplane.reply(link, id, NodeBody::Published(result));
            }
        }
    }

    fn add_session(
        &mut self,
        shard: ShardIndex,
        session: SessionKey,
        request: u32,
        waiting: &Waiting,
        outcome: Outcome,
    ) {
        let NewMessage { producer, sequence, .. } = waiting.message;
        let ack = Ack { session, request, producer, sequence, outcome };
        match self.shards.iter_mut().find(|(other, _)| *other == shard) {
            Some((_, acks)) => acks.push(ack),
            None => self.shards.push((shard, vec![ack])),
        }
    }

    fn send(self, context: &mut Context<'_>) {
        for (shard, acks) in self.shards {
            context.links.send(shard, HopBody::Acks(Box::new(Acks { channel: self.channel, acks })));
        }
    }
}

fn published(outcome: Outcome, time_ms: i64) -> Result<PublishedAt, Refusal> {
    match outcome {
        Outcome::Accepted(position) => Ok(PublishedAt { position, time_ms, duplicate: false }),
        Outcome::Duplicate(position) => Ok(PublishedAt { position, time_ms: 0, duplicate: true }),
        Outcome::OutOfOrder { expected } => Err(Refusal::new(Code::OutOfOrder, out_of_order(expected))),
        Outcome::Refused { code, retry_after_ms } => {
            let delay = std::time::Duration::from_millis(retry_after_ms.into());
            Err(Refusal::new(code, code.meaning().trim()).after(delay))
        }
    }
}

pub(crate) fn out_of_order(expected: ProducerSequence) -> String {
    format!("sequence {expected} was expected")
}

#[cfg(test)]
mod tests;
