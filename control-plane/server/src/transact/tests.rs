use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use millrace_store::{BoxFuture, Direction, KeyRange, StoreStats, open_memory};

use super::*;

/// What becomes of a commit.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// As it should.
    Lands,
    /// Written, but nobody hears of it.
    LandsUnheard,
    /// Lost on the way, and nobody hears of that.
    LostUnheard,
    /// Somebody else was first.
    Conflicts,
    Fails,
}

/// A store whose commits meet their fates in turn, and land after that.
struct Fateful {
    inner: Arc<dyn Store>,
    fates: Mutex<VecDeque<Fate>>,
}

struct FatefulTransaction(Box<dyn Transaction>, Fate);

impl Store for Fateful {
    fn begin(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<dyn Transaction>, StoreError>> {
        Box::pin(async move {
            let fate = self.fates.lock().unwrap().pop_front().unwrap_or(Fate::Lands);
            Ok(Box::new(FatefulTransaction(self.inner.begin(deadline).await?, fate)) as Box<dyn Transaction>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.close()
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}

impl Transaction for FatefulTransaction {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.0.get(key)
    }

    fn scan(
        &mut self,
        range: KeyRange,
        direction: Direction,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.0.scan(range, direction, limit)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.0.put(key, value);
    }

    fn delete(&mut self, key: Bytes) {
        self.0.delete(key);
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, CommitOutcome> {
        Box::pin(async move {
            match self.1 {
                Fate::Lands => self.0.commit().await,
                Fate::LandsUnheard => {
                    assert!(matches!(self.0.commit().await, CommitOutcome::Committed));
                    CommitOutcome::Unknown(StoreError::DeadlineExceeded)
                }
                Fate::LostUnheard => CommitOutcome::Unknown(StoreError::DeadlineExceeded),
                Fate::Conflicts => CommitOutcome::Conflict,
                Fate::Fails => CommitOutcome::Failed(StoreError::DeadlineExceeded),
            }
        })
    }
}

/// Counts to one: inserts a row unless it is there.
async fn insert(fates: &[Fate]) -> (Result<&'static str, TransactError>, u32) {
    let store = Fateful { inner: open_memory(), fates: Mutex::new(fates.iter().copied().collect()) };
    let mut runs = 0;
    let deadline = Instant::now() + Duration::from_secs(5);
    let result = transact!(&store, deadline, |transaction| {
        runs += 1;
        Ok(match transaction.get(b"row").await? {
            Some(_) => "found",
            None => {
                transaction.put(Bytes::from_static(b"row"), Bytes::from_static(b"1"));
                "inserted"
            }
        })
    });
    (result, runs)
}

#[tokio::test]
async fn a_body_runs_until_its_fate_is_known() {
    let check = async |fates: &[Fate], expect: &str, expect_runs: u32| {
        let (result, runs) = insert(fates).await;
        assert_eq!((result.unwrap(), runs), (expect, expect_runs), "{fates:?}");
    };
    check(&[], "inserted", 1).await;
    check(&[Fate::Conflicts, Fate::Conflicts], "inserted", 3).await;
    check(&[Fate::LandsUnheard], "found", 2).await;
    check(&[Fate::LostUnheard], "inserted", 2).await;
    check(&[Fate::LostUnheard, Fate::Conflicts, Fate::LandsUnheard], "found", 4).await;
}

#[tokio::test]
async fn an_unknown_outcome_never_becomes_a_known_one() {
    assert!(matches!(insert(&[Fate::Fails]).await.0, Err(TransactError::Store(_))));
    assert!(matches!(insert(&[Fate::LostUnheard, Fate::Fails]).await.0, Err(TransactError::Unknown(_))));
    assert!(matches!(insert(&[Fate::Conflicts; 16]).await, (Err(TransactError::Contended), 16)));
    let mut fates = [Fate::Conflicts; 16];
    fates[3] = Fate::LostUnheard;
    assert!(matches!(insert(&fates).await.0, Err(TransactError::Unknown(_))));
}

#[tokio::test]
async fn the_bodys_own_refusal_writes_nothing() {
    let store = open_memory();
    let deadline = Instant::now() + Duration::from_secs(5);
    let refused: Result<(), TransactError> = transact!(&*store, deadline, |transaction| {
        transaction.put(Bytes::from_static(b"row"), Bytes::from_static(b"1"));
        Err(TransactError::Contended)
    });
    assert!(matches!(refused, Err(TransactError::Contended)));
    let mut transaction = store.begin(deadline).await.unwrap();
    assert_eq!(transaction.get(b"row").await.unwrap(), None);
}
