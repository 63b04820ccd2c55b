//! The pace at which a session is given what it asked to read: pages of replay and of history, one after the other, as its
//! queue drains. A resume of any length costs the session its queue's share and nothing more.

use std::collections::VecDeque;

use millrace_protocol::ChannelId;
use millrace_protocol::client::HistoryRequest;

/// What waits for room in a session's queue. Boxed, and only there while something does.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    /// Room kept for pages that are on their way, in bytes.
    reserved_bytes: u32,
    waiting: VecDeque<Paced>,
    histories: u32,
    /// In the shard's list of those to look at.
    pub(crate) ready: bool,
}

/// Something that ends in a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Paced {
    /// The next page of the channel's replay.
    Replay(ChannelId),
    /// A page of history.
    History { request: u32, body: HistoryRequest },
}

impl Pacing {
    pub(crate) fn reserved_bytes(&self) -> u32 {
        self.reserved_bytes
    }

    /// Requests for history that wait.
    pub(crate) fn histories(&self) -> u32 {
        self.histories
    }

    pub(crate) fn push(&mut self, paced: Paced) {
        if matches!(paced, Paced::History { .. }) {
            self.histories += 1;
        }
        self.waiting.push_back(paced);
    }

    /// The next one that may start, with room kept for its page: at most half of the queue is for pages, the other half stays
    /// for live messages.
    pub(crate) fn start(&mut self, queued_bytes: u32, page_bytes: u32, queue_bytes_max: u32) -> Option<Paced> {
        if u64::from(queued_bytes) + u64::from(self.reserved_bytes) + u64::from(page_bytes)
            > u64::from(queue_bytes_max / 2)
        {
            return None;
        }
        let paced = self.waiting.pop_front()?;
        if matches!(paced, Paced::History { .. }) {
            self.histories -= 1;
        }
        self.reserved_bytes += page_bytes;
        Some(paced)
    }

    /// The page came, or never will.
    pub(crate) fn release(&mut self, page_bytes: u32) {
        debug_assert!(self.reserved_bytes >= page_bytes);
        self.reserved_bytes = self.reserved_bytes.saturating_sub(page_bytes);
    }

    /// The subscription is gone, so its replay needs no turn.
    pub(crate) fn forget(&mut self, channel: ChannelId) {
        self.waiting.retain(|paced| *paced != Paced::Replay(channel));
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.reserved_bytes == 0 && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::client::HistoryRange;

    use super::*;

    #[test]
    fn pages_start_as_the_queue_drains() {
        let channel = |n| ChannelId::new(n).unwrap();
        let history = HistoryRequest { channel: channel(9), messages_max: 5, range: HistoryRange::Newest };
        let mut pacing = Pacing::default();
        pacing.push(Paced::Replay(channel(1)));
        pacing.push(Paced::Replay(channel(2)));
        pacing.push(Paced::History { request: 4, body: history });
        assert_eq!(pacing.start(65, 60, 240), None, "the queue is too full");
        assert_eq!(pacing.start(0, 60, 240), Some(Paced::Replay(channel(1))));
        assert_eq!(pacing.start(0, 60, 240), Some(Paced::Replay(channel(2))));
        assert_eq!(pacing.start(0, 60, 240), None, "both halves are kept");
        pacing.release(60);
        assert_eq!((pacing.histories(), pacing.start(60, 60, 240)), (1, None));
        assert_eq!(pacing.start(0, 60, 240), Some(Paced::History { request: 4, body: history }));
        assert_eq!((pacing.histories(), pacing.reserved_bytes()), (0, 120));
        pacing.release(60);
        pacing.release(60);
        assert!(pacing.is_idle());
    }

    #[test]
    fn a_left_channel_takes_no_turn() {
        let channel = ChannelId::new(1).unwrap();
        let mut pacing = Pacing::default();
        pacing.push(Paced::Replay(channel));
        pacing.forget(channel);
        assert!(pacing.is_idle());
    }
}
