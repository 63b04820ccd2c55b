//! What a [`Driver`](super::Driver) tells: who it is about, what happened, and what it counts.

use quinn_proto::{ConnectionHandle, StreamId, Transmit};

use super::connection::End;
use crate::Protocol;

/// A connection. Never names another one later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl Key {
    /// A small number that no other connection of the shard has at the same time.
    pub fn index(self) -> usize {
        self.index as usize
    }

    pub(super) fn value(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_value(value: u64) -> Self {
        let [.., a, b, c, d] = value.to_be_bytes();
        let generation = u32::try_from(value >> 32).unwrap_or(0);
        Self { index: u32::from_be_bytes([a, b, c, d]), generation }
    }

    pub(super) fn handle(self) -> ConnectionHandle {
        ConnectionHandle(self.index as usize)
    }
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its client has chosen a protocol. What it sends from here until [`Event::Connected`] is early data, which somebody else may
    /// have recorded and sent again.
    Chosen(Key, Protocol),
    /// The handshake is complete.
    Connected(Key),
    /// A stream of the client has bytes, or its end.
    Readable(Key, StreamId),
    /// Datagrams wait.
    Datagrams(Key),
    /// A stream that took no more takes bytes again.
    Writable(Key, StreamId),
    /// More streams can be opened.
    Openable(Key),
    /// The client wants no more of a stream of ours.
    Stopped(Key, StreamId),
    /// It has ended, and not by [`Driver::close`](super::Driver::close).
    Ended(Key, End),
    /// It lingered, and does so no more: it is closed.
    Parted(Key),
}

/// A datagram to send; its bytes are in the buffer that it was asked with.
pub type Outgoing = Transmit;

/// What an endpoint counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams that came.
    pub datagrams_in: u64,
    /// Bytes of them.
    pub bytes_in: u64,
    /// Datagrams that went.
    pub datagrams_out: u64,
    /// Bytes of them.
    pub bytes_out: u64,
    /// Datagrams that belonged to nobody.
    pub strays: u64,
    /// Handshakes begun.
    pub handshakes_begun: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// Handshakes that came to nothing.
    pub handshakes_failed: u64,
    /// Clients that were asked to show their address first.
    pub retries: u64,
    /// Clients refused because there are as many connections as there may be, or the node stops.
    pub refused: u64,
    /// First packets without an answer, because of too many handshakes under way.
    pub ignored: u64,
    /// Stateless resets sent.
    pub resets: u64,
    /// Answers that found no room to wait for the socket.
    pub responses_dropped: u64,
    /// Times a connection's client moved to another address.
    pub migrations: u64,
    /// Connections lost for lack of any sign of life.
    pub timed_out: u64,
    /// Times that a connection lost datagrams on their way to its client; what was sent before a loss was known belongs to it.
    pub losses: u64,
    /// Those of them before which the connection's window had held something back: it is smaller then, and more may wait.
    pub losses_at_window: u64,
    /// Those of them that lasted, so that the connection began anew.
    pub collapses: u64,
    /// Bytes of the datagrams that were lost.
    pub lost_bytes: u64,
}
