//! A store that does what a store may do: hold a read up, lose a race, not know, answer late. The tests of the control link use it
//! as well.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use millrace_store::{
    BoxFuture, CommitOutcome, Direction, KeyRange, Store, StoreError, StoreStats, Transaction, open_memory,
};
use tokio::sync::{Notify, Semaphore};

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Conflict,
    Fail,
    /// Not written, not known.
    LostUnknown,
    /// Written, not known.
    WrittenUnknown,
    /// Written, and told only when the gate opens.
    WrittenLate,
}

/// Wraps a store in memory.
pub(crate) struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Arc<Plan>,
}

/// What is to come.
struct Plan {
    /// Taken by commits that write, in order.
    fates: Mutex<VecDeque<Fate>>,
    hold: Mutex<Option<Hold>>,
    waiting: AtomicUsize,
    gate: Semaphore,
}

/// Holds up the next read of a key.
#[derive(Clone)]
pub(crate) struct Hold {
    key: Bytes,
    /// Somebody waits.
    pub(crate) reached: Arc<Notify>,
    /// Lets them go on.
    pub(crate) release: Arc<Notify>,
}

impl FaultyStore {
    pub(crate) fn new() -> Arc<Self> {
        let (fates, hold) = (Mutex::default(), Mutex::default());
        let plan = Plan { fates, hold, waiting: AtomicUsize::new(0), gate: Semaphore::new(0) };
        Arc::new(Self { inner: open_memory(), plan: Arc::new(plan) })
    }

    pub(crate) fn next_commits(&self, fates: impl IntoIterator<Item = Fate>) {
        self.plan.fates.lock().unwrap().extend(fates);
    }

    pub(crate) fn forget_fates(&self) {
        self.plan.fates.lock().unwrap().clear();
    }

    pub(crate) fn fates_have_come(&self) -> bool {
        self.plan.fates.lock().unwrap().is_empty()
    }

    pub(crate) fn hold_next_read(&self, key: Bytes) -> Hold {
        let hold = Hold { key, reached: Arc::default(), release: Arc::default() };
        *self.plan.hold.lock().unwrap() = Some(hold.clone());
        hold
    }

    /// How many commits wait at the gate.
    pub(crate) fn waiting(&self) -> usize {
        self.plan.waiting.load(Ordering::SeqCst)
    }

    /// Lets one of them go on.
    pub(crate) fn open_gate(&self) {
        self.plan.gate.add_permits(1);
    }
}

impl Store for FaultyStore {
    fn begin(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<dyn Transaction>, StoreError>> {
        Box::pin(async move {
            let inner = self.inner.begin(deadline).await?;
            Ok(Box::new(Faulty { inner, plan: self.plan.clone(), writes: false }) as Box<dyn Transaction>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.close()
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}

struct Faulty {
    inner: Box<dyn Transaction>,
    plan: Arc<Plan>,
    writes: bool,
}

impl Transaction for Faulty {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            let value = self.inner.get(key).await;
            let hold = self.plan.hold.lock().unwrap().take_if(|hold| hold.key == key);
            if let Some(hold) = hold {
                hold.reached.notify_one();
                hold.release.notified().await;
            }
            value
        })
    }

    fn scan(
        &mut self,
        range: KeyRange,
        direction: Direction,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.inner.scan(range, direction, limit)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.writes = true;
        self.inner.put(key, value);
    }

    fn delete(&mut self, key: Bytes) {
        self.writes = true;
        self.inner.delete(key);
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, CommitOutcome> {
        let fate = if self.writes { self.plan.fates.lock().unwrap().pop_front() } else { None };
        let unknown = || CommitOutcome::Unknown(StoreError::DeadlineExceeded);
        Box::pin(async move {
            match fate {
                None => self.inner.commit().await,
                Some(Fate::Conflict) => CommitOutcome::Conflict,
                Some(Fate::Fail) => CommitOutcome::Failed(StoreError::Unavailable("test".into())),
                Some(Fate::LostUnknown) => unknown(),
                Some(Fate::WrittenUnknown) => {
                    assert!(matches!(self.inner.commit().await, CommitOutcome::Committed));
                    unknown()
                }
                Some(Fate::WrittenLate) => {
                    let outcome = self.inner.commit().await;
                    self.plan.waiting.fetch_add(1, Ordering::SeqCst);
                    self.plan.gate.acquire().await.unwrap().forget();
                    outcome
                }
            }
        })
    }
}
