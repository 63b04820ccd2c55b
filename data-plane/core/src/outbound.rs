//! A session's queue towards its transport: bytes ready to write, bounded.

use bytes::Bytes;

/// A session's queue towards its transport. Empty, it owns no heap memory.
#[derive(Debug, Default)]
pub struct Outbound {
    segments: std::collections::VecDeque<Bytes>,
    blocked: bool,
}

impl Outbound {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// What waits, in order, in pieces to write with one vectored write; the first begins where the last write ended.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map(|bytes| &bytes[..])
    }

    /// Bytes that wait.
    pub fn queued_bytes(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    /// The transport took no more at the last write.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }
}
