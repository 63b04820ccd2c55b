//! fjall flushes and compacts beside the writer. A snapshot of fjall's own, taken while a batch is inserted, can show half of it (136 of
//! 52,000 did, with the sizes of this test); the store's must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{CommitOutcome, Direction, FjallConfig, KeyRange, Store, open_fjall};

const ROWS: u8 = 64;
const BATCHES: u64 = 300;

async fn write(store: Arc<dyn Store>) {
    for batch in 0..BATCHES {
        let mut transaction = store.begin(Instant::now() + Duration::from_secs(30)).await.expect("begin");
        let mut value = batch.to_be_bytes().to_vec();
        value.resize(300, 0);
        for row in 0..ROWS {
            transaction.put(Bytes::copy_from_slice(&[row]), Bytes::copy_from_slice(&value));
        }
        let outcome = transaction.commit().await;
        assert!(matches!(outcome, CommitOutcome::Committed), "{outcome:?}");
    }
}

/// What one transaction sees: per row the first bytes.
async fn read(store: &Arc<dyn Store>) -> [Vec<Bytes>; 3] {
    let mut transaction = store.begin(Instant::now() + Duration::from_secs(30)).await.expect("begin");
    let mut points = Vec::new();
    for row in 0..ROWS {
        points.extend(transaction.get(&[row]).await.expect("get").map(|value| value.slice(..8)));
    }
    let [mut forward, mut backward] = [Vec::new(), Vec::new()];
    for (direction, rows) in [(Direction::Forward, &mut forward), (Direction::Backward, &mut backward)] {
        let range = KeyRange { start: Bytes::new(), end: Bytes::from_static(&[ROWS]) };
        let page = transaction.scan(range, direction, u32::from(ROWS)).await.expect("scan");
        rows.extend(page.into_iter().map(|(_, value)| value.slice(..8)));
    }
    [points, forward, backward]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_seen_whole_while_memtables_are_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let config = FjallConfig { memtable_bytes: 64 << 10, ..FjallConfig::default() };
    let store = open_fjall(folder.path(), config).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, done) = (Arc::clone(&store), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let views = read(&store).await;
                    let first = &views[0];
                    assert!(first.is_empty() || first.len() == usize::from(ROWS));
                    assert!(first.iter().all(|value| *value == first[0]), "half a batch: {first:?}");
                    assert!(views.iter().all(|view| view == first), "the snapshot moved: {views:?}");
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    tokio::spawn(write(Arc::clone(&store))).await.unwrap();
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(read(&store).await[1], vec![Bytes::copy_from_slice(&(BATCHES - 1).to_be_bytes()); usize::from(ROWS)]);
}
