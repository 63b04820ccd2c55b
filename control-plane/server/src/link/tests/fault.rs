//! A store that does what a store may do: hold a read up, lose a race, not know.

use millrace_store::{BoxFuture, CommitOutcome, Direction, KeyRange, StoreStats};
use tokio::sync::Notify;

use super::*;

/// What becomes of a commit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Conflict,
    Fail,
    /// Not written, not known.
    LostUnknown,
    /// Written, not known.
    WrittenUnknown,
}

/// Wraps a store. Fates are taken by commits that write, in order.
pub(super) struct FaultyStore {
    inner: Arc<dyn Store>,
    fates: Arc<Mutex<VecDeque<Fate>>>,
    hold: Arc<Mutex<Option<Hold>>>,
}

/// Holds up the next read of a key.
#[derive(Clone)]
pub(super) struct Hold {
    key: Bytes,
    /// Somebody waits.
    pub(super) reached: Arc<Notify>,
    /// Lets them go on.
    pub(super) release: Arc<Notify>,
}

impl FaultyStore {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { inner: open_memory(), fates: Arc::default(), hold: Arc::default() })
    }

    pub(super) fn next_commits(&self, fates: impl IntoIterator<Item = Fate>) {
        self.fates.lock().unwrap().extend(fates);
    }

    pub(super) fn forget_fates(&self) {
        self.fates.lock().unwrap().clear();
    }

    pub(super) fn hold_next_read(&self, key: Bytes) -> Hold {
        let hold = Hold { key, reached: Arc::default(), release: Arc::default() };
        *self.hold.lock().unwrap() = Some(hold.clone());
        hold
    }
}

impl Store for FaultyStore {
    fn begin(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<dyn Transaction>, StoreError>> {
        Box::pin(async move {
            let inner = self.inner.begin(deadline).await?;
            let (fates, hold) = (self.fates.clone(), self.hold.clone());
            Ok(Box::new(Faulty { inner, fates, hold, writes: false }) as Box<dyn Transaction>)
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
    fates: Arc<Mutex<VecDeque<Fate>>>,
    hold: Arc<Mutex<Option<Hold>>>,
    writes: bool,
}

impl Transaction for Faulty {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            let value = self.inner.get(key).await;
            let hold = self.hold.lock().unwrap().take_if(|hold| hold.key == key);
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
        let fate = if self.writes { self.fates.lock().unwrap().pop_front() } else { None };
        let unknown = || CommitOutcome::Unknown(StoreError::DeadlineExceeded);
        match fate {
            None => self.inner.commit(),
            Some(Fate::Conflict) => Box::pin(async { CommitOutcome::Conflict }),
            Some(Fate::Fail) => Box::pin(async { CommitOutcome::Failed(StoreError::Unavailable("test".into())) }),
            Some(Fate::LostUnknown) => Box::pin(async move { unknown() }),
            Some(Fate::WrittenUnknown) => Box::pin(async move {
                assert!(matches!(self.inner.commit().await, CommitOutcome::Committed));
                unknown()
            }),
        }
    }
}
