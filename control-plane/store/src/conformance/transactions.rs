//! Visibility, validation, atomicity.

use super::{BlindWrites, Subject, bytes, committed, conflicted, get, range};
use crate::{CommitOutcome, Direction};

/// Own writes at once, everybody's after the commit.
pub async fn writes_are_seen_by_the_transaction_and_after_commit_by_all(subject: &Subject) {
    let mut transaction = subject.begin().await;
    assert_eq!(get(&mut transaction, "seen/a").await, None);
    transaction.put(bytes("seen/a"), bytes("1"));
    assert_eq!(get(&mut transaction, "seen/a").await.as_deref(), Some("1"));
    transaction.put(bytes("seen/a"), bytes("2"));
    transaction.put(bytes("seen/b"), bytes(""));
    transaction.put(bytes("seen/c"), bytes("3"));
    transaction.delete(bytes("seen/c"));
    assert_eq!(get(&mut transaction, "seen/c").await, None);
    assert_eq!(subject.read("seen/a").await, None, "before the commit");
    committed(transaction.commit().await);
    assert_eq!(subject.read("seen/a").await.as_deref(), Some("2"));
    assert_eq!(subject.read("seen/b").await.as_deref(), Some(""), "an empty value is a value");
    assert_eq!(subject.read("seen/c").await, None);
    subject.write(&[("seen/a", None)]).await;
    assert_eq!(subject.read("seen/a").await, None);
}

/// Dropping rolls back.
pub async fn a_dropped_transaction_writes_nothing(subject: &Subject) {
    let mut transaction = subject.begin().await;
    transaction.put(bytes("dropped/a"), bytes("1"));
    drop(transaction);
    assert_eq!(subject.read("dropped/a").await, None);
}

/// What a transaction reads does not depend on when it reads it.
pub async fn a_snapshot_does_not_move(subject: &Subject) {
    subject.write(&[("still/a", Some("1")), ("still/b", Some("1"))]).await;
    let mut transaction = subject.begin().await;
    subject.write(&[("still/a", Some("2")), ("still/b", None), ("still/c", Some("2"))]).await;
    assert_eq!(get(&mut transaction, "still/a").await.as_deref(), Some("1"));
    assert_eq!(get(&mut transaction, "still/b").await.as_deref(), Some("1"));
    assert_eq!(get(&mut transaction, "still/c").await, None);
}

/// A key that was read and has changed fails the commit, and nothing of it is written.
pub async fn a_changed_read_conflicts(subject: &Subject) {
    subject.write(&[("changed/a", Some("1"))]).await;
    let mut transaction = subject.begin().await;
    assert_eq!(get(&mut transaction, "changed/a").await.as_deref(), Some("1"));
    subject.write(&[("changed/a", Some("2"))]).await;
    transaction.put(bytes("changed/b"), bytes("from 1"));
    conflicted(transaction.commit().await);
    assert_eq!(subject.read("changed/b").await, None);
}

/// Two that found a key absent and insert it: the second one loses. This is what makes an index unique.
pub async fn an_insert_race_has_one_winner(subject: &Subject) {
    let (mut first, mut second) = (subject.begin().await, subject.begin().await);
    for (transaction, value) in [(&mut first, "first"), (&mut second, "second")] {
        assert_eq!(get(transaction, "insert/a").await, None);
        transaction.put(bytes("insert/a"), bytes(value));
    }
    committed(first.commit().await);
    conflicted(second.commit().await);
    assert_eq!(subject.read("insert/a").await.as_deref(), Some("first"));
}

/// From present to absent is a change too, and so is absent over present to absent.
pub async fn a_removed_read_conflicts(subject: &Subject) {
    subject.write(&[("removed/a", Some("1"))]).await;
    let mut transaction = subject.begin().await;
    assert_eq!(get(&mut transaction, "removed/a").await.as_deref(), Some("1"));
    transaction.put(bytes("removed/x"), bytes("1"));
    subject.write(&[("removed/a", None)]).await;
    conflicted(transaction.commit().await);

    let mut transaction = subject.begin().await;
    assert_eq!(get(&mut transaction, "removed/b").await, None);
    transaction.put(bytes("removed/x"), bytes("1"));
    subject.write(&[("removed/b", Some("1"))]).await;
    subject.write(&[("removed/b", None)]).await;
    conflicted(transaction.commit().await);
    assert_eq!(subject.read("removed/x").await, None);
}

/// Validation is about writes, not values: the same bytes written again are a change.
pub async fn a_rewrite_of_the_same_value_conflicts(subject: &Subject) {
    subject.write(&[("same/a", Some("1"))]).await;
    let mut transaction = subject.begin().await;
    get(&mut transaction, "same/a").await;
    transaction.put(bytes("same/b"), bytes("1"));
    subject.write(&[("same/a", Some("1"))]).await;
    conflicted(transaction.commit().await);
}

/// Two that read what the other writes cannot both commit.
pub async fn write_skew_is_refused(subject: &Subject) {
    let (mut first, mut second) = (subject.begin().await, subject.begin().await);
    get(&mut first, "skew/a").await;
    first.put(bytes("skew/b"), bytes("1"));
    get(&mut second, "skew/b").await;
    second.put(bytes("skew/a"), bytes("1"));
    committed(first.commit().await);
    conflicted(second.commit().await);
}

/// What was written without being read: the last commit wins, where the engine promises that.
pub async fn blind_writes_need_no_validation(subject: &Subject) {
    let mut transaction = subject.begin().await;
    transaction.put(bytes("blind/a"), bytes("mine"));
    // Reading one's own write is not reading the store.
    assert_eq!(get(&mut transaction, "blind/a").await.as_deref(), Some("mine"));
    subject.write(&[("blind/a", Some("theirs"))]).await;
    match (transaction.commit().await, subject.blind_writes) {
        (CommitOutcome::Committed, _) => assert_eq!(subject.read("blind/a").await.as_deref(), Some("mine")),
        (CommitOutcome::Conflict, BlindWrites::MayConflict) => {
            assert_eq!(subject.read("blind/a").await.as_deref(), Some("theirs"));
        }
        (outcome, promise) => panic!("{outcome:?} with {promise:?}"),
    }
}

/// A transaction without writes saw one consistent snapshot: there is nothing to fail.
pub async fn reading_only_never_conflicts(subject: &Subject) {
    subject.write(&[("only/a", Some("1"))]).await;
    let mut transaction = subject.begin().await;
    assert_eq!(get(&mut transaction, "only/a").await.as_deref(), Some("1"));
    subject.write(&[("only/a", Some("2"))]).await;
    committed(transaction.commit().await);
}

/// A row that appears in a scanned range does not matter at commit: guard keys stand for ranges.
pub async fn ranges_are_not_validated(subject: &Subject) {
    let mut transaction = subject.begin().await;
    let rows = transaction.scan(range("ranges/a", "ranges/z"), Direction::Forward, 10).await.expect("scan");
    assert!(rows.is_empty());
    subject.write(&[("ranges/m", Some("1"))]).await;
    transaction.put(bytes("ranges/y"), bytes("1"));
    committed(transaction.commit().await);
}

/// After a conflict has been answered, a new transaction sees what it conflicted with.
pub async fn a_retry_after_a_conflict_succeeds(subject: &Subject) {
    let mut loser = subject.begin().await;
    assert_eq!(get(&mut loser, "retry/a").await, None);
    loser.put(bytes("retry/a"), bytes("loser"));
    subject.write(&[("retry/a", Some("winner"))]).await;
    conflicted(loser.commit().await);
    let mut retry = subject.begin().await;
    assert_eq!(get(&mut retry, "retry/a").await.as_deref(), Some("winner"));
    retry.put(bytes("retry/a"), bytes("retry"));
    committed(retry.commit().await);
}

/// Many that read, add one and write, each until it succeeds: none is lost, none counts twice.
pub async fn concurrent_increments_all_count(subject: &Subject) {
    const TASKS: u64 = 8;
    const EACH: u64 = 20;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let subject = subject.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    loop {
                        let mut transaction = subject.begin().await;
                        let count = get(&mut transaction, "increment/a").await;
                        let count: u64 = count.map_or(0, |count| count.parse().expect("a number"));
                        transaction.put(bytes("increment/a"), bytes(&(count + 1).to_string()));
                        match transaction.commit().await {
                            CommitOutcome::Committed => break,
                            CommitOutcome::Conflict => {}
                            other => panic!("{other:?}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("increments");
    }
    assert_eq!(subject.read("increment/a").await, Some((TASKS * EACH).to_string()));
}

/// Readers beside writers see all of a transaction or nothing of it, by key and by range.
pub async fn transactions_are_seen_whole(subject: &Subject) {
    const ROWS: u32 = 16;
    let key = |row: u32| format!("whole/{row:02}");
    let writer = {
        let subject = subject.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                let mut transaction = subject.begin().await;
                for row in 0..ROWS {
                    transaction.put(bytes(&format!("whole/{row:02}")), bytes(&round.to_string()));
                }
                committed(transaction.commit().await);
            }
        })
    };
    loop {
        let done = writer.is_finished();
        let mut transaction = subject.begin().await;
        let first = get(&mut transaction, &key(0)).await;
        let rows = transaction.scan(range("whole/", "whole0"), Direction::Backward, 100).await.expect("scan");
        assert_eq!(rows.len(), if first.is_some() { ROWS as usize } else { 0 });
        assert!(
            rows.iter().all(|(_, value)| Some(value) == first.as_deref().map(bytes).as_ref()),
            "{first:?} {rows:?}"
        );
        assert_eq!(get(&mut transaction, &key(ROWS - 1)).await, first);
        if done {
            assert_eq!(first.as_deref(), Some("49"));
            break;
        }
        tokio::task::yield_now().await;
    }
    writer.await.expect("writer");
}
