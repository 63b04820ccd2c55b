//! Messages between the shards of a node, on rings that are first in, first out. Everything between a session's shard and a
//! channel's home goes this way, also when both are the same shard.
//!
//! **Invariant:** order on a ring is what makes "page, then live" whole: a home adds a shard to a channel's interest in the
//! step in which it answers the page that reaches the tail.

use std::time::Instant;

use millrace_protocol::client::HistoryRange;
use millrace_protocol::node::{HistoryClass, NewMessage};
use millrace_protocol::{ChannelId, Code, Position, Producer, ProducerSequence};

use crate::run::Run;
use crate::{SessionKey, ShardIndex};

/// A message from one shard to another. The shell only carries it: 16 bytes, `Send`.
#[derive(Debug)]
pub struct Hop(pub(crate) HopBody);

#[derive(Debug)]
pub(crate) enum HopBody {
    /// To the home: a message to be accepted. Answered in `Acks`.
    Publish(Box<Publish>),
    /// To the home: a page after a position, and interest once the tail is reached. Answered by `Joined`.
    Join(Box<Join>),
    /// To the home: a page of history for a client. Answered by `Page`.
    Read(Box<Read>),
    /// To the home: this shard has no live subscription of the channel any more.
    Leave(ChannelId),
    /// From the home: what became of publishes.
    Acks(Box<Acks>),
    /// From the home.
    Joined(Box<Joined>),
    /// From the home.
    Page(Box<Page>),
    /// From the home: the next messages of a channel that this shard is interested in.
    Live(Box<Run>),
    /// From the home: the shard was too slow, its interest is dropped; join again from the last offset seen.
    Lagged(ChannelId),
    /// From the home: it is no more, for this reason.
    Gone(ChannelId, Code),
}

#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) channel: ChannelId,
    pub(crate) history: HistoryClass,
    pub(crate) origin: Origin,
    pub(crate) message: NewMessage,
    /// When it came to the node.
    pub(crate) since: Instant,
}

/// Who gets the acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A session; `request` 0 wants errors only.
    Session { shard: ShardIndex, session: SessionKey, request: u32 },
    /// An order of the control plane, on the link of this count.
    Order { id: u64, link: u32 },
}

/// Which join an answer is for. A session may leave a channel and join again while the first answer is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// `None`: the shard's live subscriptions as a group.
    pub(crate) session: Option<SessionKey>,
    /// Unique among the joins of the shard for a long time.
    pub(crate) number: u32,
    /// Room in the session's queue is kept for the page.
    pub(crate) reserved: bool,
}

/// From where a join starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinStart {
    /// With the next message.
    Tail,
    /// Nowhere: only to learn where the tail is.
    Peek,
    /// A client's position, which may be refused: then it starts at the tail.
    Resume(Position),
    /// A position that this node has delivered up to, so that nothing but the loss of history refuses it.
    Continue(Position),
}

#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) channel: ChannelId,
    pub(crate) history: HistoryClass,
    pub(crate) ticket: Ticket,
    pub(crate) start: JoinStart,
}

#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) channel: ChannelId,
    pub(crate) history: HistoryClass,
    pub(crate) session: SessionKey,
    pub(crate) request: u32,
    pub(crate) range: HistoryRange,
    pub(crate) messages_max: u32,
}

#[derive(Debug)]
pub(crate) struct Acks {
    pub(crate) channel: ChannelId,
    pub(crate) acks: Vec<Ack>,
}

#[derive(Debug)]
pub(crate) struct Ack {
    pub(crate) session: SessionKey,
    pub(crate) request: u32,
    pub(crate) producer: Producer,
    pub(crate) sequence: ProducerSequence,
    /// When the publish came.
    pub(crate) since: Instant,
    pub(crate) outcome: Outcome,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted(Position),
    /// Offset 0 when it is no longer known.
    Duplicate(Position),
    OutOfOrder {
        expected: ProducerSequence,
    },
    Refused {
        code: Code,
        retry_after_ms: u32,
    },
}

#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) channel: ChannelId,
    pub(crate) ticket: Ticket,
    pub(crate) result: Result<Catch, Code>,
}

/// What a join gives.
#[derive(Debug)]
pub(crate) struct Catch {
    /// The position asked for was refused with this code; `position` is the tail and there are no runs.
    pub(crate) refused: Option<Code>,
    /// Messages after the position asked for, ascending, without gaps.
    pub(crate) runs: Vec<Run>,
    /// Behind the last of them; where there are none, where the subscription stands.
    pub(crate) position: Position,
    /// The channel's newest message.
    pub(crate) tail: Position,
    /// `position` is the tail, and this shard is in the channel's interest from here on.
    pub(crate) live: bool,
}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) channel: ChannelId,
    pub(crate) session: SessionKey,
    /// A whole frame with its transport header, or why there is none.
    pub(crate) result: Result<Vec<u8>, Code>,
    pub(crate) request: u32,
}

const _: () = assert!(size_of::<Hop>() == 16);
const fn assert_send<T: Send>() {}
const _: () = assert_send::<Hop>();
