//! What waits to be written to a link: one buffer of encoded frames, bounded in bytes, and the rule that keeps grants from going stale.
//!
//! - **Replies** wait for room: the request that they answer holds its place among the link's requests meanwhile, so a node that asks for more
//!   than it reads is not read from any more.
//! - **Changes** never wait and never get lost: they have a reserve of their own, and when that is full too the link ends. The node
//!   then asks anew for everything it had been granted.
//!
//! **Invariant:** a grant that was looked up before a change was committed is never queued behind that change. Queueing a change
//! counts it, queueing grants checks the count, and both happen under the same lock.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use millrace_protocol::id::{ChannelId, ChannelName, TenantId, UserId};
use millrace_protocol::node::{self, Authorize, ChannelRef, NodeBody, NodeFrame, ReadMark};
use tokio::sync::Notify;

use super::LinkEnd;

/// How many changes are remembered, to tell which grants they concern. A look-up that overlaps more is repeated whole.
const CHANGES_REMEMBERED: usize = 1024;
/// Room that only changes, heartbeats and publish orders may use.
const RESERVE_BYTES: usize = 4 << 20;

pub(super) struct Outbox {
    state: Mutex<State>,
    /// There is something to write, or the link ended.
    readable: Notify,
    /// There is room, or the link ended.
    room: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Bytes that the writer has taken and not yet written.
    writing: usize,
    changes: u64,
    recent: VecDeque<Concern>,
    end: Option<LinkEnd>,
}

/// Whose grants a change concerns, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Concern {
    /// They have to be looked up again.
    Member(TenantId, ChannelId, UserId),
    /// They have to be looked up again.
    Channel(TenantId, ChannelId, ChannelName),
    /// They tell that the user has read at least so far: told behind this, an older position would take it back.
    Read(ReadMark),
}

impl Concern {
    fn of(change: &NodeBody) -> Vec<Self> {
        match change {
            NodeBody::MemberChanged(member) => vec![Self::Member(member.tenant, member.channel, member.user.clone())],
            NodeBody::ChannelChanged { tenant, channel, name, .. } => {
                vec![Self::Channel(*tenant, *channel, name.clone())]
            }
            NodeBody::ReadsMoved(moved) => moved.iter().cloned().map(Self::Read).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether what was asked has to be looked up again. A channel asked for by name may be any, so only the user decides.
    pub(super) fn touches(&self, asked: &Authorize) -> bool {
        match (self, &asked.channel) {
            (Self::Member(tenant, channel, user), by) => {
                asked.tenant == *tenant
                    && asked.user == *user
                    && match by {
                        ChannelRef::Id(id) => id == channel,
                        ChannelRef::Name(_) => true,
                    }
            }
            (Self::Channel(tenant, channel, _), ChannelRef::Id(id)) => asked.tenant == *tenant && id == channel,
            (Self::Channel(tenant, _, name), ChannelRef::Name(asked_name)) => {
                asked.tenant == *tenant && asked_name == name
            }
            (Self::Read(_), _) => false,
        }
    }
}

/// What became of grants that were to be queued.
pub(super) enum Queued {
    Yes,
    /// These changes were queued since the look-up began; `None` when there were more than are remembered. `changes` is the
    /// count now.
    Overlapped {
        concerns: Option<Vec<Concern>>,
        changes: u64,
    },
}

impl Outbox {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), readable: Notify::new(), room: Notify::new(), bytes_max }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changes were queued so far. Read it before a look-up, give it to [`Outbox::grants`] after.
    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Bytes that are not yet written.
    pub(super) fn bytes(&self) -> usize {
        let state = self.state();
        state.pending.len() + state.writing
    }

    /// Ends the link; the first reason stays.
    pub(super) fn end(&self, end: LinkEnd) {
        self.state().end.get_or_insert(end);
        self.readable.notify_one();
        self.room.notify_waiters();
    }

    /// Queues a reply once there is room. A reply that is too large for a frame is replaced by a refusal.
    ///
    /// # Cancel safety
    /// A dropped future has queued the whole reply or nothing.
    pub(super) async fn reply(&self, id: u64, body: NodeBody) -> Result<(), LinkEnd> {
        let bytes = encode_reply(id, body);
        self.when_room(bytes.len(), |state| state.pending.extend_from_slice(&bytes)).await
    }

    /// Queues grants once there is room, unless a change was queued after `seen` was read.
    ///
    /// # Cancel safety
    /// A dropped future has queued the whole reply or nothing.
    pub(super) async fn grants(&self, id: u64, body: NodeBody, seen: u64) -> Result<Queued, LinkEnd> {
        let bytes = encode_reply(id, body);
        self.when_room(bytes.len(), |state| {
            let missed = state.changes - seen;
            if missed == 0 {
                state.pending.extend_from_slice(&bytes);
                return Queued::Yes;
            }
            let missed = usize::try_from(missed).ok().filter(|missed| *missed <= state.recent.len());
            let concerns = missed.map(|missed| state.recent.range(state.recent.len() - missed..).cloned().collect());
            Queued::Overlapped { concerns, changes: state.changes }
        })
        .await
    }

    async fn when_room<T>(&self, bytes: usize, queue: impl FnOnce(&mut State) -> T) -> Result<T, LinkEnd> {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            // Registered before the look, so that room made in between is not missed.
            notified.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(end) = state.end {
                    return Err(end);
                }
                let used = state.pending.len() + state.writing;
                // A frame alone always fits, however large.
                if used == 0 || used + bytes <= self.bytes_max {
                    let result = queue(&mut state);
                    drop(state);
                    self.readable.notify_one();
                    return Ok(result);
                }
            }
            notified.await;
        }
    }

    /// Queues a change, and counts it if grants may depend on it.
    ///
    /// A change that finds even the reserve full ends the link.
    pub(super) fn change(&self, change: NodeBody) {
        let concerns = Concern::of(&change);
        let bytes = match encode(&NodeFrame { id: 0, body: change }) {
            Ok(bytes) => bytes,
            Err(end) => return self.end(end),
        };
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        for concern in concerns {
            state.changes += 1;
            if state.recent.len() == CHANGES_REMEMBERED {
                state.recent.pop_front();
            }
            state.recent.push_back(concern);
        }
        let full = !self.push(&mut state, &bytes);
        drop(state);
        if full {
            self.end(LinkEnd::QueueFull);
        }
        self.readable.notify_one();
    }

    /// Queues a frame now, using the reserve. `false` if there is no room.
    pub(super) fn urgent(&self, frame: &NodeFrame) -> Result<bool, LinkEnd> {
        let bytes = encode(frame)?;
        let mut state = self.state();
        if let Some(end) = state.end {
            return Err(end);
        }
        let pushed = self.push(&mut state, &bytes);
        drop(state);
        self.readable.notify_one();
        Ok(pushed)
    }

    fn push(&self, state: &mut State, bytes: &[u8]) -> bool {
        let used = state.pending.len() + state.writing;
        let fits = used + bytes.len() <= self.bytes_max + RESERVE_BYTES;
        if fits {
            state.pending.extend_from_slice(bytes);
        }
        fits
    }

    /// Waits for something to write and swaps it for `buffer`, which is empty and counts as written.
    ///
    /// # Cancel safety
    /// Nothing is taken by a dropped future.
    pub(super) async fn take(&self, buffer: &mut Vec<u8>) -> Result<(), LinkEnd> {
        debug_assert!(buffer.is_empty(), "what was taken before is written");
        loop {
            let notified = self.readable.notified();
            {
                let mut state = self.state();
                if !state.pending.is_empty() {
                    std::mem::swap(&mut state.pending, buffer);
                    state.writing = buffer.len();
                    return Ok(());
                }
                // What was queued before the end is written; it may say why.
                if let Some(end) = state.end {
                    return Err(end);
                }
            }
            notified.await;
        }
    }

    /// What was taken is written: there is room.
    pub(super) fn written(&self) {
        self.state().writing = 0;
        self.room.notify_waiters();
    }
}

fn encode(frame: &NodeFrame) -> Result<Vec<u8>, LinkEnd> {
    let mut bytes = Vec::with_capacity(node::encoded_bytes_max(frame).min(node::FRAME_BYTES_MAX) + 4);
    match node::encode_delimited(frame, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a frame for the data node is too large");
            Err(LinkEnd::Internal)
        }
    }
}

fn encode_reply(id: u64, body: NodeBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = node::encode_delimited(&NodeFrame { id, body }, &mut bytes) {
        let refusal = millrace_protocol::code::Refusal::new(
            millrace_protocol::Code::TooLarge,
            format!("the answer does not fit into a frame, ask for less at once: {error}"),
        );
        let refused = NodeFrame { id, body: NodeBody::Refused(refusal) };
        node::encode_delimited(&refused, &mut bytes).expect("a refusal of a few hundred bytes fits into a frame");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use millrace_protocol::node::{History, MemberChanged, NewMessage, StoredMessage};
    use millrace_protocol::{Epoch, Offset, Producer, ProducerSequence};

    use super::*;

    /// A reply of about so many bytes.
    fn reply(bytes: usize) -> NodeBody {
        let message = NewMessage {
            user: UserId::new("ann").unwrap(),
            producer: Producer::new(1).unwrap(),
            sequence: ProducerSequence::FIRST,
            time_ms: 0,
            body: Bytes::from(vec![0; bytes]),
        };
        let stored = StoredMessage { epoch: Epoch::FIRST, offset: Offset::FIRST, message };
        NodeBody::History(History { channel: channel(1), messages: vec![Arc::new(stored)], more: false })
    }

    fn channel(number: u64) -> ChannelId {
        ChannelId::new(number).unwrap()
    }

    fn change(number: u64) -> NodeBody {
        NodeBody::MemberChanged(MemberChanged {
            tenant: TenantId::new(1).unwrap(),
            channel: channel(number),
            user: UserId::new("ann").unwrap(),
            membership: None,
        })
    }

    async fn waits(future: impl Future) -> bool {
        tokio::time::timeout(Duration::from_millis(20), future).await.is_err()
    }

    #[tokio::test]
    async fn replies_wait_for_room_and_changes_have_their_own() {
        let outbox = Outbox::new(1000);
        outbox.reply(1, reply(5000)).await.unwrap();
        assert!(waits(outbox.reply(2, reply(1))).await, "a large frame fits alone, and nothing beside it");
        outbox.change(change(1));
        assert_eq!(outbox.changes(), 1);
        assert!(outbox.urgent(&NodeFrame { id: 0, body: NodeBody::Ping }).unwrap());

        let mut buffer = Vec::new();
        outbox.take(&mut buffer).await.unwrap();
        assert_eq!(outbox.bytes(), buffer.len());
        assert!(waits(outbox.reply(2, reply(1))).await, "what is being written still takes room");
        outbox.written();
        outbox.reply(2, reply(1)).await.unwrap();
        assert!(outbox.bytes() < 1000);

        // The reserve is bounded too: it ends the link, never the memory.
        let large = NodeBody::Keys(vec![]);
        while outbox.bytes() < 1000 + RESERVE_BYTES - 100 {
            outbox.change(large.clone());
        }
        for _ in 0..10 {
            outbox.change(change(1));
        }
        assert!(outbox.bytes() <= 1000 + RESERVE_BYTES);
        assert_eq!(outbox.reply(3, reply(1)).await, Err(LinkEnd::QueueFull));
        // What was queued before is still written.
        buffer.clear();
        outbox.take(&mut buffer).await.unwrap();
        buffer.clear();
        assert_eq!(outbox.take(&mut buffer).await, Err(LinkEnd::QueueFull));
    }

    #[tokio::test]
    async fn grants_learn_which_changes_they_overlap() {
        let outbox = Outbox::new(1 << 20);
        let grants = |seen| outbox.grants(1, NodeBody::Authorized(vec![]), seen);
        let seen = outbox.changes();
        assert!(matches!(grants(seen).await.unwrap(), Queued::Yes));
        outbox.change(NodeBody::Keys(vec![]));
        assert!(matches!(grants(seen).await.unwrap(), Queued::Yes), "keys say nothing about grants");
        for number in 1..=3 {
            outbox.change(change(number));
        }
        let Queued::Overlapped { concerns, changes } = grants(seen + 1).await.unwrap() else { panic!("stale grants") };
        let member = |number| Concern::Member(TenantId::new(1).unwrap(), channel(number), UserId::new("ann").unwrap());
        assert_eq!((concerns, changes), (Some(vec![member(2), member(3)]), 3));
        for number in 0..CHANGES_REMEMBERED as u64 {
            outbox.change(change(number + 1));
        }
        let Queued::Overlapped { concerns, changes } = grants(1).await.unwrap() else { panic!("stale grants") };
        assert_eq!((concerns, changes), (None, 3 + CHANGES_REMEMBERED as u64), "more than are remembered");
    }

    #[tokio::test]
    async fn an_answer_too_large_for_a_frame_is_a_refusal() {
        let outbox = Outbox::new(1 << 20);
        outbox.reply(9, reply(node::FRAME_BYTES_MAX)).await.unwrap();
        let mut buffer = Vec::new();
        outbox.take(&mut buffer).await.unwrap();
        let frame = node::decode(Bytes::from(buffer).slice(4..)).unwrap();
        assert!(matches!(frame, NodeFrame { id: 9, body: NodeBody::Refused(_) }), "{frame:?}");
    }
}
