//! What goes between a shard and its shell, besides frames and hops.

use std::time::Duration;

use millrace_protocol::node::NodeFrame;
use millrace_protocol::{Code, Term};

use crate::SessionKey;

/// What the shell does for the shard. Take them with [`Shard::poll_action`](crate::Shard::poll_action) after `end_turn`.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write what is in the session's [`Outbound`](crate::Outbound) with one vectored write, then report it with
    /// [`handle_written`](crate::Shard::handle_written). Comes at most once per session and turn, and not while the session's
    /// transport is blocked: when it is writable again, the shell writes without being asked.
    Flush(SessionKey),
    /// End the session: write what is in its `Outbound` (little: what is partly written and a last frame), then the transport's
    /// close with this code and reason, linger a bounded time so that the peer can read it, then
    /// [`handle_disconnected`](crate::Shard::handle_disconnected). Frames that still come from it are ignored.
    Close {
        /// Which session.
        session: SessionKey,
        /// Also the WebSocket close code.
        code: Code,
        /// For a person; at most 123 bytes, as a WebSocket close frame allows.
        reason: &'static str,
    },
    /// The session's hello, which had to wait, was accepted: it [is welcomed](crate::Shard::is_welcomed), and not by the frame that came
    /// last.
    SignedIn(SessionKey),
    /// The client of a session in lanes has sent no frame for a heartbeat. Its transport may know better: say so with
    /// [`handle_listened`](crate::Shard::handle_listened), in any case and in the same turn.
    Listen(SessionKey),
    /// Send this frame on the control link. Requests carry an id that [`ShardIndex::of_request`](crate::ShardIndex::of_request)
    /// understands; `NodeBody::Published` carries the id of the order that it answers. It is meant
    /// for the link that the shard was told of last, and is dropped if that is gone: on the next link the ids of orders begin
    /// anew, and an answer would meet the wrong one. The shard learns of the link by [`ControlEvent`].
    Control(NodeFrame),
    /// A clean stop has done what it can: everything delivered is stored and every home is given back.
    Drained,
}

/// What comes from the backplane.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlEvent {
    /// The control link is up, under this term. Everything asked before is void.
    LinkUp {
        /// Higher than every one before.
        term: Term,
    },
    /// The control link is cut: nothing that was asked will be answered.
    LinkDown,
    /// A frame from the control plane: a reply to this shard's request, a push (to every shard), or a `publish` order (to the
    /// shard of the channel's home, [`home_of`](crate::home_of)). Keys are the verifier's, and ignored here; revocations go to
    /// the verifier first and then here.
    Frame(NodeFrame),
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes that the transport took.
    pub bytes: usize,
    /// The transport takes no more for now. Report again, even with 0 bytes, when it does.
    pub blocked: bool,
}

/// How a node stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Clients are told to come back spread evenly over this time; sessions left after it are closed.
    pub over: Duration,
    /// Where to; empty means the same address.
    pub endpoints: Vec<String>,
}
