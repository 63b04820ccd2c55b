//! What the REST API needs of the data plane: that a message reaches its channel's home, and that a change reaches every
//! open session. The node link implements it; tests put a fake in its place.

use std::time::Duration;

use millrace_protocol::code::Refusal;
use millrace_protocol::id::Term;
use millrace_protocol::node::{NodeBody, PublishOrder, PublishedAt};
use millrace_store::BoxFuture;

/// A data node whose link lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedNode {
    /// Its name, unique among those that are linked.
    pub name: String,
    /// Where clients reach it; empty if it was not told.
    pub endpoints: Vec<String>,
    /// Since when; Unix time, ms.
    pub linked_ms: i64,
    /// What its appends are fenced with.
    pub term: Term,
    /// It has been told all keys and revocations: it serves.
    pub ready: bool,
}

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

    /// The data nodes whose links live.
    fn nodes(&self) -> Vec<LinkedNode>;

    /// Asks a data node one of [`NodeBody::Report`], [`NodeBody::Inspect`] and [`NodeBody::Drain`], and waits for its answer.
    ///
    /// # Errors
    /// The node's refusal. [`Code::Unavailable`](millrace_protocol::code::Code::Unavailable) if it is not linked, or does not answer
    /// within `patience`: what it was told to do it may still do.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer, not the question.
    fn ask<'a>(
        &'a self,
        node: &'a str,
        question: NodeBody,
        patience: Duration,
    ) -> BoxFuture<'a, Result<NodeBody, Refusal>>;

    /// URLs under which clients reach the data node that is linked, or was last; none before the first link.
    fn endpoints(&self) -> Vec<String>;

    /// SHA-256 of the certificates that these show, where a browser takes them by that alone; none otherwise.
    fn certificate_hashes(&self) -> Vec<[u8; 32]>;
}
