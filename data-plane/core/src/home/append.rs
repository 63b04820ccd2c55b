//! What arrived together leaves together: at the end of a turn a home delivers or offers its batch, and what comes of it is
//! delivered and acknowledged.

use std::collections::VecDeque;
use std::time::Instant;

use millrace_protocol::client::{HistoryClass, NO_EPOCH};
use millrace_protocol::code::{Advice, Refusal};
use millrace_protocol::node::{AppendOutcome, ChannelAppend, NewMessage};
use millrace_protocol::{ChannelId, Code, Epoch, Offset, Position};

use super::acks::Answers;
use super::lease::as_ms;
use super::producers::Check;
use super::{Context, Home, Lease, Reading, State};
use crate::hop::Outcome;
use crate::run::{Run, RunBuilder};
use crate::wheel::TICK_MS;

/// Runs are cut at this size, in bytes: a slow session drops and a fast one writes in steps of it.
const RUN_BYTES: usize = 32 << 10;

impl Home {
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
            HistoryClass::Windowed if self.state == State::Archived => self.write_behind(context),
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
            runs.push(context.scratch, nowhere, &waiting.message, Some(waiting.since));
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
                    runs.push(context.scratch, position, message, Some(waiting.since));
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
        let waits = self.appending || self.retry_at_ms.is_some() || matches!(self.reading, Some(Reading::Verify));
        if self.lease != Lease::Held || waits {
            return None;
        }
        // At the tick, not as soon as a publish finds it old: what is due goes in one frame with what other channels have due, in place
        // of a frame, a wake and an answer for each.
        let old = context.now_ms >= (oldest + as_ms(limits.write_behind)).next_multiple_of(TICK_MS);
        let last = context.draining || self.state == State::Archived;
        if !old && !last && behind.unsaved_bytes < limits.batch_bytes_max as usize / 2 {
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
                    runs.push(context.scratch, position, &waiting.message, Some(waiting.since));
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
        // Archived => Closing: everything is stored.
        if self.state == State::Archived && self.is_settled() {
            self.close(context);
        }
    }

    pub(super) fn forget_saved(&mut self, context: &Context<'_>, count: usize) {
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
            // Unknown: read what is stored. Fenced: nothing of it is stored, because our view of the head is outdated; opening
            // again shows a newer one, or that another node has the channel.
            Code::UnknownOutcome | Code::Fenced => self.reopen(context),
            code if self.history == HistoryClass::Windowed => match code.advice() {
                // An archived channel's home that gave its lease away would not get it again.
                Advice::Retry if self.state == State::Archived => {
                    self.retry_at_ms = Some(context.now_ms + as_ms(context.config.home.retry));
                }
                // Nothing is stored: it is still to be.
                Advice::Retry => self.reopen_later(context),
                _ => self.end(context, code),
            },
            code if code.advice() == Advice::Retry => {
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
}

/// Cuts messages into runs of a bounded size.
pub(super) struct Runs {
    channel: ChannelId,
    epoch: Epoch,
    done: Vec<Run>,
    open: RunBuilder,
}

impl Runs {
    pub(super) fn new(channel: ChannelId, epoch: Epoch) -> Self {
        Self { channel, epoch, done: Vec::new(), open: RunBuilder::new(channel, epoch) }
    }

    /// `since` is when the message came, if that is known.
    pub(super) fn push(
        &mut self,
        scratch: &mut Vec<u8>,
        position: Position,
        message: &NewMessage,
        since: Option<Instant>,
    ) {
        self.open.push(scratch, position, message, since);
        if self.open.len() >= RUN_BYTES {
            let full = std::mem::replace(&mut self.open, RunBuilder::new(self.channel, self.epoch));
            self.done.extend(full.finish());
        }
    }

    pub(super) fn finish(mut self) -> Vec<Run> {
        self.done.extend(self.open.finish());
        self.done
    }
}
