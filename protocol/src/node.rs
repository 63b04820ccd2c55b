//! Frames of the control link between a data node and a control node: plain Rust shapes of `schema/node.capnp`.
//!
//! They own their data, because they cross threads; bodies are [`Bytes`] that share the frame they came in.

use std::sync::Arc;

use bytes::Bytes;

mod decode;
mod encode;
mod operate;
mod stream;
#[cfg(test)]
mod tests;

pub use self::decode::decode;
pub use self::encode::{encode, encode_delimited, encoded_bytes_max, message_bytes_max};
pub use self::operate::{
    DRAIN_MS_MAX, HomeState, HomeView, INCIDENT_CHANNELS_MAX, INSPECT_ROWS_MAX, INSPECT_SUBSCRIPTIONS_MAX, Incident,
    IncidentChannel, IncidentKind, Inspect, InspectSubject, Inspected, LATENCY_BUCKETS, LatencyCounts, NodeFigures,
    SessionView, ShardFigures, SubscriptionState, SubscriptionView, Transport,
};
pub use self::stream::FrameReader;
pub use crate::client::{HistoryClass, HistoryRange};
use crate::code::{Code, Refusal};
use crate::id::{ChannelId, ChannelName, Epoch, Offset, Position, Producer, ProducerSequence, TenantId, Term, UserId};

/// Version of the control link that this crate speaks.
pub const VERSION: u16 = 1;
/// Largest frame on the link, in bytes: a whole history page or a turn's appends fit.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Most items of any list in a frame.
pub const LIST_ITEMS_MAX: usize = 65_536;
/// Most hashes of certificates of one node.
pub const CERTIFICATE_HASHES_MAX: usize = 4;

/// A frame of the control link.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFrame {
    /// Pairs a reply with its request; 0 for what needs no reply.
    pub id: u64,
    /// What it says.
    pub body: NodeBody,
}

/// What a frame of the control link says; the schema tells who sends what and when.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the schema documents each member")]
pub enum NodeBody {
    Challenge {
        nonce: [u8; 32],
        version: u16,
    },
    Hello(LinkHello),
    Welcome {
        term: Term,
        heartbeat_ms: u32,
    },
    Ping,
    Pong,
    Refused(Refusal),

    Authorize(Vec<Authorize>),
    Authorized(Vec<Result<Grant, Refusal>>),
    OpenHomes(Vec<ChannelId>),
    HomesOpened(Vec<(ChannelId, Result<Head, Refusal>)>),
    Append(Vec<ChannelAppend>),
    Appended(Vec<ChannelAppended>),
    ReadHistory(ReadHistory),
    History(History),
    CloseHomes(Vec<CloseHome>),
    HomesClosed,

    Publish(PublishOrder),
    Published(Result<PublishedAt, Refusal>),

    Keys(Vec<TenantKey>),
    MemberChanged(MemberChanged),
    ChannelChanged {
        tenant: TenantId,
        channel: ChannelId,
        name: ChannelName,
        archived: bool,
    },
    TokensRevoked(TokensRevoked),
    Synced,

    Report,
    Reported(NodeFigures),
    Inspect(Inspect),
    Inspected(Inspected),
    Drain {
        over_ms: u32,
    },
    Draining,

    MarkReads(Vec<ReadMark>),
    ReadsMarked(Vec<Result<Position, Refusal>>),
    ReadsMoved(Vec<ReadMark>),
    /// The certificate that the node shows is another one; as [`LinkHello::certificate_hashes`].
    CertificateHashes(Vec<[u8; 32]>),
    /// A member that this version does not know.
    Unknown,
}

/// The data node's answer to the challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkHello {
    /// Link version.
    pub version: u16,
    /// Name of the node.
    pub node: String,
    /// HMAC-SHA256 under the cluster secret of the nonce followed by the node's name.
    pub proof: [u8; 32],
    /// Where clients reach the node.
    pub endpoints: Vec<String>,
    /// SHA-256 of the certificate that the node shows to clients, where a browser takes that by its hash alone: at most
    /// [`CERTIFICATE_HASHES_MAX`].
    pub certificate_hashes: Vec<[u8; 32]>,
}

/// What a channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// Two people, or one with themselves.
    Dm,
    /// Many people who all may write.
    Group,
    /// Few write, many read.
    Broadcast,
}

/// What a member may do, from most to least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Everything, including archiving the channel and naming owners.
    Owner,
    /// Manages members below them.
    Moderator,
    /// Reads, and publishes except in a broadcast.
    Member,
    /// Reads.
    Reader,
}

/// What happens to a session whose queue is full of this channel's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlowConsumer {
    /// It ends with a resumable code.
    Disconnect,
    /// It skips to the newest message and is told which it missed.
    Skip,
}

/// Asks what a user may do with a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorize {
    /// The user's tenant.
    pub tenant: TenantId,
    /// Who.
    pub user: UserId,
    /// With what.
    pub channel: ChannelRef,
}

/// A channel by name or by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChannelRef {
    /// By the name that the tenant gave it.
    Name(ChannelName),
    /// By its number.
    Id(ChannelId),
}

/// What a user may do with a channel, and what the channel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its number.
    pub channel: ChannelId,
    /// Its name.
    pub name: ChannelName,
    /// What it is for.
    pub kind: ChannelKind,
    /// What is kept.
    pub history: HistoryClass,
    /// The user's role.
    pub role: Role,
    /// Role and kind together.
    pub can_publish: bool,
    /// The channel's policy.
    pub slow_consumer: SlowConsumer,
    /// Up to where the user has read it; `None` if nothing is read yet.
    pub read: Option<Position>,
}

/// How far a user has read a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMark {
    /// The user's tenant.
    pub tenant: TenantId,
    /// Who.
    pub user: UserId,
    /// What.
    pub channel: ChannelId,
    /// Up to and with this position.
    pub position: Position,
}

/// Where a channel stands when its home opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The present epoch.
    pub epoch: Epoch,
    /// Offset of the next message.
    pub next_offset: Offset,
    /// Oldest offset still stored; `next_offset` when nothing is.
    pub first_offset: Offset,
    /// First offset of the present epoch.
    pub epoch_first_offset: Offset,
    /// What is kept.
    pub history: HistoryClass,
    /// Recent producers of a windowed channel; empty for the others, whose appends check duplicates in the store.
    pub producers: Vec<ProducerState>,
}

/// The last message that a producer had accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    /// Whose.
    pub user: UserId,
    /// Which run.
    pub producer: Producer,
    /// Last accepted.
    pub sequence: ProducerSequence,
    /// Where it stands.
    pub offset: Offset,
}

/// Messages to append to one channel, all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelAppend {
    /// Where.
    pub channel: ChannelId,
    /// The link's term: fences an older home.
    pub term: Term,
    /// The home's epoch.
    pub epoch: Epoch,
    /// The home's next offset.
    pub expected_offset: Offset,
    /// Durable: duplicates are found and get no offset. Windowed: stored as they are, because they were delivered.
    pub messages: Vec<NewMessage>,
}

/// A message without a place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Who.
    pub user: UserId,
    /// Which run of theirs.
    pub producer: Producer,
    /// Its place among the producer's messages.
    pub sequence: ProducerSequence,
    /// When the node accepted it; Unix time, ms.
    pub time_ms: i64,
    /// The payload.
    pub body: Bytes,
}

/// What became of one channel's append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelAppended {
    /// Where.
    pub channel: ChannelId,
    /// One outcome per message, or why nothing is stored. [`Code::UnknownOutcome`]: it may be stored all the same.
    pub result: Result<Vec<AppendOutcome>, Refusal>,
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Stored here.
    Stored(Offset),
    /// Accepted before; where, if still known.
    Duplicate(Option<Offset>),
    /// Not stored: this sequence was expected.
    OutOfOrder {
        /// What the producer must send next; 1 for one that is not known (any more).
        expected: ProducerSequence,
    },
}

/// A read of stored messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadHistory {
    /// Of which channel.
    pub channel: ChannelId,
    /// At most so many.
    pub messages_max: u32,
    /// At most so many bytes of payload, but always at least one message.
    pub bytes_max: u32,
    /// Which part.
    pub range: HistoryRange,
}

/// Stored messages in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Of which channel.
    pub channel: ChannelId,
    /// Ascending, without gaps.
    pub messages: Vec<Arc<StoredMessage>>,
    /// There are more in the direction asked.
    pub more: bool,
}

/// A message with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Epoch in which it was accepted.
    pub epoch: Epoch,
    /// Its place.
    pub offset: Offset,
    /// The rest.
    pub message: NewMessage,
}

impl StoredMessage {
    /// The place just behind this message.
    pub const fn position(&self) -> Position {
        Position::behind(self.epoch, self.offset)
    }
}

/// Gives a home up with everything stored that was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseHome {
    /// Which.
    pub channel: ChannelId,
    /// The home's term.
    pub term: Term,
    /// The home's epoch.
    pub epoch: Epoch,
    /// The home's next offset.
    pub next_offset: Offset,
}

/// A message that came in over REST, for the channel's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOrder {
    /// Whose channel.
    pub tenant: TenantId,
    /// Where.
    pub channel: ChannelId,
    /// What is kept there.
    pub history: HistoryClass,
    /// Already authorised. `time_ms` is set by the home.
    pub message: NewMessage,
}

/// Where a message from REST stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedAt {
    /// Its place; offset 0 without history, or for a duplicate too old to find.
    pub position: Position,
    /// When it was accepted; Unix time, ms. 0 for a duplicate.
    pub time_ms: i64,
    /// It had been accepted before.
    pub duplicate: bool,
}

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// HMAC with SHA-256; the material is the secret.
    Hs256,
    /// ECDSA on P-256; the material is the uncompressed public point, 65 bytes.
    Es256,
    /// Ed25519; the material is the public key, 32 bytes.
    EdDsa,
}

/// A key that verifies a tenant's tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct TenantKey {
    /// Whose.
    pub tenant: TenantId,
    /// The `kid` of the token header, unique in the deployment.
    pub id: String,
    /// The key, or `None` to end it.
    pub key: Option<(KeyAlgorithm, Bytes)>,
}

impl std::fmt::Debug for TenantKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the material: an HS256 key is a secret.
        f.debug_struct("TenantKey").field("tenant", &self.tenant).field("id", &self.id).finish_non_exhaustive()
    }
}

/// A membership began, changed or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberChanged {
    /// Whose channel.
    pub tenant: TenantId,
    /// Which.
    pub channel: ChannelId,
    /// Who.
    pub user: UserId,
    /// The role now and whether it may publish, or `None` for no member any more.
    pub membership: Option<(Role, bool)>,
}

/// Tokens that are valid no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokensRevoked {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub which: RevokedTokens,
    /// Unix time in ms after which none of them could be valid anyway.
    pub forget_after_ms: i64,
}

/// Which tokens are revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokedTokens {
    /// One, by its `jti`.
    Token(String),
    /// All of a user issued before this Unix time in ms.
    UserBefore(UserId, i64),
}

impl ChannelAppended {
    /// Nothing is known of what became of it.
    pub fn unknown(channel: ChannelId, message: impl Into<String>) -> Self {
        Self { channel, result: Err(Refusal::new(Code::UnknownOutcome, message)) }
    }
}
