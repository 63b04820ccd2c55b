//! What waits for a webhook and can be told now. What can not, because it waits after a failure or behind something else, is remembered and not
//! read again with each look: a receiver that stumbles over thousands of events costs little while they wait.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_domain::{CLOCKS_APART_MS, is_ahead};
use millrace_protocol::id::{ChannelId, Offset};
use millrace_store::{KeyRange, StoreError, TRANSACTION_READS_MAX, Transaction};

use super::lane::Lane;
use crate::record::key::of_webhook as key;
use crate::record::webhook_queue::{self, Waiting};

/// Rows that are read at a time.
const PAGE_ROWS: u32 = 256;
/// Pages of marks that one look reads; the next one goes on there.
const MARK_PAGES_MAX: usize = 8;
/// Events that are told before a lane makes room for others.
pub(super) const LANE_EVENTS: usize = 32;
/// What is remembered is read again now and then: another control node may have written where this one has looked.
const MEMORY_LIFE: Duration = Duration::from_secs(60);
/// Rows that are younger may still get neighbours: transactions of the same time commit in any order, and another control node's clock may
/// be behind by as much as clocks may be apart. In us.
const SETTLED_US: u64 = (CLOCKS_APART_MS.unsigned_abs() + 15_000) * 1_000;
/// Both rounds of a look through the marks have room in a transaction, each mark with what is noted of its channel.
const _: () = assert!(2 * MARK_PAGES_MAX * PAGE_ROWS as usize <= TRANSACTION_READS_MAX);
/// Channels that are remembered; at more, all are forgotten.
const CHANNELS_MAX: usize = 65_536;

/// Remembers what was read.
#[derive(Default)]
pub(super) struct Agenda {
    /// Ranges of events that were read, by the key at which they begin.
    pages: HashMap<Bytes, Page>,
    /// Channels whose next message waits after a failure, and until when; Unix time, ms.
    waiting: HashMap<ChannelId, i64>,
    /// Since when.
    since: Option<Instant>,
    /// What was tried before this moment is tried again; Unix time, ms.
    fresh_ms: i64,
    /// Where the round through the marks goes on, so that every channel gets its turn.
    marks_after: Option<ChannelId>,
    /// The round began at the first mark, and nothing has changed behind it.
    is_whole: bool,
    /// When a message of the channels that this round has seen can be told; Unix time, ms.
    round_next_ms: Option<i64>,
}

/// A range of events, full when it was read.
struct Page {
    /// The first key behind it.
    end: Bytes,
    /// The lanes of its events. Of those whose first event is here, until when it waits after a failure; 0 if it does not.
    lanes: Vec<(Arc<str>, Option<i64>)>,
}

/// Where the first event of a lane was found.
#[derive(Clone, Copy)]
enum First {
    /// It is told now.
    Told(usize),
    /// It waits after a failure, until then.
    Waits(i64),
    /// Its lane is busy, or there is no room for it.
    Held,
}

/// When and for whom a look is.
pub(super) struct Looking<'a> {
    pub(super) webhook: &'a str,
    pub(super) busy: &'a HashSet<Lane>,
    /// What was tried before is tried again; Unix time, ms.
    pub(super) fresh_ms: i64,
    pub(super) now_ms: i64,
}

impl Looking<'_> {
    fn due_at(&self, tried_ms: i64, next_ms: i64) -> i64 {
        if tried_ms < self.fresh_ms || is_ahead(tried_ms, self.now_ms) { 0 } else { next_ms }
    }
}

/// What can be told now.
#[derive(Default)]
pub(super) struct Due {
    pub(super) events: Vec<(String, Vec<(Bytes, Waiting)>)>,
    pub(super) messages: Vec<(ChannelId, Offset)>,
    /// When something else can be told; Unix time, ms.
    pub(super) next_ms: Option<i64>,
    more_events: bool,
    more_messages: bool,
    /// Rows that were read.
    pub(super) rows: usize,
}

impl Due {
    /// More waits than was looked at.
    pub(super) fn more(&self) -> bool {
        self.more_events || self.more_messages
    }

    fn not_before(&mut self, due_ms: i64) {
        self.next_ms = Some(self.next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
    }
}

impl Agenda {
    /// Something has come, or a lane has ended: a round through the marks that is under way does not count as whole.
    pub(super) fn stir(&mut self) {
        self.is_whole = false;
    }

    /// What can be told now: at most `room` lanes, and messages of at most `first` channels before events are asked for.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn look(
        &mut self,
        transaction: &mut dyn Transaction,
        at: &Looking<'_>,
        first: usize,
        room: usize,
    ) -> Result<Due, StoreError> {
        if at.fresh_ms != self.fresh_ms || self.since.is_none_or(|since| since.elapsed() > MEMORY_LIFE) {
            self.pages.clear();
            self.waiting.clear();
            self.since = Some(Instant::now());
            self.fresh_ms = at.fresh_ms;
            self.stir();
        }
        let mut due = Due::default();
        if first > 0 {
            self.messages(transaction, at, first, &mut due).await?;
        }
        let left = room.saturating_sub(due.messages.len());
        if left > 0 {
            self.events(transaction, at, left, &mut due).await?;
        } else {
            due.more_events = true;
        }
        if due.events.len() < left && due.messages.len() == first {
            self.messages(transaction, at, room - due.events.len(), &mut due).await?;
        }
        Ok(due)
    }

    /// Events in order, of lanes that wait for nothing.
    async fn events(
        &mut self,
        transaction: &mut dyn Transaction,
        at: &Looking<'_>,
        room: usize,
        due: &mut Due,
    ) -> Result<(), StoreError> {
        let mut firsts: HashMap<Arc<str>, First> = HashMap::new();
        let mut range = key::events(at.webhook);
        loop {
            let known = self.pages.get(&range.start);
            if let Some(page) = known.filter(|page| page.has_nothing(&firsts, at.now_ms)) {
                for (lane, until_ms) in &page.lanes {
                    match (firsts.get_mut(lane), until_ms) {
                        // What is behind what was left out is told another time.
                        (Some(first @ First::Told(_)), _) => *first = First::Held,
                        (None, Some(until_ms)) => {
                            due.not_before(*until_ms);
                            firsts.insert(lane.clone(), First::Waits(*until_ms));
                        }
                        _ => {}
                    }
                }
                range.start = page.end.clone();
                continue;
            }
            let known_end = known.map(|page| page.end.clone());
            let part = KeyRange { end: known_end.clone().unwrap_or_else(|| range.end.clone()), ..range.clone() };
            let (rows, rest) = webhook_queue::page(transaction, at.webhook, Some(part), PAGE_ROWS).await?;
            due.rows += rows.len();
            let is_settled = rows.last().is_none_or(|(row, _)| is_settled(row, at.now_ms));
            let mut lanes: HashMap<Arc<str>, Option<i64>> = HashMap::new();
            for (row, waiting) in rows {
                let (lane, first) = match firsts.get_key_value(&*waiting.lane) {
                    Some((lane, first)) => (lane.clone(), *first),
                    None => {
                        let lane: Arc<str> = waiting.lane.as_str().into();
                        let first = self.first(at, &waiting, room, due);
                        firsts.insert(lane.clone(), first);
                        lanes.insert(lane.clone(), Some(if let First::Waits(until_ms) = first { until_ms } else { 0 }));
                        (lane, first)
                    }
                };
                lanes.entry(lane).or_insert(None);
                // Behind one that is told now.
                if let First::Told(index) = first
                    && let Some((_, told)) = due.events.get_mut(index)
                    && told.len() < LANE_EVENTS
                {
                    told.push((row, waiting));
                }
            }
            // Where a page ends that is known stays, also when it has fewer events than before: those behind it stay known, too.
            let Some(end) = rest.map(|rest| rest.start).or(known_end) else { return Ok(()) };
            if is_settled {
                let page = Page { end: end.clone(), lanes: lanes.into_iter().collect() };
                self.pages.insert(range.start, page);
            }
            if due.events.len() >= room {
                due.more_events = true;
                return Ok(());
            }
            range.start = end;
        }
    }

    /// What is to be done with the first event of a lane.
    fn first(&self, at: &Looking<'_>, waiting: &Waiting, room: usize, due: &mut Due) -> First {
        if at.busy.contains(&Lane::Events(waiting.lane.clone())) {
            return First::Held;
        }
        let due_ms = at.due_at(waiting.tried_ms, waiting.next_ms);
        if due_ms > at.now_ms {
            due.not_before(due_ms);
            return First::Waits(due_ms);
        }
        if due.events.len() >= room {
            due.more_events = true;
            return First::Held;
        }
        due.events.push((waiting.lane.clone(), Vec::new()));
        First::Told(due.events.len() - 1)
    }

    /// Channels with messages, in turn.
    async fn messages(
        &mut self,
        transaction: &mut dyn Transaction,
        at: &Looking<'_>,
        room: usize,
        due: &mut Due,
    ) -> Result<(), StoreError> {
        due.more_messages = true;
        for _ in 0..MARK_PAGES_MAX {
            if self.marks_after.is_none() {
                self.is_whole = true;
                self.round_next_ms = None;
            }
            let marks = webhook_queue::marks(transaction, at.webhook, self.marks_after, PAGE_ROWS).await?;
            due.rows += marks.len();
            let is_last = marks.len() < PAGE_ROWS as usize;
            for (channel, from) in marks {
                if due.messages.len() >= room {
                    return Ok(());
                }
                self.marks_after = Some(channel);
                let is_taken = due.messages.iter().any(|(other, _)| *other == channel);
                if is_taken || at.busy.contains(&Lane::Messages(channel)) {
                    continue;
                }
                match self.message_due_at(transaction, at, channel, due).await? {
                    due_ms if due_ms <= at.now_ms => due.messages.push((channel, from)),
                    due_ms => {
                        self.round_next_ms = Some(self.round_next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
                    }
                }
            }
            if is_last {
                self.marks_after = None;
                if self.is_whole {
                    due.more_messages = false;
                    if let Some(next_ms) = self.round_next_ms {
                        due.not_before(next_ms);
                    }
                    return Ok(());
                }
                // From the first one again: what came meanwhile may be in front of where this round began.
            }
        }
        Ok(())
    }

    async fn message_due_at(
        &mut self,
        transaction: &mut dyn Transaction,
        at: &Looking<'_>,
        channel: ChannelId,
        due: &mut Due,
    ) -> Result<i64, StoreError> {
        if let Some(&until_ms) = self.waiting.get(&channel).filter(|until_ms| **until_ms > at.now_ms) {
            return Ok(until_ms);
        }
        let progress = webhook_queue::progress(transaction, at.webhook, channel).await?.unwrap_or_default();
        due.rows += 1;
        let due_ms = at.due_at(progress.tried_ms, progress.next_ms);
        if due_ms > at.now_ms {
            if self.waiting.len() >= CHANNELS_MAX {
                self.waiting.clear();
            }
            self.waiting.insert(channel, due_ms);
        } else {
            self.waiting.remove(&channel);
        }
        Ok(due_ms)
    }
}

impl Page {
    /// Whether nothing in it can be told, whatever it has: each of its lanes has an event in front of it, or waits.
    fn has_nothing(&self, firsts: &HashMap<Arc<str>, First>, now_ms: i64) -> bool {
        self.lanes
            .iter()
            .all(|(lane, until_ms)| firsts.contains_key(lane) || until_ms.is_some_and(|until_ms| until_ms > now_ms))
    }
}

fn is_settled(row: &[u8], now_ms: i64) -> bool {
    let now_us = u64::try_from(now_ms).unwrap_or(0).saturating_mul(1_000);
    key::event_time_us(row).is_some_and(|time_us| time_us.saturating_add(SETTLED_US) < now_us)
}

#[cfg(test)]
mod tests;
