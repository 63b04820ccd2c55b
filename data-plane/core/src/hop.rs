//! Messages between the shards of a node, on rings that are first in, first out.

use bytes::Bytes;

/// A message from one shard to another. The shell only carries it: 16 bytes, `Send`.
#[derive(Debug)]
pub struct Hop(Box<Bytes>);

impl Hop {
    /// Bytes of messages in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// It carries no messages.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
