//! The writer under an engine that the tests hold back: groups, deadlines, failures.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use super::*;
use crate::engine::MemoryEngine;

/// What the engine does with a group that it was handed.
enum Order {
    Write,
    Fail,
    Panic,
}

/// A memory engine that reports each group and waits for an order.
struct Gated {
    engine: MemoryEngine,
    entered: tokio::sync::mpsc::UnboundedSender<usize>,
    orders: mpsc::Receiver<Order>,
}

impl Engine for Gated {
    type Snapshot = <MemoryEngine as Engine>::Snapshot;

    fn snapshot(&self) -> Result<Self::Snapshot, StoreError> {
        self.engine.snapshot()
    }

    fn apply(&mut self, sequence: u64, writes: Writes) -> Result<(), StoreError> {
        // A test that has failed no longer listens.
        let _gone = self.entered.send(writes.len());
        match self.orders.recv().unwrap_or(Order::Write) {
            Order::Write => self.engine.apply(sequence, writes),
            Order::Fail => Err(StoreError::Engine("the disk is full".into())),
            Order::Panic => panic!("a bug"),
        }
    }

    fn recovered(&self, baseline: u64) -> Result<u64, StoreError> {
        self.engine.recovered(baseline)
    }
}

struct Bench {
    /// Dropped first: without it the engine writes, so that a failed test does not wait for it.
    orders: mpsc::Sender<Order>,
    store: Arc<EmbeddedStore<Gated>>,
    /// Per group handed to the engine its number of keys.
    entered: tokio::sync::mpsc::UnboundedReceiver<usize>,
    failures: Arc<AtomicUsize>,
}

impl Bench {
    fn new(config: WriterConfig) -> Self {
        let (entered_sender, entered) = tokio::sync::mpsc::unbounded_channel();
        let (orders, orders_receiver) = mpsc::channel();
        let failures = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&failures);
        let on_failure = FailurePolicy::observe(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let engine = Gated { engine: MemoryEngine::default(), entered: entered_sender, orders: orders_receiver };
        let store = EmbeddedStore::start(engine, None, 0, WriterConfig { on_failure, ..config }).expect("start");
        Self { orders, store: Arc::new(store), entered, failures }
    }

    async fn begin(&self, deadline: Instant) -> Box<dyn Transaction> {
        self.store.begin(deadline).await.expect("begin")
    }

    /// A commit under way that writes one key; it is in the queue when this returns.
    async fn put(&self, key: &str, deadline: Instant) -> tokio::task::JoinHandle<CommitOutcome> {
        self.queue(self.begin(deadline).await, key).await
    }

    /// Commits a transaction after it has written `key`, and waits until the commit is in the queue.
    async fn queue(&self, mut transaction: Box<dyn Transaction>, key: &str) -> tokio::task::JoinHandle<CommitOutcome> {
        transaction.put(Bytes::copy_from_slice(key.as_bytes()), Bytes::from_static(b"value"));
        let mut commit = transaction.commit();
        // The first poll pushes it, for there is room.
        let early = futures_poll(&mut commit).await;
        assert!(early.is_none(), "{early:?}");
        tokio::spawn(commit)
    }

    /// A commit of three of the largest values, not yet in the queue.
    async fn large(&self, number: usize, deadline: Instant) -> BoxFuture<'static, CommitOutcome> {
        let mut transaction = self.begin(deadline).await;
        for row in 0..3 {
            transaction.put(Bytes::from(format!("large {number} {row}")), Bytes::from(vec![0; VALUE_BYTES_MAX]));
        }
        transaction.commit()
    }

    /// Lets the engine begin a group of one key, which it holds until the next order.
    async fn occupy(&mut self) -> tokio::task::JoinHandle<CommitOutcome> {
        let commit = self.put("occupied", far()).await;
        assert_eq!(self.entered.recv().await, Some(1));
        commit
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the engine lives");
    }

    async fn read(&self, key: &str) -> Option<Bytes> {
        self.begin(far()).await.get(key.as_bytes()).await.expect("get")
    }
}

/// Polls a future once.
async fn futures_poll(future: &mut BoxFuture<'static, CommitOutcome>) -> Option<CommitOutcome> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(outcome) => Some(outcome),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

fn assert_committed(outcome: CommitOutcome) {
    assert!(matches!(outcome, CommitOutcome::Committed), "{outcome:?}");
}

#[tokio::test]
async fn what_waits_becomes_one_group() {
    let mut bench = Bench::new(WriterConfig::default());
    let first = bench.occupy().await;
    let mut waiting = Vec::new();
    for number in 0..10 {
        waiting.push(bench.put(&format!("key {number}"), far()).await);
    }
    assert!(bench.store.stats().queued_bytes > 0);
    bench.order(Order::Write);
    assert_committed(first.await.unwrap());
    assert_eq!(bench.entered.recv().await, Some(10), "all ten in one batch");
    assert_eq!(bench.read("key 3").await, None, "not durable, so not visible");
    bench.order(Order::Write);
    for commit in waiting {
        assert_committed(commit.await.unwrap());
    }
    assert!(bench.read("key 3").await.is_some());
    let stats = bench.store.stats();
    assert_eq!((stats.groups, stats.commits, stats.group_commits_max, stats.queued_bytes), (2, 11, 10, 0));
}

#[tokio::test]
async fn groups_are_bounded_in_count_and_bytes() {
    for config in [
        WriterConfig { group_commits_max: 3, ..WriterConfig::default() },
        // "key 0" and "value" are 10 bytes: the third one reaches the bound.
        WriterConfig { group_bytes_max: 25, ..WriterConfig::default() },
    ] {
        let mut bench = Bench::new(config);
        let mut commits = vec![bench.occupy().await];
        for number in 0..7 {
            commits.push(bench.put(&format!("key {number}"), far()).await);
        }
        let mut sizes = Vec::new();
        for _ in 0..3 {
            bench.order(Order::Write);
            sizes.push(bench.entered.recv().await.unwrap());
        }
        assert_eq!(sizes, [3, 3, 1]);
        bench.order(Order::Write);
        for commit in commits {
            assert_committed(commit.await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_read_of_a_key_written_earlier_in_the_group_conflicts() {
    let mut bench = Bench::new(WriterConfig::default());
    let first = bench.occupy().await;
    let mut commits = Vec::new();
    // All four read "head" before any of them is written; they and the blind write meet in one group.
    for number in 0..4 {
        let mut transaction = bench.begin(far()).await;
        assert_eq!(transaction.get(b"head").await.unwrap(), None);
        transaction.put(Bytes::from_static(b"head"), Bytes::from(number.to_string()));
        commits.push(bench.queue(transaction, &format!("message {number}")).await);
    }
    let blind = bench.put("head", far()).await;
    bench.order(Order::Write);
    assert_committed(first.await.unwrap());
    assert_eq!(bench.entered.recv().await, Some(2), "the head and one message");
    bench.order(Order::Write);
    let mut outcomes = commits.into_iter();
    assert_committed(outcomes.next().unwrap().await.unwrap());
    for outcome in outcomes {
        assert!(matches!(outcome.await.unwrap(), CommitOutcome::Conflict));
        // Whoever hears of a conflict can begin on what it conflicted with.
        assert_eq!(bench.read("head").await.unwrap(), "value");
    }
    assert_committed(blind.await.unwrap());
    assert_eq!(bench.store.stats().conflicts, 3);
}

#[tokio::test]
async fn a_deadline_in_the_queue_takes_the_commit_back() {
    let mut bench = Bench::new(WriterConfig::default());
    let first = bench.occupy().await;
    let late = bench.put("late", soon()).await;
    let outcome = late.await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Failed(StoreError::DeadlineExceeded)), "{outcome:?}");
    let other = bench.put("other", far()).await;
    bench.order(Order::Write);
    assert_committed(first.await.unwrap());
    assert_eq!(bench.entered.recv().await, Some(1), "only the other one");
    bench.order(Order::Write);
    assert_committed(other.await.unwrap());
    assert_eq!(bench.read("late").await, None);
    assert_eq!(bench.store.stats().expired, 1);
}

#[tokio::test]
async fn a_deadline_in_the_engine_is_unknown() {
    let mut bench = Bench::new(WriterConfig::default());
    let commit = bench.put("maybe", soon()).await;
    assert_eq!(bench.entered.recv().await, Some(1));
    let outcome = commit.await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Unknown(StoreError::DeadlineExceeded)), "{outcome:?}");
    // And then it does land.
    bench.order(Order::Write);
    bench.store.close().await.unwrap();
    let stats = bench.store.stats();
    assert_eq!((stats.unknown, stats.commits), (1, 1));
}

#[tokio::test]
async fn a_dropped_commit_may_still_land() {
    let mut bench = Bench::new(WriterConfig::default());
    let commit = bench.put("dropped", far()).await;
    assert_eq!(bench.entered.recv().await, Some(1));
    commit.abort();
    bench.order(Order::Write);
    let next = bench.put("next", far()).await;
    assert_eq!(bench.entered.recv().await, Some(1));
    bench.order(Order::Write);
    assert_committed(next.await.unwrap());
    assert!(bench.read("dropped").await.is_some());
}

#[tokio::test]
async fn a_full_queue_waits_for_room_until_the_deadline() {
    let mut bench = Bench::new(WriterConfig { queue_bytes_max: QUEUE_BYTES_MIN, ..WriterConfig::default() });
    let first = bench.occupy().await;
    // Ten times three quarters of a MiB fit into 8 MiB.
    let mut waiting = Vec::new();
    for number in 0..10 {
        let mut commit = bench.large(number, far()).await;
        assert!(futures_poll(&mut commit).await.is_none());
        waiting.push(tokio::spawn(commit));
    }
    let outcome = bench.large(10, soon()).await.await;
    assert!(matches!(outcome, CommitOutcome::Failed(StoreError::DeadlineExceeded)), "{outcome:?}");
    // One with time gets its turn when there is room again.
    let patient = tokio::spawn(bench.large(11, far()).await);
    drop(std::mem::replace(&mut bench.orders, mpsc::channel().0));
    assert_committed(first.await.unwrap());
    for commit in waiting {
        assert_committed(commit.await.unwrap());
    }
    assert_committed(patient.await.unwrap());
    assert_eq!(bench.read("large 10 0").await, None);
    assert!(bench.read("large 11 2").await.is_some());
}

#[tokio::test]
async fn a_failed_write_is_reported_once_and_ends_the_store() {
    for order in [Order::Fail, Order::Panic] {
        let mut bench = Bench::new(WriterConfig::default());
        let first = bench.occupy().await;
        let waiting = bench.put("waiting", far()).await;
        bench.order(order);
        assert!(matches!(first.await.unwrap(), CommitOutcome::Unknown(_)));
        let outcome = waiting.await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Failed(StoreError::Unavailable(_))), "{outcome:?}");
        let closed = bench.store.close().await;
        assert!(matches!(closed, Err(StoreError::Engine(_))), "{closed:?}");
        assert!(matches!(bench.store.begin(far()).await.map(drop), Err(StoreError::Unavailable(_))));
        assert_eq!(bench.failures.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn closing_writes_what_waits() {
    let mut bench = Bench::new(WriterConfig::default());
    let first = bench.occupy().await;
    let waiting = bench.put("waiting", far()).await;
    let store = Arc::clone(&bench.store);
    let mut close: BoxFuture<'static, Result<(), StoreError>> = Box::pin(async move { store.close().await });
    let closing = std::future::poll_fn(|context| std::task::Poll::Ready(close.as_mut().poll(context))).await;
    assert!(closing.is_pending());
    assert!(matches!(bench.store.begin(far()).await.map(drop), Err(StoreError::Unavailable(_))));
    bench.order(Order::Write);
    bench.order(Order::Write);
    close.await.unwrap();
    assert_committed(first.await.unwrap());
    assert_committed(waiting.await.unwrap());
    assert_eq!(bench.store.stats().commits, 2);
}

#[tokio::test]
async fn a_transaction_older_than_the_window_conflicts() {
    let config = WriterConfig { conflict_window_bytes: 4096, ..WriterConfig::default() };
    let mut bench = Bench::new(config);
    drop(std::mem::replace(&mut bench.orders, mpsc::channel().0));
    let mut old = bench.begin(far()).await;
    old.get(b"untouched").await.unwrap();
    let mut blind = bench.begin(far()).await;
    for number in 0..100 {
        let mut transaction = bench.begin(far()).await;
        transaction.put(Bytes::from(format!("key {number}")), Bytes::new());
        assert_committed(transaction.commit().await);
    }
    old.put(Bytes::from_static(b"old"), Bytes::new());
    assert!(matches!(old.commit().await, CommitOutcome::Conflict), "nobody knows any more");
    blind.put(Bytes::from_static(b"blind"), Bytes::new());
    assert_committed(blind.commit().await);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for config in [
        WriterConfig { queue_bytes_max: QUEUE_BYTES_MIN - 1, ..WriterConfig::default() },
        WriterConfig { group_commits_max: 0, ..WriterConfig::default() },
        WriterConfig { group_bytes_max: 0, ..WriterConfig::default() },
    ] {
        let started = EmbeddedStore::start(MemoryEngine::default(), None, 0, config);
        assert!(matches!(started.err(), Some(StoreError::Config(_))));
    }
}

/// The room that the largest transaction takes is in any queue.
#[test]
fn the_largest_transaction_fits_the_smallest_queue() {
    let key = |number: usize| {
        let mut key = vec![0; KEY_BYTES_MAX];
        key[..8].copy_from_slice(&number.to_be_bytes());
        Bytes::from(key)
    };
    let prints = Fingerprints::default();
    let reads: Reads = (0..TRANSACTION_READS_MAX).map(|number| prints.of(&key(number))).collect();
    let writes: Writes = (0..TRANSACTION_WRITES_MAX).map(|number| (key(number), None)).collect();
    let rooms = rooms(&reads, &writes, TRANSACTION_BYTES_MAX);
    assert!(rooms as usize * ROOM_BYTES <= QUEUE_BYTES_MIN, "{rooms}");
}
