//! What every engine must do, as tests: [`conformance_suite!`](crate::conformance_suite) makes one test of each case.
//!
//! A case works under keys of its own, so all may run on one store, as on a cluster that is not thrown away between tests.
//! Nothing here knows an engine. [`model`] checks random interleavings against a slow obvious store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{CommitOutcome, KeyRange, Store, StoreError, Transaction};

mod limits;
pub mod model;
mod scans;
mod transactions;

pub use limits::*;
pub use scans::*;
pub use transactions::*;

/// Whether transactions that only write may meet a conflict. [`Transaction::get`] must always validate; on top of that some engines
/// (TiKV) also refuse a write over a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlindWrites {
    /// They never conflict, and a conflict always means that a key that was read has changed.
    NeverConflict,
    /// They may conflict.
    MayConflict,
}

/// The store under test.
#[derive(Clone)]
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What it promises beyond the trait.
    pub blind_writes: BlindWrites,
}

/// Makes a `#[tokio::test]` of every case. `$subject` is evaluated in each test and gives a [`Subject`].
#[macro_export]
macro_rules! conformance_suite {
    ($subject:expr) => {
        $crate::conformance_suite!(@each $subject;
            writes_are_seen_by_the_transaction_and_after_commit_by_all
            a_dropped_transaction_writes_nothing
            a_snapshot_does_not_move
            a_changed_read_conflicts
            an_insert_race_has_one_winner
            a_removed_read_conflicts
            a_rewrite_of_the_same_value_conflicts
            write_skew_is_refused
            blind_writes_need_no_validation
            reading_only_never_conflicts
            ranges_are_not_validated
            a_retry_after_a_conflict_succeeds
            concurrent_increments_all_count
            transactions_are_seen_whole
            scans_go_both_ways_within_bounds
            scans_merge_own_writes
            scans_see_the_snapshot
            a_scan_of_nothing_is_empty
            any_bytes_are_keys
            prefix_ranges_hold_exactly_the_prefix
            sizes_over_the_limit_are_refused
            sizes_at_the_limit_work
            a_scan_over_the_byte_limit_is_refused
            a_failed_call_fails_the_commit
            a_passed_deadline_ends_everything
            a_closed_store_refuses
            stats_count
        );
    };
    (@each $subject:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let subject: $crate::conformance::Subject = $subject;
                $crate::conformance::$case(&subject).await;
            }
        )*
    };
}

/// Far enough for any case on any machine.
pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Subject {
    pub(crate) async fn begin(&self) -> Box<dyn Transaction> {
        self.store.begin(deadline()).await.expect("begin")
    }

    /// Writes rows (`None` removes) in a transaction of their own.
    pub(crate) async fn write(&self, rows: &[(&str, Option<&str>)]) {
        let mut transaction = self.begin().await;
        for (key, value) in rows {
            match value {
                Some(value) => transaction.put(bytes(key), bytes(value)),
                None => transaction.delete(bytes(key)),
            }
        }
        committed(transaction.commit().await);
    }

    /// Reads one key in a transaction of its own.
    pub(crate) async fn read(&self, key: &str) -> Option<String> {
        get(&mut self.begin().await, key).await
    }
}

pub(crate) async fn get(transaction: &mut Box<dyn Transaction>, key: &str) -> Option<String> {
    let value = transaction.get(key.as_bytes()).await.expect("get");
    value.map(|value| String::from_utf8(value.to_vec()).expect("the suite writes text"))
}

pub(crate) fn committed(outcome: CommitOutcome) {
    assert!(matches!(outcome, CommitOutcome::Committed), "expected a commit, got {outcome:?}");
}

pub(crate) fn conflicted(outcome: CommitOutcome) {
    assert!(matches!(outcome, CommitOutcome::Conflict), "expected a conflict, got {outcome:?}");
}

pub(crate) fn too_large<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::TooLarge { .. })), "expected TooLarge, got {result:?}");
}

pub(crate) fn range(start: &str, end: &str) -> KeyRange {
    KeyRange { start: bytes(start), end: bytes(end) }
}
