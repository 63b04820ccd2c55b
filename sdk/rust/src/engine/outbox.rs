//! The messages that an application sent to one channel and that are not acknowledged yet.
//!
//! A message keeps its producer and sequence over every retry, so the channel stores it once. They go out in order, many
//! at a time. After a refusal nothing more is sent until every answer that is under way is in; then everything left goes
//! out again from the front. So at any moment the messages in flight are a run of the queue, sent once, in order.
//!
//! A message that is refused for good leaves a number that the channel never sees, and the channel takes no number before
//! its predecessor. If it is certain that the number is not stored, nothing behind it is either, and what is left moves up.
//!
//! Two things make a number dangerous to give again, because the channel would take the next message for a duplicate, or
//! a message twice: it may be stored already, or a frame with it may still be on its way from a connection that we
//! think dead (a *straggler*; the node ends such a session within two heartbeats). Then what is left goes on under a new
//! producer, and only when no straggler can be stored any more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_protocol::code::{Advice, Code};
use millrace_protocol::id::{Producer, ProducerSequence};

use super::Ticket;
use super::backoff::{Backoff, BackoffLimits};
use super::random::Random;

/// Messages of one channel on their way, in ascending order of sequence.
#[derive(Debug)]
pub(crate) struct Outbox {
    producer: Producer,
    /// Sequence of the next new message.
    next: u64,
    /// The highest sequence that is known to be stored.
    floor: u64,
    /// The lowest sequence that was given up and is known not to be stored, if there is one.
    absent: Option<u64>,
    /// The highest sequence that was sent.
    sent_max: u64,
    /// Until when frames up to this sequence, from connections that are gone, may still reach the channel.
    stragglers: Option<(Instant, u64)>,
    queue: VecDeque<Pending>,
    /// Everything in the queue before it was sent since the last rewind.
    cursor: usize,
    /// Requests whose answer is under way, those of given-up messages included.
    in_flight: usize,
    /// How many may be: what a node takes that has enough, and one more for each acknowledgement.
    in_flight_max: usize,
    /// Acknowledgements since the last rewind.
    acknowledged: usize,
    /// Since the last rewind, the node said that it has enough.
    is_limited: bool,
    /// The front is refused because of a message that was given up.
    is_stuck: bool,
    /// Something was refused: send nothing until nothing is in flight, then rewind.
    halted: bool,
    resume_at: Option<Instant>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Pending {
    sequence: u64,
    ticket: Ticket,
    body: Bytes,
    /// When the application gives it up.
    deadline: Option<Instant>,
    /// When it was sent, while its answer is under way.
    sent_at: Option<Instant>,
    /// It was sent and no answer said whether it was stored.
    uncertain: bool,
    /// When it was sent, if it was answered with "out of order" since the last rewind.
    out_of_order: Option<Instant>,
    /// It was answered with "blocked" since the last rewind.
    is_blocked: bool,
}

/// A message to be sent now.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) producer: Producer,
    pub(crate) sequence: ProducerSequence,
    pub(crate) body: &'a [u8],
}

/// A message that will not be tried again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) ticket: Ticket,
    /// It may be stored all the same.
    pub(crate) uncertain: bool,
}

/// What a refusal means for the message.
enum Fate {
    /// It waits for another try.
    Kept,
    /// It is refused for good.
    Refused,
}

impl Outbox {
    pub(crate) fn new(producer: Producer, limits: BackoffLimits) -> Self {
        Self {
            producer,
            next: 1,
            floor: 0,
            absent: None,
            sent_max: 0,
            stragglers: None,
            queue: VecDeque::new(),
            cursor: 0,
            in_flight: 0,
            in_flight_max: usize::MAX,
            acknowledged: 0,
            is_limited: false,
            is_stuck: false,
            halted: false,
            resume_at: None,
            backoff: Backoff::new(limits),
        }
    }

    #[cfg(test)]
    pub(crate) fn producer(&self) -> Producer {
        self.producer
    }

    /// Whether every message has had its end.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn push(&mut self, ticket: Ticket, body: Bytes, deadline: Option<Instant>) {
        let sequence = self.next;
        self.next += 1;
        let pending = Pending {
            sequence,
            ticket,
            body,
            deadline,
            sent_at: None,
            uncertain: false,
            out_of_order: None,
            is_blocked: false,
        };
        self.queue.push_back(pending);
    }

    /// Whether [`Self::send_next`] has a message.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        let Some(pending) = self.queue.get(self.cursor) else { return false };
        // What stands behind an absent number waits for its own number.
        let in_line = self.absent.is_none_or(|absent| pending.sequence < absent);
        let has_room = self.in_flight < self.in_flight_max;
        !self.halted && in_line && has_room && self.resume_at.is_none_or(|at| at <= now)
    }

    /// When a pause ends, if one is on.
    pub(crate) fn resume_at(&self) -> Option<Instant> {
        self.resume_at.filter(|_| !self.queue.is_empty())
    }

    /// When the oldest message under way was sent.
    pub(crate) fn oldest_sent(&self) -> Option<Instant> {
        self.queue.front().and_then(|pending| pending.sent_at)
    }

    /// Takes the next message as sent. Its answer is told with [`Self::acknowledged`] or [`Self::refused`], and then
    /// [`Self::answered`].
    pub(crate) fn send_next(&mut self, now: Instant) -> Option<Outgoing<'_>> {
        if !self.is_ready(now) {
            return None;
        }
        self.resume_at = None;
        let pending = self.queue.get_mut(self.cursor)?;
        pending.sent_at = Some(now);
        self.cursor += 1;
        self.in_flight += 1;
        self.sent_max = self.sent_max.max(pending.sequence);
        let sequence = ProducerSequence::new(pending.sequence)?;
        Some(Outgoing { producer: self.producer, sequence, body: &pending.body })
    }

    /// A message of `producer` is stored. `None` if it has had its end, or is of an earlier producer.
    pub(crate) fn acknowledged(&mut self, producer: Producer, sequence: ProducerSequence) -> Option<Ticket> {
        if producer != self.producer {
            return None;
        }
        let sequence = sequence.get();
        self.floor = self.floor.max(sequence);
        self.absent = self.absent.filter(|&absent| absent > self.floor);
        self.backoff.reset();
        self.acknowledged += 1;
        self.in_flight_max = self.in_flight_max.saturating_add(1);
        let index = self.find(sequence)?;
        Some(self.remove(index).ticket)
    }

    /// A message was refused. Returns it if that is for good.
    pub(crate) fn refused(
        &mut self,
        now: Instant,
        sequence: ProducerSequence,
        code: u16,
        retry_after: Duration,
        random: &mut Random,
    ) -> Option<GivenUp> {
        self.halted = true;
        let index = self.find(sequence.get())?;
        // The channel answered at any time since, however late the answer is read.
        let sent_at = self.queue.get_mut(index)?.sent_at.take().unwrap_or(now);
        let may_straggle = self.straggler_max(sent_at) >= sequence.get();
        let pending = self.queue.get_mut(index)?;
        match fate(code) {
            Fate::Kept => {
                match Code::from_number(code) {
                    // It would have been a duplicate if it were stored.
                    Some(Code::OutOfOrder) => {
                        pending.out_of_order = Some(sent_at);
                        pending.uncertain &= may_straggle;
                        return None;
                    }
                    // Refused before anything was tried: what was known before still holds.
                    Some(Code::RateLimited | Code::Busy) => self.is_limited = true,
                    Some(Code::Blocked) => pending.is_blocked = true,
                    Some(Code::NotSubscribed | Code::GoingAway) => {}
                    _ => pending.uncertain = true,
                }
                // Those behind a refused one are refused as well; one wait is enough for all of them.
                if self.resume_at.is_none() || !retry_after.is_zero() {
                    let wait = if retry_after.is_zero() { self.backoff.next(random) } else { retry_after };
                    self.resume_at = self.resume_at.max(Some(now + wait));
                }
                None
            }
            Fate::Refused => {
                let pending = self.remove(index);
                if !pending.uncertain {
                    self.note_absent(pending.sequence);
                }
                Some(GivenUp { ticket: pending.ticket, uncertain: pending.uncertain })
            }
        }
    }

    /// One request that was in flight has its answer. After the last of a halted run, what is left starts over.
    pub(crate) fn answered(&mut self, now: Instant, random: &mut Random) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.settle(now, random);
    }

    /// Whether nothing goes on in this session: it bars what is left because of a message that was given up.
    pub(crate) fn take_stuck(&mut self) -> bool {
        std::mem::take(&mut self.is_stuck)
    }

    /// The connection is gone, and with it every answer that was under way. `linger` is how long the node may still read
    /// what was sent on it.
    pub(crate) fn disconnected(&mut self, now: Instant, linger: Duration, random: &mut Random) {
        for pending in &mut self.queue {
            pending.uncertain |= pending.sent_at.take().is_some();
            pending.out_of_order = None;
            pending.is_blocked = false;
        }
        self.in_flight_max = usize::MAX;
        self.is_limited = false;
        if self.in_flight > 0 {
            self.stragglers = Some((now + linger, self.sent_max));
        }
        self.in_flight = 0;
        self.halted = true;
        self.settle(now, random);
    }

    /// Gives up the oldest message whose time has passed; call it until `None`.
    pub(crate) fn expire(&mut self, now: Instant, random: &mut Random) -> Option<GivenUp> {
        self.queue.front()?.deadline.filter(|&deadline| deadline <= now)?;
        let pending = self.remove(0);
        let uncertain = pending.uncertain || pending.sent_at.is_some();
        if !uncertain {
            self.note_absent(pending.sequence);
            self.halted = true;
        }
        self.settle(now, random);
        Some(GivenUp { ticket: pending.ticket, uncertain })
    }

    /// Gives up everything; call it until `None`.
    pub(crate) fn give_up_next(&mut self) -> Option<GivenUp> {
        let pending = (!self.queue.is_empty()).then(|| self.remove(0))?;
        Some(GivenUp { ticket: pending.ticket, uncertain: pending.uncertain || pending.sent_at.is_some() })
    }

    fn find(&self, sequence: u64) -> Option<usize> {
        self.queue.binary_search_by_key(&sequence, |pending| pending.sequence).ok()
    }

    fn remove(&mut self, index: usize) -> Pending {
        if index < self.cursor {
            self.cursor -= 1;
        }
        self.queue.remove(index).expect("the index is of this queue")
    }

    fn note_absent(&mut self, sequence: u64) {
        self.absent = Some(self.absent.map_or(sequence, |absent| absent.min(sequence)));
    }

    /// The highest sequence that a straggler may have.
    fn straggler_max(&self, now: Instant) -> u64 {
        self.stragglers.map_or(0, |(until, sequence)| if now < until { sequence } else { 0 })
    }

    /// With nothing in flight: takes up what the refusals taught, and starts over from the front.
    fn settle(&mut self, now: Instant, random: &mut Random) {
        if self.in_flight > 0 || !(self.halted || self.absent.is_some()) {
            return;
        }
        self.halted = false;
        self.cursor = 0;
        if std::mem::take(&mut self.is_limited) {
            self.in_flight_max = self.acknowledged.max(1);
        }
        self.acknowledged = 0;
        let front = self.queue.front().map(|front| (front.sequence, front.out_of_order));
        // Who bars the front is not before it in the queue: it was given up with an unknown fate.
        self.is_stuck = self.absent.is_none()
            && self.queue.front().is_some_and(|front| front.is_blocked && self.floor + 1 < front.sequence);
        for pending in &mut self.queue {
            pending.out_of_order = None;
            pending.is_blocked = false;
        }
        match (self.absent, front) {
            (Some(absent), _) if self.straggler_max(now) < absent => self.move_up(absent),
            // A straggler behind the absent number can never be stored, for nobody sends that number again.
            (Some(absent), Some((front, _))) if front >= absent => self.start_anew(random),
            // What stands before the absent number is sent first, as it is.
            (Some(_), Some(_)) => {}
            (Some(_), None) => self.start_anew(random),
            // A later one is stored and so is this one, by a straggler: its number tells where.
            (None, Some((front, Some(_)))) if front <= self.floor => {}
            // The number before the front was given up with an unknown fate, and it is not stored, or not yet.
            (None, Some((front, Some(sent_at)))) if self.floor + 1 < front && self.straggler_max(sent_at) > 0 => {
                self.resume_at = Some(now + self.backoff.next(random));
            }
            // As above and it never will be; or the channel forgot a producer whose messages it had acknowledged: unused
            // for long, or lost with the last moments of a windowed channel.
            (None, Some((_, Some(_)))) => {
                self.start_anew(random);
                self.resume_at = Some(now + self.backoff.next(random));
            }
            (None, _) => {}
        }
    }

    /// Closes the gap that begins at `absent`.
    fn move_up(&mut self, absent: u64) {
        self.absent = None;
        self.next = absent;
        for pending in self.queue.iter_mut().skip_while(|pending| pending.sequence < absent) {
            pending.sequence = self.next;
            pending.uncertain = false;
            self.next += 1;
        }
    }

    /// Gives what is left, none of which is stored, numbers of a new producer.
    fn start_anew(&mut self, random: &mut Random) {
        self.producer = random_producer(random);
        self.floor = 0;
        self.sent_max = 0;
        self.stragglers = None;
        self.next = 1;
        self.move_up(1);
    }
}

pub(crate) fn random_producer(random: &mut Random) -> Producer {
    loop {
        if let Some(producer) = Producer::new(random.next()) {
            return producer;
        }
    }
}

fn fate(code: u16) -> Fate {
    match (Code::from_number(code), Advice::of(code)) {
        (Some(Code::OutOfOrder | Code::NotSubscribed), _) => Fate::Kept,
        (_, Advice::DoNotRetry | Advice::Reload) => Fate::Refused,
        (_, Advice::Retry | Advice::Reconnect | Advice::Authenticate) => Fate::Kept,
    }
}

#[cfg(test)]
mod tests;
