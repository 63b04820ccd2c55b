//! Frames between a client and a data node: plain Rust shapes of `schema/client.capnp`, borrowed from the bytes they came in.
//!
//! The schema says what each field means; these types add what must hold.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use self::decode::{decode_client, decode_server};
pub use self::encode::{encode_client, encode_server};
use crate::code::Code;
pub use crate::error::FrameError;
use crate::id::{ChannelId, Epoch, Offset, Position, Producer, ProducerSequence, SessionId};

/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;
/// WebSocket sub-protocol: the name carries the major version.
pub const SUBPROTOCOL: &str = "millrace.v1";
/// Where a node takes connections that begin with a request of HTTP: WebSocket and WebTransport.
pub const CONNECT_PATH: &str = "/v1/connect";

/// Largest frame from a client, in bytes: a hello with [`SUBSCRIPTIONS_CAP`] of the longest names fits.
pub const CLIENT_FRAME_BYTES_MAX: usize = 256 << 10;
/// Largest frame from a node, in bytes: a page of [`PAGE_MESSAGES_MAX`] messages whose bodies keep [`PAGE_BODY_BYTES_MAX`] fits.
pub const SERVER_FRAME_BYTES_MAX: usize = 1 << 20;
/// Hard cap of a message's body, in bytes; a node's own limit is at most this. A [`Publish`] over it decodes all the same.
pub const PAYLOAD_BYTES_CAP: usize = 64 << 10;
/// Hard cap of subscriptions of one session, and so of those in a hello.
pub const SUBSCRIPTIONS_CAP: usize = 1_000;
/// Most messages of a history page.
pub const PAGE_MESSAGES_MAX: usize = 1_000;
/// A node ends a page before its bodies come to more than this, in bytes.
pub const PAGE_BODY_BYTES_MAX: usize = 512 << 10;
/// Longest access token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4 << 10;
/// Longest agent of a hello, in bytes.
pub const AGENT_BYTES_MAX: usize = 128;
/// Bit of `features`: the client is told where its user's read positions stand, and may move them.
pub const FEATURE_READ_POSITIONS: u64 = 1;
/// Most endpoints of a go-away.
pub const ENDPOINTS_MAX: usize = 16;

/// A frame from a client. `request` is echoed in the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFrame<'a> {
    /// Chosen by the client; 0 asks for no reply but an error.
    pub request: u32,
    /// What it asks.
    pub body: ClientBody<'a>,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the schema documents each member")]
pub enum ClientBody<'a> {
    Hello(Hello<'a>),
    Subscribe(Subscribe<'a>),
    Unsubscribe {
        channel: ChannelId,
    },
    Publish(Publish<'a>),
    History(HistoryRequest),
    Refresh {
        token: &'a str,
    },
    Pong,
    MarkRead {
        channel: ChannelId,
        position: Position,
    },
    /// A member that this version does not know: answered with an error if `request` is not 0, else ignored.
    Unknown,
}

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest protocol version that the client speaks.
    pub version_min: u16,
    /// Highest protocol version that the client speaks.
    pub version_max: u16,
    /// Optional features that the client understands.
    pub features: u64,
    /// Access token, a JWT.
    pub token: &'a str,
    /// Name and version of the SDK.
    pub agent: &'a str,
    /// Resumes and subscriptions at once.
    pub subscriptions: Vec<Subscribe<'a>>,
}

/// Interest in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Name of the channel, not yet checked.
    pub channel: &'a str,
    /// From where.
    pub start: Start,
}

/// From where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the next message.
    Live,
    /// With the first message after this place.
    After(Position),
    /// Nowhere: only to publish and to read history.
    Attach,
}

/// A message to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where to.
    pub channel: ChannelId,
    /// One run of the sender.
    pub producer: Producer,
    /// Its place among the producer's messages on this channel.
    pub sequence: ProducerSequence,
    /// The payload, of a size not yet checked.
    pub body: &'a [u8],
}

/// A page of history to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRequest {
    /// Of which channel.
    pub channel: ChannelId,
    /// At most so many messages; the node may cap it further.
    pub messages_max: u32,
    /// Which part.
    pub range: HistoryRange,
}

/// Which part of the history a page shows. Messages come in ascending order whichever way was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryRange {
    /// The newest messages.
    Newest,
    /// The messages just before this one.
    Before(Offset),
    /// The messages just after this offset; 0 begins at the first.
    After(u64),
}

/// A frame from a node. `request` names the request that it answers, 0 for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFrame<'a> {
    /// The request that this answers; 0 for none.
    pub request: u32,
    /// What it says.
    pub body: ServerBody<'a>,
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the schema documents each member")]
pub enum ServerBody<'a> {
    Welcome(Welcome<'a>),
    Subscribed(Subscribed<'a>),
    Unsubscribed {
        channel: ChannelId,
        code: u16,
        reason: &'a str,
    },
    Published(Published),
    Message(Message<'a>),
    Page {
        channel: ChannelId,
        messages: Vec<Message<'a>>,
        more: bool,
    },
    Refreshed {
        token_expires_ms: i64,
    },
    Error {
        code: u16,
        message: &'a str,
        retry_after_ms: u32,
        channel: &'a str,
    },
    Ping,
    GoAway {
        code: u16,
        after_ms: u32,
        endpoints: Vec<&'a str>,
    },
    Skipped {
        channel: ChannelId,
        first: Position,
        last: Position,
    },
    Read {
        channel: ChannelId,
        position: Position,
    },
    /// A member that this version does not know: ignored.
    Unknown,
}

/// The session is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The protocol version that both speak from here on.
    pub version: u16,
    /// The node pings after this long without traffic.
    pub heartbeat_ms: u32,
    /// Optional features in force.
    pub features: u64,
    /// For logs and support.
    pub session: SessionId,
    /// Unix time, ms.
    pub token_expires_ms: i64,
    /// Largest body of a publish.
    pub payload_bytes_max: u32,
    /// Most subscriptions of one session.
    pub subscriptions_max: u32,
    /// Name of the node.
    pub node: &'a str,
}

/// What is kept of a channel's messages, and when they are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistoryClass {
    /// Acknowledged and delivered after commit.
    Durable,
    /// Delivered at once, written behind; a crash may lose at most a second.
    Windowed,
    /// Never stored; no offsets.
    None,
}

/// A subscription began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribed<'a> {
    /// The channel by name, as asked.
    pub name: &'a str,
    /// Its number, by which later frames name it.
    pub channel: ChannelId,
    /// The newest message when the subscription began.
    pub position: Position,
    /// What is kept.
    pub history: HistoryClass,
    /// Whether this user may publish.
    pub can_publish: bool,
    /// What became of the position that was asked for.
    pub recovery: Recovery,
}

/// What became of the position that a resuming client showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// It showed none.
    None,
    /// Every missed message follows, in order, before anything newer.
    Whole,
    /// Refused with this code: live from the position given, the rest is in the history.
    Reload(u16),
}

/// A publish was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where.
    pub channel: ChannelId,
    /// Whose.
    pub producer: Producer,
    /// Which.
    pub sequence: ProducerSequence,
    /// Its place. Offset 0: no history, or a duplicate too old to find.
    pub position: Position,
    /// It had been accepted before.
    pub duplicate: bool,
}

/// A message of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its channel.
    pub channel: ChannelId,
    /// Its place. Offset 0 in a channel without history.
    pub position: Position,
    /// When the node accepted it; Unix time, ms.
    pub time_ms: i64,
    /// Who sent it.
    pub user: &'a str,
    /// By which run of the sender.
    pub producer: Producer,
    /// Its place among the producer's messages.
    pub sequence: ProducerSequence,
    /// The payload.
    pub body: &'a [u8],
}

impl ServerBody<'_> {
    /// An error with a known code, about no subscription.
    pub fn error(code: Code, message: &str) -> ServerBody<'_> {
        ServerBody::Error { code: code.number(), message, retry_after_ms: 0, channel: "" }
    }
}

/// The epoch that stands in a position where a channel has no history.
pub const NO_EPOCH: Epoch = Epoch::FIRST;
