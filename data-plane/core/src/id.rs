//! What a shard calls things by, and where a channel's home is.

use std::fmt;
use std::time::{Duration, Instant};

use millrace_protocol::ChannelId;

/// Buckets of the channel space; the unit that is placed on nodes.
pub const SLOTS: u64 = 1024;

/// The time of an event: both clocks, read once for each turn by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For delays and timeouts.
    pub instant: Instant,
    /// For what others see: message times, token expiry. Unix time, ms.
    pub unix_ms: i64,
}

impl Now {
    /// The time `delay` later on both clocks.
    #[must_use]
    pub fn plus(self, delay: Duration) -> Self {
        let ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        Self { instant: self.instant + delay, unix_ms: self.unix_ms.saturating_add(ms) }
    }
}

/// A shard of this node, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardIndex(pub u16);

impl ShardIndex {
    /// The shard that made a control request, from the request's id: its upper 16 bits. Replies go back there.
    pub const fn of_request(id: u64) -> Self {
        Self((id >> 48) as u16)
    }

    /// As an index into a list of shards.
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

/// The shard that holds a channel's home, in a node of `shards` shards.
///
/// # Panics
/// If `shards` is 0.
pub fn home_of(channel: ChannelId, shards: u16) -> ShardIndex {
    let slot = channel.get() % SLOTS;
    ShardIndex(u16::try_from(slot % u64::from(shards)).unwrap_or(0))
}

/// A session on its shard. A key outlives its session harmlessly: it never names another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SessionKey {
    /// As one number, for maps and event ids of the shell.
    pub const fn as_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The key that [`as_u64`](Self::as_u64) gave.
    pub const fn from_u64(number: u64) -> Self {
        Self { index: (number & 0xFFFF_FFFF) as u32, generation: (number >> 32) as u32 }
    }

    /// A small number, unique among the sessions open at one time and used again after them: fit to index a table.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {}.{}", self.index, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_has_one_home() {
        let check = |channel: u64, shards: u16, expect: u16| {
            let channel = ChannelId::new(channel).unwrap();
            assert_eq!(home_of(channel, shards), ShardIndex(expect), "{channel} of {shards}");
        };
        check(1, 1, 0);
        check(1024, 3, 0);
        check(1025, 3, 1);
        check(u64::MAX, 2, 1);
    }

    #[test]
    fn keys_and_request_ids_go_both_ways() {
        let key = SessionKey { index: 7, generation: u32::MAX };
        assert_eq!(SessionKey::from_u64(key.as_u64()), key);
        assert_eq!(ShardIndex::of_request(3 << 48 | 9), ShardIndex(3));
    }
}
