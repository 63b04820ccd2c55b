//! The control plane's store: a small transactional trait and its engines.
//!
//! The trait is what TiKV offers through optimistic two-phase commit, no more: snapshot reads, validated point reads, atomic writes,
//! bounded scans both ways, a deadline on everything, and a commit that may end in not knowing.
#![forbid(unsafe_code)]

mod transaction;

pub use transaction::{
    BoxFuture, CommitOutcome, Direction, KEY_BYTES_MAX, KeyRange, SCAN_ROWS_MAX, Store, StoreError,
    TRANSACTION_BYTES_MAX, Transaction, VALUE_BYTES_MAX,
};
