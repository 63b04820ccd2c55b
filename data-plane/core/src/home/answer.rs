//! How a home answers those who read: joins of shards, and pages of history. From the window where it reaches back far enough,
//! else from the store, one read at a time for each channel.

use millrace_protocol::client::{
    HistoryClass, HistoryRange, Message, NO_EPOCH, ServerBody, ServerFrame, decode_server,
};
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{History, StoredMessage};
use millrace_protocol::{Code, Offset, Position};

use super::{Context, Held, Home, Reading, State};
use crate::ShardIndex;
use crate::hop::{Catch, HopBody, Join, JoinStart, Joined, Page, Read};
use crate::run::{Run, encode_frame, encode_stored, page_of};

/// What is not answered yet.
enum Missing {
    /// The home is not open.
    Head,
    /// These messages are only in the store.
    Stored { range: HistoryRange, messages_max: u32 },
}

/// Which offsets a page of history shows, both included, and from which end it is cut when they are too many bytes.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: u64,
    last: u64,
    backward: bool,
}

impl Home {
    pub(crate) fn join(&mut self, context: &mut Context<'_>, shard: ShardIndex, join: Box<Join>) {
        self.used_ms = context.now_ms;
        self.serve(context, Held::Join { shard, join });
    }

    pub(crate) fn read_page(&mut self, context: &mut Context<'_>, shard: ShardIndex, read: Box<Read>) {
        self.used_ms = context.now_ms;
        self.serve(context, Held::Read { shard, read });
    }

    /// Answers, or holds it until it can be answered.
    fn serve(&mut self, context: &mut Context<'_>, held: Held) {
        if self.state == State::Archived {
            return self.refuse_one(context, &held, Code::Archived);
        }
        let missing = match &held {
            Held::Join { shard, join } => self.try_join(context, *shard, join),
            Held::Read { shard, read } => self.try_read(context, *shard, read),
        };
        let Err(missing) = missing else { return };
        if context.backplane.term().is_none() {
            return self.refuse_one(context, &held, Code::Unavailable);
        }
        if context.draining && matches!(missing, Missing::Head) {
            return self.refuse_one(context, &held, Code::GoingAway);
        }
        if let Missing::Stored { range, messages_max } = missing
            && self.reading.is_none()
        {
            return self.read(context, Reading::Held(held), range, messages_max);
        }
        if self.held.len() >= context.config.home.joins_waiting_max as usize {
            return self.refuse_one(context, &held, Code::Busy);
        }
        self.held.push_back(held);
        self.want_lease(context);
    }

    /// Answers those who wait, until one needs the store.
    pub(super) fn serve_held(&mut self, context: &mut Context<'_>) {
        for _ in 0..self.held.len() {
            if self.reading.is_some() {
                return;
            }
            let Some(held) = self.held.pop_front() else { break };
            self.serve(context, held);
        }
        if self.held.is_empty() {
            self.held = std::collections::VecDeque::new();
        }
    }

    pub(super) fn refuse_held(&mut self, context: &mut Context<'_>, code: Code) {
        self.interrupt_read();
        for held in std::mem::take(&mut self.held) {
            self.refuse_one(context, &held, code);
        }
    }

    fn refuse_one(&self, context: &mut Context<'_>, held: &Held, code: Code) {
        match held {
            Held::Join { shard, join } => self.send_joined(context, *shard, join, Err(code)),
            Held::Read { shard, read } => self.send_page(context, *shard, read, Err(code)),
        }
    }

    fn try_join(&mut self, context: &mut Context<'_>, shard: ShardIndex, join: &Join) -> Result<(), Missing> {
        if self.history == HistoryClass::None {
            let nowhere = Position { epoch: NO_EPOCH, offset: 0 };
            self.answer_join(context, shard, join, None, Vec::new(), nowhere);
            return Ok(());
        }
        if self.state != State::Open {
            return Err(Missing::Head);
        }
        let from = match join.start {
            JoinStart::Tail | JoinStart::Peek => {
                self.answer_join(context, shard, join, None, Vec::new(), self.tail_position());
                return Ok(());
            }
            JoinStart::Resume(from) | JoinStart::Continue(from) => from,
        };
        if let Err(code) = self.check_position(context, from, join.start) {
            self.refuse_position(context, shard, join, code);
            return Ok(());
        }
        if from.offset == self.tail() {
            self.answer_join(context, shard, join, None, Vec::new(), self.tail_position());
            return Ok(());
        }
        let config = context.config;
        if self.window.first().is_none_or(|first| first > from.offset + 1) {
            return Err(Missing::Stored {
                range: HistoryRange::After(from.offset),
                messages_max: config.page_messages_max,
            });
        }
        context.stats.pages_from_window_total += 1;
        let runs = self.window.after(from.offset, config.page_messages_max, config.page_bytes_max as usize);
        self.answer_join(context, shard, join, None, runs, from);
        Ok(())
    }

    fn check_position(&self, context: &Context<'_>, from: Position, start: JoinStart) -> Result<(), Code> {
        if from.epoch > self.epoch {
            return Err(Code::PositionAhead);
        }
        if from.epoch < self.epoch_oldest {
            return Err(Code::EpochChanged);
        }
        if from.offset > self.tail() {
            return Err(Code::PositionAhead);
        }
        let missed = self.tail() - from.offset;
        let resumes = matches!(start, JoinStart::Resume(_));
        if missed > 0 && from.offset + 1 < self.first || resumes && missed > context.config.replay_messages_max {
            return Err(Code::PositionTooOld);
        }
        Ok(())
    }

    /// A client hears why and goes on from the tail; the node's own position being refused means that history was lost.
    fn refuse_position(&mut self, context: &mut Context<'_>, shard: ShardIndex, join: &Join, code: Code) {
        if matches!(join.start, JoinStart::Resume(_)) {
            self.answer_join(context, shard, join, Some(code), Vec::new(), self.tail_position());
        } else {
            self.send_joined(context, shard, join, Err(code));
        }
    }

    fn answer_join(
        &mut self,
        context: &mut Context<'_>,
        shard: ShardIndex,
        join: &Join,
        refused: Option<Code>,
        runs: Vec<Run>,
        from: Position,
    ) {
        let position = runs.last().map_or(from, Run::position);
        let reached = self.history == HistoryClass::None || position.offset == self.tail();
        let live = reached && join.start != JoinStart::Peek;
        if live && !self.interest.contains(&shard) {
            self.interest.push(shard);
        }
        let bytes: usize = runs.iter().map(Run::len).sum();
        context.stats.replay_bytes_total += bytes as u64;
        // At the tail the position is in the present epoch, whichever the last message was accepted in.
        let tail = if self.history == HistoryClass::None { from } else { self.tail_position() };
        let position = if reached { tail } else { position };
        self.send_joined(context, shard, join, Ok(Catch { refused, runs, position, tail, live }));
    }

    fn send_joined(&self, context: &mut Context<'_>, shard: ShardIndex, join: &Join, result: Result<Catch, Code>) {
        let joined = Joined { channel: join.channel, ticket: join.ticket, result };
        context.links.send(shard, HopBody::Joined(Box::new(joined)));
    }

    fn try_read(&mut self, context: &mut Context<'_>, shard: ShardIndex, read: &Read) -> Result<(), Missing> {
        if self.history == HistoryClass::None {
            self.send_page(context, shard, read, Err(Code::NoHistory));
            return Ok(());
        }
        if self.state != State::Open {
            return Err(Missing::Head);
        }
        let Some(span) = self.span(context, read) else {
            let page = encode_page(read, &[], false, context.scratch);
            self.send_page(context, shard, read, page);
            return Ok(());
        };
        let window_first = self.window.first().unwrap_or(self.next);
        if span.first >= window_first {
            context.stats.pages_from_window_total += 1;
            let page = self.page(context, read, span, &[]);
            self.send_page(context, shard, read, page);
            return Ok(());
        }
        let range = if span.backward {
            HistoryRange::Before(Offset::FIRST.plus(window_first.min(span.last + 1) - 1))
        } else {
            HistoryRange::After(span.first - 1)
        };
        let last = if span.backward { (window_first - 1).min(span.last) } else { span.last };
        let messages_max = u32::try_from(last + 1 - span.first).unwrap_or(u32::MAX);
        Err(Missing::Stored { range, messages_max })
    }

    /// Which offsets a request is about; `None` when there are none.
    fn span(&self, context: &Context<'_>, read: &Read) -> Option<Span> {
        let count = u64::from(read.messages_max.clamp(1, context.config.page_messages_max));
        let span = match read.range {
            HistoryRange::Newest | HistoryRange::Before(_) => {
                let last = match read.range {
                    HistoryRange::Before(before) => (before.get() - 1).min(self.tail()),
                    _ => self.tail(),
                };
                Span { first: self.first.max((last + 1).saturating_sub(count)), last, backward: true }
            }
            HistoryRange::After(after) => {
                let first = after.saturating_add(1).max(self.first);
                Span { first, last: first.saturating_add(count - 1).min(self.tail()), backward: false }
            }
        };
        (span.first <= span.last).then_some(span)
    }

    /// A page of what was read from the store, if anything, and what the window has after it.
    fn page(
        &mut self,
        context: &mut Context<'_>,
        read: &Read,
        span: Span,
        stored: &[std::sync::Arc<StoredMessage>],
    ) -> Result<Vec<u8>, Code> {
        let window_first = self.window.first().unwrap_or(self.next);
        let mut messages: Vec<Message<'_>> = stored
            .iter()
            .filter(|stored| (span.first..=span.last).contains(&stored.offset.get()))
            .map(|stored| message_of(read, stored))
            .collect();
        let mut next = messages.last().map_or(span.first, |message| message.position.offset + 1);
        if next < window_first && span.backward && span.last >= window_first {
            // The window has moved on meanwhile: the newest alone, rather than a page with a gap.
            messages.clear();
            next = window_first;
        }
        if next >= window_first {
            let frames = self.window.frames(next, span.last);
            messages.extend(frames.filter_map(|frame| match decode_server(frame) {
                Ok(ServerFrame { body: ServerBody::Message(message), .. }) => Some(message),
                _ => None,
            }));
        }
        cut(&mut messages, context.config.page_bytes_max as usize, span.backward);
        let more = match (messages.first(), messages.last()) {
            (Some(first), Some(last)) if span.backward => {
                first.position.offset > self.first.max(1) && last.position.offset > 0
            }
            (Some(_), Some(last)) => last.position.offset < self.tail(),
            _ => false,
        };
        encode_page(read, &messages, more, context.scratch)
    }

    fn send_page(&self, context: &mut Context<'_>, shard: ShardIndex, read: &Read, result: Result<Vec<u8>, Code>) {
        let page = Page { channel: read.channel, session: read.session, request: read.request, result };
        context.links.send(shard, HopBody::Page(Box::new(page)));
    }

    /// What the store has, for whoever it was read for.
    pub(crate) fn handle_history(&mut self, context: &mut Context<'_>, number: u32, result: Result<History, Refusal>) {
        if number != self.reads {
            return;
        }
        let Some(reading) = self.reading.take() else { return };
        match reading {
            Reading::CatchUp => self.handle_caught_up(context, result),
            Reading::Verify => self.handle_verified(context, result),
            Reading::Held(held) => self.answer_stored(context, held, result),
        }
        self.serve_held(context);
    }

    fn answer_stored(&mut self, context: &mut Context<'_>, held: Held, result: Result<History, Refusal>) {
        let messages = match result {
            Ok(history) => history.messages,
            Err(refusal) => return self.refuse_one(context, &held, refusal.code),
        };
        if self.state != State::Open {
            // Opened again meanwhile; it is asked for once more.
            return self.serve(context, held);
        }
        context.stats.pages_from_store_total += 1;
        let limits = self.window_limits(context.config);
        let contiguous = messages.windows(2).all(|pair| pair[0].offset.next() == pair[1].offset);
        if !contiguous {
            return self.refuse_one(context, &held, Code::Internal);
        }
        let runs = encode_stored(self.key.channel, &messages, context.scratch);
        let tail = self.tail();
        self.window.prepend(&runs, limits, tail);
        match held {
            Held::Join { shard, join } => {
                let (JoinStart::Resume(from) | JoinStart::Continue(from)) = join.start else { return };
                if messages.first().is_none_or(|first| first.offset.get() != from.offset + 1) {
                    // What followed has been deleted: whole or refused.
                    return self.refuse_position(context, shard, &join, Code::PositionTooOld);
                }
                // A windowed channel's store ends before its tail; a durable one may hold more than was delivered yet.
                let runs: Vec<Run> = runs
                    .into_iter()
                    .filter(|run| run.first <= tail)
                    .filter_map(|run| if run.last <= tail { Some(run) } else { run.until(tail) })
                    .collect();
                // The store counts bodies, a queue what is around them too: of short messages the larger part.
                let (messages_max, bytes_max) = (context.config.page_messages_max, context.config.page_bytes_max);
                let runs = page_of(&runs, from.offset, messages_max, bytes_max as usize);
                self.answer_join(context, shard, &join, None, runs, from);
            }
            Held::Read { shard, read } => {
                let page = match self.span(context, &read) {
                    Some(span) => self.page(context, &read, span, &messages),
                    None => encode_page(&read, &[], false, context.scratch),
                };
                self.send_page(context, shard, &read, page);
            }
        }
    }
}

fn message_of<'a>(read: &Read, stored: &'a StoredMessage) -> Message<'a> {
    Message {
        channel: read.channel,
        position: stored.position(),
        time_ms: stored.message.time_ms,
        user: stored.message.user.as_str(),
        producer: stored.message.producer,
        sequence: stored.message.sequence,
        body: &stored.message.body,
    }
}

/// Cuts a page to its bytes, from the end that was not asked for; one message always stays.
fn cut(messages: &mut Vec<Message<'_>>, bytes_max: usize, backward: bool) {
    let size = |message: &Message<'_>| message.body.len() + message.user.len() + 96;
    let mut bytes = 0;
    let mut fits = |message: &Message<'_>| {
        bytes += size(message);
        bytes <= bytes_max
    };
    if backward {
        let keep = messages.iter().rev().take_while(|message| fits(message)).count().max(1);
        messages.drain(..messages.len().saturating_sub(keep));
    } else {
        let keep = messages.iter().take_while(|message| fits(message)).count().max(1);
        messages.truncate(keep);
    }
}

fn encode_page(read: &Read, messages: &[Message<'_>], more: bool, scratch: &mut Vec<u8>) -> Result<Vec<u8>, Code> {
    let body = ServerBody::Page { channel: read.channel, messages: messages.to_vec(), more };
    let mut out = Vec::new();
    encode_frame(scratch, &mut out, &ServerFrame { request: read.request, body });
    Ok(out)
}
