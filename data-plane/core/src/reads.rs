//! Read positions: how far a user has read a channel. Where one stands is known with the grant; marks of clients wait here, one for
//! each user and channel, and leave for the control plane together.

use std::collections::HashMap;

use millrace_protocol::client::NO_EPOCH;
use millrace_protocol::node::ReadMark;
use millrace_protocol::{ChannelId, Epoch, Position, TenantId, UserId};

use crate::SessionKey;
use crate::seeded::Seeded;

/// Most marks in one request to the control plane.
pub(crate) const MARK_BATCH_MAX: usize = 256;

/// Where a read position stands, in 12 bytes: every subscription and every grant has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReadAt {
    /// 0: nothing is read.
    epoch: u32,
    offset: [u32; 2],
}

impl ReadAt {
    pub(crate) fn new(position: Position) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the other half stands beside it")]
        let offset = [(position.offset >> 32) as u32, position.offset as u32];
        Self { epoch: position.epoch.get(), offset }
    }

    /// Offset 0 if nothing is read.
    pub(crate) fn position(self) -> Position {
        let [high, low] = self.offset.map(u64::from);
        Position { epoch: Epoch::new(self.epoch).unwrap_or(NO_EPOCH), offset: high << 32 | low }
    }

    /// Whether `position` is further on: a later epoch counts more than any offset.
    pub(crate) fn is_behind(self, position: Position) -> bool {
        let own = self.position();
        position.offset > 0 && (own.offset == 0 || (own.epoch, own.offset) < (position.epoch, position.offset))
    }

    /// Moves on to `position`; `false` if it stands there or further on already.
    pub(crate) fn advance(&mut self, position: Position) -> bool {
        let behind = self.is_behind(position);
        if behind {
            *self = Self::new(position);
        }
        behind
    }
}

/// A request that a mark answers, and how far it asked to go: not as far as the mark if others asked for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MarkWaiter {
    pub(crate) session: SessionKey,
    pub(crate) request: u32,
    pub(crate) position: Position,
}

/// A mark on its way to the control plane, and who asked for it.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) mark: ReadMark,
    pub(crate) waiters: Vec<MarkWaiter>,
}

type MarkKey = (TenantId, UserId, ChannelId);

/// Marks that wait for their batch.
pub(crate) struct Marks {
    waiting: HashMap<MarkKey, (Position, Vec<MarkWaiter>), Seeded>,
    /// Requests that the control plane has not answered.
    pub(crate) under_way: u32,
    /// A timer runs, at whose end those that wait are sent.
    pub(crate) due: bool,
}

impl Marks {
    /// Names come from strangers: `hasher` keeps them from choosing ones that collide.
    pub(crate) fn new(hasher: Seeded) -> Self {
        Self { waiting: HashMap::with_hasher(hasher), under_way: 0, due: false }
    }

    /// Whether a mark finds a place among at most `max`.
    pub(crate) fn admits(&self, mark: &ReadMark, max: u32) -> bool {
        self.waiting.len() < max as usize || self.waiting.contains_key(&(mark.tenant, mark.user.clone(), mark.channel))
    }

    /// Puts a mark beside those that wait, or further on the one that waits for the same user and channel.
    pub(crate) fn add(&mut self, mark: ReadMark, session: SessionKey, request: u32) {
        let ReadMark { tenant, user, channel, position } = mark;
        let (at, waiters) = self.waiting.entry((tenant, user, channel)).or_insert_with(|| (position, Vec::new()));
        if ReadAt::new(*at).is_behind(position) {
            *at = position;
        }
        waiters.push(MarkWaiter { session, request, position });
    }

    /// The marks that wait, in batches with those who asked.
    pub(crate) fn take(&mut self) -> Vec<(Vec<ReadMark>, Vec<Marked>)> {
        let hasher = *self.waiting.hasher();
        let waiting = std::mem::replace(&mut self.waiting, HashMap::with_hasher(hasher));
        let mut batches: Vec<(Vec<ReadMark>, Vec<Marked>)> = Vec::new();
        for ((tenant, user, channel), (position, waiters)) in waiting {
            if batches.last().is_none_or(|(marks, _)| marks.len() == MARK_BATCH_MAX) {
                batches.push((Vec::new(), Vec::new()));
            }
            if let Some((marks, marked)) = batches.last_mut() {
                let mark = ReadMark { tenant, user, channel, position };
                marks.push(mark.clone());
                marked.push(Marked { mark, waiters });
            }
        }
        batches
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u32, offset: u64) -> Position {
        Position { epoch: Epoch::new(epoch).unwrap(), offset }
    }

    fn mark(user: &str, channel: u64, position: Position) -> ReadMark {
        let (tenant, channel) = (TenantId::new(1).unwrap(), ChannelId::new(channel).unwrap());
        ReadMark { tenant, user: UserId::new(user).unwrap(), channel, position }
    }

    #[test]
    fn a_position_only_moves_on() {
        let check = |from: Option<Position>, to: Position, moves: bool| {
            let mut read = from.map_or(ReadAt::default(), ReadAt::new);
            assert_eq!(read.advance(to), moves, "{from:?} {to:?}");
            assert_eq!(read.position(), if moves { to } else { from.unwrap_or(at(1, 0)) });
        };
        check(None, at(1, 0), false);
        check(None, at(2, 0), false);
        check(None, at(1, 1), true);
        check(None, at(u32::MAX, u64::MAX), true);
        check(Some(at(1, 7)), at(1, 7), false);
        check(Some(at(1, 7)), at(1, 6), false);
        check(Some(at(1, u64::from(u32::MAX))), at(1, u64::from(u32::MAX) + 1), true);
        check(Some(at(1, 7)), at(2, 3), true);
        check(Some(at(2, 3)), at(1, 7), false);
        assert_eq!(size_of::<ReadAt>(), 12);
    }

    #[test]
    fn marks_of_one_user_and_channel_are_one() {
        let session = |index| SessionKey { index, generation: 1 };
        let mut marks = Marks::new(Seeded::new(1));
        marks.add(mark("ann", 1, at(1, 5)), session(0), 7);
        marks.add(mark("ann", 1, at(1, 9)), session(1), 8);
        marks.add(mark("ann", 1, at(1, 6)), session(0), 9);
        assert!(marks.admits(&mark("ann", 1, at(1, 10)), 1), "it takes no further place");
        assert!(!marks.admits(&mark("bob", 1, at(1, 10)), 1));
        for n in 0..MARK_BATCH_MAX as u64 {
            marks.add(mark("bob", n + 1, at(1, 1)), session(2), 1);
        }
        let batches = marks.take();
        assert!(marks.is_empty());
        assert_eq!(batches.iter().map(|(marks, _)| marks.len()).sum::<usize>(), MARK_BATCH_MAX + 1);
        assert!(batches.iter().all(|(marks, marked)| marks.len() == marked.len() && marks.len() <= MARK_BATCH_MAX));
        let ann = batches.iter().flat_map(|(marks, marked)| marks.iter().zip(marked));
        let (mark, marked) = ann.clone().find(|(mark, _)| mark.user.as_str() == "ann").unwrap();
        assert_eq!(mark.position, at(1, 9));
        let waiters = marked.waiters.iter().map(|waiter| (waiter.session, waiter.request, waiter.position.offset));
        assert_eq!(waiters.collect::<Vec<_>>(), [(session(0), 7, 5), (session(1), 8, 9), (session(0), 9, 6)]);
    }
}
