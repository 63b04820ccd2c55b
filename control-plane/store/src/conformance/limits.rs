//! Limits, deadlines, closing, counting.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Subject, bytes, committed, conflicted, deadline, get, range, too_large};
use crate::{
    CommitOutcome, Direction, KEY_BYTES_MAX, KeyRange, SCAN_BYTES_MAX, SCAN_ROWS_MAX, StoreError,
    TRANSACTION_BYTES_MAX, TRANSACTION_READS_MAX, TRANSACTION_WRITES_MAX, VALUE_BYTES_MAX,
};

fn large(prefix: &str, length: usize) -> Bytes {
    let mut key = prefix.as_bytes().to_vec();
    key.resize(length, b'x');
    key.into()
}

/// One byte, row or key over a limit is refused by name.
pub async fn sizes_over_the_limit_are_refused(subject: &Subject) {
    let mut transaction = subject.begin().await;
    too_large(transaction.get(&large("over/", KEY_BYTES_MAX + 1)).await);
    let mut transaction = subject.begin().await;
    too_large(transaction.scan(range("over/a", "over/z"), Direction::Forward, SCAN_ROWS_MAX + 1).await);

    let value = large("", VALUE_BYTES_MAX);
    let cases: [Vec<(Bytes, Option<Bytes>)>; 5] = [
        vec![(large("over/", KEY_BYTES_MAX + 1), Some(bytes("v")))],
        vec![(large("over/", KEY_BYTES_MAX + 1), None)],
        vec![(bytes("over/a"), Some(large("", VALUE_BYTES_MAX + 1)))],
        // Four values of the largest size fill the transaction; their keys are too much.
        (0..TRANSACTION_BYTES_MAX / VALUE_BYTES_MAX)
            .map(|row| (bytes(&format!("over/{row}")), Some(value.clone())))
            .collect(),
        (0..=TRANSACTION_WRITES_MAX).map(|row| (bytes(&format!("over/{row}")), None)).collect(),
    ];
    for writes in cases {
        let mut transaction = subject.begin().await;
        for (key, value) in writes {
            match value {
                Some(value) => transaction.put(key, value),
                None => transaction.delete(key),
            }
        }
        match transaction.commit().await {
            CommitOutcome::Failed(error) => too_large::<()>(Err(error)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(subject.read("over/0").await, None);

    let mut transaction = subject.begin().await;
    for row in 0..TRANSACTION_READS_MAX {
        get(&mut transaction, &format!("over/read/{row}")).await;
    }
    get(&mut transaction, "over/read/0").await;
    too_large(transaction.get(b"over/one more").await);
}

/// Exactly at the limits everything works.
pub async fn sizes_at_the_limit_work(subject: &Subject) {
    let (key, value) = (large("at/", KEY_BYTES_MAX), large("", VALUE_BYTES_MAX));
    let mut transaction = subject.begin().await;
    transaction.put(key.clone(), value.clone());
    // What is overwritten within the transaction does not count.
    for _ in 0..TRANSACTION_BYTES_MAX / VALUE_BYTES_MAX {
        transaction.put(bytes("at/again"), value.clone());
    }
    transaction.put(bytes("at/again"), bytes("small"));
    let left = TRANSACTION_BYTES_MAX - key.len() - value.len() - "at/again".len() - "small".len();
    let rest = left - 2 * (VALUE_BYTES_MAX + 4) - 4;
    for (key, length) in [("at/1", VALUE_BYTES_MAX), ("at/2", VALUE_BYTES_MAX), ("at/3", rest)] {
        transaction.put(bytes(key), large("", length));
    }
    committed(transaction.commit().await);
    let mut transaction = subject.begin().await;
    assert_eq!(transaction.get(&key).await.expect("get"), Some(value));
    let rows = transaction.scan(range("at/", "at/~"), Direction::Forward, SCAN_ROWS_MAX).await.expect("scan");
    assert_eq!(rows.len(), 5);
}

/// A page that would be larger than the limit is an error, not a shorter page that looks like the end of the range.
pub async fn a_scan_over_the_byte_limit_is_refused(subject: &Subject) {
    let value = large("", VALUE_BYTES_MAX);
    let rows = SCAN_BYTES_MAX / VALUE_BYTES_MAX;
    for row in 0..rows {
        let mut transaction = subject.begin().await;
        transaction.put(bytes(&format!("page/{row:03}")), value.clone());
        committed(transaction.commit().await);
    }
    let below = u32::try_from(rows - 1).expect("a small number");
    for direction in [Direction::Forward, Direction::Backward] {
        let mut transaction = subject.begin().await;
        let page = transaction.scan(KeyRange::prefix(b"page/"), direction, below).await.expect("scan");
        assert_eq!(page.len(), rows - 1);
        too_large(transaction.scan(KeyRange::prefix(b"page/"), direction, SCAN_ROWS_MAX).await);
    }
}

/// After an error, also one that the caller ignored, the transaction cannot commit.
pub async fn a_failed_call_fails_the_commit(subject: &Subject) {
    let mut transaction = subject.begin().await;
    transaction.put(bytes("failed/a"), bytes("1"));
    too_large(transaction.get(&large("failed/", KEY_BYTES_MAX + 1)).await);
    let outcome = transaction.commit().await;
    assert!(matches!(outcome, CommitOutcome::Failed(_)), "{outcome:?}");
    assert_eq!(subject.read("failed/a").await, None);
}

/// Nothing is answered after the deadline but that it has passed, and nothing is written.
pub async fn a_passed_deadline_ends_everything(subject: &Subject) {
    let expired = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::DeadlineExceeded)), "{result:?}");
    };
    expired(subject.store.begin(Instant::now()).await.map(drop));

    let soon = || Instant::now() + Duration::from_millis(500);
    for call in ["get", "scan", "commit"] {
        let deadline = soon();
        let mut transaction = subject.store.begin(deadline).await.expect("begin");
        transaction.put(bytes("late/a"), bytes("1"));
        while Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        match call {
            "get" => expired(transaction.get(b"late/a").await.map(drop)),
            "scan" => expired(transaction.scan(range("late/", "late/~"), Direction::Forward, 1).await.map(drop)),
            _ => match transaction.commit().await {
                CommitOutcome::Failed(error) => expired(Err(error)),
                other => panic!("{other:?}"),
            },
        }
    }
    assert_eq!(subject.read("late/a").await, None);
}

/// After `close` everything says so, also what was begun before; closing again is fine.
pub async fn a_closed_store_refuses(subject: &Subject) {
    let unavailable = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    };
    subject.write(&[("closed/a", Some("1"))]).await;
    let mut reader = subject.begin().await;
    let mut writer = subject.begin().await;
    writer.put(bytes("closed/a"), bytes("2"));
    subject.store.close().await.expect("close");
    unavailable(subject.store.begin(deadline()).await.map(drop));
    unavailable(reader.get(b"closed/a").await.map(drop));
    match writer.commit().await {
        CommitOutcome::Failed(error) => unavailable(Err(error)),
        other => panic!("{other:?}"),
    }
    subject.store.close().await.expect("close again");
}

/// The counters count.
pub async fn stats_count(subject: &Subject) {
    let before = subject.store.stats();
    subject.write(&[("stats/a", Some("12345"))]).await;
    let mut transaction = subject.begin().await;
    get(&mut transaction, "stats/a").await;
    transaction.put(bytes("stats/b"), bytes("1"));
    subject.write(&[("stats/a", Some("67890"))]).await;
    conflicted(transaction.commit().await);
    let after = subject.store.stats();
    assert_eq!(after.transactions - before.transactions, 3);
    assert_eq!(after.commits - before.commits, 2);
    assert_eq!(after.conflicts - before.conflicts, 1);
    assert!(after.groups - before.groups >= 1 && after.group_commits_max >= 1);
    assert_eq!(after.bytes_written - before.bytes_written, 2 * ("stats/a".len() as u64 + 5));
    assert!(after.sync_time > before.sync_time);
    assert_eq!(after.queued_bytes, 0);
}
