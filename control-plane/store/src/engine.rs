//! What an embedded engine must do: snapshots, and one durable atomic batch at a time.

use bytes::Bytes;

use crate::{Direction, KeyRange, StoreError};

mod fjall;
mod memory;
mod redb;

pub use self::fjall::FjallConfig;
pub use self::redb::RedbConfig;

pub(crate) use self::fjall::FjallEngine;
pub(crate) use self::memory::MemoryEngine;
pub(crate) use self::redb::RedbEngine;

/// Writes in ascending order of their keys, each key once; `None` for a removal.
pub(crate) type Writes = Vec<(Bytes, Option<Bytes>)>;

/// An embedded key-value engine under [`crate::EmbeddedStore`]. One thread owns it and is its only writer.
pub(crate) trait Engine: Send + 'static {
    /// A consistent, immutable view. Many transactions share one.
    type Snapshot: Snapshot;

    /// Takes a snapshot of everything applied so far. Only called by the owning thread between two [`Engine::apply`], so an engine whose
    /// snapshots are not clean *during* a write can be used too.
    ///
    /// # Errors
    /// [`StoreError`]; the store stops after one.
    fn snapshot(&self) -> Result<Self::Snapshot, StoreError>;

    /// Writes `writes` and the commit sequence in one atomic batch. When it returns, the batch is durable.
    ///
    /// # Errors
    /// [`StoreError`]; the batch may or may not be on disk and the store stops: [`crate::FailurePolicy`].
    fn apply(&mut self, sequence: u64, writes: Writes) -> Result<(), StoreError>;

    /// The newest commit sequence on disk; 0 if there is none. Checks that no batch after `baseline` is missing below it, as far as
    /// the engine can tell.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if batches are missing.
    fn recovered(&self, baseline: u64) -> Result<u64, StoreError>;
}

/// A consistent view of an engine.
pub(crate) trait Snapshot: Send + Sync + 'static {
    /// Reads one key.
    ///
    /// # Errors
    /// [`StoreError::Engine`] or [`StoreError::Damaged`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Reads at most `limit` rows from one end of a range that is not empty (`start < end`), and stops with an error over
    /// [`crate::SCAN_BYTES_MAX`].
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Engine`] or [`StoreError::Damaged`].
    fn scan(&self, range: &KeyRange, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError>;
}

/// Collects the rows of a scan within its limits.
struct Page {
    rows: Vec<(Bytes, Bytes)>,
    rows_max: usize,
    bytes: usize,
}

impl Page {
    fn new(rows_max: usize) -> Self {
        Self { rows: Vec::with_capacity(rows_max.min(64)), rows_max, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.rows_max
    }

    fn push(&mut self, key: Bytes, value: Bytes) -> Result<(), StoreError> {
        self.bytes += key.len() + value.len();
        if self.bytes > crate::SCAN_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "bytes of a scan", size: self.bytes, max: crate::SCAN_BYTES_MAX });
        }
        self.rows.push((key, value));
        Ok(())
    }
}
