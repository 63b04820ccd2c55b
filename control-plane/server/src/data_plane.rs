//! What the REST API needs of the data plane: that a message reaches its channel's home, and that a change reaches every
//! open session. The node link implements it; tests put a fake in its place.

use millrace_protocol::code::Refusal;
use millrace_protocol::node::{NodeBody, PublishOrder, PublishedAt};
use millrace_store::BoxFuture;

/// The data plane as the REST API sees it.
pub trait DataPlane: Send + Sync + 'static {
    /// Hands a message, already authorised, to its channel's home and waits for its place.
    ///
    /// # Errors
    /// The home's refusal. [`Code::Unavailable`](millrace_protocol::code::Code::Unavailable) if no data node is linked;
    /// [`Code::UnknownOutcome`](millrace_protocol::code::Code::UnknownOutcome) if the answer was lost, so that only a retry
    /// with the same producer and sequence finds out.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer, not the message.
    fn publish(&self, order: PublishOrder) -> BoxFuture<'_, Result<PublishedAt, Refusal>>;

    /// Tells every data node of a change that is committed: one of [`NodeBody::Keys`], [`NodeBody::MemberChanged`],
    /// [`NodeBody::ChannelChanged`] and [`NodeBody::TokensRevoked`].
    ///
    /// Returns once it is queued behind everything told before. Call it after the commit and before the answer; a look-up
    /// of access that overlaps the call is looked up again.
    fn announce(&self, change: NodeBody);

    /// Whether a data node is linked.
    fn is_linked(&self) -> bool;

    /// URLs under which clients reach the data node that is linked, or was last; none before the first link.
    fn endpoints(&self) -> Vec<String>;
}
