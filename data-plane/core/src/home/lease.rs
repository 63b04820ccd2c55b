//! How a home gets the right to append, loses it and gets it back without losing a message; and how it closes.

use std::time::Duration;

use millrace_protocol::client::{HistoryClass, HistoryRange};
use millrace_protocol::code::{Advice, Refusal};
use millrace_protocol::node::{CloseHome, Head, History, ReadHistory, StoredMessage};
use millrace_protocol::{Code, Epoch, Offset, Position};

use super::append::Runs;
use super::producers::Producers;
use super::{Behind, Context, Home, Lease, Reading, State};
use crate::hop::HopBody;
use crate::run::encode_stored;

impl Home {
    /// Asks for the lease in this turn's request, if it is missed and can be had.
    pub(super) fn want_lease(&mut self, context: &mut Context<'_>) {
        let wanted = self.history != HistoryClass::None
            && self.lease == Lease::Missing
            && self.retry_at_ms.is_none()
            && !matches!(self.state, State::Closing | State::Dead)
            && context.backplane.term().is_some();
        if wanted {
            self.lease = Lease::Asked;
            context.wants.opens.push_back(self.key);
        }
    }

    /// The outcome of an append is not known, or the store stands elsewhere: open again. What waits goes on waiting.
    pub(super) fn reopen(&mut self, context: &mut Context<'_>) {
        if self.retry_ms > 0 {
            // It failed the last time too.
            self.reopen_later(context);
            return;
        }
        self.retry_ms = 1;
        self.lose_lease(context);
        self.want_lease(context);
    }

    pub(super) fn reopen_later(&mut self, context: &mut Context<'_>) {
        self.lose_lease(context);
        let first = as_ms(context.config.home.retry);
        self.retry_ms = (self.retry_ms * 2).clamp(first, as_ms(context.config.home.hold).max(first));
        self.retry_at_ms = Some(context.now_ms + self.retry_ms);
    }

    fn lose_lease(&mut self, context: &Context<'_>) {
        self.interrupt_read();
        self.reading = None;
        self.lease = Lease::Missing;
        self.appending = false;
        if self.history == HistoryClass::Durable {
            self.state = State::Opening;
        }
        if self.stuck_since_ms.is_none() {
            self.stuck_since_ms = Some(context.now_ms);
        }
    }

    /// The read under way is nobody's any more; who waits for it waits for another.
    pub(super) fn interrupt_read(&mut self) {
        match self.reading.take() {
            Some(Reading::Held(held)) => self.held.push_front(held),
            // What the home reads for itself it still needs.
            own => self.reading = own,
        }
    }

    /// The head was read, or will not be given.
    pub(crate) fn handle_opened(&mut self, context: &mut Context<'_>, result: Result<Head, Refusal>) {
        if self.lease != Lease::Asked || matches!(self.state, State::Closing | State::Dead) {
            return;
        }
        self.lease = Lease::Missing;
        let head = match result {
            Ok(head) if head.history == self.history => head,
            Ok(_) => return self.end(context, Code::Internal),
            Err(refusal) if refusal.code.advice() == Advice::Retry => return self.open_refused(context, refusal.code),
            Err(refusal) => return self.end(context, refusal.code),
        };
        self.lease = Lease::Held;
        self.first = head.first_offset.get();
        context.stats.homes_opened_total += 1;
        let next = head.next_offset.get();
        match self.history {
            _ if !self.is_known() => self.adopt(context, &head),
            HistoryClass::Durable if head.epoch == self.epoch && next >= self.next => self.catch_up(context, next),
            HistoryClass::Windowed if head.epoch >= self.epoch => self.go_on_writing(context, &head),
            _ => self.lost(context, &head),
        }
        if matches!(self.state, State::Open | State::Archived) {
            self.opened(context);
        }
    }

    fn opened(&mut self, context: &mut Context<'_>) {
        if self.history == HistoryClass::Windowed || self.offered.is_empty() {
            self.stuck_since_ms = None;
        }
        self.want_offer(context);
        self.serve_held(context);
    }

    fn open_refused(&mut self, context: &mut Context<'_>, code: Code) {
        let waiting = std::mem::take(&mut self.waiting);
        self.refuse_all(context, &waiting, code);
        self.waiting_bytes = 0;
        self.refuse_held(context, code);
        if !self.is_known() {
            self.state = State::Dead;
            return;
        }
        self.reopen_later(context);
    }

    /// Stands where the head says; nothing before it was seen through this home.
    fn adopt(&mut self, context: &Context<'_>, head: &Head) {
        self.epoch = head.epoch;
        self.epoch_oldest = head.epoch;
        self.next = head.next_offset.get();
        self.window.clear();
        self.state = State::Open;
        if self.history == HistoryClass::Windowed {
            self.behind = Some(Box::new(Behind {
                producers: Producers::new(context.config.home.producers_max, &head.producers, context.hasher),
                unsaved: std::collections::VecDeque::new(),
                unsaved_bytes: 0,
                saved: self.next,
                offered: 0,
            }));
        }
    }

    /// Messages that were delivered are not in the store's future: everyone starts over from the head.
    fn lost(&mut self, context: &mut Context<'_>, head: &Head) {
        // A read under way was asked for when the old positions still counted.
        self.interrupt_read();
        for shard in std::mem::take(&mut self.interest) {
            context.links.send(shard, HopBody::Lagged(self.key.channel));
        }
        self.adopt(context, head);
    }

    /// Durable: what was stored without our knowing is read and delivered first.
    fn catch_up(&mut self, context: &mut Context<'_>, end: u64) {
        // CatchingUp => Open: everything stored is delivered.
        if self.next >= end {
            self.state = State::Open;
            return;
        }
        self.state = State::CatchingUp { end };
        self.read(context, Reading::CatchUp, HistoryRange::After(self.next - 1), context.config.page_messages_max);
    }

    /// Windowed: whether the store stands where we left it, or where our unknown append leads.
    fn go_on_writing(&mut self, context: &mut Context<'_>, head: &Head) {
        let Some(behind) = &mut self.behind else { return };
        let next = head.next_offset.get();
        let landed = next.saturating_sub(behind.saved);
        if next == behind.saved {
            behind.offered = 0;
            self.go_on_in(context, head.epoch);
        } else if next > behind.saved && landed <= behind.offered as u64 {
            behind.offered = usize::try_from(landed).unwrap_or(0);
            let after = behind.saved - 1;
            self.epoch = head.epoch;
            // What landed keeps its epoch; the rest gets the new one when that is known.
            let count = u32::try_from(landed).unwrap_or(u32::MAX);
            self.interrupt_read();
            self.read(context, Reading::Verify, HistoryRange::After(after), count);
        } else {
            self.lost(context, head);
        }
    }

    pub(super) fn read(&mut self, context: &mut Context<'_>, reading: Reading, range: HistoryRange, messages_max: u32) {
        debug_assert!(self.reading.is_none(), "one read at a time");
        self.reading = Some(reading);
        self.reads = self.reads.wrapping_add(1);
        let bytes_max = context.config.page_bytes_max;
        context.wants.reads.push_back((
            self.key,
            self.reads,
            ReadHistory { channel: self.key.channel, messages_max, bytes_max, range },
        ));
    }

    /// What was read for the home itself.
    pub(super) fn handle_caught_up(&mut self, context: &mut Context<'_>, result: Result<History, Refusal>) {
        let State::CatchingUp { end } = self.state else { return };
        let messages = result.map(|history| history.messages).unwrap_or_default();
        let contiguous = (self.next..).zip(&messages).all(|(expected, stored)| stored.offset.get() == expected);
        if messages.is_empty() || !contiguous {
            // It was there when the head was read.
            self.reopen_later(context);
            return;
        }
        for run in encode_stored(self.key.channel, &messages, context.scratch) {
            self.next = run.last + 1;
            self.deliver(context, run);
        }
        self.catch_up(context, end);
        if self.state == State::Open {
            self.opened(context);
        }
    }

    /// Windowed: whether what is stored after our last known append is our own.
    pub(super) fn handle_verified(&mut self, context: &mut Context<'_>, result: Result<History, Refusal>) {
        let Some(behind) = &mut self.behind else { return };
        let Ok(history) = result else {
            self.reopen_later(context);
            return;
        };
        let same = |(at, ours, theirs): (u64, &(u64, _), &std::sync::Arc<StoredMessage>)| {
            let (_, ours): &(u64, millrace_protocol::node::NewMessage) = ours;
            let theirs_message = &theirs.message;
            theirs.offset.get() == at
                && ours.producer == theirs_message.producer
                && ours.sequence == theirs_message.sequence
                && ours.user == theirs_message.user
        };
        let matching = (behind.saved..)
            .zip(&behind.unsaved)
            .zip(&history.messages)
            .take(behind.offered)
            .take_while(|&((at, ours), theirs)| same((at, ours, theirs)))
            .count();
        let (offered, read) = (behind.offered, history.messages.len());
        if matching == 0 || matching < read.min(offered) {
            // Another node wrote there: what we delivered since is lost, and everyone is told.
            self.lease = Lease::Missing;
            self.next = 0;
            for shard in std::mem::take(&mut self.interest) {
                context.links.send(shard, HopBody::Lagged(self.key.channel));
            }
            self.behind = None;
            self.window.clear();
            self.state = State::Opening;
            self.want_lease(context);
            return;
        }
        self.forget_saved(context, matching);
        if matching < offered {
            let after = self.behind.as_ref().map_or(0, |behind| behind.saved - 1);
            let left = offered - matching;
            if let Some(behind) = &mut self.behind {
                behind.offered = left;
            }
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            self.read(context, Reading::Verify, HistoryRange::After(after), left);
            return;
        }
        self.go_on_in(context, self.epoch);
        self.opened(context);
    }

    /// What is not stored will be stored in this epoch: from now on it is shown in it, so that everyone who reads it sees the same.
    fn go_on_in(&mut self, context: &mut Context<'_>, epoch: Epoch) {
        self.epoch = epoch;
        let Some(behind) = &self.behind else { return };
        let mut runs = Runs::new(self.key.channel, epoch);
        for (offset, (_, message)) in (behind.saved..).zip(&behind.unsaved) {
            runs.push(context.scratch, Position { epoch, offset }, message, None);
        }
        self.window.cut(behind.saved);
        let (limits, keep_from) = (self.window_limits(context.config), behind.saved);
        for run in runs.finish() {
            self.window.push(run, limits, keep_from);
        }
    }

    /// The link is cut: nothing that was asked will be answered.
    pub(crate) fn handle_link_down(&mut self, context: &mut Context<'_>) {
        if self.history == HistoryClass::None {
            return;
        }
        if !self.is_known() {
            self.end(context, Code::Unavailable);
            return;
        }
        if self.state == State::Closing {
            // Whether it was given back is not known; either way this home has everything, so it goes on.
            self.state = State::Open;
        }
        self.retry_ms = 0;
        self.retry_at_ms = None;
        self.lose_lease(context);
    }

    /// The link is up: the lease is asked for again where somebody is waiting for it; a home that nobody uses goes.
    pub(crate) fn handle_link_up(&mut self, context: &mut Context<'_>) {
        if self.history == HistoryClass::None {
            return;
        }
        if self.is_unused() && self.history == HistoryClass::Durable {
            self.state = State::Dead;
            return;
        }
        if self.is_settled() {
            // Nobody has waited so far: who comes now is not given up for how long the cut was.
            self.stuck_since_ms = Some(context.now_ms);
        }
        // A windowed one that nobody uses opens once more to close properly: its epoch lives on.
        self.want_lease(context);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, in ms since the shard began.
    pub(crate) fn poll_timeout(&self, context: &Context<'_>) -> Option<u64> {
        let limits = &context.config.home;
        if matches!(self.state, State::Closing | State::Dead) {
            return None;
        }
        let written = self.behind.as_ref().filter(|_| !self.appending && self.lease == Lease::Held);
        let written = written.and_then(|behind| behind.oldest_ms()).map(|oldest| oldest + as_ms(limits.write_behind));
        let held = self.stuck_since_ms.filter(|_| !self.is_settled()).map(|since| since + as_ms(limits.hold));
        let idle = self.is_unused().then(|| self.used_ms + as_ms(limits.idle_timeout));
        [written, held, idle, self.retry_at_ms].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, context: &mut Context<'_>) {
        let now = context.now_ms;
        if matches!(self.state, State::Closing | State::Dead) {
            return;
        }
        if self.retry_at_ms.is_some_and(|at| at <= now) {
            self.retry_at_ms = None;
            self.want_lease(context);
        }
        let limits = &context.config.home;
        if self.stuck_since_ms.is_some_and(|since| since + as_ms(limits.hold) <= now) {
            self.give_up(context);
        }
        if self.behind.as_ref().and_then(|behind| behind.oldest_ms()).is_some() {
            self.want_offer(context);
        }
        if self.is_unused() && self.used_ms + as_ms(context.config.home.idle_timeout) <= now {
            self.close(context);
        }
    }

    /// Those who wait have waited long enough. The home itself goes on trying.
    fn give_up(&mut self, context: &mut Context<'_>) {
        self.stuck_since_ms = None;
        if !self.appending {
            let offered = std::mem::take(&mut self.offered);
            self.refuse_all(context, &offered, Code::UnknownOutcome);
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.refuse_all(context, &waiting, Code::Unavailable);
        self.waiting_bytes = 0;
        self.refuse_held(context, Code::Unavailable);
    }

    /// Ends the use of the channel. A windowed one gives its head back, so that its epoch may live on.
    pub(crate) fn close(&mut self, context: &mut Context<'_>) {
        match (self.history, self.lease) {
            (HistoryClass::Windowed, Lease::Held) => {
                self.state = State::Closing;
                context.wants.closes.push_back(self.key);
            }
            (HistoryClass::Windowed, _) if self.is_known() => {
                self.used_ms = context.now_ms;
                self.want_lease(context);
            }
            _ => self.state = State::Dead,
        }
    }

    /// What the request to close says, if the home still wants it.
    pub(crate) fn closing(&self, context: &Context<'_>) -> Option<CloseHome> {
        let term = context.backplane.term().filter(|_| self.state == State::Closing)?;
        let next_offset = Offset::FIRST.plus(self.next - 1);
        Some(CloseHome { channel: self.key.channel, term, epoch: self.epoch, next_offset })
    }

    /// The head is given back. If somebody has come meanwhile, it opens anew.
    pub(crate) fn handle_closed(&mut self, context: &mut Context<'_>) {
        if self.state != State::Closing {
            return;
        }
        if self.held.is_empty() && self.waiting.is_empty() {
            self.state = State::Dead;
            return;
        }
        self.next = 0;
        self.behind = None;
        self.window.clear();
        self.lease = Lease::Missing;
        self.state = State::Opening;
        self.want_lease(context);
        self.want_offer(context);
    }

    /// The head could not be given back now: the home goes on, and closes another time.
    pub(crate) fn handle_close_refused(&mut self, context: &mut Context<'_>) {
        if self.state != State::Closing {
            return;
        }
        self.state = State::Open;
        self.used_ms = context.now_ms;
        self.want_offer(context);
        self.serve_held(context);
    }

    /// A clean stop: write behind at once; a windowed home that is settled closes, whoever listens.
    pub(crate) fn handle_drain(&mut self, context: &mut Context<'_>) {
        match self.history {
            HistoryClass::Windowed if self.state == State::Open && self.is_settled() => self.close(context),
            HistoryClass::Windowed => self.want_offer(context),
            HistoryClass::Durable | HistoryClass::None => {}
        }
    }
}

pub(super) fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
