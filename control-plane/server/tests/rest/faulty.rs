//! A store whose commits meet their fates.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use millrace_store::{
    BoxFuture, CommitOutcome, Direction, KeyRange, Store, StoreError, StoreStats, Transaction, open_memory,
};
use tokio::sync::Semaphore;

use crate::World;
use crate::plane::FakePlane;

/// What becomes of the next commits that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    LandsUnheard,
    LostUnheard,
    Conflicts,
    Fails,
    /// Lands, and says so only when the gate opens.
    LandsLate,
}

/// What is to come.
#[derive(Clone)]
pub(crate) struct Fates {
    queue: Arc<Mutex<VecDeque<Fate>>>,
    /// How many commits wait at the gate.
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) gate: Arc<Semaphore>,
}

impl Fates {
    pub(crate) fn extend(&self, fates: impl IntoIterator<Item = Fate>) {
        self.queue.lock().unwrap().extend(fates);
    }

    pub(crate) fn have_come(&self) -> bool {
        self.queue.lock().unwrap().is_empty()
    }
}

struct FaultyStore {
    inner: Arc<dyn Store>,
    fates: Fates,
}

struct FaultyTransaction {
    inner: Box<dyn Transaction>,
    fates: Fates,
    writes: bool,
}

impl Store for FaultyStore {
    fn begin(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<dyn Transaction>, StoreError>> {
        Box::pin(async move {
            let inner = self.inner.begin(deadline).await?;
            Ok(Box::new(FaultyTransaction { inner, fates: self.fates.clone(), writes: false }) as Box<dyn Transaction>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.close()
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}

impl Transaction for FaultyTransaction {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.inner.get(key)
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
        let fate = if self.writes { self.fates.queue.lock().unwrap().pop_front() } else { None };
        Box::pin(async move {
            match fate {
                None => self.inner.commit().await,
                Some(Fate::LandsUnheard) => {
                    assert!(matches!(self.inner.commit().await, CommitOutcome::Committed));
                    CommitOutcome::Unknown(StoreError::DeadlineExceeded)
                }
                Some(Fate::LandsLate) => {
                    let outcome = self.inner.commit().await;
                    self.fates.waiting.fetch_add(1, Ordering::SeqCst);
                    self.fates.gate.acquire().await.unwrap().forget();
                    outcome
                }
                Some(Fate::LostUnheard) => CommitOutcome::Unknown(StoreError::DeadlineExceeded),
                Some(Fate::Conflicts) => CommitOutcome::Conflict,
                Some(Fate::Fails) => CommitOutcome::Failed(StoreError::DeadlineExceeded),
            }
        })
    }
}

/// A world over such a store.
pub(crate) fn faulty() -> (World, Fates) {
    let fates = Fates { queue: Arc::default(), waiting: Arc::default(), gate: Arc::new(Semaphore::new(0)) };
    let store = Arc::new(FaultyStore { inner: open_memory(), fates: fates.clone() });
    let plane = Arc::new(FakePlane::default());
    (World::over(store, plane.clone(), plane, |_| {}), fates)
}
