//! The control plane's store: a small transactional trait and its engines.
//!
//! The trait ([`Store`], [`Transaction`]) is what TiKV offers through optimistic two-phase commit, no more: snapshot reads, validated
//! point reads, atomic writes, bounded scans both ways, a deadline on everything, and a commit that may end in not knowing.
//!
//! The embedded engines ([`open_memory`], [`open_fjall`], [`open_redb`]) share one writer thread per store: it validates the read sets,
//! merges every accepted transaction into one batch with one `fdatasync`, and then acknowledges all of them. What is visible is durable.
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod directory;
mod embedded;
mod engine;
mod open;
mod stats;
mod transaction;

pub use embedded::{FailurePolicy, WriterConfig};
pub use engine::{FjallConfig, RedbConfig};
pub use open::{EngineKind, UnknownEngine, open_fjall, open_memory, open_memory_with, open_redb};
pub use stats::StoreStats;
pub use transaction::{
    BoxFuture, CommitOutcome, Direction, KEY_BYTES_MAX, KeyRange, SCAN_BYTES_MAX, SCAN_ROWS_MAX, Store, StoreError,
    TRANSACTION_BYTES_MAX, TRANSACTION_READS_MAX, TRANSACTION_WRITES_MAX, Transaction, VALUE_BYTES_MAX,
};
