//! What a shard counts. Plain numbers: the shell exports them per shard and sums them at scrape.

use millrace_protocol::node::LatencyCounts;

/// Counters since start, and gauges of now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions accepted.
    pub sessions_opened_total: u64,
    /// Sessions ended, for whatever reason.
    pub sessions_closed_total: u64,
    /// Sessions ended because they read too slowly.
    pub slow_consumers_total: u64,
    /// Sessions ended because nothing was heard of them.
    pub heartbeat_timeouts_total: u64,
    /// Connections without a hello in time.
    pub handshake_timeouts_total: u64,
    /// Sessions ended because their token expired or was revoked.
    pub token_ends_total: u64,
    /// Frames from clients.
    pub frames_in_total: u64,
    /// Frames from clients that could not be decoded.
    pub bad_frames_total: u64,
    /// Publishes from sessions that reached a home's shard.
    pub publishes_total: u64,
    /// Messages accepted by homes of this shard: stored, or delivered where nothing is stored.
    pub messages_accepted_total: u64,
    /// Publishes that had been accepted before.
    pub duplicates_total: u64,
    /// Requests refused, for whatever reason.
    pub refused_total: u64,
    /// Requests refused because the session asked too often.
    pub rate_limited_total: u64,
    /// Requests refused because a bound of this shard was reached.
    pub busy_total: u64,
    /// Messages put into the queues of sessions.
    pub deliveries_total: u64,
    /// Bytes put into the queues of sessions, transport headers included.
    pub outbound_bytes_total: u64,
    /// Bytes that compression kept out of the queues of sessions.
    pub outbound_saved_bytes_total: u64,
    /// Frames that were not compressed because the turn had no time left for them.
    pub compress_passed_over_total: u64,
    /// Messages dropped for a slow session under the policy `skip`.
    pub skipped_total: u64,
    /// Messages without history dropped because a shard was too busy to take them.
    pub ephemeral_dropped_total: u64,
    /// Live subscriptions put back to replaying because their queue was full in a burst.
    pub fallbacks_total: u64,
    /// Times a shard's interest in a channel was dropped because its ring was full.
    pub lagged_total: u64,
    /// Subscriptions that asked to resume.
    pub resumes_total: u64,
    /// Resumes refused: the client reloads.
    pub resumes_refused_total: u64,
    /// Bytes sent again to subscriptions that resume.
    pub replay_bytes_total: u64,
    /// Pages of history answered from memory.
    pub pages_from_window_total: u64,
    /// Pages of history read from the store.
    pub pages_from_store_total: u64,
    /// Appends sent to the control plane, one for each channel and batch.
    pub appends_total: u64,
    /// Appends whose outcome was not known, or refused.
    pub appends_failed_total: u64,
    /// Homes opened.
    pub homes_opened_total: u64,
    /// Homes that another node took.
    pub homes_fenced_total: u64,
    /// Grants found in memory.
    pub grants_cached_total: u64,
    /// Grants asked of the control plane.
    pub grants_asked_total: u64,
    /// Marks of read positions from clients that move them.
    pub marks_total: u64,
    /// Marks of read positions sent to the control plane: fewer, as those of one user and channel go together.
    pub marks_sent_total: u64,
    /// Hops to other shards.
    pub hops_out_total: u64,
    /// From a session's publish to its acknowledgement in the session's queue, of those that were accepted.
    pub publish_ack: LatencyCounts,
    /// From a publish to the message in the queues of live sessions, once for each of them; of messages that were delivered together, since the
    /// oldest. The time that a message waits in a queue is its reader's.
    pub delivery: LatencyCounts,

    /// Hellos taken of clients that come back: with a position in a channel.
    pub hellos_resume_total: u64,
    /// Hellos taken of clients that bring no position.
    pub hellos_login_total: u64,
    /// Hellos with a position that were told to come later.
    pub hellos_resume_busy_total: u64,
    /// Hellos without one that were told to come later.
    pub hellos_login_busy_total: u64,
    /// Hellos without one that had to wait while a crowd came back.
    pub hellos_put_off_total: u64,

    /// Hellos that wait for that now.
    pub put_off: u64,
    /// Sessions whose hello is not answered in full yet.
    pub beginning: u64,
    /// Connections now, in whatever state.
    pub sessions: u64,
    /// Subscriptions now, in whatever state.
    pub subscriptions: u64,
    /// Homes in memory now.
    pub homes: u64,
    /// Channels that sessions of this shard use now.
    pub channels: u64,
    /// Bytes in the queues of all sessions now; a frame counts in each queue that refers to it.
    pub queued_bytes: u64,
    /// Grants in memory now.
    pub grants: u64,
}
