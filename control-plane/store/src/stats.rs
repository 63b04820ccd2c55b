//! What a store counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters since the store was opened. Plain numbers: the caller exports them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Transactions begun.
    pub transactions: u64,
    /// Keys read that were remembered, so that the engine was not asked.
    pub remembered: u64,
    /// Transactions with writes that were committed.
    pub commits: u64,
    /// Commits that ended in [`crate::CommitOutcome::Conflict`].
    pub conflicts: u64,
    /// Commits that were refused because their deadline passed before the engine had them; nothing of them was written.
    pub expired: u64,
    /// Commits whose deadline passed after the engine had them: [`crate::CommitOutcome::Unknown`].
    pub unknown: u64,
    /// Groups written, each one batch with one sync. `commits / groups` is the mean group size.
    pub groups: u64,
    /// The most transactions that one group held.
    pub group_commits_max: u64,
    /// Bytes of keys and values handed to the engine.
    pub bytes_written: u64,
    /// Time spent writing and syncing groups, all together; divide by `groups` for the mean.
    pub sync_time: Duration,
    /// Bytes of commits that wait for the writer now.
    pub queued_bytes: u64,
}

/// The counters behind [`StoreStats`], written by the callers' threads and the writer.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) transactions: AtomicU64,
    pub(crate) remembered: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) group_commits_max: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) sync_nanos: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn group(&self, commits: usize, bytes: usize, took: Duration) {
        Self::add(&self.commits, commits);
        Self::add(&self.groups, 1);
        Self::add(&self.bytes_written, bytes);
        self.group_commits_max.fetch_max(commits as u64, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, queued_bytes: u64) -> StoreStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            transactions: get(&self.transactions),
            remembered: get(&self.remembered),
            commits: get(&self.commits),
            conflicts: get(&self.conflicts),
            expired: get(&self.expired),
            unknown: get(&self.unknown),
            groups: get(&self.groups),
            group_commits_max: get(&self.group_commits_max),
            bytes_written: get(&self.bytes_written),
            sync_time: Duration::from_nanos(get(&self.sync_nanos)),
            queued_bytes,
        }
    }
}
