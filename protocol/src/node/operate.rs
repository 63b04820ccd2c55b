//! What operators want to know of a data node and do with it: figures, sessions and what went wrong with them, a drain.

use crate::client::HistoryClass;
use crate::id::{ChannelId, ChannelName, SessionId, TenantId, UserId};

mod decode;
mod encode;
mod latency;

pub(super) use self::decode::Views;
pub(super) use self::encode::{figures, figures_words, inspect, inspect_words, inspected, inspected_words};
pub use self::latency::{LATENCY_BUCKETS, LatencyCounts};

/// Most sessions, and most incidents, of one answer to [`Inspect`].
pub const INSPECT_ROWS_MAX: u16 = 256;
/// Most subscriptions that are listed of one session.
pub const INSPECT_SUBSCRIPTIONS_MAX: usize = 64;
/// Most channels that are listed of one incident.
pub const INCIDENT_CHANNELS_MAX: usize = 8;
/// Longest time over which a node drains on order, in ms.
pub const DRAIN_MS_MAX: u32 = 600_000;

/// A node's numbers at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFigures {
    /// Of the node's program.
    pub version: String,
    /// When the node started; Unix time, ms.
    pub started_ms: i64,
    /// Its clients are being sent away.
    pub draining: bool,
    /// Client connections now.
    pub connections: u32,
    /// Client connections above which a new one is refused.
    pub connections_max: u32,
    /// User and system time of the process, ms.
    pub cpu_ms: u64,
    /// Resident memory of the process, bytes.
    pub resident_bytes: u64,
    /// By index.
    pub shards: Vec<ShardFigures>,
}

/// A shard's numbers: gauges of now, then counters since it began. All are 0 for one that does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the schema documents each field")]
pub struct ShardFigures {
    /// It answered in time.
    pub answers: bool,
    pub slots: u16,
    pub sessions: u32,
    pub subscriptions: u32,
    pub channels: u32,
    pub homes: u32,
    pub queued_bytes: u64,
    pub ring_items: u32,
    pub ring_slots: u32,
    pub cpu_us: u64,
    pub turns: u64,
    pub deliveries: u64,
    pub publishes: u64,
    pub accepted: u64,
    pub written_bytes: u64,
    pub opened: u64,
    pub closed: u64,
    pub refused: u64,
    pub slow_consumers: u64,
    pub skipped: u64,
    pub resumes: u64,
    pub reloads: u64,
    pub ring_full: u64,
    pub publish_ack: LatencyCounts,
    pub delivery: LatencyCounts,
}

/// Asks for the sessions of a user or of a channel, and for what went wrong with them lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspect {
    /// Whose user or channel.
    pub tenant: TenantId,
    /// Most sessions, and most incidents, of the answer: 1 to [`INSPECT_ROWS_MAX`]; more counts as that.
    pub rows_max: u16,
    /// Of whom or of what.
    pub subject: InspectSubject,
}

/// What is looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InspectSubject {
    /// A user, on all channels.
    User(UserId),
    /// A channel; refusals are found by its name, too.
    Channel(ChannelId, ChannelName),
}

/// What a node, or one shard of it, knows of a user or a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Those who have been connected longest last.
    pub sessions: Vec<SessionView>,
    /// How many there are, also beyond the list.
    pub sessions_total: u32,
    /// The newest first.
    pub incidents: Vec<Incident>,
    /// Older ones were left out.
    pub incidents_more: bool,
    /// Shards that did not answer in time: their sessions are missing.
    pub shards_silent: u16,
    /// Of the channel that was asked for, if it is in memory.
    pub home: Option<HomeView>,
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket.
    WebSocket,
}

/// One session as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// What the client was told.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// The peer's address and port; empty if it has just gone.
    pub remote: String,
    /// What the client says that it is; empty if it does not, or if the shard knows too many kinds.
    pub agent: String,
    /// Where it is.
    pub shard: u16,
    /// How it is connected.
    pub transport: Transport,
    /// Since when; Unix time, ms.
    pub connected_ms: i64,
    /// When the last frame came from it; Unix time, ms.
    pub heard_ms: i64,
    /// When its token ends; Unix time, ms.
    pub token_expires_ms: i64,
    /// Bytes that wait for it.
    pub queued_bytes: u32,
    /// For so long its transport has taken nothing though something waits, in ms; 0 while it takes bytes.
    pub stalled_ms: u32,
    /// Of the channel that was asked for; else all, at most [`INSPECT_SUBSCRIPTIONS_MAX`].
    pub subscriptions: Vec<SubscriptionView>,
    /// How many it has.
    pub subscriptions_total: u32,
}

/// How a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionState {
    /// Waits for the first answer of the home.
    Joining,
    /// Reads what it missed, page by page.
    Replaying,
    /// Gets each message as it comes.
    Live,
    /// It was live, and its shard reads from the home what it missed.
    CatchingUp,
    /// Only publishes and reads history.
    Attached,
}

/// A session's subscription of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionView {
    /// Of which channel.
    pub channel: ChannelId,
    /// Its name.
    pub name: ChannelName,
    /// How it stands.
    pub state: SubscriptionState,
    /// Epoch of the last message that is in the session's queue or behind it; 0 where there is no position.
    pub epoch: u32,
    /// Its offset.
    pub offset: u64,
    /// Whether the user may publish there.
    pub can_publish: bool,
}

/// How a home stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeState {
    /// Asks the control plane for the head.
    Opening,
    /// Reads what was stored without being delivered.
    CatchingUp,
    /// Orders messages.
    Open,
    /// The channel is archived.
    Archived,
    /// Gives the head back.
    Closing,
}

/// A channel's home as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeView {
    /// Where it is.
    pub shard: u16,
    /// How it stands.
    pub state: HomeState,
    /// What is kept.
    pub history: HistoryClass,
    /// The present epoch; 0 if it is not known yet.
    pub epoch: u32,
    /// Offset of the next message; 0 if it is not known yet.
    pub next_offset: u64,
    /// Oldest offset that is stored; 0 if it is not known yet.
    pub first_offset: u64,
    /// Messages that are accepted and not yet stored.
    pub waiting: u32,
    /// Shards that are interested in live messages.
    pub shards: u16,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncidentKind {
    /// A session ended. Code 0: the connection was closed or lost.
    Ended,
    /// A request was refused.
    Refused,
    /// A subscription ended without being asked to.
    Unsubscribed,
    /// A position could not be resumed from: the client reads history itself.
    Reload,
    /// Messages were dropped for a slow session.
    Skipped,
}

/// Something that went wrong with a session, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// When; of several the last. Unix time, ms.
    pub time_ms: i64,
    /// What.
    pub kind: IncidentKind,
    /// What the client was told, as [`Code`](crate::Code) counts; 0 for nothing.
    pub code: u16,
    /// Of which session.
    pub session: SessionId,
    /// Whose.
    pub user: UserId,
    /// In words.
    pub reason: String,
    /// How often in a row.
    pub count: u32,
    /// The channel concerned; of a session that ended, those that it was subscribed to.
    pub channels: Vec<IncidentChannel>,
}

/// A channel that an incident concerns, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncidentChannel {
    /// Which; `None` if only the name is known.
    pub channel: Option<ChannelId>,
    /// As the client wrote it, if it does not exist.
    pub name: String,
    /// 0 where there is no position.
    pub epoch: u32,
    /// The first message skipped; else the position that the subscription had or asked for.
    pub first_offset: u64,
    /// The last message known to be skipped; else the same position.
    pub last_offset: u64,
}
