//! The embedded store: any [`Engine`] behind one writer thread, with optimistic transactions in front.
//!
//! - **Reads** run on the calling thread, on the snapshot that the writer published last (9 to 50 µs when the data is cached; a read that
//!   misses the cache waits for the disk on that thread).
//! - **Commits** go to the writer through a queue bounded in bytes, see [`writer`].
//! - **What is visible is durable**: the writer takes a snapshot after a group is on disk and publishes it together with the group's
//!   sequence, in one step. A transaction thus knows exactly which commits it has seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::directory::Directory;
use crate::engine::{Engine, Snapshot, Writes};
use crate::stats::Counters;
use crate::{
    BoxFuture, CommitOutcome, Direction, KEY_BYTES_MAX, KeyRange, SCAN_ROWS_MAX, Store, StoreError, StoreStats,
    TRANSACTION_BYTES_MAX, TRANSACTION_READS_MAX, TRANSACTION_WRITES_MAX, Transaction, VALUE_BYTES_MAX,
};

mod queue;
mod recent;
mod remembered;
#[cfg(test)]
mod tests;
mod writer;

use queue::{Queue, Request};
use recent::{Fingerprints, Reads};
use remembered::Remembered;
use writer::Writer;

/// What to do when the engine fails to write: what is on disk is then the truth, and only a start from it is safe.
#[derive(Clone)]
pub struct FailurePolicy(Arc<dyn Fn(&StoreError) + Send + Sync>);

impl FailurePolicy {
    /// Logs what happened and what to do, and aborts the process. The default.
    pub fn abort() -> Self {
        Self(Arc::new(|error| {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "the store could not write; this process ends, so that nothing is acknowledged that is not on disk. \
                 Check the disk (full? failing?) and start again: what was acknowledged is found again"
            );
            std::process::abort();
        }))
    }

    /// Calls `observe` on the writer's thread instead; the store is closed when it returns. For tests.
    pub fn observe(observe: impl Fn(&StoreError) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }
}

impl std::fmt::Debug for FailurePolicy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FailurePolicy")
    }
}

/// Bounds of the writer.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// Memory for commits that wait, in bytes; further ones wait for room until their deadline. At least 8 MiB, which is more than the
    /// largest transaction takes; default 32 MiB.
    pub queue_bytes_max: usize,
    /// Most transactions in one group. Default 1024.
    pub group_commits_max: usize,
    /// Bytes at which a group is full. Default 4 MiB: a tenth of a second on a slow disk.
    pub group_bytes_max: usize,
    /// Memory for what recent commits wrote, 64 bytes for each key. A transaction older than what fits in conflicts. Default 16 MiB: more
    /// than a second at 60,000 appends per second.
    pub conflict_window_bytes: usize,
    /// Memory for rows that transactions have read and rewritten, which the next one reads from there and not from the engine. Default
    /// 16 MiB, some 70,000 rows: the heads and producers of 35,000 channels with one who writes. 0: none.
    pub remembered_bytes: usize,
    /// How often the high-water mark is made durable while there are commits. Zero: with every group, before it is acknowledged, at the
    /// cost of a second sync. Default 1 s: damage to the log that reaches back less than that goes unnoticed.
    pub high_water_interval: Duration,
    /// What a failed write does. Default [`FailurePolicy::abort`].
    pub on_failure: FailurePolicy,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            queue_bytes_max: 32 << 20,
            group_commits_max: 1024,
            group_bytes_max: 4 << 20,
            conflict_window_bytes: 16 << 20,
            remembered_bytes: 16 << 20,
            high_water_interval: Duration::from_secs(1),
            on_failure: FailurePolicy::abort(),
        }
    }
}

/// What a transaction begins on.
struct Published<S> {
    /// The newest commit that the snapshot holds.
    sequence: u64,
    snapshot: S,
}

/// What the callers and the writer share.
struct Shared<S> {
    /// `None` once the store is closed.
    published: RwLock<Option<Arc<Published<S>>>>,
    queue: Queue,
    /// Room in the queue, in units of [`ROOM_BYTES`]; closed with the store.
    room: Arc<Semaphore>,
    closed: AtomicBool,
    fingerprints: Fingerprints,
    remembered: Remembered,
    counters: Counters,
}

/// Unit of the queue's room. A commit takes at least one, so the queue is bounded in commits too.
const ROOM_BYTES: usize = 256;
/// Memory of a written key in a queued commit besides its bytes.
const WRITE_BYTES: usize = 128;
/// Memory of a read one.
const READ_BYTES: usize = 16;
const QUEUE_BYTES_MIN: usize = 8 << 20;

impl<S> Shared<S> {
    fn publish(&self, published: Option<Arc<Published<S>>>) {
        let old = std::mem::replace(&mut *self.published.write().unwrap_or_else(PoisonError::into_inner), published);
        // Outside the lock: the last holder of a snapshot pays for its release.
        drop(old);
    }

    fn shut(&self) {
        self.closed.store(true, Ordering::Release);
        self.room.close();
        self.queue.close();
    }
}

/// A store over an embedded engine. [`crate::open_fjall`] and its siblings make one.
///
/// Needs a tokio runtime with timers where it is used. Dropping it closes it, waiting for the writer (milliseconds).
pub(crate) struct EmbeddedStore<E: Engine> {
    shared: Arc<Shared<E::Snapshot>>,
    /// Turns to `Some` when the writer has ended.
    ended: watch::Receiver<Option<Result<(), String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl<E: Engine> EmbeddedStore<E> {
    pub(crate) fn start(
        engine: E,
        directory: Option<Directory>,
        recovered: u64,
        config: WriterConfig,
    ) -> Result<Self, StoreError> {
        if config.queue_bytes_max < QUEUE_BYTES_MIN || config.group_commits_max == 0 || config.group_bytes_max == 0 {
            return Err(StoreError::Config(format!(
                "the writer needs a queue of at least {QUEUE_BYTES_MIN} bytes and groups of at least one commit and one byte"
            )));
        }
        let published = Published { sequence: recovered, snapshot: engine.snapshot()? };
        let rooms = (config.queue_bytes_max / ROOM_BYTES).min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            published: RwLock::new(Some(Arc::new(published))),
            queue: Queue::default(),
            room: Arc::new(Semaphore::new(rooms)),
            closed: AtomicBool::new(false),
            fingerprints: Fingerprints::default(),
            remembered: Remembered::new(config.remembered_bytes),
            counters: Counters::default(),
        });
        let (end, ended) = watch::channel(None);
        let writer = Writer::new(engine, directory, recovered, config, Arc::clone(&shared));
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                let result = writer.run();
                end.send_replace(Some(result));
            })
            .map_err(|error| StoreError::Engine(Box::new(error)))?;
        Ok(Self { shared, ended, writer: Mutex::new(Some(writer)) })
    }

    fn join(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl<E: Engine> Store for EmbeddedStore<E> {
    fn begin(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<dyn Transaction>, StoreError>> {
        Box::pin(async move {
            if deadline <= Instant::now() {
                return Err(StoreError::DeadlineExceeded);
            }
            let published = self.shared.published.read().unwrap_or_else(PoisonError::into_inner).clone();
            let published = published.filter(|_| !self.shared.closed.load(Ordering::Acquire));
            let published = published.ok_or_else(closed)?;
            Counters::add(&self.shared.counters.transactions, 1);
            let transaction = EmbeddedTransaction::<E> {
                shared: Arc::clone(&self.shared),
                published,
                deadline,
                reads: Reads::default(),
                writes: BTreeMap::new(),
                write_bytes: 0,
                refused: None,
            };
            Ok(Box::new(transaction) as Box<dyn Transaction>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.shared.shut();
            let mut ended = self.ended.clone();
            let result = match ended.wait_for(Option::is_some).await {
                Ok(result) => result.clone().unwrap_or(Ok(())),
                Err(_) => Err("the writer panicked".to_owned()),
            };
            // It has nothing left to do, so this does not wait.
            self.join();
            result.map_err(|message| StoreError::Engine(message.into()))
        })
    }

    fn stats(&self) -> StoreStats {
        self.shared.counters.read(self.shared.queue.bytes())
    }
}

impl<E: Engine> Drop for EmbeddedStore<E> {
    fn drop(&mut self) {
        self.shared.shut();
        self.join();
    }
}

/// A commit's share of the queue.
fn rooms(reads: &Reads, writes: &Writes, write_bytes: usize) -> u32 {
    let bytes = write_bytes + WRITE_BYTES * writes.len() + READ_BYTES * reads.len();
    u32::try_from(bytes.div_ceil(ROOM_BYTES).max(1)).unwrap_or(u32::MAX)
}

fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

/// A transaction on a published snapshot.
struct EmbeddedTransaction<E: Engine> {
    shared: Arc<Shared<E::Snapshot>>,
    published: Arc<Published<E::Snapshot>>,
    deadline: Instant,
    reads: Reads,
    writes: BTreeMap<Bytes, Option<Bytes>>,
    /// Keys and values in `writes`.
    write_bytes: usize,
    /// Why it cannot commit any more: an earlier call failed.
    refused: Option<StoreError>,
}

impl<E: Engine> EmbeddedTransaction<E> {
    fn check(&self) -> Result<(), StoreError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        if self.deadline <= Instant::now() {
            return Err(StoreError::DeadlineExceeded);
        }
        Ok(())
    }

    /// Remembers a failure, so that a commit after it fails too.
    fn refuse<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() && self.refused.is_none() {
            self.refused = Some(StoreError::Unavailable("an earlier call of the transaction failed".into()));
        }
        result
    }

    fn read(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.check()?;
        within("bytes of a key", key.len(), KEY_BYTES_MAX)?;
        if let Some(own) = self.writes.get(key) {
            return Ok(own.clone());
        }
        let print = self.shared.fingerprints.of(key);
        let value = match self.shared.remembered.get(self.published.sequence, print, key) {
            Some(value) => {
                Counters::add(&self.shared.counters.remembered, 1);
                value
            }
            None => self.published.snapshot.get(key)?,
        };
        self.reads.insert(print);
        within("keys read by a transaction", self.reads.len(), TRANSACTION_READS_MAX)?;
        Ok(value)
    }

    fn page(&mut self, range: &KeyRange, direction: Direction, limit: u32) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.check()?;
        within("rows of a scan", limit as usize, SCAN_ROWS_MAX as usize)?;
        if range.start >= range.end || limit == 0 {
            return Ok(Vec::new());
        }
        let limit = limit as usize;
        let own = || self.writes.range(range.start.clone()..range.end.clone());
        // A removed row may hide one of the snapshot's: ask for as many more.
        let removed = own().filter(|(_, value)| value.is_none()).count();
        let stored = self.published.snapshot.scan(range, direction, limit + removed)?;
        if own().next().is_none() {
            return Ok(stored);
        }
        Ok(match direction {
            Direction::Forward => merge(stored, own(), limit, |a, b| a < b),
            Direction::Backward => merge(stored, own().rev(), limit, |a, b| a > b),
        })
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        if self.refused.is_none()
            && let Err(error) = self.try_write(key, value)
        {
            self.refused = Some(error);
        }
    }

    fn try_write(&mut self, key: Bytes, value: Option<Bytes>) -> Result<(), StoreError> {
        let value_bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        within("bytes of a key", key.len(), KEY_BYTES_MAX)?;
        within("bytes of a value", value_bytes(&value), VALUE_BYTES_MAX)?;
        let (new_key, old_bytes) = match self.writes.get(&key) {
            Some(old) => (0, key.len() + value_bytes(old)),
            None => (1, 0),
        };
        let write_bytes = self.write_bytes - old_bytes + key.len() + value_bytes(&value);
        within("bytes written by a transaction", write_bytes, TRANSACTION_BYTES_MAX)?;
        within("keys written by a transaction", self.writes.len() + new_key, TRANSACTION_WRITES_MAX)?;
        self.write_bytes = write_bytes;
        self.writes.insert(key, value);
        Ok(())
    }
}

fn within(what: &'static str, size: usize, max: usize) -> Result<(), StoreError> {
    if size > max { Err(StoreError::TooLarge { what, size, max }) } else { Ok(()) }
}

/// Merges a scan's rows with the transaction's own writes, both in the scan's order (`before`); an own write wins.
fn merge<'a>(
    stored: Vec<(Bytes, Bytes)>,
    own: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    limit: usize,
    before: impl Fn(&Bytes, &Bytes) -> bool,
) -> Vec<(Bytes, Bytes)> {
    let mut rows = Vec::with_capacity(limit.min(stored.len() + 16));
    let mut stored = stored.into_iter().peekable();
    for (key, value) in own {
        while let Some(row) = stored.next_if(|(stored_key, _)| before(stored_key, key)) {
            rows.push(row);
        }
        stored.next_if(|(stored_key, _)| stored_key == key);
        if let Some(value) = value {
            rows.push((key.clone(), value.clone()));
        }
    }
    rows.extend(stored);
    rows.truncate(limit);
    rows
}

impl<E: Engine> Transaction for EmbeddedTransaction<E> {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            let result = self.read(key);
            self.refuse(result)
        })
    }

    fn scan(
        &mut self,
        range: KeyRange,
        direction: Direction,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(async move {
            let result = self.page(&range, direction, limit);
            self.refuse(result)
        })
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.write(key, Some(value));
    }

    fn delete(&mut self, key: Bytes) {
        self.write(key, None);
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, CommitOutcome> {
        Box::pin(async move {
            let checked = match self.refused.take() {
                Some(error) => Err(error),
                None => self.check(),
            };
            match checked {
                Err(error) => {
                    if matches!(error, StoreError::DeadlineExceeded) {
                        Counters::add(&self.shared.counters.expired, 1);
                    }
                    CommitOutcome::Failed(error)
                }
                Ok(()) if self.writes.is_empty() => CommitOutcome::Committed,
                Ok(()) => self.submit().await,
            }
        })
    }
}

impl<E: Engine> EmbeddedTransaction<E> {
    async fn submit(self) -> CommitOutcome {
        let Self { shared, published, deadline, reads, writes, write_bytes, .. } = self;
        let sequence = published.sequence;
        // The engine need not keep the snapshot's rows while the commit waits.
        drop(published);
        let writes: Writes = writes.into_iter().collect();
        let timer = tokio::time::Instant::from_std(deadline);
        let rooms = rooms(&reads, &writes, write_bytes);
        let room = match tokio::time::timeout_at(timer, Arc::clone(&shared.room).acquire_many_owned(rooms)).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return CommitOutcome::Failed(closed()),
            Err(_) => {
                Counters::add(&shared.counters.expired, 1);
                return CommitOutcome::Failed(StoreError::DeadlineExceeded);
            }
        };
        let (reply, outcome) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        let request = Request {
            sequence,
            reads,
            writes,
            bytes: write_bytes,
            deadline,
            taken: Arc::clone(&taken),
            reply,
            _room: room,
        };
        if !shared.queue.push(request) {
            return CommitOutcome::Failed(closed());
        }
        match tokio::time::timeout_at(timer, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // The writer ended without an answer.
            Ok(Err(_)) => CommitOutcome::Unknown(closed()),
            // Whoever sets the flag first decides: the writer takes the commit, or the deadline takes it back.
            Err(_) if !taken.swap(true, Ordering::AcqRel) => {
                Counters::add(&shared.counters.expired, 1);
                CommitOutcome::Failed(StoreError::DeadlineExceeded)
            }
            Err(_) => {
                Counters::add(&shared.counters.unknown, 1);
                CommitOutcome::Unknown(StoreError::DeadlineExceeded)
            }
        }
    }
}
