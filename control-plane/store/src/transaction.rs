//! What a store is: the trait every engine implements and the conformance suite checks.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;

use crate::StoreStats;

/// A boxed future: the trait is used as `dyn`, so that a deployment chooses its engine at start.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Longest key, in bytes. TiKV's own limit is 8 KiB; ours keeps index blocks small.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 256 << 10;
/// Most bytes that one transaction may write, keys and values together.
pub const TRANSACTION_BYTES_MAX: usize = 1 << 20;
/// Most distinct keys that one transaction may read with [`Transaction::get`]: each one is validated at commit.
pub const TRANSACTION_READS_MAX: usize = 4096;
/// Most distinct keys that one transaction may write.
pub const TRANSACTION_WRITES_MAX: usize = 8192;
/// Most rows that one scan returns.
pub const SCAN_ROWS_MAX: u32 = 4096;
/// Most bytes that one scan returns, keys and values together; more is [`StoreError::TooLarge`], never a shorter page.
pub const SCAN_BYTES_MAX: usize = 16 << 20;

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The caller's mistake: a key, value, transaction or scan over its limit.
    #[error("{what}: {size}, limit is {max}")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        max: usize,
    },
    /// The deadline passed; for a read, nothing happened.
    #[error("the store did not answer in time")]
    DeadlineExceeded,
    /// The store is closed or out of reach; the caller may retry with back-off.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store cannot be opened as it is configured. Needs a person.
    #[error("the store is misconfigured: {0}")]
    Config(String),
    /// What is on disk cannot be trusted. Needs a person.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The engine failed.
    #[error("store engine failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How a commit ended.
#[derive(Debug)]
#[must_use]
pub enum CommitOutcome {
    /// All writes are durable and visible.
    Committed,
    /// A key that was read has changed since; nothing is written. Run the transaction again.
    Conflict,
    /// Nothing is written, and running it again will not help by itself.
    Failed(StoreError),
    /// It may or may not be written: read back a key that it wrote before doing anything else.
    Unknown(StoreError),
}

/// Half-open range of keys: `start <= key < end`. Keep it tight: some engines visit every region it touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key inside.
    pub start: Bytes,
    /// First key outside.
    pub end: Bytes,
}

impl KeyRange {
    /// All keys that begin with `prefix`, which must not be empty or all 0xFF.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while end.last() == Some(&0xFF) {
            end.pop();
        }
        debug_assert!(!end.is_empty(), "a prefix of only 0xFF has no end");
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self { start: Bytes::copy_from_slice(prefix), end: end.into() }
    }
}

/// Which end of a range a scan begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending from the start.
    Forward,
    /// Descending from the end.
    Backward,
}

/// A transactional ordered map of bytes to bytes.
pub trait Store: Send + Sync + 'static {
    /// Begins a transaction on a snapshot of now. Everything it does, commit included, must end before `deadline`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::DeadlineExceeded`].
    fn begin(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<dyn Transaction>, StoreError>>;

    /// Finishes what is under way, makes it durable and closes. Later calls fail with [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`StoreError::Engine`] if the last writes could not be made durable.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What the store has done since it was opened, for metrics. Cheap: it reads counters.
    fn stats(&self) -> StoreStats;
}

/// Reads see the snapshot and this transaction's own writes; writes wait for the commit. Dropping it rolls back.
pub trait Transaction: Send {
    /// Reads one key. The commit fails with [`CommitOutcome::Conflict`] if the key has changed by then, also from absent to
    /// present: this is what fences and what makes an insert unique.
    ///
    /// # Errors
    /// [`StoreError`]; the transaction cannot go on after one.
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Reads at most `limit` rows (at most [`SCAN_ROWS_MAX`]) from one end of a range. **Not** validated at commit: guard with a `get`.
    ///
    /// # Errors
    /// [`StoreError`]; the transaction cannot go on after one.
    fn scan(
        &mut self,
        range: KeyRange,
        direction: Direction,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>>;

    /// Writes a key at commit.
    fn put(&mut self, key: Bytes, value: Bytes);

    /// Removes a key at commit.
    fn delete(&mut self, key: Bytes);

    /// Validates and writes, all or nothing. A transaction without writes is `Committed` at once: its snapshot was consistent.
    ///
    /// # Cancel safety
    /// A dropped future loses the outcome, not the writes: treat it as [`CommitOutcome::Unknown`].
    fn commit(self: Box<Self>) -> BoxFuture<'static, CommitOutcome>;
}
